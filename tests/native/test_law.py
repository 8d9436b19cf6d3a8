"""The law of batch invariance on random models: "the logits of a row depend on its own sequence alone: not on other
rows, on how the prompt was cut into steps, on where its blocks lie, or on the number of threads". For every
instruction set.

`test_engine_invariance` takes one condition at a time on chosen models; here all of them vary together (`Stage`): alone
and with 1, 7, 15 others that join and leave at random steps; chunks of 1, 17, 256 and all; warm and cold beginnings;
1 to 4 threads; after being thrown out; for each kind of key/value cache. hypothesis draws the models; the examples
are the same in every run.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from native.engine import Engine
from native.library import KV_TYPES, isa_names
from tests.peers.company import Guest, Stage
from tests.peers.random_plan import VOCAB, Layer, Made, Model, make, models
from tests.peers.tiny_plan import alone

CHUNKS = (1, 17, 256, 512)  # the last: all at once
LONG = 300  # tokens of the first guest: beyond a split of 256 keys
BLOCKS, MAX_ROWS, MAX_SEQS = 128, 512, 16


def opened(made: Made, isa: str, threads: int, kv_type: str) -> Engine:
    return Engine(
        made.plan, made.weights, threads=threads, n_blocks=BLOCKS, max_rows=MAX_ROWS, max_seqs=MAX_SEQS,
        max_outputs=MAX_ROWS, isa=isa, kv_type=kv_type,
    )  # fmt: skip


def prompts(rng: np.random.Generator, company: int) -> list[list[int]]:
    """One long; of the others, most begin with its first blocks."""
    first = [int(t) for t in rng.integers(0, VOCAB, LONG)]
    found = [first]
    for _ in range(company + 2 if company else 0):
        shared = int(rng.choice([0, 32, 64, 70]))
        found.append(first[:shared] + [int(t) for t in rng.integers(0, VOCAB, rng.integers(1, 60))])
    return found


@pytest.mark.parametrize("company", [0, 1, 7, 15])
@pytest.mark.parametrize("isa", isa_names())
@settings(
    max_examples=6, derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(model=models())
def test_any_model_in_any_company(isa: str, company: int, model: Model) -> None:
    made, rng = make(model), np.random.default_rng([model.seed, company])
    tokens = prompts(rng, company)
    for kv_type in KV_TYPES:
        with opened(made, isa, 1, kv_type) as engine:
            expected = [alone(engine, one) for one in tokens]
        for threads, chunk in enumerate(np.roll(CHUNKS, int(rng.integers(4))), 1):
            # The first guest's chunk is this play's; the others take them in turn, so that all meet.
            sizes = itertools.chain([int(chunk)], itertools.cycle(CHUNKS))
            guests = [
                Guest(i, one, logits, size)
                for i, (one, logits, size) in enumerate(zip(tokens, expected, sizes, strict=False))
            ]
            with opened(made, isa, threads, kv_type) as engine:
                stage = Stage(engine, guests, company=company, n_blocks=BLOCKS, max_rows=MAX_ROWS, seed=threads).play()
            assert stage.most <= company + 1 and stage.rows >= LONG - stage.warm


def test_the_stage_does_what_it_says() -> None:
    """Guests meet, are thrown out, and find their beginnings warm: or the test above would prove little."""
    layer = Layer(
        heads=4, kv_heads=2, head_dim=16, rotary=16, pairing="halves", window=0, softcap=0.0, qk_norm=True,
        post_norm=False, bias=False, act="silu", ff=64,
    )  # fmt: skip
    made = make(Model(width=64, layers=(layer,), kinds=("Q8_0",), tied=True, cap=0.0, seed=0))
    rng = np.random.default_rng(0)
    tokens = prompts(rng, 15)
    with opened(made, "best", 2, "f16") as engine:
        guests = [Guest(i, one, alone(engine, one), CHUNKS[i % 3]) for i, one in enumerate(tokens)]
        stage = Stage(engine, guests, company=15, n_blocks=BLOCKS, max_rows=MAX_ROWS, seed=1).play()
    assert stage.most > 7 and stage.evictions > 0 and stage.warm > 5 * 32 and not stage.live
