"""The server that runtime.starting began, made whole and run: uvicorn, and an orderly end.

On SIGTERM or SIGINT: the manager closes, which ends every model and gives each stream still open its error line; then
uvicorn takes no new connections and leaves. On SIGHUP: keys and certificate are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from manifests.digest import Digest
from runtime.address import is_loopback
from runtime.api.app import app_of
from runtime.api.gate import PEER
from runtime.api.state import Server
from runtime.api.transport import DIRECT
from runtime.card import ModelCard
from runtime.errors import RequestRefused, RuntimeFailure
from runtime.loaded import load_model
from runtime.manager import Manager
from runtime.metrics import Metrics
from runtime.packs import Packs
from runtime.source import ModelSource
from runtime.starting import Start
from runtime.told import Serve

if TYPE_CHECKING:
    from runtime.access.access import Access
    from runtime.telemetry import Spans

log = logging.getLogger("sealift.serving")

GRACE_S = 3  # seconds an open connection may take to finish after a signal
AT_LEISURE_S = 1  # after a load
HEAD_S = 60  # seconds a new connection has for its first request's head
KEEP_OPEN_S = 75  # seconds an idle connection is kept; longer than common clients' and proxies' 60


def run(start: Start, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Until a signal."""
    packs = Packs(start.store)
    asyncio.run(_serve(start, _server(start, packs), listener, packs=packs, say=say))


def _server(start: Start, packs: Packs) -> Server:
    told, metrics = start.told, Metrics()
    manager = Manager(
        keep_alive=told.keep_alive,
        max_loaded=told.max_loaded,
        max_queue=told.max_queue,
        load_timeout=told.load_timeout,
        load=metrics.timed(functools.partial(load_model, spare=start.spare)),
        # a pack is written beside the store: a server that writes nothing there uses those that are there
        prepare=None if told.settings.read_only else lambda one: packs.prepare_quietly(Digest.parse(one.weights)),
    )
    return Server(
        store=start.store, box=start.box, manager=manager, transfers=start.transfers, settings=told.settings,
        access=start.access, metrics=metrics,
    )  # fmt: skip


async def _serve(
    start: Start, server: Server, listener: socket.socket, *, packs: Packs, say: Callable[[str], None]
) -> None:
    told, manager = start.told, server.manager
    spans = _spans(told) if told.otel_endpoint else None
    server.metrics.on_end = spans
    config = uvicorn.Config(
        Lend(app_of(server)), http=Http, log_config=None, access_log=False, server_header=False, ws="none",
        lifespan="on", timeout_keep_alive=KEEP_OPEN_S, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    config.load()
    if told.tls is not None:
        from runtime.tls import server_context

        config.ssl = server_context(told.tls)
    gc.freeze()  # what is here stays: the collector need not walk over it between two tokens
    where = listener.getsockname()
    say(f"listening on {replace(told.address, port=where[1]).url}, models in {server.store.root}")
    _say_how_open(told, server.access, say)
    loading = [asyncio.create_task(_load(manager, source, card)) for card, source in start.first]

    def again() -> None:
        if server.access is not None:
            server.access.reload()
        if told.tls is not None and config.ssl is not None:
            _certificate_again(config.ssl, told)

    try:
        await _Server(config, manager, packs, again).serve(sockets=[listener])
    finally:
        for one in loading:
            one.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        if spans is not None:
            await asyncio.to_thread(spans.close)


def _spans(told: Serve) -> Spans:
    from runtime.telemetry import Spans

    return Spans(told.otel_endpoint, version=told.settings.version)


async def _load(manager: Manager, source: ModelSource, card: ModelCard) -> None:
    """As the first request for it would. The server stays where it cannot be: others may be loaded. Its template is
    parsed when nobody is in a hurry any more; whoever needs it at once parses it."""
    try:
        async with manager.use(source):
            log.info("%s is loaded", source.name)
    except RuntimeFailure as error:
        log.error("%s could not be loaded: %s", source.name, error)
        return
    await asyncio.sleep(AT_LEISURE_S)
    await asyncio.to_thread(getattr, card, "capabilities")


def _say_how_open(told: Serve, access: Access | None, say: Callable[[str], None]) -> None:
    if access is not None:
        say(f"asks for keys: {len(access.entries)} in {access.path}")
    elif not is_loopback(told.address.host) and (told.tls is None or told.tls.client_ca is None):
        say("hint: other machines can reach this server, and it asks nobody who they are")
    if access is not None and told.tls is None and not is_loopback(told.address.host):
        say("hint: keys and texts cross the network as they are; --tls-cert and --tls-key encrypt them")
    if told.otel_endpoint:
        say(f"hint: opens connections to {told.otel_endpoint} for spans (--otel-endpoint), and no others")
    if told.settings.read_only:
        say("read-only: no request changes the store")
    if told.settings.log_text:
        say("hint: the log holds the text of every request and answer (--log-text)")


def _certificate_again(context: ssl.SSLContext, told: Serve) -> None:
    from runtime.tls import load_certificate

    assert told.tls is not None
    try:
        load_certificate(context, told.tls)
    except RequestRefused as error:
        log.error("the certificate stays as it was: %s", error)
        return
    log.info("certificate read from %s", told.tls.certificate)


class Http(H11Protocol):
    """One parser on every machine, whatever else is installed; and a connection that has not sent a whole request head
    in HEAD_S is closed: uvicorn lets it wait for ever, and descriptors are few."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        super().connection_lost(exc)

    def _too_slow(self) -> None:
        if getattr(self, "cycle", None) is None:  # no request has begun
            self.transport.abort()


class Lend:
    """ASGI middleware, outermost: lends streams their connection (transport.DIRECT), and says who is at its other end
    (gate.PEER). A target that a client wrote as for a proxy is read as one for a server."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            tls = cycle.transport.get_extra_info("ssl_object")
            if tls is not None:
                from runtime.tls import peer_of

                scope[PEER] = functools.partial(peer_of, tls)
            if scope["http_version"] == "1.1" and scope["method"] != "HEAD":
                scope["extensions"] = {**scope.get("extensions", {}), DIRECT: _Body(cycle).write}
        await self._app(scope if scope.get("path", "/").startswith("/") else _origin_form(scope), receive, send)


def _origin_form(scope: Any) -> Any:
    """`GET http://host/path` is `GET /path` of that host, whatever the Host header says (RFC 9112, 3.2.2)."""
    scheme, mark, rest = scope.get("raw_path", b"").partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return scope
    host, _, path = rest.partition(b"/")
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    raw = b"/" + path
    return {**scope, "raw_path": raw, "path": unquote(raw.decode("ascii")), "headers": [(b"host", host), *headers]}


class _Body:
    """Chunks of HTTP/1.1 (RFC 9112, 7.1) on the connection of one answer. The head and the end are uvicorn's: it counts
    no chunk between them, and chose this coding because the head names no length."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def write(self, chunk: bytes) -> bool:
        """A client that reads too slowly is left to `send`, which waits for it; an empty chunk would be the last."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_complete or not chunk:
            return False
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True


class _Server(uvicorn.Server):
    """Uvicorn waits for answers under way before it tells the application to end; here the models are told first, so
    that no answer is waited for. A signal that ended us is not raised again: ending was what it asked for."""

    def __init__(self, config: uvicorn.Config, manager: Manager, packs: Packs, again: Callable[[], None]) -> None:
        """`again`: what SIGHUP asks for."""
        super().__init__(config)
        self._manager = manager
        self._packs = packs
        self._again = again

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._packs.close()
        await self._manager.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._again)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
