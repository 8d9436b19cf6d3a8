"""Routes over the store: tags, show, copy, delete, create and blobs (contract, 1.10 and 5.4).

Store work blocks, so it runs in threads. Nothing here talks to the network: an unknown `from` is an error, not a pull.
Refuses by name what is not built: draft models, remote stubs. What makes models is imported by the first request that
asks for it: a server starts without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from manifests.digest import Digest
from manifests.errors import DigestMismatch, ManifestsError, ModelNameError, NotFound
from manifests.name import ModelName
from runtime.access.visible import VisibleStore
from runtime.api import names
from runtime.api.durations import rfc3339
from runtime.api.gojson import Body, dump, read_object
from runtime.api.prompts import MAX_MESSAGES
from runtime.api.state import Report, Server, server_of
from runtime.api.transport import NDJSON, Answer, Chunks, in_thread, json_response, long_work, pieces, read_body
from runtime.card import ModelCard
from runtime.describe import describe
from runtime.errors import ModelNotFound, RequestCancelled, RequestRefused, RuntimeFailure
from runtime.text.errors import TemplateError

if TYPE_CHECKING:
    from manifests.create import CreateRequest

log = logging.getLogger("sealift.api")

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


LARGE = 64 << 10  # bytes of a body that is read in a thread: less takes a millisecond


async def body_of(request: Request, struct: str) -> Body:
    raw = await read_body(request)
    return read_object(raw, struct) if len(raw) <= LARGE else await asyncio.to_thread(read_object, raw, struct)


def model_field(body: Body) -> str:
    """`model`, or the older `name`; "" when neither is given."""
    return (body.text("model") or body.text("name")).strip()


# -- tags and show


async def tags(request: Request) -> Response:
    return json_response({"models": await asyncio.to_thread(_list, server_of(request))})


def _list(server: Server) -> list[dict[str, Any]]:
    """Newest first. A model whose own files cannot be read is left out, with a line in the log."""
    found = []
    for name in server.store.names():
        try:
            modified = server.store.modified(name).timestamp()
            found.append((modified, name.short, entry(name, server.box.card(name), modified)))
        except (ManifestsError, RuntimeFailure) as error:
            log.warning("%s is not listed: %s", name.short, error)
    found.sort(key=lambda item: (-item[0], item[1]))
    return [item[2] for item in found]


def entry(name: ModelName, card: ModelCard, modified: float) -> dict[str, Any]:
    config = {key: card.config[key] for key in ("remote_model", "remote_host") if isinstance(card.config.get(key), str)}
    return {
        "name": name.short,
        "model": name.short,
        **{key: value for key, value in config.items() if value},
        "modified_at": rfc3339(round(modified * 1e9)),
        "size": card.manifest.size,
        "digest": card.manifest.digest.hex,
        "details": card.details,
        "capabilities": list(card.capabilities),
    }


async def show(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "ShowRequest")
    asked = model_field(body)
    if not asked:
        raise RequestRefused("model is required")
    verbose, system = body.flag("verbose"), body.text("system")
    found = await asyncio.to_thread(describe, server.box, asked, verbose=verbose, system=system)
    if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):  # contract, 3.5: it shows this name
        found["model_info"]["general.basename"] = asked
    return json_response(found)


# -- copy and delete


async def copy(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "CopyRequest")
    await asyncio.to_thread(_copy, server, body.text("source"), body.text("destination"))
    return Response(status_code=200)


def _copy(server: Server, source: str, destination: str) -> None:
    old = names.parse(source, server.store)
    if old is None:
        raise RequestRefused(f'source "{source}" is invalid')
    try:
        new = ModelName.parse(destination.strip())
    except ModelNameError:
        raise RequestRefused(f'destination "{destination}" is invalid') from None
    try:
        server.store.copy(old, new)
    except NotFound as error:
        if server.store.has(old):  # the model is there: what was not found is one of its blobs
            raise error
        raise ModelNotFound(f'model "{source}" not found') from None


async def delete(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "DeleteRequest")
    asked = model_field(body)
    if not asked:
        raise RequestRefused("model is required")
    name = await asyncio.to_thread(names.parse, asked, server.store)
    if name is None:
        raise RequestRefused(f'name "{asked}" is invalid')
    try:
        await asyncio.to_thread(server.store.remove, name)
    except NotFound:
        raise ModelNotFound(f"model '{asked}' not found") from None
    return Response(status_code=200)


# -- create


async def create_model(request: Request) -> Response:
    from manifests.create import create

    server, body = server_of(request), await body_of(request, "CreateRequest")
    try:
        name = ModelName.parse(model_field(body))
    except ModelNameError:
        raise RequestRefused("invalid model name") from None
    if isinstance(server.store, VisibleStore):
        server.store.require_allowed(name)  # before a minute of quantizing, and before a stream has begun
    wanted = await asyncio.to_thread(_create_request, server, body)

    def work(report: Report) -> None:
        create(server.store, name, wanted, lambda line: report({"status": line}), partial(_bar, report))

    return progress_answer(in_thread(work), stream=body.flag("stream", True))


@contextlib.contextmanager
def _bar(report: Report, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """One long step as Ollama's clients show it: a status with bytes, at most one line for each hundredth."""
    done, said, key = 0, 0, str(Digest.of(title.encode()))  # clients draw one bar for each digest

    def step(size: int) -> None:
        nonlocal done, said
        done += size
        if (done - said) * 100 >= total or done >= total:
            said = done
            report({"status": title, "digest": key, "total": total, "completed": min(done, total)})

    yield step


def _create_request(server: Server, body: Body) -> CreateRequest:
    from manifests.create import CreateRequest
    from manifests.quantize import recipe

    if body.raw("draft_quantize"):
        raise RequestRefused("--draft-quantize requires a DRAFT model")
    for key in ("draft_files", "remote_host", "info"):
        if body.raw(key):
            raise RequestRefused(f"'{key}' is not supported by this server")
    base = body.text("from").strip()
    if not base and not body.object("files"):
        raise RequestRefused("neither 'from' or 'files' was specified")
    license_text = body.raw("license")
    licenses = [license_text] if isinstance(license_text, str) else body.array("license", str, "string")
    said = body.structs("messages", "Message", most=MAX_MESSAGES)
    messages = [(message.text("role").lower(), message.text("content")) for message in said]
    texts = ("template", "system", "renderer", "parser", "requires")
    optional = {key: body.text(key) if body.has(key) else None for key in texts}
    _check_template(optional["template"])
    asked = body.text("quantize") or body.text("quantization")
    return CreateRequest(
        from_model=_base_name(server, base) if base else None,
        files=_digests(body, "files"),
        adapters=_digests(body, "adapters"),
        licenses=tuple(text for text in licenses if text),
        parameters=body.object("parameters"),
        messages=tuple(messages),
        quantize=recipe.target(asked) if asked else None,
        **optional,
    )


def _check_template(text: str | None) -> None:
    from runtime.text.gotemplate.template import GoTemplate

    try:
        GoTemplate(text or "")
    except TemplateError as error:
        raise RequestRefused(f"template error: {error}") from None


def _base_name(server: Server, text: str) -> ModelName:
    name = names.parse(text, server.store)
    if name is None:
        raise RequestRefused("invalid model name")
    return name


def _digests(body: Body, key: str) -> dict[str, Digest]:
    found = {}
    for path, text in body.object(key).items():
        if path.startswith(("/", "\\", "~")) or ".." in re.split(r"[/\\]", path):
            raise RequestRefused("file path must be relative")
        if not isinstance(text, str):
            raise body.wrong(key, "value", "string")
        found[path] = parse_digest(text)
    return found


def progress_answer(reports: AsyncIterator[dict[str, Any]], *, stream: bool) -> Answer:
    """Every report on a line, or only the last one."""
    if stream:
        return Answer(_lines(reports), media_type=NDJSON)
    return Answer(_last(reports), media_type="application/json", whole=True)


async def _lines(reports: AsyncIterator[dict[str, Any]]) -> Chunks:
    async for report in reports:
        yield dump(report) + b"\n"


async def _last(reports: AsyncIterator[dict[str, Any]]) -> Chunks:
    last: dict[str, Any] = {}
    try:
        async for report in reports:
            last = report
    except Exception as error:
        if getattr(error, "http_status", 0) == 404:  # contract, 11.3: a pull or create that finds nothing is a 500
            raise RuntimeFailure(str(error), hint=getattr(error, "hint", None)) from None
        raise
    yield dump(last)


# -- blobs


def parse_digest(text: str) -> Digest:
    match = _DIGEST.fullmatch(text)
    if not match:
        raise RequestRefused("invalid digest format")
    return Digest(match.group(1).lower())


async def blob_exists(request: Request) -> Response:
    digest = parse_digest(request.path_params["digest"])
    if not await asyncio.to_thread(server_of(request).store.has_blob, digest):
        raise ModelNotFound(f'blob "{digest}" not found')
    return Response(status_code=200)


async def blob_upload(request: Request) -> Response:
    """201 when the bytes were taken, 200 when they were here. Size is checked against the free disk first, where the
    client tells it; other bytes than the digest says are not kept."""
    digest = parse_digest(request.path_params["digest"])
    store = server_of(request).store
    if await asyncio.to_thread(store.has_blob, digest):
        return Response(status_code=200)
    told = request.headers.get("content-length", "")
    size = int(told) if told.isascii() and told.isdigit() and len(told) <= 20 else None
    body = _ThreadedBody(request, asyncio.get_running_loop())
    try:
        await long_work(lambda: store.put_stream(body, size=size, digest=digest))
    except ClientDisconnect:
        raise RequestCancelled() from None
    except DigestMismatch as error:
        found = str(error).rpartition("found ")[2]
        raise RequestRefused(f'digest mismatch, expected "{digest}", got "{found}"') from None
    return Response(status_code=201)


class _ThreadedBody:
    """A request's body for a reader in another thread: each piece is asked for when it is wanted."""

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._loop = pieces(request), loop

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if piece is None:
                return
            yield piece

    async def _next(self) -> bytes | None:
        async for piece in self._stream:
            return piece
        return None
