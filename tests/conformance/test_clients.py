"""Published clients against `sealift serve` and a real model: streams, errors, tools, schemas, vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.running import SCRIPTS, missing, run
from tests.conformance.served import ROOT, Served, needs_model

LEAST = {"streaming", "streamed is not streamed", "errors"}
# What a client has not, or does not show: see its script.
WITHOUT = {
    "chromadb": {"streaming", "streamed is not streamed"},
    "dspy": {"streaming", "streamed is not streamed"},
    "instructor": {"streamed is not streamed"},
    "llama_index_embeddings": {"streaming", "streamed is not streamed"},
}


def name(script: Path) -> str:
    return script.stem.partition("_")[2]


@needs_model
@pytest.mark.parametrize("script", [pytest.param(one, id=one.stem) for one in SCRIPTS])
def test_client(script: Path, served: Served, tmp_path: Path) -> None:
    if reason := missing(script):
        pytest.skip(reason)
    told = run(script, served, tmp_path)
    assert set(told["checked"]) >= LEAST - WITHOUT.get(name(script), set())


def test_the_page_lists_every_client() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text()
    assert [one.name for one in SCRIPTS if f"`{one.name}`" not in page] == []
