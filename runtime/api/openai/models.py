"""/v1/models and /v1/models/{model}: names with slashes too."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from manifests.errors import NotFound
from manifests.name import ModelName
from runtime.api import names
from runtime.api.state import Server, server_of
from runtime.api.transport import json_response
from runtime.errors import ModelNotFound, RequestRefused


async def list_models(request: Request) -> Response:
    server = server_of(request)
    return json_response({"object": "list", "data": await asyncio.to_thread(every_model, server)})


def every_model(server: Server) -> list[dict[str, Any]]:
    """Newest first. Blocks on disk."""
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
    return json_response(await asyncio.to_thread(model_named, server_of(request), request.path_params["model"]))


def model_named(server: Server, asked: str) -> dict[str, Any]:
    """Raises RequestRefused, Forbidden or ModelNotFound. Blocks on disk."""
    name = names.parse(asked, server.store)
    if name is None:
        raise RequestRefused("invalid model name")
    try:
        return _model(server, name)
    except NotFound:
        raise ModelNotFound(f"model '{name.short}' not found") from None
