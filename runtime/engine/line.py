"""Who waits for a place in the batch: a line for each client, and whose turn it is.

The client that runs fewest sequences is next, among equals the one whose turn was longest ago; in its line, the oldest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping

from runtime.engine.sequence import Sequence


class Line:
    """True where somebody waits. Invariant: a client that is in it waits for something."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Sequence]] = OrderedDict()  # the next turn first

    def __bool__(self) -> bool:
        return bool(self._clients)

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for line in self._clients.values() for sequence in line)

    def add(self, sequence: Sequence) -> None:
        """Also one that had a place and gave it up: it is older than those of its client who had none."""
        line = self._clients.setdefault(sequence.client, deque())
        line.insert(sum(other.arrival < sequence.arrival for other in line), sequence)

    def head(self, running: Mapping[str, int]) -> Sequence:
        """`running`: sequences that compute, by client; a client that is not in it runs none."""
        client = min(self._clients, key=lambda name: running.get(name, 0))
        return self._clients[client][0]

    def leave(self, sequence: Sequence) -> None:
        """It has got a place, and its client's turn is over."""
        self.remove(sequence)
        if sequence.client in self._clients:
            self._clients.move_to_end(sequence.client)

    def remove(self, sequence: Sequence) -> None:
        line = self._clients[sequence.client]
        line.remove(sequence)
        if not line:
            del self._clients[sequence.client]
