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
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from manifests import canonical
from native import packing
from native.ops import Linear
from native.plan import Plan
from native.record import record, replace
from native.weight import Weight
from runtime.errors import PackUnusable

FORMAT = "sealift-pack/1"
PAGE = 4096  # bytes: the header, and where matrices begin
LEAF = 4 << 20  # bytes under one hash
HASH = 32  # bytes of SHA-256
SLICE = 16 << 20  # bytes of panels packed at a time, about


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
    mapped = _map(path, layout.size)
    view = memoryview(mapped)
    if view[:PAGE] != layout.header:
        raise PackUnusable("it was made from other weights, or by another build")
    _check(view, layout, threads)
    packed = {
        name: replace(weights[name], buffer=view[start : start + size], packed=isa)
        for name, (start, size) in layout.places.items()
    }
    return {**weights, **packed}


def _map(path: str, size: int) -> mmap.mmap:
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
        if found.st_size != size:
            raise PackUnusable(f"it has {found.st_size} bytes, expected {size}")
        return mmap.mmap(file, size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise PackUnusable(f"it cannot be mapped: {error.strerror}") from None
    finally:
        os.close(file)


def _check(view: memoryview, layout: Layout, threads: int) -> None:
    """Hashes the leaves, `threads` at a time: it also brings the pages in, which the first step would do otherwise."""
    wrong: list[int] = []

    def check(first: int) -> None:
        for leaf in range(first, layout.leaves, threads):
            body = view[leaf * LEAF : min((leaf + 1) * LEAF, layout.end)]
            at = layout.end + leaf * HASH
            if wrong or hashlib.sha256(body).digest() != view[at : at + HASH]:
                wrong.append(leaf)
                return

    others = [threading.Thread(target=check, args=(first,)) for first in range(1, threads)]
    for other in others:
        other.start()
    check(0)
    for other in others:
        other.join()
    if wrong:
        raise PackUnusable(f"its bytes from {min(wrong) * LEAF} on are damaged")
