"""The work that is timed, on one engine: prefill of a prompt, decode of one and of several sequences.

Through native.engine.Engine alone: no scheduler, no server. Decode takes one step a token, greedy, sampled inside the
engine. `sealift bench` and scripts/bench both measure this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from native.engine import BLOCK, Batch, Sampling
from native.ops import Attend, Linear, Pick
from native.plan import Plan
from native.weight import TYPES, Weight
from runtime.measure.subject import Subject

MAX_ROWS = 512  # tokens of one step
EACH = 1024  # tokens that each sequence has room for; one alone has all of it
STRIDE = 7919  # a prime: token ids spread over the vocabulary


class Work:
    """An engine with room for `sequences` sequences of `each` tokens. Seconds are those of the work alone."""

    def __init__(self, subject: Subject, *, threads: int, sequences: int, each: int = EACH) -> None:
        self._table = -(-each // BLOCK)
        self._spare = self._table * sequences
        self.engine = subject.engine(
            threads=threads, tokens=self._spare * BLOCK, max_rows=MAX_ROWS, max_seqs=sequences, max_outputs=sequences
        )

    def prefill(self, tokens: int) -> float:
        started = time.perf_counter()
        for position in range(0, tokens, MAX_ROWS):
            self._step(sequences=1, position=position, each=min(MAX_ROWS, tokens - position))
        return time.perf_counter() - started

    def decode(self, prompt: int, tokens: int, sequences: int) -> float:
        """Seconds for `tokens` steps of `sequences` tokens each; the prompts are not counted."""
        self._step(sequences=sequences, position=0, each=prompt)
        return self.steps(prompt, tokens, sequences)

    def steps(self, position: int, count: int, sequences: int) -> float:
        """Seconds for the tokens at `position` and after it, one of each sequence in a step."""
        started = time.perf_counter()
        for at in range(position, position + count):
            self._step(sequences=sequences, position=at, each=1)
        return time.perf_counter() - started

    def generate(self, prompt: int, tokens: int, sequences: int) -> float:
        """Seconds until each of `sequences` prompts has its answer of `tokens` tokens; the prompts give the first."""
        started = time.perf_counter()
        self.decode(prompt, tokens - 1, sequences)
        return time.perf_counter() - started

    def _step(self, *, sequences: int, position: int, each: int) -> None:
        """`each` tokens for every sequence, in as many steps as MAX_ROWS needs (whole sequences together)."""
        at_once = max(1, MAX_ROWS // each)
        width = self._spare if sequences == 1 else self._table
        for first in range(0, sequences, at_once):
            group = np.arange(first, min(sequences, first + at_once))
            positions = np.arange(position, position + each)
            tokens = (positions[None, :] + 37 * group[:, None] + 1) * STRIDE % self.engine.info.vocab
            ends = np.arange(1, len(group) + 1) * each
            self.engine.step(
                Batch(
                    tokens=tokens.ravel(),
                    row_start=np.concatenate([[0], ends]),
                    start_pos=np.full(len(group), position),
                    blocks=group[:, None] * self._table + np.arange(width)[None, :],
                    out_rows=(ends - 1).tolist(),
                    sampling=[Sampling()] * len(group),
                )
            )


ARITHMETIC = {  # by which rates of native.limits a product is bound, the best first
    "integer": ("integer_ops",),
    "half": ("bf16_ops", "float_ops"),
    "single": ("float_ops",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One linear op: its place in the plan, its matrix, and whether only a prompt's last row gets that far."""

    op: int
    name: str
    weight: Weight
    last_only: bool

    @property
    def operations(self) -> int:
        """Of one row: a multiplication and an addition for each weight."""
        return 2 * self.weight.rows * self.weight.cols


def products(plan: Plan, weights: Mapping[str, Weight]) -> list[Product]:
    picked = next(n for n, op in enumerate(plan.ops) if isinstance(op, Pick))
    return [
        Product(op=n, name=op.weight, weight=weights[op.weight], last_only=n > picked)
        for n, op in enumerate(plan.ops)
        if isinstance(op, Linear)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """One attend op: its place in the plan, and what one position that a token looks at costs."""

    op: int
    window: int
    operations: int  # a multiplication and an addition for q . k, and for the sum over v
    bytes: float  # of one key and one value, as they are kept

    def seen(self, positions: range) -> int:
        """Positions that the tokens at `positions` look at, all together; each looks at itself too."""
        return sum(min(at + 1, self.window or at + 1) for at in positions)


def attentions(plan: Plan, bytes_per_token: float) -> list[Attention]:
    """`bytes_per_token`: keys and values of all layers."""
    found = [(place, op) for place, op in enumerate(plan.ops) if isinstance(op, Attend)]
    width = sum(op.kv_heads * op.head_dim for _, op in found)
    return [
        Attention(
            op=place, window=op.window, operations=4 * op.heads * op.head_dim,
            bytes=bytes_per_token * op.kv_heads * op.head_dim / width,
        )
        for place, op in found
    ]  # fmt: skip


def costs(plan: Plan, weights: Mapping[str, Weight]) -> dict[str, Any]:
    """What one token costs at least: bytes of the file's matrices that a decode step reads, operations of a prefill row
    (what comes after the pick is done for a prompt's last token only) and of an answer's; and `arithmetic`: the rates
    of native.limits that bound most of them, best first."""
    found = products(plan, weights)
    kinds = {name: 0 for name in ARITHMETIC}
    for one in found:
        kinds[kind_of(one.weight)] += one.operations
    return {
        "bytes_per_token": sum(one.weight.buffer.nbytes for one in found),
        "operations_per_token": sum(one.operations for one in found if not one.last_only),
        "operations_per_answer": sum(one.operations for one in found),
        "arithmetic": ARITHMETIC[max(kinds, key=lambda name: kinds[name])],
    }


def kind_of(weight: Weight) -> str:
    """A key of ARITHMETIC."""
    name = TYPES[weight.type]
    return "single" if name == "F32" else "half" if name in ("F16", "BF16") else "integer"
