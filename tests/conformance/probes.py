"""Requests whose answers are held against descriptions: ours, and the published ones of Ollama and OpenAI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.conformance.clients.questions import (
    FUNCTION,
    GONE,
    HELLO,
    PERSON,
    QUESTION,
    SCHEMA,
    TEXTS,
    TOOL,
    TOOLS,
    examples,
)
from tests.conformance.served import EMBEDDER, MODEL

COLD: dict[str, Any] = {"temperature": 0, "seed": 7, "num_predict": 8}
NATIVE: dict[str, Any] = {"model": MODEL, "options": COLD}
SHORT: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 8}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
TOLD = [{"role": "user", "content": PERSON}]
CALLING = {"messages": examples(as_text=True), "tools": TOOLS, "max_tokens": 60}
JSON_FORM = {"type": "json_object"}
NAMED = {"type": "function", "function": {"name": TOOL}}
ASKED = {"model": MODEL, "temperature": 0, "input": QUESTION}
FLAT_TOOL = {"type": "function", **FUNCTION}
WORKED = [
    {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
    {"type": "function_call", "call_id": "call_1", "name": TOOL, "arguments": '{"city": "Oslo"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
]
CLAUDE = {"model": MODEL, "messages": HELLO, "max_tokens": 8}
CLAUDE_TOOL = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """`route` as descriptions name it. `status`: what is expected."""

    name: str
    route: str
    body: Mapping[str, Any] | None = None
    status: int = 200
    at: str = ""  # the path, where the route's has a parameter

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.route.partition(" ")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`documents`: one, or a stream's lines or events. `kind`: the media type alone."""

    status: int
    kind: str
    documents: list[Any] = field(default_factory=list)


def ask(client: httpx.Client, probe: Probe) -> Answer:
    body = None if probe.body is None else json.dumps(probe.body)
    found = client.request(probe.method, probe.at or probe.path, content=body)
    assert found.status_code == probe.status, f"{probe.name}: {found.status_code} {found.text[:500]}"
    kind = found.headers.get("content-type", "").partition(";")[0]
    return Answer(status=found.status_code, kind=kind, documents=list(_documents(kind, found.text)))


def _documents(kind: str, text: str) -> Iterator[Any]:
    if kind == "text/event-stream":
        yield from events(text)
    elif kind == "application/x-ndjson":
        yield from map(json.loads, text.strip().split("\n"))
    elif kind == "application/json":
        yield json.loads(text)
    elif text:
        yield text


def events(text: str) -> list[Any]:
    """The data of a stream's events, but for OpenAI's last one, which is no JSON."""
    told = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in told if line != "[DONE]"]


def _refused(name: str, path: str, body: Mapping[str, Any], status: int = 400) -> Probe:
    return Probe(name=f"refused: {name}", route=f"POST {path}", body=body, status=status)


def _both(name: str, route: str, body: Mapping[str, Any]) -> tuple[Probe, Probe]:
    return (
        Probe(name=name, route=route, body={**body, "stream": False}),
        Probe(name=f"{name}, streamed", route=route, body={**body, "stream": True}),
    )


MADE = "made-by-probes"
PROBES: tuple[Probe, ...] = (
    Probe(name="root", route="GET /"),
    Probe(name="health", route="GET /health"),
    Probe(name="version", route="GET /api/version"),
    Probe(name="description", route="GET /openapi.json"),
    Probe(name="status", route="GET /api/status"),
    Probe(name="tags", route="GET /api/tags"),
    Probe(name="show", route="POST /api/show", body={"model": MODEL}),
    Probe(name="show, verbose", route="POST /api/show", body={"model": EMBEDDER, "verbose": True}),
    Probe(name="load", route="POST /api/generate", body={"model": MODEL}),
    Probe(name="load by chat", route="POST /api/chat", body={"model": MODEL}),
    *_both("generate", "POST /api/generate", NATIVE | {"prompt": "Say hello."}),
    *_both("generate raw", "POST /api/generate", NATIVE | {"prompt": "Say", "raw": True}),
    *_both("generate with log probabilities", "POST /api/generate",
           NATIVE | {"prompt": "Say hello.", "logprobs": True, "top_logprobs": 2}),
    *_both("generate a schema", "POST /api/generate",
           {"model": MODEL, "prompt": PERSON, "format": SCHEMA, "options": {"temperature": 0}}),
    *_both("chat", "POST /api/chat", NATIVE | {"messages": HELLO}),
    *_both("chat with log probabilities", "POST /api/chat",
           NATIVE | {"messages": HELLO, "logprobs": True, "top_logprobs": 2}),
    *_both("chat with tools", "POST /api/chat",
           {"model": MODEL, "messages": examples(as_text=False), "tools": TOOLS, "options": {"temperature": 0}}),
    *_both("chat in JSON", "POST /api/chat", NATIVE | {"messages": TOLD, "format": "json"}),
    *_both("chat with parts of a talk", "POST /api/chat", NATIVE | {"messages": [
        {"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Ahoy"}]}),
    Probe(name="ps", route="GET /api/ps"),
    Probe(name="embed a text", route="POST /api/embed",
          body={"model": EMBEDDER, "input": TEXTS[0], "dimensions": 2, "truncate": False}),
    Probe(name="embed", route="POST /api/embed", body={"model": EMBEDDER, "input": TEXTS}),
    Probe(name="embeddings", route="POST /api/embeddings", body={"model": EMBEDDER, "prompt": TEXTS[0]}),
    *_both("create", "POST /api/create", {"model": MADE, "from": MODEL, "system": "Be brief."}),
    Probe(name="copy", route="POST /api/copy", body={"source": MADE, "destination": f"{MADE}-too"}),
    Probe(name="delete", route="DELETE /api/delete", body={"model": f"{MADE}-too"}),
    Probe(name="delete the first", route="DELETE /api/delete", body={"model": MADE}),
    *_both("pull what is there", "POST /api/pull", {"model": MODEL}),
    Probe(name="tokenize", route="POST /api/tokenize",
          body={"model": MODEL, "content": "Say hello.", "with_pieces": True}),
    Probe(name="tokenize, ids", route="POST /api/tokenize", body={"model": MODEL, "content": "Say hello."}),
    Probe(name="detokenize", route="POST /api/detokenize", body={"model": MODEL, "tokens": [1, 2]}),
    Probe(name="recommendations", route="GET /api/experimental/model-recommendations"),
    Probe(name="unknown model", route="POST /api/chat", body={"model": GONE, "messages": HELLO}, status=404),
    Probe(name="wrong option", route="POST /api/chat", status=500,
          body={"model": MODEL, "messages": HELLO, "options": {"temperature": "hot"}}),
    Probe(name="account", route="POST /api/me", body={}, status=503),
    Probe(name="web", route="POST /api/experimental/web_search", body={}, status=403),
    Probe(name="models", route="GET /v1/models"),
    Probe(name="model", route="GET /v1/models/{model}", at=f"/v1/models/{MODEL}"),
    *_both("chat completion", "POST /v1/chat/completions", SHORT | {"messages": HELLO}),
    *_both("chat completions with log probabilities", "POST /v1/chat/completions",
           SHORT | {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "n": 2}),
    Probe(name="chat completion with usage", route="POST /v1/chat/completions",
          body=SHORT | {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}),
    *_both("chat completion with tools", "POST /v1/chat/completions", SHORT | CALLING),
    *_both("chat completion of a schema", "POST /v1/chat/completions",
           SHORT | {"messages": TOLD, "response_format": FORM, "max_tokens": 60}),
    *_both("chat completion with a named tool", "POST /v1/chat/completions",
           SHORT | CALLING | {"tool_choice": NAMED, "parallel_tool_calls": False}),
    *_both("chat completion with tools that it may not call", "POST /v1/chat/completions",
           SHORT | CALLING | {"tool_choice": "none", "max_tokens": 8}),
    *_both("chat completion with functions", "POST /v1/chat/completions",
           SHORT | {"messages": examples(as_text=True), "functions": [FUNCTION], "function_call": {"name": TOOL},
                    "max_tokens": 60}),
    *_both("chat completion in JSON", "POST /v1/chat/completions",
           SHORT | {"messages": TOLD, "response_format": JSON_FORM}),
    *_both("chat completion with everything set", "POST /v1/chat/completions",
           {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
            "max_completion_tokens": 8, "seed": 1, "stop": ["zz"], "top_p": 0.5, "presence_penalty": 0.1, "n": 2,
            "frequency_penalty": 0.1, "logit_bias": {"5": -100}, "user": "me", "metadata": {"a": "b"}}),
    *_both("completion", "POST /v1/completions", SHORT | {"prompt": "Once upon a time"}),
    *_both("completion with echo", "POST /v1/completions",
           SHORT | {"prompt": "Once upon a time", "echo": True, "logprobs": 2}),
    *_both("completion with log probabilities", "POST /v1/completions",
           SHORT | {"prompt": "Once upon a time", "logprobs": 2}),
    *_both("completion of prompts and of ids", "POST /v1/completions", SHORT | {"prompt": [[5, 6], [7, 8]], "n": 2}),
    Probe(name="completion, best of three", route="POST /v1/completions",
          body=SHORT | {"prompt": ["Once", "Twice"], "best_of": 3, "n": 2, "echo": True, "temperature": 1}),
    Probe(name="completion with usage", route="POST /v1/completions",
          body=SHORT | {"prompt": "Once upon", "stream": True, "stream_options": {"include_usage": True}}),
    Probe(name="vectors", route="POST /v1/embeddings", body={"model": EMBEDDER, "input": TEXTS}),
    Probe(name="vectors of ids", route="POST /v1/embeddings",
          body={"model": EMBEDDER, "input": [[5, 6], [7]], "dimensions": 2, "encoding_format": "float"}),
    Probe(name="vectors in base64", route="POST /v1/embeddings",
          body={"model": EMBEDDER, "input": TEXTS, "encoding_format": "base64"}),
    *_both("response", "POST /v1/responses", {"model": MODEL, "input": HELLO, "max_output_tokens": 8}),
    *_both("response with a tool", "POST /v1/responses", ASKED | {"tool_choice": "required", "tools": [FLAT_TOOL]}),
    *_both("response with a named tool", "POST /v1/responses",
           ASKED | {"tool_choice": {"type": "function", "name": TOOL}, "tools": [FLAT_TOOL | {"strict": True}],
                    "parallel_tool_calls": False}),
    *_both("response after a call", "POST /v1/responses",
           ASKED | {"input": WORKED, "tools": [FLAT_TOOL], "tool_choice": "none", "instructions": "Be brief.",
                    "max_output_tokens": 8, "metadata": {"a": "b"}, "user": "me", "truncation": "auto"}),
    *_both("response of a schema", "POST /v1/responses",
           ASKED | {"input": PERSON, "text": {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA,
                                                         "strict": True}}}),
    *_both("response in JSON", "POST /v1/responses",
           ASKED | {"input": PERSON, "text": {"format": JSON_FORM}, "max_output_tokens": 16}),
    *_both("response with log probabilities", "POST /v1/responses",
           ASKED | {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 8}),
    Probe(name="unknown model of OpenAI's", route="POST /v1/chat/completions", status=404,
          body={"model": GONE, "messages": HELLO}),
    Probe(name="unknown model by its name", route="GET /v1/models/{model}", at=f"/v1/models/{GONE}", status=404),
    _refused("no messages", "/v1/chat/completions", {"model": MODEL, "messages": []}),
    _refused("no model", "/v1/chat/completions", {"messages": HELLO}),
    _refused("a wrong type", "/v1/chat/completions", SHORT | {"messages": HELLO, "temperature": "hot"}),
    _refused("an unknown tool", "/v1/chat/completions", SHORT | {"messages": HELLO, "tool_choice": "required"}),
    _refused("a schema that cannot be kept", "/v1/chat/completions",
             SHORT | {"messages": HELLO, "stream": True, "response_format":
                      {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}}),
    _refused("no prompt", "/v1/completions", SHORT | {"prompt": ""}),
    _refused("too many answers", "/v1/completions", SHORT | {"prompt": "Once", "n": 1000, "stream": True}),
    _refused("a model without vectors", "/v1/embeddings", {"model": MODEL, "input": TEXTS}),
    _refused("an unknown form of vectors", "/v1/embeddings",
             {"model": EMBEDDER, "input": TEXTS, "encoding_format": "hex"}),
    _refused("no input", "/v1/responses", {"model": MODEL, "input": []}),
    _refused("an earlier response", "/v1/responses", ASKED | {"previous_response_id": "resp_1"}),
    _refused("an unknown model's vectors", "/v1/embeddings", {"model": GONE, "input": TEXTS}, 404),
    _refused("an unknown model's response", "/v1/responses", {"model": GONE, "input": "Hi", "stream": True}, 404),
    Probe(name="not built", route="POST /v1/audio/transcriptions", body={}, status=501),
    *_both("message", "POST /v1/messages", CLAUDE),
    *_both("message with a tool", "POST /v1/messages",
           CLAUDE | {"max_tokens": 60, "tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}}),
    Probe(name="count", route="POST /v1/messages/count_tokens", body={"model": MODEL, "messages": HELLO}),
    Probe(name="unknown model of Anthropic's", route="POST /v1/messages", body=CLAUDE | {"model": GONE}, status=404),
    Probe(name="unload", route="POST /api/generate", body={"model": MODEL, "keep_alive": 0}),
)  # fmt: skip
