"""/v1/chat/completions: the request as Asks, one for each of `n` answers, and their events as OpenAI's chunks.

The i-th answer has the seed `seed + i`. Thinking is told as `reasoning` (Ollama, OpenRouter) and `reasoning_content`
(DeepSeek, llama.cpp, vLLM): clients read one or the other. A call is sent whole, in one chunk. Log probabilities are
those of the content's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    keep_alive_of,
    mingled,
    model_of,
    refuse_incapable,
    together,
    top_logprobs_of,
)
from runtime.api.gojson import Body, dump
from runtime.api.openai.fields import (
    answers_of,
    effort_of,
    form_of,
    logit_bias_of,
    options_of,
    refuse_other_media,
    tool_use_of,
)
from runtime.api.openai.messages import calls_tools, messages_of
from runtime.api.openai.wire import DONE, OPENAI, Frame, chat_logprobs, frame_of, notes, sse, usage_of
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.structured import structured_form
from runtime.api.transport import JSON, SSE, Answer, Chunks
from runtime.errors import RequestRefused
from runtime.events import CallDelta, Event, Finish, TextDelta, ThinkingDelta, Usage
from runtime.parting import Collected
from runtime.text.message import ToolCall


@record(frozen=True, slots=True, kw_only=True)
class Reply:
    """How the answers are written. `legacy`: calls in the form of `functions`."""

    frame: Frame
    logprobs: bool
    top: int
    legacy: bool


async def chat_completions(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "ChatCompletionRequest")
    asked = body.text("model").strip()
    messages = body.structs("messages", "Message", most=prompts.MAX_MESSAGES)
    if not messages:
        raise RequestRefused("[] is too short - 'messages'", param="messages")
    if not asked:
        raise RequestRefused("model is required", param="model")
    name, card = await model_of(server, asked)
    use = tool_use_of(body)
    refuse_incapable(name, card, "chat", asked, wanted={"tools": bool(use.tools) or calls_tools(messages)})
    refuse_other_media(body)
    conversation = prompts.Chat(
        messages=messages_of(name, messages),
        tools=use.tools,
        choice=use.choice,
        parallel=use.parallel,
        truncate=body.flag("truncate", True),
        think=effort_of(body, asked, card),
        form=structured_form(body, form_of(body.raw("response_format"))),
    )
    logprobs, top = body.flag("logprobs"), top_logprobs_of(body)
    maker = prompts.chat_maker(card, conversation)
    options, bias = options_of(body, card, "max_completion_tokens", "max_tokens"), logit_bias_of(body)
    asks = [
        Ask(
            name=name,
            card=card,
            options=options,
            prompt=maker,
            keep_alive=keep_alive_of(body),
            logprobs=logprobs,
            top_logprobs=top if logprobs else 0,
            logit_bias=bias,
            client=client_of(request),
            place=place,
        )
        for place in range(answers_of(body))
    ]
    return _answer(server, asks, body, asked, legacy=use.legacy)


def _answer(server: Server, asks: Sequence[Ask], body: Body, asked: str, *, legacy: bool) -> Response:
    stream, first = body.flag("stream"), asks[0]
    kind = "chat.completion.chunk" if stream else "chat.completion"
    reply = Reply(
        frame=frame_of(body, first.card, asked, "chatcmpl", kind),
        logprobs=first.logprobs,
        top=first.top_logprobs,
        legacy=legacy,
    )
    if stream:
        return Answer(_stream(server, asks, reply), media_type=SSE, dialect=OPENAI)
    return Answer(_once(server, asks, reply), media_type=JSON, dialect=OPENAI, whole=True)


# -- in a stream


async def _stream(server: Server, asks: Sequence[Ask], reply: Reply) -> Chunks:
    usages: list[Usage] = []
    begun: set[int] = set()
    called: set[int] = set()
    async with together(server, asks) as runs:
        async for place, event in mingled(runs):
            role: dict[str, Any] = {} if place in begun else {"role": "assistant"}
            if isinstance(event, Finish):
                usages.append(ended(event).usage)
                delta = _delta(place, role, None, _reason(event, place in called, reply))
                yield sse(reply.frame.chunk([delta]) | notes(runs[place]))
                continue
            piece = _piece(event, reply)
            logprobs = _logprobs(runs[place], event, reply)
            if piece or logprobs:
                yield sse(reply.frame.chunk([_delta(place, role | piece, logprobs, None)]))
                begun.add(place)
                if isinstance(event, CallDelta):
                    called.add(place)
    if reply.frame.usage:
        yield sse(reply.frame.chunk([], usage_of(usages, len(asks))))
    yield DONE


def _delta(place: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _piece(event: Event, reply: Reply) -> dict[str, Any]:
    if isinstance(event, CallDelta):
        return _calls([event.call], reply)
    if isinstance(event, ThinkingDelta):
        return _reasoning(event.text)
    return {"content": event.text} if isinstance(event, TextDelta) and (event.text or event.tokens) else {}


def _logprobs(run: Run, event: Event, reply: Reply) -> dict[str, Any] | None:
    if not reply.logprobs or not isinstance(event, TextDelta) or not event.tokens:
        return None
    return chat_logprobs(run.model, event.tokens, reply.top)


# -- in one piece


async def _once(server: Server, asks: Sequence[Ask], reply: Reply) -> Chunks:
    found = [Collected() for _ in asks]
    finishes: dict[int, Finish] = {}
    async with together(server, asks) as runs:
        async for place, event in mingled(runs):
            found[place].add(event)
            if isinstance(event, Finish):
                finishes[place] = ended(event)
        choices = [_choice(place, run, found[place], finishes[place], reply) for place, run in enumerate(runs)]
        usage = usage_of([finish.usage for finish in finishes.values()], len(asks))
        yield dump(reply.frame.chunk(choices, usage) | notes(runs[0]))


def _choice(place: int, run: Run, found: Collected, finish: Finish, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": found.text or (None if found.calls else "")}
    message["refusal"] = None
    message |= _reasoning(found.thinking) | _calls(found.calls, reply, index=False)
    logprobs = chat_logprobs(run.model, found.text_tokens, reply.top) if reply.logprobs else None
    reason = _reason(finish, bool(found.calls), reply)
    return {"index": place, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _reasoning(text: str) -> dict[str, Any]:
    return {"reasoning": text, "reasoning_content": text} if text else {}


def _calls(calls: Sequence[ToolCall], reply: Reply, *, index: bool = True) -> dict[str, Any]:
    if not calls:
        return {}
    if reply.legacy:
        return {"function_call": _function(calls[0])}
    return {"tool_calls": [_call(call, index=index) for call in calls]}


def _call(call: ToolCall, *, index: bool) -> dict[str, Any]:
    """`index` tells the pieces of a stream apart; a message has none."""
    place = {"index": call.index} if index else {}
    return place | {"id": call.id, "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": arguments_of(call)}


def arguments_of(call: ToolCall) -> str:
    """As JSON text. Not escaped for HTML: it is a string within a string."""
    return json.dumps(dict(call.arguments), ensure_ascii=False, separators=(",", ":"))


def _reason(finish: Finish, called: bool, reply: Reply) -> str:
    if called and finish.reason == "stop":
        return "function_call" if reply.legacy else "tool_calls"
    return finish.reason
