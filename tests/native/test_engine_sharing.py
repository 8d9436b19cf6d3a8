"""What the engine holds or computes once for several ops gives the bits that each op alone would.

Tied weights: a matrix that is looked up and multiplied with is kept packed only, so a lookup reads panels.
Siblings: linear ops in a row that read one slot run together; from two slots of equal values they run one by one.
"""

from __future__ import annotations

import numpy as np
import pytest

from native.engine import Engine, Weight
from native.library import ISAS as ISA_NUMBERS
from native.library import isa_names
from native.plan import Plan, PlanBuilder
from tests.peers.kernels import (
    INTEGER,
    PLAIN,
    Tensor,
    block_of,
    is_fixed,
    is_pairs,
    random_tensor,
    used_weights,
    values_of,
)
from tests.peers.tiny_plan import Floats, alone

ISAS = isa_names()


def held(tensor: Tensor) -> Weight:
    return Weight(buffer=tensor.raw.reshape(-1).data, type=tensor.number, rows=tensor.rows, cols=tensor.cols)


def run(plan: Plan, tensors: dict[str, Tensor], tokens: list[int], isa: str, threads: int = 1) -> tuple[Floats, int]:
    """Logits [tokens, vocab], and the bytes the engine holds of weights."""
    weights = {name: held(tensor) for name, tensor in tensors.items()}
    rows = len(tokens)
    with Engine(
        plan, weights, threads=threads, n_blocks=64, max_rows=rows, max_seqs=1, max_outputs=rows, isa=isa
    ) as engine:
        return alone(engine, tokens), engine.info.weight_bytes


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", PLAIN + INTEGER)
def test_a_tied_matrix_is_held_once_and_looked_up_as_it_is_multiplied(kind: str, isa: str) -> None:
    """Exactly, but for fixed point. Out: the embedding itself, plus zeros made from its product so that the product is
    in the plan."""
    n = {1: 37, 32: 352, 256: 512}[block_of(kind)[0]]  # ragged panels; a last chunk of columns shorter than 256
    rng = np.random.default_rng(n)
    p = PlanBuilder()
    e = p.embed("x")
    p.pick(p.add(e, p.linear(p.linear(e, "x"), "zero")))
    zero = Tensor(kind="F32", rows=n, cols=n, raw=np.zeros((n, 4 * n), np.uint8))
    x = random_tensor(kind, n, n, rng)
    found, bytes_held = run(p.build(), {"x": x, "zero": zero}, list(range(n)), isa)
    fixed = is_fixed(kind, ISA_NUMBERS[isa])
    expected = used_weights(x, ISA_NUMBERS[isa]) if fixed else values_of(x)
    assert np.array_equal(found, expected)  # -0 + 0 is 0: equal, and no NaN is
    # Panels of 16 rows round up at most 15 of them, fixed point and tiles round columns up to 32, K formats widen 144
    # bytes to 148, and zeros are not packed tighter.
    wide = -(-n // 32) * 32 / n if fixed or is_pairs(kind, ISA_NUMBERS[isa]) else 1
    assert bytes_held <= 1.05 * (n + 15) / n * (wide * x.raw.nbytes + zero.raw.nbytes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "kinds", [("Q4_K", "Q6_K", "Q4_K"), ("Q5_0", "Q8_0", "Q4_1"), ("F16", "Q4_0", "Q5_1"), ("F32", "BF16", "Q8_0")]
)
def test_siblings_run_together_as_they_run_alone(kinds: tuple[str, ...], threads: int, isa: str) -> None:
    n = 256
    rng = np.random.default_rng(len(kinds[0]))
    tensors = {"x": random_tensor("F32", n, n, rng)}
    names = [f"w{i}" for i in range(len(kinds))]
    for name, kind in zip(names, kinds, strict=True):
        tensors[name] = random_tensor(kind, n, n, rng)

    together = PlanBuilder()
    e = together.embed("x")
    a, b, c = (together.linear(e, name) for name in names)
    together.pick(together.add(together.add(a, b), c))

    apart = PlanBuilder()
    one, two = apart.embed("x"), apart.embed("x")
    a, b = apart.linear(one, names[0]), apart.linear(two, names[1])
    apart.pick(apart.add(apart.add(a, b), apart.linear(one, names[2])))

    for count in (1, 13, 100):
        tokens = [int(t) for t in rng.integers(0, n, count)]
        found, _ = run(together.build(), tensors, tokens, isa, threads)
        expected, _ = run(apart.build(), tensors, tokens, isa)
        assert not np.isnan(found).any() and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", ISAS)
def test_a_product_that_nobody_reads_spoils_no_other(isa: str) -> None:
    """Its buffer is free again at once, so the next op may get it: those two must not run together."""
    n, rng = 256, np.random.default_rng(3)
    tensors = {name: random_tensor("Q8_0", n, n, rng) for name in ("x", "unread", "read")}
    plans = []
    for unread in (True, False):
        p = PlanBuilder()
        e = p.embed("x")
        if unread:
            p.linear(e, "unread")
        p.pick(p.linear(e, "read"))
        plans.append(p.build())
    tokens = [int(t) for t in rng.integers(0, n, 40)]
    expected, _ = run(plans[1], {name: tensors[name] for name in ("x", "read")}, tokens, isa)
    for _ in range(20):
        found, _ = run(plans[0], tensors, tokens, isa, threads=4)
        assert found.tobytes() == expected.tobytes()
