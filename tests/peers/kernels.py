"""The kernels as the tests see them: random weights in GGUF's bytes, their exact values, and two calls of the C ABI.

`parts` reads a tensor with gguf-py, which shares no code with ours. A weight is scale part + minimum part; both are
exact in float32 (but for Q6_K's 25-bit products) and added here in float64: an oracle better than any kernel.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import gguf
import numpy as np
from numpy.typing import NDArray

from native.library import ISAS, SlTensor, check, library

PLAIN = ("F32", "F16", "BF16")
INTEGER = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
SCALE_AT = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
HAS_MIN = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """`raw` [rows, row bytes] uint8 in GGUF's layout of `kind` ("Q4_K", ...)."""

    kind: str
    rows: int
    cols: int
    raw: NDArray[np.uint8]

    @property
    def number(self) -> int:
        return int(gguf.GGMLQuantizationType[self.kind])

    def c(self, *, number: int | None = None, size: int | None = None) -> SlTensor:
        wanted = self.raw.nbytes if size is None else size
        return SlTensor(
            self.raw.ctypes.data, wanted, self.rows, self.cols, self.number if number is None else number, 0
        )


def block_of(kind: str) -> tuple[int, int]:
    """Values and bytes of a block."""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def random_tensor(kind: str, rows: int, cols: int, rng: np.random.Generator, *, fill: int | None = None) -> Tensor:
    """Every bit of a code is random (or taken from the byte `fill`); scales are ordinary numbers of either sign."""
    values, size = block_of(kind)
    assert cols % values == 0
    if kind in PLAIN:
        numbers = rng.standard_normal((rows, cols)).astype(np.float32)
        raw = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
        return Tensor(kind=kind, rows=rows, cols=cols, raw=np.ascontiguousarray(raw).view(np.uint8).reshape(rows, -1))
    blocks = rng.integers(0, 256, (rows, cols // values, size), dtype=np.uint8)
    if fill is not None:
        blocks[...] = fill
    for at in SCALE_AT[kind]:
        scale = rng.standard_normal((rows, cols // values, 1)).astype(np.float16)
        blocks[:, :, at : at + 2] = scale.view(np.uint8)
    return Tensor(kind=kind, rows=rows, cols=cols, raw=np.ascontiguousarray(blocks.reshape(rows, -1)))


def values_of(tensor: Tensor, raw: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """gguf-py's reading, [rows, cols]."""
    used = tensor.raw if raw is None else raw
    values = np.asarray(gguf.quants.dequantize(used, gguf.GGMLQuantizationType[tensor.kind]), dtype=np.float32)
    return values.reshape(tensor.rows, tensor.cols)


def parts(tensor: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale part and minimum part, [rows, cols] each: the weight is their sum."""
    if tensor.kind not in HAS_MIN:
        return values_of(tensor).astype(np.float64), np.zeros((tensor.rows, tensor.cols))
    both = []
    for kept in (0, 1):
        raw = tensor.raw.reshape(tensor.rows, -1, block_of(tensor.kind)[1]).copy()
        raw[:, :, 2 - 2 * kept : 4 - 2 * kept] = 0  # the float16 of the other part
        both.append(values_of(tensor, raw.reshape(tensor.rows, -1)).astype(np.float64))
    return both[0], both[1]


def exact(tensor: Tensor) -> NDArray[np.float64]:
    """[rows, cols]."""
    scale, minimum = parts(tensor)
    return scale + minimum


@functools.cache
def isas() -> tuple[int, ...]:
    """The bodies that this build and this machine can run."""
    return tuple(number for number in ISAS.values() if number and library().sl_isa_supported(number))


def linear(
    tensor: Tensor, x: NDArray[np.float32], *, isa: int, threads: int = 1, weight: SlTensor | None = None
) -> NDArray[np.float32]:
    """x [n, cols] through the packed kernel: [n, rows]."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    y = np.full((len(x), tensor.rows), np.nan, dtype=np.float32)
    given = tensor.c() if weight is None else weight
    check(library().sl_linear(ctypes.byref(given), isa, threads, x.ctypes.data, len(x), y.ctypes.data))
    return y


def dequantize(tensor: Tensor, *, weight: SlTensor | None = None) -> NDArray[np.float32]:
    """Our reading, [rows, cols]."""
    y = np.full((tensor.rows, tensor.cols), np.nan, dtype=np.float32)
    given = tensor.c() if weight is None else weight
    check(library().sl_dequantize(ctypes.byref(given), y.ctypes.data))
    return y


FOUR_BITS = ("Q4_0", "Q4_1", "Q4_K")


def top(kind: str, isa: int) -> int:
    """The largest |q| of an x that meets weights of this kind (`largest_q`, FIXED_LEVELS in linear_layout.h): where it
    is 120 that of the first 16 of 32, and of the others 127."""
    if kind in ("F16", "BF16"):
        return 8191
    return 120 if kind in FOUR_BITS and isa == ISAS["avx512-vnni"] else 127


def is_fixed(kind: str, isa: int) -> bool:
    """Whether a body multiplies this format in fixed point (linear_fixed.cpp)."""
    return (kind == "F16" and isa == ISAS["avx512-amx"]) or (kind in ("F16", "BF16") and isa == ISAS["avx512-vnni"])


def is_pairs(kind: str, isa: int) -> bool:
    """Whether a body splits x in two bfloat16 for it (linear_amx.inc)."""
    return kind == "BF16" and isa == ISAS["avx512-amx"]


def used_weights(tensor: Tensor, isa: int) -> NDArray[np.float64]:
    """[rows, cols] as the body has them: exact, but for fixed point: per row and 32 columns multiples of 2^e to
    nearest, e the least for which they are at most 2^15, and their sizes together (2^31 - 1) // 8191 (and -126)."""
    values = exact(tensor)
    if not is_fixed(tensor.kind, isa):
        return values
    groups = np.pad(values, [(0, 0), (0, -tensor.cols % 32)]).reshape(tensor.rows, -1, 32)
    exponent = np.maximum(np.frexp(np.abs(groups).max(axis=-1, keepdims=True))[1] - 15, -126)
    for _ in range(2):
        sizes = np.abs(np.rint(np.ldexp(groups, -exponent))).sum(axis=-1, keepdims=True)
        exponent = exponent + (sizes > (2**31 - 1) // 8191)
    fixed: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(groups, -exponent)), exponent)
    return fixed.reshape(tensor.rows, -1)[:, : tensor.cols]


def used_x(kind: str, x: NDArray[np.float32], isa: int) -> NDArray[np.float64]:
    """x [n, cols] as the body has it for a weight of this format."""
    if is_fixed(kind, isa):
        return rounded(np.pad(x, [(0, 0), (0, -x.shape[1] % 32)]), kind, isa)[:, : x.shape[1]]
    if is_pairs(kind, isa):
        high = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        rest = gguf.quants.quantize(x - high, gguf.GGMLQuantizationType.BF16)
        low = gguf.quants.dequantize(rest, gguf.GGMLQuantizationType.BF16).reshape(x.shape)
        both: NDArray[np.float64] = high.astype(np.float64) + low.astype(np.float64)
        return both
    return x.astype(np.float64) if kind in PLAIN else rounded(x, kind, isa)


def rounded(x: NDArray[np.float32], kind: str, isa: int) -> NDArray[np.float64]:
    """What an integer format makes of x [n, cols]: per 32 values q * d with d = max|x| / most, in float32."""
    blocks = x.reshape(len(x), -1, 32)
    largest, first = (np.abs(part).max(axis=-1, keepdims=True) for part in (blocks, blocks[..., :16]))
    live = largest >= np.float32(2.0**-110)
    most = np.full_like(largest, top(kind, isa))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if top(kind, isa) < 127:
            most = np.fmin(most * (largest / first), np.float32(127))
        inverse = np.where(live, most / largest, np.float32(0))
        q = np.rint(blocks * inverse)
    d = np.where(live, largest / most, np.float32(0))
    product: NDArray[np.float64] = q.astype(np.float64) * d.astype(np.float64)
    return product.reshape(x.shape)
