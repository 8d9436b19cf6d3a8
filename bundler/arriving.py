"""A file that arrives in pieces, in any order: its bytes at their place, and a note of what is there already.

    <name>.udp.tmp    the bytes     <name>.map.tmp    for each piece: first byte, byte after the last (8 bytes each)

The notes let the next run go on; they are believed only until the file is whole and its hash tells.
"""

from __future__ import annotations

import contextlib
import os
import struct
from bisect import bisect_right

from bundler.errors import BundlerError, medium_errors
from bundler.fec import Geometry
from bundler.room import Room

_NOTE = struct.Struct(">QQ")
MAX_RANGES = 1 << 18  # of one file: what would be one more has to come again
SMALL, MIN_SYMBOL = 1 << 20, 256  # bytes: smaller symbols are taken of small files only, since each may cost a note


class Ranges:
    """Disjoint ranges of bytes, ascending."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, first: int, end: int) -> None:
        low = bisect_right(self._ends, first - 1)
        high = bisect_right(self._starts, end)
        if low < high:
            first, end = min(first, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high], self._ends[low:high] = [first], [end]

    def touches(self, first: int, end: int) -> bool:
        return bisect_right(self._ends, first - 1) < bisect_right(self._starts, end)

    def has(self, first: int, end: int) -> bool:
        at = bisect_right(self._starts, first) - 1
        return at >= 0 and self._ends[at] >= end

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def total(self) -> int:
        return sum(self._ends) - sum(self._starts)


class Arriving:
    """One file of a room, on its way. `name` is its name there."""

    def __init__(self, room: Room, name: str, size: int) -> None:
        self.room, self.name, self.size = room, name, size
        self.path = room.folder / f"{name}.udp.tmp"
        self._notes = room.folder / f"{name}.map.tmp"
        self.have = Ranges()
        self.settling = self.failed = False  # `failed`: set by the other thread; it has to come again
        with medium_errors(self.path):
            self._load()
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o644)
            self._out = os.open(self._notes, flags | os.O_APPEND, 0o644)

    def _load(self) -> None:
        """What an earlier run noted. A kill may leave half an entry; the hash of the file decides in the end."""
        with contextlib.suppress(FileNotFoundError):
            raw = self._notes.read_bytes()
            for first, end in _NOTE.iter_unpack(raw[: len(raw) // _NOTE.size * _NOTE.size]):
                if first < end <= self.size and self.path.exists():
                    self.have.add(first, end)

    def takes(self, geometry: Geometry) -> bool:
        fits = geometry.symbol >= MIN_SYMBOL or self.size <= SMALL
        return fits and not self.settling and geometry.size == self.size

    def write(self, offset: int, data: bytes) -> None:
        if len(self.have) >= MAX_RANGES and not self.have.touches(offset, offset + len(data)):
            return
        with medium_errors(self.path):
            done = 0
            while done < len(data):
                done += os.pwrite(self._file, data[done:], offset + done)
            os.write(self._out, _NOTE.pack(offset, offset + len(data)))
        self.have.add(offset, offset + len(data))

    def settle(self) -> None:
        """All of it is here: checks it, and gives it its name; otherwise it is forgotten."""
        with medium_errors(self.path):
            os.ftruncate(self._file, self.size)
            os.fsync(self._file)
        self.close()
        self._notes.unlink(missing_ok=True)
        try:
            self.room.settle(self.path, self.name)
        except BundlerError:
            self.path.unlink(missing_ok=True)
            raise

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    def close(self) -> None:
        for handle in (self._file, self._out):
            if handle >= 0:
                os.close(handle)
        self._file = self._out = -1
