"""Our engine under measurement: orders and answers as lines of JSON (see player.py).

    python -m scripts.benchmarks.ours MODEL.gguf THREADS SEQUENCES

Through native.engine.Engine alone: no scheduler, no server. One step a token, greedy, sampled inside the engine, which
the peer is spared. `generate` is the work a server's clients ask for: prompts and answers, all counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from manifests.gguf import Gguf
from native.engine import BLOCK, Batch, Engine, Sampling
from native.ops import Linear, Pick
from native.plan import Plan
from native.weight import Weight
from runtime.models.load import load

MAX_ROWS = 512  # tokens of one step
STRIDE = 7919  # as in peer.py: the same token ids


class Ours:
    def __init__(self, path: Path, threads: int, sequences: int) -> None:
        self._file = Gguf.open(path)
        self._spec, self._plan, self._weights = load(self._file)
        self._length = min(1024, self._spec.context)  # tokens each sequence has room for
        self._table = -(-self._length // BLOCK)
        self._engine = Engine(
            self._plan,
            self._weights,
            threads=threads,
            n_blocks=self._table * sequences,
            max_rows=MAX_ROWS,
            max_seqs=sequences,
            max_outputs=sequences,
        )

    def facts(self) -> dict[str, Any]:
        info = self._engine.info
        return {
            "name": "sealift",
            "isa": info.isa,
            "threads": info.threads,
            "vocab": info.vocab,
            "weight_bytes": info.weight_bytes,
            "resident": resident(),
            **costs(self._plan, self._weights),
        }

    def prefill(self, tokens: int) -> float:
        started = time.perf_counter()
        self._step(sequences=1, position=0, each=tokens)
        return time.perf_counter() - started

    def decode(self, prompt: int, tokens: int, sequences: int) -> float:
        """Seconds for `tokens` steps of `sequences` tokens each; the prompts are not counted."""
        self._step(sequences=sequences, position=0, each=prompt)
        started = time.perf_counter()
        for position in range(prompt, prompt + tokens):
            self._step(sequences=sequences, position=position, each=1)
        return time.perf_counter() - started

    def generate(self, prompt: int, tokens: int, sequences: int) -> float:
        """Seconds until each of `sequences` prompts has its answer of `tokens` tokens; the prompts give the first."""
        started = time.perf_counter()
        self.decode(prompt, tokens - 1, sequences)
        return time.perf_counter() - started

    def _step(self, *, sequences: int, position: int, each: int) -> None:
        """`each` tokens for every sequence, in as many steps as MAX_ROWS needs (whole sequences together)."""
        at_once = max(1, MAX_ROWS // each)
        for first in range(0, sequences, at_once):
            group = np.arange(first, min(sequences, first + at_once))
            positions = np.arange(position, position + each)
            tokens = (positions[None, :] + 37 * group[:, None] + 1) * STRIDE % self._engine.info.vocab
            ends = np.arange(1, len(group) + 1) * each
            self._engine.step(
                Batch(
                    tokens=tokens.ravel(),
                    row_start=np.concatenate([[0], ends]),
                    start_pos=np.full(len(group), position),
                    blocks=group[:, None] * self._table + np.arange(self._table)[None, :],
                    out_rows=(ends - 1).tolist(),
                    sampling=[Sampling()] * len(group),
                )
            )


def costs(plan: Plan, weights: dict[str, Weight]) -> dict[str, int]:
    """What one token costs at least: bytes of the file's matrices that a decode step reads, and multiply-add
    operations (two a weight) of a prefill row; what comes after the pick is done for a prompt's last token only."""
    picked = next(n for n, op in enumerate(plan.ops) if isinstance(op, Pick))
    linears = [(n, op.weight) for n, op in enumerate(plan.ops) if isinstance(op, Linear)]
    return {
        "bytes_per_token": sum(weights[name].buffer.nbytes for _, name in linears),
        "operations_per_token": sum(2 * weights[name].rows * weights[name].cols for n, name in linears if n < picked),
    }


def resident() -> int:
    """Bytes of memory this process holds, file pages included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    ours = Ours(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    works: dict[str, Callable[..., float]] = {
        "prefill": ours.prefill,
        "decode": ours.decode,
        "generate": ours.generate,
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        work = order.pop("work")
        answer = ours.facts() if work == "facts" else {"seconds": works[work](**order)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
