"""The closed vocabulary of a plan: one frozen record per box in the papers' figures, mirroring `sl_op` in sealift.h.

A slot is a matrix of float32 with one line per row of the batch (after `Pick`: per row the batch wants outputs for).
`out` is the slot an op writes; slots are small integers; weights and biases are tensor names. Numbers are kept as the
float32 the engine will see, so that a plan's text, its encoding and its reference agree.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar, Literal

from native.record import names, record

Pairing = Literal["adjacent", "halves"]
Activation = Literal["silu", "gelu", "gelu_erf"]
Pooling = Literal["mean", "first"]
PAIRINGS: tuple[Pairing, ...] = ("adjacent", "halves")
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu", "gelu_erf")
POOLINGS: tuple[Pooling, ...] = ("mean", "first")


def shortest(value: float) -> str:
    """The text of a float32 with the fewest digits (6 or more) that reads back the same; nine always do.

    Not numpy's own, which changed between its versions; a plan's text must not.
    """
    texts = (f"{value:.{digits}g}" for digits in range(6, 10))
    return next((text for text in texts if float32(float(text)) == float32(value)), str(value))


def float32(value: float) -> float:
    """The nearest float32; an infinity where it is too large."""
    return ctypes.c_float(value).value


@record(frozen=True, kw_only=True, slots=True)
class Op:
    """What all ops share. `SLOTS` and `TENSORS` name the fields that are inputs and tensor names, in `sl_op`'s order;
    `INTS` and `FLOATS` fill its `i` and `f`."""

    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    SLOTS: ClassVar[tuple[str, ...]] = ()
    TENSORS: ClassVar[tuple[str, ...]] = ()
    INTS: ClassVar[tuple[str, ...]] = ()
    FLOATS: ClassVar[tuple[str, ...]] = ()

    out: int

    def __post_init__(self) -> None:
        for name in self.FLOATS:
            object.__setattr__(self, name, float32(getattr(self, name)))

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in self.SLOTS)

    @property
    def weights(self) -> tuple[str | None, ...]:
        """(weight, bias), None where the op has none."""
        return tuple(getattr(self, name) for name in self.TENSORS)

    def __str__(self) -> str:
        words = [f"%{self.out} = {self.NAME}", *(f"%{slot}" for slot in self.inputs)]
        words += [name for name in self.weights if name is not None]
        for name in names(type(self)):
            if name in self.INTS:
                words.append(f"{name}={getattr(self, name)}")
            elif name in self.FLOATS:
                words.append(f"{name}={shortest(getattr(self, name))}")
        return " ".join(words)


@record(frozen=True, kw_only=True, slots=True)
class Embed(Op):
    """out[r] = weight[token[r]] * scale; weight [vocab, width]."""

    CODE, NAME = 1, "embed"
    TENSORS, FLOATS = ("weight",), ("scale",)

    weight: str
    scale: float = 1.0


@record(frozen=True, kw_only=True, slots=True)
class RmsNorm(Op):
    """x / sqrt(mean(x^2) + eps) * weight, per group of `group` values of x; weight [1, group]."""

    CODE, NAME = 2, "rms_norm"
    SLOTS, TENSORS, INTS, FLOATS = ("x",), ("weight",), ("group",), ("eps",)

    x: int
    weight: str
    group: int
    eps: float


@record(frozen=True, kw_only=True, slots=True)
class Linear(Op):
    """x . weight^T + bias; weight [width of out, width of x], bias [1, width of out]."""

    CODE, NAME = 3, "linear"
    SLOTS, TENSORS = ("x",), ("weight", "bias")

    x: int
    weight: str
    bias: str | None = None


@record(frozen=True, kw_only=True, slots=True)
class Rope(Op):
    """Rotates the first `dims` values of every head of `head_dim` values of x.

    Pair j is values (2j, 2j+1) if adjacent, (j, j + dims/2) if halves; its angle at position p is
    p * scale * base^(-2j/dims) / factors[j]; factors [1, dims/2] or none (all 1).
    """

    CODE, NAME = 4, "rope"
    SLOTS, TENSORS, INTS, FLOATS = ("x",), ("factors",), ("head_dim", "dims", "pairing"), ("base", "scale")

    x: int
    head_dim: int
    dims: int
    pairing: Pairing
    base: float
    scale: float = 1.0
    factors: str | None = None


@record(frozen=True, kw_only=True, slots=True)
class Attend(Op):
    """Stores k and v in cache layer `layer`, then: out = softmax(softcap(q . k^T * scale)) . v, causal, per head.

    Query head h reads key/value head h // (heads / kv_heads). With a window w, position p sees p-w+1 .. p; 0 sees all.
    softcap(s) = softcap * tanh(s / softcap); 0: none.
    """

    CODE, NAME = 5, "attend"
    SLOTS, INTS, FLOATS = ("q", "k", "v"), ("layer", "heads", "kv_heads", "head_dim", "window"), ("scale", "softcap")

    q: int
    k: int
    v: int
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    scale: float
    softcap: float = 0.0


@record(frozen=True, kw_only=True, slots=True)
class Glu(Op):
    """act(gate) * up. gelu is the tanh form, gelu_erf x Phi(x) itself."""

    CODE, NAME = 6, "glu"
    SLOTS, INTS = ("gate", "up"), ("act",)

    gate: int
    up: int
    act: Activation


@record(frozen=True, kw_only=True, slots=True)
class Add(Op):
    """a + b."""

    CODE, NAME = 7, "add"
    SLOTS = ("a", "b")

    a: int
    b: int


@record(frozen=True, kw_only=True, slots=True)
class Softcap(Op):
    """cap * tanh(x / cap)."""

    CODE, NAME = 8, "softcap"
    SLOTS, FLOATS = ("x",), ("cap",)

    x: int
    cap: float


@record(frozen=True, kw_only=True, slots=True)
class Pick(Op):
    """The rows of x that the batch asks outputs for. What follows has one line per such row."""

    CODE, NAME = 9, "pick"
    SLOTS = ("x",)

    x: int


@record(frozen=True, kw_only=True, slots=True)
class LayerNorm(Op):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias, over the row; weight, bias [1, width of x]."""

    CODE, NAME = 10, "layer_norm"
    SLOTS, TENSORS, FLOATS = ("x",), ("weight", "bias"), ("eps",)

    x: int
    weight: str
    bias: str
    eps: float


@record(frozen=True, kw_only=True, slots=True)
class Activate(Op):
    """act(x), act as in `Glu`."""

    CODE, NAME = 11, "activate"
    SLOTS, INTS = ("x",), ("act",)

    x: int
    act: Activation


@record(frozen=True, kw_only=True, slots=True)
class Place(Op):
    """out[r] = weight[position of r]; weight [positions, width]."""

    CODE, NAME = 12, "place"
    TENSORS = ("weight",)

    weight: str


@record(frozen=True, kw_only=True, slots=True)
class Shift(Op):
    """x + weight, the same for every row; weight [1, width of x]."""

    CODE, NAME = 13, "shift"
    SLOTS, TENSORS = ("x",), ("weight",)

    x: int
    weight: str


@record(frozen=True, kw_only=True, slots=True)
class AttendAll(Op):
    """softmax(q . k^T * scale) . v per head, over all rows of the sequence, later ones too: they must be in the step.

    Query head h reads key/value head h // (heads / kv_heads). Keys and values are rounded to float16.
    """

    CODE, NAME = 14, "attend_all"
    SLOTS, INTS, FLOATS = ("q", "k", "v"), ("heads", "kv_heads", "head_dim"), ("scale",)

    q: int
    k: int
    v: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float


@record(frozen=True, kw_only=True, slots=True)
class Pool(Op):
    """One row for each that the batch asks outputs for: the mean, or the first, of the rows of its sequence."""

    CODE, NAME = 15, "pool"
    SLOTS, INTS = ("x",), ("how",)

    x: int
    how: Pooling


KINDS: tuple[type[Op], ...] = (Embed, RmsNorm, Linear, Rope, Attend, Glu, Add, Softcap, Pick)
KINDS += (LayerNorm, Activate, Place, Shift, AttendAll, Pool)
