"""Live answers have the fields that Ollama's and OpenAI's published descriptions require, of their types.

published.json holds the facts; the whole descriptions are checked by `scripts/conformance --ollama-openapi FILE
--openai-openapi FILE`.
"""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conformance.probes import PROBES, Answer, Probe, ask
from tests.conformance.published import OLLAMA, ON_PURPOSE, OPENAI, VECTORS, faults
from tests.conformance.served import needs_model

FACTS: dict[str, dict[str, str]] = json.loads(VECTORS.read_text())


def test_the_facts_are_of_probes_that_are_asked() -> None:
    assert set(FACTS) <= {probe.name for probe in (*OLLAMA, *OPENAI)} and len(FACTS) > 40


@needs_model
def test_answers_have_the_published_fields(client: httpx.Client) -> None:
    """In the probes' own order: some make a model that others delete."""
    found = {}
    for probe in PROBES:
        answer = ask(client, probe)
        if wrong := list(faults(FACTS.get(probe.name, {}), answer)):
            found[probe.name] = wrong
    told = {name: {fault.partition(":")[0] for fault in wrong} for name, wrong in found.items()}
    streamed = {name for name in ON_PURPOSE if name.endswith("streamed")}
    assert told == {name: {"choices[].finish_reason"} for name in streamed}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"choices": [{"index": 0}]}, []),
        ({"choices": [{"index": 0}, {}]}, ["choices[].index is missing"]),
        ({"choices": [{"index": True}]}, ["choices[].index: expected integer!, found true"]),
        ({"choices": [{"index": None}]}, ["choices[].index: expected integer!, found null"]),
        ({}, ["choices is missing"]),
    ],
)
def test_what_is_missing_or_of_another_type_is_found(told: object, expected: list[str]) -> None:
    facts = {"choices": "array!", "choices[].index": "integer!"}
    assert list(faults(facts, Answer(status=200, kind="application/json", documents=[told]))) == expected


def test_probes_have_names_of_their_own() -> None:
    names: list[Probe] = list(PROBES)
    assert len({probe.name for probe in names}) == len(names)
