"""The packed products on the inputs that break kernels, against float64: scales at the ends of float16, blocks of
zeros, scales that are not finite, weights and activations of every magnitude, sums that cancel.

Tolerances as in test_linear, derived there: eps = 2^-24; and tiny = 2^-149, for half a subnormal step is the most that
underflow costs one operation.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.peers.kernels import (
    INTEGER,
    PLAIN,
    SCALE_AT,
    Tensor,
    block_of,
    exact,
    is_fixed,
    isas,
    linear,
    parts,
    random_tensor,
    rounded,
    used_weights,
    used_x,
)

EPS, TINY = 2.0**-24, 2.0**-149
Doubles = NDArray[np.float64]
over_isas = pytest.mark.parametrize("isa", isas())


def scaled(kind: str, rows: int, cols: int, scale: float, seed: int = 0) -> Tensor:
    """Random codes under one float16 scale (and minimum), of either sign."""
    rng = np.random.default_rng(seed)
    tensor = random_tensor(kind, rows, cols, rng)
    blocks = tensor.raw.reshape(rows, -1, block_of(kind)[1])
    for at in SCALE_AT[kind]:
        values = (rng.choice([-1.0, 1.0], blocks.shape[:2]) * scale).astype(np.float16)
        blocks[:, :, at : at + 2] = values[..., None].view(np.uint8)
    return tensor


def limit(tensor: Tensor, x: Doubles, isa: int = 0) -> Doubles:
    """[n, rows]. As in test_linear: roundings relative to the sum of sizes, and per block of 32 columns five operations
    that may underflow, whose half steps are multiplied by at most 255 * 32 * 127 afterwards (fixed point: 2^31)."""
    scale, minimum = parts(tensor)
    size: Doubles = np.abs(x) @ (np.abs(scale) + np.abs(minimum)).T
    blocks = tensor.cols / 32
    fixed = is_fixed(tensor.kind, isa)
    steps = 64 + blocks if tensor.kind in PLAIN and not fixed else 7 + 2 * blocks
    return steps * EPS * size + 5 * (blocks + 1) * (2.0**31 if fixed else 2.0**20) * TINY


@over_isas
@pytest.mark.parametrize("scale", [65504.0, 6e-8, 6e-5, 0.0])
@pytest.mark.parametrize("kind", INTEGER)
def test_scales_at_the_ends_of_float16(kind: str, scale: float, isa: int) -> None:
    """The largest half, the smallest subnormal one, the smallest normal one; zero: then the product is exactly 0."""
    tensor = scaled(kind, 19, 512, scale)
    x = np.random.default_rng(1).standard_normal((13, 512)).astype(np.float32) * np.float32(1.5)
    found = linear(tensor, x, isa=isa)
    error = np.abs(found - rounded(x, kind, isa) @ exact(tensor).T)
    assert (error <= limit(tensor, rounded(x, kind, isa))).all()
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
    used = used_x(kind, x, isa)
    error = np.abs(linear(tensor, x, isa=isa) - used @ used_weights(tensor, isa).T)
    assert (error <= limit(tensor, used, isa)).all()
