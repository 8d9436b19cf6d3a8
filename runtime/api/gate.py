"""Keys and roles at the door: who asks (401), within their limits (429), for something they may (403).

`Gate` stands before the router, so that an unknown path without a key is a 401 too; behind the guard of origins, so
that a browser's preflight needs none. `permit` stands before each route, whose scope it knows. Open without a key: GET
and HEAD of / and /health. A server that asks for no keys (`access` None) ignores those that clients send.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.access import scopes
from runtime.api.observing import denied, record_now
from runtime.api.transport import JSON, Dialect, Failure
from runtime.errors import Forbidden, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from runtime.access.access import Access, Peer
    from runtime.access.entries import Entry

CALLER = "sealift.caller"  # in the scope: the Entry of who asks
PEER = "sealift.peer"  # in the scope: a callable that gives the Peer of a TLS connection, or None

READ_ONLY = "this server is read-only: models come and go on its host alone"


class Gate:
    """ASGI middleware. `dialect_of`: how errors are worded for a path."""

    def __init__(self, app: Any, *, access: Access | None, dialect_of: Callable[[str], Dialect]) -> None:
        self._app, self._access, self._dialect_of = app, access, dialect_of

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or self._access is None or scopes.is_open(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        with ExitStack() as places:
            try:
                entry = self._who(scope, self._access)
                places.enter_context(self._access.admitted(entry))
            except (Unauthorized, TooManyRequests) as error:
                answer = _refusal(error, self._dialect_of(scope["path"]))
                await answer(scope, receive, send)
                return
            await self._app({**scope, CALLER: entry}, receive, send)

    def _who(self, scope: Any, access: Access) -> Entry:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        peer: Peer | None = scope[PEER]() if PEER in scope else None
        entry = access.identify(headers.get(b"authorization", ""), headers.get(b"x-api-key", ""), peer)
        record = record_now()
        if record is not None:
            record.key, record.key_id = entry.name, entry.id
        return entry


def _refusal(error: Unauthorized | TooManyRequests, dialect: Dialect) -> Response:
    failure = Failure(error)
    if isinstance(error, Unauthorized):
        denied("key")
        headers = {"www-authenticate": 'Bearer realm="sealift"'}
    else:
        denied("limit")
        headers = {"retry-after": str(error.retry_after)}
    return Response(dialect.early(failure), status_code=failure.status, media_type=JSON, headers=headers)


def permit(request: Request, route: str, *, access: Access | None, read_only: bool) -> None:
    """Raises Forbidden unless whoever asks may use this route."""
    record = record_now()
    if record is not None:
        record.route = route
    needed = scopes.scope_of(route)
    entry = caller_of(request)
    if needed is not None and access is not None and (entry is None or needed not in entry.scopes):
        denied("scope")
        raise Forbidden(f"this key may not do this: it is not for {needed!r}")
    if needed == "admin" and read_only:
        denied("read-only")
        raise Forbidden(READ_ONLY)


def caller_of(request: Request) -> Entry | None:
    """None where the server asks nobody who they are."""
    entry: Entry | None = request.scope.get(CALLER)
    return entry
