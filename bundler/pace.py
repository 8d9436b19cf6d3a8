"""Pace: a rate that is kept on average, with bursts no longer than a few milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 0.01  # seconds that a late sender may catch up at once: what follows is sent later, not faster


class Pace:
    """`rate` in units for each second; None for as fast as it goes."""

    def __init__(
        self, rate: float | None, *, burst: float = BURST,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._rate, self._burst, self._clock, self._sleep = rate, burst, clock, sleep
        self._due = clock()

    def spend(self, units: float) -> None:
        """Waits until `units` may have gone."""
        if self._rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now - self._burst) + units / self._rate
        if self._due > now:
            self._sleep(self._due - now)
