"""What is counted: requests, tokens and times, for each model. `metrics_page.py` turns it into Prometheus' text.

    watch = metrics.watch(name, digest)       a generation begins: it waits for its model
    watch.at(model)                           its prompt goes to the model's worker now
    watch.token(age_ns)                       one more token, by the worker's clock
    watch.ended(finish)                       the engine's word: reason and usage
    watch.close(error)                        always, last

The counts are those of the answers: a token is counted when it becomes part of one, and a generation in exactly one
reason, whatever happens. Labels are bounded: at most MAX_MODELS models, then OTHERS. It all belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from runtime.errors import RequestCancelled, RequestRefused
from runtime.events import Finish, Usage

T = TypeVar("T")
MAX_MODELS = 256
OTHERS = ("(others)", "")
LONGEST_NS = 3600 * 10**9  # of one gap between tokens: the worker's clock is a stranger's

# vLLM's, in seconds and tokens, so that its dashboards draw ours too
LATENCY = (.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)  # fmt: skip
FIRST = (
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560
)  # fmt: skip
GAP = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)  # fmt: skip
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000)


class Histogram:
    """Counts by upper bound, inclusive, and their sum; the last count is of what is larger than all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        found, total = [], 0
        for bound, count in zip((*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Figures:
    """Of one model. Times in seconds."""

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = self.preemptions = 0
        self.finished: Counter[str] = Counter()  # by reason: events.Reason, or "refused" before the engine
        self.loads: Counter[str] = Counter()  # by outcome: ok, failed
        self.first_token, self.gap = Histogram(FIRST), Histogram(GAP)
        self.whole, self.load = Histogram(LATENCY), Histogram(LATENCY)
        self.queue, self.prefill, self.decode = Histogram(LATENCY), Histogram(LATENCY), Histogram(LATENCY)
        self.inference = Histogram(LATENCY)  # prefill and decode together
        self.prompt_size, self.answer_size = Histogram(TOKENS), Histogram(TOKENS)


class Watch:
    """Of one generation; see above. `usage` and `reason` are there when it has ended, `error` where it failed;
    `first_token` in seconds, when it has come; `began` by the monotonic clock, ns."""

    def __init__(self, metrics: Metrics, name: str, digest: str) -> None:
        self.name, self.digest = name, digest
        self.usage = Usage()
        self.reason = ""
        self.error: BaseException | None = None
        self.first_token: float | None = None
        self.request: Any = None
        self._metrics, self._figures = metrics, metrics.figures(name, digest)
        self._model: Any = None
        self.began = self._sent = time.monotonic_ns()
        self._age = 0  # of the last token
        self._closed = False

    def at(self, model: Any, request: Any = None) -> Watch:
        """`model` is a LoadedModel, `request` a GenerateRequest."""
        self._model, self.request = model, request
        self._sent = time.monotonic_ns()
        return self

    def token(self, age_ns: int) -> None:
        if self._age:
            self._figures.gap.add(min(max(0, age_ns - self._age), LONGEST_NS) / 1e9)
        else:
            self.first_token = (self._sent - self.began + min(max(0, age_ns), LONGEST_NS)) / 1e9
            self._figures.first_token.add(self.first_token)
        self._age = max(1, age_ns)

    def ended(self, finish: Finish) -> None:
        assert not self.reason, "a generation ends once"
        figures, usage = self._figures, finish.usage
        self.reason, self.usage, self.error = finish.reason, usage, finish.error
        figures.prompt_tokens += usage.prompt_tokens
        figures.cached_tokens += usage.cached_tokens
        figures.generated_tokens += usage.generated_tokens
        figures.prompt_size.add(usage.prompt_tokens)
        figures.answer_size.add(usage.generated_tokens)
        figures.queue.add(usage.queue_ns / 1e9)
        figures.prefill.add(usage.prompt_ns / 1e9)
        figures.decode.add(usage.generate_ns / 1e9)
        figures.inference.add((usage.prompt_ns + usage.generate_ns) / 1e9)

    def close(self, error: BaseException | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        if not self.reason:
            gone = (asyncio.CancelledError, GeneratorExit, RequestCancelled)
            self.error = error
            if error is None or isinstance(error, gone):
                self.reason = "cancelled"
            else:
                self.reason = "refused" if self._model is None or isinstance(error, RequestRefused) else "error"
        if self._model is not None:
            self._metrics.preempted(self._model)
        self._figures.finished[self.reason] += 1
        self._figures.whole.add((time.monotonic_ns() - self.began) / 1e9)
        if self._metrics.on_end is not None:
            self._metrics.on_end(self)


class Metrics:
    def __init__(self) -> None:
        self.models: dict[tuple[str, str], Figures] = {}  # by name and digest of the manifest
        self.http: Counter[tuple[str, str, str]] = Counter()  # by handler, method and status
        self.http_seconds: dict[tuple[str, str], Histogram] = {}  # by handler and method
        self.denied: Counter[str] = Counter()  # by reason
        self.on_end: Callable[[Watch], None] | None = None  # told of every generation that has ended
        self._preempted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # as each worker said last

    def figures(self, name: str, digest: str) -> Figures:
        key = (name, digest)
        if key not in self.models and len(self.models) >= MAX_MODELS:
            key = OTHERS
        return self.models.setdefault(key, Figures())

    def watch(self, name: str, digest: str) -> Watch:
        return Watch(self, name, digest)

    def request(self, handler: str, method: str, status: int, seconds: float) -> None:
        """`handler`: the path of a route, not of a request; `method`: one of HTTP's."""
        self.http[handler, method, str(status)] += 1
        self.http_seconds.setdefault((handler, method), Histogram(LATENCY)).add(seconds)

    def preempted(self, model: Any) -> None:
        """Takes over what a model's worker has counted so far; it preempts only while requests are open, and each of
        them passes here when it ends."""
        new = model.preemptions - self._preempted.get(model, 0)
        if new > 0:
            self.figures(model.name, model.digest).preemptions += new
            self._preempted[model] = model.preemptions

    def timed(self, load: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Awaitable[T]]:
        """A manager's loader that counts."""

        async def loading(source: Any) -> T:
            figures, started = self.figures(source.name, source.digest), time.monotonic()
            try:
                model = await load(source)
            except BaseException:
                figures.loads["failed"] += 1
                raise
            figures.loads["ok"] += 1
            figures.load.add(time.monotonic() - started)
            return model

        return loading
