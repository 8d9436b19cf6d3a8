"""One repository of one registry, over HTTP: authorised requests, redirects, retries, errors in the registry's own
words.

* Certificates are checked, with the system's authorities or `ca`; proxies come from the environment (HTTPS_PROXY, ...).
* `insecure` permits plain http and unchecked certificates: https is tried first, then http.
* Redirects are followed by hand, at most REDIRECTS; another origin gets no Authorization, and never a step from https
  to http unless `insecure`.
* Error texts are cut to MAX_ERROR_BODY and URLs lose their query, which may hold signatures.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from bundler.registry import limits
from bundler.registry.access import Challenge, basic_credentials, denied_hint, may_send_credentials, signed_request
from bundler.registry.errors import Cancelled, Denied, NotThere, RegistryError, RegistryRefused, Unreachable, WrongBytes
from manifests.errors import ManifestsError
from manifests.fields import parse_json
from manifests.name import DEFAULT_HOST, ModelName

T = TypeVar("T")
Body = bytes | Callable[[], Iterator[bytes]] | None


class Registry:
    """A repository's client; usable from several threads. Close it, or use it as a context."""

    def __init__(
        self,
        name: ModelName,
        *,
        insecure: bool = False,
        ca: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if name.scheme == "http" and not insecure:
            raise RegistryError("insecure protocol http", hint="--insecure permits it")
        self.name, self.insecure, self._cancelled = name, insecure, cancelled
        self.origin = f"{name.scheme}://{name.host}"
        try:
            httpx.URL(self.origin)
        except httpx.InvalidURL as error:
            raise RegistryError(f"{name.host!r} is not the address of a registry: {error}") from None
        self._http = _http_client(_verification(insecure, ca), transport)
        self._lock = threading.Lock()
        self._authorization: str | None = None
        if insecure and name.scheme == "https":
            self.origin = self._probe()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def base(self) -> str:
        return f"{self.origin}/v2/{self.name.namespace}/{self.name.model}"

    def _probe(self) -> str:
        """https where it answers, else http."""
        try:
            self._http.get(f"https://{self.name.host}/v2/", timeout=limits.CONNECT_SECONDS)
        except httpx.TransportError:
            return f"http://{self.name.host}"
        return f"https://{self.name.host}"

    # -- requests

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        body: Body = None,
        expect: tuple[int, ...] = (200,),
    ) -> Iterator[httpx.Response]:
        """An open response whose status is in `expect`, after the challenge and redirects. The caller reads the body.

        `body` is bytes, or a function that gives the pieces anew for each attempt. Raises this package's errors only.
        """
        authorised = False
        for _ in range(limits.REDIRECTS):
            if self._cancelled():
                raise Cancelled("the transfer was cancelled")
            sent = dict(headers or {})
            own = _origin(url) == _origin(self.origin)
            if own and self._authorization:
                sent["Authorization"] = self._authorization
            with self._open(method, url, sent, body) as response:
                if response.status_code == 401 and own and not authorised:
                    authorised = True
                    self._answer_challenge(response)
                elif response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers:
                    url = self.follow(url, response.headers["location"])
                elif response.status_code in expect:
                    yield response
                    return
                else:
                    raise _refusal(response, self.name.host)
        raise RegistryError(f"{self.name.host}: more than {limits.REDIRECTS} redirects")

    @contextlib.contextmanager
    def _open(self, method: str, url: str, headers: dict[str, str], body: Body) -> Iterator[httpx.Response]:
        content = body() if callable(body) else body
        try:
            with self._http.stream(method, url, headers=headers, content=content) as response:
                yield response
        except httpx.InvalidURL as error:
            raise WrongBytes(f"{self.name.host} sent an address that is none: {error}") from None
        except httpx.ConnectTimeout:
            raise Unreachable(f"{_shown(url)}: no connection within {limits.CONNECT_SECONDS:.0f} seconds") from None
        except httpx.TimeoutException:
            raise Unreachable(f"{_shown(url)}: no byte for {limits.STALL_SECONDS:.0f} seconds") from None
        except httpx.HTTPError as error:
            hint = _network_hint(error)
            message = f"{_shown(url)}: {str(error) or type(error).__name__}"
            raise Unreachable(message, hint=hint, temporary=hint is None) from None

    def follow(self, url: str, location: str) -> str:
        """Where a redirect, or the address of an upload, leads; refuses a step down to plain http."""
        try:
            target = urljoin(url, location)
            scheme = urlsplit(target).scheme
        except ValueError:
            raise WrongBytes(f"{_shown(url)} leads to {location[:80]!r}, which is no address") from None
        if scheme not in ("http", "https"):
            raise WrongBytes(f"{_shown(url)} leads to {_shown(target)}, which is not http")
        if scheme == "http" and urlsplit(url).scheme == "https" and not self.insecure:
            raise WrongBytes(f"{_shown(url)} leads from https to http", hint="--insecure permits it")
        return target

    def _answer_challenge(self, response: httpx.Response) -> None:
        """Gets a token, or takes Basic credentials, for the requests that follow. Raises Denied if there is no way."""
        header = response.headers.get("www-authenticate", "")
        challenge = Challenge.parse(header)
        basic = basic_credentials(self.name.host)
        if challenge is None:
            if basic is None or self._authorization == basic or not header.lower().startswith("basic"):
                raise _refusal(response, self.name.host)
            self._authorization = basic
            return
        with self._lock:
            self._authorization = "Bearer " + self._token(challenge, basic)

    def _token(self, challenge: Challenge, basic: str | None) -> str:
        url, headers = challenge.url(), {}
        if urlsplit(url).scheme == "http" and not self.insecure:
            raise Denied(
                f"{self.name.host} wants tokens from {_shown(url)}, over plain http", 401, hint="--insecure permits it"
            )
        if basic and may_send_credentials(challenge, self.origin):
            headers["Authorization"] = basic
        elif _origin(url) == _origin(self.origin) and self.name.host == DEFAULT_HOST:
            headers["Authorization"] = signed_request(url)
        with self._open("GET", url, headers, None) as response:
            if response.status_code != 200:
                raise _refusal(response, self.name.host, kind=Denied)
            raw = read_body(response, limits.MAX_TOKEN_REPLY)
        try:
            reply = parse_json(raw, limit=limits.MAX_TOKEN_REPLY)
        except ManifestsError as error:
            raise WrongBytes(f"the token of {_shown(url)}: {error}") from None
        token = (reply.get("token") or reply.get("access_token")) if isinstance(reply, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise WrongBytes(f"{_shown(url)} sent no token")
        return token

    # -- patience

    def retrying(
        self,
        attempt: Callable[[], T],
        *,
        progressed: Callable[[], int] = lambda: 0,
        stopped: Callable[[], bool] = lambda: False,
        retries: int | None = None,
    ) -> T:
        """Runs `attempt` until it succeeds; gives up after RETRIES failures between which `progressed()` did not grow.

        `stopped` ends the waiting between two attempts.
        """
        failures, seen = 0, progressed()
        while True:
            try:
                return attempt()
            except (Unreachable, RegistryRefused) as error:
                if not error.temporary:
                    raise
                failures, seen = (1, progressed()) if progressed() > seen else (failures + 1, seen)
                if failures > (limits.RETRIES if retries is None else retries):
                    raise Unreachable(
                        f"{error} (tried {failures} times)", hint=error.hint or (RESUME if retries is None else REACH)
                    ) from None
                asked = getattr(error, "retry_after", None)
                self._sleep(min(asked or limits.BACKOFF_SECONDS * 2 ** (failures - 1), limits.BACKOFF_MOST), stopped)

    def _sleep(self, seconds: float, stopped: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._cancelled() or stopped():
                raise Cancelled("the transfer was cancelled")
            time.sleep(min(left, 0.1))


RESUME = "run the same command again: it goes on from where it stopped"
REACH = "check the host, the port and, where there is a proxy, HTTPS_PROXY"


def read_body(response: httpx.Response, limit: int) -> bytes:
    """A whole body of at most `limit` bytes, in at most REPLY_SECONDS."""
    data, end = bytearray(), time.monotonic() + limits.REPLY_SECONDS
    for piece in response.iter_raw():
        data += piece
        if len(data) > limit:
            raise WrongBytes(f"{_shown(str(response.url))}: more than {limit} bytes")
        if time.monotonic() > end:
            raise Unreachable(f"{_shown(str(response.url))}: no whole reply within {limits.REPLY_SECONDS:.0f} seconds")
    return bytes(data)


def _http_client(verify: ssl.SSLContext | bool, transport: httpx.BaseTransport | None) -> httpx.Client:
    try:
        return httpx.Client(
            verify=verify,
            timeout=httpx.Timeout(limits.STALL_SECONDS, connect=limits.CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=2 * limits.PARALLEL),
            transport=transport,
            follow_redirects=False,
            headers={"User-Agent": "sealift", "Accept-Encoding": "identity"},
        )
    except (httpx.InvalidURL, ValueError, ImportError) as error:  # ImportError: a SOCKS proxy needs a package
        raise RegistryError(
            f"the proxy cannot be used: {error}",
            hint="HTTPS_PROXY, HTTP_PROXY and ALL_PROXY name an http proxy, NO_PROXY exempts hosts",
        ) from None


def _verification(insecure: bool, ca: Path | None) -> ssl.SSLContext | bool:
    if insecure:
        return False
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"{ca}: not a file of PEM certificates ({error})") from None


def _refusal(response: httpx.Response, host: str, kind: type[RegistryRefused] | None = None) -> RegistryRefused:
    """The registry's error as ours: its JSON messages (distribution spec, "Error Codes") or the start of its text.
    `host`: the one whose credentials are wanted."""
    data, end = b"", time.monotonic() + limits.REPLY_SECONDS
    with contextlib.suppress(httpx.HTTPError):
        for piece in response.iter_raw():
            data += piece[: limits.MAX_ERROR_BODY - len(data)]
            if len(data) >= limits.MAX_ERROR_BODY or time.monotonic() > end:
                break
    status = response.status_code
    if kind is None:
        kind = Denied if status in (401, 403) else NotThere if status == 404 else RegistryRefused
    text = f"{response.request.method} {_shown(str(response.url))}: {status} {_message(data)}".rstrip()
    hint = denied_hint(host) if kind is Denied else None
    return kind(text, status, retry_after=_seconds(response.headers.get("retry-after")), hint=hint)


def _message(data: bytes) -> str:
    try:
        errors = parse_json(data, limit=limits.MAX_ERROR_BODY)["errors"]
        text = "; ".join(f"{error['code']}: {error.get('message', '')}" for error in errors[:3])
    except (ManifestsError, KeyError, TypeError):
        text = data.decode("utf-8", "replace")
    return "".join(c for c in text[:300] if c.isprintable()).strip()


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,4}", text) else None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _shown(url: str) -> str:
    """A URL without user, query and fragment, for people and logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _network_hint(error: httpx.HTTPError) -> str | None:
    text = str(error).lower()
    if "certificate" in text:
        return "--ca FILE names the authority to trust; --insecure does not check"
    if "ssl" in text or "wrong version" in text:
        return "a registry without TLS needs --insecure"
    return None
