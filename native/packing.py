"""Panels: weights in the order in which one instruction set's kernels read them, made once and kept by the caller.

What they look like is the build's own business (`src/linear_layout.h`) and may change with any build. So nobody numbers
layouts: `fingerprint` packs a few rows and hashes what comes out, and panels are good where it is the same.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable

from native.library import ISAS, SlTensor, check, isa_names, library
from native.memory import address
from native.weight import TYPES, Weight

ALIGN = 64  # bytes: where panels begin, and the unit of their size
PROBE = 17  # rows: a whole panel of the widest instruction set, and one that is padded


def best_isa() -> str:
    """The instruction set that an engine would choose here."""
    return max(isa_names(), key=ISAS.__getitem__)


def packed_bytes(weight: Weight, isa: str) -> int:
    """Bytes of a matrix's panels, from its shape and type alone. Raises InputError, UnsupportedError."""
    size = ctypes.c_int64()
    shape = SlTensor(None, 0, weight.rows, weight.cols, weight.type, 0)
    check(library().sl_packed_bytes(ctypes.byref(shape), ISAS[isa], ctypes.byref(size)))
    return size.value


def pack(weight: Weight, isa: str, out: memoryview, *, threads: int = 1) -> None:
    """out: packed_bytes bytes, beginning at a multiple of ALIGN. Raises InputError, UnsupportedError."""
    assert out.nbytes == packed_bytes(weight, isa) and not out.readonly
    given = SlTensor(address(weight.buffer), weight.buffer.nbytes, weight.rows, weight.cols, weight.type, 0)
    check(library().sl_pack(ctypes.byref(given), ISAS[isa], threads, address(out)))


def aligned(size: int) -> memoryview:
    """Room for `size` bytes of panels."""
    room = memoryview(bytearray(size + ALIGN))
    start = -address(room) % ALIGN
    return room[start : start + size]


def fingerprint(weights: Iterable[Weight], isa: str) -> str:
    """How this build lays out panels: the SHA-256, in hex, of those of the first rows of one matrix of each format."""
    found = hashlib.sha256()
    for kind, weight in sorted({weight.type: weight for weight in weights}.items()):
        probe = rows_of(weight, 0, PROBE)
        out = aligned(packed_bytes(probe, isa))
        pack(probe, isa, out)
        found.update(f"{TYPES[kind]} {probe.rows} x {probe.cols}: {out.nbytes}\n".encode())
        found.update(out)
    return found.hexdigest()


def rows_of(weight: Weight, first: int, count: int) -> Weight:
    """At most `count` rows from `first` on, of a matrix in GGUF's own bytes; not copied."""
    each = weight.buffer.nbytes // weight.rows
    last = min(first + count, weight.rows)
    return Weight(
        buffer=weight.buffer[first * each : last * each], type=weight.type, rows=last - first, cols=weight.cols
    )
