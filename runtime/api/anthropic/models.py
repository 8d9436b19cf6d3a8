"""Anthropic's form of /v1/models and /v1/models/{model}: for who sends `anthropic-version`, in pages, newest first.

Refuses a page that begins nowhere, and a `limit` that is none. What a store does not know of a model is null.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from runtime.api.durations import rfc3339
from runtime.api.openai.models import every_model, model_named
from runtime.api.state import server_of
from runtime.api.transport import json_response
from runtime.errors import RequestRefused

PAGE, MAX_PAGE = 20, 1000  # models, as in Anthropic's service
HEADER = b"anthropic-version"

Model = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]  # of an ASGI scope


def asked_by(headers: Headers) -> bool:
    """Whether whoever asks speaks Anthropic's API: both APIs have the path."""
    return any(name.lower() == HEADER for name, _ in headers)


async def list_models(request: Request) -> Response:
    found = await asyncio.to_thread(every_model, server_of(request))
    return json_response(_page([_model(entry) for entry in found], request.query_params))


async def one_model(request: Request) -> Response:
    return json_response(_model(await asyncio.to_thread(model_named, server_of(request), request.path_params["model"])))


def _model(entry: Model) -> Model:
    """From OpenAI's form."""
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": rfc3339(entry["created"] * 1_000_000_000, utc=True),
        "lifecycle": "active",
        "max_input_tokens": None,
        "max_tokens": None,
    }


def _page(models: Sequence[Model], query: QueryParams) -> Model:
    """`after_id`: what follows that model; else `before_id`: what comes before it, up to it."""
    limit, after, before = _limit(query.get("limit", "")), query.get("after_id"), query.get("before_id")
    if after:
        rest = models[_place(models, "after_id", after) + 1 :]
        page, more = rest[:limit], len(rest) > limit
    elif before:
        rest = models[: _place(models, "before_id", before)]
        page, more = rest[-limit:], len(rest) > limit
    else:
        page, more = models[:limit], len(models) > limit
    ids = [model["id"] for model in page]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return {"data": list(page), "has_more": more, **ends}


def _limit(text: str) -> int:
    if not text:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_PAGE):
        raise RequestRefused(f"'limit' must be from 1 to {MAX_PAGE}, found {text[:40]!r}", param="limit")
    return int(text)


def _place(models: Sequence[Model], key: str, asked: str) -> int:
    for place, model in enumerate(models):
        if model["id"] == asked:
            return place
    raise RequestRefused(f"'{key}' names {asked[:80]!r}, which is not in the list", param=key)
