"""How many rows the next step may have, so that nobody who decodes waits longer than STALL for someone else's prompt.

Learnt from the steps themselves: a row's share of the last steps' time, an upper bound of what one more row costs. A
sequence alone gets whole steps: nobody waits for it. No clock in here: the worker brings the times.
"""

from __future__ import annotations

STALL_NS = 150_000_000
SMALLEST = 8  # rows of prompt that are always allowed: a step of few rows costs nearly as much without them
WEIGHT = 0.25  # of the newest measurement, when it is faster; a slower one counts in full


class Pace:
    def __init__(self, *, max_rows: int, stall_ns: int = STALL_NS) -> None:
        self._max_rows = max_rows
        self._stall_ns = stall_ns
        self._row_ns = 0.0

    def rows(self, running: int, waiting: int) -> int:
        """For the step to come, given the sequences that run and wait now."""
        if running + waiting <= 1:
            return self._max_rows
        most = int(self._stall_ns / self._row_ns) if self._row_ns else 0
        return min(self._max_rows, max(running + SMALLEST, most))

    def took(self, rows: int, ns: int) -> None:
        if rows < SMALLEST:  # the weights are read for few rows: says nothing about a row in a prompt
            return
        each = ns / rows
        self._row_ns = each if each > self._row_ns else (1 - WEIGHT) * self._row_ns + WEIGHT * each
