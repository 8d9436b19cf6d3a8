"""The real HTTP server on a loopback port, for real clients; behind it a scripted model or the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from manifests.store import Store
from runtime.address import Address
from runtime.api.app import create_app
from runtime.manager import Manager
from runtime.serving import Http, Lend
from runtime.starting import bind
from tests.peers.scripted import Script, scripted_manager


class Live:
    """`manager` and `loop` are to be looked at only; they belong to the server's thread."""

    def __init__(self, store: Store, script: Script | None, **options: Any) -> None:
        self._listener = bind(Address(scheme="http", host="127.0.0.1", port=0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.manager: Manager | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._store, self._script, self._options = store, script, options
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60)

    def stop(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(60)
        self._listener.close()
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.manager = scripted_manager(self._script) if self._script else Manager()
        app = create_app(self._store, self.manager, **self._options)
        config = uvicorn.Config(
            Lend(app), http=Http, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server.serve(sockets=[self._listener])


@contextlib.contextmanager
def live(store: Store, script: Script | None = None, **options: Any) -> Iterator[Live]:
    """Without a script, models are really loaded: native engine, worker process and all. `options`: create_app's."""
    server = Live(store, script, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
