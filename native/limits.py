"""What this machine can do at most, measured by the native library: a speed means something only beside it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from native.library import SlRates, check, library

READ_EACH = 256 << 20  # bytes for each thread: far more than its share of any cache
MOST = 1 << 36  # bytes for all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Per second. None: the machine has no instruction for it. `instruction`: the one behind `integer_ops`."""

    read_bytes: float
    integer_ops: float | None
    float_ops: float | None
    bf16_ops: float | None
    instruction: str | None


def measure(threads: int, *, each: int = READ_EACH) -> Limits:
    """Takes about a second, and threads * each bytes, 1 MiB to MOST. Raises MemoryShortError and InputError."""
    rates = SlRates()
    check(library().sl_limits(threads, threads * each, ctypes.byref(rates)))
    return Limits(
        read_bytes=rates.read_bytes,
        integer_ops=rates.integer_ops or None,
        float_ops=rates.float_ops or None,
        bf16_ops=rates.bf16_ops or None,
        instruction=rates.instruction.decode() or None,
    )
