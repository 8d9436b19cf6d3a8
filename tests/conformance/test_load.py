"""Many streams at once, of both APIs, against `sealift serve` and a small random model: each ends exactly once.

`scripts/bench load` does the same with a thousand and a real model, and tells times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from scripts.benchmarks import load
from scripts.benchmarks.server import NAME, Server
from scripts.benchmarks.tool import Tool
from tests.peers.model_maker import Size, make_model

IDLE, ACTIVE = 200, 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("crowd")
    tool = Tool(folder / "home")
    tool.create(NAME, make_model(folder / "tiny.gguf", quant="Q8_0", size=Size(context=1024)))
    server = Server(tool, threads=1, parallel=4)
    yield server
    server.stop()


def test_each_of_many_streams_ends_once(server: Server) -> None:
    counted, waits = asyncio.run(load.crowd(server.port, idle=IDLE, active=ACTIVE))
    assert (counted.ended, counted.lost, counted.doubled) == (IDLE + ACTIVE, 0, 0)
    assert waits  # others were answered meanwhile


def test_a_lost_or_doubled_end_would_be_seen() -> None:
    """Against servers that end a stream never, or twice."""
    tails = {b'{"done":false}\n': (0, 2, 0), b'{"done":true,"done_reason":"stop"}\n' * 2: (0, 1, 1)}
    for tail, expected in tails.items():
        counted = asyncio.run(_against(tail))
        assert (counted.ended, counted.lost, counted.doubled) == expected


async def _against(tail: bytes) -> load.Counted:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + tail)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    counted, opened = load.Counted(), asyncio.Semaphore(2)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as peer:
        port = peer.sockets[0].getsockname()[1]
        for number in range(2):
            await load.stream(port, number, tokens=1, counted=counted, opened=opened)
    return counted
