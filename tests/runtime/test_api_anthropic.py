"""/v1/messages over ASGI, with a scripted model: what a request means, what is refused, how an answer ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from manifests.store import Store
from runtime.api.anthropic.request import chat_of
from runtime.api.app import create_app
from runtime.api.asking import find_model
from runtime.api.gojson import Body, dump, read_object
from runtime.api.prompts import Chat
from runtime.api.state import Server
from runtime.card import CardBox
from runtime.engine.constraint import Constraint
from runtime.errors import RequestRefused
from runtime.text.message import Message, ToolCall
from runtime.told import Settings
from tests.peers.scripted import Script, scripted_manager, small_store

ASK: dict[str, Any] = {"model": "demo", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = {"name": "weather", "description": "Says it", "input_schema": {"type": "object", "properties": {"city": {}}}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = small_store(tmp_path_factory.mktemp("store"))
    for file in (found.root / "manifests").rglob("*"):  # the time is the second in which a model was made
        if file.is_file():
            os.utime(file, (age := {"v1": 3e8}.get(file.name, 2e8 if "embedder" in file.parts else 1e8), age))
    return found


def post(store: Store, body: Any, script: Script | None = None, path: str = "/v1/messages") -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(script or Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
                return await client.post(path, json=body, headers=headers)
            finally:
                await manager.close()

    return asyncio.run(main())


def understood(store: Store, asked: dict[str, Any], *capabilities: str) -> Chat:
    """What the request means to a model that can do more than the made one."""
    manager: Any = None
    server = Server(store=store, box=CardBox(store), manager=manager, transfers=None, settings=Settings())
    name, card = find_model(server, "demo")
    body: Body = read_object(dump(ASK | asked), "MessagesRequest")
    more = replace(card)
    vars(more)["capabilities"] = (*card.capabilities, *capabilities)  # as if its template had been judged so
    return chat_of(body, name, more)


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(content)}


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens is required and must be positive"),
    ({"max_tokens": None}, "max_tokens is required and must be positive"),
    ({"model": ""}, "model is required"),
    (
        {"thinking": "yes"},
        "json: cannot unmarshal string into Go struct field MessagesRequest.thinking of type map[string]interface {}",
    ),
    ({"thinking": {"type": "often"}}, "'thinking.type' must be enabled, adaptive or disabled"),
    ({"messages": []}, "messages is required"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "'messages[0].role' must be user or assistant, found 'robot'"),
    ({"messages": [{"role": "user", "content": 3}]}, "'messages[0].content' must be a string or a list of blocks"),
    ({"messages": [blocks({"type": "text"})]}, "'messages[0].content[0].text' must be a string"),
    (
        {"messages": [blocks({"type": "image", "source": {}})]},
        "registry.ollama.ai/library/demo:latest does not support vision",
    ),
    (
        {"messages": [blocks({"type": "web_fetch_tool_result"})]},
        "'messages[0].content[0].type' is 'web_fetch_tool_result', which this server does not know",
    ),
    (
        {"messages": [blocks({"type": "server_tool_use"}, role="assistant")]},
        "'messages[0].content[0].name' must be a string",
    ),
    (
        {"messages": [blocks({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "text"}]})]},
        "'messages[0].content[0].content' must be a list of web_search_result blocks or an error",
    ),
    (
        {"messages": [blocks({"type": "web_search_tool_result", "tool_use_id": "s", "content": {"error_code": 7}})]},
        "'messages[0].content[0].content.error_code' must be a string",
    ),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "'tools[0].type' is 'web_search_20250305': a hosted tool, and this server has none",
    ),
    ({"tools": [{"name": ""}]}, "'tools[0].name' must be a string that is not empty"),
    ({"tools": [{"name": "f", "input_schema": "x"}]}, "'tools[0].input_schema' must be a JSON schema object"),
    ({"tools": [WEATHER]}, "registry.ollama.ai/library/demo:latest does not support tools"),
    ({"tool_choice": {"type": "any"}}, "'tool_choice' is required, but there are no tools"),
    ({"tool_choice": {"type": "some"}}, "'tool_choice.type' must be auto, any, tool or none"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "'tool_choice.name' must be a string"),
    ({"messages": [blocks("hi")]}, "'messages[0].content[0]' must be an object with a type"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}},
        "'tool_choice' names 'time', which is not among the tools",
    ),
    ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
    ({"mcp_servers": [{"name": "x"}]}, "'mcp_servers' is not supported by this server"),
    ({"compaction": {"enabled": True}}, "'compaction' is not supported by this server"),
    ({"system": {"a": 1}}, "'system' must be a string or a list of text blocks"),
]


@pytest.mark.parametrize(("asked", "text"), ERRORS)
def test_errors_are_anthropics_object(store: Store, asked: dict[str, Any], text: str) -> None:
    response = post(store, ASK | asked)
    error = response.json()
    id = error.pop("request_id")
    assert re.fullmatch("req_[0-9a-f]{16}", id) and response.headers["request-id"] == id
    told = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    assert (response.status_code, error) == (400, told)


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_a_thread_is_refused_with_the_code_that_lets_a_client_do_without(store: Store, thread: Any) -> None:
    response = post(store, ASK | {"thread": thread})
    error = response.json()["error"]
    assert response.status_code == 400 and error["message"].startswith("'thread' is not supported")
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert post(store, ASK | {"thread": None}).status_code == 200


def test_a_missing_model_is_a_404_and_a_failure_a_500(store: Store) -> None:
    missing = post(store, ASK | {"model": "gone"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    failed = post(store, ASK, Script(fail_after=0))
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "api_error")


def test_a_conversation_of_blocks(store: Store) -> None:
    chat = understood(
        store,
        {
            "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
            "messages": [
                blocks({"type": "text", "text": "Weather?"}),
                blocks(
                    {"type": "thinking", "thinking": "Hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "?"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
                    role="assistant",
                ),
                blocks(
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_2",
                        "content": [{"type": "text", "text": "gone"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "And?"},
                ),
            ],
        },
    )
    assert list(chat.messages) == [
        Message(role="system", content="Be\n\nbrief."),
        Message(role="user", content="Weather?"),
        Message(
            role="assistant",
            content="I look.",
            thinking="Hm",
            tool_calls=(
                ToolCall(name="weather", arguments={"city": "Paris"}, id="toolu_1"),
                ToolCall(name="time", id="toolu_2", index=1),
            ),
        ),
        Message(role="tool", content="sunny", tool_name="weather", tool_call_id="toolu_1"),
        Message(role="tool", content="Error: gone", tool_name="time", tool_call_id="toolu_2"),
        Message(role="user", content="And?"),
    ]


def test_searches_of_another_server_are_calls_and_results_in_their_order(store: Store) -> None:
    def search(id: str, query: str) -> dict[str, Any]:
        return {"type": "server_tool_use", "id": id, "name": "web_search", "input": {"query": query}}

    page = {"type": "web_search_result", "title": "Paris", "url": "https://a.b/c", "encrypted_content": "x"}
    failed = {"type": "web_search_tool_result_error", "error_code": "too_many_requests"}
    turn = blocks(
        {"type": "text", "text": "I look."},
        search("s1", "paris"),
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [page, page | {"title": "France"}]},
        search("s2", "rome"),
        {"type": "web_search_tool_result", "tool_use_id": "s2", "content": failed},
        {"type": "text", "text": "Sunny."},
        {"type": "text", "text": "I think."},
        role="assistant",
    )
    chat = understood(store, {"messages": [{"role": "user", "content": "?"}, turn, {"role": "user", "content": "So?"}]})
    asked = (("s1", "paris"), ("s2", "rome"))
    first, second = (ToolCall(name="web_search", arguments={"query": query}, id=id) for id, query in asked)
    found = "Paris: https://a.b/c\nFrance: https://a.b/c"
    assert list(chat.messages)[1:-1] == [
        Message(role="assistant", content="I look.", tool_calls=(first,)),
        Message(role="tool", content=found, tool_name="web_search", tool_call_id="s1"),
        Message(role="assistant", tool_calls=(second,)),
        Message(role="tool", content="Error: too_many_requests", tool_name="web_search", tool_call_id="s2"),
        Message(role="assistant", content="Sunny.\n\nI think."),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", True, 1)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False, 1)),
        ({"type": "any"}, ("required", True, 1)),
        ({"type": "tool", "name": "weather"}, ("=weather", True, 1)),
        ({"type": "none"}, ("auto", True, 0)),
    ],
)
def test_tools_and_their_choice(store: Store, choice: Any, expected: tuple[str, bool, int]) -> None:
    chat = understood(store, {"tools": [WEATHER], "tool_choice": choice})
    assert (chat.choice, chat.parallel, len(chat.tools)) == expected
    for tool in chat.tools:
        function = {"name": "weather", "description": "Says it", "parameters": WEATHER["input_schema"]}
        assert tool == {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("asked", "think"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "high"),
    ],
)
def test_thinking_is_off_unless_asked_for_and_no_error_where_there_is_none(
    store: Store, asked: dict[str, Any], think: Any
) -> None:
    assert understood(store, asked, "thinking").think == think
    assert understood(store, asked).think is None
    with pytest.raises(RequestRefused, match=r"output_config\.effort"):
        understood(store, {"thinking": {"type": "enabled"}, "output_config": {"effort": "vast"}}, "thinking")


def test_a_schema_binds_the_text(store: Store) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    expected = Constraint(kind="schema", text='{"type":"object"}', param="output_config.format")
    assert understood(store, {"output_config": {"format": form}}).form == expected
    assert understood(store, {"output_format": form}).form == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Script(), ("end_turn", None)),
        (Script(reason="length"), ("max_tokens", None)),
        (Script(stop="END"), ("stop_sequence", "END")),
        (Script(stop="<end>"), ("end_turn", None)),  # the Modelfile's own
    ],
)
def test_why_an_answer_ended(store: Store, script: Script, expected: tuple[str, str | None]) -> None:
    message = post(store, ASK | {"stop_sequences": ["END"]}, script).json()
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_an_answer_that_fills_the_context_says_so(store: Store) -> None:
    tokens = post(store, ASK, path="/v1/messages/count_tokens").json()["input_tokens"]
    for room, reason in ((1000, "max_tokens"), (5, "model_context_window_exceeded")):
        body = ASK | {"options": {"num_ctx": tokens + room}}
        assert post(store, body, Script(reason="length")).json()["stop_reason"] == reason


def test_what_the_request_asks_reaches_the_sampler(store: Store) -> None:
    script = Script()
    asked = {"temperature": 0.5, "top_p": 0.25, "top_k": 3, "stop_sequences": ["Z"], "metadata": {"user_id": "u"}}
    assert post(store, ASK | asked, script).status_code == 200
    [request] = script.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 3)
    assert (request.max_tokens, request.stop) == (50, ("Z",))


def test_tokens_are_counted_without_loading(store: Store) -> None:
    script = Script()
    counted = post(store, {key: ASK[key] for key in ("model", "messages")}, script, "/v1/messages/count_tokens")
    assert not script.sources
    whole = post(store, ASK).json()
    assert counted.json() == {"input_tokens": whole["usage"]["input_tokens"]}


def test_a_failure_in_mid_stream_is_told(store: Store) -> None:
    response = post(store, ASK | {"stream": True}, Script(fail_after=2))
    *_, last = response.text.removesuffix("\n\n").split("\n\n")
    kind, data = last.split("\n")
    error = json.loads(data.removeprefix("data: "))
    assert kind == "event: error" and error["error"] == {"type": "api_error", "message": "the model fell over"}


# -- models, which OpenAI's API has at the same path


def listed(store: Store, query: str = "", path: str = "/v1/models") -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.get(path + query, headers={"Anthropic-Version": "2023-06-01"})
            finally:
                await manager.close()

    return asyncio.run(main())


def test_models_in_anthropics_form(store: Store) -> None:
    whole = listed(store).json()
    assert [model["id"] for model in whole["data"]] == ["acme/tuned:v1", "embedder:latest", "demo:latest"]
    assert (whole["has_more"], whole["first_id"], whole["last_id"]) == (False, "acme/tuned:v1", "demo:latest")
    one = listed(store, path="/v1/models/DEMO").json()
    assert one == whole["data"][-1]
    assert (one["type"], one["display_name"], one["lifecycle"]) == ("model", "demo:latest", "active")
    assert one["created_at"] == "1973-03-03T09:46:40Z"


PAGES = [
    ("?limit=2", ["acme/tuned:v1", "embedder:latest"], True),
    ("?limit=3", ["acme/tuned:v1", "embedder:latest", "demo:latest"], False),
    ("?limit=1&after_id=acme/tuned:v1", ["embedder:latest"], True),
    ("?after_id=embedder:latest", ["demo:latest"], False),
    ("?after_id=demo:latest", [], False),
    ("?limit=1&before_id=demo:latest", ["embedder:latest"], True),
    ("?before_id=embedder:latest", ["acme/tuned:v1"], False),
]


@pytest.mark.parametrize(("query", "ids", "more"), PAGES)
def test_pages_of_models(store: Store, query: str, ids: list[str], more: bool) -> None:
    page = listed(store, query).json()
    assert ([model["id"] for model in page["data"]], page["has_more"]) == (ids, more)
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    ("query", "path", "status", "text"),
    [
        ("?limit=0", "/v1/models", 400, "'limit' must be from 1 to 1000, found '0'"),
        ("?limit=1001", "/v1/models", 400, "'limit' must be from 1 to 1000, found '1001'"),
        ("?limit=٢", "/v1/models", 400, "'limit' must be from 1 to 1000, found '٢'"),
        ("?after_id=gone", "/v1/models", 400, "'after_id' names 'gone', which is not in the list"),
        ("?before_id=gone", "/v1/models", 400, "'before_id' names 'gone', which is not in the list"),
        ("", "/v1/models/gone", 404, "model 'gone:latest' not found"),
    ],
)
def test_models_are_refused_in_anthropics_words(store: Store, query: str, path: str, status: int, text: str) -> None:
    answer = listed(store, query, path)
    assert (answer.status_code, answer.json()["type"], answer.json()["error"]["message"]) == (status, "error", text)
