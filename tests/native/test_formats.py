"""Every weight format is read exactly as gguf-py reads it, and a tensor that does not fit its shape is refused."""

from __future__ import annotations

import numpy as np
import pytest

from native.errors import InputError, UnsupportedError
from tests.peers.kernels import INTEGER, PLAIN, SCALE_AT, Tensor, block_of, dequantize, random_tensor, values_of


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)))


@pytest.mark.parametrize("kind", PLAIN + INTEGER)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 2), (16, 5), (37, 3)])
def test_values_are_gguf_py_s_to_the_bit(kind: str, rows: int, blocks: int) -> None:
    tensor = random_tensor(kind, rows, blocks * block_of(kind)[0], np.random.default_rng(rows))
    assert same_bits(dequantize(tensor), values_of(tensor))


@pytest.mark.parametrize("kind", INTEGER)
def test_every_finite_scale(kind: str) -> None:
    """All 63,488 finite float16 numbers as scale: zeros, subnormals, the largest; the minimum runs the other way."""
    finite = np.concatenate([np.arange(0, 0x7C00), np.arange(0x8000, 0xFC00)]).astype("<u2")
    values, size = block_of(kind)
    if values == 256:
        finite = finite[::7]  # the wide blocks take eight times as long; 7 and the 1,024 fractions are coprime
    tensor = random_tensor(kind, len(finite), values, np.random.default_rng(5))
    for at, numbers in zip(SCALE_AT[kind], (finite, finite[::-1]), strict=False):
        tensor.raw[:, at : at + 2] = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 2)
    assert tensor.raw.shape == (len(finite), size)
    assert same_bits(dequantize(tensor), values_of(tensor))


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_every_16_bit_number(kind: str) -> None:
    bits = np.arange(0x10000).astype("<u2").reshape(256, 256)
    tensor = Tensor(kind=kind, rows=256, cols=256, raw=np.ascontiguousarray(bits).view(np.uint8))
    ours, theirs = dequantize(tensor), values_of(tensor)
    numbers = ~np.isnan(theirs)
    assert same_bits(ours[numbers], theirs[numbers])
    assert np.all(np.isnan(ours[~numbers]))


@pytest.mark.parametrize("kind", PLAIN + INTEGER)
def test_a_wrong_size_is_refused_with_both_numbers(kind: str) -> None:
    tensor = random_tensor(kind, 3, 256, np.random.default_rng(1))
    for size in (0, tensor.raw.nbytes - 1, tensor.raw.nbytes + 1):
        with pytest.raises(InputError, match=rf"{size} bytes.*{tensor.raw.nbytes}"):
            dequantize(tensor, weight=tensor.c(size=size))


@pytest.mark.parametrize("kind", INTEGER)
def test_columns_that_do_not_fill_blocks_are_refused(kind: str) -> None:
    tensor = random_tensor(kind, 1, 256, np.random.default_rng(1))
    weight = tensor.c()
    weight.cols = 255
    with pytest.raises(InputError, match="multiple of"):
        dequantize(tensor, weight=weight)


@pytest.mark.parametrize("number", [-1, 4, 5, 9, 10, 15, 29, 31, 2**31 - 1])
def test_an_unknown_type_is_refused_by_number(number: int) -> None:
    tensor = random_tensor("F32", 1, 256, np.random.default_rng(1))
    with pytest.raises(UnsupportedError, match=f"type {number} is not supported"):
        dequantize(tensor, weight=tensor.c(number=number))


@pytest.mark.parametrize(("rows", "cols"), [(2**62, 2**10), (2**40, 2**40), (1, 2**63 - 256), (-1, 256), (0, 256)])
def test_impossible_shapes_are_refused(rows: int, cols: int) -> None:
    tensor = random_tensor("F32", 1, 256, np.random.default_rng(1))
    weight = tensor.c(size=0)
    weight.rows, weight.cols = rows, cols
    with pytest.raises(InputError, match="expected"):
        dequantize(tensor, weight=weight)
