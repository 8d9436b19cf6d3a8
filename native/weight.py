"""A weight as the engine takes it: GGUF's own bytes, or panels made of them, and what they mean."""

from __future__ import annotations

from native.record import record

# sl_type in sealift.h: the number formats there are kernels for, by GGUF's own numbers.
TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}


@record(frozen=True, kw_only=True, slots=True)
class Weight:
    """`rows` rows of `cols` values in `buffer`; `type` is one of TYPES. A vector has one row.

    `packed`: "" for GGUF's own bytes, each row contiguous; else the instruction set whose panels these are
    (native.packing).
    """

    buffer: memoryview
    type: int
    rows: int
    cols: int
    packed: str = ""
