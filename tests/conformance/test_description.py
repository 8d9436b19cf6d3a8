"""docs/api/openapi.json is what the server does: every route, and the answers of a served model, field by field. These
answers also have the fields that Ollama's and OpenAI's published descriptions require, of their types."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from runtime.api.app import ROUTES, create_app
from runtime.api.description import document
from runtime.told import Settings
from scripts.openapi_page import page
from tests.conformance import published
from tests.conformance.described import Description
from tests.conformance.probes import PROBES, Answer, Probe, ask
from tests.conformance.served import ROOT, needs_model
from tests.peers.live import live
from tests.peers.scripted import Script, scripted_manager, small_store

FILE = ROOT / "docs" / "api" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
OURS = Description(DOCUMENT)
FACTS: dict[str, dict[str, str]] = json.loads(published.VECTORS.read_text("utf-8"))


def test_the_file_is_fresh() -> None:
    assert json.loads(page()) == DOCUMENT, "stale: run scripts/docs"


def test_a_server_serves_it_under_its_own_version_and_address(tmp_path: Path) -> None:
    with live(small_store(tmp_path), Script(), settings=Settings(version="9.9")) as server:
        answer = httpx.get(f"{server.url}/openapi.json")
    served = answer.json()
    assert (answer.headers["content-type"], served["openapi"]) == ("application/json; charset=utf-8", "3.1.0")
    assert served["info"].pop("version") == "9.9"
    assert served.pop("servers") == [{"url": "/"}], "relative to where it was read (OpenAPI 3.1.0, 4.8.5)"
    ours = {key: value for key, value in DOCUMENT.items() if key != "servers"}
    assert served == ours | {"info": {key: value for key, value in DOCUMENT["info"].items() if key != "version"}}


def test_every_route_is_described_and_no_other() -> None:
    there = {f"{method} {path}" for methods, path, _ in ROUTES for method in methods.split()}
    assert OURS.routes() == {route.replace(":path", "") for route in there}


def test_its_schemas_are_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_what_it_refers_to_is_there_and_what_is_there_is_referred_to() -> None:
    told = set(re.findall(r'"\$ref": "#/components/(\w+/\w+)"', json.dumps(DOCUMENT)))
    assert told == {f"{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]}


def test_what_may_be_one_of_several_names_each_of_them() -> None:
    """openapi-python-client makes a type of each that has a name, and loses parts of others."""
    for schema in DOCUMENT["components"]["schemas"].values():
        assert all("$ref" in way for way in schema.get("anyOf", ()))


def test_operations_have_ids_of_their_own_and_name_their_scopes() -> None:
    told = [(path, one) for path, ways in DOCUMENT["paths"].items() for one in ways.values()]
    assert len({one["operationId"] for _, one in told}) == len(told)
    assert {path for path, one in told if "security" not in one} == {"/", "/health"}
    assert DOCUMENT["paths"]["/api/delete"]["delete"]["security"] == [{}, {"key": ["admin"]}]


def test_it_is_made_once_and_not_in_the_loops_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes long enough to hold every stream up."""
    made: list[int] = []
    make = document.document

    def noted(*given: str) -> dict[str, Any]:
        made.append(threading.get_ident())
        return make(*given)

    async def main() -> None:
        store = small_store(tmp_path)
        app = create_app(store, scripted_manager(Script()), settings=Settings(version="made once"))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first, second = await client.get("/openapi.json"), await client.get("/openapi.json")
        assert first.content == second.content

    monkeypatch.setattr(document, "document", noted)
    asyncio.run(main())
    assert len(made) == 1 and made[0] != threading.get_ident()


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
