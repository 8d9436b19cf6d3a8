"""Runs the server: the socket, uvicorn, and an orderly end.

On SIGTERM or SIGINT: the manager closes, which ends every model and gives each stream still open its error line; then
uvicorn takes no new connections and leaves. On SIGHUP: keys and certificate are read again. Refuses, before anything is
loaded, an address that is taken or not ours, and to ask for keys that are not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from manifests.digest import Digest
from manifests.store import Store
from runtime import logs
from runtime.access.access import Access
from runtime.address import Address
from runtime.api.app import create_app
from runtime.api.asking import Choice, find_model, source_of
from runtime.api.gate import PEER
from runtime.api.guard import is_loopback
from runtime.api.state import Server, Transfers
from runtime.api.transport import DIRECT
from runtime.engine.spawn import Spare
from runtime.errors import AddressRefused, RequestRefused, RuntimeFailure
from runtime.loaded import ModelSource, load_model
from runtime.manager import Manager
from runtime.metrics import Metrics
from runtime.options import merge
from runtime.packs import Packs
from runtime.telemetry import Spans
from runtime.tls import load_certificate, peer_of, server_context
from runtime.told import Serve

log = logging.getLogger("sealift.serving")

GRACE_S = 3  # seconds an open connection may take to finish after a signal
HEAD_S = 60  # seconds a new connection has for its first request's head
KEEP_OPEN_S = 75  # seconds an idle connection is kept; longer than common clients' and proxies' 60
BACKLOG = 2048


def bind(address: Address) -> socket.socket:
    """A listening socket, or AddressRefused with what to do."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressRefused(f"cannot listen on {address.url}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        hint = "set SEALIFT_HOST or --host and --port"
        if error.errno == errno.EADDRINUSE:
            hint = f"is a server running already? if not, {hint}"
            raise AddressRefused(f"cannot listen on {address.url}: the port is in use", hint=hint) from None
        raise AddressRefused(f"cannot listen on {address.url}: {error.strerror}", hint=hint) from None
    return listener


def serve(
    store: Store, told: Serve, *, transfers: Transfers | None, say: Callable[[str], None], spare: Spare | None = None
) -> None:
    """Until a signal."""
    logs.set_up(told.log_format, told.log_level)
    gc.freeze()  # what was imported stays: looking at it again would stop every request for 50 ms now and then
    say = logs.sayer(told.log_format, say)
    with bind(told.address) as listener:
        asyncio.run(_serve(store, told, listener, transfers=transfers, say=say, spare=spare))


async def _serve(
    store: Store, told: Serve, listener: socket.socket, *, transfers: Transfers | None, say: Callable[[str], None],
    spare: Spare | None,
) -> None:  # fmt: skip
    packs, metrics = Packs(store), Metrics()
    access = keys_of(told)
    spans = Spans(told.otel_endpoint, version=told.settings.version) if told.otel_endpoint else None
    metrics.on_end = spans
    manager = Manager(
        keep_alive=told.keep_alive,
        max_loaded=told.max_loaded,
        max_queue=told.max_queue,
        load_timeout=told.load_timeout,
        load=metrics.timed(functools.partial(load_model, spare=spare)),
        # a pack is written beside the store: a server that writes nothing there uses those that are there
        prepare=None if told.settings.read_only else lambda one: packs.prepare_quietly(Digest.parse(one.weights)),
    )
    app = create_app(store, manager, transfers=transfers, settings=told.settings, access=access, metrics=metrics)
    config = uvicorn.Config(
        Lend(app), http=Http, log_config=None, access_log=False, server_header=False, ws="none", lifespan="on",
        timeout_keep_alive=KEEP_OPEN_S, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    config.load()
    first = await asyncio.to_thread(_sources, app.state.sealift, told.load)
    if told.tls is not None:
        config.ssl = server_context(told.tls)
    where = listener.getsockname()
    say(f"listening on {replace(told.address, port=where[1]).url}, models in {store.root}")
    _say_how_open(told, access, say)
    loading = [asyncio.create_task(_load(manager, source)) for source in first]

    def again() -> None:
        if access is not None:
            access.reload()
        if told.tls is not None and config.ssl is not None:
            _certificate_again(config.ssl, told)

    try:
        await _Server(config, manager, packs, again).serve(sockets=[listener])
    finally:
        await asyncio.gather(*loading, return_exceptions=True)
        if spans is not None:
            await asyncio.to_thread(spans.close)


def _sources(server: Server, names: Sequence[str]) -> list[ModelSource]:
    """Raises ModelNotFound, or what is wrong with a model."""
    found = [find_model(server, name) for name in names]
    return [source_of(server, Choice(name, card, merge(card.params, {}))) for name, card in found]


async def _load(manager: Manager, source: ModelSource) -> None:
    """As the first request for it would. The server stays where it cannot be: others may be loaded."""
    try:
        async with manager.use(source):
            log.info("%s is loaded", source.name)
    except RuntimeFailure as error:
        log.error("%s could not be loaded: %s", source.name, error)


def keys_of(told: Serve) -> Access | None:
    """Raises RequestRefused where keys are asked for and there are none, or their file is damaged."""
    if told.keys is None:
        return None
    access = Access(told.keys)
    if not access.entries:
        why = "other machines can reach this server" if not is_loopback(told.address.host) else "--auth was given"
        hint = "sealift access add NAME makes one; --no-auth lets everybody ask"
        raise RequestRefused(f"{why}, and there are no keys in {told.keys}", hint=hint)
    return access


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
    (gate.PEER)."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            tls = cycle.transport.get_extra_info("ssl_object")
            if tls is not None:
                scope[PEER] = functools.partial(peer_of, tls)
            if scope["http_version"] == "1.1" and scope["method"] != "HEAD":
                scope["extensions"] = {**scope.get("extensions", {}), DIRECT: _Body(cycle).write}
        await self._app(scope, receive, send)


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
