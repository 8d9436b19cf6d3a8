"""docs/api/openapi.json is what the server does: every route, and the answers of a served model, field by field. These
answers also have the fields that Ollama's and OpenAI's published descriptions require, of their types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from runtime.api.app import ROUTES
from scripts.openapi.__main__ import page
from tests.conformance import published
from tests.conformance.described import Description
from tests.conformance.probes import PROBES, Answer, Probe, ask
from tests.conformance.served import ROOT, needs_model

FILE = ROOT / "docs" / "api" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
OURS = Description(DOCUMENT)
FACTS: dict[str, dict[str, str]] = json.loads(published.VECTORS.read_text())


def test_the_file_is_fresh() -> None:
    assert FILE.read_text() == page(), "stale: run scripts/docs"


def test_every_route_is_described_and_no_other() -> None:
    there = {f"{method} {path}" for methods, path, _ in ROUTES for method in methods.split()}
    assert OURS.routes() == {route.replace(":path", "") for route in there}


def test_its_schemas_are_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_described_answer_is_probed() -> None:
    """But those that need a registry, a blob or a text of their own format: other tests have them."""
    unprobed = OURS.routes() - {probe.route for probe in PROBES}
    elsewhere = {"/metrics", "/api/blobs/{digest}", "/api/push", "/api/me", "/api/signout", "/api/user/keys/{key}"}
    elsewhere |= {"/api/experimental/web_fetch", "/v1/systemone"}
    assert {route.partition(" ")[2] for route in unprobed if not route.startswith("HEAD ")} <= elsewhere


@pytest.fixture(scope="module")
def answered(client: httpx.Client) -> Callable[[Probe], Answer]:
    """A probe's answer. Those before it are asked first, whichever tests run: some need what others made."""
    left, told = iter(PROBES), {}

    def answer(wanted: Probe) -> Answer:
        while wanted.name not in told:
            probe = next(left)
            told[probe.name] = ask(client, probe)
        return told[wanted.name]

    return answer


@needs_model
@pytest.mark.parametrize("probe", [pytest.param(one, id=one.name) for one in PROBES])
def test_answers_are_as_described(probe: Probe, answered: Callable[[Probe], Answer]) -> None:
    answer = answered(probe)
    assert list(OURS.faults(probe, answer)) == []
    told = list(published.faults(FACTS.get(probe.name, {}), answer))
    assert [fault for fault in told if not published.meant(probe, re.split(": | is missing", fault)[0])] == []


def test_a_field_too_many_or_of_another_type_is_found() -> None:
    probe = next(one for one in PROBES if one.name == "version")
    for told in ({"version": "1", "extra": 1}, {"version": 1}, {}):
        assert list(OURS.faults(probe, Answer(status=200, kind="application/json", documents=[told])))
    assert not list(OURS.faults(probe, Answer(status=200, kind="application/json", documents=[{"version": "1"}])))
