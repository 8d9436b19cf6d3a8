"""Texts as vectors: /api/embed, the older /api/embeddings, and OpenAI's /v1/embeddings (contract, 1.9 and 1.11).

    body -> texts -> ids, cut to the context -> model.embed, many at once -> normalised -> JSON, some vectors at a time

Every vector has length 1, but the older route's where the file says `normalize_embeddings` false: those come as the
model gives them. Refuses by name: a model that only answers with text, input that is no text or list of texts, more
than MAX_TEXTS, and with `truncate` false a text longer than the context. OpenAI's route also takes token ids: they are
the model's own, and nothing is put around them.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from manifests.name import ModelName
from native.record import record
from runtime.api.asking import client_of, keep_alive_of, model_of, wanted
from runtime.api.gojson import Body, dump
from runtime.api.observing import watching
from runtime.api.openai.wire import OPENAI
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.transport import JSON, Answer, Chunks
from runtime.card import ModelCard
from runtime.errors import CapabilityMissing, ContextExceeded, ModelNotFound, RequestRefused
from runtime.events import Finish, Usage
from runtime.loaded import LoadedModel
from runtime.options import Options, merge

MAX_TEXTS = 10_000  # of one request
AHEAD = 32  # texts of one request that the worker has at once: two steps' worth
PIECE = 16  # vectors that are written at a time
WHOLE = 64  # answers of more vectors than this are not held back until their length is known

Text = str | tuple[int, ...]  # or its ids


@record(frozen=True, slots=True, kw_only=True)
class Texts:
    """What is asked. `asked`: the model's name as the client wrote it; `dimensions` 0: all; `keep_alive` in seconds."""

    asked: str
    name: ModelName
    card: ModelCard
    options: Options
    texts: tuple[Text, ...]
    truncate: bool
    dimensions: int
    keep_alive: float | None
    client: str


@record(frozen=True, slots=True, kw_only=True)
class Found:
    """`vectors`: as the model gave them, one for each text. Times in nanoseconds."""

    vectors: list[array[float]]
    tokens: int
    load_ns: int
    total_ns: int


async def embed(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "EmbedRequest")
    texts = _texts(body.raw("input"), "invalid input type")
    ask = await _ask(request, body, texts, empty="model '' not found", status=404)
    return Answer(_embed(server, ask), media_type=JSON, whole=len(texts) <= WHOLE)


async def embeddings(request: Request) -> Response:
    """The older route: one text, one vector."""
    server, body = server_of(request), await body_of(request, "EmbeddingRequest")
    prompt = body.text("prompt")
    ask = await _ask(request, body, (prompt,) if prompt else (), empty="model is required")
    return Answer(_embedding(server, ask), media_type=JSON, whole=True)


async def openai_embeddings(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "EmbedRequest")
    texts = _texts(body.raw("input"), "invalid input", ids=True)
    if not texts:
        raise RequestRefused("invalid input: expected a text, or a list of at least one")
    form = body.text("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise RequestRefused(f"encoding_format must be float or base64, found {form[:40]!r}")
    ask = await _ask(request, body, texts, empty="model is required")
    chunks = _openai(server, ask, encoded=form == "base64")
    return Answer(chunks, media_type=JSON, dialect=OPENAI, whole=len(texts) <= WHOLE)


# -- from the body


def _texts(value: Any, invalid: str, *, ids: bool = False) -> tuple[Text, ...]:
    """Absent and "" are no text. `ids`: a text may also be a list of token ids, and the input be one such text."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise RequestRefused(invalid)
    if ids and value and _is_ids(value):
        return (tuple(value),)
    if len(value) > MAX_TEXTS:
        raise RequestRefused(f"the input has {len(value)} texts, at most {MAX_TEXTS} are taken in one request")
    if not all(isinstance(item, str) or (ids and _is_ids(item)) for item in value):
        raise RequestRefused(invalid)
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {int}


async def _ask(request: Request, body: Body, texts: tuple[Text, ...], *, empty: str, status: int = 400) -> Texts:
    server, asked = server_of(request), body.text("model").strip()
    if not asked:
        raise RequestRefused(empty, http_status=status)
    name, card = await _model(server, asked)
    if not card.can("embedding"):
        hint = "it answers with text; an embedding model's file says how its vectors are made (pooling_type)"
        raise CapabilityMissing(f'"{asked}" does not support embeddings', hint=hint)
    return Texts(
        asked=asked,
        name=name,
        card=card,
        options=merge(card.params, body.object("options")),
        texts=texts,
        truncate=body.flag("truncate", True),
        dimensions=body.integer("dimensions"),
        keep_alive=keep_alive_of(body),
        client=client_of(request),
    )


async def _model(server: Server, asked: str) -> tuple[ModelName, ModelCard]:
    try:
        return await model_of(server, asked, spoken=False)
    except ModelNotFound as error:
        raise ModelNotFound(f'model "{asked}" not found, try pulling it first', hint=error.hint) from None


# -- from the model


@asynccontextmanager
async def _found(server: Server, ask: Texts) -> AsyncIterator[Found]:
    """Loads the model, also for no text at all. The model is kept until the answer is written. To the metrics all texts
    of a request are one prompt."""
    started = time.monotonic_ns()
    watched = watching(server.metrics, ask.name.short, ask.card.manifest.digest.hex)
    async with watched as watch, server.manager.use(wanted(server, ask), keep_alive=ask.keep_alive) as model:
        load_ns = time.monotonic_ns() - started
        ids = await asyncio.get_running_loop().run_in_executor(_THREADS, _encode, model, ask)
        watch.at(model)
        vectors = await _vectors(model, ids, ask.client)
        tokens, total_ns = sum(map(len, ids)), time.monotonic_ns() - started
        usage = Usage(prompt_tokens=tokens, load_ns=load_ns, prompt_ns=total_ns - load_ns, total_ns=total_ns)
        watch.ended(Finish(reason="stop", usage=usage, seed=0))
        yield Found(vectors=vectors, tokens=tokens, load_ns=load_ns, total_ns=total_ns)


_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sealift-texts")


def _encode(model: LoadedModel, ask: Texts) -> list[Sequence[int]]:
    return [_fitting(model, text, truncate=ask.truncate) for text in ask.texts]


def _fitting(model: LoadedModel, text: Text, *, truncate: bool) -> Sequence[int]:
    """The text's head where it is too long, with the end that the tokenizer puts there. Names of control tokens in a
    text are those tokens, as for the peers: there is no template that they could break out of."""
    tokenizer, limit = model.tokenizer, model.n_ctx
    ids = tokenizer.encode(text, special=True) if isinstance(text, str) else text
    if len(ids) <= limit:
        return ids
    if not truncate:
        raise ContextExceeded(f"the input length exceeds the context length: {len(ids)} tokens, at most {limit}")
    end = [tokenizer.eos] if isinstance(text, str) and tokenizer.add_eos and tokenizer.eos is not None else []
    return [*ids[: limit - len(end)], *end]


async def _vectors(model: LoadedModel, texts: Sequence[Sequence[int]], client: str) -> list[array[float]]:
    """In the order of the texts. The first failure ends the others."""
    found: dict[int, array[float]] = {}
    line = iter(enumerate(texts))

    async def work() -> None:
        for place, ids in line:
            found[place] = await model.embed(ids, client=client)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(AHEAD, len(texts)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [found[place] for place in range(len(texts))]


def normalized(vector: array[float], dimensions: int = 0) -> array[float]:
    """The vector's first `dimensions` values (0, or more than it has: all) times what makes their length 1."""
    kept = vector[:dimensions] if dimensions > 0 else vector
    length = math.hypot(*kept)
    return array("f", (value / length for value in kept)) if length else kept


# -- to bytes


async def _embed(server: Server, ask: Texts) -> Chunks:
    async with _found(server, ask) as found:
        yield dump({"model": ask.asked})[:-1] + b',"embeddings":['
        async for piece in _written(found.vectors, lambda _, vector: _numbers(normalized(vector, ask.dimensions))):
            yield piece
        facts = {"total_duration": found.total_ns, "load_duration": found.load_ns, "prompt_eval_count": found.tokens}
        yield b"]," + dump(facts)[1:]


async def _embedding(server: Server, ask: Texts) -> Chunks:
    gguf = ask.card.gguf
    raw = gguf is not None and gguf.info.get(f"{gguf.architecture}.normalize_embeddings") is False
    async with _found(server, ask) as found:
        vectors = found.vectors if raw else [normalized(vector) for vector in found.vectors]
        yield dump({"embedding": _numbers(vectors[0]) if vectors else []})


async def _openai(server: Server, ask: Texts, *, encoded: bool) -> Chunks:
    def entry(place: int, vector: array[float]) -> dict[str, Any]:
        value = normalized(vector, ask.dimensions)
        shown = base64.b64encode(struct.pack(f"<{len(value)}f", *value)).decode() if encoded else _numbers(value)
        return {"object": "embedding", "embedding": shown, "index": place}

    async with _found(server, ask) as found:
        yield b'{"object":"list","data":['
        async for piece in _written(found.vectors, entry):
            yield piece
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        yield b"]," + dump({"model": ask.asked, "usage": usage})[1:]


async def _written(vectors: list[array[float]], entry: Callable[[int, array[float]], Any]) -> Chunks:
    """`entry` of each place and vector as JSON with commas between, PIECE at a time, in a thread: a vector may take a
    millisecond, and nobody else's answer waits for thousands."""

    def piece(first: int) -> bytes:
        part = enumerate(vectors[first : first + PIECE], first)
        return (b"," if first else b"") + b",".join(dump(entry(place, vector)) for place, vector in part)

    for first in range(0, len(vectors), PIECE):
        yield await asyncio.get_running_loop().run_in_executor(_THREADS, piece, first)


def _numbers(vector: array[float]) -> list[float]:
    """Nine digits: as many as a float32 needs to be read back the same."""
    return [float(f"{value:.9g}") for value in vector]
