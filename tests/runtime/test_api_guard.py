"""Origins and hosts: who may talk to the server (contract, 1.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.address import is_loopback
from runtime.api.guard import Guard
from runtime.errors import RequestRefused
from runtime.told import parse_origins


def through(
    method: str = "GET",
    path: str = "/api/tags",
    *,
    listening_on: str = "127.0.0.1",
    origins: tuple[str, ...] = (),
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request; 299 is the application behind the guard."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"behind"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the guard reads no body")

    raw = [(name.encode(), value.encode()) for name, value in ({"host": "localhost:11434"} | headers).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Guard(application, origins=origins, listening_on=listening_on)(scope, receive, send))
    start = sent[0]
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, sent[1]["body"]


ALLOWED = [
    "http://localhost",
    "https://localhost:3000",
    "http://127.0.0.1:8080",
    "https://0.0.0.0",
    "app://obsidian.md",
    "file://x",
    "tauri://localhost",
    "vscode-webview://abc",
    "vscode-file://vscode-app",
    "chrome-extension://abcdef",
    "moz-extension://x",
]


@pytest.mark.parametrize("origin", ALLOWED)
def test_a_listed_origin_passes_and_is_named(origin: str) -> None:
    status, headers, _ = through(origin=origin)
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (299, origin, "Origin")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "null", "http://localhost@evil.example", "x"]
)
def test_any_other_origin_gets_an_empty_403(origin: str) -> None:
    assert through(origin=origin)[::2] == (403, b"")
    assert through("OPTIONS", origin=origin)[0] == 403


def test_null_may_ask_for_answers_and_nothing_else() -> None:
    assert through("POST", "/v1/chat/completions", origin="null")[0] == 299
    assert through("OPTIONS", "/v1/chat/completions", origin="null")[0] == 204
    for path in ("/api/delete", "/api/chat", "/v1", "/"):
        assert through("POST", path, origin="null")[0] == 403


def test_no_origin_and_the_servers_own_pass_without_headers() -> None:
    own = {"origin": "http://box.local:11434", "host": "box.local:11434"}
    for status, found, body in (through(), through(origin=own["origin"], host=own["host"])):
        assert (status, body) == (299, b"behind") and "access-control-allow-origin" not in found


def test_a_preflight_lists_what_clients_send() -> None:
    status, headers, body = through("OPTIONS", origin="http://localhost:5173")
    assert (status, body, headers["access-control-max-age"]) == (204, b"", "43200")
    allowed = headers["access-control-allow-headers"].lower().split(",")
    assert {"authorization", "content-type", "x-api-key", "x-stainless-retry-count"} <= set(allowed)
    assert {"anthropic-version", "anthropic-dangerous-direct-browser-access"} <= set(allowed)
    assert "DELETE" in headers["access-control-allow-methods"] and "access-control-allow-credentials" not in headers


def test_configured_origins() -> None:
    assert through(origin="https://wiki.corp:8443", origins=parse_origins("https://wiki.corp:*, http://b"))[0] == 299
    assert through(origin="null", origins=parse_origins("null"))[0] == 299
    status, headers, _ = through(origin="https://anyone.example", origins=parse_origins("*"))
    assert (status, headers["access-control-allow-origin"]) == (299, "*")
    for bad in ("wiki.corp", "http://*.*"):
        with pytest.raises(RequestRefused, match="bad origin"):
            parse_origins(bad)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1",
        "127.0.0.1:11434",
        "[::1]:11434",
        "::1",
        "192.168.1.5",
        "10.0.0.1:80",
        "box.local",
        "a.internal",
        "",
    ],
)
def test_local_hosts_pass_on_a_loopback_listener(host: str) -> None:
    assert through(host=host)[0] == 299


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:11434", "8.8.8.8", "localhost.evil.example", "local", "[bad"]
)
def test_a_rebound_name_gets_an_empty_403_on_loopback_and_passes_elsewhere(host: str) -> None:
    assert through(host=host)[::2] == (403, b"")
    assert through(host=host, listening_on="0.0.0.0")[0] == 299


def test_what_a_loopback_address_is() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "example.com", "")))
