"""Each op of the engine against its meaning in float64 (native.reference), within a bound derived from eps = 2^-24.

The plan under test is embed, then the op, then pick: a token's embedding row is the op's input, so inputs are exact. N
tokens, N wide, because a plan's logits are as wide as its vocabulary. NaN fails every comparison.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from native.library import isa_names
from native.plan import Plan, PlanBuilder
from native.reference import Reference
from tests.peers.tiny_plan import Floats, Shape, Tiny, alone, bound, tiny

EPS = 2.0**-24
ISAS = isa_names()
pytestmark = pytest.mark.parametrize("isa", ISAS)
Doubles = NDArray[np.float64]


def compare(
    plan: Plan,
    values: dict[str, Floats],
    isa: str,
    limit: Doubles,
    tokens: list[int] | None = None,
    kv_type: str = "f16",
) -> None:
    """Every row through engine and reference; `limit` [rows, width] or [rows, 1] is the most they may differ."""
    tokens = list(range(len(values["x"]))) if tokens is None else tokens
    with bound(plan, values, {}, kv_type).engine(isa=isa) as engine:
        found = alone(engine, tokens)
    expected = Reference(plan, values, cache_type=kv_type).step(tokens)
    error = np.abs(found - expected)
    assert (error <= limit).all(), f"worst: {np.nanmax(error / limit):.2f} of the bound"


def embedded(rng: np.random.Generator, n: int, spread: float = 3.0) -> Floats:
    return (rng.standard_normal((n, n)) * spread).astype(np.float32)


@pytest.mark.parametrize(("n", "group"), [(64, 64), (96, 48), (37, 37), (130, 13)])
def test_rms_norm(isa: str, n: int, group: int) -> None:
    """A sum of `group` positive terms is within group eps of itself, the root halves it, and six roundings follow."""
    rng = np.random.default_rng(n)
    p = PlanBuilder()
    p.pick(p.rms_norm(p.embed("x"), "w", group=group, eps=1e-5))
    values = {"x": embedded(rng, n), "w": rng.standard_normal((1, group)).astype(np.float32)}
    expected = Reference(p.build(), values).step(list(range(n)))
    compare(p.build(), values, isa, (group / 2 + 6) * EPS * np.abs(expected))


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize(("head_dim", "dims", "factors"), [(32, 32, False), (48, 20, True)])
def test_rope(isa: str, pairing: str, head_dim: int, dims: int, factors: bool) -> None:
    """Cosine and sine are rounded once from double, then two products and a sum: 3 roundings of |a| + |b|, which is at
    most sqrt(2) times the length of the pair; its length is kept."""
    rng = np.random.default_rng(1)
    n = 96
    p = PlanBuilder()
    weight = "f" if factors else None
    p.pick(p.rope(p.embed("x"), head_dim=head_dim, dims=dims, pairing=pairing, base=1e4, scale=0.7, factors=weight))
    values = {"x": embedded(rng, n)}
    if factors:
        values["f"] = rng.uniform(0.5, 8, (1, dims // 2)).astype(np.float32)
    tokens = [int(t) for t in rng.integers(0, n, 700)]
    largest = np.abs(values["x"][tokens]).max(axis=1, keepdims=True)
    compare(p.build(), values, isa, 3 * 2 * EPS * largest.astype(np.float64), tokens)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_glu(isa: str, act: str) -> None:
    """x / (1 + e^-u) * y. e^-u: 4 eps of exp and |u| times the error of u (silu: none; gelu: 5 eps). The sum, the
    quotient and the product add one each. Where e^-u leaves the range of float the result may be lost: below 1e-35.
    The reference says 1 + tanh, which cancels for negative x: its own error is up to 4 * 2^-53 |x y|."""
    rng = np.random.default_rng(2)
    n = 128
    p = PlanBuilder()
    p.pick(p.glu(p.embed("x"), p.embed("y"), act=act))  # type: ignore[arg-type]
    x = embedded(rng, n)
    x[0] = np.linspace(-100, 100, n)
    x[1] = np.linspace(-1, 1, n) * 1e-3
    values = {"x": x, "y": embedded(rng, n, 1.0)}
    expected = np.abs(Reference(p.build(), values).step(list(range(n))))
    exponent = 2 * np.sqrt(2 / np.pi) * np.abs(x + 0.044715 * x.astype(np.float64) ** 3)
    steps = 8 + (5 * np.minimum(exponent, 90) if act == "gelu" else 0)
    compare(
        p.build(), values, isa, steps * EPS * expected + 1e-35 + 2.0**-51 * np.abs(x.astype(np.float64) * values["y"])
    )


def test_softcap(isa: str) -> None:
    """tanh is within 16 eps of itself; dividing, and multiplying by the cap, add one each (tanh is no steeper than
    x)."""
    n = 96
    p = PlanBuilder()
    p.pick(p.softcap(p.embed("x"), 7.0))
    x = embedded(np.random.default_rng(3), n)
    x[0], x[1] = np.linspace(-200, 200, n), np.linspace(-3, 3, n)
    x[2] = np.geomspace(1e-30, 1, n)
    values = {"x": x}
    expected = np.abs(Reference(p.build(), values).step(list(range(n))))
    compare(p.build(), values, isa, 18 * EPS * expected)


def test_add_and_embed(isa: str) -> None:
    """Two products and one sum, each rounded once; widths that fill no register."""
    n = 77
    rng = np.random.default_rng(4)
    p = PlanBuilder()
    p.pick(p.add(p.embed("x", scale=1.7), p.embed("y")))
    values = {"x": embedded(rng, n), "y": embedded(rng, n)}
    compare(p.build(), values, isa, 2 * EPS * (1.7 * np.abs(values["x"]) + np.abs(values["y"])).astype(np.float64))


ATTENDS = {
    "plain": dict(heads=2, kv_heads=2, head_dim=48),
    "grouped": dict(heads=6, kv_heads=2, head_dim=16),
    "window": dict(heads=3, kv_heads=1, head_dim=32, window=45),
    "long window": dict(heads=2, kv_heads=1, head_dim=48, window=300),
    "cap": dict(heads=1, kv_heads=1, head_dim=96, softcap=4.0),
    "one wide head for all": dict(heads=8, kv_heads=1, head_dim=12),
}


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("facts", ATTENDS.values(), ids=ATTENDS)
def test_attend(isa: str, facts: dict[str, int], kv_type: str) -> None:
    """Queries, keys and values are columns of the embedding, taken by a linear op with one 1 per row: exact, as is
    their float16 form, because the embedding holds only halves. As 8-bit numbers they are rounded by engine and
    reference alike, and multiplied with their scale, which adds one eps to each.

    A score sums head_dim products: |error| <= (head_dim + 3) eps scale sum |q k| (the cap only shrinks it, and adds
    20 eps of itself). Errors E of the exponents scale the weights by at most e^2E, exp adds 4 eps, an online
    rescaling per block and per split adds 6 eps each; summing n weights or weighted values adds n eps. Weights off by
    a relative r move their mean by at most 2 r max|v|."""
    n, length, rng = 96, 700, np.random.default_rng(5)
    x = (rng.standard_normal((n, n)) * 0.8).astype(np.float16).astype(np.float32)
    p = PlanBuilder()
    e = p.embed("x")
    values = {"x": x}
    slots = []
    for side, heads in (("q", facts["heads"]), ("k", facts["kv_heads"]), ("v", facts["kv_heads"])):
        width = heads * facts["head_dim"]
        values[side] = np.eye(n, dtype=np.float32)[rng.permutation(n)[:width]]
        slots.append(p.linear(e, side))
    p.pick(p.attend(*slots, layer=0, scale=0.25, **facts))
    tokens = [int(t) for t in rng.integers(0, n, length)]
    size = 0.25 * facts["head_dim"] * float(np.abs(x).max()) ** 2
    exponent = ((facts["head_dim"] + 4) * size + 20 * size) * EPS
    relative = 2 * exponent + (4 + 6 * (length / 32 + length / 256) + length + 1) * EPS
    compare(p.build(), values, isa, np.full((length, 1), 2 * relative * float(np.abs(x).max())), tokens, kv_type)


@pytest.mark.parametrize("shape", [Shape(kind="F32"), Shape(kind="F32", window=40, softcap=6.0, act="gelu", bias=True)])
def test_a_whole_model(isa: str, shape: Shape) -> None:
    """Two layers. Keys and values near a rounding border may fall to either side in float16, so this bound is that of
    float16's eps on the logits (cap 30), far below what a wrong op would do."""
    model: Tiny = tiny(shape, seed=3)
    tokens = [int(t) for t in np.random.default_rng(6).integers(0, 96, 150)]
    with model.engine(isa=isa) as engine:
        found = alone(engine, tokens)
    expected = Reference(model.plan, model.values, cache_type="f16").step(tokens)
    assert np.abs(found - expected).max() <= 2.0**-11 * 30
