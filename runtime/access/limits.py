"""How often and how many at once: a token bucket and a count for each key.

A bucket holds one interval's requests, so that a burst of them passes, and fills evenly. The clock is injected. All
of it belongs to one event loop.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.errors import RequestRefused, TooManyRequests

INTERVALS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
MAX_CONCURRENT = 1 << 16
ROUNDING = 1e-7  # of a request: who waited as long as told is not refused for what a sum of seconds lost; it stays owed
_RATE = re.compile(r"([1-9][0-9]{0,8})/([smhd])")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests in `interval`, a key of INTERVALS. `Rate.parse(str(rate)) == rate`."""

    count: int
    interval: str

    @classmethod
    def parse(cls, text: str) -> Rate:
        match = _RATE.fullmatch(text)
        if not match:
            raise RequestRefused(f"bad rate {text[:40]!r}", hint="write a number and s, m, h or d: 60/m")
        return cls(int(match.group(1)), match.group(2))

    @property
    def per_second(self) -> float:
        return self.count / INTERVALS[self.interval]

    def __str__(self) -> str:
        return f"{self.count}/{self.interval}"


class Limiter:
    """Of one key. `rate` None, `concurrent` 0: no limit."""

    def __init__(
        self, *, rate: Rate | None = None, concurrent: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.concurrent = rate, concurrent
        self.running = 0
        self._clock = clock
        self._left = float(rate.count) if rate else 0.0
        self._filled = clock()

    def same(self, *, rate: Rate | None, concurrent: int) -> bool:
        return (self.rate, self.concurrent) == (rate, concurrent)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds a place while the block runs. Raises TooManyRequests; a refused request takes nothing from the rate."""
        if self.concurrent and self.running >= self.concurrent:
            raise TooManyRequests(f"this key may have {self.concurrent} requests under way at once")
        self._take()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def _take(self) -> None:
        if self.rate is None:
            return
        now = self._clock()
        self._left = min(float(self.rate.count), self._left + (now - self._filled) * self.rate.per_second)
        self._filled = now
        if self._left < 1.0 - ROUNDING:
            wait = (1.0 - self._left) / self.rate.per_second
            raise TooManyRequests(f"this key may ask {self.rate}", retry_after=max(1, math.ceil(wait)))
        self._left -= 1.0
