"""Binds every tensor of a GGUF to the names a plan reads: views of the mapped file, nothing copied.

Fused tensors are cut by rows. Refused, by name: a tensor the plan needs and the file lacks, a tensor nobody reads, a
fused tensor whose rows do not add up, a number format without a kernel. Every byte of every tensor is bound exactly
once (tied embeddings are one tensor read by two ops).
"""

from __future__ import annotations

from manifests.gguf import Gguf, TensorInfo
from native.plan import Plan
from native.record import record
from native.weight import TYPES, Weight
from runtime.errors import ArchitectureRefused
from runtime.models.spec import ModelSpec

NAMED = 5  # tensors an error names before it only counts


@record(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows `first` .. `first + count - 1` of a tensor that holds `total` such rows."""

    tensor: str
    first: int
    count: int
    total: int


def bind(gguf: Gguf, spec: ModelSpec, plan: Plan) -> dict[str, Weight]:
    """Every name in `plan.tensors` -> its weight. Raises ArchitectureRefused."""
    fused = fused_rows(spec)
    weights = {name: _weight(gguf, spec, name, fused.get(name)) for name in plan.tensors}
    read = {fused[name].tensor if name in fused else name for name in plan.tensors}
    if spec.pooling:
        read.add("output.weight")  # of a decoder that gives vectors: its logits are never asked for
    spare = [name for name in gguf.tensors if name not in read]
    if spare:
        raise ArchitectureRefused(
            f"{spec.architecture}: tensors nobody reads: {_some(spare)}",
            hint="the file holds more than this architecture has; running it without them would be silently wrong",
        )
    return weights


def _weight(gguf: Gguf, spec: ModelSpec, name: str, rows: Rows | None) -> Weight:
    tensor = rows.tensor if rows else name
    info = gguf.tensors.get(tensor)
    if info is None:
        raise ArchitectureRefused(f"{spec.architecture}: tensor {tensor} is missing")
    if int(info.type) not in TYPES:
        raise ArchitectureRefused(
            f"{spec.architecture}: tensor {tensor} is stored as {info.type.name}, for which there is no kernel",
            hint=f"use a file in one of these formats: {', '.join(TYPES.values())}",
        )
    cols, total = _matrix(spec, info)
    data = gguf.data(tensor)
    if rows is None:
        return Weight(buffer=data, type=int(info.type), rows=total, cols=cols)
    if total != rows.total:
        raise ArchitectureRefused(f"{spec.architecture}: tensor {tensor} has {total} rows, expected {rows.total}")
    row = info.type.row_bytes(cols)
    part = data[rows.first * row : (rows.first + rows.count) * row]
    return Weight(buffer=part, type=int(info.type), rows=rows.count, cols=cols)


def _matrix(spec: ModelSpec, info: TensorInfo) -> tuple[int, int]:
    """(cols, rows). A vector is one row."""
    if len(info.shape) == 1:
        return info.shape[0], 1
    if len(info.shape) == 2:
        return info.shape[0], info.shape[1]
    raise ArchitectureRefused(
        f"{spec.architecture}: tensor {info.name} has {len(info.shape)} dimensions, expected 1 or 2"
    )


def fused_rows(spec: ModelSpec) -> dict[str, Rows]:
    """The names a plan reads that lie inside another tensor."""
    found: dict[str, Rows] = {}
    if spec.encoder and spec.encoder.token_types:
        found["token_types.weight"] = Rows(
            tensor="token_types.weight", first=0, count=1, total=spec.encoder.token_types
        )
    for number, layer in enumerate(spec.layers):
        at = f"blk.{number}."
        attention, feed_forward = layer.attention, layer.feed_forward
        if attention.fused:
            parts = {"q": attention.q_width, "k": attention.kv_width, "v": attention.kv_width}
            names = {f"{at}attn_{part}.weight": count for part, count in parts.items()}
            found |= _cut(f"{at}attn_qkv.weight", names)
        if feed_forward.fused:
            names = {f"{at}ffn_gate.weight": feed_forward.width, f"{at}ffn_up.weight": feed_forward.width}
            found |= _cut(f"{at}ffn_up.weight", names)
    return found


def _cut(tensor: str, counts: dict[str, int]) -> dict[str, Rows]:
    rows, first, total = {}, 0, sum(counts.values())
    for name, count in counts.items():
        rows[name] = Rows(tensor=tensor, first=first, count=count, total=total)
        first += count
    return rows


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
