"""Patches: a large blob said as ranges of one that the other side has, and the bytes in between, which travel.

    match   leaves of the new blob are looked up among the base's by length and hash. Leaves end where tensors end, so
            equal tensors meet whatever their names, their order and their place
    head    what comes before the tensors (metadata, vocabulary, tensor table) is compared byte by byte, where the base
            is at hand: an edited template moves all that follows it

Writers only: readers take the pieces from the statement (`delta_apply`), which holds them to the sizes.
Invariant: the sizes of the pieces add up to the new blob's.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from manifests.leaves import LeafList
from manifests.statement import Piece

BLOCK = 128  # bytes that must be equal before a copy is begun; a piece takes about 30 in the statement
MAX_HEAD = 32 << 20  # bytes of a head that is compared byte by byte: a few seconds


def match(new: LeafList, base: LeafList) -> list[Piece]:
    """`new` in pieces of `base`. A run goes on where it can, so that equal leaves do not break it."""
    at: dict[int, tuple[int, bytes]] = {}
    places: dict[tuple[int, bytes], int] = {}
    offset = 0
    for leaf in zip(base.lengths, base.hashes, strict=True):
        at[offset] = leaf
        places.setdefault(leaf, offset)
        offset += leaf[0]
    pieces: list[Piece] = []
    follows: int | None = 0
    for leaf in zip(new.lengths, new.hashes, strict=True):
        found = follows if follows is not None and at.get(follows) == leaf else places.get(leaf)
        pieces.append(Piece(size=leaf[0], base=found))
        follows = None if found is None else found + leaf[0]
    return joined(pieces)


def with_head(pieces: Sequence[Piece], new: bytes, old: bytes) -> list[Piece]:
    """The same pieces, where the first bytes, `new`, are said from `old`, the first bytes of the base."""
    rest, skip = [], len(new)
    for piece in pieces:
        cut = min(skip, piece.size)
        skip -= cut
        if piece.size > cut:
            rest.append(Piece(size=piece.size - cut, base=None if piece.base is None else piece.base + cut))
    return joined([*_copies(new, old), *rest])


def _copies(new: bytes, old: bytes) -> Iterator[Piece]:
    """Greedy, as rsync does it: blocks of `old` are found at any place of `new` and grown to both sides."""
    index: dict[bytes, int] = {}
    for at in range(0, len(old) - BLOCK + 1, BLOCK):
        index.setdefault(old[at : at + BLOCK], at)
    said = at = 0
    while at + BLOCK <= len(new):
        found = index.get(new[at : at + BLOCK])
        if found is None:
            at += 1
            continue
        back = 0
        while at - back > said and found > back and new[at - back - 1] == old[found - back - 1]:
            back += 1
        if at - back > said:
            yield Piece(size=at - back - said)
        length = _common(new, at, old, found)
        yield Piece(size=back + length, base=found - back)
        said = at = at + length
    if said < len(new):
        yield Piece(size=len(new) - said)


def _common(new: bytes, at: int, old: bytes, place: int) -> int:
    """How many bytes are equal from the two places on."""
    most, length, step = min(len(new) - at, len(old) - place), 0, 1 << 12
    while length < most and new[at + length : at + length + step] == old[place + length : place + length + step]:
        length += step
    length = min(length, most)
    while length < most and new[at + length] == old[place + length]:
        length += 1
    return length


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours that go on become one."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        goes_on = last is not None and (
            piece.base is None if last.base is None else piece.base == last.base + last.size
        )
        if last is not None and goes_on:
            out[-1] = Piece(size=last.size + piece.size, base=last.base)
        else:
            out.append(piece)
    return out


def literals(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    """Offset and size of what travels, in the new blob."""
    found, at = [], 0
    for piece in pieces:
        if piece.base is None:
            found.append((at, piece.size))
        at += piece.size
    return found


class Ranges(io.RawIOBase):
    """Ranges of a stream, one after the other, as a stream. Closes it."""

    def __init__(self, stream: BinaryIO, ranges: Sequence[tuple[int, int]]) -> None:
        self._stream, self._ranges = stream, ranges
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        view, skip = memoryview(buffer), self._at
        for offset, size in self._ranges:
            if skip < size:
                self._stream.seek(offset + skip)
                data = self._stream.read(min(len(view), size - skip))
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            skip -= size
        return 0

    def close(self) -> None:
        self._stream.close()
        super().close()
