"""Starts the process of a worker, and keeps one ready for the first model.

An interpreter with its libraries takes as long to start as the server does. A spare worker, started before the server
imports anything of its own, does so on another core meanwhile. It knows no model and holds no file: it is confined and
waits for `load`. Imports little, for that reason. No shell, a fixed argument list, no standard input; standard output
goes where standard error goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runtime

COMMAND = (sys.executable, "-m", "runtime.engine.worker")


@dataclass(frozen=True, slots=True, eq=False)
class Spawned:
    """A worker's process, and our end of its socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


def spawn(command: Sequence[str] = COMMAND) -> Spawned:
    """Raises OSError where no process can be started."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno() if _has_fd(sys.stderr) else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), cwd=Path(runtime.__file__).resolve().parents[1],
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return Spawned(process, ours)


class Spare:
    """One worker ahead. Where it cannot be started, there is none: the load that needs one says why."""

    def __init__(self) -> None:
        self._spawned: Spawned | None = None
        with contextlib.suppress(OSError):
            self._spawned = spawn()

    def take(self) -> Spawned | None:
        """The spare worker, once; None where it has gone."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None and spawned.process.poll() is not None:
            spawned.socket.close()
            return None
        return spawned

    def close(self) -> None:
        """It ends with its socket."""
        spawned = self.take()
        if spawned is not None:
            spawned.socket.close()
            spawned.process.kill()
            spawned.process.wait()


def _has_fd(stream: Any) -> bool:
    try:
        return stream is not None and stream.fileno() >= 0
    except (OSError, ValueError):
        return False
