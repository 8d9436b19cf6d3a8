"""Families of chat models: recognised by their templates' marks, and what `create` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests.create import CreateRequest, create
from manifests.create_request import request_from_modelfile
from manifests.digest import Digest
from manifests.modelfile import Command, Modelfile, render_command
from manifests.name import ModelName
from manifests.store import Store
from manifests.turns import FAMILIES, recognised
from tests.peers.model_maker import make_model
from tests.peers.templates import JINJA
from tests.peers.turns import SAMPLES

NAME = ModelName.parse("mine")
CHATML = ["<|im_start|>", "<|im_end|>"]
# The names of Ollama's table, without gemma3-instruct, whose turns are gemma-instruct's.
OLLAMA = {
    "alfred", "alpaca", "chatml", "chatqa", "codellama-70b-instruct", "command-r", "falcon-instruct", "gemma-instruct",
    "granite-instruct", "llama2-chat", "llama3-instruct", "magicoder", "mistral-instruct", "openchat", "phi-3",
    "solar-instruct", "starcoder2-instruct", "vicuna", "zephyr",
}  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.family)
def test_a_family_is_recognised_by_its_templates(sample: Any) -> None:
    found = recognised(sample.jinja)
    assert found is not None and found.name == sample.family


def test_every_family_has_a_sample_and_all_of_ollamas_are_there() -> None:
    names = {one.name for one in FAMILIES}
    assert {one.family for one in SAMPLES} == names and names > OLLAMA


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_stop_string_is_what_the_family_writes_around_a_turn(family: Any) -> None:
    """Of the table's stops, `<|begin_of_text|>` alone begins a conversation and no turn."""
    written = "\n" + "".join(side for around in (family.system, family.user, family.assistant) for side in around)
    written += family.answer
    assert [one for one in family.stops if one not in written and one != "<|begin_of_text|>"] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_modelfile_holds_the_stops(family: Any) -> None:
    lines = [render_command(Command(name="parameter", key="stop", value=stop)) for stop in family.stops]
    assert Modelfile.parse("\n".join(["FROM x", *lines]).encode()).parameters == {"stop": list(family.stops)}


OTHERS = {
    one.name: one.source
    for one in JINJA
    if one.name.startswith(("gpt-oss", "GLM", "DeepSeek"))
} | {
    "no text": 7,
    "empty": "",
    "prose that asks": "{{ 'A Question: and a User: who waits for the Answer: of the Assistant:' }}",
    "half of a family": "{{ '<|end|>' + messages[0].content }}",
}  # fmt: skip


@pytest.mark.parametrize("jinja", OTHERS.values(), ids=OTHERS)
def test_what_is_of_no_family(jinja: object) -> None:
    """Of gpt-oss above all: `<|end|>` parts its channels, and is no end of an answer."""
    assert recognised(jinja) is None


def make(store: Store, lines: str, folder: Path, name: ModelName = NAME) -> tuple[dict[str, Any], list[str], list[str]]:
    """The params layer, the layers' kinds, what was told."""
    told: list[str] = []
    manifest = create(store, name, request_from_modelfile(Modelfile.parse(lines.encode()), folder), told.append)
    params = [json.loads(store.read_blob(layer, limit=1 << 20)) for layer in manifest.of_kind("params")]
    return params[0] if params else {}, [layer.kind for layer in manifest.layers], told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.gguf, whose template is ChatML, and plain.gguf, which has none."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "m.gguf")
    make_model(folder / "plain.gguf", metadata={"tokenizer.chat_template": None})
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_plain_gguf_gets_its_familys_stops_and_keeps_its_bytes(store: Store, folder: Path) -> None:
    params, kinds, told = make(store, "FROM m.gguf\n", folder)
    assert params == {"stop": CHATML} and kinds == ["model", "params"]
    assert "using the stop strings of chatml" in told
    with (folder / "m.gguf").open("rb") as stream:
        assert store.manifest(NAME).of_kind("model")[0].digest == Digest.of_stream(stream)


@pytest.mark.parametrize(
    ("lines", "params"),
    [
        ("FROM m.gguf\nPARAMETER top_k 3\n", {"stop": CHATML, "top_k": 3}),
        ("FROM m.gguf\nPARAMETER stop mine\n", {"stop": ["mine"]}),
        ('FROM m.gguf\nTEMPLATE "{{ .Prompt }}"\n', {}),
        ('FROM m.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER top_k 3\n', {"top_k": 3}),
        ("FROM plain.gguf\n", {}),
    ],
)
def test_what_a_modelfile_says_wins(store: Store, folder: Path, lines: str, params: dict[str, Any]) -> None:
    found, _, told = make(store, lines, folder)
    assert found == params
    assert any("stop strings" in line for line in told) == (params.get("stop") == CHATML)


def test_an_empty_list_of_stops_is_a_list(store: Store, folder: Path) -> None:
    files = {"m.gguf": folder / "m.gguf"}
    manifest = create(store, NAME, CreateRequest(files=files, parameters={"stop": []}))
    (layer,) = manifest.of_kind("params")
    assert json.loads(store.read_blob(layer, limit=99)) == {"stop": []}


def test_a_base_is_taken_as_it_is(store: Store, folder: Path) -> None:
    """A model without stops, made by whoever, gets none by being a base; one with stops hands them on."""
    files = {"m.gguf": folder / "m.gguf"}
    create(store, ModelName.parse("bare"), CreateRequest(files=files, template="{{ .Prompt }}"))
    assert make(store, "FROM bare\nSYSTEM x\n", folder)[0] == {}
    make(store, "FROM m.gguf\n", folder, ModelName.parse("base"))
    assert make(store, "FROM base\nPARAMETER top_k 3\n", folder)[0] == {"stop": CHATML, "top_k": 3}
    assert make(store, "FROM base\nPARAMETER stop mine\n", folder)[0] == {"stop": ["mine"]}
