"""LoRA at load: beside each matrix that an adapter changes stand two thin ones, y = W x + B (scale * A x).

A rewrite of the plan with ops that it has already, so what holds for every plan holds here: the base's weights are not
touched (their packs stay good), and a row of a batch does not depend on the others. Matrices that the file holds fused
share A and cut B by rows. Adapters are added in order; each one sees the base's input alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from manifests.gguf import Gguf, TensorInfo
from native.errors import PlanError
from native.ops import Add, Linear, Op
from native.plan import Plan
from native.record import replace
from native.weight import TYPES, Weight
from runtime.errors import ArchitectureRefused
from runtime.models.spec import ModelSpec
from runtime.models.weights import fused_rows

if TYPE_CHECKING:
    from manifests.lora import Pair

Changes = dict[str, list[tuple[str, str]]]  # of each matrix of the plan: the names of A and B


def adapt(
    base: Gguf, spec: ModelSpec, plan: Plan, weights: Mapping[str, Weight], adapters: Sequence[Gguf]
) -> tuple[Plan, dict[str, Weight]]:
    """The plan with all adapters, and the weights that it reads besides those given.

    Raises GgufError for an adapter that does not fit the base, ArchitectureRefused for one that cannot be run.
    """
    if not adapters:
        return plan, {}
    from manifests.lora import pairs

    changes: Changes = {}
    added: dict[str, Weight] = {}
    for number, adapter in enumerate(adapters):
        _bind(plan, spec, adapter, pairs(adapter, base), number, changes, added)
    adapted = _rewrite(plan, changes)
    try:
        adapted.verify({name: (one.rows, one.cols) for name, one in {**weights, **added}.items()})
    except PlanError as error:
        raise ArchitectureRefused(f"adapter: {error}") from error
    return adapted, added


def _bind(
    plan: Plan,
    spec: ModelSpec,
    adapter: Gguf,
    found: Sequence[Pair],
    number: int,
    changes: Changes,
    added: dict[str, Weight],
) -> None:
    """Fills `changes` and `added` with the pairs of one adapter."""
    fused = fused_rows(spec)
    by_target = {pair.target: pair for pair in found}
    used = set()
    for name in dict.fromkeys(op.weight for op in plan.ops if isinstance(op, Linear)):
        rows = fused.get(name)
        pair = by_target.get(rows.tensor if rows else name)
        if pair is None:
            continue
        used.add(pair.target)
        down, up = f"{pair.target}.lora_a.{number}", f"{name}.lora_b.{number}"
        if down not in added:
            added[down] = _scaled(adapter, pair)
        whole = _weight(adapter, pair.up)
        each = len(whole.buffer) // whole.rows
        first, count = (rows.first, rows.count) if rows else (0, whole.rows)
        added[up] = replace(whole, buffer=whole.buffer[first * each : (first + count) * each], rows=count)
        changes.setdefault(name, []).append((down, up))
    unread = next((pair.target for pair in found if pair.target not in used), None)
    if unread is not None:
        raise ArchitectureRefused(f"adapter: tensor {unread} is no linear layer of this model")


def _rewrite(plan: Plan, changes: Changes) -> Plan:
    """The same ops in the same order; after each changed one, its adapters' products are added."""
    ops: list[Op] = []
    places: dict[int, int] = {}  # slot of `plan` -> slot of the new plan
    for op in plan.ops:
        slots = {name: places[getattr(op, name)] for name in op.SLOTS}
        ops.append(replace(op, out=len(ops), **slots))
        result = ops[-1].out
        for down, up in changes.get(op.weight, ()) if isinstance(op, Linear) else ():
            ops.append(Linear(out=len(ops), x=slots["x"], weight=down))
            ops.append(Linear(out=len(ops), x=ops[-1].out, weight=up))
            ops.append(Add(out=len(ops), a=result, b=ops[-1].out))
            result = ops[-1].out
        places[op.out] = result
    names = (name for op in ops for name in op.weights if name is not None)
    return Plan(ops=tuple(ops), tensors=tuple(dict.fromkeys(names)))


def _weight(adapter: Gguf, info: TensorInfo) -> Weight:
    if int(info.type) not in TYPES:
        raise ArchitectureRefused(
            f"adapter: tensor {info.name} is stored as {info.type.name}, for which there is no kernel",
            hint=f"use a file in one of these formats: {', '.join(TYPES.values())}",
        )
    return Weight(buffer=adapter.data(info.name), type=int(info.type), rows=info.shape[1], cols=info.shape[0])


def _scaled(adapter: Gguf, pair: Pair) -> Weight:
    """A times the scale, as float32: a small matrix of its own."""
    from native.engine import dequantize

    values = dequantize(_weight(adapter, pair.down)) * pair.scale
    return Weight(buffer=memoryview(values.astype("<f4").tobytes()), type=0, rows=values.shape[0], cols=values.shape[1])
