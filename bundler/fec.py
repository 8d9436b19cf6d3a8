"""Forward error correction for datagrams: the code of gf256 over short symbols, many blocks at a time.

A file is cut into blocks of `k` symbols of `symbol` bytes; each block gets `m` parity symbols, and any `k` of the
`k + m` give the others. What a block lacks at the end of the file counts as zero symbols that are never sent.
Blocks travel in groups, symbol after symbol across the group, so that a burst of lost packets is shared by all of them;
and a group is encoded at once, since the same products are needed for each block.
Normative text: docs/formats/udp.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bundler import gf256
from bundler.gf256 import Bytes

MAX_SYMBOL = 65_400  # bytes; a datagram has at most 65,507


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a file of `size` bytes is cut. Valid geometries only: see `check`."""

    size: int
    k: int
    m: int
    symbol: int

    def check(self) -> bool:
        shards = self.k >= 1 and self.k + self.m <= gf256.MAX_SHARDS
        return shards and 8 <= self.symbol <= MAX_SYMBOL and self.symbol % 8 == 0 and 1 <= self.size <= 1 << 46

    @property
    def block(self) -> int:
        """Bytes of a full block."""
        return self.k * self.symbol

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block)

    def length(self, block: int) -> int:
        """Bytes that the block has of the file."""
        return min(self.block, self.size - block * self.block)

    def sent(self, block: int) -> int:
        """Data symbols of the block that travel."""
        return -(-self.length(block) // self.symbol)


def encode(geometry: Geometry, data: bytes, blocks: int) -> Bytes:
    """`data` of `blocks` blocks in a row, the last one maybe shorter -> (k + m, blocks, symbol)."""
    k, m, symbol = geometry.k, geometry.m, geometry.symbol
    flat = np.zeros(blocks * geometry.block, np.uint8)
    flat[: len(data)] = np.frombuffer(data, np.uint8)
    out = np.empty((k + m, blocks, symbol), np.uint8)
    out[:k] = flat.reshape(blocks, k, symbol).transpose(1, 0, 2)
    if m:
        rows = [_coefficients(j, k) for j in range(m)]
        made = gf256.combine(rows, [out[i].reshape(-1) for i in range(k)])
        out[k:] = np.stack(made).reshape(m, blocks, symbol)
    return out


@lru_cache(maxsize=512)
def _coefficients(parity: int, k: int) -> list[int]:
    return [gf256.coefficient(parity, i) for i in range(k)]


def decode(geometry: Geometry, block: int, found: Mapping[int, bytes]) -> bytes | None:
    """The block's bytes from the symbols that came, by index; None while there are too few."""
    sent = geometry.sent(block)
    lost = [i for i in range(sent) if i not in found]
    parities = [j for j in range(geometry.m) if geometry.k + j in found][: len(lost)]
    if len(parities) < len(lost):
        return None
    symbols = [found.get(i, b"") for i in range(sent)]
    if lost:
        for index, symbol in zip(lost, _solve(geometry, symbols, found, lost, parities), strict=True):
            symbols[index] = symbol.tobytes()
    return b"".join(symbols)[: geometry.length(block)]


def _solve(
    geometry: Geometry, symbols: list[bytes], found: Mapping[int, bytes], lost: list[int], parities: list[int]
) -> list[Bytes]:
    """Known symbols go to the other side, and the small square system that is left is solved."""
    known = [None if not data else np.frombuffer(data, np.uint8) for data in symbols]
    extra = [np.frombuffer(found[geometry.k + j], np.uint8) for j in parities]
    rows = []
    for n, j in enumerate(parities):
        row = [0 if data is None else c for c, data in zip(_coefficients(j, geometry.k), known, strict=False)]
        rows.append([*row, *(int(n == other) for other in range(len(parities)))])
    sums = gf256.combine(rows, [*known, *extra])
    solved = gf256.invert([[gf256.coefficient(j, i) for i in lost] for j in parities])
    return gf256.combine(solved, sums)
