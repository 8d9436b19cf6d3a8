"""Requests of a few megabytes that are large in one way only: each is refused by all three APIs in its own words, or
answered, before it costs anybody else more than its parsing. Counted is what is called, never time."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.api.app import create_app
from runtime.api.gojson import MAX_VALUES
from runtime.api.prompts import MAX_IDS, MAX_MESSAGES
from runtime.text.message import Message, ToolCall, collate
from tests.peers.scripted import Script, scripted_manager, small_store

MANY = 200_000
EMPTY = {"role": "user", "content": ""}
VALUES = f"the request has more than {MAX_VALUES} keys, strings, objects and arrays"
CHATS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
FEW = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def asked(store: Store, path: str, body: bytes) -> tuple[int, str]:
    """The status, and what the error says in this API's place for it."""

    async def main() -> httpx.Response:
        manager = scripted_manager(Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.post(path, content=body)
            finally:
                await manager.close()

    response = asyncio.run(main())
    error = response.json().get("error", "")
    return response.status_code, error["message"] if isinstance(error, dict) else error


def body_of(path: str, **fields: Any) -> bytes:
    needed: dict[str, Any] = {"model": "demo", "max_tokens": 1, "stream": False}
    return json.dumps(needed | ({"messages": FEW} if path in CHATS else {}) | fields).encode()


@pytest.mark.parametrize("path", CHATS)
def test_more_messages_than_a_conversation_may_have(store: Store, path: str) -> None:
    assert asked(store, path, body_of(path, messages=[EMPTY] * MANY)) == (400, VALUES)
    text = f"'messages' has {MAX_MESSAGES + 1} elements; at most {MAX_MESSAGES} are accepted"
    assert asked(store, path, body_of(path, messages=[EMPTY] * (MAX_MESSAGES + 1))) == (400, text)
    assert asked(store, path, body_of(path, messages=[EMPTY] * 999 + FEW))[0] == 200


RESULTS = [{"type": "tool_result", "tool_use_id": "a", "content": ""}] * MAX_MESSAGES
ITEMS = [{"type": "message", "role": "user", "content": ""}] * (MAX_MESSAGES + 1)
TOO_LONG = f"the conversation has {{}} messages and tool calls; at most {MAX_MESSAGES} are accepted"


def test_messages_that_come_in_other_forms(store: Store) -> None:
    turn = [{"role": "user", "content": [*RESULTS, {"type": "text", "text": "Hi"}]}]
    assert asked(store, "/v1/messages", body_of("/v1/messages", messages=turn)) == (
        400, TOO_LONG.format(MAX_MESSAGES + 1),
    )  # fmt: skip
    text = f"'input' has {MAX_MESSAGES + 1} elements; at most {MAX_MESSAGES} are accepted"
    assert asked(store, "/v1/responses", body_of("/v1/responses", input=ITEMS)) == (400, text)
    text = f"'messages' has {MAX_MESSAGES + 1} elements; at most {MAX_MESSAGES} are accepted"
    assert asked(
        store, "/api/create", body_of("/api/create", **{"from": "demo", "messages": [EMPTY] * (MAX_MESSAGES + 1)})
    ) == (400, text)


def test_calls_count_as_messages_do(tools: Store) -> None:
    calls = [{"function": {"name": "f", "arguments": {}}}] * MAX_MESSAGES
    for path in CHATS[:2]:
        said = [{"role": "assistant", "content": "", "tool_calls": calls}]
        assert asked(tools, path, body_of(path, messages=said)) == (400, TOO_LONG.format(MAX_MESSAGES + 1))


TOOLED = "{{ range .Messages }}{{ .Content }}{{ range .ToolCalls }}{{ .Function.Name }}{{ end }}{{ end }}"
TOOLED += "{{ if .Tools }}!{{ end }}"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Whose model can call tools."""
    store, name = small_store(tmp_path_factory.mktemp("tools")), ModelName.parse("demo")
    create(store, name, CreateRequest(from_model=name, template=TOOLED))
    return store


def _tool(path: str, name: str) -> dict[str, Any]:
    return (
        {"name": name, "input_schema": {}}
        if path == "/v1/messages"
        else {"type": "function", "function": {"name": name}}
    )


@pytest.mark.parametrize("path", CHATS)
def test_more_tools_than_are_accepted(tools: Store, path: str) -> None:
    many = [_tool(path, f"f{number}") for number in range(MANY)]
    assert asked(tools, path, body_of(path, tools=many)) == (400, VALUES)
    assert asked(tools, path, body_of(path, tools=many[:1025])) == (
        400, "'tools' has 1025 tools; at most 1024 are accepted",
    )  # fmt: skip
    assert asked(tools, path, body_of(path, tools=many[:1024]))[0] == 200


@pytest.mark.parametrize("path", CHATS)
def test_depth(store: Store, path: str) -> None:
    deep = b'{"model":"demo","max_tokens":1,"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert asked(store, path, deep) == (400, "exceeded max depth")


STOPS = 'option "stop" takes at most 256 strings of at most 4096 characters'


def test_stops_and_biases_are_counted_before_they_are_looked_at(store: Store) -> None:
    stops = [str(number) for number in range(MANY)]
    assert asked(store, "/api/chat", body_of("/api/chat", options={"stop": stops})) == (400, STOPS)
    assert asked(store, "/v1/chat/completions", body_of("/v1/chat/completions", stop=stops, n=128)) == (400, STOPS)
    assert asked(store, "/v1/messages", body_of("/v1/messages", stop_sequences=stops)) == (400, STOPS)
    bias = {str(number): 0 for number in range(MANY)}
    for path in ("/v1/chat/completions", "/v1/completions"):
        body = body_of(path, logit_bias=bias, n=128, prompt="Hi")
        assert asked(store, path, body) == (
            400, f'option "logit_bias" names {MANY} tokens; at most 1024 are allowed',
        )  # fmt: skip


def test_images_are_refused_however_many_they_are(store: Store) -> None:
    images, text = ["AA=="] * MANY, "registry.ollama.ai/library/demo:latest does not support vision"
    assert asked(store, "/api/generate", body_of("/api/generate", prompt="Hi", images=images)) == (400, text)
    assert asked(store, "/api/chat", body_of("/api/chat", messages=[FEW[0] | {"images": images}])) == (400, text)
    parts = [{"type": "image_url", "image_url": {"url": "data:"}}] * 50_000
    said = [{"role": "user", "content": parts}]
    assert asked(store, "/v1/chat/completions", body_of("/v1/chat/completions", messages=said)) == (400, text)
    parts = [{"type": "image", "source": {}}] * 50_000
    assert asked(store, "/v1/messages", body_of("/v1/messages", messages=[{"role": "user", "content": parts}])) == (
        400, text,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "field"), [("/api/generate", "context"), ("/v1/completions", "prompt"), ("/api/detokenize", "tokens")]
)
def test_more_ids_than_any_context_has(store: Store, path: str, field: str) -> None:
    text = f"'{field}' has {MAX_IDS + 1} elements; at most {MAX_IDS} are accepted"
    body = b'{"model":"demo","stream":false,"%b":[1%b]}' % (field.encode(), b",1" * MAX_IDS)
    assert asked(store, path, body) == (400, text)


def test_what_is_refused_is_no_warning_and_no_fault(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        test_more_messages_than_a_conversation_may_have(store, "/api/chat")
    assert not caplog.records


def test_many_pieces_of_one_turn_are_joined_once() -> None:
    calls = tuple(ToolCall(name=f"f{number}") for number in range(2))
    said = [Message(role="user", content="x" * 1000)] * 3 + [
        Message(role="user"),
        Message(role="user", tool_calls=calls),
    ]
    [turn] = collate(said)
    assert turn == Message(role="user", content="\n\n".join(["x" * 1000] * 3), tool_calls=calls)
    assert collate([Message(role="tool")] * 2) == [Message(role="tool")] * 2
