"""/api/pull and /api/push. Transfers are injected (state.Transfers); without them this server opens no connection.

A pull of a model that is already in the store succeeds without any: clients pull before they run.
Failures after the first status line are lines in a 200 stream, as Ollama's clients expect (contract, 11.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from manifests.errors import ModelNameError
from manifests.name import ModelName
from runtime.api.gojson import Body
from runtime.api.state import NO_TRANSFERS, Report, Server, server_of
from runtime.api.store_routes import body_of, model_field, progress_answer
from runtime.api.transport import in_thread
from runtime.errors import Forbidden, RequestRefused


async def pull(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "PullRequest")
    name = await asyncio.to_thread(_name, server, model_field(body))
    insecure = body.flag("insecure")

    def work(report: Report) -> None:
        if server.transfers is not None:
            server.transfers.pull(name, insecure=insecure, report=report)
            return
        report({"status": "pulling manifest"})
        if not server.store.has(name):
            raise Forbidden(f"pull model manifest: {NO_TRANSFERS}", http_status=500)
        report({"status": "the model is in this server's store"})
        report({"status": "success"})

    return _answer(work, body)


async def push(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "PushRequest")
    asked = model_field(body)
    if not asked:
        raise RequestRefused("model is required")
    name = await asyncio.to_thread(_name, server, asked)
    insecure = body.flag("insecure")

    def work(report: Report) -> None:
        report({"status": "retrieving manifest"})
        if not server.store.has(name):
            report({"status": "couldn't retrieve manifest"})
        server.store.manifest(name)
        if server.transfers is None:
            raise Forbidden(f"push: {NO_TRANSFERS}", http_status=500)
        server.transfers.push(name, insecure=insecure, report=report)

    return _answer(work, body)


def _name(server: Server, asked: str) -> ModelName:
    try:
        return server.store.resolve(ModelName.parse(asked))
    except ModelNameError:
        raise RequestRefused("invalid model name") from None


def _answer(work: Callable[[Report], None], body: Body) -> Response:
    return progress_answer(in_thread(work), stream=body.flag("stream", True))
