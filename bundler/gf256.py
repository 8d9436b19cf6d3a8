"""The field GF(2^8) of polynomial 0x11D, and the Reed-Solomon code of docs/formats/parity.md over it.

Systematic: data shards travel as they are; parity shard j is the sum over i of coefficient(j, i) x data shard i, byte
by byte. The coefficients are a Cauchy matrix, so any k of the k + m shards give all others (k + m <= 255).

`combine` is the engine's where the library is there, and has once said what the code here says. That multiplies without
tables: a product by a constant is a sum of shards multiplied by powers of x, so shards are added up by bit of the
constant first, and the eight sums are joined by Horner's rule, eight bytes at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bundler import gf256_library

MAX_SHARDS = 255
Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint64]

_POLYNOMIAL = 0x11D
_SLICE = 16 << 10  # bytes of each shard at a time: the sums of four outputs, 512 KiB, stay in a core's second cache
_LOW7, _LOW1 = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x0101010101010101)
_ONE, _SEVEN, _REDUCE = np.uint64(1), np.uint64(7), np.uint64(_POLYNOMIAL & 0xFF)


def _tables() -> tuple[list[int], list[int]]:
    powers, logarithms, value = [0] * 510, [0] * 256, 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    return powers, logarithms


_POWERS, _LOGARITHMS = _tables()


def multiply(a: int, b: int) -> int:
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def inverse(a: int) -> int:
    assert 0 < a < 256
    return _POWERS[255 - _LOGARITHMS[a]]


def coefficient(parity: int, data: int) -> int:
    """Of data shard `data` in parity shard `parity`, both from 0: 1 / ((255 - parity) + data)."""
    return inverse((255 - parity) ^ data)


def invert(matrix: Sequence[Sequence[int]]) -> list[list[int]]:
    """(n, n) -> (n, n), by Gauss and Jordan. The matrix is regular: every square part of a Cauchy matrix is."""
    n = len(matrix)
    rows = [[*row, *(int(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(i for i in range(column, n) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = inverse(rows[column][column])
        rows[column] = [multiply(scale, value) for value in rows[column]]
        for i in range(n):
            factor = rows[i][column]
            if i != column and factor:
                rows[i] = [a ^ multiply(factor, b) for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[n:] for row in rows]


def restoration(lost: Sequence[int], parities: Sequence[int], n_data: int) -> list[list[int]]:
    """One row for each lost data shard: coefficients of all data shards (0 for lost ones), then of `parities`, of which
    there are as many as are lost."""
    assert len(lost) == len(parities)
    solved = invert([[coefficient(j, i) for i in lost] for j in parities])
    rows = []
    for solution in solved:
        row = [0] * n_data
        for i in set(range(n_data)) - set(lost):
            for factor, j in zip(solution, parities, strict=True):
                row[i] ^= multiply(factor, coefficient(j, i))
        rows.append([*row, *solution])
    return rows


def combine(rows: Sequence[Sequence[int]], shards: Sequence[Bytes | None]) -> list[Bytes]:
    """rows (outputs, inputs), shards (inputs,) of one length, a multiple of 8 bytes -> one array for each row. A shard
    that no row uses may be None."""
    length = next(len(shard) for shard in shards if shard is not None)
    assert length % 8 == 0
    outputs = [np.empty(length, np.uint8) for _ in rows]
    fast = gf256_library.find()
    if fast and _agrees(fast):
        fast(rows, shards, outputs)
    else:
        _combine(rows, shards, outputs)
    return outputs


@functools.cache
def _agrees(fast: gf256_library.Combine) -> bool:
    """Whether it says what `_combine` says: every factor is there once, and every shard but the absent one has every
    byte in another order, at no aligned end."""
    rows = [[0, *range(first, first + 16)] for first in range(0, 256, 16)]
    shards = [None, *((np.arange(264) * (2 * k + 1) + k).astype(np.uint8) for k in range(16))]
    theirs, ours = ([np.empty(264, np.uint8) for _ in rows] for _ in range(2))
    fast(rows, shards, theirs)
    _combine(rows, shards, ours)
    return all(np.array_equal(a, b) for a, b in zip(theirs, ours, strict=True))


def _combine(rows: Sequence[Sequence[int]], shards: Sequence[Bytes | None], outputs: Sequence[Bytes]) -> None:
    length = next(len(shard) for shard in shards if shard is not None)
    for start in range(0, length, _SLICE):
        words = [None if s is None else s[start : start + _SLICE].view(np.uint64) for s in shards]
        for row, output in zip(rows, outputs, strict=True):
            output[start : start + _SLICE].view(np.uint64)[:] = _combine_words(row, words)


def _combine_words(row: Sequence[int], shards: Sequence[_Words | None]) -> _Words:
    size = next(len(shard) for shard in shards if shard is not None)
    sums = np.zeros((8, size), np.uint64)
    for factor, shard in zip(row, shards, strict=True):
        if factor:
            assert shard is not None
            for bit in range(8):
                if factor >> bit & 1:
                    np.bitwise_xor(sums[bit], shard, out=sums[bit])
    total: _Words = sums[7]
    for bit in range(6, -1, -1):
        carry = (total >> _SEVEN) & _LOW1
        total = ((total & _LOW7) << _ONE) ^ (carry * _REDUCE) ^ sums[bit]
    return total
