"""A real model calls a tool in every API: SmolLM2, which does once its history holds five calls that worked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pydantic
import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.hermes import TEMPLATE
from tests.peers.live import Live, live

REAL = Path(os.environ.get("SEALIFT_TEST_MODEL") or "/nonexistent")
pytestmark = pytest.mark.skipif(not REAL.is_file(), reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")

CITIES = ("Paris", "London", "Berlin", "Rome", "Madrid")
QUESTION = "What is the weather in Oslo?"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {"name": "get_weather", "description": "The weather of a city", "parameters": SCHEMA}
CALL = ("get_weather", {"city": "Oslo"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    store = Store(tmp_path_factory.mktemp("real") / "models")
    wanted = CreateRequest(files={"m.gguf": store.put_file(REAL)}, template=TEMPLATE)
    create(store, ModelName.parse("smol"), wanted)
    with live(store) as server:
        yield server


def chat(*, as_text: bool) -> list[Any]:
    """`as_text`: arguments as OpenAI spells them."""
    messages: list[Any] = []
    for city in CITIES:
        arguments: Any = json.dumps({"city": city}) if as_text else {"city": city}
        call = {"id": f"call_{city}", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{city}", "content": "sunny"},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    return [*messages, {"role": "user", "content": QUESTION}]


TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]


def test_native(server: Live) -> None:
    client = ollama.Client(host=server.url)
    assert client.show("smol").capabilities == ["completion", "tools"]
    asked: Any = {"model": "smol", "messages": chat(as_text=False), "tools": TOOLS, "options": {"temperature": 0}}
    whole = client.chat(**asked)
    streamed = [part.message for part in client.chat(**asked, stream=True)]
    for calls in (whole.message.tool_calls, [call for part in streamed for call in part.tool_calls or ()]):
        assert [(call.function.name, call.function.arguments) for call in calls or ()] == [CALL]
    assert whole.done_reason == "stop" and not whole.message.content
    client._client.close()


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_openais_chat(server: Live, choice: Any) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        answer = client.chat.completions.create(
            model="smol",
            messages=chat(as_text=True),
            tools=TOOLS,
            tool_choice=choice,
            temperature=0,
            max_completion_tokens=60,
        )
    [found] = answer.choices
    assert found.finish_reason == "tool_calls"
    calls: list[Any] = list(found.message.tool_calls or ())
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [CALL]


def test_a_call_that_must_be_made_needs_no_examples(server: Live) -> None:
    body: dict[str, Any] = {"model": "smol", "messages": [{"role": "user", "content": QUESTION}], "tools": TOOLS}
    body = {**body, "temperature": 0, "max_tokens": 60}
    free = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
    bound = httpx.post(f"{server.url}/v1/chat/completions", json=body | {"tool_choice": "required"}, timeout=60)
    [call] = bound.json()["choices"][0]["message"]["tool_calls"]
    assert free["finish_reason"] != "tool_calls"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == CALL


def test_a_text_of_a_form_or_a_call(server: Live) -> None:
    """With tools and a schema both may come; without tools only the text can."""
    schema = {"type": "object", "properties": {"answer": {"enum": ["sunny", "rainy"]}}, "required": ["answer"]}
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}
    body = {"model": "smol", "messages": chat(as_text=True), "temperature": 0, "response_format": form}
    either = httpx.post(f"{server.url}/v1/chat/completions", json=body | {"tools": TOOLS}, timeout=60).json()
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert either["choices"][0]["finish_reason"] == "tool_calls"
    assert json.loads(text.json()["choices"][0]["message"]["content"])["answer"] in ("sunny", "rainy")


class Weather(pydantic.BaseModel):
    city: str
    sunny: bool


def test_openais_parse_gets_what_it_asked_for(server: Live) -> None:
    asked: list[Any] = [{"role": "user", "content": "It is sunny in Oslo. Say so in JSON."}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        chat = client.chat.completions.parse(model="smol", messages=asked, response_format=Weather, temperature=0)
        response = client.responses.parse(model="smol", input=asked, text_format=Weather, temperature=0)
    assert isinstance(chat.choices[0].message.parsed, Weather)
    assert response.output_parsed == chat.choices[0].message.parsed


def test_openais_responses(server: Live) -> None:
    items: list[Any] = []
    for city in CITIES:
        items += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {
                "type": "function_call",
                "call_id": f"call_{city}",
                "name": "get_weather",
                "arguments": json.dumps({"city": city}),
            },
            {"type": "function_call_output", "call_id": f"call_{city}", "output": "sunny"},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    tools: list[Any] = [{"type": "function", **FUNCTION}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        answer = client.responses.create(
            model="smol", input=[*items, {"role": "user", "content": QUESTION}], tools=tools, temperature=0
        )
    [call] = answer.output
    assert call.type == "function_call" and (call.name, json.loads(call.arguments)) == CALL


def anthropics_examples() -> list[Any]:
    messages: list[Any] = []
    for city in CITIES:
        call = {"type": "tool_use", "id": f"toolu_{city}", "name": "get_weather", "input": {"city": city}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{city}", "content": "sunny"}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    return messages


def test_anthropics_messages(server: Live) -> None:
    messages = anthropics_examples()
    tools: list[Any] = [
        {"name": "get_weather", "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}
    ]
    with anthropic.Anthropic(base_url=server.url, api_key="x") as client:
        answer = client.messages.create(
            model="smol",
            messages=[*messages, {"role": "user", "content": QUESTION}],
            tools=tools,
            max_tokens=60,
            extra_body={"temperature": 0},
        )
    [block] = answer.content
    assert block.type == "tool_use" and (block.name, block.input) == CALL
    assert answer.stop_reason == "tool_use"


def test_anthropics_runner_of_tools_goes_on_with_the_whole_conversation(server: Live) -> None:
    """It asks the server to keep the conversation and would then send what is new alone: an answer to that would be one
    to nothing."""
    messages = anthropics_examples()

    def get_weather(city: str) -> str:
        """The weather of a city"""
        return {"Oslo": "rainy"}[city]

    with anthropic.Anthropic(base_url=server.url, api_key="x") as client:
        runner = client.beta.messages.tool_runner(
            model="smol",
            max_tokens=60,
            messages=[*messages, {"role": "user", "content": QUESTION}],
            tools=[anthropic.beta_tool(get_weather)],
            extra_body={"temperature": 0},
        )
        called, told = list(runner)
    assert (called.stop_reason, told.stop_reason) == ("tool_use", "end_turn")
    [block] = told.content
    assert block.type == "text" and block.text == "It is rainy in Oslo."
    assert told.usage.input_tokens > called.usage.input_tokens


def test_several_answers_have_the_seeds_that_follow(server: Live) -> None:
    """The i-th of n answers is the answer of `seed + i` alone."""
    body = {"model": "smol", "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 12}

    def texts(**more: Any) -> list[str]:
        found = httpx.post(f"{server.url}/v1/chat/completions", json=body | more, timeout=60).json()
        return [choice["message"]["content"] for choice in found["choices"]]

    together = texts(n=3, seed=5)
    assert together == [texts(seed=5 + place)[0] for place in range(3)]
    assert len(set(together)) == 3
