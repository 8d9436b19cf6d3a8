"""A blob on its way: a sparse file, and a journal of the byte ranges that were written to it.

    <models>/.sealift/partial/<hex>           the bytes, at their places
    <models>/.sealift/partial/<hex>.journal   "offset length\\n" for every range whose bytes were written before the
    line was

A kill loses at most JOURNAL_STEP bytes of each request. The journal is only a memory of what was fetched: the whole
file is hashed before it becomes a blob. Two processes never fetch the same blob at once: the second waits for the
first's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from bundler.registry import limits
from manifests.digest import Digest
from manifests.store import Progress, Store, disk_errors

Span = tuple[int, int]  # offset and length, in bytes
_LINE = re.compile(r"(\d{1,18}) (\d{1,18})")


class Partial:
    """Open one with `open_partial`. Threads write disjoint ranges."""

    def __init__(self, store: Store, path: Path, size: int, file: int) -> None:
        self._store, self._path, self.size, self._file = store, path, size, file
        self._lock = threading.Lock()
        with disk_errors(store.root):
            self._done = _read_journal(self._journal, size)
            self._out = self._journal.open("ab", buffering=0)
            self._out.write(b"\n")  # ends a line that a full disk or a power cut left unfinished

    @property
    def _journal(self) -> Path:
        return self._path.with_name(self._path.name + ".journal")

    @property
    def completed(self) -> int:
        with self._lock:
            return sum(length for _, length in self._done)

    def missing(self) -> list[Span]:
        """What is still to be fetched, in pieces of at most SPAN bytes, in order."""
        gaps, at = [], 0
        with self._lock:
            for offset, length in [*self._done, (self.size, 0)]:
                while at < offset:
                    gaps.append((at, min(limits.SPAN, offset - at)))
                    at += gaps[-1][1]
                at = max(at, offset + length)
        return gaps

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes at their place and then into the journal."""
        assert 0 <= offset <= self.size - len(data)
        with disk_errors(self._store.root):
            view = memoryview(data)
            at = offset
            while view:
                n = os.pwrite(self._file, view, at)
                view, at = view[n:], at + n
            with self._lock:
                self._out.write(f"{offset} {len(data)}\n".encode())
                self._done = _merged([*self._done, (offset, len(data))])

    def finish(self, digest: Digest, progress: Progress | None = None) -> bool:
        """Hashes the whole file and makes it a blob; False, and everything forgotten, if the bytes are wrong."""
        with disk_errors(self._store.root), self._path.open("rb") as stream:
            found = Digest.of_stream(stream, progress)
        if found != digest:
            self.forget()
            return False
        with disk_errors(self._store.root):
            os.fsync(self._file)
        self._store.adopt(self._path, digest)
        self._journal.unlink(missing_ok=True)
        return True

    def forget(self) -> None:
        """Drops all that was fetched."""
        with self._lock, disk_errors(self._store.root):
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self.size)
            self._out.truncate(0)
            self._done = []

    def close(self) -> None:
        self._out.close()
        os.close(self._file)


@contextlib.contextmanager
def open_partial(store: Store, digest: Digest, size: int) -> Iterator[Partial | None]:
    """The partial file of a blob; None if another process finished the blob while this one waited for it."""
    folder = store.private / "partial"
    path = folder / digest.hex
    with disk_errors(store.root):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(file, fcntl.LOCK_EX)
            if _same_file(file, path):
                break
            os.close(file)  # the other process renamed it into the store, or removed it, while we waited
            if store.has_blob(digest):
                yield None
                return
        if os.fstat(file).st_size != size:
            os.ftruncate(file, 0)
            os.ftruncate(file, size)
            path.with_name(path.name + ".journal").unlink(missing_ok=True)
    try:
        partial = Partial(store, path, size, file)
    except BaseException:
        os.close(file)
        raise
    try:
        yield partial
    finally:
        partial.close()


def allocated(store: Store, digest: Digest) -> int:
    """The bytes on disk that the partial file of a blob already takes."""
    try:
        return (store.private / "partial" / digest.hex).stat().st_blocks * 512  # st_blocks counts 512 bytes everywhere
    except OSError:
        return 0


def _same_file(file: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _read_journal(path: Path, size: int) -> list[Span]:
    """The ranges of a journal, merged. A line that does not parse, or lies outside the file, says nothing.

    A line that was cut says too little, never too much: its offset is whole, and its length a prefix of the true one.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(limits.MAX_JOURNAL).decode("ascii", "replace")
    except FileNotFoundError:
        return []
    spans = []
    for line in text.split("\n")[:-1]:
        match = _LINE.fullmatch(line)
        if not match or int(match[1]) + int(match[2]) > size:
            continue
        spans.append((int(match[1]), int(match[2])))
    return _merged(spans)


def _merged(spans: list[Span]) -> list[Span]:
    """Sorted and disjoint."""
    merged: list[Span] = []
    for offset, length in sorted(spans):
        if merged and offset <= merged[-1][0] + merged[-1][1]:
            start, before = merged[-1]
            merged[-1] = (start, max(before, offset + length - start))
        else:
            merged.append((offset, length))
    return merged
