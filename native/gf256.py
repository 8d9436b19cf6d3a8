"""Sums of products in GF(2^8) of polynomial 0x11D over buffers: the Reed-Solomon code of docs/formats/parity.md.

Its slow twin is bundler/gf256.py, which asks this one where the library is there. Other threads run meanwhile, since
ctypes lets go of the GIL.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from native.errors import InputError, LibraryError
from native.library import ISAS, check, library
from native.memory import address


def combine(rows: Sequence[Sequence[int]], shards: Sequence[Any], outputs: Sequence[Any], *, isa: str = "best") -> None:
    """outputs[r] = sum over k of rows[r][k] x shards[k]. rows (outputs, inputs), of 0 .. 255; shards (inputs,) and
    outputs: buffers of one length, outputs writable and apart from all others; a shard that no row uses may be None.
    Raises InputError for other shapes, BufferError for a buffer whose bytes do not lie in a row."""
    inputs = [None if shard is None else memoryview(shard) for shard in shards]
    targets = [memoryview(output) for output in outputs]
    sizes = {view.nbytes for view in (*inputs, *targets) if view is not None}
    if len(rows) != len(targets) or any(len(row) != len(inputs) for row in rows) or len(sizes) > 1:
        raise InputError(f"gf256: {len(targets)} outputs and {len(inputs)} inputs of one length need as many factors")
    if any(view.readonly for view in targets):
        raise InputError("gf256: an output cannot be written")
    from_ = (ctypes.c_void_p * len(inputs))(*(None if view is None else address(view) for view in inputs))
    to = (ctypes.c_void_p * len(targets))(*(address(view) for view in targets))
    factors = bytes(chain.from_iterable(rows))
    size = sizes.pop() if sizes else 0
    check(library().sl_gf256_combine(factors, len(targets), len(inputs), from_, to, size, ISAS[isa]))


@functools.cache
def find() -> Callable[[Sequence[Sequence[int]], Sequence[Any], Sequence[Any]], None] | None:
    """`combine` where the library is there, None elsewhere."""
    try:
        library()
    except LibraryError:
        return None
    return combine
