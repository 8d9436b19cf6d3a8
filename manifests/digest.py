"""Digest: the SHA-256 of some bytes, parsed once, by one strict pattern.

Invariants: `Digest.parse(str(d)) == d`; the hex is 64 lower-case digits, so a path may be built from it.
Refuses every other algorithm, length and letter case (OCI image spec, "Digests"; DESIGN 5: no algorithm confusion).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from manifests.errors import DigestError

CHUNK = 1 << 20  # bytes read at a time when hashing a stream

_PATTERN = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`sha256:<hex>`. Make one with `parse`, `of` or a `Hasher`."""

    hex: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(f"sha256:{self.hex}"):
            raise DigestError(f"expected 64 lower-case hex digits, found {self.hex[:80]!r}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        match = _PATTERN.fullmatch(text)
        if not match:
            raise DigestError(f"expected a digest like sha256:<64 lower-case hex digits>, found {text[:80]!r}")
        return cls(match.group(1))

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_stream(cls, stream: BinaryIO, progress: Callable[[int], None] | None = None) -> Digest:
        """Hashes until end of file; `progress` gets the number of bytes of each read."""
        hasher = hashlib.sha256()
        for chunk in chunks(stream):
            hasher.update(chunk)
            if progress:
                progress(len(chunk))
        return cls(hasher.hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def file_name(self) -> str:
        """The name on disk in Ollama's layout."""
        return f"sha256-{self.hex}"

    @property
    def short(self) -> str:
        """Twelve digits, as people see them in lists."""
        return self.hex[:12]


def chunks(stream: BinaryIO, limit: int | None = None) -> Iterator[bytes]:
    """Reads `stream` in pieces, to its end or to `limit` bytes."""
    left = limit
    while left is None or left > 0:
        chunk = stream.read(CHUNK if left is None else min(CHUNK, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk
