"""/api/tokenize and /api/detokenize, over ASGI: nothing is loaded for them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.store import Store
from runtime.api.app import create_app
from tests.peers.scripted import Script, scripted_manager, small_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def post(store: Store, *asked: tuple[str, Any]) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        script = Script()
        manager = scripted_manager(script)
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = [await client.post(path, json=body) for path, body in asked]
        assert not script.sources, "a model was loaded"
        await manager.close()
        return found

    return asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_was_tokenized_comes_back(store: Store, text: str) -> None:
    [made] = post(store, ("/api/tokenize", {"model": "demo", "content": text, "parse_special": False}))
    [back] = post(store, ("/api/detokenize", {"model": "demo", "tokens": made.json()["tokens"]}))
    assert back.json() == {"model": "demo", "content": text}


def test_control_texts_pieces_and_the_begin_token_are_as_asked(store: Store) -> None:
    text = {"model": "demo", "text": "<|im_start|>hi"}
    control, plain, whole, pieces = (
        response.json()["tokens"]
        for response in post(
            store,
            ("/api/tokenize", text),
            ("/api/tokenize", text | {"parse_special": False}),
            ("/api/tokenize", text | {"add_special": True}),
            ("/api/tokenize", text | {"with_pieces": True}),
        )
    )
    assert len(plain) > len(control) and whole[-len(control) :] == control
    assert "".join(piece["piece"] for piece in pieces) == "<|im_start|>hi"
    assert [piece["id"] for piece in pieces] == control


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("tokenize", {"content": "x"}, 400, "model is required"),
        ("tokenize", {"model": "gone", "content": "x"}, 404, "model 'gone' not found"),
        ("detokenize", {"model": "demo", "tokens": [1 << 40]}, 400, "token 1099511627776 is not in the model's"),
        ("detokenize", {"model": "demo", "tokens": [-1]}, 400, "token -1 is not in the model's vocabulary"),
        ("detokenize", {"model": "demo", "tokens": ["a"]}, 400, "json: cannot unmarshal string into Go struct field"),
    ],
)
def test_errors(store: Store, path: str, body: Any, status: int, text: str) -> None:
    [response] = post(store, (f"/api/{path}", body))
    assert response.status_code == status and response.json()["error"].startswith(text)
