"""The server under many clients: a thousand open streams beside those that are answered, what others wait for
meanwhile, and how long a request takes on its way to the engine.

`streams`: IDLE streams are opened behind ACTIVE ones and wait in the line; half speak Ollama's API, half OpenAI's. Each
must end once: one last line, or one finish and `[DONE]`, and no other. Meanwhile /api/tags is asked again and again.
`to_engine`: from the opening of a client's connection to the engine's being given the prompt, in one process, so that
one clock tells both. `tokenizing`: one text of TEXT tokens through /api/tokenize.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from manifests.store import Store
from runtime.address import Address
from runtime.api.app import create_app
from runtime.engine.link import Link
from runtime.manager import Manager
from runtime.serving import Http, Lend
from runtime.starting import bind
from scripts.benchmarks.server import NAME, Server
from scripts.benchmarks.tool import Tool
from scripts.benchmarks.turns import Comparison, compare, summary
from scripts.benchmarks.waits import spans

IDLE, ACTIVE = 1000, 64
LONG, SHORT = 32, 2  # tokens of an active answer and of one that waited
BETWEEN_S = 0.02  # from one /api/tags to the next
CHAT = 1000  # tokens of a chat, about
CHATS = 8  # of a turn
TEXT = 100_000  # tokens, about
WORDS = "the old fisherman told the children a long story about the sea and the ships that came from far away "
PER_TOKEN = len(WORDS) / 20  # characters, for SmolLM2; what was really counted is told


@dataclass(slots=True, kw_only=True)
class Counted:
    """`ended`: streams with exactly one end; `lost` with none; `doubled` with more."""

    ended: int = 0
    lost: int = 0
    doubled: int = 0


async def stream(port: int, number: int, *, tokens: int, counted: Counted, opened: asyncio.Semaphore) -> None:
    """One stream from its request to the closing of its connection."""
    text = f"{number}. Tell a story."
    if number % 2:
        path, body = "/v1/completions", {"max_tokens": tokens, "prompt": text}
    else:
        path, body = "/api/generate", {"prompt": text, "raw": True, "options": {"num_predict": tokens}}
    body |= {"model": NAME, "stream": True}
    _, received = await exchange(port, request("POST", path, body), opened=opened)
    ends = received.count(b"data: [DONE]") if number % 2 else received.count(b'"done":true')
    reasons = received.count(b'"finish_reason":"') if number % 2 else received.count(b'"done_reason":"')
    if ends == reasons == 1:
        counted.ended += 1
    elif max(ends, reasons) > 1:
        counted.doubled += 1
    else:
        counted.lost += 1


async def exchange(port: int, whole: bytes, *, opened: asyncio.Semaphore | None = None) -> tuple[float, bytes]:
    """Seconds from the first byte sent to the connection's end, and what came. `opened`: how many may shake hands."""
    async with opened or contextlib.nullcontext():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        started = time.perf_counter()
        writer.write(whole)
    try:
        received = await reader.read(-1)
        return time.perf_counter() - started, received
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()


def request(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(text)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + text


async def listed(port: int, seconds: list[float]) -> None:
    """Asks for /api/tags, for ever; each on a connection of its own, as a client that looks in."""
    while True:
        await asyncio.sleep(BETWEEN_S)
        took, answer = await exchange(port, request("GET", "/api/tags"))
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
        seconds.append(took)


async def crowd(port: int, *, idle: int, active: int) -> tuple[Counted, list[float]]:
    """All streams to their ends; what /api/tags took meanwhile, in seconds."""
    counted, waits = Counted(), list[float]()
    opened = asyncio.Semaphore(100)  # handshakes at once: the line of the listening socket is not what is measured
    tasks = [
        asyncio.ensure_future(
            stream(port, number, tokens=LONG if number < active else SHORT, counted=counted, opened=opened)
        )
        for number in range(active + idle)
    ]
    asking = asyncio.ensure_future(listed(port, waits))
    try:
        await asyncio.gather(*tasks)
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    return counted, waits


def streams(server: Server) -> Comparison:
    started = time.perf_counter()
    counted, waits = asyncio.run(crowd(server.port, idle=IDLE, active=ACTIVE))
    sample = {"who": "sealift", "turn": 0, "round": 0, "seconds": time.perf_counter() - started}
    sample["load"] = os.getloadavg()[0]
    work = f"{IDLE:,} waiting and {ACTIVE} active streams"
    result = summary(work, [sample], amount=IDLE + ACTIVE, unit="streams", against="sealift")  # type: ignore[list-item]
    ends = {"ended": counted.ended, "lost": counted.lost, "doubled": counted.doubled}
    result["extra"] = {"what": "/api/tags meanwhile", "ms": spans(waits), "ends": ends}
    return result


def tokenizing(server: Server, *, runs: int) -> Comparison:
    text = WORDS * int(TEXT * PER_TOKEN / len(WORDS) + 1)
    found: list[float] = []

    def ours() -> float:
        seconds, answer = asyncio.run(_asked(server.port, "/api/tokenize", {"model": NAME, "content": text}))
        found.append(seconds)
        counts.append(len(json.loads(answer.partition(b"\r\n\r\n")[2])["tokens"]))
        return seconds

    counts: list[int] = []
    result = compare("tokenize", {"sealift": ours}, amount=TEXT, unit="tokens", against="sealift", rounds=runs)
    result["work"] = f"a text of {counts[0]:,} tokens to its tokens"
    result["extra"] = {"what": "whole request", "ms": spans(found[1:]), "ends": {}}
    return result


async def _asked(port: int, path: str, body: dict[str, Any]) -> tuple[float, bytes]:
    took, answer = await exchange(port, request("POST", path, body))
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"bench: the server answered {answer[:200]!r}")
    return took, answer


def to_engine(store: Store, *, threads: int, runs: int) -> Comparison:
    """Each chat begins unlike the others. Between two of them the server has nothing to do."""
    found: list[float] = []
    result = compare(
        f"a chat of {CHAT:,} tokens to the engine",
        {"sealift": lambda: sum(asyncio.run(_ways(store, threads, found)))},
        amount=CHATS, unit="requests", against="sealift", rounds=runs,
    )  # fmt: skip
    result["extra"] = {"what": "client to engine", "ms": spans(found[CHATS:]), "ends": {}}
    return result


async def _ways(store: Store, threads: int, found: list[float]) -> list[float]:
    """Seconds from the opening of the connection to `Link.submit`, for CHATS requests after one that loads."""
    arrived: list[float] = []
    submit = Link.submit

    def noted(self: Link, *given: Any, **named: Any) -> Any:
        arrived.append(time.perf_counter())
        return submit(self, *given, **named)

    body = {"model": NAME, "max_tokens": 1, "temperature": 0}
    text = WORDS * (CHAT // 20)
    Link.submit = noted  # type: ignore[method-assign]
    try:
        async with _here(store, threads) as port:
            ways = []
            for number in range(CHATS + 1):
                messages = [{"role": "user", "content": f"{number}. {text}"}]
                started = time.perf_counter()
                await _asked(port, "/v1/chat/completions", body | {"messages": messages})
                ways.append(arrived[-1] - started)
    finally:
        Link.submit = submit  # type: ignore[method-assign]
    found += ways[1:]
    return ways[1:]


@contextlib.asynccontextmanager
async def _here(store: Store, threads: int) -> AsyncIterator[int]:
    """The server in this process and this loop."""
    listener = bind(Address(scheme="http", host="127.0.0.1", port=0))
    app = create_app(store, Manager())
    config = uvicorn.Config(Lend(app), http=Http, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await running


def measure(model: Path, folder: Path, *, threads: int, runs: int) -> list[Comparison]:
    tool = Tool(folder / "crowded")
    tool.create(NAME, model)
    server = Server(tool, threads=threads, parallel=4, more=("--max-queue", str(2 * (IDLE + ACTIVE))))
    try:
        found = [streams(server), tokenizing(server, runs=runs)]
    finally:
        server.stop()
    return [*found, to_engine(Store(tool.home / "models"), threads=threads, runs=runs)]
