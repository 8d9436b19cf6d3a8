"""Who may talk to the server: origins (CORS) and the Host header, before any route is looked at (contract, 1.2).

Checks in order:
* no Origin header, or Origin equal to `http(s)://<Host>`: passes;
* an Origin on the list: passes and is named in the reply; a preflight is answered 204;
* `Origin: null` passes for /v1 only. Some desktop programs send it, but so does any page that puts itself in a
  sandboxed frame; so it may ask for an answer and may not read, make or remove models;
* any other Origin: 403, empty body;
* while listening on a loopback address, a Host that is not a local name or address: 403, empty body (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from runtime.address import is_loopback
from runtime.api.observing import denied

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")
SCHEMES = (
    "app", "file", "tauri", "vscode-webview", "vscode-file",
    "chrome-extension", "safari-extension", "safari-web-extension", "moz-extension", "ms-browser-extension",
)  # fmt: skip
METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
STAINLESS = (
    "Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "Os", "Package-Version", "Poll-Helper",
    "Retry-Count", "Runtime", "Runtime-Version", "Timeout",
)  # fmt: skip
HEADERS = ",".join(
    [
        *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "X-Api-Key", "OpenAI-Beta"),
        *("Anthropic-Version", "Anthropic-Beta", "Anthropic-Dangerous-Direct-Browser-Access"),
        *(f"X-Stainless-{name}" for name in STAINLESS),
    ]
)
MAX_AGE = str(12 * 3600)  # seconds a browser may remember a preflight


def default_origins() -> tuple[str, ...]:
    local = [f"{scheme}://{name}{port}" for name in LOCAL_NAMES for scheme in ("http", "https") for port in ("", ":*")]
    return (*local, *(f"{scheme}://*" for scheme in SCHEMES))


class Guard:
    """ASGI middleware. `listening_on` is the address the server was told to listen on."""

    def __init__(self, app: App, *, origins: Iterable[str] = (), listening_on: str = "127.0.0.1") -> None:
        self._app = app
        self._origins = (*origins, *default_origins())
        self._everyone = "*" in self._origins
        self._check_host = is_loopback(listening_on)
        self._machine = socket.gethostname().lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin, host = headers.get(b"origin", ""), headers.get(b"host", "")
        foreign = bool(origin) and origin not in (f"http://{host}", f"https://{host}")
        if foreign and not self._allowed(origin, scope["path"]):
            denied("origin")
            await _empty(send, 403)
            return
        granted = self._granted(origin) if foreign else []
        if foreign and scope["method"] == "OPTIONS":
            await _empty(send, 204, [*granted, *_PREFLIGHT])
            return
        if self._check_host and not self._local_host(host):
            denied("host")
            await _empty(send, 403)
            return
        if scope["method"] == "OPTIONS":
            await _empty(send, 204)
            return
        await self._app(scope, receive, _with_headers(send, granted) if granted else send)

    def _allowed(self, origin: str, path: str) -> bool:
        if origin == "null" and path.startswith("/v1/"):
            return True
        return self._everyone or any(_matches(origin, pattern) for pattern in self._origins)

    def _granted(self, origin: str) -> list[tuple[bytes, bytes]]:
        if self._everyone:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]

    def _local_host(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in ("", "localhost", self._machine) or name.endswith((".localhost", ".local", ".internal")):
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_unspecified


_PREFLIGHT = [
    (b"access-control-allow-methods", METHODS.encode()),
    (b"access-control-allow-headers", HEADERS.encode()),
    (b"access-control-max-age", MAX_AGE.encode()),
]


def _matches(origin: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return origin == pattern
    return len(origin) >= len(head) + len(tail) and origin.startswith(head) and origin.endswith(tail)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0] if host.count(":") == 1 else host


async def _empty(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    # a 204 has no Content-Length (RFC 9110, 8.6)
    length = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, extra: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return sending
