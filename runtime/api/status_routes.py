"""Routes that say how and what the server is: /, /health, /metrics, /openapi.json, /api/version, /api/status, /api/ps.
None of them waits for a model."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from manifests.errors import ManifestsError
from manifests.name import ModelName
from runtime.access.visible import VisibleStore
from runtime.api.durations import rfc3339
from runtime.api.names import NO_CLOUD
from runtime.api.state import Server, server_of
from runtime.api.transport import JSON, json_response
from runtime.errors import Forbidden, RequestRefused, RuntimeFailure, Unavailable
from runtime.manager import Loaded
from runtime.source import OLLAMA_API

FOREVER = timedelta(days=365 * 200)  # what a model that never leaves is said to have left


async def root(request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def health(request: Request) -> Response:
    return json_response({"status": "ok"})


async def version(request: Request) -> Response:
    return json_response({"version": OLLAMA_API})


async def cloud(request: Request) -> Response:
    return json_response({"cloud": {"disabled": True, "source": "config"}})


async def not_built(request: Request) -> Response:
    raise RequestRefused(f"{request.url.path} is not supported by this server", http_status=501)


async def account(request: Request) -> Response:
    """Accounts are ollama.com's, and nothing here reaches it."""
    raise Unavailable("account unavailable", hint="this server opens no outbound connections")


async def web_tool(request: Request) -> Response:
    tool = request.url.path.rpartition("_")[2]
    raise Forbidden(f"{NO_CLOUD}web {tool} is unavailable")


async def recommendations(request: Request) -> Response:
    """Ollama's come from ollama.com; an empty list is a list its clients can show."""
    return json_response({"recommendations": []})


async def ps(request: Request) -> Response:
    server = server_of(request)
    loaded = [model for model in server.manager.loaded() if _visible(server, model.name)]
    lines = await asyncio.to_thread(lambda: [_line(server, model) for model in loaded])
    return json_response({"models": lines})


def _visible(server: Server, name: str) -> bool:
    """A model that was removed from the store while it is loaded is shown; one that a key may not use is not."""
    return not isinstance(server.store, VisibleStore) or server.store.allows(ModelName.parse(name))


async def metrics(request: Request) -> Response:
    """Prometheus' text form, or OpenMetrics where the client asks for it."""
    from prometheus_client.exposition import choose_encoder

    from runtime.metrics_page import registry

    server = server_of(request)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry(server.metrics, server.manager)), media_type=media_type)


async def description(request: Request) -> Response:
    """OpenAPI 3.1, for those who cannot look it up elsewhere."""
    page = await asyncio.to_thread(_description, server_of(request).settings.version)
    return Response(page, media_type=JSON)


def _description(version: str) -> str:
    """FastAPI is imported by the first who asks: it takes longer than all else that a start waits for."""
    from runtime.api.description.document import page

    return page(version=version)


def _line(server: Server, model: Loaded) -> dict[str, Any]:
    """`size` is memory in use. A model whose name went, or became another's, while it is loaded has no details any
    more: the digest says what runs."""
    expires = model.expires_at or datetime.now(timezone.utc) + FOREVER
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": _details(server, model),
        "expires_at": rfc3339(round(expires.timestamp() * 1_000_000) * 1000),
        "size_vram": 0,
        "context_length": model.n_ctx,
    }


def _details(server: Server, model: Loaded) -> dict[str, Any]:
    with contextlib.suppress(ManifestsError, RuntimeFailure):
        card = server.box.card(ModelName.parse(model.name))
        if card.manifest.digest.hex == model.digest:
            return card.details
    unknown = dict.fromkeys(("parent_model", "family", "parameter_size", "quantization_level"), "")
    return {**unknown, "format": "gguf", "families": []}
