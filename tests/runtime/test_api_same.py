"""For any events of a model, every API says the same: text, thinking, calls, reason and counts, streamed or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.store import Store
from runtime.api.app import create_app
from runtime.events import CallDelta, Event, Reason, TextDelta, ThinkingDelta
from runtime.text.message import ToolCall
from tests.peers.scripted import Script, scripted_manager, small_store

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PARTS = (
    st.builds(lambda text: TextDelta(text=text), TEXT)
    | st.builds(lambda text: ThinkingDelta(text=text), TEXT)
    | st.builds(
        lambda name, arguments: ToolCall(name=name, arguments=arguments),
        st.text(max_size=5),
        st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    )
)


@dataclass(kw_only=True)
class Said:
    """What a client understood."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)  # id without its prefix, name, arguments
    reason: str = ""
    counts: tuple[int, int] = (0, 0)
    ends: int = 0

    def call(self, id: str, name: str, arguments: Any) -> None:
        self.calls.append((id.rpartition("_")[2], name, arguments))


def native(chunks: list[Any]) -> Said:
    said = Said()
    for chunk in chunks:
        message = chunk["message"]
        said.text += message["content"]
        said.thinking += message.get("thinking", "")
        for call in message.get("tool_calls", ()):
            assert call["function"]["index"] == len(said.calls)
            said.call(call["id"], call["function"]["name"], call["function"]["arguments"])
        if chunk["done"]:
            said.ends += 1
            said.reason = chunk["done_reason"]
            said.counts = (chunk["prompt_eval_count"], chunk["eval_count"])
    return said


def openai(chunks: list[Any]) -> Said:
    said = Said()
    for chunk in chunks:
        for choice in chunk["choices"]:
            part = choice.get("message") or choice["delta"]
            said.text += part.get("content") or ""
            said.thinking += part.get("reasoning", "")
            assert part.get("reasoning", "") == part.get("reasoning_content", "")
            for call in part.get("tool_calls", ()):
                assert call.get("index", len(said.calls)) == len(said.calls) and call["type"] == "function"
                said.call(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            if choice["finish_reason"]:
                said.ends += 1
                said.reason = {"tool_calls": "stop"}.get(choice["finish_reason"], choice["finish_reason"])
                assert (choice["finish_reason"] == "tool_calls") == (bool(said.calls) and said.reason == "stop")
        if usage := chunk.get("usage"):
            said.counts = (usage["prompt_tokens"], usage["completion_tokens"])
    return said


def responses(chunks: list[Any]) -> Said:
    """The last event's response, which a stream's deltas must have said before."""
    last = chunks[-1].get("response", chunks[-1])
    said = Said(ends=1, reason={"completed": "stop", "incomplete": "length"}[last["status"]])
    said.counts = (last["usage"]["input_tokens"], last["usage"]["output_tokens"])
    for item in last["output"]:
        if item["type"] == "message":
            said.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "reasoning":
            said.thinking += "".join(part["text"] for part in item["summary"])
        else:
            said.call(item["call_id"], item["name"], json.loads(item["arguments"]))
    if len(chunks) > 1:
        assert [chunk["sequence_number"] for chunk in chunks] == list(range(len(chunks)))
        for kind, whole in (("output_text", said.text), ("reasoning_summary_text", said.thinking)):
            pieces = [chunk["delta"] for chunk in chunks if chunk["type"] == f"response.{kind}.delta"]
            assert "".join(pieces) == whole
        done = [chunk["item"] for chunk in chunks if chunk["type"] == "response.output_item.done"]
        assert done == last["output"]
    return said


REASONS = {"end_turn": "stop", "tool_use": "stop", "max_tokens": "length"}


def anthropic(chunks: list[Any]) -> Said:
    if len(chunks) == 1:
        return _message(chunks[0])
    assert [chunk["type"] for chunk in chunks[:2]] == ["message_start", "ping"]
    assert [chunk["type"] for chunk in chunks[-2:]] == ["message_delta", "message_stop"]
    message = {**chunks[0]["message"], "content": []}
    for chunk in chunks[2:-2]:
        kind = chunk["type"]
        if kind == "content_block_start":
            assert chunk["index"] == len(message["content"])
            message["content"].append(dict(chunk["content_block"]))
            given = ""
            continue
        block = message["content"][chunk["index"]]
        if kind == "content_block_stop":
            assert chunk["index"] == len(message["content"]) - 1
            if block["type"] == "tool_use":
                block["input"] = json.loads(given)
            continue
        delta = chunk["delta"]
        assert kind == "content_block_delta"
        if delta["type"] == "input_json_delta":
            given += delta["partial_json"]
        else:
            key = {"text_delta": "text", "thinking_delta": "thinking"}[delta["type"]]
            block[key] += delta[key]
    return _message({**message, **chunks[-2]["delta"], "usage": chunks[-2]["usage"]})


def _message(message: dict[str, Any]) -> Said:
    said = Said(ends=1, reason=REASONS[message["stop_reason"]])
    said.counts = (message["usage"]["input_tokens"], message["usage"]["output_tokens"])
    for block in message["content"]:
        if block["type"] == "tool_use":
            said.call(block["id"], block["name"], block["input"])
        else:
            said.text += block.get("text", "")
            said.thinking += block.get("thinking", "")
    assert (message["stop_reason"] == "tool_use") == (bool(said.calls) and said.reason == "stop")
    return said


USER = {"role": "user", "content": "Hi"}
APIS: list[tuple[str, dict[str, Any], Callable[[list[Any]], Said]]] = [
    ("/api/chat", {"messages": [USER]}, native),
    ("/v1/chat/completions", {"messages": [USER], "stream_options": {"include_usage": True, "odd": 1}}, openai),
    ("/v1/responses", {"input": "Hi"}, responses),
    ("/v1/messages", {"messages": [USER], "max_tokens": 50}, anthropic),
]


def decoded(response: httpx.Response) -> list[Any]:
    kind = response.headers["content-type"]
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in response.content.split(b"\n")[:-1]]
    if kind != "text/event-stream":
        return [response.json()]
    chunks = []
    for block in response.content.decode().split("\n\n")[:-1]:
        *head, data = block.split("\n")
        assert data.startswith("data: ")
        if data != "data: [DONE]":
            chunks.append(json.loads(data[6:]))
            assert not head or head == [f"event: {chunks[-1]['type']}"]
    return chunks


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PARTS, max_size=7), st.sampled_from(["stop", "length"]))
def test_all_apis_say_the_same(store: Store, parts: list[Any], reason: Reason) -> None:
    events: list[Event] = []
    calls = 0
    for part in parts:
        if isinstance(part, ToolCall):
            call = ToolCall(name=part.name, arguments=part.arguments, id=f"call_{calls:08}", index=calls)
            part, calls = CallDelta(call=call), calls + 1
        events.append(part)
    expected = Said(reason=reason, counts=(0, len(events)), ends=1)
    for event in events:
        if isinstance(event, CallDelta):
            expected.call(event.call.id, event.call.name, event.call.arguments)
        elif isinstance(event, TextDelta):
            expected.text += event.text
        elif isinstance(event, ThinkingDelta):
            expected.thinking += event.text

    async def main() -> None:
        script = Script(events=tuple(events), reason=reason)
        manager = scripted_manager(script)
        transport = httpx.ASGITransport(app=create_app(store, manager))
        prompts = set()
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path, body, read in APIS:
                for stream in (False, True):
                    response = await client.post(path, json={"model": "demo", "stream": stream, **body})
                    assert response.status_code == 200, response.text
                    said = read(decoded(response))
                    prompts.add(said.counts[0])
                    said.counts = (0, said.counts[1])
                    assert said == expected, (path, stream)
        await manager.close()
        assert len(prompts) == 1 and script.begun == script.ended == 8 and not script.cancelled

    asyncio.run(main())
