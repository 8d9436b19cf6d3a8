"""Random models small enough to run hundreds of times: a plan of the usual shape, its weights in GGUF's bytes and as
values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt

from native.engine import Batch, Engine, StepResult, Weight
from native.library import BLOCK, SlOp
from native.plan import Plan, PlanBuilder

Floats = npt.NDArray[np.float32]
VOCAB, HIDDEN = 96, 64
OP_LAYOUT: Any = np.dtype(SlOp)  # kind, out, a, b, c, weight, bias, i (5), f (2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    layers: int = 2
    window: int = 0
    softcap: float = 0.0
    act: Literal["silu", "gelu"] = "silu"
    pairing: Literal["adjacent", "halves"] = "halves"
    kind: str = "Q8_0"  # number format of the matrices
    bias: bool = False
    kv_type: str = "f16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiny:
    plan: Plan
    weights: dict[str, Weight]
    values: dict[str, Floats]  # the exact values of the weights, [rows, cols]
    kv_type: str = "f16"

    def engine(
        self,
        *,
        threads: int = 1,
        isa: str = "best",
        n_blocks: int = 128,
        max_rows: int = 1024,
        max_seqs: int = 8,
    ) -> Engine:
        return Engine(
            self.plan,
            self.weights,
            threads=threads,
            n_blocks=n_blocks,
            max_rows=max_rows,
            max_seqs=max_seqs,
            max_outputs=max_rows,
            isa=isa,
            kv_type=self.kv_type,
        )


def weight(values: Floats, kind: str = "F32") -> tuple[Weight, Floats]:
    """values [rows, cols] in the bytes of a format, and what they are after rounding to it."""
    number = gguf.GGMLQuantizationType[kind]
    raw: npt.NDArray[np.uint8] = np.ascontiguousarray(gguf.quants.quantize(values, number)).view(np.uint8)
    exact = np.asarray(gguf.quants.dequantize(raw, number), np.float32).reshape(values.shape)
    return Weight(buffer=raw.data.cast("B"), type=int(number), rows=len(values), cols=values.shape[1]), exact


def bound(plan: Plan, values: dict[str, Floats], kinds: dict[str, str], kv_type: str = "f16") -> Tiny:
    made = {name: weight(array, kinds.get(name, "F32")) for name, array in values.items()}
    return Tiny(
        plan=plan,
        weights={name: pair[0] for name, pair in made.items()},
        values={name: pair[1] for name, pair in made.items()},
        kv_type=kv_type,
    )


def tiny(shape: Shape, seed: int = 0) -> Tiny:
    rng = np.random.default_rng(seed)
    values: dict[str, Floats] = {}
    kinds: dict[str, str] = {}

    def matrix(name: str, rows: int, cols: int) -> str:
        values[name] = (rng.standard_normal((rows, cols)) * 1.5 / np.sqrt(cols)).astype(np.float32)
        kinds[name] = shape.kind
        return name

    def vector(name: str, cols: int) -> str:
        values[name] = (1 + 0.1 * rng.standard_normal((1, cols))).astype(np.float32)
        return name

    p = PlanBuilder()
    x = p.embed(matrix("embed", VOCAB, HIDDEN), scale=8.0)
    for layer in range(shape.layers):
        n = p.rms_norm(x, vector(f"{layer}.norm", HIDDEN), group=HIDDEN, eps=1e-5)
        sides = []
        for side, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            width = heads * shape.head_dim
            bias = vector(f"{layer}.{side}.bias", width) if shape.bias else None
            sides.append(p.linear(n, matrix(f"{layer}.{side}", width, HIDDEN), bias))
        q, k = (
            p.rope(s, head_dim=shape.head_dim, dims=shape.head_dim, pairing=shape.pairing, base=1e4) for s in sides[:2]
        )
        a = p.attend(
            q,
            k,
            sides[2],
            layer=layer,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            window=shape.window if layer % 2 == 0 else 0,
            scale=shape.head_dim**-0.5,
            softcap=shape.softcap,
        )
        x = p.add(x, p.linear(a, matrix(f"{layer}.out", HIDDEN, shape.heads * shape.head_dim)))
        n = p.rms_norm(x, vector(f"{layer}.ffn_norm", HIDDEN), group=HIDDEN, eps=1e-5)
        up = p.linear(n, matrix(f"{layer}.up", 128, HIDDEN))
        gate = p.linear(n, matrix(f"{layer}.gate", 128, HIDDEN))
        x = p.add(x, p.linear(p.glu(gate, up, act=shape.act), matrix(f"{layer}.down", HIDDEN, 128)))
    last = p.rms_norm(p.pick(x), vector("norm", HIDDEN), group=HIDDEN, eps=1e-5)
    p.softcap(p.linear(last, matrix("head", VOCAB, HIDDEN)), 30.0)
    return bound(p.build(), values, kinds, shape.kv_type)


def ops_of(plan: Plan) -> npt.NDArray[np.void]:
    """[ops] of OP_LAYOUT: what the engine is given."""
    ops: npt.NDArray[np.void] = np.frombuffer(plan.encode(), OP_LAYOUT).copy()
    return ops


def step(engine: Engine, parts: Iterable[tuple[list[int], int, npt.NDArray[np.int32]]]) -> list[Floats]:
    """One step of (tokens, start position, block table) per sequence; the logits of every row, per sequence."""
    parts = list(parts)
    row_start = np.cumsum([0, *(len(tokens) for tokens, _, _ in parts)])
    width = max(len(table) for _, _, table in parts)
    blocks = np.full((len(parts), width), -1, np.int32)
    for place, (_, _, table) in enumerate(parts):
        blocks[place, : len(table)] = table
    result: StepResult = engine.step(
        Batch(
            tokens=[token for tokens, _, _ in parts for token in tokens],
            row_start=row_start.astype(np.int32),
            start_pos=[start for _, start, _ in parts],
            blocks=blocks,
            out_rows=np.arange(row_start[-1], dtype=np.int32),
            want_logits=True,
        )
    )
    assert result.logits is not None
    return [result.logits[a:b] for a, b in itertools.pairwise(row_start)]


def alone(
    engine: Engine, tokens: list[int], *, chunk: int | None = None, table: npt.NDArray[np.int32] | None = None
) -> Floats:
    """Logits [tokens, vocab] of one sequence, `chunk` tokens a step."""
    table = np.arange(-(-len(tokens) // BLOCK), dtype=np.int32) if table is None else table
    size = chunk or len(tokens)
    return np.concatenate(
        [step(engine, [(tokens[at : at + size], at, table)])[0] for at in range(0, len(tokens), size)]
    )
