"""The ops of encoders: each against its meaning in float64, and the law of batch invariance for whole texts.

As in test_engine_ops: a token's embedding row is the op's input, so inputs are exact; NaN fails every comparison.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from native.engine import Batch, Engine, Sampling
from native.errors import InputError, PlanError
from native.library import BLOCK, isa_names
from native.plan import Plan, PlanBuilder
from native.reference import Reference
from tests.peers.tiny_plan import Floats, Tiny, bound

EPS = 2.0**-24
ISAS = isa_names()
Doubles = npt.NDArray[np.float64]


def vectors(engine: Engine, texts: list[list[int]], tables: npt.ArrayLike | None = None) -> Floats:
    """One step over whole texts: the last slot's row for the last token of each."""
    starts = np.cumsum([0, *map(len, texts)])
    widest = max(-(-len(text) // BLOCK) for text in texts)
    if tables is None:
        tables = np.arange(len(texts) * widest).reshape(len(texts), widest)
    batch = Batch(
        tokens=[token for text in texts for token in text],
        row_start=starts.astype(np.int32),
        start_pos=[0] * len(texts),
        blocks=np.asarray(tables, np.int32),
        out_rows=(starts[1:] - 1).astype(np.int32),
        want_logits=True,
    )
    found = engine.step(batch).logits
    assert found is not None
    return found


def every_row(plan: Plan, values: dict[str, Floats], isa: str, tokens: list[int]) -> tuple[Floats, Doubles]:
    """What engine and reference say of every row of one text, in one step."""
    n = len(tokens)
    with bound(plan, values, {}).engine(isa=isa) as engine:
        batch = Batch(
            tokens=tokens, row_start=[0, n], start_pos=[0], blocks=[list(range(-(-n // BLOCK)))],
            out_rows=list(range(n)), want_logits=True,
        )  # fmt: skip
        found = engine.step(batch).logits
    assert found is not None
    return found, Reference(plan, values, cache_type="f16").step(tokens)


def check(plan: Plan, values: dict[str, Floats], isa: str, limit: Doubles | float, tokens: list[int]) -> None:
    found, expected = every_row(plan, values, isa, tokens)
    error = np.abs(found - expected)
    assert (error <= limit).all(), f"worst: {np.nanmax(error / limit):.2f} of the bound"


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [64, 37, 384, 5])
def test_layer_norm(isa: str, width: int) -> None:
    """The mean is off by at most (width + 1) eps mean|x|, and so is every centred value, plus one rounding; the root of
    the sum of squares by (width / 2 + 4) eps of itself; three products and a sum follow. The outputs are wider than the
    vocabulary: vectors need not be logits."""
    n = 40
    x = normal(width, n, width) * 3 + 5
    x[0], x[1] = 2.5, np.linspace(-1e-3, 1e-3, width)
    p = PlanBuilder()
    p.pick(p.layer_norm(p.embed("x"), "w", "b", eps=1e-5))
    values = {"x": x, "w": normal(1, 1, width), "b": normal(2, 1, width)}
    wide = x.astype(np.float64)
    size = np.abs(wide).mean(axis=1, keepdims=True)
    root = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
    away = ((width + 1) * size + np.abs(wide)) / root * np.abs(values["w"])
    normed = np.abs(wide - wide.mean(axis=1, keepdims=True)) / root * np.abs(values["w"])
    limit = (away + (width / 2 + 7) * normed + np.abs(values["b"])) * EPS
    check(p.build(), values, isa, limit, list(range(n)))


@pytest.mark.parametrize("isa", ISAS)
def test_layer_norm_where_squares_leave_float32(isa: str) -> None:
    x = normal(3, 8, 48) * np.float32(1e25)
    p = PlanBuilder()
    p.pick(p.layer_norm(p.embed("x"), "w", "b", eps=1e-5))
    values = {"x": x, "w": np.ones((1, 48), np.float32), "b": np.zeros((1, 48), np.float32)}
    check(p.build(), values, isa, 1e-6, list(range(8)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_erf"])
def test_activations(isa: str, act: str, gated: bool) -> None:
    """As in test_engine_ops. gelu with erf, x t P(t) e^(-x^2/2): t is off by 2 eps and goes in with a condition of 2.
    P is 1.2e-8 off, and its terms, whose sizes add up to 2.2 P at most, add 5 eps. exp adds 4 eps, and its argument's
    two roundings x^2 eps; three products follow. Where x is positive, all this is part of a tail of at most x/2."""
    n = 128
    x = normal(5, n, n) * 3
    x[0], x[1] = np.linspace(-100, 100, n), np.linspace(-1, 1, n) * 1e-3
    x[2] = np.linspace(-13, 6, n)
    values = {"x": x, "y": normal(6, n, n)}
    p = PlanBuilder()
    e = p.embed("x")
    p.pick(p.glu(e, p.embed("y"), act=act) if gated else p.activate(e, act=act))  # type: ignore[arg-type]
    values = values if gated else {"x": x}
    expected = np.abs(Reference(p.build(), values).step(list(range(n))))
    wide = x.astype(np.float64)
    steps = {
        "silu": 8 + 0 * wide,
        "gelu": 8 + 5 * np.minimum(2 * np.sqrt(2 / np.pi) * np.abs(wide + 0.044715 * wide**3), 90),
        "gelu_erf": 16 + np.minimum(wide**2, 180),
    }[act]
    other = np.abs(values["y"].astype(np.float64)) if gated else 1.0
    check(p.build(), values, isa, steps * EPS * expected + 1e-35 + 2.0**-51 * np.abs(wide) * other, list(range(n)))


@pytest.mark.parametrize("isa", ISAS)
def test_place_and_shift(isa: str) -> None:
    """Two sums, each rounded once."""
    n, width = 96, 50
    values = {"x": normal(7, n, width), "places": normal(8, 200, width), "shift": normal(9, 1, width)}
    p = PlanBuilder()
    p.pick(p.shift(p.add(p.embed("x"), p.place("places")), "shift"))
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, n, 200)]
    sizes = sum(float(np.abs(array).max()) for array in values.values())
    check(p.build(), values, isa, 2 * EPS * sizes, tokens)


@pytest.mark.parametrize("how", ["mean", "first"])
def test_pool(how: str) -> None:
    """A sum in double, rounded once."""
    n, width = 96, 33
    values = {"x": normal(10, n, width) * 100}
    p = PlanBuilder()
    p.pool(p.embed("x"), how=how)  # type: ignore[arg-type]
    plan = p.build()
    texts = [[int(t) for t in np.random.default_rng(s).integers(0, n, length)] for s, length in enumerate((1, 31, 500))]
    with bound(plan, values, {}).engine(threads=2) as engine:
        found = vectors(engine, texts)
    for text, one in zip(texts, found, strict=True):
        expected = Reference(plan, values).step(text)[-1]
        assert (np.abs(one - expected) <= EPS * np.abs(expected) + 1e-30).all()


ATTENDS = {
    "plain": dict(heads=2, kv_heads=2, head_dim=48),
    "grouped": dict(heads=6, kv_heads=2, head_dim=16),
    "odd": dict(heads=3, kv_heads=3, head_dim=20),
    "one for all": dict(heads=8, kv_heads=1, head_dim=12),
}


def attention(facts: dict[str, int]) -> tuple[Plan, dict[str, Floats]]:
    n = 96
    x = (normal(11, n, n) * 0.8).astype(np.float16).astype(np.float32)
    p = PlanBuilder()
    e, values, slots = p.embed("x"), {"x": x}, []
    for seed, (side, heads) in enumerate((("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads"))):
        width = facts[heads] * facts["head_dim"]
        values[side] = np.eye(n, dtype=np.float32)[np.random.default_rng(seed).permutation(n)[:width]]
        slots.append(p.linear(e, side))
    p.pick(p.attend_all(*slots, scale=0.25, **facts))
    return p.build(), values


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [1, 31, 256, 600])
@pytest.mark.parametrize("facts", ATTENDS.values(), ids=ATTENDS)
def test_attend_all(isa: str, facts: dict[str, int], length: int) -> None:
    """The bound of test_engine_ops.test_attend: the arithmetic is the same, only more keys are seen. That later rows
    are seen is what a causal kernel would miss by 1e-1."""
    plan, values = attention(facts)
    tokens = [int(t) for t in np.random.default_rng(5).integers(0, 96, length)]
    most = float(np.abs(values["x"]).max())
    exponent = (facts["head_dim"] + 4) * 0.25 * facts["head_dim"] * most**2 * EPS
    relative = 2 * exponent + (4 + 6 * (length / 32 + length / 256) + length + 1) * EPS
    check(plan, values, isa, 2 * relative * most, tokens)


# -- laws


def encoder(seed: int = 0, how: str = "mean") -> Tiny:
    """Two layers of BERT's figure over a vocabulary of 96, Q8_0 and F16."""
    width, heads, head, ff = 64, 4, 16, 96
    values: dict[str, Floats] = {}
    kinds: dict[str, str] = {}
    rng = np.random.default_rng(seed)
    p = PlanBuilder()

    def linear(x: int, name: str, rows: int, cols: int) -> int:
        values[name] = (rng.standard_normal((rows, cols)) * 2 / np.sqrt(cols)).astype(np.float32)
        values[f"{name}.b"] = (0.1 * rng.standard_normal((1, rows))).astype(np.float32)
        kinds[name] = "Q8_0" if name[0] == "0" else "F16"
        return p.linear(x, name, f"{name}.b")

    def norm(x: int, name: str) -> int:
        values[f"{name}.w"] = (1 + 0.1 * rng.standard_normal((1, width))).astype(np.float32)
        values[f"{name}.b"] = (0.1 * rng.standard_normal((1, width))).astype(np.float32)
        return p.layer_norm(x, f"{name}.w", f"{name}.b", eps=1e-12)

    values["tokens"] = rng.standard_normal((96, width)).astype(np.float32)
    values["places"] = rng.standard_normal((700, width)).astype(np.float32)
    x = norm(p.add(p.embed("tokens"), p.place("places")), "n")
    for at in range(2):
        sides = [linear(x, f"{at}{side}", heads * head, width) for side in "qkv"]
        a = p.attend_all(*sides, heads=heads, kv_heads=heads, head_dim=head, scale=head**-0.5)
        x = norm(p.add(x, linear(a, f"{at}o", width, width)), f"{at}n")
        h = p.activate(linear(x, f"{at}up", ff, width), act="gelu_erf")
        x = norm(p.add(x, linear(h, f"{at}down", width, ff)), f"{at}m")
    p.pool(x, how=how)  # type: ignore[arg-type]
    return bound(p.build(), values, kinds)


def texts_of(seed: int, lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[int(t) for t in rng.integers(0, 96, length)] for length in lengths]


@pytest.mark.parametrize("how", ["mean", "first"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_texts_vector_depends_on_the_text_alone(isa: str, how: str) -> None:
    """Alone on one thread, and in company, on three threads, over scattered blocks: the same bits."""
    model = encoder(how=how)
    texts = texts_of(1, [1, 33, 300, 2, 64, 550, 31])
    with model.engine(isa=isa) as engine:
        expected = [vectors(engine, [text])[0].tobytes() for text in texts]
    assert len(set(expected)) == len(texts)
    for threads in (1, 2, 3):
        with model.engine(isa=isa, threads=threads) as engine:
            for seed in range(2):
                order = np.random.default_rng(seed).permutation(len(texts))
                tables = np.full((len(texts), 18), -1)
                pool = iter(np.random.default_rng(seed).permutation(128))
                for row, at in enumerate(order):
                    need = -(-len(texts[at]) // BLOCK)
                    tables[row, :need] = [next(pool) for _ in range(need)]
                found = vectors(engine, [texts[at] for at in order], tables)
                assert [one.tobytes() for one in found] == [expected[at] for at in order]


def test_the_encoder_is_what_the_reference_says() -> None:
    """Two layers whose keys and values are rounded to float16: far below what a wrong op would do."""
    model = encoder()
    (text,) = texts_of(2, [120])
    with model.engine() as engine:
        found = vectors(engine, [text])[0]
    expected = Reference(model.plan, model.values, cache_type="f16").step(text)[-1]
    assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()  # Q8_0 rounds what comes in, too
    causal = Reference(model.plan, model.values, cache_type="f16").step(text[:60])[-1]
    assert np.abs(found - causal).max() > 2e-1 * np.abs(expected).max()


def test_no_cache_is_kept_and_the_room_is_shared() -> None:
    """Two layers: keys and values of 4 heads of 16 values of one layer, as float16, for 32 tokens."""
    with encoder().engine() as engine:
        assert engine.info.bytes_per_block == 2 * 32 * 4 * 16 * 2
        assert (engine.info.layers, engine.info.width, engine.info.vocab) == (0, 64, 96)


# -- refusals


def test_a_text_that_does_not_begin_in_its_step_is_refused() -> None:
    with encoder().engine() as engine, pytest.raises(InputError, match="starts at position 32, this plan computes"):
        engine.step(Batch(tokens=[1], row_start=[0, 1], start_pos=[32], blocks=[[0, 1]], out_rows=[0]))


def test_a_position_without_an_embedding_is_refused() -> None:
    model = encoder()
    with model.engine() as engine, pytest.raises(InputError, match="ends at position 701, the plan has 700 places"):
        vectors(engine, [[1] * 701])


def test_a_vector_is_not_sampled_from() -> None:
    with encoder().engine() as engine, pytest.raises(InputError, match="nothing can be sampled from outputs of 64"):
        engine.step(
            Batch(tokens=[1], row_start=[0, 1], start_pos=[0], blocks=[[0]], out_rows=[0], sampling=[Sampling()])
        )


BROKEN = {
    "bias": (lambda p, x: p.layer_norm(x, "w", "short", eps=1e-5), r"short is \[1, 3\], expected \[1, 8\]"),
    "shift": (lambda p, x: p.shift(x, "short"), r"short is \[1, 3\], expected \[1, 8\]"),
    "pooled twice": (lambda p, x: p.pool(p.pool(x, how="mean"), how="mean"), "pool needs batch rows"),
    "heads": (lambda p, x: p.attend_all(x, x, x, heads=3, kv_heads=2, head_dim=4, scale=1.0), "does not divide"),
    "width": (lambda p, x: p.attend_all(x, x, x, heads=2, kv_heads=1, head_dim=4, scale=1.0), "8 wide, expected 4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plans_are_refused_on_both_sides(name: str) -> None:
    """By our verifier, and by the engine's where ours is passed over."""
    make, problem = BROKEN[name]
    p = PlanBuilder()
    p.pool(make(p, p.embed("x")), how="mean")  # type: ignore[no-untyped-call]
    plan = p.build()
    values = {"x": normal(1, 8, 8), "w": normal(2, 1, 8), "short": normal(3, 1, 3)}
    tiny = bound(plan, {name: values[name] for name in plan.tensors}, {})
    shapes = {name: (array.shape[0], array.shape[1]) for name, array in values.items()}
    with pytest.raises(PlanError, match=problem):
        plan.verify(shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "verify", lambda self, shapes: {})
        with pytest.raises(InputError, match=r"plan op \d+"):
            tiny.engine()
