"""The server's door: every route of all three APIs on one Starlette application.

`create_app` opens no socket and touches no file. Refuses what gin refuses, in gin's words: unknown paths (404), known
paths with another verb (405); a trailing slash is a redirect. FastAPI, which is built on Starlette, describes these
routes (`description/`) and answers none: its checks are not those of the APIs that are spoken. There is no page of
documentation: FastAPI's would load scripts from the internet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route

from manifests.store import Store
from runtime.api import embedding, native, status_routes, store_routes, tokenizing, transfer_routes
from runtime.api.anthropic import messages
from runtime.api.anthropic.messages import ANTHROPIC
from runtime.api.gate import Gate, permit
from runtime.api.guard import Guard
from runtime.api.observing import Observed
from runtime.api.openai import chat, completions, models, responses
from runtime.api.openai.wire import OPENAI
from runtime.api.state import Server, Transfers
from runtime.api.transport import NATIVE, Dialect, error_response
from runtime.card import CardBox
from runtime.manager import Manager
from runtime.metrics import Metrics
from runtime.told import Settings

if TYPE_CHECKING:
    from runtime.access.access import Access

Endpoint = Callable[[Request], Awaitable[Response]]

NOT_BUILT = (
    "/v1/audio/transcriptions",
    "/v1/systemone",
)
# Those that are asked most stand first: the router tries one after the other.
ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/api/generate", native.generate),
    ("POST", "/api/chat", native.chat),
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("POST", "/v1/completions", completions.completions),
    ("POST", "/v1/responses", responses.responses),
    ("POST", "/v1/messages", messages.messages),
    ("GET HEAD", "/", status_routes.root),
    ("GET HEAD", "/health", status_routes.health),
    ("GET", "/metrics", status_routes.metrics),
    ("GET", "/openapi.json", status_routes.description),
    ("GET HEAD", "/api/version", status_routes.version),
    ("GET", "/api/status", status_routes.cloud),
    ("GET", "/api/ps", status_routes.ps),
    ("GET HEAD", "/api/tags", store_routes.tags),
    ("POST", "/api/show", store_routes.show),
    ("POST", "/api/embed", embedding.embed),
    ("POST", "/api/embeddings", embedding.embeddings),
    ("POST", "/api/copy", store_routes.copy),
    ("DELETE", "/api/delete", store_routes.delete),
    ("POST", "/api/create", store_routes.create_model),
    ("HEAD", "/api/blobs/{digest}", store_routes.blob_exists),
    ("POST", "/api/blobs/{digest}", store_routes.blob_upload),
    ("POST", "/api/me", status_routes.account),
    ("POST", "/api/signout", status_routes.account),
    ("DELETE", "/api/user/keys/{key}", status_routes.account),
    ("POST", "/api/experimental/web_search", status_routes.web_tool),
    ("POST", "/api/experimental/web_fetch", status_routes.web_tool),
    ("GET", "/api/experimental/model-recommendations", status_routes.recommendations),
    ("POST", "/api/pull", transfer_routes.pull),
    ("POST", "/api/push", transfer_routes.push),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{model:path}", models.one_model),
    ("POST", "/v1/embeddings", embedding.openai_embeddings),
    ("POST", "/v1/messages/count_tokens", messages.count_tokens),
    ("POST", "/api/tokenize", tokenizing.tokenize),
    ("POST", "/api/detokenize", tokenizing.detokenize),
    # known to clients and refused by name, so that nobody takes a 404 for a wrong address
    *(("POST", path, status_routes.not_built) for path in NOT_BUILT),
)


def create_app(
    store: Store, manager: Manager, *, transfers: Transfers | None = None, settings: Settings | None = None,
    access: Access | None = None, metrics: Metrics | None = None,
) -> Starlette:  # fmt: skip
    """`transfers` None: the server opens no outbound connection. `access` None: it asks nobody who they are."""
    server = Server(
        store=store, box=CardBox(store), manager=manager, transfers=transfers, settings=settings or Settings(),
        access=access, metrics=metrics or Metrics(),
    )  # fmt: skip
    return app_of(server)


def app_of(server: Server) -> Starlette:
    """The manager is closed when the application ends."""
    settings = server.settings

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await server.manager.close()

    routes = [_route(server, path, methods.split(), endpoint) for methods, path, endpoint in ROUTES]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_here}, lifespan=lifespan)
    app.router.redirect_slashes = False  # its redirects are no gin's
    app.state.sealift = server
    # the innermost first: the last one sees a request first
    app.add_middleware(Gate, access=server.access, dialect_of=dialect_of)
    app.add_middleware(_Signed, version=settings.version)
    app.add_middleware(Guard, origins=settings.origins, listening_on=settings.listening_on)
    app.add_middleware(Observed, metrics=server.metrics, texts=settings.log_text)
    return app


def dialect_of(path: str) -> Dialect:
    """How errors are worded for a path."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OPENAI if path.startswith("/v1/") else NATIVE


def _route(server: Server, path: str, methods: list[str], endpoint: Endpoint) -> Route:
    """Errors become this API's answers here, so that none reaches the framework's own handlers."""
    dialect = dialect_of(path)

    async def guarded(request: Request) -> Response:
        try:
            permit(request, path, access=server.access, read_only=server.settings.read_only)
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return error_response(error, dialect)

    route = Route(path, guarded, methods=methods)
    route.methods = set(methods)  # starlette adds HEAD to GET; the contract says where there is one
    return route


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404 and path.endswith("/") and _known(request, path.rstrip("/")):
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(path.rstrip("/") + query, status_code=301 if request.method == "GET" else 307)
    text = {404: "404 page not found", 405: "405 method not allowed"}.get(error.status_code, str(error.detail))
    return PlainTextResponse(text, status_code=error.status_code, headers=error.headers)


def _known(request: Request, path: str) -> bool:
    scope: dict[str, Any] = {**request.scope, "path": path}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


class _Signed:
    """Names the program that answers; /api/version must speak as Ollama does."""

    def __init__(self, app: Any, *, version: str) -> None:
        self._app, self._headers = app, [(b"server", f"sealift/{version}".encode())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
