"""The reference against plain loops over the definitions in sealift.h, and its laws as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.errors import PlanError
from native.plan import Plan, PlanBuilder
from native.reference import KEPT, Reference, reference

Array = npt.NDArray[np.float64]
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}  # float64 against float64, sums of at most 32 terms of size 1


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def run_op(
    build: Any, weights: dict[str, Array], tokens: Sequence[int], steps: Sequence[int] = ()
) -> tuple[Array, Array]:
    """Input and output slots of the op that `build(builder, x)` puts after an embedding, over all steps."""
    b = PlanBuilder()
    x = b.embed("e")
    out = build(b, x)
    b.pick(out)
    run = Reference(b.build(), weights)
    seen = []
    bounds = [0, *steps, len(tokens)]
    for first, last in pairwise(bounds):
        run.step(tokens[first:last])
        seen.append((run.slots[x], run.slots[out]))
    return np.concatenate([x for x, _ in seen]), np.concatenate([y for _, y in seen])


def test_embed_takes_rows_and_scales() -> None:
    b = PlanBuilder()
    b.pick(b.embed("e", scale=3.0))
    table = random(5, 4)
    np.testing.assert_allclose(reference(b.build(), {"e": table}, [4, 0, 4]), 3 * table[[4, 0, 4]], **EXACT)


@pytest.mark.parametrize("group", [8, 4, 1])
def test_rms_norm(group: int) -> None:
    weights = {"e": random(5, 8), "w": random(1, group)}
    x, y = run_op(lambda b, x: b.rms_norm(x, "w", group=group, eps=1e-2), weights, [1, 2, 3])
    eps = float(np.float32(1e-2))
    for row in range(3):
        for place in range(8):
            first = place // group * group
            mean = sum(x[row, first + i] ** 2 for i in range(group)) / group
            expected = x[row, place] / math.sqrt(mean + eps) * weights["w"][0, place % group]
            assert y[row, place] == pytest.approx(expected, rel=1e-12)


def test_linear_with_and_without_bias() -> None:
    weights = {"e": random(5, 8), "w": random(3, 8), "b": random(1, 3)}
    for bias in (None, "b"):
        used = {name: weights[name] for name in ("e", "w", "b") if name != "b" or bias}
        x, y = run_op(lambda b, x, bias=bias: b.linear(x, "w", bias), used, [1, 2])
        for row in range(2):
            for out in range(3):
                total = sum(x[row, i] * weights["w"][out, i] for i in range(8))
                assert y[row, out] == pytest.approx(total + (weights["b"][0, out] if bias else 0), rel=1e-11)


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("dims", [8, 4])
@pytest.mark.parametrize("factors", [None, "f"])
def test_rope_rotates_each_pair_as_a_complex_number(pairing: str, dims: int, factors: str | None) -> None:
    weights = {"e": random(5, 16), "f": 1 + random(1, dims // 2) ** 2}
    used = weights if factors else {"e": weights["e"]}
    tokens = [0, 1, 2, 3, 4, 3, 2]
    x, y = run_op(
        lambda b, x: b.rope(x, head_dim=8, dims=dims, pairing=pairing, base=100.0, scale=0.25, factors=factors),
        used,
        tokens,
        steps=[2, 3],
    )
    for position in range(len(tokens)):
        for head in (0, 8):
            for j in range(dims // 2):
                a, b = (2 * j, 2 * j + 1) if pairing == "adjacent" else (j, j + dims // 2)
                angle = position * 0.25 * 100.0 ** (-2 * j / dims) / (weights["f"][0, j] if factors else 1)
                turned = complex(x[position, head + a], x[position, head + b]) * complex(
                    math.cos(angle), math.sin(angle)
                )
                assert y[position, head + a] == pytest.approx(turned.real, rel=1e-9, abs=1e-12)
                assert y[position, head + b] == pytest.approx(turned.imag, rel=1e-9, abs=1e-12)
            np.testing.assert_array_equal(y[position, head + dims : head + 8], x[position, head + dims : head + 8])


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attend_is_a_softmax_over_what_each_position_sees(window: int, softcap: float) -> None:
    weights = {"e": random(9, 8), "q": random(8, 8), "k": random(4, 8), "v": random(4, 8)}
    tokens = [3, 1, 4, 1, 5, 8]

    def build(b: PlanBuilder, x: int) -> int:
        q, k, v = (b.linear(x, name) for name in "qkv")
        return b.attend(q, k, v, layer=0, heads=4, kv_heads=2, head_dim=2, window=window, scale=0.5, softcap=softcap)

    x, y = run_op(build, weights, tokens, steps=[1, 4])
    q, k, v = (x @ weights[name].T for name in "qkv")
    for p in range(len(tokens)):
        for head in range(4):
            mine, theirs = slice(2 * head, 2 * head + 2), slice(2 * (head // 2), 2 * (head // 2) + 2)
            seen = range(max(0, p - window + 1) if window else 0, p + 1)
            scores = [0.5 * float(q[p, mine] @ k[other, theirs]) for other in seen]
            if softcap:
                scores = [softcap * math.tanh(score / softcap) for score in scores]
            shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
            expected = sum(share * v[other, theirs] for share, other in zip(shares, seen, strict=True))
            np.testing.assert_allclose(y[p, mine], expected, rtol=1e-11, atol=1e-12)


def test_glu_add_softcap_and_pick() -> None:
    weights = {"e": 3 * random(5, 8), "u": random(8, 8)}
    for act in ("silu", "gelu"):
        x, y = run_op(lambda b, x, act=act: b.glu(x, b.linear(x, "u"), act=act), weights, [0, 1, 2, 3, 4])
        gate, up = x.ravel(), (x @ weights["u"].T).ravel()
        if act == "silu":
            active = [g / (1 + math.exp(-g)) for g in gate]
        else:
            inner = math.sqrt(2 / math.pi)
            active = [0.5 * g * (1 + math.tanh(inner * (g + 0.044715 * g**3))) for g in gate]
        np.testing.assert_allclose(y.ravel(), active * up, **EXACT)
    only_e = {"e": weights["e"]}
    x, y = run_op(lambda b, x: b.add(x, x), only_e, [0, 1])
    np.testing.assert_array_equal(y, x + x)
    x, y = run_op(lambda b, x: b.softcap(x, 2.0), only_e, [0, 1])
    np.testing.assert_allclose(y.ravel(), [2 * math.tanh(value / 2) for value in x.ravel()], **EXACT)


def test_silu_of_large_negative_numbers_is_zero_without_a_warning() -> None:
    _, y = run_op(lambda b, x: b.glu(x, x, act="silu"), {"e": np.full((1, 2), -2000.0)}, [0])
    assert np.all(y == 0)


def decoder() -> tuple[Plan, dict[str, Array]]:
    """Two layers with everything that depends on positions: rope of both pairings, a window, grouped heads."""
    b, weights = PlanBuilder(), {"e": random(11, 8), "n": 1 + 0.1 * random(1, 8)}
    x = b.embed("e")
    for layer, window in enumerate((3, 0)):
        h = b.rms_norm(x, "n", group=8, eps=1e-6)
        heads = []
        for name, rows in (("q", 8), ("k", 4), ("v", 4)):
            weights[f"{name}{layer}"] = random(rows, 8, seed=layer + 1)
            heads.append(b.linear(h, f"{name}{layer}"))
        q, k = (
            b.rope(side, head_dim=2, dims=2, pairing=("adjacent", "halves")[layer], base=50.0) for side in heads[:2]
        )
        h = b.attend(q, k, heads[2], layer=layer, heads=4, kv_heads=2, head_dim=2, window=window, scale=0.7)
        x = b.add(x, h)
    b.linear(b.pick(x), "e")
    return b.build(), weights


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12), st.data())
@settings(max_examples=40, deadline=None)
def test_however_a_sequence_is_cut_its_logits_are_the_same(tokens: list[int], data: st.DataObject) -> None:
    """sealift.h: "the logits of a row depend on its own sequence alone: not [...] on how the prompt was cut"."""
    plan, weights = decoder()
    whole = reference(plan, weights, tokens)
    run, parts, rest = Reference(plan, weights), [], tokens
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts.append(run.step(rest[:size]))
        rest = rest[size:]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9, atol=1e-9)


def test_a_later_token_changes_nothing_before_it() -> None:
    plan, weights = decoder()
    a, b = reference(plan, weights, [1, 2, 3, 4]), reference(plan, weights, [1, 2, 3, 9])
    np.testing.assert_array_equal(a[:3], b[:3])
    assert np.abs(a[3] - b[3]).max() > 0.1


def test_picked_rows_are_those_of_all_rows() -> None:
    plan, weights = decoder()
    every = reference(plan, weights, [5, 6, 7])
    np.testing.assert_allclose(Reference(plan, weights).step([5, 6, 7], picked=[2]), every[[2]], **EXACT)


def test_float16_cache_rounds_keys_and_values() -> None:
    plan, weights = decoder()
    tokens = [1, 2, 3, 4, 5]
    exact = reference(plan, weights, tokens)
    rounded = Reference(plan, weights, cache_type="f16").step(tokens)
    difference = np.abs(exact - rounded).max()
    assert 0 < difference < 2**-11 * 100  # float16 has 11 bits; widths and weights here amplify by far less than 100


def test_eight_bit_cache_rounds_by_half_a_step() -> None:
    """Per 32 values at most max|x| / 254; zeros stay; the last group of a head of 40 has its own scale."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 2, 40)) * 10.0 ** rng.integers(-3, 4, (5, 2, 40))
    x[0] = 0
    kept = KEPT["q8_0"](x)
    assert (kept[0] == 0).all()
    for part in (slice(0, 32), slice(32, 40)):
        most = np.abs(x[..., part]).max(axis=-1, keepdims=True)
        assert (np.abs(x - kept)[..., part] <= most / 254 * (1 + 2**-10)).all()
        assert np.allclose(np.abs(kept[..., part]).max(axis=-1, keepdims=True), most, rtol=2**-20)


def test_weights_are_checked_against_the_plan() -> None:
    plan, weights = decoder()
    with pytest.raises(PlanError, match="k1 is not bound"):
        Reference(plan, {name: array for name, array in weights.items() if name != "k1"})
