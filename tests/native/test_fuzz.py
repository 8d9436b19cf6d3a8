"""The C boundary against inputs nobody has checked, for the seconds that CI has. `scripts/fuzz` runs
native/fuzz/fuzz.cpp, the same under sanitizers, for as long as one likes.

Whatever comes: a status with a sentence, or an engine that runs. Beside damage to good plans (test_engine_refusals),
here are plans drawn from nothing, and what the two found is kept below as tests of its own.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from native import packing
from native.engine import Batch, Engine
from native.errors import MemoryShortError, NativeError
from native.library import SlConfig, SlTensor, check, isa_names, library
from native.plan import PlanBuilder
from native.weight import Weight
from tests.peers.kernels import INTEGER, PLAIN, random_tensor
from tests.peers.random_plan import VOCAB, make, models
from tests.peers.tiny_plan import OP_LAYOUT, alone, weight

ODD = st.one_of(
    st.integers(-2, 70), st.sampled_from([255, 256, 1024, 1025, 65536, 1 << 22, 1 << 24, 2**31 - 1, -(2**31)])
)
NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, 1e-6]))
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def create(ops: Any, tensors: list[tuple[Any, int, int, int]], **config: int) -> None:
    """Tensors as (bytes, type, rows, cols). An engine that is made is freed again."""
    made = (SlTensor * max(1, len(tensors)))(
        *(SlTensor(raw.ctypes.data, raw.nbytes, rows, cols, kind, 0) for raw, kind, rows, cols in tensors)
    )
    sizes = dict(threads=1, n_blocks=2, max_rows=4, max_seqs=2, max_outputs=2, isa=0, kv_type=1) | config
    handle = ctypes.c_void_p()
    status = library().sl_create(
        ops.ctypes.data, len(ops), made, len(tensors), ctypes.byref(SlConfig(**sizes)), ctypes.byref(handle)
    )
    if handle:
        library().sl_free(handle)
    check(status)


@st.composite
def op(draw: st.DrawFn) -> tuple[Any, ...]:
    numbers = tuple(draw(st.tuples(*[ODD] * 5)))
    kind, links = draw(st.integers(0, 10)), draw(st.tuples(*[st.integers(-2, 6)] * 6))
    return (kind, *links, numbers, tuple(draw(st.tuples(NUMBERS, NUMBERS))))


@quick
@given(
    ops=st.lists(op(), min_size=1, max_size=6), kinds=st.lists(st.sampled_from([0, 1, 2, 8, 12, 30, 31]), max_size=4)
)
def test_plans_from_nothing(ops: list[tuple[Any, ...]], kinds: list[int]) -> None:
    """Random ops over random slots and tensors."""
    raw = np.zeros(1 << 16, np.uint8)
    sizes = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 30: (1, 2), 31: (32, 18)}
    tensors = [(raw[: 7 * 256 // sizes[k][0] * sizes[k][1]], k, 7, 256) for k in kinds]
    try:
        create(np.array(ops, OP_LAYOUT), tensors)
    except NativeError as error:
        assert str(error)


@quick
@given(
    model=models(), tokens=st.lists(st.integers(-1, VOCAB), min_size=1, max_size=12),
    row_start=st.lists(st.integers(0, 12), min_size=1, max_size=4), start_pos=st.lists(ODD, min_size=1, max_size=3),
    blocks=st.lists(st.integers(-1, 8), min_size=6, max_size=6), out_rows=st.lists(st.integers(0, 12), max_size=4),
)  # fmt: skip
def test_batches_from_nothing(
    model: Any, tokens: Any, row_start: Any, start_pos: Any, blocks: Any, out_rows: Any
) -> None:
    """A refused batch is refused again; one that runs gives the same bits again."""
    made = make(model)
    table = np.resize(np.array(blocks, np.int32), (len(start_pos), 3))
    batch = Batch(
        tokens=tokens, row_start=[0, *row_start], start_pos=start_pos, blocks=table, out_rows=out_rows, want_logits=True
    )
    with Engine(made.plan, made.weights, threads=1, n_blocks=8, max_rows=12, max_seqs=3, max_outputs=4) as engine:
        said: list[Any] = []
        for _ in range(2):
            try:
                logits = engine.step(batch).logits
                assert logits is not None
                said.append(logits.tobytes())
            except NativeError as error:
                said.append(str(error))
        assert said[0] == said[1] and said[0] is not None


# -- found


def test_a_cache_of_more_than_64_bits_is_refused() -> None:
    """16,384 layers of 2^20 values in 2^24 blocks: 2^64 halves, which was an empty cache that a step then wrote
    into."""
    layers, heads, head_dim = 16384, 1024, 1024
    width = heads * head_dim
    ops = np.zeros(layers + 3, OP_LAYOUT)
    for name in ("a", "b", "c", "weight", "bias"):
        ops[name] = -1
    ops["out"] = np.arange(len(ops))
    ops[0]["kind"], ops[0]["weight"], ops[0]["f"] = 1, 0, (1, 0)
    for at in range(1, layers + 1):
        ops[at]["kind"] = 5
        ops[at]["a"] = ops[at]["b"] = ops[at]["c"] = 0
        ops[at]["i"], ops[at]["f"] = (at - 1, heads, heads, head_dim, 0), (1, 0)
    ops[-2]["kind"], ops[-2]["a"] = 9, layers
    ops[-1]["kind"], ops[-1]["a"], ops[-1]["weight"] = 3, layers + 1, 0
    raw = np.zeros(width * 2, np.uint8)
    with pytest.raises(MemoryShortError):
        create(ops, [(raw, 1, 1, width)], n_blocks=1 << 24, max_rows=1, max_outputs=1, max_seqs=1)


@pytest.mark.parametrize("isa", isa_names())
@pytest.mark.parametrize("kind", PLAIN + INTEGER)
def test_panels_of_any_bytes_change_values_alone(isa: str, kind: str) -> None:
    """A pack's hashes find damage, not malice: whatever panels hold is safe to compute with, and the answer is the
    same again, for one row or many."""
    rng, cols = np.random.default_rng(7), 256
    shape: dict[str, Any] = {"rows": 70, "cols": cols, "type": random_tensor(kind, 1, cols, rng).number}
    size = packing.packed_bytes(Weight(buffer=memoryview(b""), **shape), isa)
    panels = packing.aligned(size)
    panels[:] = rng.bytes(size)
    p = PlanBuilder()
    x = p.embed("table", scale=1.0)
    p.pick(p.linear(x, "matrix"))
    table, _ = weight(rng.standard_normal((VOCAB, cols)).astype(np.float32))
    weights = {"table": table, "matrix": Weight(buffer=panels, packed=isa, **shape)}
    with Engine(
        p.build(), weights, threads=2, n_blocks=4, max_rows=80, max_seqs=1, max_outputs=80, isa=isa
    ) as engine:  # fmt: skip
        tokens = [int(token) for token in rng.integers(0, VOCAB, 70)]
        many, one = alone(engine, tokens), alone(engine, tokens, chunk=1)
    for values in (many, one):
        values[np.isnan(values)] = np.nan  # one is as good as another
    assert many.tobytes() == one.tobytes()
