"""Streams write their chunks to the connection itself (serving.Lend); whoever reads slowly or speaks HTTP/1.0 is served
the ordinary way. A real socket, and no model."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import uvicorn

from runtime import serving
from runtime.api.transport import DIRECT, NDJSON, Answer

COUNT, SIZE = 50, 100_000  # chunks and bytes of each: more than a socket holds that was told to hold SIZE


class App:
    """Streams `chunks`; counts what went directly. `told`: the connection was found full, or all was sent."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.direct = 0
        self.refused = 0
        self.told = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        lent = scope.get("extensions", {}).get(DIRECT)
        if lent is not None:

            def counted(chunk: bytes) -> bool:
                taken = bool(lent(chunk))
                self.direct += taken
                self.refused += not taken
                if not taken:
                    self.told.set()
                return taken

            scope["extensions"] = {DIRECT: counted}
        await Answer(self._stream(), media_type=NDJSON)(scope, receive, send)

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        for chunk in self.chunks:
            await asyncio.sleep(0)
            yield chunk
        self.told.set()


def fetch(app: App, request: bytes, *, late: bool = False) -> bytes:
    """Everything the server answers to one request; `late`: read once the app has `told`."""

    async def go() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SIZE)  # its connections inherit it
            config = uvicorn.Config(serving.Lend(app), http=serving.Http, log_config=None, lifespan="off", ws="none")
            server = uvicorn.Server(config)
            running = asyncio.ensure_future(server.serve(sockets=[listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1 << 14)
            writer.write(request)
            if late:
                await app.told.wait()
            data = await reader.read()
            writer.close()
            server.should_exit = True
            await running
            return data

    return asyncio.run(asyncio.wait_for(go(), 60))


def get(version: str) -> bytes:
    return f"GET / HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def dechunked(body: bytes) -> list[bytes]:
    found = []
    while True:
        head = re.match(rb"([0-9a-f]+)\r\n", body)
        assert head, body[:40]
        size = int(head[1], 16)
        found.append(body[head.end() : head.end() + size])
        body = body[head.end() + size :]
        assert body.startswith(b"\r\n")
        body = body[2:]
        if not size:
            assert not body
            return found[:-1]


def test_all_chunks_but_the_first_go_directly_and_read_as_chunks() -> None:
    app = App([b"one\n", b"two\n", b"", b"three\n"])
    head, _, body = fetch(app, get("1.1")).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert dechunked(body) == [b"one\n", b"two\n", b"three\n"]
    assert app.direct == 2 and app.refused == 1  # the empty chunk, which would have ended the body


def test_a_slow_reader_gets_every_byte_in_order() -> None:
    chunks = [b"%07d" % n * (SIZE // 7) + b"\n" for n in range(COUNT)]
    app = App(chunks)
    _, _, body = fetch(app, get("1.1"), late=True).partition(b"\r\n\r\n")
    assert b"".join(dechunked(body)) == b"".join(chunks)
    assert app.refused > 0, "the connection was full, and the chunks were piled up in memory"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a%20b?c", (b"elsewhere", "/a b", b"/a%20b", b"c")),
        (b"http://one.local:80/a%20b?c", (b"one.local:80", "/a b", b"/a%20b", b"c")),
        (b"HTTPS://one.local?c", (b"one.local", "/", b"/", b"c")),
        (b"ftp://one.local/a", (b"elsewhere", "ftp://one.local/a", b"ftp://one.local/a", b"")),
        (b"*", (b"elsewhere", "*", b"*", b"")),
    ],
)
def test_a_target_as_for_a_proxy_is_read_as_one_for_a_server(target: bytes, expected: Any) -> None:
    """RFC 9112, 3.2.2: "A server MUST ignore the received Host header field (if any) and instead replace it with the
    host information of the request-target": so that who checks hosts checks the one that was asked."""
    seen: list[Any] = []

    class Told(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            seen.append((*hosts, scope["path"], scope["raw_path"], scope["query_string"]))
            await super().__call__(scope, receive, send)

    fetch(Told([b"x"]), b"GET " + target + b" HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n")
    assert seen == [expected]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http_1_0_and_head_go_the_ordinary_way(method: str) -> None:
    app = App([b"one\n", b"two\n"])
    request = get("1.0") if method == "GET" else get("1.1").replace(b"GET", b"HEAD")
    _, _, body = fetch(app, request).partition(b"\r\n\r\n")
    assert body == (b"one\ntwo\n" if method == "GET" else b"")
    assert app.direct == app.refused == 0
