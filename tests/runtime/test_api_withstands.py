"""What the server must withstand, on the real thing (socket, worker, kernels): whatever clients do, what it holds
returns to what it held. Counted are descriptors, tasks, users and tokenizers; never time."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.address import parse_address
from runtime.client import Client
from tests.peers.live import Live, live
from tests.peers.model_maker import CHATML, Size, make_model

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}]}
WAIT = 60.0  # seconds until a test that hangs is called failed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root: Path = tmp_path_factory.mktemp("withstands")
    store = Store(root / "models")
    model = make_model(root / "m.gguf", size=Size(context=2048), metadata={"tokenizer.chat_template": CHATML})
    create(store, ModelName.parse("tiny"), CreateRequest(files={"m.gguf": store.put_file(model)}))
    with live(store) as server:
        yield server


def post(server: Live, path: str, body: Any) -> dict[str, Any]:
    with Client(parse_address(server.url)) as client:
        return client.post(path, body)


def raw(server: Live, data: bytes, *, read: int | None = None) -> bytes:
    """Sends bytes, reads `read` bytes (None: all there is) and goes away without a word."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as wire:
        try:
            wire.sendall(data)
            answer = b""
            while (read is None or len(answer) < read) and (piece := wire.recv(65536)):
                answer += piece
            return answer
        except ConnectionError:
            return b""


def request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def held(server: Live) -> dict[str, int]:
    """What the server holds, once everything that is ending has ended."""

    async def tasks() -> int:
        return len(asyncio.all_tasks()) - 1

    assert server.loop is not None and server.manager is not None
    count = asyncio.run_coroutine_threadsafe(tasks(), server.loop).result(WAIT)
    users = sum(entry.users for entry in server.manager._entries)
    streams = sum(len(entry.model._link._streams) for entry in server.manager._entries)
    return {"descriptors": len(os.listdir("/proc/self/fd")), "tasks": count, "users": users, "streams": streams}


def returns_to(server: Live, before: dict[str, int]) -> None:
    end = time.monotonic() + WAIT
    while True:
        now = held(server)
        if all(now[name] <= count for name, count in before.items()):
            return
        assert time.monotonic() < end, f"held {before}, and now {now}"
        time.sleep(0.02)


def crowd(server: Live) -> None:
    with ThreadPoolExecutor(16) as asking:
        for answer in asking.map(lambda _: post(server, "/api/chat", ASK | QUICK), range(64)):
            assert answer["done"] is True


QUICK = {"stream": False, "options": {"num_predict": 3}}
LONG = json.dumps(ASK | {"options": {"num_predict": 1500}}).encode()


def vanish(server: Live) -> None:
    """Before the head is sent, before the body is, before the answer begins, and in the middle of it."""
    for data, read in (
        (b"POST /api/chat HTT", 0),
        (request("/api/chat", LONG)[:-20], 0),
        (request("/api/chat", LONG), 0),
        (request("/api/chat", LONG), 1),
        (request("/v1/chat/completions", LONG.replace(b"{", b'{"stream":true,', 1)), 1),
        (request("/api/blobs/sha256:" + "0" * 64, b"x" * 100)[:-50], 0),
    ):
        for _ in range(8):
            raw(server, data, read=read)


def nonsense(server: Live) -> None:
    for body in (b"", b"{", b"[]", b'{"model": 3}', b'{"model": "none", "messages": []}', b"[" * 200, b"\xff" * 10):
        for path in ("/api/chat", "/api/generate", "/v1/chat/completions", "/api/show", "/api/pull", "/api/create"):
            answer = raw(server, request(path, body))
            assert answer[9:12] in (b"400", b"404") or b'{"error":"pull model manifest' in answer
    for head in (b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"):
        assert raw(server, head)[9:12] in (b"400", b"")


def failing(server: Live) -> None:
    """Requests that end between the load of the model and the first token."""
    for options, status in (({"num_ctx": 4}, 400), ({"top_p": 2}, 400), ({"num_ctx": 0}, 200)):
        body = json.dumps(ASK | {"stream": False, "options": {"num_predict": 1} | options}).encode()
        assert raw(server, request("/api/chat", body)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("what", [crowd, vanish, nonsense, failing])
def test_what_it_holds_returns_to_what_it_held(server: Live, what: Any) -> None:
    post(server, "/api/chat", ASK | QUICK)
    before = held(server)
    assert before["users"] == before["streams"] == 0
    for _ in range(2):
        what(server)
    post(server, "/api/chat", ASK | QUICK)
    returns_to(server, before)


def test_a_model_that_leaves_takes_its_tokenizer_and_its_templates_along(server: Live) -> None:
    assert server.manager is not None
    seen: list[weakref.ref[Any]] = []
    for _ in range(4):
        post(server, "/api/chat", ASK | QUICK)
        seen += [weakref.ref(entry.model.tokenizer) for entry in server.manager._entries]
        post(server, "/api/generate", {"model": "tiny", "keep_alive": 0})
    before = held(server)
    assert len(seen) == 4 and not server.manager._entries
    end = time.monotonic() + WAIT
    while any(one() is not None for one in seen):  # the last worker is still being waited for
        assert time.monotonic() < end, f"tokenizers left behind: {sum(one() is not None for one in seen)}"
        gc.collect()
        time.sleep(0.02)
    post(server, "/api/chat", ASK | QUICK)
    post(server, "/api/generate", {"model": "tiny", "keep_alive": 0})
    returns_to(server, before)


def test_a_client_that_reads_nothing_is_let_go(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold its model for ever. Its answer is larger than what the sockets take (a megabyte and more: no token
    that would end it early can be chosen, and none whose text is one of the template's stop strings), so it is cut off;
    one that could be sent whole would prove nothing."""
    from runtime.api import transport

    post(server, "/api/chat", ASK | QUICK)
    before = held(server)
    assert server.manager is not None
    tokenizer = server.manager._entries[0].model.tokenizer
    ends = [index for index in range(tokenizer.vocab_size) if tokenizer.is_control(index)]
    assert tokenizer.eog <= set(ends)
    monkeypatch.setattr(transport, "PATIENCE_S", 0.2)
    server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # its connections inherit it
    ask = {"stream": True, "max_tokens": 1900, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(ASK | ask | {"logit_bias": {str(end): -100 for end in ends}}).encode()
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(WAIT)
        wire.connect(("127.0.0.1", server.port))
        wire.sendall(request("/v1/chat/completions", body))
        assert wire.recv(1, socket.MSG_PEEK)  # the answer has begun
        end = time.monotonic() + WAIT
        while held(server)["users"]:
            assert time.monotonic() < end, "the client holds its model"
            time.sleep(0.02)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") and b"[DONE]" not in answer
    returns_to(server, before)


def test_a_body_that_stops_coming_is_let_go(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.api import transport

    monkeypatch.setattr(transport, "PATIENCE_S", 0.2)
    for path in ("/api/chat", "/api/blobs/sha256:" + "0" * 64):
        assert b" 408 " in raw(server, request(path, b"x" * 100)[:-50])[:20]


def test_a_head_that_never_ends_is_let_go_and_a_slow_answer_is_not(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime import serving

    monkeypatch.setattr(serving, "HEAD_S", 0.3)
    assert raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX:") == b""
    body = json.dumps(ASK | {"stream": False, "options": {"num_predict": 600}}).encode()
    assert raw(server, request("/api/chat", body)).startswith(b"HTTP/1.1 200 ")
