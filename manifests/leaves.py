"""Leaves: a large blob cut into pieces of at most 4 MiB, each with its own hash, so that the first bad byte is found
early.

    cuts        0, every border the content has (a GGUF's data and tensor starts), the end
    leaves      between two cuts: pieces of `leaf_size` bytes from the first cut on, the last one shorter
    leaf hash   SHA-256(0x00 || bytes)                       RFC 6962, 2.1
    node hash   SHA-256(0x01 || left || right)
    root        the Merkle tree hash over all leaves, in order
    list        for each leaf: length (4 bytes, big endian), then the leaf hash (32 bytes)

Invariants of a `LeafList`: lengths are 1 to `leaf_size`, their sum is the blob's size; `decode(x.encode()) == x`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from manifests.errors import StatementError

LEAF_SIZE = 4 << 20  # bytes
LEAF = b"\x00"  # hashed before a leaf's bytes
MIN_LEAF_SIZE = 4096  # bytes; smaller trees exist in tests only
MAX_LEAVES = 524_288  # 2 TiB of full leaves; a list of 18 MiB
ENTRY = struct.Struct(">I32s")

Bytes = bytes | bytearray | memoryview


def leaf_hash(data: Bytes) -> bytes:
    hasher = hashlib.sha256(LEAF)
    hasher.update(data)
    return hasher.digest()


def root_hash(hashes: Sequence[bytes]) -> bytes:
    """The RFC 6962 tree hash: complete subtrees merge as soon as they are equal in size, the rest folds from the
    right."""
    stack: list[tuple[int, bytes]] = []  # (leaves below, hash)
    for leaf in hashes:
        count, node = 1, leaf
        while stack and stack[-1][0] == count:
            left_count, left = stack.pop()
            count, node = left_count + count, _node(left, node)
        stack.append((count, node))
    if not stack:
        return hashlib.sha256(b"").digest()
    node = stack.pop()[1]
    while stack:
        node = _node(stack.pop()[1], node)
    return node


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf_lengths(size: int, cuts: Iterable[int] = (), leaf_size: int = LEAF_SIZE) -> list[int]:
    """The lengths of the leaves of a blob of `size` bytes; cuts outside it are left out."""
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < size}), size]
    lengths: list[int] = []
    for start, end in pairwise(borders):
        whole, rest = divmod(end - start, leaf_size)
        lengths += [leaf_size] * whole + [rest] * (rest > 0)
    if len(lengths) > MAX_LEAVES:
        raise StatementError(f"{len(lengths)} leaves; at most {MAX_LEAVES} are possible")
    return lengths


def content_cuts(path: Path) -> list[int]:
    """Where a file's content wants to be cut: a GGUF's data start and the start of each tensor; nothing for other
    files.

    Raises GgufError for a file that begins like a GGUF and is not one.
    """
    from manifests.gguf import MAGIC, Gguf

    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return []
    gguf = Gguf.head(path, arrays=False)
    return sorted({gguf.data_offset, *(tensor.offset for tensor in gguf.tensors.values())})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafList:
    """`lengths[i]` bytes hash to `hashes[i]`."""

    lengths: tuple[int, ...]
    hashes: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        return root_hash(self.hashes)

    def encode(self) -> bytes:
        return b"".join(ENTRY.pack(length, leaf) for length, leaf in zip(self.lengths, self.hashes, strict=True))

    @classmethod
    def decode(cls, raw: bytes, *, size: int, leaf_size: int) -> LeafList:
        """The list of a blob of `size` bytes; lengths that do not add up are refused."""
        if not raw or len(raw) % ENTRY.size or len(raw) > MAX_LEAVES * ENTRY.size:
            raise StatementError(f"leaf list of {len(raw)} bytes; expected entries of {ENTRY.size} bytes")
        entries = list(ENTRY.iter_unpack(raw))
        lengths = tuple(length for length, _ in entries)
        if min(lengths) < 1 or max(lengths) > leaf_size or sum(lengths) != size:
            raise StatementError(f"leaf list: lengths do not add up to {size} bytes in pieces of at most {leaf_size}")
        return cls(lengths=lengths, hashes=tuple(leaf for _, leaf in entries))
