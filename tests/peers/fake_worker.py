"""The real worker process around the engine that remembers: `python -m tests.peers.fake_worker --fd N --parent PID`.

The path in `load` says how it behaves: words after the last "/" separated by "-".
    refuse    it refuses to load            memory    it refuses for lack of memory
    die       it dies while loading         hang      it never answers
    slow      each step takes 2 ms          long      the first step ends at SIGUSR1
    nan       the first token's log probability is no number
    embed     it gives vectors, of whole texts; a text that begins with token 13 has one with a value that is no number
    short     and they have a value less than was said
    garbage   it answers with a frame that is not JSON
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from runtime.engine import protocol, worker
from runtime.engine.batch import Opened, Rows
from runtime.engine.blocks import blocks_for
from runtime.engine.link import Load
from runtime.engine.scheduler import Chosen, Vector
from runtime.errors import ModelRefused, OutOfMemory
from tests.peers.fake_engine import VOCAB, WIDTH, FakeEmbedder, FakeEngine

STEP_NS = 2_000_000  # of a slow worker
BYTES = {"weight_bytes": 1000, "kv_bytes": 200, "scratch_bytes": 30}


class Slow(FakeEngine):
    def run(self, rows: Rows) -> list[Chosen]:
        time.sleep(STEP_NS / 1e9)
        return super().run(rows)


class Long(FakeEngine):
    def __init__(self, **how: int) -> None:
        super().__init__(**how)
        self._told = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self._told.set())

    def run(self, rows: Rows) -> list[Chosen]:
        self._told.wait()
        return super().run(rows)


class Broken(FakeEngine):
    def _choose(self, rows: Rows, number: int) -> Chosen:
        self.nan_at = super()._choose(rows, number).token
        return super()._choose(rows, number)


class Short(FakeEmbedder):
    def run(self, rows: Rows) -> list[Vector]:  # type: ignore[override]
        return [Vector(values=vector.values[:-4]) for vector in super().run(rows)]


def opener(load: Load) -> Opened:
    words = Path(load.path).name.split("-")
    if "refuse" in words:
        raise ModelRefused("a model that nobody can run", hint="take another")
    if "memory" in words:
        raise OutOfMemory("it needs 9 and 3 are free")
    if "die" in words:
        os._exit(9)
    if "hang" in words:
        time.sleep(3600)
    if "garbage" in words:
        setattr(worker, "encode", lambda message: protocol.HEADER.pack(1) + b"]")  # noqa: B010
    kinds: dict[str, type[FakeEngine]] = {"slow": Slow, "long": Long, "nan": Broken}
    kinds |= {"short": Short, "embed": FakeEmbedder}
    kind = next((kinds[word] for word in words if word in kinds), FakeEngine)
    n_ctx = load.n_ctx or 256
    embeds = issubclass(kind, FakeEmbedder)
    max_rows = max(load.max_rows, n_ctx) if embeds else load.max_rows
    n_blocks = blocks_for(n_ctx) * max(1, load.parallel)
    engine = kind(n_blocks=n_blocks, max_rows=max_rows, max_seqs=load.max_seqs, nan_at=13 if embeds else -1)
    return Opened(
        runner=engine, n_ctx=n_ctx, n_blocks=n_blocks, vocab=VOCAB, max_seqs=load.max_seqs, max_rows=max_rows,
        vector=WIDTH if embeds else 0, whole=embeds,
        facts={**BYTES, "threads": 1, "isa": "fake", "pack": "absent"},
    )  # fmt: skip


if __name__ == "__main__":
    worker.main(opener)
