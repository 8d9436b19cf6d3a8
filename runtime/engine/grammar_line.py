"""Before the line for a place in the batch: sequences whose grammar has to be compiled first.

A grammar in use costs memory, up to some tens of megabytes where somebody wants it to, so at most `places` are: the
others wait here, each client in a line of its own (line.py). Compiling is one thread's work, beside the engine's.
Invariant: a sequence is in line here, or holds a grammar until `leave`, or is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from runtime.engine.constraint import Constraint
from runtime.engine.grammar import Grammars, Matcher
from runtime.engine.line import Line
from runtime.engine.sequence import Sequence
from runtime.engine.threads import Later

Done = Callable[[Sequence, "Later[Matcher]"], None]


class GrammarLine:
    """`done` is called, in another thread, for each sequence that was added and has not left when its turn came."""

    def __init__(self, grammars: Grammars, places: int, done: Done) -> None:
        self._grammars = grammars
        self._places = places
        self._done = done
        self._line = Line()
        self._constraints: dict[int, Constraint] = {}  # of those in line
        self._holding: dict[int, str] = {}  # id -> client

    @property
    def waiting(self) -> int:
        return len(self._line)

    def holds(self, id: int) -> bool:
        return id in self._holding

    def add(self, sequence: Sequence, constraint: Constraint) -> None:
        self._line.add(sequence)
        self._constraints[sequence.id] = constraint
        self._next()

    def leave(self, id: int) -> None:
        """It has ended, wherever it was; nothing, where it is not known."""
        if self._constraints.pop(id, None) is not None:
            self._line.remove(next(sequence for sequence in self._line if sequence.id == id))
        elif self._holding.pop(id, None) is not None:
            self._next()

    def _next(self) -> None:
        while self._line and len(self._holding) < self._places:
            sequence = self._line.head(Counter(self._holding.values()))
            self._line.leave(sequence)
            self._holding[sequence.id] = sequence.client
            self._grammars.compile(self._constraints.pop(sequence.id), partial(self._done, sequence))
