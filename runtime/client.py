"""A small client of the server's own API, for the verbs of the command line (contract, 7.3 and 8).

Talks to SEALIFT_HOST, then OLLAMA_HOST, then 127.0.0.1:11434, and to nothing else: no proxy is asked, no redirect
followed to another host. Of an https server the certificate is verified, by SEALIFT_CA, SSL_CERT_FILE or the system's
authorities. Refuses an address that is not one. Errors: ServerUnreachable when nobody listens or nobody can be
trusted, ServerRefused with the server's own sentence.

One connection for each question, by the standard library's client: a verb that asks the server starts at once.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from collections.abc import Generator, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any

from manifests.display import printable
from manifests.home import setting
from runtime.address import Address, configured_address
from runtime.errors import RequestRefused, ServerRefused, ServerUnreachable

OURS = re.compile(r"\bsealift/([\w.+-]{1,40})")
MISSING_MODEL = re.compile(r"model '[^']*' not found")
ASK_FOR_A_KEY = "SEALIFT_API_KEY (or OLLAMA_API_KEY) holds the key that is sent"
READ = 1 << 16  # bytes
NOT_RUNNING = "could not connect to the sealift server at {url}, run 'sealift serve' to start it"


class Client:
    """A context manager, for streams that nobody read to their end. `connect_within`: seconds."""

    def __init__(self, address: Address | None = None, *, connect_within: float = 10.0) -> None:
        self.address = (address or configured_address()).dialled
        self._connect_within = connect_within
        self._tls = _tls() if self.address.scheme == "https" else None
        self._headers = {"User-Agent": "sealift", "Content-Type": "application/json"}
        if key := setting("API_KEY"):
            if not (key.isascii() and key.isprintable()):
                raise RequestRefused("SEALIFT_API_KEY (or OLLAMA_API_KEY): a key has no such characters")
            self._headers["Authorization"] = f"Bearer {key}"
        self._open: set[HTTPConnection] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        return self.ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.ask("POST", path, body)

    def server(self, within: float) -> str:
        """Who answers: `sealift 0.1.0`, or `Ollama 0.33.0`. `within`: seconds that an answer may take."""
        with self._answer("GET", "/api/version", None, within) as response:
            if found := OURS.search(", ".join(response.headers.get_all("server", []))):
                return f"sealift {found.group(1)}"  # also where it asks for a key
            _refuse(response)
            return f"Ollama {printable(str(_line(response.read()).get('version'))[:40])}"

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The lines of an answer. Closing the iterator hangs up, and the server stops working on it."""
        with self._answer("POST", path, body) as response:
            _refuse(response)
            for line in _lines(response):
                if line.strip():
                    yield _line(line)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An answer in one piece; {} where it is empty."""
        with self._answer(method, path, body) as response:
            _refuse(response)
            text = response.read()
        return _line(text) if text else {}

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, within: float | None = None
    ) -> Iterator[HTTPResponse]:
        """The answer, whatever it is. `within`: seconds of silence that are borne, None: any."""
        host, port = self.address.host, self.address.port
        kind = HTTPConnection(host, port) if self._tls is None else HTTPSConnection(host, port, context=self._tls)
        with contextlib.closing(kind) as connection:
            self._open.add(connection)
            try:
                self._connect(connection, within)
                content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
                connection.request(method, self.address.path + path, content, self._headers)
                yield connection.getresponse()
            except (OSError, HTTPException) as error:
                raise self._broken(error) from error
            finally:
                self._open.discard(connection)

    def _connect(self, connection: HTTPConnection, within: float | None) -> None:
        connection.timeout = self._connect_within
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:  # a host that is no name, too
            raise self._unreachable(error) from error
        connection.sock.settimeout(within)

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        url, reason = self.address.url, str(error) or "no answer in time"
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            hint = "SEALIFT_CA names a PEM file with the authority that signed it"
            return ServerUnreachable(f"the certificate of {url} cannot be trusted: {reason}", hint=hint)
        if "[SSL" in reason:
            hint = "if it speaks no TLS, its address begins with http://: SEALIFT_HOST, OLLAMA_HOST"
            return ServerUnreachable(f"no TLS with {url}: {reason}", hint=hint)
        if self.address.host in ("127.0.0.1", "::1", "localhost"):
            return ServerUnreachable(NOT_RUNNING.format(url=url))
        hint = "is it running, and is SEALIFT_HOST (or OLLAMA_HOST) its address? No proxy is asked"
        return ServerUnreachable(f"could not connect to the sealift server at {url}: {reason}", hint=hint)

    def _broken(self, error: Exception) -> ServerUnreachable:
        reason = str(error) or type(error).__name__
        hint = None
        if isinstance(error, (HTTPException, ConnectionError)) and self.address.scheme == "http":
            hint = f"if the server speaks TLS: SEALIFT_HOST={self.address.url.replace('http', 'https', 1)}"
        if "certificate required" in reason.lower():
            hint = "the server asks for a certificate: SEALIFT_CERT and SEALIFT_CERT_KEY name it"
        return ServerUnreachable(f"the connection to {self.address.url} broke: {reason}", hint=hint)


def _tls() -> ssl.SSLContext:
    from runtime.tls import client_context, client_settings

    return client_context(*client_settings())


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    """As they come. Not by `readline`, which takes a chunked answer that breaks off for one that ends."""
    if response.headers.get("content-length"):
        yield from response.read().split(b"\n")
        return
    rest = b""
    while data := response.read1(READ):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    yield rest


def _line(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        shown = text[:80].decode("utf-8", "replace")
        raise ServerRefused(f"the server answered with something that is not JSON: {shown!r}") from None
    if not isinstance(value, dict):
        raise ServerRefused(f"the server answered with a JSON {type(value).__name__}, expected an object")
    if isinstance(value.get("error"), str):
        raise ServerRefused(value["error"], hint=value.get("hint"))
    return value


def _refuse(response: HTTPResponse) -> None:
    """Raises what the server refused with, if it did."""
    status = response.status
    if status < 300:
        return
    try:
        body = json.loads(response.read())
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        hint = body.get("hint")
        if status == 404 and MISSING_MODEL.fullmatch(body["error"]):
            hint = hint or "sealift list shows the models; pull, create or bundle import bring one in"
        if status == 401:
            hint = hint or ASK_FOR_A_KEY
        raise ServerRefused(body["error"], hint=hint, http_status=status)
    hint = ASK_FOR_A_KEY if status == 401 else None
    raise ServerRefused(f"the server answered {status} {response.reason}", hint=hint, http_status=status)
