"""A process that loads a model once and then measures itself on order, so that loading and our own Python stay outside.

One line of JSON in, {"work": NAME, ...arguments}, one line out, {"seconds": S}; after loading it says {"ready": true}.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.measure.work import EACH

HERE = Path(__file__).parent


class Player:
    """`name` appears in tables. Raises SystemExit with the command's name where the process fails; its own words are
    on standard error."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        started = time.perf_counter()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()
        self.load_seconds = time.perf_counter() - started

    def seconds(self, work: str, **arguments: Any) -> float:
        return float(self.ask(work, **arguments)["seconds"])

    def ask(self, work: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"work": work, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"bench: {self.name} has ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self.name} ended with status {self._process.wait()} instead of answering")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def our_player(model: Path, *, threads: int, sequences: int, each: int = EACH) -> Player:
    """With room for `sequences` sequences of `each` tokens."""
    numbers = map(str, (threads, sequences, each))
    command = [sys.executable, "-m", "scripts.benchmarks.ours", str(model), *numbers]
    return Player("sealift", command)


def peer_player(python: str, model: Path, *, threads: int) -> Player:
    return Player("llama.cpp", [python, str(HERE / "peer.py"), str(model), str(threads)])
