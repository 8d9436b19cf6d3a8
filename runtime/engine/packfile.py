"""Packs: the panels of one model's matrices in one file, mapped read-only and shared by all who run it.

The format is docs/formats/pack.md:

    header (4 KiB) | panels of each matrix, each from a multiple of 4 KiB | SHA-256 of every 4 MiB of what comes before

A pack is a cache: it can be made again from the weights, and whatever is wrong with one is a reason to do so.
Invariants: every size and place comes from the plan, never from the file; the header must be, byte for byte, the one
this reader would write; every leaf is hashed before a panel is used. Refused with PackUnusable: another size, another
blob, build or instruction set, a flipped bit anywhere. Who writes into the file while it is in use can do to this
model what who writes into its weights can; who shortens it ends the processes that use it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import BinaryIO

from manifests import canonical
from native import packing, sha256
from native.ops import Linear
from native.plan import Plan
from native.record import record, replace
from native.weight import Weight
from runtime.engine.threads import Threads
from runtime.errors import PackUnusable

FORMAT = "sealift-pack/1"
PAGE = 4096  # bytes: the header, and where matrices begin
LEAF = 4 << 20  # bytes under one hash
HASH = 32  # bytes of SHA-256
SLICE = 16 << 20  # bytes of panels packed at a time, about
AT_ONCE = 24  # leaves hashed between two looks at whether they are still wanted, some 50 ms


@record(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where what lies. `places`: matrix to (offset, bytes) of its panels; `end`: where the leaves' hashes begin."""

    header: bytes
    places: Mapping[str, tuple[int, int]]
    end: int

    @property
    def leaves(self) -> int:
        return -(-self.end // LEAF)

    @property
    def size(self) -> int:
        return self.end + self.leaves * HASH


def layout_of(plan: Plan, weights: Mapping[str, Weight], blob: str, isa: str) -> Layout:
    """The pack that this build would make of the weights in `blob` (a digest) for this instruction set."""
    names = dict.fromkeys(op.weight for op in plan.ops if isinstance(op, Linear))
    places, end = {}, PAGE
    for name in names:
        size = packing.packed_bytes(weights[name], isa)
        places[name] = (end, size)
        end += -(-size // PAGE) * PAGE
    matrices = [[name, weights[name].type, weights[name].rows, weights[name].cols, *places[name]] for name in names]
    header = canonical.encode(
        {
            "format": FORMAT,
            "blob": blob,
            "isa": isa,
            "panels": packing.fingerprint((weights[name] for name in names), isa),
            "matrices": hashlib.sha256(canonical.encode(matrices)).hexdigest(),
            "size": end,
        }
    )
    assert len(header) <= PAGE
    return Layout(header=header.ljust(PAGE, b"\0"), places=places, end=end)


# -- writing


def write(
    out: BinaryIO, layout: Layout, weights: Mapping[str, Weight], isa: str, done: Callable[[], None] = lambda: None
) -> None:
    """Packs a slice at a time: memory for two of them, whatever the model's size. `done` after each matrix."""
    leaves = _Leaves(out)
    leaves.write(layout.header)
    for name, (_, size) in layout.places.items():
        for panels in _slices(weights[name], isa):
            leaves.write(panels)
        leaves.write(bytes(-size % PAGE))
        done()
    out.write(leaves.digests())


def _slices(weight: Weight, isa: str) -> Iterator[memoryview]:
    """The panels in order. Rows are cut at multiples of 64, which every instruction set's panels divide."""
    each = packing.packed_bytes(packing.rows_of(weight, 0, 64), isa)
    rows = 64 * max(1, SLICE // each)
    room = packing.aligned(packing.packed_bytes(packing.rows_of(weight, 0, rows), isa))
    for first in range(0, weight.rows, rows):
        part = packing.rows_of(weight, first, rows)
        panels = room[: packing.packed_bytes(part, isa)]
        packing.pack(part, isa, panels)
        yield panels


class _Leaves:
    """Writes, and hashes every LEAF bytes on the way."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digests: list[bytes] = []
        self._leaf = hashlib.sha256()
        self._room = LEAF

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view.nbytes:
            part = view[: self._room]
            self._out.write(part)
            self._leaf.update(part)
            self._room -= part.nbytes
            view = view[part.nbytes :]
            if not self._room:
                self._next()

    def _next(self) -> None:
        self._digests.append(self._leaf.digest())
        self._leaf, self._room = hashlib.sha256(), LEAF

    def digests(self) -> bytes:
        if self._room < LEAF:
            self._next()
        return b"".join(self._digests)


# -- reading


def path_of(prefix: str, isa: str) -> str:
    """`prefix`: the path of a blob's packs; those of each instruction set are a file of their own."""
    return f"{prefix}.{isa}.pack"


def use(path: str, layout: Layout, weights: Mapping[str, Weight], isa: str, *, threads: int) -> dict[str, Weight]:
    """The weights with the pack's panels in place of those it holds. Raises PackUnusable; FileNotFoundError where there
    is none."""
    reading = Reading(path, threads)
    try:
        return reading.use(layout, weights, isa)
    finally:
        reading.stop()


class Reading:
    """A pack from the moment it is found: its leaves are hashed, by threads that need nothing else, while its reader
    learns what must be in it. Hashing also brings the pages in, which the first step would do otherwise. Whoever makes
    one stops it: a mapped file that is cut short while it is read ends the process."""

    def __init__(self, path: str, threads: int) -> None:
        """Raises PackUnusable; FileNotFoundError where there is none."""
        self._view = _map(path)
        self._end = _end_of(self._view.nbytes)
        self._wanted = True
        leaves = -(-self._end // LEAF)
        borders = [leaves * number // threads for number in range(threads + 1)]
        self._threads = Threads(threads, "sealift-pack")
        self._checks = [self._threads.submit(partial(self._wrong, *pair)) for pair in pairwise(borders)]

    def use(self, layout: Layout, weights: Mapping[str, Weight], isa: str) -> dict[str, Weight]:
        """The weights with the pack's panels in place of those it holds, once. Raises PackUnusable."""
        view = self._view
        self._wanted = view.nbytes == layout.size and view[:PAGE] == layout.header
        if view.nbytes != layout.size:
            raise PackUnusable(f"it has {view.nbytes} bytes, expected {layout.size}")
        if not self._wanted:
            raise PackUnusable("it was made from other weights, or by another build")
        wrong = [leaf for check in self._checks if (leaf := check.result()) is not None]
        if wrong:
            raise PackUnusable(f"its bytes from {min(wrong) * LEAF} on are damaged")
        packed = {
            name: replace(weights[name], buffer=view[start : start + size], packed=isa)
            for name, (start, size) in layout.places.items()
        }
        return {**weights, **packed}

    def stop(self) -> None:
        """When this returns, nobody hashes the file."""
        self._wanted = False
        for check in self._checks:
            check.wait()

    def _wrong(self, first: int, last: int) -> int | None:
        """Of leaves first .. last - 1 the first that is not what its hash says. AT_ONCE of them in a call: who comes
        back from one waits for the interpreter's lock."""
        while first < last and self._wanted:
            then = min(first + AT_ONCE, last)
            found = sha256.pieces(self._view[first * LEAF : min(then * LEAF, self._end)], LEAF)
            told = self._view[self._end + first * HASH : self._end + then * HASH]
            if found != told:
                return first + next(at for at in range(then - first) if _hash_at(found, at) != _hash_at(told, at))
            first = then
        return None


def _hash_at(hashes: bytes | memoryview, place: int) -> bytes:
    return bytes(hashes[place * HASH : (place + 1) * HASH])


def _end_of(size: int) -> int:
    """Where the leaves' hashes begin in a pack of this size; 0 where no pack has it."""
    leaves = -(-size // (LEAF + HASH))
    end = size - leaves * HASH
    return end if end > 0 and -(-end // LEAF) == leaves else 0


def _map(path: str) -> memoryview:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PackUnusable(f"it cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise PackUnusable("it is not a plain file")
        return memoryview(mmap.mmap(file, found.st_size, access=mmap.ACCESS_READ) if found.st_size else b"")
    except OSError as error:
        raise PackUnusable(f"it cannot be mapped: {error.strerror}") from None
    finally:
        os.close(file)
