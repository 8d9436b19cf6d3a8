"""LoadedModel: one model that answers. Token ids go to its worker, text comes back as events (runtime.events); from a
model that embeds, a vector.

    request -> worker (ids) -> runtime.answer -> TextDelta ... Finish

Refuses, before anything is sent: an empty prompt, a prompt that fills the context (a text to embed may), token ids the
model does not have, and what the model is not for.
Invariants: `generate` yields exactly one Finish, last; closing or cancelling its iterator cancels the sequence in the
worker; the text of an answer does not depend on who else is asking.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
import time
from array import array
from collections.abc import AsyncGenerator, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from manifests.errors import GgufError
from manifests.gguf import Gguf
from native.errors import LibraryError
from native.record import record
from native.tokenizer import pass_strings
from runtime.answer import Answer, Events, GenerateRequest, Opening, definite
from runtime.engine.constraint import Constraint, prepared
from runtime.engine.link import Link
from runtime.engine.protocol import load_frame
from runtime.engine.sampling import Sampling
from runtime.engine.spawn import COMMAND, Spare
from runtime.engine.stream import Ended, Stream, Vector
from runtime.engine.vocabulary import MAX_BYTES, Vocabulary
from runtime.errors import (
    CapabilityMissing,
    ContextExceeded,
    EngineAbsent,
    ModelRefused,
    RequestCancelled,
    RequestRefused,
    RuntimeFailure,
)
from runtime.events import Event
from runtime.source import MAX_SEQS, ModelSource, load_of
from runtime.text.tokenizer import Tokenizer

__all__ = ["Constraint", "Figures", "GenerateRequest", "LoadedModel", "Sampling", "load_model"]

log = logging.getLogger("sealift.engine")


@record(frozen=True, slots=True, kw_only=True)
class Figures:
    """Memory of one loaded model, in bytes."""

    weights: int
    cache: int
    scratch: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.scratch


class LoadedModel:
    """Made by `load_model`. `closed` is set when its worker has gone, wished for or not."""

    def __init__(self, *, source: ModelSource, tokenizer: Tokenizer, n_ctx_train: int, link: Link) -> None:
        ready = link.ready
        self.source = source
        self.tokenizer = tokenizer
        self.n_ctx = ready.n_ctx
        self.n_ctx_train = n_ctx_train
        self.vocab = ready.vocab
        self.ready = ready
        self.figures = Figures(weights=ready.weight_bytes, cache=ready.kv_bytes, scratch=ready.scratch_bytes)
        self.max_seqs = MAX_SEQS
        self._link = link
        self._taught: asyncio.Task[None] | None = None  # the worker knows the vocabulary when it is done

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def alive(self) -> bool:
        return self._link.alive

    @property
    def unpacked(self) -> bool:
        """Whether its weights had to be packed at this load, and packs are kept for it."""
        return bool(self.source.packs) and self.ready.pack != "used"

    @property
    def pid(self) -> int:
        return self._link.pid

    @property
    def waiting(self) -> int:
        """Requests that no step has begun, or that were put back: in line though the batch may have places."""
        return self._link.waiting

    @property
    def cache_use(self) -> float:
        """The share of the key/value pool that running requests hold, 0 to 1."""
        return self._link.used_blocks / max(1, self.ready.n_blocks)

    @property
    def preemptions(self) -> int:
        """How often, since it was loaded, a request had to give its place to another."""
        return self._link.preemptions

    async def died(self) -> None:
        """Returns when the worker has gone."""
        await self._link.dead.wait()

    async def close(self) -> None:
        """Ends the worker; its open requests end in an error."""
        await self._link.close()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """The answer as events. Raises at the call, before any event: RequestRefused, ContextExceeded, WorkerDied. A
        constraint that is refused ends the events at once, with that error in Finish."""
        self._check(request)
        sampling = request.sampling.seeded()
        answer = Answer(request, self.tokenizer, seed=definite(sampling), started=time.monotonic_ns())
        if request.constraint is not None:
            opening = Opening(self._constrained(request, request.constraint, sampling), self._link)
            return Events(opening, answer, cancel=opening.cancel)
        id, stream = self._submit(request, sampling, None)
        return Events(stream, answer, cancel=lambda: self._link.cancel(id))

    def _submit(
        self, request: GenerateRequest, sampling: Sampling, constraint: Constraint | None
    ) -> tuple[int, Stream]:
        room = self.n_ctx - len(request.prompt)
        return self._link.submit(
            request.prompt,
            sampling,
            max_tokens=room if request.max_tokens is None else min(request.max_tokens, room),
            ends=() if request.ignore_eos else sorted(self.tokenizer.eog),
            client=request.client,
            salt=request.salt,
            constraint=constraint,
            score=request.prompt_logprobs,
        )

    async def _constrained(
        self, request: GenerateRequest, constraint: Constraint, sampling: Sampling
    ) -> tuple[int, Stream]:
        """Large schemas and vocabularies keep threads busy, not the loop."""
        ready = await asyncio.to_thread(prepared, constraint)
        if self._taught is None:
            self._taught = asyncio.ensure_future(self._teach())
        await asyncio.shield(self._taught)
        return self._submit(request, sampling, ready)

    async def _teach(self) -> None:
        self._link.teach(await asyncio.to_thread(vocabulary_of, self.tokenizer))

    async def embed(self, tokens: Seq[int], *, client: str = "", salt: str = "") -> array[float]:
        """The vector of a text as the model gives it: [ready.vector] float32, all finite. Raises RequestRefused,
        ContextExceeded, WorkerDied, RuntimeFailure. Cancelled, the text leaves the worker."""
        if not self.ready.vector:
            raise CapabilityMissing("the model does not support embeddings")
        if not tokens:
            raise RequestRefused("the input is empty", hint="a text needs at least one token")
        if len(tokens) > self.n_ctx:
            raise ContextExceeded(f"the input length exceeds the context length: {len(tokens)} tokens of {self.n_ctx}")
        self._check_tokens(tokens)
        id, stream = self._link.embed(tokens, client=client, salt=salt)
        try:
            return _finite(await _vector(stream))
        finally:
            self._link.cancel(id)

    def _check(self, request: GenerateRequest) -> None:
        if self.ready.vector:
            raise CapabilityMissing("the model does not support generate")
        if not request.prompt:
            raise RequestRefused("the prompt is empty", hint="a prompt needs at least one token")
        if len(request.prompt) >= self.n_ctx:
            raise ContextExceeded(hint=f"the prompt has {len(request.prompt)} tokens and the context {self.n_ctx}")
        if request.max_tokens is not None and request.max_tokens < 0:
            raise RequestRefused(f"max_tokens is {request.max_tokens}; expected 0 or more")
        if request.constraint is not None and request.ignore_eos:
            raise RequestRefused("ignore_eos and a format exclude each other: what a format describes has an end")
        self._check_tokens((min(request.prompt), max(request.prompt), *request.sampling.logit_bias))

    def _check_tokens(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.vocab:
                raise RequestRefused(f"token {token} is not in the model's vocabulary of {self.vocab}")


async def _vector(stream: Stream) -> bytes:
    vector = b""
    while True:
        for item in await stream.take():
            if isinstance(item, Vector):
                vector = item.values
            elif isinstance(item, Ended):
                if vector:
                    return vector
                raise item.failure or RequestCancelled()


def _finite(vector: bytes) -> array[float]:
    values = array("f", struct.unpack(f"<{len(vector) // 4}f", vector))
    if not all(map(math.isfinite, values)):
        raise RuntimeFailure("embedding contains NaN or Inf values")
    return values


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Raises RequestRefused where answers cannot be constrained. Takes a quarter of a second for 150,000 tokens."""
    tokens = tokenizer.table()
    if not tokenizer.eog:
        raise RequestRefused("this model has no token that ends an answer, so that a format cannot be kept")
    if sum(map(len, tokens)) > MAX_BYTES:
        raise RequestRefused(f"this model's tokens have more than {MAX_BYTES} bytes, so that a format cannot be kept")
    special = frozenset(index for index in range(len(tokens)) if tokenizer.is_control(index))
    return Vocabulary.of(tokens, special=special | tokenizer.eog, ends=tokenizer.eog)


async def load_model(source: ModelSource, command: Seq[str] = COMMAND, spare: Spare | None = None) -> LoadedModel:
    """Starts a worker on the source's weights, or takes the spare one, and reads its tokenizer meanwhile. Raises
    RuntimeFailure."""
    load, link = load_of(source), None
    reading = asyncio.ensure_future(asyncio.to_thread(read_text_side, source.path))
    try:
        link = await Link.start(load, command, spare.take(load_frame(load)) if spare else None)
        tokenizer, n_ctx_train = await asyncio.shield(reading)
    except BaseException:
        if link is not None:
            await link.close(patience=0.0)
        await asyncio.gather(reading, return_exceptions=True)  # a thread that is cancelled goes on: here it has ended
        raise
    if link.ready.pack not in ("used", "absent"):
        log.warning("%s: its packed weights are not used: %s", source.name, link.ready.pack)
    return LoadedModel(source=source, tokenizer=tokenizer, n_ctx_train=n_ctx_train, link=link)


def read_text_side(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer, and the context the model was trained for (0: not said). Reads the file's head only. Raises
    EngineAbsent and ModelRefused."""
    try:
        gguf = Gguf.head(path, arrays=False, pass_strings=pass_strings)
        tokenizer = Tokenizer.from_gguf(gguf.metadata)
    except LibraryError as error:
        log.error("%s; %s", error, error.hint)
        raise EngineAbsent from error
    except GgufError as error:
        raise ModelRefused(error.plain, hint=error.hint) from error
    trained: Any = gguf.metadata.get(f"{gguf.architecture}.context_length", 0)
    return tokenizer, int(trained)
