"""Thinking and tools over ASGI, with a scripted model whose template has both: from raw text to every API's form."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.api.app import create_app
from runtime.api.gojson import dump, read_object
from runtime.api.openai.fields import tool_use_of
from runtime.errors import RequestRefused
from tests.peers.scripted import Script, scripted_manager, small_store

TEMPLATE = """{{ if .Tools }}{{ range .Tools }}{{ . }}{{ end }}{{ end }}{{ range .Messages }}{{ .Role }}:{{ .Content }}\
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}\
{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>\
{{ end }}|{{ end }}{{ if .Think }}T{{ .ThinkLevel }}{{ end }}"""
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}
SAID = (
    "<thi",
    "nk>Hm",
    "m</think>",
    "I look.",
    '<tool_call>{"name": "weather", "argum',
    'ents": {"city": "Paris"}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>',
)
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = small_store(tmp_path_factory.mktemp("store"))
    create(store, ModelName.parse("able"), CreateRequest(from_model=ModelName.parse("demo"), template=TEMPLATE))
    return store


def post(store: Store, path: str, body: dict[str, Any], script: Script | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(script or Script(texts=SAID))
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.post(path, json={"model": "able", **body})
            finally:
                await manager.close()

    return asyncio.run(main())


def chat(store: Store, **more: Any) -> Any:
    response = post(store, "/v1/chat/completions", {"messages": [USER], "tools": [TOOL], **more})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def prompt_of(store: Store, **body: Any) -> str:
    asked = {"messages": [USER], "_debug_render_only": True, **body}
    return str(post(store, "/api/chat", asked).json()["_debug_info"]["rendered_template"])


def test_the_capabilities_are_the_templates(store: Store) -> None:
    assert post(store, "/api/show", {}).json()["capabilities"] == ["completion", "tools", "thinking"]


def test_native_says_thinking_text_and_calls_apart(store: Store) -> None:
    body = {"messages": [USER], "tools": [TOOL], "logprobs": True}
    whole = post(store, "/api/chat", body | {"stream": False}).json()
    message = whole["message"]
    assert (message["thinking"], message["content"], whole["done_reason"]) == ("Hmm", "I look.", "stop")
    functions = [call["function"] for call in message["tool_calls"]]
    assert [(one["index"], one["name"], one["arguments"]["city"]) for one in functions] == [
        (0, "weather", "Paris"),
        (1, "weather", "Rome"),
    ]
    lines = [json.loads(line) for line in post(store, "/api/chat", body).text.splitlines()]
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Hmm"
    assert "".join(line["message"]["content"] for line in lines) == "I look."
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == functions
    assert len({call["id"] for call in calls}) == 2 and "tool_calls" not in lines[-1]["message"]
    told = bytes(byte for line in lines for entry in line.get("logprobs", ()) for byte in entry["bytes"])
    assert told.decode() == "".join(SAID)  # every token once and in order, tags and all
    assert [entry for line in lines for entry in line.get("logprobs", ())] == whole["logprobs"]


def test_generate_tells_thinking_too(store: Store) -> None:
    answer = post(store, "/api/generate", {"prompt": "Hi", "stream": False}, Script(texts=SAID[:4])).json()
    assert (answer["thinking"], answer["response"]) == ("Hmm", "I look.")
    raw = post(store, "/api/generate", {"prompt": "Hi", "stream": False, "raw": True}, Script(texts=SAID[:4])).json()
    assert raw["response"] == "<think>Hmm</think>I look." and "thinking" not in raw


@pytest.mark.parametrize(
    ("think", "end"),
    [(None, "Tmedium"), (True, "Tmedium"), ("high", "Thigh"), (False, "")],
    ids=["absent", "true", "high", "false"],
)
def test_a_model_that_can_think_does_unless_it_is_told_otherwise(store: Store, think: Any, end: str) -> None:
    assert prompt_of(store, think=think).endswith(f"user:Hi|{end}")


def test_the_history_holds_calls_and_their_answers(store: Store) -> None:
    calls = [{"id": "c", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    messages = [
        USER,
        {"role": "assistant", "thinking": "Hm", "tool_calls": calls},
        {"role": "tool", "content": "sunny"},
    ]
    text = prompt_of(store, messages=messages, think=False)
    assert (
        '<think>Hm</think><tool_call>{"name": "weather", "arguments": {"city":"Oslo"}}</tool_call>|tool:sunny|' in text
    )
    bad = post(store, "/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": 3}]}]})
    assert (bad.status_code, bad.json()["error"]) == (400, "messages[0].tool_calls[0].function: expected an object")


def test_what_a_tool_says_is_no_control_token(store: Store) -> None:
    """A description that spells one is text to the model."""
    script = Script(texts=("x",))
    tool = {"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}
    post(store, "/api/chat", {"messages": [USER], "tools": [tool]}, script)
    control = post(store, "/api/tokenize", {"content": "<|im_end|>"}).json()["tokens"]
    assert len(control) == 1 and control[0] not in script.requests[0].prompt


def test_openai_says_the_same(store: Store) -> None:
    choice = chat(store)
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["reasoning"], message["reasoning_content"], message["content"]) == ("Hmm", "Hmm", "I look.")
    assert [json.loads(call["function"]["arguments"])["city"] for call in message["tool_calls"]] == ["Paris", "Rome"]


def test_one_call_where_more_are_not_welcome(store: Store) -> None:
    assert len(chat(store, parallel_tool_calls=False)["message"]["tool_calls"]) == 1


def test_functions_are_answered_in_their_older_form(store: Store) -> None:
    choice = chat(store, tools=None, functions=[TOOL["function"]])
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    call = choice["message"]["function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Paris"})


def test_without_tools_a_call_is_text(store: Store) -> None:
    choice = chat(store, tool_choice="none")
    assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]
    assert choice["message"]["content"].startswith("I look.<tool_call>")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_made_is_a_constraint_behind_the_thinking(store: Store, choice: Any) -> None:
    script = Script(texts=SAID)
    body = {"messages": [USER], "tools": [TOOL], "tool_choice": choice}
    post(store, "/v1/chat/completions", body, script)
    post(store, "/v1/chat/completions", body | {"reasoning_effort": "none"}, script)
    thinking, not_thinking = (request.constraint for request in script.requests)
    assert thinking is not None and (thinking.kind, thinking.after) == ("lark", "</think>")
    assert not_thinking is not None and not_thinking.after == ""


def test_a_form_is_kept_behind_the_thinking(store: Store) -> None:
    script = Script(texts=SAID)
    post(store, "/api/chat", {"messages": [USER], "format": "json"}, script)
    post(store, "/api/chat", {"messages": [USER], "format": "json", "think": False}, script)
    assert [request.constraint.after for request in script.requests if request.constraint] == ["</think>", ""]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("auto", ["f", "g"], True)),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, ("auto", ["f", "g"], False)),
        ({"tool_choice": "none"}, ("auto", [], True)),
        ({"tool_choice": "required"}, ("required", ["f", "g"], True)),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, ("=g", ["f", "g"], True)),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]},
                }
            },
            ("required", ["g"], True),
        ),
    ],
)
def test_openais_choices(asked: dict[str, Any], expected: tuple[str, list[str], bool]) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    use = tool_use_of(read_object(dump({"tools": tools, **asked}), "ChatCompletionRequest"))
    assert (use.choice, [tool["function"]["name"] for tool in use.tools], use.parallel) == expected


@pytest.mark.parametrize(
    "choice", ["some", 3, {"type": "allowed_tools", "allowed_tools": {"tools": [{"function": {"name": "h"}}]}}]
)
def test_choices_that_are_none(choice: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(RequestRefused) as caught:
        tool_use_of(read_object(dump({"tools": tools, "tool_choice": choice}), "ChatCompletionRequest"))
    assert caught.value.param == "tool_choice"


def test_n_answers_have_seeds_that_follow_and_the_best_of_them_are_shown(store: Store) -> None:
    script = Script(texts=("x",))
    post(store, "/v1/chat/completions", {"messages": [USER], "n": 3, "seed": 9}, script)
    assert [request.sampling.seed for request in script.requests] == [9, 10, 11]
    script = Script(texts=("x",))
    body = {"prompt": ["one", "two"], "n": 1, "best_of": 3, "seed": 9}
    choices = post(store, "/v1/completions", body, script).json()
    assert [choice["index"] for choice in choices["choices"]] == [0, 1]
    assert [request.sampling.seed for request in script.requests] == [9, 10, 11] * 2
    assert choices["usage"]["completion_tokens"] == 6  # what was computed, shown or not


def test_an_answer_that_fails_ends_all_of_them_with_one_error(store: Store) -> None:
    script = Script(texts=("a", "b"), fail_after=1)
    response = post(store, "/v1/chat/completions", {"messages": [USER], "n": 3, "stream": True}, script)
    *_, last = response.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the model fell over"
    assert response.text.count('"error"') == 1 and "[DONE]" not in response.text
    assert script.begun == script.ended == 3


def test_keys_of_tools_and_calls_have_any_case(store: Store) -> None:
    """As Go reads them; names of a schema's own are left as they are."""
    upper = {"Type": "function", "FUNCTION": {"Name": "weather", "Parameters": {"properties": {"City": {}}}}}
    call = {"Id": "c", "Function": {"NAME": "weather", "Arguments": {"City": "Paris"}}}
    asked = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, USER], "tools": [upper]}
    usual = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"City": {}}}}}
    as_usual = {"id": "c", "function": {"name": "weather", "arguments": {"City": "Paris"}}}
    expected = {"messages": [USER, {"role": "assistant", "tool_calls": [as_usual]}, USER], "tools": [usual]}
    assert prompt_of(store, **asked) == prompt_of(store, **expected) and '"City"' in prompt_of(store, **asked)


def test_the_type_of_shift_is_checked(store: Store) -> None:
    response = post(store, "/api/chat", {"messages": [USER], "shift": "no"})
    assert response.status_code == 400
    assert response.json()["error"] == (
        "json: cannot unmarshal string into Go struct field ChatRequest.shift of type bool"
    )


def test_a_call_in_the_history_that_is_none_is_refused_by_its_place(store: Store) -> None:
    bad = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": "{bad"}}]}
    text = "messages[1].tool_calls[0].function.arguments: expected a JSON object"
    response = post(store, "/v1/chat/completions", {"messages": [USER, bad]})
    error = {"message": text, "type": "invalid_request_error", "param": "messages[1]", "code": None}
    assert (response.status_code, response.json()) == (400, {"error": error})
    native = post(store, "/api/chat", {"messages": [USER, bad]})
    assert (native.status_code, native.json()) == (400, {"error": text})
