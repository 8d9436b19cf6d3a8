"""Every kernel on the inputs that break kernels, against float64: magnitudes at both ends of float32, subnormals,
scales at the ends of float16, blocks of zeros, positions to a million, long contexts, scores that saturate, rows that
are not finite.

Tolerances. eps = 2^-24, tiny = 2^-149 (half a subnormal step is the most that underflow costs one operation). Each test
says how many roundings its bound counts; `test_linear` and `test_engine_ops` derive the same bounds for ordinary
inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from native.engine import Batch, Sampling, sample
from native.library import BLOCK, isa_names
from native.plan import Plan, PlanBuilder
from native.reference import Reference
from tests.peers.kernels import (
    INTEGER,
    PLAIN,
    SCALE_AT,
    Tensor,
    block_of,
    exact,
    isas,
    linear,
    parts,
    random_tensor,
    rounded,
)
from tests.peers.tiny_plan import Floats, alone, bound

EPS, TINY = 2.0**-24, 2.0**-149
Doubles = NDArray[np.float64]
over_isas = pytest.mark.parametrize("isa", isas())
over_names = pytest.mark.parametrize("isa", isa_names())


def scaled(kind: str, rows: int, cols: int, scale: float, seed: int = 0) -> Tensor:
    """Random codes under one float16 scale (and minimum), of either sign."""
    rng = np.random.default_rng(seed)
    tensor = random_tensor(kind, rows, cols, rng)
    blocks = tensor.raw.reshape(rows, -1, block_of(kind)[1])
    for at in SCALE_AT[kind]:
        values = (rng.choice([-1.0, 1.0], blocks.shape[:2]) * scale).astype(np.float16)
        blocks[:, :, at : at + 2] = values[..., None].view(np.uint8)
    return tensor


def limit(tensor: Tensor, x: Doubles) -> Doubles:
    """[n, rows]. As in test_linear: roundings relative to the sum of sizes, and per block of 32 columns five operations
    that may underflow, whose half steps are multiplied by at most 255 * 32 * 127 afterwards."""
    scale, minimum = parts(tensor)
    size: Doubles = np.abs(x) @ (np.abs(scale) + np.abs(minimum)).T
    blocks = tensor.cols / 32
    steps = 64 + blocks if tensor.kind in PLAIN else 7 + 2 * blocks
    return steps * EPS * size + 5 * (blocks + 1) * 2.0**20 * TINY


# -- linear


@over_isas
@pytest.mark.parametrize("scale", [65504.0, 6e-8, 6e-5, 0.0])
@pytest.mark.parametrize("kind", INTEGER)
def test_scales_at_the_ends_of_float16(kind: str, scale: float, isa: int) -> None:
    """The largest half, the smallest subnormal one, the smallest normal one; zero: then the product is exactly 0."""
    tensor = scaled(kind, 19, 512, scale)
    x = np.random.default_rng(1).standard_normal((13, 512)).astype(np.float32) * np.float32(1.5)
    found = linear(tensor, x, isa=isa)
    error = np.abs(found - rounded(x, kind) @ exact(tensor).T)
    assert (error <= limit(tensor, rounded(x, kind))).all()
    assert scale or not found.any()


@over_isas
@pytest.mark.parametrize("kind", INTEGER)
def test_a_block_of_zeros_between_others_adds_nothing(kind: str, isa: int) -> None:
    """Zeros in the weight, or zeros in x: the same bits as without those columns."""
    values, size = block_of(kind)
    rng = np.random.default_rng(2)
    tensor = random_tensor(kind, 9, 3 * values, rng)
    x = rng.standard_normal((5, 3 * values)).astype(np.float32)
    x[:, values : 2 * values] = 0
    blocks = tensor.raw.reshape(9, 3, size)
    expected = linear(tensor, x, isa=isa)
    blocks[:, 1] = 0
    assert np.array_equal(linear(tensor, x, isa=isa), expected)
    two = Tensor(kind=kind, rows=9, cols=2 * values, raw=np.ascontiguousarray(blocks[:, [0, 2]]).reshape(9, -1))
    kept = np.concatenate([x[:, :values], x[:, 2 * values :]], axis=1)
    assert np.array_equal(linear(two, kept, isa=isa), expected)


@over_isas
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("kind", PLAIN + INTEGER)
def test_a_scale_that_is_not_finite_costs_its_own_row_only(kind: str, bad: float, isa: int) -> None:
    """A float16 that overflowed when the file was made: the output it feeds shows it, its neighbours keep their
    bits."""
    rng = np.random.default_rng(3)
    tensor = random_tensor(kind, 35, 512, rng)
    x = rng.standard_normal((14, 512)).astype(np.float32)
    clean = linear(tensor, x, isa=isa)
    if kind == "F32":
        tensor.raw.view(np.float32)[20, 77] = bad
    elif kind == "BF16":
        tensor.raw.view(np.uint16)[20, 77] = np.float32(bad).view(np.uint32) >> 16
    elif kind == "F16":
        tensor.raw.view(np.float16)[20, 77] = bad
    else:
        at = block_of(kind)[1] + SCALE_AT[kind][0]
        tensor.raw[20, at : at + 2] = np.frombuffer(np.float16(bad).tobytes(), np.uint8)
    dirty = linear(tensor, x, isa=isa)
    others = np.arange(35) != 20
    assert not np.isfinite(dirty[:, 20]).any()
    assert dirty[:, others].tobytes() == clean[:, others].tobytes()


@over_isas
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_weights_of_every_magnitude(kind: str, isa: int) -> None:
    """Per row of x and of the weight another power of two, to where products are subnormal and sums near the largest
    float; half of the columns cancel the other half but for the last bits."""
    rng = np.random.default_rng(4)
    n = 96
    low, high = {"F32": (-60, 60), "BF16": (-60, 60), "F16": (-24, 14)}[kind]
    values = rng.standard_normal((24, n)) * 2.0 ** rng.integers(low, high, (24, 1))
    values[:, n // 2 :] = -values[:, : n // 2]
    values = values.astype(np.float16 if kind == "F16" else np.float32)
    raw = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8) if kind == "BF16" else values.view(np.uint8)
    tensor = Tensor(kind=kind, rows=24, cols=n, raw=np.ascontiguousarray(raw))
    x = rng.standard_normal((15, n)) * 2.0 ** rng.integers(-80, 60, (15, 1))
    x[:, n // 2 :] = x[:, : n // 2] * (1 + 2.0**-20)
    x = x.astype(np.float32)
    error = np.abs(linear(tensor, x, isa=isa) - x.astype(np.float64) @ exact(tensor).T)
    assert (error <= limit(tensor, x.astype(np.float64))).all()


# -- ops; the plan under test is embed, the op, pick: a token's embedding row is the op's input


def run(plan: Plan, values: dict[str, Floats], isa: str, tokens: list[int] | None = None) -> tuple[Floats, Doubles]:
    """What the engine and what the reference say, [tokens, width]."""
    tokens = list(range(len(values["x"]))) if tokens is None else tokens
    with bound(plan, values, {}).engine(isa=isa) as engine:
        found = alone(engine, tokens)
    with np.errstate(all="ignore"):
        return found, Reference(plan, values, cache_type="f16").step(tokens)


def magnitudes(n: int, low: float, high: float, seed: int) -> Floats:
    """[n, n]: every row of another size, from 10^low to 10^high; the first is 0."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, n)) * 10.0 ** np.linspace(low, high, n)[:, None]
    rows[0] = 0
    return rows.astype(np.float32)


@over_names
@pytest.mark.parametrize(("n", "group"), [(64, 64), (99, 33), (256, 256)])
def test_rms_norm_of_every_magnitude(isa: str, n: int, group: int) -> None:
    """(group / 2 + 6) eps, as for ordinary rows: squares that overflow must not make a row of zeros of it. Underflow in
    two products costs tiny each, the first of them multiplied by the weight."""
    p = PlanBuilder()
    p.pick(p.rms_norm(p.embed("x"), "w", group=group, eps=1e-6))
    x = magnitudes(n, -44, 37.5, n)
    x[-1, ::2] *= np.float32(1e-20)  # one row of both
    w = np.random.default_rng(n).standard_normal((1, group)).astype(np.float32)
    found, expected = run(p.build(), {"x": x, "w": w}, isa)
    allowed = (group / 2 + 6) * EPS * np.abs(expected) + TINY * (2 + np.abs(w).max())
    assert (np.abs(found - expected) <= allowed).all()


@over_names
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(isa: str, bad: float) -> None:
    """Through every op that computes rows: the row shows it, all other rows keep their bits."""
    n = 96
    rng = np.random.default_rng(5)
    p = PlanBuilder()
    e = p.embed("x")
    x = p.rms_norm(e, "w", group=n, eps=1e-6)
    x = p.rope(x, head_dim=32, dims=32, pairing="halves", base=1e4)
    x = p.add(p.glu(x, p.linear(x, "m"), act="gelu"), e)
    p.pick(p.softcap(x, 5.0))
    values = {name: rng.standard_normal((rows, n)).astype(np.float32) for name, rows in (("x", n), ("w", 1), ("m", n))}
    clean, _ = run(p.build(), values, isa)
    values["x"][7, 30] = bad
    dirty, _ = run(p.build(), values, isa)
    others = np.arange(n) != 7
    assert not np.isfinite(dirty[7, 30]) or abs(dirty[7, 30]) == 5.0  # an infinity is what a cap is for
    assert np.isnan(dirty[7]).any() and dirty[others].tobytes() == clean[others].tobytes()


@over_names
@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("start", [0, 992, 131_040, 999_968])
def test_rope_far_out(isa: str, pairing: str, start: int) -> None:
    """At position p the angle, computed in float64, is off by p times a few 2^-53 there and here (8 in all); a float32
    angle would be off by p eps, six digits more. Otherwise 3 roundings of at most sqrt(2) of the pair's length."""
    n, rng = 64, np.random.default_rng(6)
    p = PlanBuilder()
    p.pick(p.rope(p.embed("x"), head_dim=32, dims=32, pairing=pairing, base=5e5))
    values = {"x": (rng.standard_normal((n, n)) * 10.0 ** np.linspace(-30, 30, n)[:, None]).astype(np.float32)}
    table = np.zeros((1, start // BLOCK + 1), np.int32)  # what lies before is in block 0: nobody reads it
    table[0, -1] = 1
    tokens = [int(t) for t in rng.integers(0, n, BLOCK)]
    with bound(p.build(), values, {}).engine(isa=isa) as engine:
        batch = Batch(
            tokens=tokens,
            row_start=[0, BLOCK],
            start_pos=[start],
            blocks=table,
            out_rows=range(BLOCK),
            want_logits=True,
        )
        found = engine.step(batch).logits
    reference = Reference(p.build(), values)
    reference.length = start
    expected = reference.step(tokens)
    largest = np.abs(values["x"][tokens]).max(axis=1, keepdims=True).astype(np.float64)
    assert found is not None
    assert (np.abs(found - expected) <= (6 * EPS + (start + BLOCK) * 8 * 2.0**-53) * largest).all()


ATTENDS = {
    "long": dict(heads=2, kv_heads=1, head_dim=16, window=0, softcap=0.0, scale=0.25),
    "window inside a split": dict(heads=2, kv_heads=2, head_dim=16, window=100, softcap=0.0, scale=0.25),
    "window over splits": dict(heads=2, kv_heads=1, head_dim=20, window=1000, softcap=0.0, scale=0.25),
    "window of one": dict(heads=2, kv_heads=1, head_dim=16, window=1, softcap=0.0, scale=0.25),
    "cap": dict(heads=2, kv_heads=1, head_dim=16, window=0, softcap=30.0, scale=40.0),
    "saturated": dict(heads=2, kv_heads=1, head_dim=16, window=0, softcap=0.0, scale=40.0),
    "beyond reason": dict(heads=2, kv_heads=1, head_dim=16, window=0, softcap=0.0, scale=1e30),
}


@over_names
@pytest.mark.parametrize("name", ATTENDS)
def test_attend_over_long_contexts(isa: str, name: str) -> None:
    """The last rows of 2,500 tokens. Queries, keys and values are columns of an embedding of halves, so exact.

    Bound as in test_engine_ops: scores are off by (head_dim + 3) eps of their size (a cap only shrinks that, and adds
    20 eps of itself); errors E of the exponents move weights by e^2E; exp 4 eps, a rescaling per block and split 6
    eps, a sum of n terms n eps; weights off by r move the mean by at most 2 r max|v|. Where that says nothing (scores
    of 1e30) the result must still be a mean: between the least and the largest value seen."""
    facts = ATTENDS[name]
    n, length, rows, rng = 64, 2500, 40, np.random.default_rng(7)
    x = rng.standard_normal((n, n)).astype(np.float16).astype(np.float32)
    p = PlanBuilder()
    e = p.embed("x")
    values, picks, slots = {"x": x}, {}, []
    for side, heads in (("q", facts["heads"]), ("k", facts["kv_heads"]), ("v", facts["kv_heads"])):
        picks[side] = rng.permutation(n)[: int(heads * facts["head_dim"])]
        values[side] = np.eye(n, dtype=np.float32)[picks[side]]
        slots.append(p.linear(e, side))
    a = p.attend(*slots, layer=0, **facts)
    width = int(facts["heads"] * facts["head_dim"])
    values["wide"] = np.eye(n, dtype=np.float32)[:, :width]
    p.pick(p.linear(a, "wide"))
    tokens = [int(t) for t in rng.integers(0, n, length)]
    with bound(p.build(), values, {}).engine(isa=isa) as engine:
        alone(engine, tokens[:-rows], chunk=1000)
        found = _last(engine, tokens, rows)[:, :width].reshape(rows, int(facts["heads"]), -1)
    q, k, v = (x[tokens][:, picks[side]].astype(np.float64) for side in "qkv")
    group = int(facts["heads"] // facts["kv_heads"])
    for head in range(int(facts["heads"])):
        d = int(facts["head_dim"])
        own, mine = slice(head * d, head * d + d), slice(head // group * d, head // group * d + d)
        scores = q[-rows:, own] @ k[:, mine].T * np.float64(np.float32(facts["scale"]))
        if facts["softcap"]:
            scores = facts["softcap"] * np.tanh(scores / facts["softcap"])
        distance = np.arange(length - rows, length)[:, None] - np.arange(length)
        seen = (distance >= 0) & ((distance < facts["window"]) if facts["window"] else True)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = weights @ v[:, mine] / weights.sum(axis=1, keepdims=True)
        size = facts["scale"] * (np.abs(q[-rows:, own]) @ np.abs(k[:, mine]).T).max()
        relative = (2 * (d + 23) * size + 4 + 6 * (length / 32 + length / 256) + length) * EPS
        if relative < 1:
            assert (np.abs(found[:, head] - expected) <= 2 * relative * np.abs(v).max()).all()
        for row in range(rows):
            values_seen = v[seen[row]][:, mine]
            slack = 2 * length * EPS * np.abs(v).max()
            assert (found[row, head] >= values_seen.min(axis=0) - slack).all()
            assert (found[row, head] <= values_seen.max(axis=0) + slack).all()


def _last(engine: object, tokens: list[int], rows: int) -> Floats:
    """Logits of the last `rows` tokens, whose beginning is in blocks 0, 1, 2, ..."""
    from tests.peers.tiny_plan import step

    table = np.arange(-(-len(tokens) // BLOCK), dtype=np.int32)
    return step(engine, [(tokens[-rows:], len(tokens) - rows, table)])[0]  # type: ignore[arg-type]


@over_names
@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_glu_at_the_ends(isa: str, act: str) -> None:
    """As in test_engine_ops: 8 eps, for gelu 5 eps more per unit of the exponent; e^-u leaves float32 beyond |u| = 87
    and the result may be lost there: |x y| e^-87."""
    n = 64
    p = PlanBuilder()
    p.pick(p.glu(p.embed("x"), p.embed("y"), act=act))  # type: ignore[arg-type]
    rng = np.random.default_rng(8)
    x = magnitudes(n, -44, 37, 8)
    y = (rng.standard_normal((n, n)) * 10.0 ** -np.linspace(0, 36, n)[:, None]).astype(np.float32)
    found, expected = run(p.build(), {"x": x, "y": y}, isa)
    wide = x.astype(np.float64)
    exponent = np.minimum(2 * np.sqrt(2 / np.pi) * np.abs(wide + 0.044715 * wide**3), 90)
    steps = 8 + (5 * exponent if act == "gelu" else 0)
    product = np.abs(wide * y)
    allowed = steps * EPS * np.abs(expected) + product * (np.exp(-87.0) + 2.0**-51) + TINY * (2 + np.abs(y))
    assert (np.abs(found - expected) <= allowed).all()


@over_names
@pytest.mark.parametrize("cap", [1e-30, 0.5, 30.0, 1e30])
def test_softcap_of_every_magnitude(isa: str, cap: float) -> None:
    """18 eps, as in test_engine_ops; x / cap may underflow, which costs cap * tiny, and the product costs tiny."""
    n = 64
    p = PlanBuilder()
    p.pick(p.softcap(p.embed("x"), cap))
    found, expected = run(p.build(), {"x": magnitudes(n, -44, 37, 9)}, isa)
    assert (np.abs(found - expected) <= 18 * EPS * np.abs(expected) + TINY * (1 + 4 * cap)).all()


@over_names
def test_add_and_embed_are_float32_s_own(isa: str) -> None:
    """One rounding each, subnormals kept: the bits that IEEE 754 prescribes."""
    n = 77
    p = PlanBuilder()
    p.pick(p.add(p.embed("x", scale=1.7), p.embed("y")))
    x, y = magnitudes(n, -44, 37, 10), magnitudes(n, -44, 37, 11)
    y[::3] = -x[::3] * np.float32(1.7)  # cancels to the last bit
    found, _ = run(p.build(), {"x": x, "y": y}, isa)
    assert found.tobytes() == (x * np.float32(1.7) + y).tobytes()


# -- the sampler


def philox_uniform(seed: int, position: int) -> float:
    """The first 53 bits of Philox4x32-10 (known answers: test_sample), as a fraction."""
    c, k = [position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        x, y = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(y >> 32) ^ c[1] ^ k[0], y & 0xFFFFFFFF, (x >> 32) ^ c[3] ^ k[1], x & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return ((c[0] << 32 | c[1]) >> 11) * 2.0**-53


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("spread", [0.01, 3.0, 1e3, 1e37])
@pytest.mark.parametrize("temperature", [1e-3, 0.8, 50.0])
def test_every_draw_is_the_inverse_of_the_exact_distribution(spread: float, temperature: float, narrow: bool) -> None:
    """A draw u falls into the interval of the token it chose, in id order or, once filtered, by descending logit.

    The exact distribution is of x = (logit - max) * (1 / temperature): two float32 roundings, so a weight is off by
    e^(2 eps |x|) and exp's 4 eps; weights below e^-87 are 0. Cumulated, borders are off by no more than
    (4 + 2 * 87) eps, and the engine's sum (lanes of 64 terms, then float64) by 64 eps."""
    rng = np.random.default_rng(12)
    n, kept = 1000, 400
    logits = (rng.standard_normal(n) * spread).astype(np.float32)
    order = np.lexsort((np.arange(n), -logits))[:kept] if narrow else np.arange(n)
    x = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(x[order])
    high = np.cumsum(weights) / weights.sum()
    low = np.concatenate([[0.0], high[:-1]])
    place = {int(token): i for i, token in enumerate(order)}
    way = Sampling(temperature=temperature, top_k=kept if narrow else 0)
    for position in range(300):
        seed = 0x0123456789ABCDEF * (position + 1) % 2**64
        u = philox_uniform(seed, position)
        token, logprob, _ = sample(logits, dataclasses.replace(way, seed=seed), position)
        at, slack = place[token], (4 + 2 * 87 + 64) * EPS
        assert low[at] - slack <= u <= high[at] + slack
        assert np.isfinite(logprob)
