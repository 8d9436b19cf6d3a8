"""What OpenAI's answers are made of: errors, the frame that all chunks of an answer share, usage, events."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from typing import Any

from native.record import record
from runtime.api.asking import LEAST, Run, logprob_entry
from runtime.api.gojson import Body, dump
from runtime.api.transport import Failure
from runtime.card import ModelCard
from runtime.events import TokenInfo, Usage
from runtime.loaded import LoadedModel

DONE = b"data: [DONE]\n\n"

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class OpenAIDialect:
    """`{"error": {"message", "type", "param", "code"}}`, in a stream as its last event."""

    def early(self, failure: Failure) -> bytes:
        kind = _ERROR_TYPES.get(failure.status, "api_error")
        error = {"message": failure.text, "type": kind, "param": failure.param, "code": failure.code}
        return dump({"error": error})

    def late(self, failure: Failure) -> bytes:
        return b"data: " + self.early(failure) + b"\n\n"


OPENAI = OpenAIDialect()


@record(frozen=True, slots=True, kw_only=True)
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


def frame_of(body: Body, card: ModelCard, asked: str, prefix: str, kind: str) -> Frame:
    """Unknown keys of stream_options are passed over: load generators send some."""
    include = body.flag("stream") and body.object("stream_options").get("include_usage") is True
    return Frame(
        id=f"{prefix}-{secrets.token_hex(12)}",
        object=kind,
        created=int(time.time()),
        model=asked,
        fingerprint=f"fp_{card.manifest.digest.short}",
        usage=include,
    )


def usage_of(usages: Sequence[Usage], choices: int = 1) -> dict[str, Any]:
    """Of all answers, `choices` to a prompt: a prompt counts once, however many answers it has."""
    first = usages[::choices]
    prompt, answer = sum(usage.prompt_tokens for usage in first), sum(usage.generated_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in first)},
    }


def sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + dump(chunk) + b"\n\n"


def notes(run: Run) -> dict[str, Any]:
    """Ours: how many of the oldest messages did not fit, so that they are not left out in silence."""
    return {"dropped_messages": len(run.prompt.dropped)} if run.prompt.dropped else {}


# -- log probabilities


def chat_logprobs(model: LoadedModel, tokens: Sequence[TokenInfo], top: int) -> dict[str, Any]:
    return {"content": [logprob_entry(model, info, top=top, always=True) for info in tokens], "refusal": None}


def text_logprobs(
    model: LoadedModel, tokens: Sequence[TokenInfo | None], ids: Sequence[int], top: int, offset: int
) -> dict[str, Any]:
    """Completions' form. `ids`: the tokens, `tokens` what is known of each (nothing of a prompt's first one);
    `text_offset` counts characters from `offset`."""
    starts = []
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        starts.append(offset)
        offset += len(characters.decode(model.tokenizer.token_bytes(token)))
    return {
        "tokens": [_name(model, token) for token in ids],
        "token_logprobs": [max(info.logprob, LEAST) if info else None for info in tokens],
        "top_logprobs": [_top_names(model, info, top) if info else None for info in tokens] if top else None,
        "text_offset": starts,
    }


def _top_names(model: LoadedModel, info: TokenInfo, top: int) -> dict[str, float]:
    """Two tokens may have one text: the likelier one stands."""
    found: dict[str, float] = {}
    for other in info.top[:top]:
        found.setdefault(_name(model, other.id), max(other.logprob, LEAST))
    return found


def _name(model: LoadedModel, token: int) -> str:
    """A token's text, or as OpenAI has it its bytes, where they are no whole characters."""
    raw = model.tokenizer.token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
