"""Pipeline: hash one piece on several threads while the next is read and the one before is written.

hashlib leaves the interpreter lock for pieces over 2 KiB, so four hashes of the same bytes cost two cores about as much
time as the slowest of them. Pieces pass in order; a hash never sees piece n+1 before piece n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

Job = Callable[[memoryview], Any]
Then = Callable[[list[Any]], None]

WORKERS = 4  # the most hashes over one piece: SHA-256, SHA-512, leaf, volume


class Pipeline:
    """Two buffers of `size` bytes take turns: one is filled by the caller while the other is hashed."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="hash")
        self._buffers = (memoryview(bytearray(size)), memoryview(bytearray(size)))
        self._turn = 0
        self._running: list[Future[Any]] = []
        self._then: Then | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)

    def buffer(self, size: int) -> memoryview:
        """`size` bytes to fill and to push; valid until the push after the next."""
        self._turn ^= 1
        return self._buffers[self._turn][:size]

    def push(self, piece: memoryview, jobs: Sequence[Job], then: Then | None = None) -> None:
        """Starts `jobs` over `piece`. `then` gets their results, in order, at the next push or flush."""
        finished, results = self._then, [future.result() for future in self._running]
        self._running = [self._pool.submit(job, piece) for job in jobs]
        self._then = then
        if finished:
            finished(results)

    def flush(self) -> None:
        """Waits for all that was pushed."""
        self.push(memoryview(b""), ())
