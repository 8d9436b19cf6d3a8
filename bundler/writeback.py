"""Writeback: what is written to a large file goes to the disk in steps, on a thread beside: its end has little to wait
for.

An error of the disk is raised, by `wrote` or `settle`: the system tells one once, to whoever syncs first, so before a
file's own sync comes `settle`.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

STEP = 64 << 20  # bytes


class Writeback:
    """Of one file after another. Use as a context, outside of the files': no handle is in use afterwards."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._under_way: Future[None] | None = None
        self._waiting = 0  # bytes

    def __enter__(self) -> Writeback:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    def wrote(self, handle: int, size: int) -> None:
        """Another `size` bytes are in the system's hands."""
        self._waiting += size
        if self._waiting >= STEP and (self._under_way is None or self._under_way.done()):
            self.settle()
            self._waiting = 0
            self._under_way = self._thread.submit(os.fdatasync, handle)

    def settle(self) -> None:
        """Waits for the disk."""
        done, self._under_way = self._under_way, None
        if done is not None:
            done.result()
