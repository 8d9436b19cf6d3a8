"""What an answer is held to, asked for over HTTP, with a small random model: only masks make its answers valid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.live import Live, live
from tests.peers.model_maker import CHATML, Size, make_model

HERMES = "{{ tools | tojson }}<tool_call>" + CHATML
MESSAGES = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT = {"model": "tiny", "messages": MESSAGES, "stream": False}
PROMPT = {"model": "tiny", "prompt": "Hello", "stream": False}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root: Path = tmp_path_factory.mktemp("structured")
    store = Store(root / "models")
    templates = {"tokenizer.chat_template": CHATML, "tokenizer.chat_template.tool_use": HERMES}
    model = make_model(root / "m.gguf", size=Size(context=2048), metadata=templates)
    create(store, ModelName.parse("tiny"), CreateRequest(files={"m.gguf": store.put_file(model)}))
    with live(store) as server:
        yield server


def said(server: Live, route: str, form: dict[str, Any], **more: Any) -> str:
    body = {**(CHAT if "chat" in route else PROMPT), "structured_outputs": form, **more}
    answer = httpx.post(server.url + route, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    one = found["choices"][0] if "choices" in found else found
    text = one["message"]["content"] if "message" in one else one.get("text", one.get("response"))
    assert one.get("finish_reason", one.get("done_reason")) == "stop"
    return str(text)


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"])
def test_every_form_can_be_asked_for_on_every_route(server: Live, route: str) -> None:
    assert re.fullmatch("[a-f]{3}-[0-9]{2}", said(server, route, {"regex": "[a-f]{3}-[0-9]{2}", "json": None}))
    assert said(server, route, {"choice": ['"yes"', "né\n"]}) in ('"yes"', "né\n")
    assert re.fullmatch(r"[1-9]\+[1-9]", said(server, route, {"grammar": 'start: N "+" N\nN: /[1-9]/'}))
    assert type(json.loads(said(server, route, {"json": SCHEMA}))["a"]) is bool
    assert type(json.loads(said(server, route, {"json": json.dumps(SCHEMA)}))["a"]) is bool


@pytest.mark.parametrize(
    ("form", "more", "text"),
    [
        ({"regex": "a", "choice": ["b"]}, {}, "an answer has one form"),
        ({"regex": "a"}, {"response_format": {"type": "json_object"}}, "an answer has one form"),
        ({"regex": 7}, {}, "'structured_outputs.regex' is not known, or of a wrong type"),
        ({"structural_tag": "x"}, {}, "'structured_outputs.structural_tag' is not known"),
        ({"choice": []}, {}, "a list of 1 to 1024 texts"),
        ({"choice": ["a", 1]}, {}, "a list of 1 to 1024 texts"),
        ({"regex": "("}, {}, "the regular expression cannot be kept"),
        ({"grammar": "start: @language"}, {}, "the grammar cannot be kept"),
        ({"grammar": 'start: "a"' + "\n" * (32 << 10)}, {}, "at most 32768 are allowed"),
        ({"regex": "a"}, {"tools": [TOOL]}, "a regular expression or grammar and tools together"),
    ],
)
def test_forms_that_are_refused(server: Live, form: dict[str, Any], more: dict[str, Any], text: str) -> None:
    body = {**CHAT, "structured_outputs": form, **more}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400 and text in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] in ("structured_outputs", "tools")


NEVER = {"type": "object", "properties": {"a": False}, "required": ["a"]}
MALFORMED = {"type": "object", "properties": 7}


@pytest.mark.parametrize("schema", [NEVER, MALFORMED])
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_is_refused_names_the_field_that_holds_it(
    server: Live, schema: dict[str, Any], stream: bool
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    inner = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    chat = {"model": "tiny", "messages": MESSAGES, "stream": stream}
    for path, body, param in (
        ("chat/completions", {**chat, "response_format": form}, "response_format"),
        ("completions", {"model": "tiny", "prompt": "a", "stream": stream, "response_format": form}, "response_format"),
        ("responses", {"model": "tiny", "input": "a", "stream": stream, "text": inner}, "text.format"),
        ("chat/completions", {**chat, "tools": [tool], "tool_choice": "required"}, "tools"),
    ):
        answer = httpx.post(f"{server.url}/v1/{path}", json=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_vllms_way_to_ask_works_through_the_openai_package(server: Live) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked = {"structured_outputs": {"choice": ["positive", "negative"]}}
    answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "!"}], extra_body=asked)
    assert answer.choices[0].message.content in ("positive", "negative")


def test_the_files_template_for_tools_is_used_where_tools_are_offered(server: Live) -> None:
    def prompt(**more: Any) -> str:
        answer = httpx.post(server.url + "/api/chat", json={**CHAT, "_debug_render_only": True, **more}, timeout=60)
        return str(answer.json()["_debug_info"]["rendered_template"])

    assert prompt(tools=[TOOL]).startswith('[{"type": "function"') and prompt().startswith("<|im_start|>user")
    shown = httpx.post(server.url + "/api/show", json={"model": "tiny"}, timeout=60).json()
    assert shown["capabilities"] == ["completion", "tools"] and shown["template"] == CHATML


def test_a_call_is_made_with_the_template_for_tools(server: Live) -> None:
    body = {**CHAT, "tools": [TOOL], "tool_choice": "required"}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
