"""The log of requests: what stands in it, what never does, and that nothing a client sends breaks a line of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.store import Store
from runtime import logs
from runtime.access.access import Access
from runtime.access.entries import new_key
from runtime.access.register import make
from runtime.api.app import create_app
from runtime.logs import MAX_VALUE, JsonFormatter, TextFormatter, event
from runtime.told import Settings
from tests.peers.live import live
from tests.peers.scripted import Script, scripted_manager, small_store

TEXT = "Hello <world> & é!"
SECRET = "the-prompt-that-nobody-shall-read"
HI = [{"role": "user", "content": SECRET}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the server would write to standard error, set up as the server does."""
    out = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("sealift")
    before = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(sys, "stderr", out)
    logs.set_up(request.param, "debug")
    yield out
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def ask(
    store: Store, *requests: tuple[str, str, dict[str, Any]], script: Script | None = None, **options: Any
) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        manager = scripted_manager(script or Script())
        app = create_app(store, manager, **options)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            try:
                return [await client.request(method, path, **options) for method, path, options in requests]
            finally:
                await manager.close()

    return asyncio.run(main())


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Every line as fields, of either form. Text values are compared as they were written."""
    found = []
    for line in log.getvalue().splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
            continue
        program, time, level, name, *pairs = line.split(" ")
        assert program == "sealift:" and time.endswith("Z")
        fields: dict[str, Any] = {"level": level, "event": name}
        for pair in pairs:
            key, _, value = pair.partition("=")
            number = re.fullmatch(r"\d+(\.\d+)?", value) and not key.endswith("id")
            fields[key] = json.loads(value) if number or value.startswith('"') else value
        found.append(fields)
    return found


def test_a_line_for_each_request_with_its_id(store: Store, log: io.StringIO, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    entry, key = make(path, "wiki")
    headers = {"authorization": f"Bearer {key}", "x-request-id": "proxy-7"}
    chat = {"model": "demo", "messages": HI, "stream": False}
    first, denied, probe = ask(
        store,
        ("POST", "/api/chat", {"json": chat, "headers": headers}),
        ("DELETE", "/api/delete", {"headers": headers}),
        ("GET", "/health", {}),
        access=Access(path),
    )
    one, two, three = lines(log)
    said = first.json()
    assert one["level"] == "info" and one["event"] == "request"
    assert one["id"] == first.headers["x-request-id"] and one["their_id"] == "proxy-7"
    assert (one["key"], one["key_id"]) == ("wiki", entry.id)
    assert (one["method"], one["route"], one["status"]) == ("POST", "/api/chat", 200)
    assert one["model"] == "demo:latest" and len(one["digest"]) == 64 and one["reason"] == "stop"
    assert (one["prompt_tokens"], one["generated_tokens"]) == (said["prompt_eval_count"], said["eval_count"])
    assert (one["cached_tokens"], one["prompt_seconds"], one["generate_seconds"]) == (1, 0.002, 0.005)
    assert one["bytes_out"] == len(first.content) and one["bytes_in"] == len(json.dumps(chat, separators=(",", ":")))
    assert two["level"] == "warning" and two["denied"] == "scope" and two["status"] == 403 == denied.status_code
    assert three["level"] == "debug" and three["status"] == 200 == probe.status_code


def test_neither_keys_nor_texts_are_logged(store: Store, log: io.StringIO, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, key = make(path, "wiki")
    stranger = new_key()[0]
    chat = {"model": "demo", "messages": HI, "stream": True}
    ask(
        store,
        ("POST", "/api/chat", {"json": chat, "headers": {"authorization": f"Bearer {key}"}}),
        ("POST", "/api/chat", {"json": chat, "headers": {"x-api-key": stranger}}),
        ("POST", "/api/chat", {"json": {**chat, "model": key}, "headers": {"x-api-key": key}}),
        ("GET", f"/{key}?api_key={key}", {"headers": {"x-api-key": key, "x-request-id": key}}),
        ("POST", "/v1/completions", {"json": {"model": "demo", "prompt": SECRET}, "headers": {"x-api-key": key}}),
        access=Access(path),
    )
    text = log.getvalue()
    assert len(text.splitlines()) == 5
    for secret in (key, key[5:20], stranger, SECRET, "Hello", "lo <w"):
        assert secret not in text, secret


def test_texts_are_logged_where_that_was_asked_for(store: Store, log: io.StringIO) -> None:
    chat = {"model": "demo", "messages": HI, "stream": True}
    (answer,) = ask(store, ("POST", "/api/chat", {"json": chat}), settings=Settings(log_text=True))
    assert SECRET in log.getvalue() and "lo \\\\u003cworld" in log.getvalue()
    assert len(log.getvalue().splitlines()) == 1 and answer.status_code == 200


def test_long_texts_are_cut(store: Store, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_TEXT", 100)
    chat = {"model": "demo", "messages": [{"role": "user", "content": "x" * 9999}]}
    ask(store, ("POST", "/api/chat", {"json": chat}), settings=Settings(log_text=True))
    assert len(log.getvalue()) < 2000


HOSTILE = [
    "a\nsealift: 2026-11-26T00:00:00.000Z info request id=forged",
    "a\r\n{}",
    "\x1b[2J\x1b]0;title\x07",
    'a" status=200 key="admin',
    "\u2028\u202e\x85\x0b\x0c",
    "\ud800",
    "%s%n{}",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_breaks_a_line_or_reaches_a_terminal(text: str) -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(formatter)
        logger = logging.Logger("sealift.test")
        logger.addHandler(handler)
        event(logger, logging.INFO, "request", {"id": "1", "path": text, "status": 404, "none": None, "empty": ""})
        logger.warning("not listed: %s", text)
        first, second = (line.removesuffix("\n") for line in out.getvalue().splitlines(keepends=True))
        for line in (first, second):
            assert line.isprintable() and (len(line) < MAX_VALUE * 6 + 200 or line is second)
        assert "none" not in first and "empty" not in first
        if isinstance(formatter, JsonFormatter):
            assert json.loads(first)["path"].startswith(text[:50]) and json.loads(first)["status"] == 404
        else:
            assert first.count(" status=") == 1 + text.count(" status=") and first.endswith(" status=404")


@given(st.text())
def test_any_text_is_one_line(text: str) -> None:
    record = logging.LogRecord("sealift.x", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": text}
    assert TextFormatter().format(record).isprintable()
    shown = json.loads(JsonFormatter().format(record))
    assert shown["path"][:MAX_VALUE] == logs.struck(text)[:MAX_VALUE] or "slft_" in text


def test_a_trace_is_kept_and_cannot_be_forged(log: io.StringIO) -> None:
    try:
        raise ValueError("a\nsealift: forged")
    except ValueError as error:
        logging.getLogger("sealift.api").error("internal error %s", "1234", exc_info=error)
    text = log.getvalue()
    assert "ValueError" in text and not any(line == "sealift: forged" for line in text.splitlines()[:1])
    assert "test_a_trace_is_kept" in text


@pytest.mark.parametrize("stream", [True, False])
def test_bytes_are_counted_on_the_short_way_too(store: Store, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    """Chunks of a stream pass by the application (transport.DIRECT)."""
    caplog.set_level(logging.INFO, "sealift.request")
    script = Script(texts=tuple(f"word{i} " for i in range(50)))
    with live(store, script, settings=Settings(log_text=True)) as server:
        chat = {"model": "demo", "messages": HI, "stream": stream}
        answer = httpx.post(f"{server.url}/api/chat", json=chat, timeout=60)
        assert len(answer.headers["x-request-id"]) == 16
    (fields,) = [record.fields for record in caplog.records if record.name == "sealift.request"]  # type: ignore[attr-defined]
    assert fields["bytes_out"] == len(answer.content) and fields["answer"] == answer.text


def test_a_request_that_is_refused_before_any_route_is_seen(store: Store, log: io.StringIO) -> None:
    foreign, rebound = ask(
        store,
        ("GET", "/api/tags", {"headers": {"origin": "http://evil.example"}}),
        ("GET", "/api/tags", {"headers": {"host": "evil.example"}}),
    )
    assert (foreign.status_code, rebound.status_code) == (403, 403)
    assert [line["denied"] for line in lines(log)] == ["origin", "host"]
    assert "x-request-id" in foreign.headers
