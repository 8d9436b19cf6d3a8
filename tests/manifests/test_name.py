"""Model names: the grammar of the contract, 3.2."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ModelNameError
from manifests.name import ModelName

GOOD = [
    ("llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
    ("llama3:8b", "registry.ollama.ai/library/llama3:8b", "llama3:8b"),
    ("user/m", "registry.ollama.ai/user/m:latest", "user/m:latest"),
    ("host.example:5000/ns/m:t", "host.example:5000/ns/m:t", "host.example:5000/ns/m:t"),
    (
        "hf.co/bart/Llama-3.2-1B-GGUF:Q4_K_M",
        "hf.co/bart/Llama-3.2-1B-GGUF:Q4_K_M",
        "hf.co/bart/Llama-3.2-1B-GGUF:Q4_K_M",
    ),
    ("https://h/n/m", "h/n/m:latest", "h/n/m:latest"),
    ("_a/b.c:d.e_f-g", "registry.ollama.ai/_a/b.c:d.e_f-g", "_a/b.c:d.e_f-g"),
]
BAD = [
    "", "a b", "/m", "m:", "-m", ":t", "m:t:u", "a//b", "a/b/c/d", "../m", "a/../m", "h/../m", ".m", "m:.t",
    "m@sha256:aa", "ns.dot/m", "m\n", "m\0", "é", "x" * 81, "m:" + "x" * 81, "n" * 81 + "/m", "ftp://h/n/m",
    "h/n/m:t/u", "a\\b", "x" * 1000,
]  # fmt: skip


@pytest.mark.parametrize(("text", "full", "short"), GOOD)
def test_parsed(text: str, full: str, short: str) -> None:
    name = ModelName.parse(text)
    assert (name.full, name.short) == (full, short)
    assert ModelName.from_path(name.path) == name


@pytest.mark.parametrize("text", BAD)
def test_refused(text: str) -> None:
    with pytest.raises(ModelNameError):
        ModelName.parse(text)


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_parse_is_the_inverse_of_str_and_paths_stay_inside(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except ModelNameError:
        return
    assert ModelName.parse(str(name)) == name == ModelName.parse(name.short)
    assert len(name.path.parts) == 4 and not any(part in ("", ".", "..") or "/" in part for part in name.path.parts)


def test_http_is_kept_and_case_is_not_compared() -> None:
    assert str(ModelName.parse("http://h:1/n/m")) == "http://h:1/n/m:latest"
    assert ModelName.parse("LLama3") == ModelName.parse("llama3:LATEST")
    assert len({ModelName.parse("A"), ModelName.parse("a")}) == 1


@pytest.mark.parametrize("path", ["a/b/c", "a/b/c/d/e", "h/n/m/.t", "h/.hidden/m/t"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(ModelNameError):
        ModelName.from_path(PurePosixPath(path))
