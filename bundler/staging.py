"""Staging: where an import collects checked bytes, inside the store's file system but outside of what the store shows.

    <models>/.sealift/staging/<bundle id>/sha256-<hex>   a blob, as far as it has arrived
    <models>/.sealift/staging/<bundle id>/lock           held while an import runs

Nothing here is believed by the next run: it hashes again what it finds. The live store is not touched by this file.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bundler import locks
from bundler.writeback import Writeback
from manifests.digest import Digest
from manifests.store import Store, disk_errors, sync_folder


class Staging:
    """Use as a context: the lock is held inside, the files stay until `remove`."""

    def __init__(self, store: Store, bundle_id: str) -> None:
        self._root = store.root
        self.folder = store.private / "staging" / bundle_id
        self._handles: dict[Digest, int] = {}
        self._lock = -1
        self._writeback = Writeback()

    def __enter__(self) -> Staging:
        with disk_errors(self._root):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.take(self.folder / "lock", "another import of this bundle is running")
        return self

    def __exit__(self, *_: object) -> None:
        self._writeback.__exit__()
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        os.close(self._lock)

    def path(self, digest: Digest) -> Path:
        return self.folder / digest.file_name

    def held(self, digest: Digest) -> int:
        """Bytes of a blob lying here, checked or not."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def reader(self, digest: Digest) -> Iterator[io.BufferedIOBase]:
        """What an earlier run left of a blob; nothing, if it left nothing."""
        try:
            stream: io.BufferedIOBase = self.path(digest).open("rb")
        except FileNotFoundError:
            stream = io.BytesIO()
        with stream:
            yield stream

    def write(self, digest: Digest, data: memoryview, offset: int) -> None:
        """Bytes whose hash was right, at their place in the blob."""
        with disk_errors(self._root):
            if digest not in self._handles:
                self._handles[digest] = os.open(self.path(digest), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            handle, done = self._handles[digest], 0
            while done < len(data):
                done += os.pwrite(handle, data[done:], offset + done)
            self._writeback.wrote(handle, done)

    def write_whole(self, digest: Digest, data: bytes) -> None:
        """A small blob; replaces what an earlier run left."""
        self.write(digest, memoryview(data), 0)
        self.finish(digest, len(data))

    def finish(self, digest: Digest, size: int) -> None:
        """The blob has `size` bytes, all checked: they are on the disk when this returns."""
        with disk_errors(self._root):
            handle = self._handles.pop(digest, -1)
            if handle < 0:
                handle = os.open(self.path(digest), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._writeback.settle()
                os.ftruncate(handle, size)
                os.fsync(handle)
            finally:
                os.close(handle)

    def remove(self) -> None:
        """Forgets everything; the folder goes when the lock is let go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            sync_folder(self.folder.parent)
