"""Pipeline: several hashes of the same bytes, each on a thread of its own, while further pieces are read and written.

hashlib leaves the interpreter lock for pieces over 2 KiB. Every hash has a lane: it takes pieces in order, as fast as
it can, and the slowest lane (SHA-512) never waits for a piece's other hashes, only for bytes. Job i of each piece runs
on lane i, so a hash keeps its place between two flushes; a hash never sees piece n+1 before piece n.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

Job = Callable[[memoryview], Any]
Then = Callable[[list[Any]], None]

LANES = 4  # the most hashes over one piece: leaf, SHA-512, SHA-256, volume
DEPTH = 6  # pieces under way; with leaves of 4 MiB, 24 MiB


class Pipeline:
    """`DEPTH` buffers of `size` bytes go round: filled by the caller, hashed by all lanes, given to `then`, free."""

    def __init__(self, size: int) -> None:
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="hash") for _ in range(LANES)]
        self._free = [memoryview(bytearray(size)) for _ in range(DEPTH)]
        self._running: deque[tuple[memoryview, list[Future[Any]], Then | None]] = deque()
        self._filled: memoryview | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.shutdown(wait=True, cancel_futures=True)

    def buffer(self, size: int) -> memoryview:
        """`size` bytes to fill and to push."""
        if self._filled is None:
            while not self._free:
                self._finish_oldest()
            self._filled = self._free.pop()
        return self._filled[:size]

    def push(self, piece: memoryview, jobs: Sequence[Job], then: Then | None = None) -> None:
        """Starts `jobs` over `piece`, which `buffer` gave. `then` gets their results in some later call, pieces in
        order."""
        assert self._filled is not None
        futures = [lane.submit(job, piece) for lane, job in zip(self._lanes, jobs, strict=False)]
        self._running.append((self._filled, futures, then))
        self._filled = None

    def flush(self) -> None:
        """Waits for all that was pushed."""
        while self._running:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        buffer, futures, then = self._running.popleft()
        results = [future.result() for future in futures]
        if then:
            then(results)
        self._free.append(buffer)
