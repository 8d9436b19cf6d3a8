"""/v1/messages: events as Anthropic's message, or as its stream of blocks.

Blocks of a stream follow each other and never interleave: thinking, text and calls each open one when the kind changes;
a call is a block of its own, its input sent whole. `input_tokens` is the whole prompt, what came from a cache included.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from native.record import record
from runtime.api import prompts
from runtime.api.anthropic.request import chat_of, options_of
from runtime.api.asking import Ask, Run, client_of, ended, keep_alive_of, model_of, refuse_incapable, running
from runtime.api.gojson import Body, dump
from runtime.api.observing import record_now
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.tokenizing import text_side
from runtime.api.transport import JSON, SSE, Answer, Chunks, Failure, json_response
from runtime.errors import RequestRefused, ThreadRefused
from runtime.events import CallDelta, Event, Finish, TextDelta, ThinkingDelta
from runtime.parting import Collected
from runtime.text.message import ToolCall

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class AnthropicDialect:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`, in a stream as an event named error."""

    def early(self, failure: Failure) -> bytes:
        kind = _ERROR_TYPES.get(failure.status, "api_error")
        record = record_now()  # so that the log knows the same id
        id = record.id if record is not None else secrets.token_hex(8)
        error: dict[str, Any] = {"type": kind, "message": failure.text}
        if failure.code == ThreadRefused.code:
            error["details"] = {"error_code": failure.code}
        return dump({"type": "error", "error": error, "request_id": f"req_{id}"})

    def late(self, failure: Failure) -> bytes:
        return b"event: error\ndata: " + self.early(failure) + b"\n\n"


ANTHROPIC = AnthropicDialect()


@record(frozen=True, slots=True, kw_only=True)
class Reply:
    """`stops`: the request's own stop sequences; one of the Modelfile's ends a turn."""

    id: str
    model: str
    stops: tuple[str, ...]


async def messages(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "MessagesRequest")
    if body.integer("max_tokens") <= 0:
        raise RequestRefused("max_tokens is required and must be positive", param="max_tokens")
    ask, asked = await _ask(server, body, request)
    stops = tuple(body.array("stop_sequences", str, "string"))
    reply = Reply(id=f"msg_{secrets.token_hex(12)}", model=asked, stops=stops)
    if body.flag("stream"):
        return Answer(_stream(server, ask, reply), media_type=SSE, dialect=ANTHROPIC)
    return Answer(_once(server, ask, reply), media_type=JSON, dialect=ANTHROPIC, whole=True)


async def count_tokens(request: Request) -> Response:
    """Nothing is loaded but the tokenizer."""
    server, body = server_of(request), await body_of(request, "CountTokensRequest")
    ask, _ = await _ask(server, body, request)
    side = await text_side(server, ask.card)
    question = await asyncio.to_thread(ask.prompt, side)
    return json_response({"input_tokens": len(question.prompt.ids)})


async def _ask(server: Server, body: Body, request: Request) -> tuple[Ask, str]:
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model is required", param="model")
    name, card = await model_of(server, asked)
    chat = chat_of(body, name, card)
    calls = any(message.tool_calls for message in chat.messages)
    refuse_incapable(name, card, "chat", asked, wanted={"tools": bool(chat.tools) or calls})
    ask = Ask(
        name=name,
        card=card,
        options=options_of(body, card),
        prompt=prompts.chat_maker(card, chat),
        keep_alive=keep_alive_of(body),
        client=client_of(request),
    )
    return ask, asked


# -- in one piece


async def _once(server: Server, ask: Ask, reply: Reply) -> Chunks:
    found = Collected()
    async with running(server, ask) as run:
        async for event in run.events:
            found.add(event)
            if isinstance(event, Finish):
                finish = ended(event)
                usage = _usage(run, finish.usage.generated_tokens)
                message = _message(run, reply, _content(found), usage) | _end(run, reply, finish, bool(found.calls))
                yield dump(message)


def _content(found: Collected) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if found.thinking:
        blocks.append({"type": "thinking", "thinking": found.thinking, "signature": ""})
    if found.text or not (found.calls or found.thinking):
        blocks.append({"type": "text", "text": found.text})
    return blocks + [_tool_use(call, dict(call.arguments)) for call in found.calls]


def _tool_use(call: ToolCall, given: dict[str, Any]) -> dict[str, Any]:
    """Ids have Anthropic's prefix."""
    return {"type": "tool_use", "id": f"toolu_{call.id.removeprefix('call_')}", "name": call.name, "input": given}


def _message(run: Run, reply: Reply, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    dropped = {"dropped_messages": len(run.prompt.dropped)} if run.prompt.dropped else {}
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
        **dropped,  # ours: messages that did not fit are not left out in silence
    }


def _end(run: Run, reply: Reply, finish: Finish, called: bool) -> dict[str, Any]:
    sequence = finish.stop if finish.stop in reply.stops else None
    if finish.reason == "length":
        reason = "model_context_window_exceeded" if run.limited_by(finish) == "context" else "max_tokens"
    elif sequence is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if called else "end_turn"
    return {"stop_reason": reason, "stop_sequence": sequence}


def _usage(run: Run, generated: int) -> dict[str, Any]:
    return {
        "input_tokens": len(run.prompt.ids),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": generated,
    }


# -- in a stream


async def _stream(server: Server, ask: Ask, reply: Reply) -> Chunks:
    blocks = _Blocks()
    called = False
    async with running(server, ask) as run:
        head = _sse("message_start", message=_message(run, reply, [], _usage(run, 0))) + _sse("ping")
        async for event in run.events:
            if isinstance(event, Finish):
                finish = ended(event)
                tail = b"".join(blocks.close(empty=True))
                end = _sse(
                    "message_delta",
                    delta=_end(run, reply, finish, called),
                    usage=_usage(run, finish.usage.generated_tokens),
                )
                yield head + tail + end + _sse("message_stop")
                continue
            called = called or isinstance(event, CallDelta)
            chunk = head + b"".join(blocks.add(event))
            head = b""
            if chunk:
                yield chunk


class _Blocks:
    """The block that is open, and its place."""

    def __init__(self) -> None:
        self._place = 0
        self._open = ""

    def add(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, CallDelta):
            yield from self._change("tool_use", _tool_use(event.call, {}), always=True)
            text = json.dumps(dict(event.call.arguments), ensure_ascii=False, separators=(",", ":"))
            yield self._delta(type="input_json_delta", partial_json=text)
        elif isinstance(event, ThinkingDelta) and event.text:
            yield from self._change("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta(type="thinking_delta", thinking=event.text)
        elif isinstance(event, TextDelta) and event.text:
            yield from self._change("text", {"type": "text", "text": ""})
            yield self._delta(type="text_delta", text=event.text)

    def close(self, *, empty: bool = False) -> Iterator[bytes]:
        """Ends the open block. `empty`: an answer of nothing has one block of no text."""
        if empty and not self._open and not self._place:
            yield from self._change("text", {"type": "text", "text": ""})
        if self._open:
            yield _sse("content_block_stop", index=self._place)
            self._open = ""
            self._place += 1

    def _change(self, kind: str, block: dict[str, Any], *, always: bool = False) -> Iterator[bytes]:
        if self._open == kind and not always:
            return
        yield from self.close()
        self._open = kind
        yield _sse("content_block_start", index=self._place, content_block=block)

    def _delta(self, **delta: Any) -> bytes:
        return _sse("content_block_delta", index=self._place, delta=delta)


def _sse(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dump({"type": kind, **fields}) + b"\n\n"
