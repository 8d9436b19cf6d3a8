"""Pipeline: several hashes of the same bytes on threads, while further pieces are read and written.

Hashing leaves the interpreter lock. There is a lane, a thread, for each processor, and at most for each hash; where all
SHA-256 go side by side (bundler.sha256), two lanes. Hashes come slowest first: SHA-512 has the first lane for itself,
and what has no lane of its own shares the last. (Four threads would each get half of one of two processors, and
SHA-512, as slow as three SHA-256, would end late.) Lanes take pieces in order, each as fast as it can: none waits at a
piece's end for the others, only for bytes. A hash keeps its place between two flushes, so it never sees piece n+1
before piece n. Measured on two processors: docs/benchmarks/crossing.md.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from bundler import sha256
from bundler.sha256 import Hash

Read = Callable[[memoryview], object]
Then = Callable[[], None]

LANES = 4  # the most hashes over one piece: SHA-512, leaf, SHA-256, volume
LANES_SIDE_BY_SIDE = 2  # SHA-512, and all SHA-256: three of them take as long
DEPTH = 6  # buffers under way; with leaves of 4 MiB, 24 MiB
PIECE = 1 << 20  # bytes; what one lane hashes twice is still in its processor's own cache then (2 MiB on a Xeon)


class Pipeline:
    """`DEPTH` buffers of `size` bytes go round: filled by the caller, hashed by all lanes, given to `then`, free."""

    def __init__(self, size: int) -> None:
        count = min(LANES_SIDE_BY_SIDE if sha256.side_by_side() else LANES, len(os.sched_getaffinity(0)))
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="hash") for _ in range(count)]
        self._free = [memoryview(mmap.mmap(-1, size)) for _ in range(DEPTH)]  # nothing is cleared before it is filled
        self._running: deque[tuple[memoryview, list[Future[None]], Then | None]] = deque()
        self._filled: tuple[memoryview, list[Future[None]]] | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.shutdown(wait=True, cancel_futures=True)

    def buffer(self, size: int) -> memoryview:
        """`size` bytes to fill; then `start`, once or for one part after another, and `push`."""
        if self._filled is None:
            while not self._free:
                self._finish_oldest()
            self._filled = self._free.pop(), []
        return self._filled[0][:size]

    def fill(self, size: int, read: Read, hashes: Sequence[Hash]) -> memoryview:
        """A buffer that `read` fills, piece by piece; `hashes` get each as soon as it is there."""
        whole = self.buffer(size)
        for at in range(0, size, PIECE):
            piece = whole[at : at + PIECE]
            read(piece)
            self.start(piece, hashes)
        return whole

    def start(self, piece: memoryview, hashes: Sequence[Hash]) -> None:
        """Gives a part of the buffer to `hashes`, slowest first."""
        assert self._filled is not None
        last = len(self._lanes) - 1
        shares = [*([one] for one in hashes[:last]), list(hashes[last:])]
        self._filled[1].extend(
            lane.submit(sha256.update, share, piece) for lane, share in zip(self._lanes, shares, strict=False) if share
        )

    def push(self, then: Then | None = None) -> None:
        """Lets go of the buffer. `then` is called in some later call, when all its hashes have seen it, in the order of
        buffers."""
        assert self._filled is not None
        self._running.append((*self._filled, then))
        self._filled = None

    def flush(self) -> None:
        """Waits for all that was pushed."""
        while self._running:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        buffer, futures, then = self._running.popleft()
        for future in futures:
            future.result()
        if then:
            then()
        self._free.append(buffer)
