"""How many rows the next step may have, so that nobody who decodes waits long for someone else's prompt.

A step's time is a fixed part (the weights are read once, whatever the rows) and a part for each row; both are learnt
from the steps themselves, by a line through the newest of them. Prompts fill a step up to STALL, or up to twice the
fixed part where that is longer (a large model, a busy machine): answers then flow at half their pace while a prompt is
read, and the prompt is not starved. A sequence alone gets whole steps: nobody waits for it.
No clock in here: the worker brings the times.
"""

from __future__ import annotations

STALL_NS = 150_000_000
SMALLEST = 8  # rows of prompt that are always allowed
KEPT = 0.95  # of the older steps' weight in the line, at each new one
CHEAPEST = 0.05  # a row costs at least this part of its share, whatever noise says
SPREAD = 0.05  # variance of the steps' rows, over their mean square, below which a line through them is noise


class Pace:
    def __init__(self, *, max_rows: int, stall_ns: int = STALL_NS) -> None:
        self._max_rows = max_rows
        self._stall_ns = stall_ns
        self._allowed: float = stall_ns  # for the last step
        self._leap = SMALLEST  # rows that are surely not too slow; the next step has at most twice as many
        self._n = self._x = self._y = self._xx = self._xy = (
            0.0  # weighted sums over steps: 1, rows, ns, rows^2, rows*ns
        )

    def rows(self, running: int, waiting: int) -> int:
        """For the step to come, given the sequences that run and wait now."""
        if running + waiting <= 1:
            return self._max_rows
        least = running + SMALLEST
        if not self._n:
            return min(self._max_rows, least)
        fixed, each = self._line(running)
        self._allowed = max(self._stall_ns, 2 * fixed)
        most = running + int((self._allowed - fixed) / each)
        return min(self._max_rows, max(least, min(most, 2 * self._leap)))

    def took(self, rows: int, ns: int) -> None:
        self._leap = rows if ns <= 2 * self._allowed else max(SMALLEST, rows // 4)
        news = (1, rows, ns, rows * rows, rows * ns)
        sums = (self._n, self._x, self._y, self._xx, self._xy)
        self._n, self._x, self._y, self._xx, self._xy = (KEPT * old + new for old, new in zip(sums, news, strict=True))

    def _line(self, rows: int) -> tuple[float, float]:
        """(ns of a step with `rows`, ns of one row more). While the steps are all alike, a row is taken to cost
        little: a step of twice the rows, the most that follows, will tell."""
        share = max(self._y, 1.0) / self._x
        spread = self._xx - self._x * self._x / self._n
        slope = (self._xy - self._x * self._y / self._n) / spread if spread > SPREAD * self._xx else 0.0
        each = min(max(slope, CHEAPEST * share), share)
        return max(0.0, self._y / self._n + each * (rows - self._x / self._n)), each
