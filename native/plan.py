"""A plan: a model as a straight list of ops over numbered slots. It is data: printed, compared, verified, encoded.

`verify` refuses, naming op and tensor: a slot read before it is written or written twice; widths that do not meet;
a tensor of another shape than its op needs; a tensor nobody reads; cache layers that are not 0, 1, 2, ... once each;
rows of the batch mixed with output rows; numbers out of range. `encode` gives the bytes of `sl_op` that the engine
takes; it verifies for itself, because a plan is input to it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from native import ops as o
from native.errors import PlanError
from native.ops import (
    KINDS,
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
    Pool,
    RmsNorm,
    Rope,
    Shift,
    Softcap,
)
from native.record import record

__all__ = ["KINDS", "Activate", "Add", "Attend", "AttendAll", "Embed", "Glu", "LayerNorm", "Linear", "Op"]
__all__ += ["Pick", "Place", "Plan", "PlanBuilder", "Pool", "RmsNorm", "Rope", "Shift", "Softcap"]

NONE = -1  # SL_NONE
_OP = struct.Struct("<12i2f")  # struct sl_op
Shapes = Mapping[str, tuple[int, int]]
BATCH, OUTPUTS = "batch rows", "output rows"


@record(frozen=True, kw_only=True, slots=True)
class Plan:
    """`ops` in the order they run; the last one's `out` holds the logits, or vectors. `tensors`: each name they read,
    once."""

    ops: tuple[Op, ...]
    tensors: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Cache layers."""
        return sum(isinstance(op, Attend) for op in self.ops)

    @property
    def whole(self) -> bool:
        """Whether a sequence must be computed in one step, from its first token."""
        return any(isinstance(op, AttendAll | Pool) for op in self.ops)

    def verify(self, shapes: Shapes) -> dict[int, int]:
        """The width of every slot, given the (rows, cols) of every tensor. Raises PlanError."""
        return _Verifier(self, shapes).run()

    def encode(self) -> bytes:
        """[ops] of `sl_op`. Tensor numbers index `tensors`. Raises PlanError for numbers and names that it has no place
        for; all else that may be wrong the engine finds."""
        index = {name: number for number, name in enumerate(self.tensors)}
        return b"".join([_encoded(op, index) for op in self.ops])

    def text(self) -> str:
        """One line per op, for people, golden files and hashes."""
        return "".join(f"{op}\n" for op in self.ops)


def _encoded(op: Op, index: Mapping[str, int]) -> bytes:
    slots = [*op.inputs, NONE, NONE, NONE][:3]
    try:
        weights = [*(NONE if name is None else index[name] for name in op.weights), NONE, NONE][:2]
        ints = [*(_int(getattr(op, name)) for name in op.INTS), 0, 0, 0, 0, 0][:5]
        floats = [*(getattr(op, name) for name in op.FLOATS), 0.0, 0.0][:2]
        return _OP.pack(op.CODE, op.out, *slots, *weights, *ints, *floats)
    except (KeyError, StopIteration, struct.error) as error:
        raise PlanError(f"{op}: cannot be encoded: {error}") from error


def _int(value: int | str) -> int:
    """Words become their place in the vocabulary's order: adjacent 0, halves 1; silu 0, gelu 1; mean 0, first 1."""
    if isinstance(value, int):
        return value
    lists: tuple[tuple[str, ...], ...] = (o.PAIRINGS, o.ACTIVATIONS, o.POOLINGS)
    return next(words.index(value) for words in lists if value in words)


class PlanBuilder:
    """Collects ops and numbers their slots. Each method returns the slot it writes."""

    def __init__(self) -> None:
        self._ops: list[Op] = []

    def _put(self, op: Op) -> int:
        self._ops.append(op)
        return op.out

    @property
    def _next(self) -> int:
        return len(self._ops)

    def embed(self, weight: str, *, scale: float = 1.0) -> int:
        return self._put(Embed(out=self._next, weight=weight, scale=scale))

    def rms_norm(self, x: int, weight: str, *, group: int, eps: float) -> int:
        return self._put(RmsNorm(out=self._next, x=x, weight=weight, group=group, eps=eps))

    def linear(self, x: int, weight: str, bias: str | None = None) -> int:
        return self._put(Linear(out=self._next, x=x, weight=weight, bias=bias))

    def rope(self, x: int, **facts: Any) -> int:
        """`facts` are the fields of `Rope`."""
        return self._put(Rope(out=self._next, x=x, **facts))

    def attend(self, q: int, k: int, v: int, **facts: Any) -> int:
        """`facts` are the fields of `Attend`."""
        return self._put(Attend(out=self._next, q=q, k=k, v=v, **facts))

    def glu(self, gate: int, up: int, *, act: o.Activation) -> int:
        return self._put(Glu(out=self._next, gate=gate, up=up, act=act))

    def add(self, a: int, b: int) -> int:
        return self._put(Add(out=self._next, a=a, b=b))

    def softcap(self, x: int, cap: float) -> int:
        return self._put(Softcap(out=self._next, x=x, cap=cap))

    def pick(self, x: int) -> int:
        return self._put(Pick(out=self._next, x=x))

    def layer_norm(self, x: int, weight: str, bias: str, *, eps: float) -> int:
        return self._put(LayerNorm(out=self._next, x=x, weight=weight, bias=bias, eps=eps))

    def activate(self, x: int, *, act: o.Activation) -> int:
        return self._put(Activate(out=self._next, x=x, act=act))

    def place(self, weight: str) -> int:
        return self._put(Place(out=self._next, weight=weight))

    def shift(self, x: int, weight: str) -> int:
        return self._put(Shift(out=self._next, x=x, weight=weight))

    def attend_all(self, q: int, k: int, v: int, **facts: Any) -> int:
        """`facts` are the fields of `AttendAll`."""
        return self._put(AttendAll(out=self._next, q=q, k=k, v=v, **facts))

    def pool(self, x: int, *, how: o.Pooling) -> int:
        return self._put(Pool(out=self._next, x=x, how=how))

    def build(self) -> Plan:
        names = (name for op in self._ops for name in op.weights if name is not None)
        return Plan(ops=tuple(self._ops), tensors=tuple(dict.fromkeys(names)))


class _Verifier:
    """Walks a plan once, keeping the width and the row domain of every slot written so far."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        self.plan = plan
        self.shapes = shapes
        self.widths: dict[int, int] = {}
        self.rows: dict[int, str] = {}
        self.layers: list[int] = []
        self.where = ""

    def run(self) -> dict[int, int]:
        if not self.plan.ops:
            raise PlanError("the plan has no ops")
        for place, op in enumerate(self.plan.ops):
            self.where = f"op {place} ({op})"
            self._check_numbers(op)
            rows = self._common_rows(op)
            width = self._width(op)
            self.need(op.out >= 0 and op.out not in self.widths, f"slot %{op.out} is written twice or negative")
            self.widths[op.out], self.rows[op.out] = width, rows
        self.need(self.rows[self.plan.ops[-1].out] == OUTPUTS, "the logits are not picked: no pick comes before them")
        self._check_whole()
        return self.widths

    def need(self, holds: bool, problem: str) -> None:
        if not holds:
            raise PlanError(f"{self.where}: {problem}")

    def _check_numbers(self, op: Op) -> None:
        for name in op.INTS:
            value = getattr(op, name)
            self.need(isinstance(value, str) or 0 <= value < 2**31, f"{name} is {value}, expected 0 to 2^31 - 1")
        for name in op.FLOATS:
            value = getattr(op, name)
            self.need(math.isfinite(value), f"{name} is {value}, expected a finite number")
            zero_is_off = isinstance(op, Attend) and name == "softcap"
            self.need(value > 0 or (zero_is_off and value == 0), f"{name} is {value}, expected more than 0")

    def _common_rows(self, op: Op) -> str:
        """The row domain of the result; all inputs must share theirs."""
        for slot in op.inputs:
            self.need(slot in self.widths, f"%{slot} is read before it is written")
        domains = {self.rows[slot] for slot in op.inputs} or {BATCH}
        self.need(len(domains) == 1, "mixes batch rows with output rows")
        domain = domains.pop()
        if isinstance(op, Rope | Attend | AttendAll | Pick | Pool):
            self.need(domain == BATCH, f"{op.NAME} needs batch rows, found output rows")
        return OUTPUTS if isinstance(op, Pick | Pool) else domain

    def _shape(self, name: str) -> tuple[int, int]:
        self.need(name in self.plan.tensors, f"{name} is not among the plan's tensors")
        self.need(name in self.shapes, f"{name} is not bound to a tensor")
        return self.shapes[name]

    def _vector(self, name: str, length: int, meaning: str) -> None:
        shape = self._shape(name)
        self.need(shape == (1, length), f"{name} is {list(shape)}, expected [1, {length}] ({meaning})")

    def _width(self, op: Op) -> int:
        if isinstance(op, Embed | Place):
            return self._shape(op.weight)[1]
        first = self.widths[op.inputs[0]]
        if isinstance(op, RmsNorm):
            self._divides(op.group, first, "group")
            self._vector(op.weight, op.group, "group")
        elif isinstance(op, Linear):
            return self._linear(op, first)
        elif isinstance(op, Rope):
            self._rope(op, first)
        elif isinstance(op, Attend | AttendAll):
            self._attend(op)
        elif isinstance(op, LayerNorm | Shift):
            for name in filter(None, op.weights):
                self._vector(name, first, f"width of %{op.x}")
        elif isinstance(op, Glu | Add):
            second = self.widths[op.inputs[1]]
            self.need(first == second, f"%{op.inputs[0]} is {first} wide, %{op.inputs[1]} is {second}")
        else:
            self.need(isinstance(op, Softcap | Pick | Activate | Pool), "not an op of the vocabulary")
        if isinstance(op, Glu | Activate):
            self.need(op.act in o.ACTIVATIONS, f"act is none of {', '.join(o.ACTIVATIONS)}")
        self.need(not isinstance(op, Pool) or op.how in o.POOLINGS, "how is neither mean nor first")
        return first

    def _divides(self, part: int, width: int, meaning: str) -> None:
        self.need(part > 0 and width % part == 0, f"{meaning} {part} does not divide the width {width} of its input")

    def _linear(self, op: Linear, width: int) -> int:
        rows, cols = self._shape(op.weight)
        self.need(cols == width, f"{op.weight} is [{rows}, {cols}], expected [*, {width}] (width of %{op.x})")
        if op.bias is not None:
            self._vector(op.bias, rows, f"rows of {op.weight}")
        return rows

    def _rope(self, op: Rope, width: int) -> None:
        self._divides(op.head_dim, width, "head_dim")
        even = 0 < op.dims <= op.head_dim and op.dims % 2 == 0
        self.need(even, f"dims {op.dims} is not an even number of values of a head of {op.head_dim}")
        self.need(op.pairing in o.PAIRINGS, "pairing is neither adjacent nor halves")
        if op.factors is not None:
            self._vector(op.factors, op.dims // 2, "dims / 2")

    def _attend(self, op: Attend | AttendAll) -> None:
        self.need(op.kv_heads > 0 and op.heads > 0 and op.head_dim > 0, "heads, kv_heads and head_dim must be positive")
        self._divides(op.kv_heads, op.heads, "kv_heads")
        for slot, meaning in ((op.q, "heads"), (op.k, "kv_heads"), (op.v, "kv_heads")):
            expected = getattr(op, meaning) * op.head_dim
            found = self.widths[slot]
            self.need(found == expected, f"%{slot} is {found} wide, expected {expected} ({meaning} * head_dim)")
        if isinstance(op, Attend):
            self.layers.append(op.layer)

    def _check_whole(self) -> None:
        if self.layers != list(range(len(self.layers))):
            raise PlanError(f"cache layers are {self.layers}, expected 0, 1, 2, ... in this order")
        read = {name for op in self.plan.ops for name in op.weights}
        for name in self.plan.tensors:
            if name not in read:
                raise PlanError(f"tensor {name} is in the plan and no op reads it")
        if len(set(self.plan.tensors)) != len(self.plan.tensors):
            raise PlanError("the plan names a tensor twice")
