"""Ollama's inference routes: /api/generate and /api/chat (contract, 1.7 and 1.8), and events as its NDJSON.

Order of checks: body, name, model, unload, raw, capabilities, options, load. Refused by name: `images`. An empty prompt
or message list loads the model, with keep_alive 0 it unloads it. Nothing is left out in silence: the last line counts
the messages that did not fit, and says what cut an answer of `done_reason` "length" short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from native.record import record
from runtime.api import prompts
from runtime.api.asking import (
    Ask,
    Run,
    client_of,
    ended,
    form_of,
    keep_alive_of,
    logprob_entry,
    model_of,
    question_of,
    refuse_incapable,
    running,
    think_of,
    top_logprobs_of,
    wanted,
)
from runtime.api.durations import now_utc
from runtime.api.gojson import Body, dump
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.structured import structured_form
from runtime.api.tools import function_tools, tool_calls_of
from runtime.api.transport import JSON, NDJSON, Answer, Chunks, json_response
from runtime.engine.constraint import Constraint
from runtime.errors import RequestRefused
from runtime.events import CallDelta, Event, Finish, TextDelta, ThinkingDelta, TokenInfo, Usage
from runtime.options import merge
from runtime.parting import Collected
from runtime.text.message import Message, ToolCall

# Puts a piece of answer into a chunk: text, thinking and calls, of which any may be empty.
Shape = Callable[[str, str, Sequence[ToolCall]], dict[str, Any]]


def generate_shape(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    return {"response": text} | ({"thinking": thinking} if thinking else {})


def chat_shape(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {"message": message}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": dict(call.arguments)}}


async def generate(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "GenerateRequest")
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model '' not found", http_status=404)
    prompt, raw = body.text("prompt"), body.flag("raw")
    name, card = await model_of(server, asked, spoken=not raw)
    context = body.array("context", int, "int", most=prompts.MAX_IDS)
    seconds = keep_alive_of(body)
    if not prompt and seconds == 0:
        return _unload(server, asked, card.content, generate_shape)
    if raw and (body.text("template") or body.text("system") or context):
        raise RequestRefused("raw mode does not support template, system, or context")
    suffix, images = body.text("suffix"), body.array("images", str, "api.ImageData")
    refuse_incapable(name, card, "generate", asked, wanted={"insert": bool(suffix), "vision": bool(images)})
    think = None if raw and not body.has("think") else think_of(body.raw("think"), asked, card)
    form, top = _form(body), top_logprobs_of(body)
    stream, _ = body.flag("stream", True), body.flag("shift")  # of the second its type alone: nothing is ever shifted
    question = prompts.Completion(
        prompt=prompt,
        suffix=suffix,
        system=body.text("system") or None,
        template=body.text("template") or None,
        context=tuple(context),
        raw=raw,
        truncate=body.flag("truncate", True),
        think=think,
        form=form,
    )
    options = merge(card.params, body.object("options"))
    ask = Ask(
        name=name,
        card=card,
        options=options,
        prompt=prompts.completion_maker(card, question),
        keep_alive=seconds,
        logprobs=body.flag("logprobs") or not raw,  # the reply's `context` needs every token
        top_logprobs=top,
        client=client_of(request),
    )
    if not prompt and not suffix and not context:
        return await _load(server, ask, asked, generate_shape)
    if body.flag("_debug_render_only"):
        return Answer(_rendered(server, ask, asked, generate_shape), media_type=JSON, whole=True)
    reply = Reply(asked=asked, shape=generate_shape, logprobs=body.flag("logprobs"), top=top, context=not raw)
    return _answer(server, ask, reply, stream=stream)


def _form(body: Body) -> Constraint | None:
    return structured_form(body, form_of(body.raw("format")))


async def chat(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "ChatRequest")
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model is required")
    name, card = await model_of(server, asked)
    messages = body.structs("messages", "Message", most=prompts.MAX_MESSAGES)
    seconds = keep_alive_of(body)
    if not messages and seconds == 0:
        return _unload(server, asked, card.content, chat_shape)
    tools = body.array("tools", dict, "api.Tool")
    calls = any(message.raw("tool_calls") for message in messages)
    images = any(message.raw("images") for message in messages)
    refuse_incapable(name, card, "chat", asked, wanted={"tools": bool(tools) or calls, "vision": images})
    think, form, top = think_of(body.raw("think"), asked, card), _form(body), top_logprobs_of(body)
    stream, _ = body.flag("stream", True), body.flag("shift")  # of the second its type alone: nothing is ever shifted
    conversation = prompts.Chat(
        messages=[_message(message, place) for place, message in enumerate(messages)],
        tools=function_tools(tools),
        truncate=body.flag("truncate", True),
        think=think,
        form=form,
    )
    options = merge(card.params, body.object("options"))
    ask = Ask(
        name=name,
        card=card,
        options=options,
        prompt=prompts.chat_maker(card, conversation),
        keep_alive=seconds,
        logprobs=body.flag("logprobs"),
        top_logprobs=top,
        client=client_of(request),
    )
    if not messages:
        return await _load(server, ask, asked, chat_shape)
    if body.flag("_debug_render_only"):
        return Answer(_rendered(server, ask, asked, chat_shape), media_type=JSON, whole=True)
    reply = Reply(asked=asked, shape=chat_shape, logprobs=body.flag("logprobs"), top=top, context=False)
    return _answer(server, ask, reply, stream=stream)


def _message(body: Body, place: int) -> Message:
    return Message(
        role=body.text("role").lower(),
        content=body.text("content"),
        thinking=body.text("thinking"),
        tool_calls=tool_calls_of(body.raw("tool_calls"), f"messages[{place}]"),
        tool_name=body.text("tool_name"),
        tool_call_id=body.text("tool_call_id"),
    )


# -- load, unload, and the prompt alone


def _unload(server: Server, asked: str, content: str, shape: Shape) -> Response:
    server.manager.unload(content)
    return json_response(_envelope(asked, shape("", "", ())) | {"done": True, "done_reason": "unload"})


async def _rendered(server: Server, ask: Ask, asked: str, shape: Shape) -> Chunks:
    """The prompt and nothing else: what a template made of a question."""
    async with server.manager.use(wanted(server, ask), keep_alive=ask.keep_alive) as model:
        prompt = (await question_of(ask, model)).prompt
        facts = {"rendered_template": prompt.text, "image_count": 0}
        yield dump(_envelope(asked, shape("", "", ())) | {"done": False, "_debug_info": facts})


async def _load(server: Server, ask: Ask, asked: str, shape: Shape) -> Response:
    async def chunks() -> Chunks:
        async with server.manager.use(wanted(server, ask), keep_alive=ask.keep_alive):
            yield dump(_envelope(asked, shape("", "", ())) | {"done": True, "done_reason": "load"})

    return Answer(chunks(), media_type=JSON, whole=True)


# -- events to bytes


@record(frozen=True, slots=True, kw_only=True)
class Reply:
    """How an answer is written. `asked`: the model's name as the client wrote it."""

    asked: str
    shape: Shape
    logprobs: bool
    top: int
    context: bool


def _answer(server: Server, ask: Ask, reply: Reply, *, stream: bool) -> Response:
    if stream:
        return Answer(_stream(server, ask, reply), media_type=NDJSON)
    return Answer(_once(server, ask, reply), media_type=JSON, whole=True)


async def _stream(server: Server, ask: Ask, reply: Reply) -> Chunks:
    answer_ids: list[int] = []
    line = _text_line(reply)
    async with running(server, ask) as run:
        async for event in run.events:
            if isinstance(event, Finish):
                yield dump(_last(run, reply, ended(event), Collected(), answer_ids)) + b"\n"
                continue
            answer_ids += [info.id for info in event.tokens]
            entries = _entries(run, reply, event.tokens)
            if isinstance(event, TextDelta) and event.text and not entries:
                yield line(event.text)
                continue
            piece = _piece(reply.shape, event)
            if piece is not None or entries:
                chunk = _envelope(reply.asked, piece or reply.shape("", "", ())) | {"done": False}
                yield dump(chunk | {"logprobs": entries} if entries else chunk) + b"\n"


def _text_line(reply: Reply) -> Callable[[str], bytes]:
    """Writes a piece of text as its line: there is one for every token, and only two values in it are new."""
    head = dump({"model": reply.asked})[:-1] + b',"created_at":"'
    before, after = dump(reply.shape("", "", ()) | {"done": False})[1:].split(b'""')  # the text, which is empty
    middle, end = b'",' + before, after + b"\n"
    return lambda text: b"".join((head, now_utc().encode(), middle, dump(text), end))


def _piece(shape: Shape, event: Event) -> dict[str, Any] | None:
    """None where there is nothing to show."""
    if isinstance(event, CallDelta):
        return shape("", "", (event.call,))
    if isinstance(event, ThinkingDelta):
        return shape("", event.text, ()) if event.text else None
    return shape(event.text, "", ()) if isinstance(event, TextDelta) and event.text else None


async def _once(server: Server, ask: Ask, reply: Reply) -> Chunks:
    found = Collected()
    async with running(server, ask) as run:
        async for event in run.events:
            found.add(event)
            if isinstance(event, Finish):
                yield dump(_last(run, reply, ended(event), found, [info.id for info in found.tokens]))


def _entries(run: Run, reply: Reply, tokens: Sequence[TokenInfo]) -> list[dict[str, Any]]:
    if not reply.logprobs:
        return []
    return [logprob_entry(run.model, info, top=reply.top) for info in tokens]


def _envelope(asked: str, piece: dict[str, Any]) -> dict[str, Any]:
    return {"model": asked, "created_at": now_utc(), **piece}


def _last(run: Run, reply: Reply, finish: Finish, found: Collected, answer_ids: list[int]) -> dict[str, Any]:
    """`limited_by` and `dropped_messages` are ours: what was cut short or did not fit is not left out in silence."""
    piece = reply.shape(found.text, found.thinking, found.calls)
    chunk = _envelope(reply.asked, piece) | {"done": True, "done_reason": finish.reason}
    if reply.context:
        chunk["context"] = [*run.prompt.ids, *answer_ids]
    if limit := run.limited_by(finish):
        chunk["limited_by"] = limit
    if run.prompt.dropped:
        chunk["dropped_messages"] = len(run.prompt.dropped)
    if entries := _entries(run, reply, found.tokens):
        chunk["logprobs"] = entries
    return chunk | statistics(finish.usage)


def statistics(usage: Usage) -> dict[str, Any]:
    """Durations in nanoseconds. The prompt's count includes what came from the cache."""
    return {
        "total_duration": usage.total_ns,
        "load_duration": usage.load_ns,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": usage.prompt_ns,
        "eval_count": usage.generated_tokens,
        "eval_duration": usage.generate_ns,
    }
