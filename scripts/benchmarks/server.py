"""The server as clients see it: tokens a second through the streaming API beside the engine alone on the same work,
and the time from the start of `sealift serve` to a first token."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.benchmarks.player import Player, our_player, peer_player
from scripts.benchmarks.tool import Tool
from scripts.benchmarks.turns import Comparison, compare, spread

NAME = "measured"
CLIENTS = (1, 16)
PROMPT, ANSWER = 32, 128  # tokens
CONTEXT = 512
ASLEEP = 1 << 18  # bytes, more than an answer has
STORY = "Once upon a time, in a small village by the sea, lived an old fisherman who told the children a long story:"
numbers = itertools.count(1)  # begins every prompt, so that none finds another's beginning in the cache


class Server:
    """`sealift serve` on a free port; `listening` is the moment it said so, in seconds since its start."""

    def __init__(self, tool: Tool, *, threads: int, parallel: int, load: str = "", more: Sequence[str] = ()) -> None:
        words = ["serve", "--host", "127.0.0.1", "--port", "0", "--threads", str(threads)]
        words += [
            "--parallel",
            str(parallel),
            "--context-length",
            str(CONTEXT),
            *(["--load", load] if load else []),
            *more,
        ]
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            tool.command(*words), env=tool.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        found = re.search(r"listening on http://[^:]+:(\d+)", line)
        if not found:
            raise SystemExit(f"bench: sealift serve did not start: {line.strip()}")
        self.listening = time.perf_counter() - self.started
        self.port = int(found[1])
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()  # a full pipe would stop the server

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@contextmanager
def serving(tool: Tool, *, threads: int, parallel: int, load: str = "") -> Iterator[Server]:
    server = Server(tool, threads=threads, parallel=parallel, load=load)
    try:
        yield server
    finally:
        server.stop()


def ask(port: int, *, tokens: int, chat: bool = False) -> tuple[float, dict[str, Any]]:
    """One streamed answer: the moment of its first text, and the last line. The prompt is about PROMPT tokens; of a
    chat, the message, and the model's template comes about it."""
    text = f"{next(numbers)}. {STORY}"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text, "raw": True}
    body = {"model": NAME, **asked, "stream": True, "options": {"num_predict": tokens, "temperature": 0}}
    path = "/api/chat" if chat else "/api/generate"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first, last = 0.0, b""
    for line in response:
        first = first or time.perf_counter()
        last = line
    connection.close()
    answer: dict[str, Any] = json.loads(last)
    if response.status != 200 or not answer.get("done"):
        raise SystemExit(f"bench: the server answered {response.status}: {last[:200]!r}")
    return first, answer


def ask_asleep(port: int, *, tokens: int) -> dict[str, Any]:
    """One streamed answer, of which this process sees nothing before its end: the kernel takes the pieces in, each sent
    and acknowledged on its own, and wakes us at the last. A client on another machine costs the server no more."""
    body = {"model": NAME, "prompt": f"{next(numbers)}. {STORY}", "raw": True, "stream": True}
    text = json.dumps(body | {"options": {"num_predict": tokens, "temperature": 0}}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(text)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * ASLEEP)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, ASLEEP)
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + text)
        received = b""
        while piece := connection.recv(ASLEEP):
            received += piece
    lines = [line for line in received.splitlines() if line.startswith(b"{")]
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if not received.startswith(b"HTTP/1.1 200 ") or not answer.get("done"):
        raise SystemExit(f"bench: the server answered {received[:200]!r}")
    return answer


def ask_together(port: int, clients: int) -> float:
    """Seconds for ANSWER tokens to each of `clients`; an answer that ended early is scaled to that length."""
    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda _: ask_asleep(port, tokens=ANSWER), range(clients)))
        seconds = time.perf_counter() - started
    tokens = sum(int(answer["eval_count"]) for answer in answers)
    return seconds * clients * ANSWER / tokens


def through_http(model: Path, folder: Path, *, threads: int, runs: int) -> list[Comparison]:
    """Ratios are of the engine alone, which does the same prompts and answers without a server."""
    tool = Tool(folder / "served")
    tool.create(NAME, model)
    most = max(CLIENTS)
    with our_player(model, threads=threads, sequences=most) as engine, serving(
        tool, threads=threads, parallel=most
    ) as server:  # fmt: skip
        return [_clients(engine, server, clients, runs) for clients in CLIENTS]


def _clients(engine: Player, server: Server, clients: int, runs: int) -> Comparison:
    players: dict[str, Callable[[], float]] = {
        "HTTP API": lambda: ask_together(server.port, clients),
        "engine alone": lambda: engine.seconds("generate", prompt=PROMPT, tokens=ANSWER, sequences=clients),
    }
    work = f"{clients} streaming client{'s' if clients > 1 else ''}"
    amount = ANSWER * clients
    return compare(work, players, amount=amount, unit="tokens", against="engine alone", rounds=runs)


def started_peer(program: str, model: Path, *, threads: int, chat: bool = False) -> float:
    """Seconds from the start of llama-server to its first token. It answers 503 until its model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        program,
        "-m",
        str(model),
        "-t",
        str(threads),
        "-c",
        str(CONTEXT),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    text = f"{next(numbers)}. {STORY}"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    body = json.dumps(asked | {"max_tokens" if chat else "n_predict": 1, "temperature": 0, "stream": True})
    path = "/v1/chat/completions" if chat else "/completion"
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and time.perf_counter() - began < 60:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                if response.status == 200 and response.readline():
                    return time.perf_counter() - began
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.002)
        raise SystemExit(f"bench: {program} gave no token")
    finally:
        process.terminate()
        process.wait()


def start(
    model: Path, folder: Path, *, threads: int, runs: int, peer: str | None = None, llama_server: str | None = None
) -> list[Comparison]:
    """From nothing to a first token, the model named at the start on both sides and its packed weights present: of a
    prompt as it is, and of a chat. Without a peer that is a server, one that only loads and reads a prompt stands
    beside."""
    tool = Tool(folder / "started")
    tool.create(NAME, model)
    tool.run("prepare", NAME)
    return [_started(tool, model, threads, runs, peer, llama_server, chat=chat) for chat in (False, True)]


def _started(
    tool: Tool, model: Path, threads: int, runs: int, peer: str | None, llama_server: str | None, *, chat: bool
) -> Comparison:
    phases: list[tuple[float, float]] = []

    def ours() -> float:
        with serving(tool, threads=threads, parallel=1, load=NAME) as server:
            first, _ = ask(server.port, tokens=1, chat=chat)
            phases.append((server.listening, first - server.started - server.listening))
            return first - server.started

    def theirs() -> float:
        assert peer is not None
        with peer_player(peer, model, threads=threads) as player:
            return player.load_seconds + player.seconds("prefill", tokens=PROMPT)

    players: dict[str, Callable[[], float]] = {"sealift serve": ours}
    if llama_server:
        players["llama-server"] = lambda: started_peer(llama_server, model, threads=threads, chat=chat)
    elif peer:
        players["llama.cpp, no server"] = theirs
    work = "start to first token" + (" of a chat" if chat else "")
    result = compare(work, players, amount=1, unit="starts", against=[*players][-1], rounds=runs)
    counted = phases[1:]  # the first one warmed the page cache
    result["extra"] = {
        "listening_s": spread([listening for listening, _ in counted]),
        "first_token_after_s": spread([rest for _, rest in counted]),
    }
    return result
