"""/v1/responses: one answer as OpenAI's response object, or as its stream of events.

Items of the output, in the order in which the model makes them: what it thinks (`reasoning`, told as a summary, whole),
text (`message`), calls (`function_call`). An answer that a limit cut short is `incomplete`, one that failed in
mid-stream ends in `response.failed`.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.api import prompts
from runtime.api.asking import (
    Ask,
    Run,
    client_of,
    ended,
    keep_alive_of,
    model_of,
    refuse_incapable,
    running,
    top_logprobs_of,
)
from runtime.api.gojson import Body, dump
from runtime.api.openai import responses_input
from runtime.api.openai.fields import effort_of, form_of, options_of
from runtime.api.openai.responses_output import Output
from runtime.api.openai.wire import OPENAI, notes
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.transport import JSON, SSE, Answer, Chunks, Failure
from runtime.errors import RequestRefused
from runtime.events import Finish


async def responses(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "ResponsesRequest")
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model is required", param="model")
    name, card = await model_of(server, asked)
    responses_input.refuse_state(body)
    said, use = responses_input.messages_of(body, name), responses_input.tool_use_of(body)
    calls = any(message.tool_calls for message in said)
    refuse_incapable(name, card, "chat", asked, wanted={"tools": bool(use.tools) or calls})
    conversation = prompts.Chat(
        messages=said,
        tools=use.tools,
        choice=use.choice,
        parallel=use.parallel,
        truncate=_truncation(body) == "auto",
        think=effort_of(body, asked, card),
        form=form_of(body.object("text").get("format"), "text.format"),
    )
    logprobs = "message.output_text.logprobs" in body.array("include", str, "string")
    ask = Ask(
        name=name,
        card=card,
        options=options_of(body, card, "max_output_tokens"),
        prompt=prompts.chat_maker(card, conversation),
        keep_alive=keep_alive_of(body),
        logprobs=logprobs,
        top_logprobs=top_logprobs_of(body) if logprobs else 0,
        client=client_of(request),
    )
    output = Output(_head(body, ask, asked))
    if body.flag("stream"):
        return Answer(_stream(server, ask, output), media_type=SSE, dialect=_Dialect(output))
    return Answer(_once(server, ask, output), media_type=JSON, dialect=OPENAI, whole=True)


def _truncation(body: Body) -> str:
    value = body.text("truncation", "disabled")
    if value not in ("auto", "disabled"):
        raise RequestRefused("'truncation' must be auto or disabled", param="truncation")
    return value


def _head(body: Body, ask: Ask, asked: str) -> dict[str, Any]:
    """The response object before anything was answered. Fields of the request are repeated as they came."""
    options = ask.options
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.raw("instructions"),
        "max_output_tokens": body.raw("max_output_tokens"),
        "max_tool_calls": None,
        "model": asked,
        "output": [],
        "parallel_tool_calls": body.flag("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": body.object("reasoning").get("effort"), "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": options.temperature,
        "text": {"format": {"type": "text"}} | body.object("text"),
        "tool_choice": body.raw("tool_choice") or "auto",
        "tools": [{"parameters": None, "strict": None} | tool for tool in body.array("tools", dict, "responses.Tool")],
        "top_logprobs": ask.top_logprobs,
        "top_p": options.top_p,
        "truncation": _truncation(body),
        "metadata": body.object("metadata"),
    } | ({"user": user} if (user := body.text("user")) else {})


class _Dialect:
    """Early errors are OpenAI's; a late one ends the stream of this output as its own event."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def early(self, failure: Failure) -> bytes:
        return OPENAI.early(failure)

    def late(self, failure: Failure) -> bytes:
        return self._output.failed(failure.text)


async def _stream(server: Server, ask: Ask, output: Output) -> Chunks:
    async with running(server, ask) as run:
        output.model, output.top = run.model, ask.top_logprobs
        head = output.created()
        async for event in run.events:
            if isinstance(event, Finish):
                yield head + _ended(run, event, output)
                continue
            chunk = head + output.add(event)
            head = b""
            if chunk:
                yield chunk


async def _once(server: Server, ask: Ask, output: Output) -> Chunks:
    async with running(server, ask) as run:
        output.model, output.top = run.model, ask.top_logprobs
        async for event in run.events:
            if isinstance(event, Finish):
                _ended(run, event, output)
                yield dump(output.response)
            else:
                output.add(event)


def _ended(run: Run, event: Finish, output: Output) -> bytes:
    finish = ended(event)
    return output.finished(finish, notes(run))
