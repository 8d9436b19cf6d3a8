"""Where the server listens and where the command line asks: SEALIFT_HOST, then OLLAMA_HOST, then 127.0.0.1:11434.

Refuses an address that is not one (contract, 7.3).
"""

from __future__ import annotations

import ipaddress

from manifests.home import setting
from native.record import record
from runtime.errors import RequestRefused

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434


@record(frozen=True, slots=True, kw_only=True)
class Address:
    """`scheme://host:port/path`; an IPv6 host has no brackets here."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def dialled(self) -> Address:
        """Where a client connects: a server that listens everywhere is asked on the loopback."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return Address(scheme=self.scheme, host=everywhere.get(self.host, self.host), port=self.port, path=self.path)


def parse_address(text: str) -> Address:
    """host, host:port, [v6]:port, bare v6, or a URL. A port that is no port gives the default (contract, 7.3)."""
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, port = "http", text, DEFAULT_PORT
    else:
        port = {"http": 80, "https": 443}.get(scheme, 0)
        if not port:
            raise RequestRefused(f"address {text[:80]!r}: expected http:// or https://")
    authority, slash, path = rest.partition("/")
    host, found = _split_port(authority)
    if any(character in authority for character in " @?#\\") or "?" in path or "#" in path:
        raise RequestRefused(f"address {text[:80]!r}: expected host, host:port or a URL")
    if found is not None:
        port = int(found) if found.isascii() and found.isdigit() and int(found) <= 65535 else DEFAULT_PORT
    return Address(scheme=scheme, host=host or DEFAULT_HOST, port=port, path=f"/{path}".rstrip("/") if slash else "")


def _split_port(authority: str) -> tuple[str, str | None]:
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") and len(rest) > 1 else None
    if authority.count(":") > 1:
        return authority, None
    host, colon, port = authority.partition(":")
    return host, port if colon and port else None


def configured_address() -> Address:
    return parse_address(setting("HOST"))


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
