"""/v1/responses over ASGI, with a scripted model: what a request means, what is refused, how an answer ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from manifests.name import ModelName
from manifests.store import Store
from runtime.api.app import create_app
from runtime.api.gojson import dump, read_object
from runtime.api.openai import responses_input
from runtime.engine.constraint import Constraint
from runtime.text.message import Message, ToolCall
from tests.peers.scripted import Script, scripted_manager, small_store

ASK: dict[str, Any] = {"model": "demo", "input": "Hi"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
STATELESS = "this server keeps no answers: send the whole conversation as 'input', and \"store\": false"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def post(store: Store, body: Any, script: Script | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(script or Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.post("/v1/responses", json=body)
            finally:
                await manager.close()

    return asyncio.run(main())


ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model is required", "model"),
    ({"input": ""}, "'input' must be a string or a list of items, and not empty", "input"),
    ({"input": [3]}, "json", "input"),
    (
        {"previous_response_id": "resp_1"},
        f"'previous_response_id' is not supported: {STATELESS}",
        "previous_response_id",
    ),
    ({"conversation": "conv_1"}, f"'conversation' is not supported: {STATELESS}", "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, f"'prompt' is not supported: {STATELESS}", "prompt"),
    ({"store": True}, f"'store' must be false: {STATELESS}", "store"),
    ({"background": True}, f"'background' must be false: {STATELESS}", "background"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, f"'input[0]' is a reference: {STATELESS}", "input"),
    (
        {"input": [{"type": "web_search_call"}]},
        "'input[0].type' is 'web_search_call', which this server does not know",
        "input",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "registry.ollama.ai/library/demo:latest does not support vision",
        "input[0].content[0]",
    ),
    ({"tools": [{"name": ""}]}, "'tools[0].name' must be a string that is not empty", "tools[0]"),
    (
        {"tools": [{"type": "web_search"}]},
        "'tools[0].type' is 'web_search': this server knows function tools only",
        "tools",
    ),
    ({"tools": [WEATHER]}, "registry.ollama.ai/library/demo:latest does not support tools", "tools"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}},
        "'tool_choice' names 'time', which is not among the tools",
        "tool_choice",
    ),
    ({"truncation": "some"}, "'truncation' must be auto or disabled", "truncation"),
    ({"text": {"format": {"type": "xml"}}}, "'text.format.type' must be text, json_object", "text.format"),
]


@pytest.mark.parametrize(("asked", "text", "param"), ERRORS)
def test_errors_are_openais_object(store: Store, asked: dict[str, Any], text: str, param: str) -> None:
    response = post(store, ASK | asked)
    error = response.json()["error"]
    if text != "json":
        assert error["message"].startswith(text)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_a_conversation_of_items(store: Store) -> None:
    body = read_object(
        dump(
            {
                "instructions": "Be brief.",
                "input": [
                    {"role": "developer", "content": "D"},
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]},
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
                    },
                    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'},
                    {"type": "function_call", "call_id": "call_2", "name": "time", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
                    {
                        "type": "function_call_output",
                        "call_id": "call_2",
                        "output": [{"type": "input_text", "text": "noon"}],
                    },
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "So"}], "summary": []},
                    {"role": "assistant", "content": "Sunny."},
                    {"role": "user", "content": "Thanks"},
                ],
            }
        ),
        "ResponsesRequest",
    )
    calls = (
        ToolCall(name="weather", arguments={"city": "Paris"}, id="call_1"),
        ToolCall(name="time", id="call_2", index=1),
    )
    assert responses_input.messages_of(body, ModelName.parse("demo")) == [
        Message(role="system", content="Be brief."),
        Message(role="system", content="D"),
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="I look.", thinking="Hm", tool_calls=calls),
        Message(role="tool", content="sunny", tool_name="weather", tool_call_id="call_1"),
        Message(role="tool", content="noon", tool_name="time", tool_call_id="call_2"),
        Message(role="assistant", content="Sunny.", thinking="So"),
        Message(role="user", content="Thanks"),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", ["weather", "time"])),
        ("none", ("auto", [])),
        ("required", ("required", ["weather", "time"])),
        ({"type": "function", "name": "time"}, ("=time", ["weather", "time"])),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]},
            ("required", ["time"]),
        ),
    ],
)
def test_tools_and_their_choice(choice: Any, expected: tuple[str, list[str]]) -> None:
    asked = {"tools": [WEATHER, WEATHER | {"name": "time"}], "tool_choice": choice}
    use = responses_input.tool_use_of(read_object(dump(asked), "ResponsesRequest"))
    assert (use.choice, [tool["function"]["name"] for tool in use.tools]) == expected
    for tool in use.tools:
        assert tool["function"]["parameters"] == {"type": "object"}


def test_the_response_repeats_what_was_asked_and_how_it_ended(store: Store) -> None:
    script = Script(reason="length")
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    asked = {
        "temperature": 0.5,
        "max_output_tokens": 20,
        "text": {"format": form},
        "metadata": {"a": "b"},
        "store": False,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    response = post(store, ASK | asked, script).json()
    assert response["object"] == "response" and response["id"].startswith("resp_")
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][-1]["status"] == "incomplete"
    assert (response["temperature"], response["top_p"], response["max_output_tokens"]) == (0.5, 1.0, 20)
    assert response["text"] == {"format": form} and response["metadata"] == {"a": "b"}
    assert response["store"] is False and response["previous_response_id"] is None
    [message] = response["output"]
    [part] = message["content"]
    assert part["text"] == "Hello <world> & é!"
    assert bytes(b for entry in part["logprobs"] for b in entry["bytes"]).decode() == part["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    [request] = script.requests
    kept = Constraint(kind="schema", text='{"type":"object"}', param="text.format")
    assert request.constraint == kept and request.max_tokens == 20


@pytest.mark.parametrize(("truncation", "status"), [(None, 400), ("disabled", 400), ("auto", 200)])
def test_messages_are_dropped_only_where_that_was_asked_for(store: Store, truncation: Any, status: int) -> None:
    old = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "word " * 40}]
    body = ASK | {"input": [*old, {"role": "user", "content": "Hi"}], "options": {"num_ctx": 64}}
    response = post(store, body | {"truncation": truncation})
    assert response.status_code == status
    if status == 200:
        assert response.json()["dropped_messages"] == 2
    else:
        assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_failure_in_mid_stream_is_the_last_event_and_says_why(store: Store) -> None:
    response = post(store, ASK | {"stream": True}, Script(fail_after=2))
    *_, last = response.text.removesuffix("\n\n").split("\n\n")
    kind, data = last.split("\n")
    told = json.loads(data.removeprefix("data: "))
    assert kind == "event: response.failed" and told["response"]["status"] == "failed"
    assert told["response"]["error"] == {"code": "server_error", "message": "the model fell over"}
    early = post(store, ASK | {"stream": True}, Script(fail_after=0))
    assert (early.status_code, early.json()["error"]["message"]) == (500, "the model fell over")
