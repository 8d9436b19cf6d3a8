"""What a client of a loaded model waits for: the first token of a prompt whose beginning is in the prefix cache, and
the next token while others' long prompts arrive. Through the worker process and its scheduler; no HTTP, no text."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from runtime.engine.link import Link, Load
from runtime.engine.sampling import Sampling
from runtime.engine.stream import Ended, Stream, Token
from scripts.benchmarks.turns import Comparison, compare

CACHED = 2000  # tokens that two prompts have in common
TAIL = 16  # tokens that are new
LONG = 4000  # tokens of a prompt that comes while others are being answered
ANSWERED = 4  # clients that decode meanwhile
QUIET = 200  # tokens that come before the first prompt, for the pace to know the machine and to compare with
GREEDY = Sampling(temperature=0.0, seed=0)

T = TypeVar("T")


class Worker:
    """One worker on one model, driven from this thread."""

    def __init__(self, model: Path, *, threads: int, n_ctx: int, parallel: int) -> None:
        self._loop = asyncio.new_event_loop()
        load = Load(path=str(model.resolve()), n_ctx=n_ctx, threads=threads, parallel=parallel)
        self.link: Link = self.run(Link.start(load))
        self._numbers = itertools.count(1)

    def run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def prompt(self, tokens: int) -> list[int]:
        """Like no other's from its first token on."""
        number = next(self._numbers)
        return [(7919 * number + 37 * place) % self.link.ready.vocab for place in range(tokens)]

    async def first(self, prompt: list[int]) -> float:
        """Seconds until the first token."""
        started = time.perf_counter()
        _, stream = self.link.submit(prompt, GREEDY, max_tokens=1)
        tokens = await _tokens(stream)
        assert tokens, "no token came"
        return time.perf_counter() - started

    def close(self) -> None:
        self.run(self.link.close())
        self._loop.close()


@contextmanager
def working(model: Path, **how: int) -> Iterator[Worker]:
    worker = Worker(model, **how)
    try:
        yield worker
    finally:
        worker.close()


async def _tokens(stream: Stream) -> list[Token]:
    """What comes next, none at the end; raises what the worker failed with."""
    items = await stream.take()
    for item in items:
        if isinstance(item, Ended) and item.failure is not None:
            raise item.failure
    return [item for item in items if isinstance(item, Token)]


def cached(model: Path, *, threads: int, runs: int) -> Comparison:
    """A prompt of CACHED + TAIL tokens, and then one with the same CACHED and another tail."""
    with working(model, threads=threads, n_ctx=CACHED + 2 * TAIL, parallel=2) as worker:
        known: list[int] = []

        def cold() -> float:
            known[:] = worker.prompt(CACHED)
            return float(worker.run(worker.first(known + worker.prompt(TAIL))))

        players = {"cold": cold, "cached": lambda: float(worker.run(worker.first(known + worker.prompt(TAIL))))}
        result = compare(
            f"first token, {CACHED} of {CACHED + TAIL} tokens cached", players,
            amount=1, unit="answers", against="cold", rounds=runs,
        )  # fmt: skip
    result["extra"] = {"part_of_cold": 1 / result["ratios"]["cached"]["median"]}
    return result


def stalls(model: Path, *, threads: int, runs: int) -> Comparison:
    """One prompt of LONG tokens a turn while ANSWERED others decode. `extra`: milliseconds between the tokens of each
    of those, quiet and while a prompt was read."""
    with working(model, threads=threads, n_ctx=LONG + 512, parallel=ANSWERED + 1) as worker:
        gaps: list[float] = []
        clients = [worker._loop.create_task(_decode(worker, gaps)) for _ in range(ANSWERED)]
        worker.run(_settled(gaps, clients))
        quiet = gaps[:]
        during: list[float] = []

        def prompt() -> float:
            gaps.clear()
            seconds = float(worker.run(worker.first(worker.prompt(LONG))))
            during.extend(gaps)
            return seconds

        result = compare(
            f"prompt of {LONG} beside {ANSWERED} answers", {"sealift": prompt},
            amount=LONG, unit="tokens", against="sealift", rounds=runs, warm=False,
        )  # fmt: skip
        for client in clients:
            client.cancel()
        worker.run(asyncio.gather(*clients, return_exceptions=True))
    result["extra"] = {"quiet_ms": spans(quiet), "during_ms": spans(during)}
    return result


async def _settled(gaps: list[float], clients: list[asyncio.Task[None]]) -> None:
    while len(gaps) < QUIET:
        await asyncio.sleep(0.01)
        for client in clients:
            if client.done():
                client.result()


async def _decode(worker: Worker, gaps: list[float]) -> None:
    """Answers one after the other, for ever; `gaps` grows by the seconds from token to token, by the worker's clock."""
    while True:
        _, stream = worker.link.submit(worker.prompt(8), GREEDY, max_tokens=LONG)
        last = 0
        while tokens := await _tokens(stream):
            for token in tokens:
                if last:
                    gaps.append((token.age_ns - last) / 1e9)
                last = token.age_ns


def spans(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: how many, and how long the median, the longest of a hundred, and the longest of all."""
    ordered = sorted(1000 * value for value in seconds)
    return {
        "count": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "max": ordered[-1],
    }
