"""A few threads that do what they are given, in order: all that a worker needs of `concurrent.futures`, whose import
takes, with `logging`, a tenth of its start.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """What a call will have given, or raised. `done` is told when it has, in the thread that made the call."""

    __slots__ = ("_call", "_done", "_error", "_lock", "_value")

    def __init__(self, call: Callable[[], T], done: Callable[[Later[T]], None] | None = None) -> None:
        self._call, self._done = call, done
        self._error: BaseException | None = None
        self._value: T
        self._lock = threading.Lock()  # until there is a result
        self._lock.acquire()

    def result(self, timeout: float = -1) -> T:
        """Waits for it. Raises what the call raised; TimeoutError after so many seconds, -1: never."""
        self.wait(timeout)
        if self._error is not None:
            raise self._error
        return self._value

    def wait(self, timeout: float = -1) -> None:
        """Until the call has given or raised. Raises TimeoutError."""
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError
        self._lock.release()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised again where the result is wanted
            self._error = error
        del self._call  # what it holds may hold this
        self._lock.release()
        if self._done is not None:
            self._done(self)


class Threads:
    """They end when nobody names this object any more. `stack`: bytes of each one's, 0: the usual."""

    def __init__(self, count: int, name: str, *, stack: int = 0) -> None:
        self._calls: queue.SimpleQueue[Later[Any] | None] = queue.SimpleQueue()
        usual = threading.stack_size(stack)
        try:
            for number in range(count):
                threading.Thread(target=_serve, args=(self._calls,), name=f"{name}-{number}", daemon=True).start()
        finally:
            threading.stack_size(usual)
        weakref.finalize(self, _end, self._calls, count).atexit = False

    def submit(self, call: Callable[[], T], done: Callable[[Later[T]], None] | None = None) -> Later[T]:
        later = Later(call, done)
        self._calls.put(later)
        return later


def _serve(calls: queue.SimpleQueue[Later[Any] | None]) -> None:
    while (later := calls.get()) is not None:
        later.run()
        del later  # what it holds is not kept until the next one comes


def _end(calls: queue.SimpleQueue[Later[Any] | None], count: int) -> None:
    for _ in range(count):
        calls.put(None)
