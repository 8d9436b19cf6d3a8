"""Starts the process of a worker, and keeps one ready for the first model.

An interpreter with its libraries takes as long to start as the server does. A spare worker, started by the door before
anything else is imported (`ahead`), does so on another core meanwhile. It is confined, holds no file and waits for
`load`; it may be told that before there is a server to hear how it went. Imports little, for that reason. No shell, a
fixed argument list, no standard input; standard output goes where standard error goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

COMMAND = (sys.executable, "-m", "runtime.engine.worker")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))  # where `runtime` lies


class Spawned:
    """A worker's process, and our end of its socket. `begun`: the load that it was told already, as it was sent."""

    __slots__ = ("begun", "process", "socket")

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
        self.process, self.socket = process, ours
        self.begun = b""


def spawn(command: Sequence[str] = COMMAND) -> Spawned:
    """Raises OSError where no process can be started."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno() if _has_fd(sys.stderr) else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), cwd=ROOT,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return Spawned(process, ours)


class Spare:
    """One worker ahead. Where it cannot be started, there is none: the load that needs one says why."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._spawned: Spawned | None = None
        with contextlib.suppress(OSError):
            self._spawned = spawn(command)

    def begin(self, load: bytes) -> None:
        """Lets it load before the server is there to hear how it went: who takes it hears that. `load`: a frame that
        the socket holds whole."""
        if self._spawned is not None and not self._spawned.begun:
            with contextlib.suppress(OSError):  # it has gone: `take` sees that
                self._spawned.socket.sendall(load)
                self._spawned.begun = load

    def take(self, load: bytes) -> Spawned | None:
        """The spare worker for this load, once; None where it has gone, or has begun with another."""
        spawned, self._spawned = self._spawned, None
        if spawned is None:
            return None
        if spawned.begun in (b"", load) and spawned.process.poll() is None:
            return spawned
        _end(spawned)
        return None

    def close(self) -> None:
        if self._spawned is not None:
            _end(self._spawned)
            self._spawned = None


_ahead: Spare | None = None


def ahead() -> None:
    """Starts the spare worker that `first` will give."""
    global _ahead
    _ahead = Spare()


def first() -> Spare:
    """The spare worker that was started ahead, once; else a new one. Whoever asks closes it."""
    global _ahead
    spare, _ahead = _ahead or Spare(), None
    return spare


def leave() -> None:
    """Ends a worker that was started ahead and that nobody asked for."""
    if _ahead is not None:
        first().close()


def _end(spawned: Spawned) -> None:
    spawned.process.kill()
    spawned.socket.close()
    spawned.process.wait()


def _has_fd(stream: object) -> bool:
    try:
        return stream is not None and stream.fileno() >= 0  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return False
