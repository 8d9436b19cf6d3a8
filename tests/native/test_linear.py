"""The packed products: how close they come (derived bounds), and that a row never depends on its company (exact bits).

Tolerances. eps = 2^-24. Integer formats compute sum_k W[r,k] x'[k], x' = x rounded to 8 bits per 32 values.
* Kernel against W.x' in float64: per 32 columns the integer sum is exact; converting and scaling it, and adding it and
  the minimum's share to the accumulator, are at most 7 roundings (scale products 2, conversion 1, multiply and add 2,
  minimum 2), each relative to a partial sum no larger than A = sum_k (|scale part| + |minimum part|) |x'|.
  So |error| <= (7 + cols / 32 * 2) eps A: only the additions to the accumulator are met again by every block.
* x' against x: |x - x'| <= largest / (2 top) * (1 + 2^-10) per value, because d and top / largest are rounded
  themselves; top is the largest |q|: 127; for weights of 4 bits with AVX-512 VNNI 120 where the largest is among the
  first 16 of 32, and where it is not, as much up to 127 as leaves those at 120.
Fixed point (F16 and BF16 where is_fixed): as the integer formats, with both rounded: an x by at most largest / 16382
(1 + 2^-10) of its 32, a weight by half a step, at most 2^-13 of the largest of its 32.
BF16 through AMX: x is split in two bfloat16, 16 bits of it; a product's 36 roundings in a block are within those of
Other plain formats: at most one rounding per product and addition of a block of 32, one per block:
(64 + cols / 32) eps A.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from native.errors import InputError, UnsupportedError
from native.library import ISAS
from tests.peers.kernels import (
    FOUR_BITS,
    INTEGER,
    PLAIN,
    Tensor,
    block_of,
    exact,
    is_fixed,
    isas,
    linear,
    parts,
    random_tensor,
    rounded,
    top,
    used_weights,
    used_x,
)

EPS = 2.0**-24
COUNTS = (1, 2, 3, 7, 8, 12, 13, 16, 33, 93)  # 93 = 64 + 16 + 12 + 1, the tallest tiles of any body
KINDS = PLAIN + INTEGER


def bound(tensor: Tensor, x: NDArray[np.float64], isa: int, steps: int | None = None) -> NDArray[np.float64]:
    """[n, rows]: the most that float32 roundings (`steps` of them) can do to a product with these x."""
    scale, minimum = parts(tensor)
    size: NDArray[np.float64] = np.abs(x) @ (np.abs(scale) + np.abs(minimum)).T
    blocks = -(-tensor.cols // 32)
    if steps is None:
        floats = tensor.kind in PLAIN and not is_fixed(tensor.kind, isa)
        steps = 64 + blocks if floats else 7 + 2 * blocks
    return steps * EPS * size + 1e-37  # below: float32 underflow, at most one subnormal per block


def check_close(tensor: Tensor, x: NDArray[np.float32], isa: int, steps: int | None = None) -> None:
    used = used_x(tensor.kind, x, isa)
    wanted = used @ used_weights(tensor, isa).T
    error = np.abs(linear(tensor, x, isa=isa).astype(np.float64) - wanted)
    limit = bound(tensor, used, isa, steps)
    assert np.all(error <= limit), f"worst {np.nanmax(error / limit):.3g} of the bound"  # a NaN fails


def columns(kind: str) -> tuple[int, ...]:
    if kind in PLAIN:
        return (1, 31, 64, 100, 513)
    return tuple(n * block_of(kind)[0] for n in (1, 2, 3, 7))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", KINDS)
def test_close_to_the_exact_product(kind: str, isa: int) -> None:
    rng = np.random.default_rng(7)
    for rows, cols in zip((1, 5, 17, 33, 50), columns(kind), strict=False):
        check_close(random_tensor(kind, rows, cols, rng), rng.standard_normal((5, cols)).astype(np.float32), isa)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_x_reads_out_a_column(kind: str, isa: int) -> None:
    """The sharpest bound: one product per output, and adding the zeros of the other blocks rounds nothing."""
    tensor = random_tensor(kind, 19, 256, np.random.default_rng(37))
    check_close(tensor, np.diag(np.full(256, 1.7, dtype=np.float32)), isa, steps=7)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", KINDS)
def test_close_when_terms_cancel(kind: str, isa: int) -> None:
    """Ill-conditioned: magnitudes over 2^40, every large pair of terms cancels but for its last bits."""
    rng = np.random.default_rng(11)
    cols = 1024
    tensor = random_tensor(kind, 19, cols, rng)
    half = rng.standard_normal((4, cols // 2)) * 2.0 ** rng.integers(-20, 20, (4, cols // 2))
    blocks = tensor.raw.reshape(19, 2, -1)
    blocks[:, 1] = blocks[:, 0]  # the second half of the columns repeats the first
    x = np.concatenate([half, -half * (1 + 2.0**-12 * rng.standard_normal(half.shape))], axis=1)
    check_close(tensor, x.astype(np.float32), isa)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x80, 0x7F])
@pytest.mark.parametrize("kind", INTEGER)
def test_the_largest_codes_do_not_saturate(kind: str, fill: int, isa: int) -> None:
    """Integer sums at their extremes: all codes alike, all x at plus or minus the block's largest."""
    rng = np.random.default_rng(13)
    tensor = random_tensor(kind, 9, 512, rng, fill=fill)
    signs = rng.choice([-1.0, 1.0], (3, 512)).astype(np.float32)
    check_close(tensor, np.concatenate([signs, np.ones((1, 512)), -np.ones((1, 512))]).astype(np.float32), isa)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", INTEGER)
def test_rounding_x_costs_at_most_half_a_step(kind: str, isa: int) -> None:
    rng = np.random.default_rng(17)
    tensor = random_tensor(kind, 21, 1024, rng)
    x = (rng.standard_normal((6, 1024)) * 2.0 ** rng.integers(-8, 8, (6, 1024))).astype(np.float32)
    weights = exact(tensor)
    step = np.repeat(np.abs(x).reshape(6, -1, 32).max(axis=-1), 32, axis=1) / (2 * top(kind, isa)) * (1 + 2.0**-10)
    error = np.abs(linear(tensor, x, isa=isa).astype(np.float64) - x.astype(np.float64) @ weights.T)
    assert np.all(error <= step @ np.abs(weights).T + bound(tensor, rounded(x, kind, isa), isa))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", FOUR_BITS)
def test_pairs_cost_no_steps_where_the_largest_is_not_in_them(kind: str, isa: int) -> None:
    """The first 16 of 32 columns, which may be multiplied in pairs, are below 120 / 127 of the largest; zeros among
    them. So are the bits those of a body without pairs, but for the order of additions, and half a step is of 127."""
    rng = np.random.default_rng(19)
    tensor = random_tensor(kind, 21, 1024, rng)
    blocks = rng.uniform(-1, 1, (13, 32, 32)).astype(np.float32)
    blocks[..., :16] *= rng.choice([0, 1e-30, 0.5, 120 / 127], (13, 32, 1)).astype(np.float32)
    blocks[..., 16 + rng.integers(16)] = rng.choice([-1, 1], (13, 32))
    x = blocks.reshape(13, 1024)
    assert np.array_equal(rounded(x, kind, isa), rounded(x, kind, ISAS["portable"]))
    check_close(tensor, x, isa)


@pytest.mark.parametrize("isa", [isa for isa in isas() if is_fixed("F16", isa)])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_fixed_point_errs_by_its_two_roundings_only(kind: str, isa: int) -> None:
    rng = np.random.default_rng(41)
    tensor = random_tensor(kind, 21, 500, rng)
    x = (rng.standard_normal((6, 500)) * 2.0 ** rng.integers(-8, 8, (6, 500))).astype(np.float32)
    weights = exact(tensor)

    def largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
        groups = np.pad(np.abs(values), [(0, 0), (0, 12)]).reshape(len(values), -1, 32)
        return np.repeat(groups.max(axis=-1), 32, axis=1)[:, :500]

    of_x = largest(x.astype(np.float64)) / 16382 * (1 + 2.0**-10)
    of_w = largest(weights) * 2.0**-13
    error = np.abs(linear(tensor, x, isa=isa).astype(np.float64) - x.astype(np.float64) @ weights.T)
    most = of_x @ np.abs(weights).T + (np.abs(x) + of_x) @ of_w.T
    assert np.all(error <= most + bound(tensor, used_x(kind, x, isa), isa))


@pytest.mark.parametrize("isa", [isa for isa in isas() if is_fixed("F16", isa)])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_fixed_point_sums_do_not_overflow(kind: str, isa: int) -> None:
    """Every x at its largest and of its weight's sign, weights as the budget of a sum meets them: all alike, just below
    and at a power of two, one large among small, half of each."""
    rng = np.random.default_rng(47)
    rows = np.ones((8, 512)) * rng.choice([-1.0, 1.0], 512)
    rows[1] *= 1.984375
    rows[2] *= np.where(np.arange(512) % 32 == 5, 1.0, 0.234375)
    rows[3] *= np.where(np.arange(512) % 2 == 0, 1.0, 0.5)
    rows[4] *= np.where(np.arange(512) % 32 < 16, 1.984375, 0.03125)
    rows[5:] *= rng.uniform(0.25, 1, (3, 512))
    raw = gguf.quants.quantize(rows.astype(np.float32), gguf.GGMLQuantizationType[kind])
    tensor = Tensor(kind=kind, rows=8, cols=512, raw=np.ascontiguousarray(raw).view(np.uint8).reshape(8, -1))
    signs = np.sign(rows[:1]).astype(np.float32)
    check_close(tensor, np.concatenate([signs, -signs, 3 * signs]), isa)


@pytest.mark.parametrize("isa", [isa for isa in isas() if is_fixed("F16", isa)])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("heavy", [False, True])
def test_fixed_point_errs_less_than_x_in_the_weights_own_format(kind: str, heavy: bool, isa: int) -> None:
    """llama.cpp rounds x to float16 for F16 weights and to bfloat16 for BF16. On average over normal, and over
    heavy-tailed numbers (Student's t, three degrees of freedom), fixed point is the smaller loss."""
    rng = np.random.default_rng(43)
    draw = (lambda shape: rng.standard_t(3, shape)) if heavy else rng.standard_normal
    raw = gguf.quants.quantize(draw((128, 1024)).astype(np.float32), gguf.GGMLQuantizationType[kind])
    tensor = Tensor(kind=kind, rows=128, cols=1024, raw=np.ascontiguousarray(raw).view(np.uint8).reshape(128, -1))
    x = draw((16, 1024)).astype(np.float32)
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind])
    as_theirs = gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind]).reshape(x.shape)
    wanted = x.astype(np.float64) @ exact(tensor).T
    ours = np.abs(linear(tensor, x, isa=isa) - wanted).mean()
    assert ours <= np.abs(as_theirs.astype(np.float64) @ exact(tensor).T - wanted).mean()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_any_company(kind: str, isa: int) -> None:
    """Alone, in the first n rows, at another place, for 1 to 4 threads."""
    rng = np.random.default_rng(19)
    tensor = random_tensor(kind, 83, 768, rng)
    x = rng.standard_normal((max(COUNTS), 768)).astype(np.float32)
    alone = np.concatenate([linear(tensor, row[None], isa=isa) for row in x])
    for n in COUNTS:
        for threads in (1, 2, 3, 4) if n in (1, 13, 93) else (2,):
            together = linear(tensor, x[:n], isa=isa, threads=threads)
            assert np.array_equal(together.view(np.uint32), alone[:n].view(np.uint32)), (n, threads)
    shuffled = rng.permutation(len(x))
    moved = linear(tensor, x[shuffled], isa=isa, threads=2)
    assert np.array_equal(moved.view(np.uint32), alone[shuffled].view(np.uint32))


@pytest.mark.skipif(ISAS["avx512-amx"] not in isas(), reason="needs a processor with AMX and a system that lends it")
@pytest.mark.parametrize("fill", [None, 0x00, 0xFF, 0x80])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("BF16", *FOUR_BITS)])
def test_amx_gives_the_bits_of_avx512_vnni(kind: str, fill: int | None) -> None:
    """Every tile height, chunks that are not whole, rows that do not fill a panel; codes and x at their extremes. Codes
    of 4 bits meet an x of fewer steps there; here AMX gives them the bits of one token (see the tests of company)."""
    rng = np.random.default_rng(53)
    for rows, cols in zip((1, 16, 37), columns(kind)[-3:], strict=True):
        tensor = random_tensor(kind, rows, cols, rng, fill=fill)
        x = rng.standard_normal((93, cols)).astype(np.float32)
        if fill is not None:
            x = np.sign(x) * np.where(np.arange(93) % 2 == 0, 1, -3)[:, None].astype(np.float32)
        one, other = (linear(tensor, x, isa=ISAS[name], threads=2) for name in ("avx512-vnni", "avx512-amx"))
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32)), (rows, cols)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "F16"])
def test_same_bits_when_the_work_is_cut_many_ways(kind: str, isa: int) -> None:
    """Large enough that panels and tokens are both divided among tasks, and x is packed by several threads."""
    rng = np.random.default_rng(23)
    tensor = random_tensor(kind, 700, 512, rng)
    x = rng.standard_normal((150, 512)).astype(np.float32)
    one = linear(tensor, x, isa=isa, threads=1)
    check_rows = rng.choice(150, 4, replace=False)
    for row in check_rows:
        assert np.array_equal(linear(tensor, x[row][None], isa=isa)[0].view(np.uint32), one[row].view(np.uint32))
    for threads in (2, 4):
        assert np.array_equal(linear(tensor, x, isa=isa, threads=threads).view(np.uint32), one.view(np.uint32))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row_and_shows(kind: str, bad: float, isa: int) -> None:
    rng = np.random.default_rng(29)
    tensor = random_tensor(kind, 18, 256, rng)
    x = rng.standard_normal((13, 256)).astype(np.float32)
    clean = linear(tensor, x, isa=isa)
    x[4, 100] = bad
    dirty = linear(tensor, x, isa=isa)
    others = np.arange(13) != 4
    assert not np.any(np.isfinite(dirty[4]))
    assert np.array_equal(dirty[others].view(np.uint32), clean[others].view(np.uint32))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("kind", INTEGER)
def test_tiny_and_huge_activations(kind: str, isa: int) -> None:
    rng = np.random.default_rng(31)
    tensor = random_tensor(kind, 18, 256, rng)
    x = rng.standard_normal((6, 256)) * np.array([0, 1e-45, 1e-38, 1e-33, 1e-20, 1e30])[:, None]
    assert np.array_equal(linear(tensor, x[:1].astype(np.float32), isa=isa), np.zeros((1, 18)))
    check_close(tensor, x.astype(np.float32), isa)


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_weight_is_refused(kind: str) -> None:
    tensor = random_tensor(kind, 3, 256, np.random.default_rng(1))
    x = np.zeros((1, 256), dtype=np.float32)
    size = tensor.raw.nbytes
    with pytest.raises(InputError, match=rf"{size - 1} bytes.*{size}"):
        linear(tensor, x, isa=1, weight=tensor.c(size=size - 1))
    with pytest.raises(UnsupportedError, match="type 99 is not supported"):
        linear(tensor, x, isa=1, weight=tensor.c(number=99))
    weight = tensor.c()
    weight.data = None
    with pytest.raises(InputError, match="no data"):
        linear(tensor, x, isa=1, weight=weight)


@pytest.mark.parametrize("isa", [-1, 5, 1000])
def test_an_unknown_instruction_set_is_refused(isa: int) -> None:
    tensor = random_tensor("Q4_0", 3, 256, np.random.default_rng(1))
    with pytest.raises((InputError, UnsupportedError), match="instruction set"):
        linear(tensor, np.zeros((1, 256), dtype=np.float32), isa=isa)
