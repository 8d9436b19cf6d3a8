"""The Merkle tree of a log, as RFC 6962, section 2.1: which entries a head stands for, and proofs of it.

    leaf  SHA-256(0x00 || entry)      node  SHA-256(0x01 || left || right)      the empty tree  SHA-256("")

A tree of n leaves is split at k, the largest power of two below n. All hashes are 32 bytes. Pure functions: a proof is
checked with nothing but itself, a root and two numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Growing:
    """The root after each leaf, in O(log n) each. `peaks` are the roots of the full subtrees, the largest first."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []  # leaves, root

    def add(self, hashed: bytes) -> None:
        self.size += 1
        self._peaks.append((1, hashed))
        while len(self._peaks) > 1 and self._peaks[-1][0] == self._peaks[-2][0]:
            (count, right), (_, left) = self._peaks.pop(), self._peaks.pop()
            self._peaks.append((2 * count, node(left, right)))

    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY
        found = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            found = node(peak, found)
        return found


def root(leaves: Sequence[bytes]) -> bytes:
    tree = Growing()
    for hashed in leaves:
        tree.add(hashed)
    return tree.root()


def _split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, D[n]), section 2.1.1: the siblings of a leaf, the lowest first. 0 <= index < n."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion(leaves[:k], index), root(leaves[k:])]
    return [*inclusion(leaves[k:], index - k), root(leaves[:k])]


def included(hashed: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> bool:
    """Whether the path leads from this leaf to the root of a tree of `size` leaves."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, hashed
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected


def consistency(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """PROOF(first, D[n]), section 2.1.2: that the tree of the first leaves is the beginning of this one.
    1 <= first <= n."""
    return _subproof(leaves, first, whole=True)


def _subproof(leaves: Sequence[bytes], first: int, *, whole: bool) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if first <= k:
        return [*_subproof(leaves[:k], first, whole=whole), root(leaves[k:])]
    return [*_subproof(leaves[k:], first - k, whole=False), root(leaves[:k])]


def consistent(first: int, second: int, path: Sequence[bytes], old: bytes, new: bytes) -> bool:
    """Whether a tree of `second` leaves with the root `new` begins with one of `first` leaves with the root `old`
    (RFC 9162, section 2.1.4.2)."""
    if not 1 <= first <= second:
        return False
    if first == second:
        return not path and old == new
    rest = list(path)
    if first & (first - 1) == 0:
        rest.insert(0, old)
    if not rest:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = rest[0]
    for sibling in rest[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node(sibling, before), node(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node(after, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old and after == new
