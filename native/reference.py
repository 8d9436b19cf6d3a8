"""What a plan means: each op once, in numpy and float64. Slow on purpose; every kernel is measured against it.
Over whole texts (runtime/measure) it runs in float32 instead: the same lines, each slot rounded.

One sequence, its own plain cache, no batching. Weights are given as [rows, cols] arrays of their exact values; a vector
is [1, n]. Slots are [rows of the step, width].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from native.plan import (
    Activate,
    Add,
    Attend,
    AttendAll,
    Embed,
    Glu,
    LayerNorm,
    Linear,
    Op,
    Pick,
    Place,
    Plan,
    Pool,
    RmsNorm,
    Rope,
    Shift,
    Softcap,
)

Doubles = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[Any]]


def reference(plan: Plan, weights: Weights, tokens: Sequence[int]) -> Doubles:
    """logits [tokens, vocab] of a sequence that starts with `tokens`, or what else the plan's last op gives."""
    return Reference(plan, weights).step(tokens)


@dataclass(slots=True)
class Step:
    """What the ops of one step see besides their slots."""

    tokens: npt.NDArray[np.int64]  # [n]
    positions: npt.NDArray[np.int64]  # [n]
    picked: npt.NDArray[np.int64]  # [outputs] rows to answer
    weights: Weights
    cache: dict[int, tuple[Doubles, Doubles]]  # layer -> keys and values so far, [positions, kv_heads, head_dim]
    cache_type: str | None
    dtype: npt.DTypeLike
    slots: dict[int, Doubles] = field(default_factory=dict)

    def weight(self, name: str) -> Doubles:
        return np.asarray(self.weights[name], self.dtype)


class Reference:
    """One sequence that grows step by step. After a step, `slots` holds every slot's values: the trace to compare with.

    `cache_type` "f16" or "q8_0" rounds keys and values as the engine's cache of that type does; None does not.
    `dtype`: of every slot and product.
    """

    def __init__(
        self, plan: Plan, weights: Weights, *, cache_type: str | None = None, dtype: npt.DTypeLike = np.float64
    ) -> None:
        plan.verify({name: (array.shape[0], array.shape[1]) for name, array in weights.items()})
        self.plan = plan
        self.weights = weights
        self.cache_type, self.dtype = cache_type, dtype
        self.length = 0
        self.slots: dict[int, Doubles] = {}
        self._cache: dict[int, tuple[Doubles, Doubles]] = {}

    def step(self, tokens: Sequence[int], picked: Sequence[int] | None = None) -> Doubles:
        """Appends `tokens` and returns logits [picked, vocab] of the picked rows, by default all."""
        assert self.length == 0 or not self.plan.whole, "this plan computes a sequence in one step"
        n = len(tokens)
        step = Step(
            tokens=np.asarray(tokens, np.int64),
            positions=np.arange(self.length, self.length + n),
            picked=np.arange(n) if picked is None else np.asarray(picked, np.int64),
            weights=self.weights,
            cache=self._cache,
            cache_type=self.cache_type,
            dtype=self.dtype,
        )
        for op in self.plan.ops:
            step.slots[op.out] = np.asarray(MEANING[type(op)](op, step), self.dtype)
        self.length += n
        self.slots = step.slots
        return step.slots[self.plan.ops[-1].out]


def embed(op: Embed, step: Step) -> Doubles:
    rows = np.asarray(step.weights[op.weight])[step.tokens]
    return np.asarray(rows.astype(step.dtype) * op.scale)


def rms_norm(op: RmsNorm, step: Step) -> Doubles:
    x = step.slots[op.x]
    groups = x.reshape(len(x), -1, op.group)
    mean_square = np.mean(groups * groups, axis=-1, keepdims=True)
    normed = groups / np.sqrt(mean_square + op.eps) * step.weight(op.weight)[0]
    return np.asarray(normed.reshape(x.shape))


def linear(op: Linear, step: Step) -> Doubles:
    y: Doubles = step.slots[op.x] @ step.weight(op.weight).T
    return y if op.bias is None else np.add(y, step.weight(op.bias)[0])


def rope(op: Rope, step: Step) -> Doubles:
    x = step.slots[op.x]
    half = op.dims // 2
    frequency = op.scale * op.base ** (-2.0 * np.arange(half) / op.dims)
    if op.factors is not None:
        frequency = frequency / step.weight(op.factors)[0]
    angle = step.positions[:, None, None] * frequency  # [n, 1, half]
    heads = x.reshape(len(x), -1, op.head_dim).copy()
    first, second = (
        (slice(0, op.dims, 2), slice(1, op.dims, 2))
        if op.pairing == "adjacent"
        else (
            slice(0, half),
            slice(half, op.dims),
        )
    )
    a, b = heads[..., first].copy(), heads[..., second].copy()
    heads[..., first] = a * np.cos(angle) - b * np.sin(angle)
    heads[..., second] = a * np.sin(angle) + b * np.cos(angle)
    return np.asarray(heads.reshape(x.shape))


def attend(op: Attend, step: Step) -> Doubles:
    n = len(step.positions)
    q = step.slots[op.q].reshape(n, op.kv_heads, op.heads // op.kv_heads, op.head_dim).transpose(1, 2, 0, 3)
    keys, values = (
        side.transpose(1, 0, 2)[:, None] for side in _remember(op, step)
    )  # [kv_heads, 1, positions, head_dim]
    scores = q @ keys.swapaxes(2, 3) * op.scale  # [kv_heads, group, n, positions]
    if op.softcap:
        scores = op.softcap * np.tanh(scores / op.softcap)
    distance = step.positions[:, None] - np.arange(keys.shape[2])  # [n, positions], 0 is the row itself
    seen = (distance >= 0) & ((distance < op.window) if op.window else True)
    scores = np.where(seen, scores, -np.inf)
    return np.asarray((_softmax(scores) @ values).transpose(2, 0, 1, 3).reshape(n, -1))


def attend_all(op: AttendAll, step: Step) -> Doubles:
    q = step.slots[op.q].reshape(-1, op.kv_heads, op.heads // op.kv_heads, op.head_dim).transpose(1, 2, 0, 3)
    rounds = half if step.cache_type else KEPT[None]  # what a cache type means here
    keys, values = (
        np.asarray(rounds(step.slots[slot]), step.dtype).reshape(-1, op.kv_heads, 1, op.head_dim).transpose(1, 2, 0, 3)
        for slot in (op.k, op.v)
    )  # [kv_heads, 1, rows, head_dim]
    weights = _softmax(q @ keys.swapaxes(2, 3) * op.scale)
    return np.asarray((weights @ values).transpose(2, 0, 1, 3).reshape(len(step.tokens), -1))


def _softmax(scores: Doubles) -> Doubles:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _remember(op: Attend, step: Step) -> tuple[Doubles, Doubles]:
    """Appends this step's keys and values to the layer's and returns all, [positions, kv_heads, head_dim]."""
    grown = []
    for side, slot in enumerate((op.k, op.v)):
        new = step.slots[slot].reshape(-1, op.kv_heads, op.head_dim)
        new = np.asarray(KEPT[step.cache_type](new), step.dtype)
        grown.append(np.concatenate([step.cache[op.layer][side], new]) if op.layer in step.cache else new)
    step.cache[op.layer] = (grown[0], grown[1])
    return step.cache[op.layer]


def half(x: Doubles) -> Doubles:
    return x.astype(np.float16).astype(np.float64)


def eight_bits(x: Doubles) -> Doubles:
    """x [.., head_dim]: per 32 values (the last group may be shorter) q * d, d = max|x| / 127, q = x * (127 / max|x|)
    rounded to even; in float32, because what lies between two codes falls to either side by the last bit."""
    grown = np.pad(x.astype(np.float32), [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 32)])
    groups = grown.reshape(*x.shape[:-1], -1, 32)
    most = np.abs(groups).max(axis=-1, keepdims=True)
    codes = np.rint(groups * np.divide(np.float32(127), most, out=np.zeros_like(most), where=most != 0))
    kept = codes.astype(np.float64) * (most / np.float32(127))
    return np.asarray(kept.reshape(grown.shape)[..., : x.shape[-1]])


KEPT: dict[str | None, Callable[[Doubles], Doubles]] = {None: lambda x: x, "f16": half, "q8_0": eight_bits}


def glu(op: Glu, step: Step) -> Doubles:
    return np.asarray(ACTIVE[op.act](step.slots[op.gate]) * step.slots[op.up])


def activate(op: Activate, step: Step) -> Doubles:
    return ACTIVE[op.act](step.slots[op.x])


def silu(x: Doubles) -> Doubles:
    return np.asarray(x * 0.5 * (1 + np.tanh(x / 2)))  # x * sigmoid(x), without overflow


def gelu(x: Doubles) -> Doubles:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def gelu_erf(x: Doubles) -> Doubles:
    tail = np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))  # 2 Phi(x), exact in the tail too
    return np.asarray(x * tail / 2)


ACTIVE: dict[str, Callable[[Doubles], Doubles]] = {"silu": silu, "gelu": gelu, "gelu_erf": gelu_erf}


def layer_norm(op: LayerNorm, step: Step) -> Doubles:
    x = step.slots[op.x]
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + op.eps) * step.weight(op.weight)[0] + step.weight(op.bias)[0])


def place(op: Place, step: Step) -> Doubles:
    return np.asarray(np.asarray(step.weights[op.weight])[step.positions].astype(step.dtype))


def shift(op: Shift, step: Step) -> Doubles:
    return np.asarray(step.slots[op.x] + step.weight(op.weight)[0])


def pool(op: Pool, step: Step) -> Doubles:
    x = step.slots[op.x]
    pooled = x.mean(axis=0) if op.how == "mean" else x[0]
    return np.asarray(np.repeat(pooled[None], len(step.picked), axis=0))


def add(op: Add, step: Step) -> Doubles:
    return step.slots[op.a] + step.slots[op.b]


def softcap(op: Softcap, step: Step) -> Doubles:
    return op.cap * np.tanh(step.slots[op.x] / op.cap)


def pick(op: Pick, step: Step) -> Doubles:
    return step.slots[op.x][step.picked]


MEANING: dict[type[Op], Callable[[Any, Step], Doubles]] = {
    Embed: embed,
    RmsNorm: rms_norm,
    Linear: linear,
    Rope: rope,
    Attend: attend,
    Glu: glu,
    Add: add,
    Softcap: softcap,
    Pick: pick,
    LayerNorm: layer_norm,
    Activate: activate,
    Place: place,
    Shift: shift,
    AttendAll: attend_all,
    Pool: pool,
}
