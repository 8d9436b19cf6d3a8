"""OpenAI's routes: /v1/chat/completions, /v1/completions, /v1/models (contract, 1.11), and events as its SSE.

Where Ollama's layer is at fault this one does what OpenAI's documentation says: `max_completion_tokens`, `logit_bias`
and completions' `logprobs` are honoured, an error in mid-stream is told, and a Modelfile's temperature and top_p stand
when the request names none (otherwise 1.0, OpenAI's default). `options` and `keep_alive` are taken as in Ollama's own
API, so that num_ctx can be set.
Refused by name: tools (and the older functions), images, audio, web search, response_format other than text, n and
best_of above 1, echo.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from manifests.errors import NotFound
from manifests.name import ModelName
from runtime.api import names, prompts
from runtime.api.asking import (
    LEAST,
    MAX_TOP,
    THINK_LEVELS,
    Ask,
    Run,
    check_think,
    ended,
    find_model,
    keep_alive_of,
    logprob_entry,
    refuse_incapable,
    running,
    top_logprobs_of,
)
from runtime.api.gojson import Body, dump
from runtime.api.native import client_of
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.transport import JSON, SSE, Answer, Chunks, Failure, json_response
from runtime.card import ModelCard
from runtime.errors import CapabilityMissing, ModelNotFound, OptionRefused, RequestRefused
from runtime.events import Finish, TextDelta, TokenInfo, Usage
from runtime.loaded import LoadedModel
from runtime.options import Options, merge
from runtime.text.message import Message

MAX_PROMPTS = 64  # prompts of one /v1/completions request


_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class OpenAIDialect:
    def early(self, failure: Failure) -> bytes:
        kind = _ERROR_TYPES.get(failure.status, "api_error")
        return dump({"error": {"message": failure.text, "type": kind, "param": None, "code": None}})

    def late(self, failure: Failure) -> bytes:
        return b"data: " + self.early(failure) + b"\n\n"


OPENAI = OpenAIDialect()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all chunks of one answer share."""

    id: str
    object: str
    created: int
    model: str
    fingerprint: str
    usage: bool  # stream_options.include_usage

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        if usage is not None or self.usage:
            found["usage"] = usage
        return found


# -- chat


async def chat_completions(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "ChatCompletionRequest")
    asked = body.text("model").strip()
    messages = body.structs("messages", "Message")
    if not messages:
        raise RequestRefused("[] is too short - 'messages'")
    if not asked:
        raise RequestRefused("model is required")
    name, card = await asyncio.to_thread(find_model, server, asked)
    tools = bool(body.raw("tools")) and body.raw("tool_choice") != "none"
    tools = tools or (bool(body.raw("functions")) and body.raw("function_call") != "none")
    tools = tools or any(message.raw("tool_calls") or message.raw("function_call") for message in messages)
    refuse_incapable(name, card, "chat", asked, wanted={"tools": tools})
    said = [_message(name, message) for message in messages]
    _refuse_unbuilt(body)
    check_think(_effort(body), asked, card)
    options = _options(body, card)
    logprobs, top = body.flag("logprobs"), top_logprobs_of(body)
    ask = Ask(
        name=name,
        card=card,
        options=options,
        prompt=prompts.chat_maker(card, said, truncate=body.flag("truncate", True)),
        keep_alive=keep_alive_of(body),
        logprobs=logprobs,
        top_logprobs=top if logprobs else 0,
        logit_bias=_logit_bias(body),
        client=client_of(request),
    )
    if body.flag("stream"):
        frame = _frame(body, card, asked, "chatcmpl", "chat.completion.chunk")
        return Answer(_chat_stream(server, ask, frame), media_type=SSE, dialect=OPENAI)
    frame = _frame(body, card, asked, "chatcmpl", "chat.completion")
    return Answer(_chat_once(server, ask, frame), media_type=JSON, dialect=OPENAI, whole=True)


def _message(name: ModelName, message: Body) -> Message:
    role = message.text("role").lower()
    content = message.raw("content")
    if isinstance(content, list):
        content = "\n\n".join(_part(name, part) for part in content)
    elif content is not None and not isinstance(content, str):
        raise RequestRefused("invalid message format")
    role = "system" if role == "developer" else role
    return Message(
        role=role,
        content=content or "",
        thinking=message.text("reasoning"),
        tool_call_id=message.text("tool_call_id"),
    )


def _part(name: ModelName, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image_url":
        raise CapabilityMissing(f"{name.full} does not support vision")
    if kind == "input_audio":
        raise CapabilityMissing(f"{name.full} does not support audio")
    raise RequestRefused("invalid message format")


async def _chat_stream(server: Server, ask: Ask, frame: Frame) -> Chunks:
    role: dict[str, Any] = {"role": "assistant"}
    async with running(server, ask) as run:
        async for event in run.events:
            if isinstance(event, Finish):
                finish = ended(event)
                yield _event(frame.chunk([_delta(role, None, finish.reason)]) | _dropped(run))
                if frame.usage:
                    yield _event(frame.chunk([], _usage([finish.usage])))
                continue
            entries = _chat_logprobs(run, ask, event)
            if event.text or entries:
                yield _event(frame.chunk([_delta(role | {"content": event.text}, entries, None)]))
                role = {}
    yield b"data: [DONE]\n\n"


def _delta(delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


async def _chat_once(server: Server, ask: Ask, frame: Frame) -> Chunks:
    texts: list[str] = []
    entries: list[dict[str, Any]] = []
    async with running(server, ask) as run:
        async for event in run.events:
            if isinstance(event, TextDelta):
                texts.append(event.text)
                entries += (_chat_logprobs(run, ask, event) or {"content": []})["content"]
                continue
            finish = ended(event)
            message = {"role": "assistant", "content": "".join(texts), "refusal": None}
            logprobs = {"content": entries, "refusal": None} if ask.logprobs else None
            choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish.reason}
            yield dump(frame.chunk([choice], _usage([finish.usage])) | _dropped(run))


def _dropped(run: Run) -> dict[str, Any]:
    """Ours: how many of the oldest messages did not fit, so that they are not left out in silence."""
    return {"dropped_messages": len(run.prompt.dropped)} if run.prompt.dropped else {}


def _chat_logprobs(run: Run, ask: Ask, delta: TextDelta) -> dict[str, Any] | None:
    if not ask.logprobs or not delta.tokens:
        return None
    content = [logprob_entry(run.model, info, top=ask.top_logprobs, always=True) for info in delta.tokens]
    return {"content": content, "refusal": None}


# -- completions


async def completions(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "CompletionRequest")
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model '' not found", http_status=404)
    name, card = await asyncio.to_thread(find_model, server, asked)
    refuse_incapable(name, card, "generate", asked, wanted={"insert": bool(body.text("suffix"))})
    if body.flag("echo"):
        raise RequestRefused("'echo' is not supported by this server")
    _refuse_unbuilt(body)
    options = _options(body, card)
    top = _legacy_logprobs(body)
    bias = _logit_bias(body)
    asks = [
        Ask(
            name=name,
            card=card,
            options=options,
            prompt=prompts.completion_maker(card, question),
            keep_alive=keep_alive_of(body),
            logprobs=top is not None,
            top_logprobs=top or 0,
            logit_bias=bias,
            client=client_of(request),
        )
        for question in _questions(body)
    ]
    frame = _frame(body, card, asked, "cmpl", "text_completion")
    if body.flag("stream"):
        return Answer(_completion_stream(server, asks, frame), media_type=SSE, dialect=OPENAI)
    return Answer(_completion_once(server, asks, frame), media_type=JSON, dialect=OPENAI, whole=True)


def _questions(body: Body) -> list[prompts.Completion]:
    """A string goes through the model's template, as in Ollama; token ids are taken as they are."""
    value = body.raw("prompt")
    if value is None or value == "":
        raise RequestRefused("'prompt' is empty")
    values = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    if len(values) > MAX_PROMPTS:
        raise RequestRefused(f"'prompt' is a list of {len(values)}; at most {MAX_PROMPTS} are accepted")
    suffix = body.text("suffix")
    return [_question(item, suffix) for item in values]


def _question(value: Any, suffix: str) -> prompts.Completion:
    if isinstance(value, str) and value:
        return prompts.Completion(prompt=value, suffix=suffix)
    if isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value):
        return prompts.Completion(tokens=tuple(value))
    raise RequestRefused("'prompt' must be a string, a list of strings, a list of tokens or a list of lists of tokens")


def _legacy_logprobs(body: Body) -> int | None:
    """Completions' `logprobs` is a count. Some clients send chat's boolean: true is 0 alternatives."""
    value = body.raw("logprobs")
    if value is None or value is False:
        return None
    count = 0 if value is True else body.integer("logprobs")
    if not 0 <= count <= MAX_TOP:
        raise RequestRefused(f"logprobs must be between 0 and {MAX_TOP}")
    return count


async def _completion_stream(server: Server, asks: Sequence[Ask], frame: Frame) -> Chunks:
    usages: list[Usage] = []
    for index, ask in enumerate(asks):
        offset = 0
        async with running(server, ask) as run:
            async for event in run.events:
                if isinstance(event, Finish):
                    usages.append(ended(event).usage)
                    yield _event(frame.chunk([_text_choice(index, "", None, event.reason)]))
                    continue
                logprobs = _text_logprobs(run, ask, [event], offset)
                offset += len(event.text)
                if event.text or logprobs:
                    yield _event(frame.chunk([_text_choice(index, event.text, logprobs, None)]))
    if frame.usage:
        yield _event(frame.chunk([], _usage(usages)))
    yield b"data: [DONE]\n\n"


async def _completion_once(server: Server, asks: Sequence[Ask], frame: Frame) -> Chunks:
    choices: list[dict[str, Any]] = []
    usages: list[Usage] = []
    for index, ask in enumerate(asks):
        deltas: list[TextDelta] = []
        async with running(server, ask) as run:
            async for event in run.events:
                if isinstance(event, TextDelta):
                    deltas.append(event)
                    continue
                usages.append(ended(event).usage)
                text = "".join(delta.text for delta in deltas)
                choices.append(_text_choice(index, text, _text_logprobs(run, ask, deltas, 0), event.reason))
    yield dump(frame.chunk(choices, _usage(usages)))


def _text_choice(index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _text_logprobs(run: Run, ask: Ask, deltas: Sequence[TextDelta], offset: int) -> dict[str, Any] | None:
    """`text_offset` counts characters of the answer."""
    infos = [info for delta in deltas for info in delta.tokens]
    if not ask.logprobs or not infos:
        return None
    texts = [_text_of(run.model, info.id) for info in infos]
    starts = []
    for text in texts:
        starts.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [max(info.logprob, LEAST) for info in infos],
        "top_logprobs": [_top_texts(run.model, info, ask.top_logprobs) for info in infos] if ask.top_logprobs else None,
        "text_offset": starts,
    }


def _top_texts(model: LoadedModel, info: TokenInfo, top: int) -> dict[str, float]:
    return {_text_of(model, other.id): max(other.logprob, LEAST) for other in info.top[:top]}


def _text_of(model: LoadedModel, token: int) -> str:
    return model.tokenizer.token_bytes(token).decode("utf-8", "replace")


# -- fields both share


def _options(body: Body, card: ModelCard) -> Options:
    asked: dict[str, Any] = {}
    for name in ("seed", "temperature", "top_p", "frequency_penalty", "presence_penalty"):
        if body.has(name):
            asked[name] = body.raw(name)
    limit = "max_completion_tokens" if body.has("max_completion_tokens") else "max_tokens"
    if body.has(limit):
        asked["num_predict"] = body.raw(limit)
        if isinstance(asked["num_predict"], int) and asked["num_predict"] < 0:
            raise RequestRefused(f"'{limit}' must be 0 or more, found {asked['num_predict']}")
    stop = body.raw("stop")
    if stop is not None:
        asked["stop"] = [item for item in (stop if isinstance(stop, list) else [stop]) if isinstance(item, str)]
    try:
        return merge({"temperature": 1.0, "top_p": 1.0}, card.params, body.object("options"), asked)
    except OptionRefused as error:
        raise OptionRefused(str(error), http_status=400) from None  # OpenAI's clients retry a 500


def _logit_bias(body: Body) -> dict[int, float]:
    found: dict[int, float] = {}
    for key, value in body.object("logit_bias").items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and -100 <= value <= 100
        if not (key.isascii() and key.isdigit() and len(key) < 10 and number):
            raise RequestRefused("'logit_bias' must map token ids to numbers from -100 to 100")
        found[int(key)] = float(value)
    return found


def _refuse_unbuilt(body: Body) -> None:
    for key in ("n", "best_of"):
        if body.has(key) and body.integer(key) != 1:
            raise RequestRefused(f"'{key}' must be 1: this server gives one answer to a request")
    for key in ("audio", "web_search_options"):
        if body.has(key):
            raise RequestRefused(f"'{key}' is not supported by this server")
    if any(kind != "text" for kind in body.array("modalities", str, "string")):
        raise RequestRefused("'modalities' must be [\"text\"]: this server answers in text only")
    form = body.object("response_format").get("type", "text")
    if form != "text":
        raise CapabilityMissing(f"response_format {str(form)[:40]!r} is not supported by this server yet")


def _effort(body: Body) -> Any:
    """`reasoning_effort` or `reasoning.effort` as a native `think` value."""
    value = body.raw("reasoning_effort") or body.object("reasoning").get("effort")
    if value is None or value == "none":
        return None
    levels = {"minimal": "low", "xhigh": "max", "ultra": "max", **{level: level for level in THINK_LEVELS}}
    if not isinstance(value, str) or value not in levels:
        expected = 'must be "high", "medium", "low", "max", or "none"'
        raise RequestRefused(f"invalid reasoning value: {str(value)[:40]!r} ({expected})")
    return levels[value]


def _frame(body: Body, card: ModelCard, asked: str, prefix: str, kind: str) -> Frame:
    include = body.flag("stream") and body.object("stream_options").get("include_usage") is True
    return Frame(
        id=f"{prefix}-{secrets.token_hex(12)}",
        object=kind,
        created=int(time.time()),
        model=asked,
        fingerprint=f"fp_{card.manifest.digest.short}",
        usage=include,
    )


def _usage(usages: Sequence[Usage]) -> dict[str, Any]:
    prompt, answer = sum(usage.prompt_tokens for usage in usages), sum(usage.generated_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
    }


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + dump(chunk) + b"\n\n"


# -- models


async def list_models(request: Request) -> Response:
    server = server_of(request)
    return json_response({"object": "list", "data": await asyncio.to_thread(_models, server)})


def _models(server: Server) -> list[dict[str, Any]]:
    found = []
    for name in server.store.names():
        try:
            found.append(_model(server, name))
        except NotFound:
            continue  # removed since the names were read
    return sorted(found, key=lambda entry: (-entry["created"], entry["id"]))


def _model(server: Server, name: ModelName) -> dict[str, Any]:
    created = int(server.store.modified(name).timestamp())
    return {"id": name.short, "object": "model", "created": created, "owned_by": name.namespace}


async def one_model(request: Request) -> Response:
    return json_response(await asyncio.to_thread(_one, server_of(request), request.path_params["model"]))


def _one(server: Server, asked: str) -> dict[str, Any]:
    name = names.parse(asked, server.store)
    if name is None:
        raise RequestRefused("invalid model name")
    try:
        return _model(server, name)
    except NotFound:
        raise ModelNotFound(f"model '{name.short}' not found") from None
