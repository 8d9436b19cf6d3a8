"""The scheduler's laws for models that compute a text in one step, on an engine that takes nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.batch import rows_of
from runtime.engine.blocks import BlockPool, blocks_for
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Scheduler, Vector
from runtime.engine.sequence import Sequence
from runtime.errors import ContextExceeded
from tests.peers.fake_engine import VOCAB, FakeEmbedder, vector_of


class House:
    """`found`: id to vector. `steps`: the ids of each step."""

    def __init__(self, *, n_ctx: int = 128, max_seqs: int = 4, max_rows: int = 128, n_blocks: int = 16) -> None:
        self.pool = BlockPool(n_blocks)
        self.scheduler = Scheduler(self.pool, n_ctx=n_ctx, max_seqs=max_seqs, max_rows=max_rows, whole=True)
        self.engine = FakeEmbedder(n_blocks=n_blocks, max_rows=max_rows, max_seqs=max_seqs)
        self.found: dict[int, bytes] = {}
        self.steps: list[list[int]] = []

    def add(self, id: int, tokens: list[int], client: str = "") -> None:
        self.scheduler.add(
            Sequence(
                id=id,
                client=client,
                arrival=id,
                tokens=list(tokens),
                n_prompt=len(tokens),
                max_tokens=0,
                embed=True,
                sampling=Sampling(),
                ends=frozenset(),
            )
        )

    def step(self, rows: int | None = None) -> bool:
        step = self.scheduler.schedule(rows)
        if step is None:
            return False
        self.steps.append([part.sequence.id for part in step.parts])
        for outcome in self.scheduler.commit(step, self.engine.run(rows_of(step))):
            assert isinstance(outcome.chosen, Vector) and outcome.finish == "stop"
            assert outcome.sequence.id not in self.found and outcome.sequence.n_cached == 0
            self.found[outcome.sequence.id] = outcome.chosen.values
        self.scheduler.check()
        assert self.pool.n_used == 0, "blocks are of one step"
        return True


def text(length: int, seed: int = 0) -> list[int]:
    return [(seed + 7 * i) % VOCAB for i in range(length)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_text_has_its_own_vector_whatever_the_load(data: st.DataObject) -> None:
    """Random arrivals, equal texts, cancels, budgets far below a text, a pool for one context and little more."""
    n_ctx = data.draw(st.sampled_from([33, 64, 200]), "n_ctx")
    max_seqs = data.draw(st.integers(1, 6), "max_seqs")
    spare = data.draw(st.integers(0, 6), "spare")
    house = House(n_ctx=n_ctx, max_seqs=max_seqs, max_rows=n_ctx + spare, n_blocks=blocks_for(n_ctx) + spare)
    rng = random.Random(data.draw(st.integers(0, 1 << 32), "seed"))
    wanted: dict[int, list[int]] = {}
    for id in range(rng.randint(1, 25)):
        wanted[id] = text(rng.choice([1, 2, 31, 32, 33, n_ctx]), rng.choice([0, 1]))
        house.add(id, wanted[id], rng.choice("abc"))
        for _ in range(rng.randint(0, 2)):
            house.step(rng.randint(1, n_ctx))
        if rng.random() < 0.2:
            victim = rng.randint(0, id)
            if house.scheduler.cancel(victim):
                assert victim not in house.found
                del wanted[victim]
    while house.step():
        pass
    assert house.found == {id: vector_of(tokens) for id, tokens in wanted.items()}


def test_a_text_as_long_as_the_context_is_taken_and_a_longer_one_is_not() -> None:
    house = House()
    house.add(1, text(128))
    with pytest.raises(ContextExceeded) as caught:
        house.add(2, text(129))
    assert "129 tokens" in (caught.value.hint or "") and "128" in (caught.value.hint or "")
    house.step(rows=1)
    assert house.found == {1: vector_of(text(128))}


def test_short_texts_share_a_step_and_a_long_one_waits_for_the_next() -> None:
    """And there it is the first: texts that came later do not pass it a second time."""
    house = House(max_seqs=8)
    for id, length in enumerate((40, 40, 100, 40, 40)):
        house.add(id, text(length, id))
    while house.step():
        pass
    assert house.steps == [[0, 1, 3], [2], [4]]


def test_clients_take_turns() -> None:
    """One with twenty texts does not keep another's waiting."""
    house = House(max_seqs=4)
    for id in range(20):
        house.add(id, text(100, id), "many")
    house.step()
    house.add(100, text(100), "one")
    house.step()
    house.step()
    assert 100 in house.found
