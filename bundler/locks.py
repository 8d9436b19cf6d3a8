"""Locks: one of ours at a time at one place. The system lets a lock go with its process, however that ends.

Of a folder on a medium, the folder itself is locked, so that no file is left there; where its file system has no locks
it is taken as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from bundler.errors import BundlerBusy, medium_errors


def take(path: Path, busy: str, hint: str = "wait for it to end") -> int:
    """A handle that holds the lock of a file, which is made, until it is closed. Raises BundlerBusy, OSError."""
    with contextlib.ExitStack() as stack:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, handle)
        if not _got(handle):
            raise BundlerBusy(busy, hint=hint)
        stack.pop_all()
        return handle


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """As the only one of ours that writes into a folder, which is made: two would take each other's `*.tmp` for their
    own. Raises BundlerBusy, MediumUnavailable."""
    with medium_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            if not _got(handle):
                raise BundlerBusy(f"{folder}: another sealift writes there", hint="wait for it to end")
        yield
    finally:
        os.close(handle)


def _got(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
