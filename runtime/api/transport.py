"""From generators of bytes to HTTP answers, and from requests to bytes.

* `Answer` sends what a generator yields. The first chunk decides: a failure before it becomes a plain error with its
  status, a failure after it a last chunk in the dialect's own form. A client that goes away cancels the generator, and
  the answer waits until it has ended. So does a client that takes nothing for PATIENCE_S: it holds its model.
* `read_body` bounds a body. `in_thread` runs blocking work and yields what it reports.

Between the first chunk and the last one an answer writes to the connection itself where the server lends it (DIRECT): a
token then passes none of the layers above, and no timer is set. Whatever is not plain (a client that reads too slowly,
HTTP/1.0, another server) goes the ordinary way, chunk by chunk.

Invariant: a generator that was started is closed before the answer's call returns, whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import zstandard
from starlette.requests import Request
from starlette.responses import Response

from runtime.api.gojson import dump
from runtime.errors import RequestCancelled, RequestRefused

log = logging.getLogger("sealift.api")

MAX_BODY = 32 << 20  # bytes of a JSON body
PATIENCE_S = 120.0  # seconds without a byte, sent or taken, after which a client has gone
JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

DIRECT = "sealift.direct"  # in scope["extensions"]: a Direct, where the server has one

Chunks = AsyncGenerator[bytes, None]
Direct = Callable[[bytes], bool]  # takes a chunk of a body that has begun, or answers False and has done nothing


class Failure:
    """What a client is told: `status`, `text`, for a person `hint`, for a program `code` and the `param` to blame.

    A path of this host stays in the log: where an error's text begins with one, `plain` is without it.
    Every room's errors carry an `http_status` (the transfers' come from a room this one may not import); an exception
    without one is a fault of ours, and its text stays in the log.
    """

    __slots__ = ("code", "hint", "param", "status", "text")

    def __init__(self, error: BaseException) -> None:
        self.hint: str | None = getattr(error, "hint", None)
        self.param: str | None = getattr(error, "param", None)
        self.code: str | None = getattr(error, "code", None)
        status = getattr(error, "http_status", None)
        if isinstance(status, int):
            self.status, self.text = status, getattr(error, "plain", str(error))
            if self.status >= 500:
                log.warning("answered %d: %s", self.status, str(error))  # whoever keeps the record keeps no frames
            return
        reference = secrets.token_hex(4)
        log.error("internal error %s", reference, exc_info=error)
        self.status, self.text = 500, f"internal error {reference}, the server's log says more"


class Dialect(Protocol):
    """How one API words a failure."""

    def early(self, failure: Failure) -> bytes:
        """The JSON body of an error answer."""

    def late(self, failure: Failure) -> bytes:
        """The chunk that ends a stream which has already begun."""


class Native:
    """Ollama's: `{"error":"..."}`, in a stream on a line of its own."""

    def early(self, failure: Failure) -> bytes:
        body = {"error": failure.text}
        return dump(body | {"hint": failure.hint} if failure.hint else body)

    def late(self, failure: Failure) -> bytes:
        return self.early(failure) + b"\n"


NATIVE = Native()


def error_response(error: BaseException, dialect: Dialect = NATIVE) -> Response:
    failure = Failure(error)
    return Response(dialect.early(failure), status_code=failure.status, media_type=JSON)


def json_response(value: Any, status: int = 200, media_type: str = JSON) -> Response:
    return Response(dump(value), status_code=status, media_type=media_type)


async def pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes. A client that stops in the middle of it is let go after PATIENCE_S."""
    stream = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), PATIENCE_S)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise RequestRefused(
                f"the request's body stopped coming for {PATIENCE_S:g} seconds", http_status=408
            ) from None


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, decompressed where it says it is zstd (some agents send it so); `limit` holds before and after."""
    body = bytearray()
    async for chunk in pieces(request):
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return bytes(body)
    if encoding != "zstd":
        raise RequestRefused(
            f"content-encoding {encoding[:40]!r} is not supported: send zstd, or none", http_status=415
        )
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_BODY).stream_reader(bytes(body)) as stream:
            data = stream.read(limit + 1)
    except zstandard.ZstdError as error:
        raise RequestRefused(f"the body is not zstd: {error}") from None
    if len(data) > limit:
        raise _too_large(limit)
    return data


def _too_large(limit: int) -> RequestRefused:
    return RequestRefused(f"http: request body too large: at most {limit} bytes are accepted", http_status=413)


class Answer(Response):
    """An HTTP answer from a generator. `whole`: its chunks are one JSON document, sent with its length at the end."""

    def __init__(self, chunks: Chunks, *, media_type: str, dialect: Dialect = NATIVE, whole: bool = False) -> None:
        super().__init__(media_type=media_type)
        self._chunks, self._dialect, self._whole = chunks, dialect, whole
        self._started = False
        self._direct: Direct = lambda chunk: False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self._whole:
            self._direct = scope.get("extensions", {}).get(DIRECT, self._direct)
        work = asyncio.ensure_future(self._work(self._patient(send)))
        watch = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            watch.cancel()
            outcome, _ = await asyncio.gather(work, watch, return_exceptions=True)
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError):  # OSError: nobody reads any more
            raise outcome

    def _patient(self, send: Any) -> Any:
        loop = asyncio.get_running_loop()

        async def sending(message: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            timer = loop.call_later(PATIENCE_S, task.cancel)
            try:
                await send(message)
            finally:
                timer.cancel()

        return sending

    async def _work(self, send: Any) -> None:
        try:
            async with aclosing(self._chunks):
                if self._whole:
                    await self._send(send, b"".join([chunk async for chunk in self._chunks]), last=True)
                    return
                async for chunk in self._chunks:
                    if not (self._started and self._direct(chunk)):
                        await self._send(send, chunk)
            await self._send(send, b"", last=True)
        except OSError:
            raise
        except Exception as error:
            await self._fail(send, error)

    async def _send(self, send: Any, chunk: bytes, *, last: bool = False) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", str(self.media_type).encode())]
            length = (b"content-length", str(len(chunk)).encode())
            headers.append(length if self._whole else (b"cache-control", b"no-cache"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": chunk, "more_body": not last})

    async def _fail(self, send: Any, error: Exception) -> None:
        failure = Failure(error)
        if self._started:
            await self._send(send, self._dialect.late(failure), last=True)
            return
        body = self._dialect.early(failure)
        headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": failure.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Report = Callable[[dict[str, Any]], None]
T = TypeVar("T")


async def in_thread(work: Callable[[Report], None]) -> AsyncGenerator[dict[str, Any], None]:
    """Runs blocking `work` in a thread and yields what it reports. When the consumer leaves, the next report raises
    RequestCancelled inside `work`; leaving waits for that. Reports that nobody has read yet are kept up to a bound."""
    loop = asyncio.get_running_loop()
    reports: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    left = False

    def report(value: dict[str, Any]) -> None:
        if left:
            raise RequestCancelled()
        if reports.qsize() < _MAX_REPORTS or "completed" not in value:
            loop.call_soon_threadsafe(reports.put_nowait, value)

    task = asyncio.ensure_future(long_work(work, report))
    task.add_done_callback(lambda _: reports.put_nowait(None))
    try:
        while (value := await reports.get()) is not None:
            yield value
        await task
    finally:
        left = True
        await asyncio.gather(task, return_exceptions=True)


async def long_work(work: Callable[..., T], *arguments: Any) -> T:
    """Blocking work that may take as long as a network does, in threads of its own: lookups never wait behind it."""
    return await asyncio.get_running_loop().run_in_executor(_LONG, work, *arguments)


_MAX_REPORTS = 1000  # progress lines (not status lines) beyond this are dropped while the client is slow
_LONG = ThreadPoolExecutor(max_workers=16, thread_name_prefix="sealift-transfer")
