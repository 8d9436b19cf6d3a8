"""Philox4x32-10 (Salmon et al. 2011) from the paper, and the engine's uniform numbers made of it."""

from __future__ import annotations


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The four words for a counter of four and a key of two. Known answers: tests/native/test_sample.py."""
    c, k = list(counter), list(key)
    for _ in range(10):
        x, y = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(y >> 32) ^ c[1] ^ k[0], y & 0xFFFFFFFF, (x >> 32) ^ c[3] ^ k[1], x & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def uniform(seed: int, position: int) -> float:
    """The draw for the token at `position`: 53 bits, as a fraction."""
    words = philox([position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    return float((words[0] << 32 | words[1]) >> 11) * 2.0**-53
