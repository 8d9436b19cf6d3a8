"""A stage on which sequences share an engine as badly as a scheduler may make them: they come and leave at random
steps, advance by random pieces, are thrown out and begin again, and take over the full blocks of a common beginning.
Blocks lie anywhere and hold what earlier owners left there. Every row of logits is held against the same row alone,
bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from native.engine import BLOCK, Engine
from tests.peers.tiny_plan import step

Floats = npt.NDArray[np.float32]


def same(found: Floats, expected: Floats) -> bool:
    """Equal bits, and no NaN that could hide behind them."""
    return found.tobytes() == expected.tobytes() and bool(np.isfinite(found).all())


@dataclass(slots=True, eq=False)
class Guest:
    number: int
    tokens: list[int]
    expected: Floats  # [tokens, vocab], alone
    chunk: int  # most tokens of a step
    done: int = 0
    table: list[int] = field(default_factory=list)


class Stage:
    """`guests`: the first is there from the beginning, with at most `company` others beside it at any time.

    Needs n_blocks of the engine for all guests at once; max_rows and max_seqs bound a step.
    """

    def __init__(
        self, engine: Engine, guests: list[Guest], *, company: int, n_blocks: int, max_rows: int, seed: int
    ) -> None:
        self.engine = engine
        self.rng = np.random.default_rng(seed)
        self.waiting = guests[1:]
        self.live = guests[:1]
        self.company = company
        self.max_rows = max_rows
        self.free = [int(b) for b in self.rng.permutation(n_blocks)]
        self.users = [0] * n_blocks
        self.known: dict[tuple[int, ...], int] = {}  # tokens up to the end of a full block -> the block
        self.rows, self.steps, self.warm, self.evictions, self.most = 0, 0, 0, 0, 0

    def play(self) -> Stage:
        """To the end of every guest."""
        for guest in self.live:
            self._begin(guest)
        while self.live or self.waiting:
            self._come_and_go()
            self._step()
        return self

    def _come_and_go(self) -> None:
        while self.waiting and len(self.live) <= self.company and (not self.live or self.rng.random() < 0.8):
            guest = self.waiting.pop(0)
            self.live.append(guest)
            self._begin(guest)
        if self.live and self.evictions < 4 and self.rng.random() < 0.05:
            guest = self.live[self.rng.integers(len(self.live))]
            self.evictions += 1
            self._end(guest)
            self._begin(guest)
        self.most = max(self.most, len(self.live))

    def _begin(self, guest: Guest) -> None:
        """From the blocks that are known already, never all of the tokens."""
        guest.table, guest.done = [], 0
        for end in range(BLOCK, len(guest.tokens), BLOCK):
            block = self.known.get(tuple(guest.tokens[:end]))
            if block is None or self.rng.random() < 0.1:  # sometimes a cache has lost the rest
                break
            self.users[block] += 1
            guest.table.append(block)
            guest.done = end
        self.warm += guest.done
        for _ in range(len(guest.table), -(-len(guest.tokens) // BLOCK)):
            guest.table.append(self._take())

    def _take(self) -> int:
        if not self.free:  # forget what nobody uses
            self.known = {tokens: b for tokens, b in self.known.items() if self.users[b]}
            kept = set(self.known.values())
            self.free = [b for b, users in enumerate(self.users) if not users and b not in kept]
        block = self.free.pop(int(self.rng.integers(len(self.free))))
        self.users[block] += 1
        return block

    def _end(self, guest: Guest) -> None:
        kept = set(self.known.values())
        for block in guest.table:
            self.users[block] -= 1
            if not self.users[block] and block not in kept:
                self.free.append(block)

    def _step(self) -> None:
        chosen: list[tuple[Guest, int]] = []
        left = self.max_rows
        for i in self.rng.permutation(len(self.live)):
            guest = self.live[i]
            n = min(guest.chunk, len(guest.tokens) - guest.done, left)
            if n > 0 and (not chosen or self.rng.random() < 0.8):
                chosen.append((guest, n))
                left -= n
        parts = [
            (g.tokens[g.done : g.done + n], g.done, np.array(g.table[: -(-(g.done + n) // BLOCK)], np.int32))
            for g, n in chosen
        ]
        for (guest, n), logits in zip(chosen, step(self.engine, parts), strict=True):
            first, guest.done = guest.done, guest.done + n
            assert same(logits, guest.expected[first : guest.done]), (
                f"guest {guest.number}, rows {first} to {guest.done} in step {self.steps} with {len(chosen)} sequences"
            )
            for end in range(first // BLOCK * BLOCK + BLOCK, guest.done + 1, BLOCK):
                self.known.setdefault(tuple(guest.tokens[:end]), guest.table[end // BLOCK - 1])
            self.rows += n
            if guest.done == len(guest.tokens):
                self.live.remove(guest)
                self._end(guest)
        self.steps += 1
