"""The key/value pool's accounts: which block is free, cached or used, and which tokens a cached block holds.

Numbers only: the memory itself is the native engine's. A block holds BLOCK consecutive positions of one sequence.

    free    in no table, content worthless
    cached  in no table, content known: may be matched by a later prompt, or evicted (least recently released first)
    used    in one or more tables (reference count); `published` ones are full, never written again, and shareable

Invariants:
* free + cached + used == n_blocks; `check()` proves it, with every reference counted, against the tables in use.
* A block is matched only if its chained hash is known *and* its tokens are equal: a hash alone is never trusted.
* A table is released from its end, so that eviction takes a prefix's tail before the prefix.
Refuses nothing a client can send: running out is an answer (None), not an error.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from native.record import record

BLOCK = 32  # tokens, SL_BLOCK
ROOT = b""  # the parent of a sequence's first block


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a block's content and of everything before it."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=20).digest()


def blocks_for(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK)


@record(frozen=True, slots=True, kw_only=True)
class Published:
    """What a full block holds. `key` is chain(parent's key, tokens)."""

    key: bytes
    tokens: tuple[int, ...]


class BlockPool:
    def __init__(self, n_blocks: int) -> None:
        assert n_blocks > 0
        self.n_blocks = n_blocks
        self._free = list(range(n_blocks - 1, -1, -1))  # a stack: recently used memory is warm
        self._cached: OrderedDict[int, None] = OrderedDict()  # oldest release first
        self._refs = [0] * n_blocks
        self._published: dict[int, Published] = {}
        self._by_key: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that `take` could hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def n_used(self) -> int:
        return self.n_blocks - self.available

    @property
    def n_cached(self) -> int:
        return len(self._cached)

    def take(self) -> int | None:
        """A block with one reference and no content; None when every block is in a table."""
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        else:
            return None
        self._refs[block] = 1
        return block

    def match(self, parent: bytes, tokens: Sequence[int]) -> tuple[int, bytes] | None:
        """The block that holds exactly these tokens after that parent, with one more reference, and its key."""
        key = chain(parent, tokens)
        block = self._by_key.get(key)
        if block is None or self._published[block].tokens != tuple(tokens):
            return None
        self._cached.pop(block, None)
        self._refs[block] += 1
        return block, key

    def publish(self, block: int, parent: bytes, tokens: Sequence[int]) -> tuple[int, bytes]:
        """Names a full block's content. Where an equal block is known already, that one takes its place in the table.

        The law of batch invariance makes the two equal to the bit. Returns the block to keep, and its key.
        """
        assert len(tokens) == BLOCK and self._refs[block] == 1 and block not in self._published
        twin = self.match(parent, tokens)
        if twin is not None:
            self._drop(block)
            return twin
        key = chain(parent, tokens)
        if key not in self._by_key:  # else: a collision of hashes; this block stays private
            self._published[block] = Published(key=key, tokens=tuple(tokens))
            self._by_key[key] = block
        return block, key

    def release(self, table: Sequence[int]) -> None:
        """Gives back a whole table, its end first."""
        for block in reversed(table):
            self._drop(block)

    def clear(self) -> None:
        """Forgets what the cached blocks hold."""
        for block in self._cached:
            self._forget(block)
            self._free.append(block)
        self._cached.clear()

    def check(self, tables: Iterable[Sequence[int]] = ()) -> None:
        """Raises AssertionError unless the accounts agree with these tables, which must be all that exist."""
        counted = Counter(block for table in tables for block in table)
        used = {block for block in range(self.n_blocks) if self._refs[block]}
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free) + len(cached) + len(used) == self.n_blocks, "free + cached + used is not all"
        assert free | cached | used == set(range(self.n_blocks)), "a block is lost, or in two states"
        assert {block: self._refs[block] for block in used} == dict(counted), "references differ from the tables"
        assert cached <= self._published.keys() and not free & self._published.keys(), "content without a block"
        assert {known.key: block for block, known in self._published.items()} == self._by_key, "keys and blocks differ"

    def _drop(self, block: int) -> None:
        assert self._refs[block] > 0
        self._refs[block] -= 1
        if self._refs[block]:
            return
        if block in self._published:
            self._cached[block] = None
        else:
            self._free.append(block)

    def _forget(self, block: int) -> None:
        known = self._published.pop(block)
        del self._by_key[known.key]
