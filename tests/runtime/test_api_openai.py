"""OpenAI's routes over ASGI, with a scripted model (contract, 1.11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from manifests.store import Store
from runtime.api.app import create_app
from runtime.errors import ContextExceeded
from tests.peers.scripted import Script, scripted_manager, small_store

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def request(store: Store, method: str, path: str, body: Any = None, script: Script | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(script or Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.request(method, path, json=body)
            finally:
                await manager.close()

    return asyncio.run(main())


def events(response: httpx.Response) -> Iterator[Any]:
    for block in response.text.split("\n\n")[:-1]:
        assert block.startswith("data: ")
        yield block[6:] if block == "data: [DONE]" else json.loads(block[6:])


BAD, TOOL = "invalid_request_error", {"type": "function", "function": {"name": "f"}}
NO_TOOLS = "registry.ollama.ai/library/demo:latest does not support tools"
PROMPT_KINDS = "'prompt' must be a string, a list of strings, a list of tokens or a list of lists of tokens"

ERRORS: list[tuple[str, dict[str, Any], int, str, str, str | None, str | None]] = [
    ("chat/completions", {"model": "demo"}, 400, BAD, "[] is too short - 'messages'", "messages", None),
    ("chat/completions", CHAT | {"model": ""}, 400, BAD, "model is required", "model", None),
    (
        "chat/completions",
        CHAT | {"model": "gone"},
        404,
        "not_found_error",
        "model 'gone' not found",
        "model",
        "model_not_found",
    ),
    (
        "chat/completions",
        CHAT | {"model": "x:cloud"},
        403,
        "permission_error",
        "ollama cloud is disabled: remote model is unavailable",
        None,
        None,
    ),
    (
        "chat/completions",
        {"model": "demo", "messages": [{"role": "user", "content": "x" * 3000}], "options": {"num_ctx": 64}},
        400,
        BAD,
        ContextExceeded.TEXT,
        None,
        "context_length_exceeded",
    ),
    *(
        (path, {"model": "demo"} | asked, 400, BAD, text, param, None)
        for path, asked, text, param in (
            ("chat/completions", CHAT | {"tools": [TOOL]}, NO_TOOLS, "tools"),
            ("chat/completions", CHAT | {"functions": [{"name": "f"}]}, NO_TOOLS, "tools"),
            (
                "chat/completions",
                CHAT | {"tools": [{}]},
                "'tools[0].function' must be an object",
                "tools[0]",
            ),
            (
                "chat/completions",
                CHAT | {"tools": [TOOL, TOOL]},
                "'tools[1]' is a second tool named 'f'",
                "tools",
            ),
            (
                "chat/completions",
                CHAT | {"tools": [{"type": "web_search"}]},
                "'tools[0].type' is 'web_search': this server knows function tools only",
                "tools[0]",
            ),
            (
                "chat/completions",
                CHAT | {"tool_choice": "required"},
                "'tool_choice' is required, but there are no tools",
                "tool_choice",
            ),
            (
                "chat/completions",
                CHAT | {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
                "'tool_choice' names 'g', which is not among the tools",
                "tool_choice",
            ),
            (
                "chat/completions",
                CHAT | {"n": 129},
                "'n' must be from 1 to 128 here, found 129: one request has at most 128 answers",
                "n",
            ),
            (
                "chat/completions",
                CHAT | {"response_format": {"type": "xml"}},
                "'response_format.type' must be text, json_object or json_schema, found \"xml\"",
                "response_format",
            ),
            (
                "chat/completions",
                CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
                "'response_format' names no schema: expected a JSON Schema object",
                "response_format",
            ),
            (
                "chat/completions",
                CHAT | {"temperature": 300},
                'option "temperature" must be from 0 to 100, found 300',
                "temperature",
            ),
            (
                "chat/completions",
                CHAT | {"temperature": "hot"},
                'option "temperature" must be of type float32',
                "temperature",
            ),
            ("chat/completions", CHAT | {"max_tokens": -1}, "'max_tokens' must be 0 or more, found -1", "max_tokens"),
            *(
                (
                    path,
                    {"input" if path == "responses" else "prompt": "x", **CHAT, field: "many"},
                    f"json: cannot unmarshal string into Go struct field {struct}.{field} of type float64",
                    field,
                )
                for path, field, struct in (
                    ("chat/completions", "max_tokens", "ChatCompletionRequest"),
                    ("chat/completions", "max_completion_tokens", "ChatCompletionRequest"),
                    ("completions", "max_tokens", "CompletionRequest"),
                    ("responses", "max_output_tokens", "ResponsesRequest"),
                )
            ),
            (
                "responses",
                {"input": [{"type": "function_call", "call_id": "a", "name": 3, "arguments": "{}"}]},
                "'input[0].name' must be a string",
                "input",
            ),
            (
                "chat/completions",
                CHAT | {"reasoning_effort": "high"},
                '"demo" does not support thinking',
                "reasoning_effort",
            ),
            (
                "chat/completions",
                CHAT | {"reasoning_effort": "vast"},
                'invalid reasoning value: \'vast\' (must be "high", "medium", "low", "max", or "none")',
                "reasoning_effort",
            ),
            (
                "chat/completions",
                CHAT | {"logit_bias": {"x": 1}},
                "'logit_bias' must map token ids to numbers from -100 to 100",
                "logit_bias",
            ),
            (
                "chat/completions",
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "registry.ollama.ai/library/demo:latest does not support vision",
                "messages[0].content[0]",
            ),
            (
                "chat/completions",
                {"messages": [{"role": "user", "content": 5}]},
                "invalid message format",
                "messages[0].content",
            ),
            ("chat/completions", CHAT | {"audio": {"voice": "v"}}, "'audio' is not supported by this server", "audio"),
            (
                "chat/completions",
                CHAT | {"web_search_options": {}},
                "'web_search_options' is not supported by this server",
                "web_search_options",
            ),
            (
                "chat/completions",
                CHAT | {"modalities": ["text", "audio"]},
                "'modalities' must be [\"text\"]: this server answers in text only",
                "modalities",
            ),
            ("completions", {"prompt": ["x", 1]}, PROMPT_KINDS, "prompt"),
            ("completions", {"prompt": ""}, "'prompt' is empty", "prompt"),
            (
                "completions",
                {"prompt": "x", "n": 2, "best_of": 1},
                "'best_of' must be from 'n' (2) to 128 here, found 1",
                "best_of",
            ),
            (
                "completions",
                {"prompt": "x", "best_of": 2, "stream": True},
                "'best_of' above 'n' cannot be streamed: send \"stream\": false",
                "best_of",
            ),
            (
                "completions",
                {"prompt": "x", "stream": "yes"},
                "json: cannot unmarshal string into Go struct field CompletionRequest.stream of type bool",
                "stream",
            ),
        )
    ),
    ("completions", {"model": ""}, 404, "not_found_error", "model '' not found", "model", None),
    *(
        (path, {"model": "demo", "prompt": "x"} | CHAT | asked, 400, BAD, text, param, None)
        for path, asked, text, param in (
            (
                "completions",
                {"suffix": "y"},
                "registry.ollama.ai/library/demo:latest does not support insert",
                "suffix",
            ),
            (
                "chat/completions",
                {"stop": ["x"] * 257},
                'option "stop" takes at most 256 strings of at most 4096 characters',
                "stop",
            ),
            (
                "chat/completions",
                {"logprobs": True, "top_logprobs": 21},
                "top_logprobs must be between 0 and 20",
                "top_logprobs",
            ),
        )
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "kind", "text", "param", "code"), ERRORS)
def test_errors_are_openais_object_with_the_native_status(
    store: Store,
    path: str,
    body: dict[str, Any],
    status: int,
    kind: str,
    text: str,
    param: str | None,
    code: str | None,
) -> None:
    response = request(store, "POST", f"/v1/{path}", body)
    error = {"message": text, "type": kind, "param": param, "code": code}
    assert (response.status_code, response.json()) == (status, {"error": error})


def test_a_chat_in_one_piece(store: Store) -> None:
    response = request(store, "POST", "/v1/chat/completions", CHAT)
    answer = response.json()
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion" and answer["model"] == "demo"
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hello <world> & é!", "refusal": None}
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("stop", 0, None)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > usage["completion_tokens"] > 0


def test_a_chat_in_a_stream(store: Store) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 1}
    response = request(store, "POST", "/v1/chat/completions", body)
    assert response.headers["content-type"] == "text/event-stream"
    *chunks, done = events(response)
    assert done == "[DONE]"
    *pieces, end, usage = chunks
    assert [chunk["choices"][0]["delta"].get("role") for chunk in pieces] == ["assistant", None, None]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in pieces) == "Hello <world> & é!"
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in pieces)
    assert end["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    content = [entry for chunk in pieces for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert bytes(b for entry in content for b in entry["bytes"]).decode() == "Hello <world> & é!"
    assert all(len(entry["top_logprobs"]) == 1 for entry in content)


def test_a_failure_in_mid_stream_is_told_and_nothing_follows(store: Store) -> None:
    response = request(store, "POST", "/v1/chat/completions", CHAT | {"stream": True}, Script(fail_after=2))
    *_, last = events(response)
    assert response.status_code == 200
    assert last == {"error": {"message": "the model fell over", "type": "api_error", "param": None, "code": None}}


def test_what_the_request_asks_reaches_the_sampler(store: Store) -> None:
    script = Script()
    body = CHAT | {
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "stop": "END",
        "seed": 3,
        "top_p": 0.5,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.25,
        "logit_bias": {"12": -100},
        "options": {"num_ctx": 96, "top_k": 2},
        "tools": None,
        "tool_choice": "none",
        "user": "u",
        "ignore_eos": False,
    }
    assert request(store, "POST", "/v1/chat/completions", body, script).status_code == 200
    asked = script.requests[0]
    assert (asked.max_tokens, asked.stop) == (9, ("END",))
    sampling = asked.sampling
    assert (sampling.seed, sampling.top_p, sampling.presence_penalty, sampling.frequency_penalty) == (3, 0.5, 1.5, 0.25)
    assert (dict(sampling.logit_bias), sampling.top_k, script.sources[0].n_ctx) == ({12: -100.0}, 2, 96)


@pytest.mark.parametrize(
    ("model", "body", "temperature"),
    [("demo", {}, 1.0), ("acme/tuned:v1", {}, 0.25), ("acme/tuned:v1", {"temperature": 0}, 0.0)],
)
def test_a_modelfiles_temperature_stands_when_the_request_has_none(
    store: Store, model: str, body: dict[str, Any], temperature: float
) -> None:
    script = Script()
    request(store, "POST", "/v1/chat/completions", CHAT | {"model": model} | body, script)
    assert (script.requests[0].sampling.temperature, script.requests[0].sampling.top_p) == (temperature, 1.0)


def test_messages_that_do_not_fit_are_counted(store: Store) -> None:
    old = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "word " * 40}]
    body = {"model": "demo", "messages": [*old, {"role": "user", "content": "Hi"}], "options": {"num_ctx": 64}}
    assert request(store, "POST", "/v1/chat/completions", body).json()["dropped_messages"] == 2
    *_, end, _done = events(request(store, "POST", "/v1/chat/completions", body | {"stream": True}))
    assert end["dropped_messages"] == 2


def test_parts_of_a_message_and_the_developer_role(store: Store) -> None:
    script = Script()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = {
        "model": "acme/tuned:v1",
        "messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": parts}],
    }
    assert request(store, "POST", "/v1/chat/completions", body, script).status_code == 200
    assert len(script.requests[0].prompt) > 0


def test_completions_in_one_piece_and_in_a_stream_say_the_same(store: Store) -> None:
    body = {"model": "demo", "prompt": ["one", "two"], "logprobs": 2}
    whole = request(store, "POST", "/v1/completions", body).json()
    assert whole["object"] == "text_completion" and [choice["index"] for choice in whole["choices"]] == [0, 1]
    logprobs = whole["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) != "" and logprobs["text_offset"][0] == 0
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"])
    *chunks, done = events(request(store, "POST", "/v1/completions", body | {"stream": True}))
    assert done == "[DONE]"
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == whole["choices"][index]["text"] == "Hello <world> & é!"
        assert mine[-1]["finish_reason"] == "stop"
        offsets = [offset for choice in mine if choice["logprobs"] for offset in choice["logprobs"]["text_offset"]]
        assert offsets == sorted(offsets)


def test_token_prompts_are_taken_as_they_are(store: Store) -> None:
    script = Script()
    request(store, "POST", "/v1/completions", {"model": "demo", "prompt": [[5, 6], [7]]}, script)
    assert [asked.prompt for asked in script.requests] == [(5, 6), (7,)]


def test_models(store: Store, tmp_path: Any) -> None:
    found = request(store, "GET", "/v1/models").json()
    assert found["object"] == "list"
    assert {model["id"]: model["owned_by"] for model in found["data"]} == {
        "demo:latest": "library",
        "embedder:latest": "library",
        "acme/tuned:v1": "acme",
    }
    assert request(store, "GET", "/v1/models/acme/tuned:v1").json()["id"] == "acme/tuned:v1"
    assert request(store, "GET", "/v1/models/DEMO").json()["object"] == "model"
    missing = request(store, "GET", "/v1/models/gone")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "model 'gone:latest' not found")
    assert request(Store(tmp_path / "none"), "GET", "/v1/models").json() == {"object": "list", "data": []}


@pytest.mark.parametrize("most", [2**31, 10**30, 1e300])
def test_more_tokens_than_there_are_is_no_limit(store: Store, most: float) -> None:
    script = Script()
    for path, field in (("chat/completions", "max_completion_tokens"), ("messages", "max_tokens")):
        if path != "messages" or most == 2**31:
            assert (
                request(store, "POST", f"/v1/{path}", {"model": "demo", **CHAT, field: most}, script).status_code == 200
            )
    assert {asked.max_tokens for asked in script.requests} == {2**31 - 1}
