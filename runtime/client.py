"""A small client of the server's own API, for the verbs of the command line (contract, 7.3 and 8).

Talks to SEALIFT_HOST, then OLLAMA_HOST, then 127.0.0.1:11434, and to nothing else: no proxy is asked, no redirect
followed to another host. Of an https server the certificate is verified, by SEALIFT_CA, SSL_CERT_FILE or the system's
authorities. Refuses an address that is not one. Errors: ServerUnreachable when nobody listens or nobody can be
trusted, ServerRefused with the server's own sentence.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any

import httpx

from manifests.display import printable
from manifests.home import setting
from runtime.address import Address, configured_address
from runtime.errors import ServerRefused, ServerUnreachable
from runtime.tls import client_context, client_settings

OURS = re.compile(r"\bsealift/([\w.+-]{1,40})")
MISSING_MODEL = re.compile(r"model '[^']*' not found")
ASK_FOR_A_KEY = "SEALIFT_API_KEY (or OLLAMA_API_KEY) holds the key that is sent"
NOT_RUNNING = "could not connect to the sealift server at {url}, run 'sealift serve' to start it"


class Client:
    """Close it, or use it as a context manager. One at a time per thread. `connect_within`: seconds."""

    def __init__(
        self,
        address: Address | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        connect_within: float = 10.0,
    ) -> None:
        self.address = (address or configured_address()).dialled

        key = setting("API_KEY")
        self._http = httpx.Client(
            base_url=self.address.url,
            timeout=httpx.Timeout(None, connect=connect_within),
            trust_env=False,
            verify=client_context(*client_settings()) if self.address.scheme == "https" else True,
            headers={"user-agent": "sealift", **({"authorization": f"Bearer {key}"} if key else {})},
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        return self._whole("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._whole("POST", path, body)

    def server(self, within: float) -> str:
        """Who answers: `sealift 0.1.0`, or `Ollama 0.33.0`. `within`: seconds that an answer may take."""
        with self._errors():
            response = self._http.get("/api/version", timeout=within)
        if found := OURS.search(response.headers.get("server", "")):
            return f"sealift {found.group(1)}"
        if response.status_code >= 300:
            _refuse(response)
        return f"Ollama {printable(str(_line(response.text).get('version'))[:40])}"

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The lines of an answer. Closing the iterator hangs up, and the server stops working on it."""
        with self._errors(), self._http.stream("POST", path, json=body) as response:
            if response.status_code >= 300:
                response.read()
                _refuse(response)
            for line in response.iter_lines():
                if line.strip():
                    yield _line(line)

    def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self._errors():
            response = self._http.request(method, path, json=body)
        if response.status_code >= 300:
            _refuse(response)
        return _line(response.text) if response.content else {}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error

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
        if isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError)) and self.address.scheme == "http":
            hint = f"if the server speaks TLS: SEALIFT_HOST={self.address.url.replace('http', 'https', 1)}"
        if "certificate required" in reason.lower():
            hint = "the server asks for a certificate: SEALIFT_CERT and SEALIFT_CERT_KEY name it"
        return ServerUnreachable(f"the connection to {self.address.url} broke: {reason}", hint=hint)


def _line(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise ServerRefused(f"the server answered with something that is not JSON: {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise ServerRefused(f"the server answered with a JSON {type(value).__name__}, expected an object")
    if isinstance(value.get("error"), str):
        raise ServerRefused(value["error"], hint=value.get("hint"))
    return value


def _refuse(response: httpx.Response) -> None:
    status = response.status_code
    try:
        body = response.json()
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
    raise ServerRefused(f"the server answered {status} {response.reason_phrase}", hint=hint, http_status=status)
