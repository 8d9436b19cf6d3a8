"""A source: one file of a medium as it is, with what parts that were sent again say of it. Nothing here fails.

Bytes are handed out as they lie there, or not at all; `sound` tries the file first and the parts after it, and only the
caller's hash decides. So a hostile part can spoil nothing that the file has.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from bundler.parts import Part


class Source:
    """A file whose content from `place(0)` on is looked at: `size` bytes, byte `offset` at `place(offset)`.

    `overlaid`: ranges of the file that only parts had, first byte and byte after the last.
    """

    def __init__(self, path: Path, size: int, place: Callable[[int], int], parts: Sequence[Part] = ()) -> None:
        self.size, self._place, self._parts = size, place, parts
        self._file = _open(path)
        self.overlaid: set[tuple[int, int]] = set()

    @property
    def missing(self) -> bool:
        return self._file < 0

    @property
    def empty(self) -> bool:
        """Nothing can come from here."""
        return self.missing and not self._parts

    def read(self, offset: int, length: int) -> bytes:
        """Of the file alone. Fewer bytes, or none, where the medium does not give them: the caller compares hashes."""
        data = b""
        with contextlib.suppress(OSError):  # an unreadable sector
            while not self.missing and len(data) < length:
                more = os.pread(self._file, length - len(data), self._place(offset) + len(data))
                if not more:
                    break
                data += more
        return data

    def sound(self, offset: int, length: int, good: Callable[[bytes], bool]) -> bytes | None:
        """`length` bytes that are `good`; None where neither the file nor the parts have them."""
        data = self.read(offset, length)
        if good(data):
            return data
        first = self._place(offset)
        patched = self._patched(data, first, length)
        if patched is None or not good(patched):
            return None
        self.overlaid.add((first, first + length))
        return patched

    def _patched(self, data: bytes, first: int, length: int) -> bytes | None:
        mixed = None
        for part in self._parts:
            for offset, found in part.read(first, first + length):
                mixed = mixed or bytearray(data.ljust(length, b"\0"))
                mixed[offset - first : offset - first + len(found)] = found
        return None if mixed is None else bytes(mixed)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _open(path: Path) -> int:
    """A handle of a regular file, or -1."""
    with contextlib.suppress(OSError):
        # O_NONBLOCK: opening a pipe somebody put here must not wait for a writer
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    return -1
