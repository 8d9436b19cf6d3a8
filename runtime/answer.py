"""One answer: what was asked of a loaded model, and what its worker says of it folded into events.

    Token ... Ended (link) -> StreamDecoder (text) -> stop strings -> TextDelta ... Finish

Invariants: exactly one Finish, last; closing or cancelling the iterator cancels the sequence in the worker.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from collections.abc import Sequence as Seq
from typing import Any, Protocol

from native.record import field, record
from runtime.engine.constraint import Constraint, blamed
from runtime.engine.link import NOT_NUMBERS, Link
from runtime.engine.sampling import Sampling
from runtime.engine.stream import Ended, Item, Score, Stream, Token, Vector
from runtime.errors import RequestRefused, RuntimeFailure
from runtime.events import Event, Finish, PromptScored, Reason, TextDelta, TokenInfo, TopToken, Usage
from runtime.text.detokenize import StreamDecoder
from runtime.text.stop import StopFilter
from runtime.text.tokenizer import Tokenizer


@record(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """`prompt`: token ids, begin-of-sequence included where the model wants one. `max_tokens` None: up to the context;
    0: the prompt is computed and cached, nothing is generated. `stop`: strings that end the answer and are not in it.
    `client`: who asks, for fairness; any text. `salt`: the cache has only what was computed for requests of the same
    one. `load_ns`: what the caller waited for the model, repeated in Usage.
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
    salt: str = ""
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


class Opening:
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


class Events(AsyncGenerator[Event, None]):
    """The iterator `generate` returns. Not a generator function: one that nobody has started yet cannot notice that it
    is closed, and its sequence would go on in the worker."""

    def __init__(self, stream: Stream | Opening, answer: Answer, *, cancel: Callable[[], None]) -> None:
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


class Answer:
    """The state of one answer: what was generated, what text is held back, how it ended. No waiting, no worker."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, *, seed: int, started: int) -> None:
        self.finish: Finish | None = None
        self._request = request
        self._ends = frozenset() if request.ignore_eos else tokenizer.eog
        self._decoder = StreamDecoder(tokenizer, shown=request.shown | _named(request.stop, tokenizer))
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
        text = ""
        for item in items:
            assert not isinstance(item, Vector), "vectors come to those who embed"
            if isinstance(item, Token):
                text += self._token(item)
            elif isinstance(item, Ended):
                text += self._end(item)
            if self.finish is not None:
                break
        self._shown += len(text)
        infos = self._due() if self._infos else ()
        return TextDelta(text=text, tokens=infos) if text or infos else None

    def abandon(self) -> None:
        """Nobody reads on."""
        if self.finish is None:
            self._finish("cancelled")

    def _token(self, token: Token) -> str:
        id, logprob, top, self._cached, self._queue_ns, self._last = token
        if self._request.watch is not None:
            self._request.watch.token(self._last)
        self._first = self._first or self._last
        self._generated += 1
        text = "" if id in self._ends else self._decoder.push(id)
        self._decoded += len(text)
        if self._request.logprobs and (id not in self._ends or self._request.prompt_logprobs):
            self._infos.append((self._decoded, _info(id, logprob, top)))
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
            self._finish(reason, error=self._blamed(ended.failure))
            return ""
        rest = self._decoder.flush()
        self._decoded += len(rest)
        shown = self._stops.push(rest)
        stop = self._stops.matched
        if stop is None:
            shown += self._stops.flush()
        self._finish("stop" if stop is not None else reason, stop=stop)
        return shown

    def _blamed(self, error: RuntimeFailure | None) -> RuntimeFailure | None:
        constraint = self._request.constraint
        return blamed(error, constraint) if constraint and isinstance(error, RequestRefused) else error

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


def _named(stops: Seq[str], tokenizer: Tokenizer) -> frozenset[int]:
    """Control tokens that stop strings name: text, so that they stop. Those that end an answer anyway need no name."""
    found = (tokenizer.control(stop) for stop in stops)
    return frozenset(index for index in found if index is not None and index not in tokenizer.eog)


def _info(token: int, logprob: float, top: Seq[tuple[int, float]]) -> TokenInfo:
    return TokenInfo(id=token, logprob=logprob, top=tuple(TopToken(id=other, logprob=one) for other, one in top))


def _reason(text: str) -> Reason:
    reasons: dict[str, Reason] = {"stop": "stop", "length": "length", "cancelled": "cancelled"}
    return reasons.get(text, "error")


def definite(sampling: Sampling) -> int:
    assert sampling.seed is not None
    return sampling.seed
