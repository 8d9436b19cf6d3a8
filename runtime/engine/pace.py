"""How many rows the next step may have, so that nobody who decodes waits long for someone else's prompt.

A step's time is a base (the weights are read once, whatever the rows) and a part for each row of a prompt. Both are
learnt from the steps: the base from those without prompts; a row's part from the newest that had some, the dearest of
them, because a row costs more the more tokens lie before it, and prompts take turns. Prompts fill a step up to TARGET,
or to nearly twice the base where that is longer (a large model, a busy machine): answers then flow at half their pace
while a prompt is read, and the prompt is not starved. A sequence alone gets whole steps: nobody waits for it.
No clock in here: the worker brings the times.
"""

from __future__ import annotations

from collections import deque

STALL_NS = 150_000_000  # nobody shall wait longer for a token because of a prompt
TARGET = 2 / 3  # of STALL: what is aimed at; the rest is for what could not be known, such as a busy neighbour
NEARLY_TWO = 1.8  # times the base that a step may take where that is longer
SMALLEST = 8  # rows of prompt that are always allowed
NEWEST = 4  # steps that say what a row costs
KEPT = 0.8  # of the older steps' weight in the base, at each new one
CHEAPEST = 0.05  # a prompt's rows cost at least this part of their step, whatever noise says


class Pace:
    def __init__(self, *, max_rows: int, stall_ns: int = STALL_NS) -> None:
        self._max_rows = max_rows
        self._target = TARGET * stall_ns
        self._base = 0.0  # ns; 0: not known yet, and then all of a step's time is its rows'
        self._each: deque[float] = deque(maxlen=NEWEST)  # ns
        self._leap = SMALLEST  # rows of prompt in the last step that had some; the next has at most twice as many

    def rows(self, running: int, waiting: int) -> int:
        """For the step to come, given the sequences that run and wait now."""
        if running + waiting <= 1:
            return self._max_rows
        prompt = SMALLEST
        if self._each:
            allowed = max(self._target, NEARLY_TWO * self._base)
            fitting = int((allowed - self._base) / max(self._each))
            prompt = max(SMALLEST, min(fitting, 2 * self._leap))
        return min(self._max_rows, running + prompt)

    def took(self, rows: int, prompt: int, ns: int) -> None:
        """A step of `rows`, `prompt` of which were not of sequences that decode."""
        if not prompt:
            self._base = KEPT * self._base + (1 - KEPT) * ns if self._base else float(ns)
            return
        self._each.append(max(ns - self._base, CHEAPEST * ns, 1.0) / prompt)
        self._leap = max(SMALLEST, prompt)
