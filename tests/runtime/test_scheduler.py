"""The scheduler's laws, on an engine that checks every step (tests/peers/fake_engine.py)."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.batch import Rows, rows_of
from runtime.engine.blocks import BLOCK, BlockPool, blocks_for, root_of
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.errors import ContextExceeded, RequestRefused
from tests.peers.fake_engine import VOCAB, ContractBroken, FakeEngine, answer


class House:
    """A scheduler and its engine, and what each sequence generated."""

    def __init__(self, *, n_blocks: int = 64, n_ctx: int = 256, max_seqs: int = 4, max_rows: int = 64) -> None:
        self.pool = BlockPool(n_blocks)
        self.scheduler = Scheduler(self.pool, n_ctx=n_ctx, max_seqs=max_seqs, max_rows=max_rows)
        self.engine = FakeEngine(n_blocks=n_blocks, max_rows=max_rows, max_seqs=max_seqs)
        self.out: dict[int, list[int]] = {}
        self.finished: dict[int, str] = {}
        self.sequences: dict[int, Sequence] = {}
        self.order: list[int] = []  # ids as they were admitted
        self.rows: Rows  # of the last step
        self.repeated = 0  # steps that were the last one again

    def add(
        self, id: int, prompt: Iterable[int], max_tokens: int = 8, *, client: str = "", seed: int = 0,
        ends: frozenset[int] = frozenset(), salt: str = "",
    ) -> Sequence:  # fmt: skip
        tokens = list(prompt)
        sequence = Sequence(
            id=id, client=client, arrival=id, tokens=tokens, n_prompt=len(tokens), max_tokens=max_tokens,
            sampling=Sampling(seed=seed), ends=ends, root=root_of(salt),
        )  # fmt: skip
        self.scheduler.add(sequence)
        self.sequences[id], self.out[id] = sequence, []
        return sequence

    def step(self, rows: int | None = None) -> bool:
        step = self.scheduler.again()
        if step is None:
            step = self.scheduler.schedule(rows)
            if step is None:
                return False
            self.rows = rows_of(step)
        else:
            self.rows.advance(step)
            self.repeated += 1
            assert not step.admitted and self.rows == rows_of(step)
            assert self.scheduler.counts == (len(step.parts), 0) and step.rows == len(step.parts)
        self.order += step.admitted
        chosen = self.engine.run(self.rows)
        assert len(chosen) == len(step.outputs)
        for outcome in self.scheduler.commit(step, chosen):
            id = outcome.sequence.id
            assert id not in self.finished, "an outcome after the end"
            if outcome.chosen is not None:
                self.out[id].append(outcome.chosen.token)
            if outcome.finish:
                self.finished[id] = outcome.finish
        self.scheduler.check()
        return True

    def drain(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError("the scheduler does not come to an end")


def prompt_of(length: int, start: int = 0) -> list[int]:
    return [(start + 7 * i) % VOCAB for i in range(length)]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_sequence_answers_as_if_alone_whatever_the_load(data: st.DataObject) -> None:
    """Random arrivals, shared prefixes, cancels, budgets and a pool that is too small for all: same tokens as alone."""
    n_ctx = data.draw(st.sampled_from([48, 96, 200]), "n_ctx")
    max_seqs = data.draw(st.integers(1, 6), "max_seqs")
    n_blocks = blocks_for(n_ctx) + data.draw(st.integers(0, 6), "spare")
    house = House(
        n_blocks=n_blocks, n_ctx=n_ctx, max_seqs=max_seqs, max_rows=data.draw(st.integers(max_seqs, 80), "rows")
    )
    rng = random.Random(data.draw(st.integers(0, 1 << 32), "seed"))
    expected: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    for id in range(rng.randint(1, 14)):
        length = rng.randint(1, n_ctx - 1)
        prompt = prompt_of(length, start=rng.choice([0, 0, 1]))  # most share a prefix
        count, seed = rng.randint(0, 70), rng.choice([0, 1])
        ends = frozenset(rng.sample(range(VOCAB), 20))
        house.add(id, prompt, count, client=rng.choice("abc"), seed=seed, ends=ends, salt=rng.choice(["", "", "x"]))
        expected[id] = answer(prompt, seed, min(count, n_ctx - length), ends)
        for _ in range(rng.randint(0, 12)):
            house.step(rng.randint(1, 80))
        if rng.random() < 0.2:
            victim = rng.randint(0, id)
            if house.scheduler.cancel(victim):
                assert victim not in house.finished
                cancelled.add(victim)
            house.scheduler.check()
    house.drain()
    assert set(house.finished) == set(expected) - cancelled
    for id, reason in house.finished.items():
        assert house.out[id] == expected[id]
        ended = bool(expected[id]) and expected[id][-1] in house.sequences[id].ends
        assert reason == ("stop" if ended else "length")
    for id in cancelled:
        assert house.out[id] == expected[id][: len(house.out[id])]
    assert house.pool.n_used == 0


def test_preemption_happens_and_changes_nothing() -> None:
    house = House(n_blocks=8, n_ctx=256, max_seqs=4, max_rows=128)
    for id in range(4):
        house.add(id, prompt_of(33, start=id), 150)
    house.drain()
    assert house.scheduler.preemptions > 0
    for id in range(4):
        assert house.out[id] == answer(prompt_of(33, start=id), 0, 150)
        assert house.sequences[id].n_cached == 0, (
            "its own blocks, found again after preemption, are no prompt cache hit"
        )


def test_youngest_is_preempted_and_oldest_never() -> None:
    house = House(n_blocks=8, n_ctx=256, max_seqs=3, max_rows=128)
    for id in range(3):
        house.add(id, prompt_of(40, start=id), 160)
    house.drain()
    assert not house.sequences[0].preempted
    assert house.sequences[2].preempted
    assert next(iter(house.finished)) == 0


def test_a_prefix_is_computed_once() -> None:
    house = House(max_rows=512, n_ctx=512)
    shared = prompt_of(10 * BLOCK + 5)
    house.add(0, shared, 4)
    house.drain()
    before = house.engine.rows
    house.add(1, [*shared[: 10 * BLOCK], 1, 2, 3], 4)
    house.drain()
    assert house.sequences[1].n_cached == 10 * BLOCK
    assert house.engine.rows - before == 3 + 3  # what is new of the prompt, and three tokens decoded after the first
    assert house.out[1] == answer([*shared[: 10 * BLOCK], 1, 2, 3], 0, 4)


def test_generated_tokens_are_found_again_in_the_next_turn() -> None:
    house = House(n_ctx=512, max_rows=512)
    first = prompt_of(BLOCK)
    house.add(0, first, BLOCK + 1)
    house.drain()
    house.add(1, [*first, *house.out[0], 5], 1)
    house.drain()
    assert house.sequences[1].n_cached == 2 * BLOCK


def test_sixteen_with_one_system_prompt_compute_it_once_though_they_come_together() -> None:
    house = House(n_blocks=256, n_ctx=512, max_seqs=16, max_rows=64)
    shared = prompt_of(8 * BLOCK)
    for id in range(16):
        house.add(id, [*shared, id], 2)
    house.drain()
    # All that starts before the first block is known may be computed twice: one step's budget at most.
    assert house.engine.rows <= 8 * BLOCK + 64 + 16 * 2


def test_blocks_that_another_has_computed_meanwhile_are_taken_between_chunks() -> None:
    house = House(max_rows=3 * BLOCK)
    shared = prompt_of(2 * BLOCK)
    house.add(0, shared, 1)
    house.add(1, [*shared, 9], 1)
    house.step()  # two blocks of the first, and the first block of the second
    house.drain()
    assert house.sequences[1].n_cached == BLOCK
    assert house.engine.rows == 2 * BLOCK + BLOCK + 1


def test_chunks_end_on_a_block_border() -> None:
    house = House(max_rows=50)
    sequence = house.add(0, prompt_of(200), 1)
    ends = []
    while sequence.remaining > 50:
        house.step()
        ends.append(sequence.computed)
    assert ends == [32, 64, 96, 128, 160]
    house.drain()


def test_whole_prompt_in_the_cache_still_computes_its_last_token() -> None:
    house = House()
    house.add(0, prompt_of(2 * BLOCK), 1)
    house.drain()
    house.add(1, prompt_of(2 * BLOCK), 1)
    house.drain()
    assert house.sequences[1].n_cached == BLOCK
    assert house.out[1] == house.out[0]


def test_max_tokens_zero_computes_the_prompt_and_chooses_nothing() -> None:
    house = House()
    house.add(0, prompt_of(2 * BLOCK + 1), 0)
    house.drain()
    assert house.out[0] == [] and house.finished[0] == "length"
    house.add(1, prompt_of(2 * BLOCK + 1), 1)
    house.drain()
    assert house.sequences[1].n_cached == 2 * BLOCK


def test_context_is_filled_to_the_last_place_and_not_beyond() -> None:
    house = House(n_ctx=64)
    house.add(0, prompt_of(60), 1000)
    house.drain()
    assert len(house.out[0]) == 4 and house.finished[0] == "length"


def test_what_can_never_fit_is_refused_by_name() -> None:
    house = House(n_ctx=64)
    with pytest.raises(ContextExceeded):
        house.add(0, prompt_of(64))
    with pytest.raises(RequestRefused, match="empty"):
        house.add(1, [])
    assert house.scheduler.idle


def test_clients_take_turns() -> None:
    house = House(max_seqs=1)
    for id in range(4):
        house.add(id, prompt_of(5, start=id), 1, client="greedy")
    house.add(4, prompt_of(5), 1, client="modest")
    house.drain()
    assert house.order == [0, 4, 1, 2, 3]


def test_a_long_prompt_does_not_stop_those_who_decode() -> None:
    house = House(n_ctx=1024, max_rows=64, max_seqs=4)
    house.add(0, prompt_of(4), 200)
    house.step()
    house.add(1, prompt_of(1000, start=3), 1)
    for _ in range(15):
        before = len(house.out[0])
        house.step()
        assert len(house.out[0]) == before + 1
    assert 1 not in house.finished
    house.drain()
    assert house.finished.keys() == {0, 1}


def test_eviction_takes_the_tail_before_the_prefix() -> None:
    house = House(n_blocks=8, n_ctx=256, max_rows=256)
    old = prompt_of(4 * BLOCK + 1)
    house.add(0, old, 1)
    house.drain()
    house.add(1, prompt_of(5 * BLOCK, start=500), 1)  # needs five blocks: four are free, one is evicted
    house.drain()
    house.add(2, old, 1)
    house.drain()
    assert 0 < house.sequences[2].n_cached < 4 * BLOCK


def test_cancel_returns_every_block() -> None:
    house = House()
    house.add(0, prompt_of(100), 50)
    house.step()
    house.step()
    assert house.pool.n_used > 0
    assert house.scheduler.cancel(0)
    assert not house.scheduler.cancel(0)
    assert house.scheduler.idle and house.pool.n_used == 0
    house.scheduler.check()


def test_while_nobody_comes_or_goes_the_last_step_is_given_again() -> None:
    """Two answers of 70 tokens pass block borders; the third client's coming and the first one's end are two breaks."""
    house = House(n_ctx=200)
    house.add(0, prompt_of(5), 70)
    house.add(1, prompt_of(9, start=1), 80)
    house.step()
    house.step()
    for _ in range(60):
        house.step()
    assert house.repeated == 60
    house.add(2, prompt_of(40, start=2), 1)
    assert house.scheduler.again() is None
    house.drain()
    assert [house.out[id] for id in range(2)] == [answer(prompt_of(5), 0, 70), answer(prompt_of(9, start=1), 0, 80)]
    assert house.scheduler.again() is None and house.pool.n_used == 0


def test_the_fake_engine_notices_a_wrong_table() -> None:
    """The oracle of this file can fail: a block given to two sequences, a table too short, a prefix of another."""
    house = House()
    house.add(0, prompt_of(40), 4)
    house.add(1, prompt_of(40, start=3), 4)
    step = house.scheduler.schedule()
    assert step is not None
    rows = rows_of(step)
    rows.tables[1][0] = rows.tables[0][0]
    with pytest.raises(ContractBroken, match="two sequences"):
        house.engine.run(rows)
    rows.tables[1].pop(0)
    with pytest.raises(ContractBroken, match="does not cover"):
        house.engine.run(rows)


def test_the_pool_check_notices_a_lost_and_a_doubled_block() -> None:
    pool = BlockPool(4)
    block = pool.take()
    assert block is not None
    with pytest.raises(AssertionError, match="references"):
        pool.check([])
    pool.check([[block]])
    pool.release([block])
    pool.check()
    pool._free.append(block)
    with pytest.raises(AssertionError, match="free twice"):
        pool.check()


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_salt_finds_its_own_blocks_and_no_others(one: str, other: str) -> None:
    """Also where both run at once, so that equal blocks are published while the other's are there."""
    house = House(n_blocks=64, n_ctx=256, max_rows=64)
    for id, salt in enumerate((one, other, one, other)):
        house.add(id, prompt_of(3 * BLOCK + 5), 4, salt=salt)
        if id % 2:
            house.drain()
    found = [house.sequences[id].n_cached for id in range(4)]
    assert found[2:] == [3 * BLOCK, 3 * BLOCK]
    assert found[:2] == [0, 0] or one == other
    assert len({tuple(house.out[id]) for id in range(4)}) == 1


def test_a_hash_alone_is_never_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash that is the same for everything, nothing is matched that is not equal."""
    monkeypatch.setattr("runtime.engine.blocks.chain", lambda parent, tokens: b"same")
    house = House(n_ctx=128, max_rows=128)
    for id in range(6):
        house.add(id, prompt_of(BLOCK + 3, start=id % 3), 8)
    house.drain()
    for id in range(6):
        assert house.out[id] == answer(prompt_of(BLOCK + 3, start=id % 3), 0, 8)
