"""Every request, seen: an id of ours, one line of the log, and the counts of `runtime.metrics`.

`Observed` is the outermost part of the application, so that what the others refuse is seen too. It keeps one Record for
each request where `watching`, which goes around every generation, finds it. A record holds counts, names and times,
never a header; the text of request and answer only where the server was told --log-text.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from native.record import field, record
from runtime import logs
from runtime.api.transport import DIRECT
from runtime.metrics import Metrics, Watch

log = logging.getLogger("sealift.request")

QUIET = ("/", "/health", "/metrics")  # asked by machines every few seconds: logged at level debug
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_ROUTE = "(none)"


@record(slots=True, kw_only=True)
class Record:
    """Of one request. `key`, `key_id`: who asked, "" where nobody was asked. Sizes in bytes, times in nanoseconds;
    of several generations the line has the sums."""

    id: str
    metrics: Metrics
    began: int = field(default_factory=time.monotonic_ns)
    route: str = ""  # the path as the application declares it
    status: int = 0
    key: str = ""
    key_id: str = ""
    denied: str = ""
    traceparent: str = ""  # of whoever asks, where spans are made
    model: str = ""
    digest: str = ""
    watches: list[Watch] = field(default_factory=list)
    taken: int = 0
    sent: int = 0
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)


def record_now() -> Record | None:
    """Of the request that this task, or the one it came from, answers."""
    return _RECORD.get()


def denied(reason: str) -> None:
    """Notes why this request was turned away; the first word counts."""
    record = _RECORD.get()
    if record is not None and not record.denied:
        record.denied = reason
        record.metrics.denied[reason] += 1


def note_model(name: str, digest: str) -> None:
    """What this request is about."""
    record = _RECORD.get()
    if record is not None:
        record.model, record.digest = name, digest


@contextlib.asynccontextmanager
async def watching(metrics: Metrics, name: str, digest: str) -> AsyncIterator[Watch]:
    """Goes around a generation by the model `name`, whose manifest has `digest`, from the moment it is wanted."""
    watch, record = metrics.watch(name, digest), _RECORD.get()
    note_model(name, digest)
    if record is not None:
        record.watches.append(watch)
    try:
        yield watch
    except BaseException as error:
        watch.close(error)
        raise
    finally:
        watch.close()


class Observed:
    """ASGI middleware, outermost. `texts`: log the text of requests and answers too."""

    def __init__(self, app: Any, *, metrics: Metrics, texts: bool = False) -> None:
        self._app, self._metrics, self._texts = app, metrics, texts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(id=secrets.token_hex(8), metrics=self._metrics)
        if self._metrics.on_end is not None:
            record.traceparent = dict(scope["headers"]).get(b"traceparent", b"")[:64].decode("latin-1")
        token = _RECORD.set(record)
        try:
            await self._app(
                self._lent(scope, record), self._taking(receive, record), self._sending(send, record, scope["path"])
            )
        except Exception:
            record.status = record.status or 500  # what the framework answers to a fault of ours
            raise
        finally:
            _RECORD.reset(token)
            self._tell(scope, record)

    def _taking(self, receive: Any, record: Record) -> Any:
        async def taking() -> Any:
            message = await receive()
            body = message.get("body", b"")
            record.taken += len(body)
            self._keep(record.asked, body)
            return message

        return taking

    def _sending(self, send: Any, record: Record, path: str) -> Any:
        headers = [(b"x-request-id", record.id.encode())]
        if path.startswith("/v1/messages"):
            headers.append((b"request-id", b"req_" + record.id.encode()))  # where Anthropic's clients look for it

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            else:
                body = message.get("body", b"")
                record.sent += len(body)
                self._keep(record.answered, body)
            await send(message)

        return sending

    def _lent(self, scope: Any, record: Record) -> Any:
        """Chunks that pass by the layers above are counted too."""
        direct = scope.get("extensions", {}).get(DIRECT)
        if direct is None:
            return scope

        def counting(chunk: bytes) -> bool:
            if not direct(chunk):
                return False
            record.sent += len(chunk)
            if self._texts:
                self._keep(record.answered, chunk)
            return True

        return {**scope, "extensions": {**scope["extensions"], DIRECT: counting}}

    def _keep(self, texts: bytearray, chunk: bytes) -> None:
        if self._texts and len(texts) < logs.MAX_TEXT:
            texts += chunk[: logs.MAX_TEXT - len(texts)]

    def _tell(self, scope: Any, record: Record) -> None:
        seconds = (time.monotonic_ns() - record.began) / 1e9
        method = scope["method"] if scope["method"] in METHODS else "(other)"
        status = record.status or 499  # nothing was answered: the client had gone
        self._metrics.request(record.route or NO_ROUTE, method, status, seconds)
        level = logging.WARNING if record.denied else logging.DEBUG if record.route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            logs.event(log, level, "request", self._fields(scope, record, method, status, seconds))

    def _fields(self, scope: Any, record: Record, method: str, status: int, seconds: float) -> dict[str, Any]:
        client = scope.get("client")
        headers = dict(scope["headers"])
        fields = {
            "id": record.id,
            "their_id": headers.get(b"x-request-id", b"").decode("latin-1"),
            "client": client[0] if client else "",
            "key": record.key,
            "key_id": record.key_id,
            "method": method,
            "route": record.route or NO_ROUTE,
            "path": "" if scope["path"] == record.route else scope["path"],
            "status": status,
            "denied": record.denied,
            "model": record.model,
            "digest": record.digest,
            **_generated(record.watches),
            "seconds": seconds,
            "bytes_in": record.taken,
            "bytes_out": record.sent,
        }
        if self._texts:
            fields |= {"request": logs.Text(record.asked.decode("utf-8", "replace"))}
            fields |= {"answer": logs.Text(record.answered.decode("utf-8", "replace"))}
        return fields


def _generated(watches: list[Watch]) -> dict[str, Any]:
    if not watches:
        return {}
    usages = [watch.usage for watch in watches]
    return {
        "reason": watches[-1].reason,
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "cached_tokens": sum(usage.cached_tokens for usage in usages),
        "generated_tokens": sum(usage.generated_tokens for usage in usages),
        "load_seconds": sum(usage.load_ns for usage in usages) / 1e9,
        "queue_seconds": sum(usage.queue_ns for usage in usages) / 1e9,
        "prompt_seconds": sum(usage.prompt_ns for usage in usages) / 1e9,
        "generate_seconds": sum(usage.generate_ns for usage in usages) / 1e9,
    }
