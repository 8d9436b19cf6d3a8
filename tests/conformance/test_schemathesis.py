"""schemathesis makes requests from our description: what comes back has a described status, type and form.

Against a scripted model, so that it is the server that is tested; the fault of a body that is not understood is the
client's. Routes that change the store or reach for a registry are left out. SEALIFT_SCHEMATHESIS is the number of
requests to each operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.conformance.probes import Answer, Probe, events
from tests.conformance.test_description import DOCUMENT, OURS
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store

EXAMPLES = int(os.environ.get("SEALIFT_SCHEMATHESIS") or 12)
SETTINGS = {"max_examples": EXAMPLES, "deadline": None, "database": None, "derandomize": True}
CHANGE = ("/api/pull", "/api/push", "/api/delete", "/api/create", "/api/copy", "/api/blobs/{digest}")
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations())
    if operation.path not in CHANGE
}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
NAMES = st.sampled_from(["demo", "demo", "embedder", "acme/tuned:v1", "gone"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(small_store(tmp_path_factory.mktemp("store")), Script()) as server:
        yield server


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_answers_conform(label: str, server: Live, session: requests.Session) -> None:
    @settings(**SETTINGS, suppress_health_check=[*HealthCheck])
    @given(case=OPERATIONS[label].as_strategy(), name=NAMES)
    def ask(case: Any, name: str) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = name
        response = case.call(base_url=server.url, session=session, timeout=30)
        assert b"internal error" not in response.content
        if "text/event-stream" in "".join(response.headers.get("content-type", [])):
            probe = Probe(name=label, route=label)  # an event here is its data, to schemathesis more
            answer = Answer(
                status=response.status_code, kind="text/event-stream", documents=events(response.content.decode())
            )
            assert list(OURS.faults(probe, answer)) == []
        else:
            case.validate_response(response, checks=CHECKS)

    ask()


def test_every_operation_is_asked_but_those_that_change_the_store() -> None:
    there = {path for path in DOCUMENT["paths"] if path not in CHANGE}
    assert {operation.path for operation in OPERATIONS.values()} == there
