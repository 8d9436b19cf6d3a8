"""The facts of published.json, which test_description.py holds live answers against, and how faults are found."""

from __future__ import annotations

import json

import pytest

from tests.conformance.probes import PROBES, Answer
from tests.conformance.published import OLLAMA, ON_PURPOSE, OPENAI, VECTORS, faults, meant
from tests.conformance.served import ROOT

FACTS: dict[str, dict[str, str]] = json.loads(VECTORS.read_text())


def test_the_facts_are_of_probes_that_are_asked() -> None:
    assert set(FACTS) <= {probe.name for probe in (*OLLAMA, *OPENAI)} and len(FACTS) > 80


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
    assert len({probe.name for probe in PROBES}) == len(PROBES)


def test_only_what_is_told_is_on_purpose() -> None:
    page = " ".join((ROOT / "docs" / "conformance.md").read_text().split())
    by_name = {probe.name: probe for probe in OPENAI}
    for name, purpose in ON_PURPOSE.items():
        assert f"| {name} |" in page and purpose.why in page
        assert not meant(by_name[name], "$.choices[0].text") and not meant(by_name[name], "$.object")
    echo = by_name["completion with echo"]
    assert meant(echo, "$.choices[0].logprobs.token_logprobs[0]")
    assert not meant(echo, "$.choices[0].logprobs.token_logprobs[1]")
    assert not meant(by_name["completion"], "$.choices[0].finish_reason")
