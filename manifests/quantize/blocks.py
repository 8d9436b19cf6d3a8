"""Float32 values to the bytes of one number format and back from the plain ones; rows are cut over threads.

The formats of blocks of 32 and the plain floats are written by the `gguf` package, K-quants by `kblocks`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from manifests.errors import CreateError
from manifests.gguf_types import TensorType
from manifests.quantize import kblocks

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 17  # values one thread takes at a time: its arrays stay in the second-level cache
SLICE = 1 << 24  # values encoded together, so memory is bounded whatever the tensor's size


def decode(raw: memoryview, kind: TensorType) -> Floats:
    """Plain floats as float32 [values]."""
    if kind is TensorType.F32:
        return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)
    if kind is TensorType.F16:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    assert kind is TensorType.BF16
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def encode(values: Floats, kind: TensorType, name: str) -> Bytes:
    """values [rows, cols] -> bytes [rows * row bytes]; cols is whole blocks. `name` stands in the refusal of values
    that are not finite, or too large for the format."""
    rows, cols = values.shape
    out = np.empty((rows, kind.row_bytes(cols)), np.uint8)
    step = max(1, PIECE // cols)

    def work(first: int) -> bool:
        part = values[first : first + step]
        if not np.isfinite(part).all():
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            out[first : first + step] = _encode(part, kind).reshape(len(part), -1)
        return kind is not TensorType.F16 or bool(np.isfinite(out[first : first + step].view(np.float16)).all())

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        if not all(threads.map(work, range(0, rows, step))):
            raise CreateError(f"tensor {name}: a value is not a finite number of {kind.name}")
    return out.reshape(-1)


def recode(raw: memoryview, source: TensorType, target: TensorType, cols: int, name: str) -> Iterator[memoryview]:
    """The bytes of one tensor in another format, a slice at a time."""
    row = source.row_bytes(cols)
    step = max(1, SLICE // cols) * row
    for first in range(0, len(raw), step):
        values = decode(raw[first : first + step], source)
        yield encode(values.reshape(-1, cols), target, name).data


def _encode(values: Floats, kind: TensorType) -> Bytes:
    if kind in _K_QUANTS:
        return _K_QUANTS[kind](values.reshape(-1))
    from gguf import GGMLQuantizationType, quants

    encoded: Bytes = quants.quantize(values, GGMLQuantizationType(int(kind))).view(np.uint8)
    return encoded


_K_QUANTS = {TensorType.Q4_K: kblocks.q4_k, TensorType.Q5_K: kblocks.q5_k, TensorType.Q6_K: kblocks.q6_k}
