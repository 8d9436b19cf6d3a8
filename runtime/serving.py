"""Runs the server: settings, the socket, uvicorn, and an orderly end.

On SIGTERM or SIGINT: the manager closes, which ends every model and gives each stream still open its error line; then
uvicorn takes no new connections and leaves. Refuses an address that is taken, or not ours, before anything is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from manifests.digest import Digest
from manifests.home import own_version, setting
from manifests.store import Store
from runtime.address import Address
from runtime.api.app import create_app
from runtime.api.durations import SECOND, keep_alive_setting
from runtime.api.guard import is_loopback, parse_origins
from runtime.api.state import Settings, Transfers
from runtime.engine.spawn import Spare
from runtime.errors import AddressRefused, RequestRefused
from runtime.loaded import load_model
from runtime.manager import Manager
from runtime.packs import Packs

GRACE_S = 3  # seconds an open connection may take to finish after a signal
HEAD_S = 60  # seconds a new connection has for its first request's head
KEEP_OPEN_S = 75  # seconds an idle connection is kept; longer than common clients' and proxies' 60
BACKLOG = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """What `sealift serve` was told, every default filled in. Times in seconds, negative for ever."""

    address: Address
    keep_alive: float
    load_timeout: float
    max_loaded: int
    max_queue: int
    settings: Settings


def number_setting(name: str, default: int) -> int:
    """A whole number of 0 or more. Unlike Ollama, a bad one is refused and not passed over."""
    text = setting(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestRefused(f"SEALIFT_{name} (or OLLAMA_{name}): expected a whole number, found {text[:40]!r}")
    return int(text)


def seconds_setting(name: str, default: str) -> float:
    """`5m`, `300`; negative: for ever."""
    try:
        nanoseconds = keep_alive_setting(setting(name, default))
    except RequestRefused as error:
        raise RequestRefused(f"SEALIFT_{name} (or OLLAMA_{name}): {error}", hint="write 5m, 300 or -1") from None
    return -1.0 if nanoseconds < 0 else nanoseconds / SECOND


def resolve(
    address: Address, *, threads: int, parallel: int | None, context_length: int | None, keep_alive: str | None,
    max_queue: int | None, max_loaded: int | None,
) -> Serve:  # fmt: skip
    """Flags before environment before defaults."""
    if address.scheme != "http":
        raise RequestRefused(
            f"{address.url}: this server does not speak TLS", hint="put a reverse proxy in front of it"
        )
    seconds = seconds_setting("KEEP_ALIVE", "5m")
    if keep_alive is not None:
        nanoseconds = keep_alive_setting(keep_alive)
        seconds = -1.0 if nanoseconds < 0 else nanoseconds / SECOND
    settings = Settings(
        listening_on=address.host,
        origins=parse_origins(setting("ORIGINS")),
        context_length=number_setting("CONTEXT_LENGTH", 0) if context_length is None else context_length,
        threads=threads or number_setting("NUM_THREADS", 0),
        parallel=max(0, number_setting("NUM_PARALLEL", 0) if parallel is None else parallel),
        version=own_version(),
    )
    return Serve(
        address=address,
        keep_alive=seconds,
        load_timeout=seconds_setting("LOAD_TIMEOUT", "5m"),
        max_loaded=number_setting("MAX_LOADED_MODELS", 0) if max_loaded is None else max_loaded,
        max_queue=number_setting("MAX_QUEUE", 512) if max_queue is None else max_queue,
        settings=settings,
    )


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
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="sealift: %(message)s")
    with bind(told.address) as listener:
        asyncio.run(_serve(store, told, listener, transfers=transfers, say=say, spare=spare))


async def _serve(
    store: Store, told: Serve, listener: socket.socket, *, transfers: Transfers | None, say: Callable[[str], None],
    spare: Spare | None,
) -> None:  # fmt: skip
    packs = Packs(store)
    manager = Manager(
        keep_alive=told.keep_alive,
        max_loaded=told.max_loaded,
        max_queue=told.max_queue,
        load_timeout=told.load_timeout,
        load=functools.partial(load_model, spare=spare),
        prepare=lambda source: packs.prepare_quietly(Digest.parse(source.weights)),
    )
    app = create_app(store, manager, transfers=transfers, settings=told.settings)
    config = uvicorn.Config(
        app, http=Http, log_config=None, access_log=False, server_header=False, ws="none", lifespan="on",
        timeout_keep_alive=KEEP_OPEN_S, timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    where = listener.getsockname()
    say(f"listening on {replace(told.address, port=where[1]).url}, models in {store.root}")
    if not is_loopback(told.address.host):
        say("hint: other machines can reach this server, and it asks nobody who they are")
    await _Server(config, manager, packs).serve(sockets=[listener])


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


class _Server(uvicorn.Server):
    """Uvicorn waits for answers under way before it tells the application to end; here the models are told first, so
    that no answer is waited for. A signal that ended us is not raised again: ending was what it asked for."""

    def __init__(self, config: uvicorn.Config, manager: Manager, packs: Packs) -> None:
        super().__init__(config)
        self._manager = manager
        self._packs = packs

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._packs.close()
        await self._manager.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
