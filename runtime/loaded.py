"""LoadedModel: one model that answers. Token ids go to its worker, text comes back as events (runtime.events); from a
model that embeds, a vector.

    request -> worker (ids) -> StreamDecoder (text) -> stop strings -> TextDelta ... Finish

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
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from manifests.gguf import Gguf
from runtime.engine.constraint import Constraint, prepared
from runtime.engine.link import NOT_NUMBERS, Ended, Item, Link, Load, Score, Stream, Token, Vector
from runtime.engine.sampling import Sampling
from runtime.engine.spawn import COMMAND, Spare
from runtime.engine.vocabulary import MAX_BYTES, Vocabulary
from runtime.errors import CapabilityMissing, ContextExceeded, RequestCancelled, RequestRefused, RuntimeFailure
from runtime.events import Event, Finish, PromptScored, Reason, TextDelta, TokenInfo, TopToken, Usage
from runtime.text.detokenize import StreamDecoder
from runtime.text.stop import StopFilter
from runtime.text.tokenizer import Tokenizer

__all__ = ["Constraint", "Figures", "GenerateRequest", "LoadedModel", "ModelSource", "Sampling", "load_model"]

log = logging.getLogger("sealift.engine")

DEFAULT_CONTEXT = 4096  # tokens, where nobody says
MAX_SEQS = 16  # sequences one worker computes together


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What to load and how. `weights` names the content of `path` (its blob digest), `adapters` are (digest, path) of
    the LoRAs added to it: sources of equal `content` and compatible options share a worker, whatever their names.

    `digest` is the manifest's; `size` the bytes of all its blobs. `n_ctx` 0: the server's default, and then a running
    worker with a larger one will do as well; it is cut to what the model was trained for. `threads` 0: one a core.
    `parallel`: full contexts that the key/value pool holds; 0: as many as fit well. `max_rows`: of one step. `kv_type`:
    how keys and values are kept. Those two are the server's, the same for
    all its models. `packs`: as in Load.
    """

    name: str
    digest: str
    weights: str
    path: Path
    size: int
    adapters: tuple[tuple[str, Path], ...] = ()
    n_ctx: int = 0
    threads: int = 0
    parallel: int = 0
    max_rows: int = 512
    kv_type: str = "f16"
    packs: str = ""

    @property
    def content(self) -> str:
        """What a worker computes with: the digests of the weights and of the adapters, in order."""
        return " ".join((self.weights, *(digest for digest, _ in self.adapters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """`prompt`: token ids, begin-of-sequence included where the model wants one. `max_tokens` None: up to the context;
    0: the prompt is computed and cached, nothing is generated. `stop`: strings that end the answer and are not in it.
    `client`: who asks, for fairness; any text. `load_ns`: what the caller waited for the model, repeated in Usage.
    `constraint`: what every answer that ends by itself (reason "stop", no stop string) belongs to; one that a limit, a
    stop string or the client cuts short is a beginning of such an answer. `shown`: control tokens that are text all the
    same, for whoever cuts the answer into parts. `prompt_logprobs`: PromptScored comes first,
    and the token that ends the answer has an info too: who counts tokens finds as many as were computed.
    `watch`: is told of every token and of the end, of one that nobody reads too.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    client: str = ""
    ignore_eos: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    load_ns: int = 0
    constraint: Constraint | None = None
    shown: frozenset[int] = frozenset()
    watch: Watch | None = None


class Watch(Protocol):
    def token(self, age_ns: int) -> None:
        """One more token is part of the answer; its age as in Token."""

    def ended(self, finish: Finish) -> None:
        """Once."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
        self.loaded_at = datetime.now(timezone.utc)
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
        answer = _Answer(request, self.tokenizer, seed=_definite(sampling), started=time.monotonic_ns())
        if request.constraint is not None:
            opening = _Opening(self._constrained(request, request.constraint, sampling), self._link)
            return _Events(opening, answer, cancel=opening.cancel)
        id, stream = self._submit(request, sampling, None)
        return _Events(stream, answer, cancel=lambda: self._link.cancel(id))

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

    async def embed(self, tokens: Seq[int], *, client: str = "") -> array[float]:
        """The vector of a text as the model gives it: [ready.vector] float32, all finite. Raises RequestRefused,
        ContextExceeded, WorkerDied, RuntimeFailure. Cancelled, the text leaves the worker."""
        if not self.ready.vector:
            raise CapabilityMissing("the model does not support embeddings")
        if not tokens:
            raise RequestRefused("the input is empty", hint="a text needs at least one token")
        if len(tokens) > self.n_ctx:
            raise ContextExceeded(f"the input length exceeds the context length: {len(tokens)} tokens of {self.n_ctx}")
        self._check_tokens(tokens)
        id, stream = self._link.embed(tokens, client=client)
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
    tokens = tuple(tokenizer.table())
    if not tokenizer.eog:
        raise RequestRefused("this model has no token that ends an answer, so that a format cannot be kept")
    if sum(map(len, tokens)) > MAX_BYTES:
        raise RequestRefused(f"this model's tokens have more than {MAX_BYTES} bytes, so that a format cannot be kept")
    special = frozenset(index for index in range(len(tokens)) if tokenizer.is_control(index))
    return Vocabulary(tokens=tokens, special=special | tokenizer.eog, ends=tokenizer.eog)


class _Opening:
    """The stream of a sequence that is still being prepared."""

    def __init__(self, submitted: Coroutine[Any, Any, tuple[int, Stream]], link: Link) -> None:
        self._submitted = asyncio.ensure_future(submitted)
        self._link = link

    async def take(self) -> list[Item]:
        try:
            _, stream = await asyncio.shield(self._submitted)
        except RuntimeFailure as error:
            return [Ended(reason="error", failure=error)]
        return await stream.take()

    def cancel(self) -> None:
        """Also before it is submitted, or when that failed."""
        if not self._submitted.done():
            self._submitted.cancel()
        elif not self._submitted.cancelled() and self._submitted.exception() is None:
            self._link.cancel(self._submitted.result()[0])


class _Events(AsyncGenerator[Event, None]):
    """The iterator `generate` returns. Not a generator function: one that nobody has started yet cannot notice that it
    is closed, and its sequence would go on in the worker."""

    def __init__(self, stream: Stream | _Opening, answer: _Answer, *, cancel: Callable[[], None]) -> None:
        self._stream = stream
        self._answer = answer
        self._cancel = cancel
        self._left: Seq[Item] = ()  # what came with the last scores of the prompt
        self._over = False

    async def asend(self, value: None) -> Event:
        if self._over:
            raise StopAsyncIteration
        try:
            while self._answer.finish is None:
                items = self._left or await self._stream.take()
                scored, self._left = self._answer.score(items)
                if scored is not None:
                    return scored
                delta = self._answer.take(self._left)
                self._left = ()
                if delta is not None:
                    return delta
        except BaseException:
            self._close()
            raise
        self._close()
        return self._answer.finish

    async def athrow(self, kind: Any, value: Any = None, traceback: Any = None) -> Event:
        self._close()
        raise kind if value is None else value

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        self._over = True
        self._cancel()
        self._answer.abandon()


class _Answer:
    """The state of one answer: what was generated, what text is held back, how it ended. No waiting, no worker."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, *, seed: int, started: int) -> None:
        self.finish: Finish | None = None
        self._request = request
        self._ends = frozenset() if request.ignore_eos else tokenizer.eog
        self._decoder = StreamDecoder(tokenizer, shown=request.shown)
        self._stops = StopFilter(request.stop)
        self._seed = seed
        self._started = started
        self._first = 0  # age of the sequence at its first token and at its last one, ns
        self._last = 0
        self._generated = 0
        self._cached = 0
        self._queue_ns = 0
        self._decoded = 0  # characters that left the decoder, and that left the stop filter
        self._shown = 0
        self._unscored: list[Score] | None = [] if request.prompt_logprobs else None  # None: nothing more comes
        self._infos: list[tuple[int, TokenInfo]] = []  # with the count of characters decoded when it came

    def score(self, items: Seq[Item]) -> tuple[PromptScored | None, Seq[Item]]:
        """Takes the prompt's scores, which come first: all of them as an event once they are there; the rest."""
        if self._unscored is None:
            return None, items
        count = next((place for place, item in enumerate(items) if not isinstance(item, Score)), len(items))
        for item in items[:count]:
            assert isinstance(item, Score)
            self._unscored.append(item)
        missing = len(self._request.prompt) - 1 - len(self._unscored)
        if missing > 0:
            return None, items[count:]
        scores, self._unscored = self._unscored, None
        if missing < 0 or any(math.isnan(score.logprob) for score in scores):
            self._finish("error", error=RuntimeFailure(NOT_NUMBERS))
            return None, ()
        tokens = zip(self._request.prompt[1:], scores, strict=True)
        return PromptScored(tokens=tuple(_info(token, score.logprob, score.top) for token, score in tokens)), items[
            count:
        ]

    def take(self, items: Seq[Item]) -> TextDelta | None:
        """Folds what the worker said into one delta; None when there is nothing to show. Sets `finish` at the end."""
        pieces: list[str] = []
        for item in items:
            assert not isinstance(item, Vector), "vectors come to those who embed"
            if isinstance(item, Token):
                pieces.append(self._token(item))
            elif isinstance(item, Ended):
                pieces.append(self._end(item))
            if self.finish is not None:
                break
        text = "".join(pieces)
        self._shown += len(text)
        infos = self._due()
        return TextDelta(text=text, tokens=infos) if text or infos else None

    def abandon(self) -> None:
        """Nobody reads on."""
        if self.finish is None:
            self._finish("cancelled")

    def _token(self, token: Token) -> str:
        if self._request.watch is not None:
            self._request.watch.token(token.age_ns)
        self._first = self._first or token.age_ns
        self._last = token.age_ns
        self._generated += 1
        self._cached, self._queue_ns = token.cached, token.queue_ns
        text = "" if token.id in self._ends else self._decoder.push(token.id)
        self._decoded += len(text)
        if self._request.logprobs and (token.id not in self._ends or self._request.prompt_logprobs):
            self._infos.append((self._decoded, _info(token.id, token.logprob, token.top)))
        shown = self._stops.push(text)
        if self._stops.matched is not None:
            self._finish("stop", stop=self._stops.matched)
        return shown

    def _end(self, ended: Ended) -> str:
        """The last text: half characters and what was held back, unless the answer broke off."""
        self._cached, self._queue_ns = ended.cached or self._cached, ended.queue_ns or self._queue_ns
        self._last = ended.age_ns or self._last
        reason = _reason(ended.reason)
        if reason in ("cancelled", "error"):
            self._finish(reason, error=ended.failure)
            return ""
        rest = self._decoder.flush()
        self._decoded += len(rest)
        shown = self._stops.push(rest)
        stop = self._stops.matched
        if stop is None:
            shown += self._stops.flush()
        self._finish("stop" if stop is not None else reason, stop=stop)
        return shown

    def _due(self) -> tuple[TokenInfo, ...]:
        """The infos of tokens whose text has been shown; at the end, of all that belong to shown text."""
        count = 0
        while count < len(self._infos) and self._infos[count][0] <= self._shown:
            count += 1
        due = tuple(info for _, info in self._infos[:count])
        del self._infos[:count]
        return due

    def _finish(self, reason: Reason, *, error: RuntimeFailure | None = None, stop: str | None = None) -> None:
        """The worker's times are a stranger's: held within ours, in their order."""
        wall = time.monotonic_ns() - self._started
        queued = min(max(0, self._queue_ns), wall)
        first = min(max(queued, self._first or self._last or wall), wall)  # no token: all that it took was the prompt
        last = min(max(first, self._last), wall)
        load_ns = self._request.load_ns
        usage = Usage(
            prompt_tokens=len(self._request.prompt),
            cached_tokens=self._cached,
            generated_tokens=self._generated,
            load_ns=load_ns,
            queue_ns=queued,
            prompt_ns=first - queued,
            generate_ns=last - first,
            total_ns=wall + load_ns,
        )
        self.finish = Finish(reason=reason, usage=usage, seed=self._seed, error=error, stop=stop)
        if self._request.watch is not None:
            self._request.watch.ended(self.finish)


def _info(token: int, logprob: float, top: Seq[tuple[int, float]]) -> TokenInfo:
    return TokenInfo(id=token, logprob=logprob, top=tuple(TopToken(id=other, logprob=one) for other, one in top))


def _reason(text: str) -> Reason:
    reasons: dict[str, Reason] = {"stop": "stop", "length": "length", "cancelled": "cancelled"}
    return reasons.get(text, "error")


def _definite(sampling: Sampling) -> int:
    assert sampling.seed is not None
    return sampling.seed


async def load_model(source: ModelSource, command: Seq[str] = COMMAND, spare: Spare | None = None) -> LoadedModel:
    """Starts a worker on the source's weights, or takes the spare one, and reads its tokenizer meanwhile. Raises
    RuntimeFailure."""
    reading = asyncio.ensure_future(asyncio.to_thread(read_text_side, source.path))
    wanted = source.n_ctx or DEFAULT_CONTEXT
    load = Load(
        path=str(source.path.resolve()),
        adapters=tuple(str(path.resolve()) for _, path in source.adapters),
        n_ctx=wanted,
        threads=source.threads,
        parallel=source.parallel,
        max_seqs=MAX_SEQS,
        max_rows=source.max_rows,
        kv_type=source.kv_type,
        packs=source.packs,
        blob=source.weights,
    )
    try:
        link = await Link.start(load, command, spare.take() if spare else None)
    except BaseException:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        raise
    try:
        tokenizer, n_ctx_train = await reading
    except BaseException:
        await link.close(patience=0.0)
        raise
    if link.ready.pack not in ("used", "absent"):
        log.warning("%s: its packed weights are not used: %s", source.name, link.ready.pack)
    return LoadedModel(source=source, tokenizer=tokenizer, n_ctx_train=n_ctx_train, link=link)


def read_text_side(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer, and the context the model was trained for (0: not said). Reads the file's head only."""
    gguf = Gguf.open(path)
    trained: Any = gguf.metadata.get(f"{gguf.architecture}.context_length", 0)
    return Tokenizer.from_gguf(gguf.metadata), int(trained)
