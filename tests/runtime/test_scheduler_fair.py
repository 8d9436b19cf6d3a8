"""What one request may cost another: time between its tokens, and its turn. The scheduler and its pace, with a machine
that has a clock and computes nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.blocks import BLOCK, BlockPool, blocks_for
from runtime.engine.pace import SMALLEST, STALL_NS, Pace
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Chosen, Scheduler, Step
from runtime.engine.sequence import Sequence

MS = 1_000_000
CHOSEN = Chosen(token=1, logprob=-1.0)


class Machine:
    """A step costs `fixed` ns, `each` for a row, and `far` for a row and every thousand tokens before it; with `noise`,
    up to that part more. `gaps`: the longest time from one token of a sequence to its next, ns."""

    def __init__(
        self, *, fixed: float = 0.0, each: float = 1.0, far: float = 0.0, noise: float = 0.0, n_blocks: int = 2000,
        n_ctx: int = 4608, max_seqs: int = 8, max_rows: int = 512,
    ) -> None:  # fmt: skip
        self.scheduler = Scheduler(BlockPool(n_blocks), n_ctx=n_ctx, max_seqs=max_seqs, max_rows=max_rows)
        self.pace = Pace(max_rows=max_rows)
        self.tokens: dict[int, int] = {}
        self.finished: set[int] = set()
        self.gaps: dict[int, float] = {}
        self.steps = 0
        self._fixed, self._each, self._far, self._noise = fixed, each, far, noise
        self._rng = random.Random(1)
        self._clock = 0.0
        self._last: dict[int, float] = {}

    def add(self, id: int, prompt: int, max_tokens: int, client: str = "") -> None:
        """A prompt of that many tokens, like no other's."""
        tokens = [id + 2] * prompt
        self.scheduler.add(
            Sequence(
                id=id, client=client, arrival=id, tokens=tokens, n_prompt=prompt, max_tokens=max_tokens,
                sampling=Sampling(seed=0), ends=frozenset(),
            )
        )  # fmt: skip
        self.tokens[id] = 0

    def step(self, rows: int | None = None) -> bool:
        """With `rows`, or as many as the pace allows."""
        step = self.scheduler.schedule(rows or self.pace.rows(*self.scheduler.counts))
        if step is None:
            return False
        ns, prompt = self._cost(step), step.prompt_rows
        self._clock += ns
        self.pace.took(step.rows, prompt, int(ns))
        self.steps += 1
        for outcome in self.scheduler.commit(step, [CHOSEN] * len(step.outputs)):
            id = outcome.sequence.id
            self.tokens[id] += 1
            if id in self._last:
                self.gaps[id] = max(self.gaps.get(id, 0.0), self._clock - self._last[id])
            self._last[id] = self._clock
            if outcome.finish:
                self.finished.add(id)
        return True

    def _cost(self, step: Step) -> float:
        past = sum(part.count * (part.start + part.count / 2) for part in step.parts)
        noisy = 1 + self._noise * self._rng.random()
        return (self._fixed + self._each * step.rows + self._far * past / 1000) * noisy


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_long_prompt_never_stalls_others_for_more_than_150_ms(data: st.DataObject) -> None:
    """Or, where the machine is so slow that the fewest rows take longer, for more than those; or for more than two
    steps without prompts. On machines of all speeds, where a row at a prompt's end may cost five times the first."""
    fixed = data.draw(st.floats(0.5, 100), "fixed ms") * MS
    each = data.draw(st.floats(0.02, 3), "ms a row") * MS
    far = data.draw(st.floats(0, 1), "a row's part more for every 1,000 tokens") * each
    noise = data.draw(st.sampled_from([0.0, 0.1]), "noise")
    machine = Machine(fixed=fixed, each=each, far=far, noise=noise)
    for id in range(4):
        machine.add(id, 8, 100_000)
    for _ in range(data.draw(st.integers(0, 40), "tokens before")):
        machine.step()
    for id in (4, 5):
        machine.add(id, 4000, 4, client=data.draw(st.sampled_from(["", "other"]), "client"))
    while not {4, 5} <= machine.finished:
        machine.step()
    dearest = each + 4 * far  # of all rows
    base = fixed + 6 * dearest
    allowed = max(STALL_NS, 2 * base, base + SMALLEST * dearest) * (1 + noise)
    assert max(machine.gaps.values()) <= allowed


@pytest.mark.parametrize("fixed_ms", [2, 25, 100])
def test_a_prompt_is_read_at_a_third_of_the_machines_speed_at_least(fixed_ms: int) -> None:
    """The pace does not starve the prompt: the bound is used."""
    machine = Machine(fixed=fixed_ms * MS, each=MS)
    machine.add(0, 8, 100_000)
    for _ in range(20):
        machine.step()
    before, machine.steps = machine.steps, 0
    machine.add(1, 4000, 1)
    while 1 not in machine.finished:
        machine.step()
    assert before == 20
    assert machine.steps * fixed_ms <= 2 * 4000 + 20 * fixed_ms, "most of the time went into weights"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_one_request_is_served_at_once_beside_a_client_with_a_hundred(data: st.DataObject) -> None:
    """Whatever the hundred are: a place in the next step, then half of all rows for prompts, then a token in each step.
    Where the pool does not hold a context for every place, blocks may be taken from it too."""
    rng = random.Random(data.draw(st.integers(0, 1 << 32), "seed"))
    seqs = data.draw(st.integers(2, 8), "places")
    rows = seqs + 2 * BLOCK
    machine = Machine(n_blocks=seqs * blocks_for(512), n_ctx=512, max_seqs=seqs, max_rows=rows)
    for id in range(100):
        machine.add(id, rng.randint(1, 500), rng.randint(1, 500), client="greedy")
    for _ in range(data.draw(st.integers(0, 300), "steps before")):
        machine.step(rows)
    prompt, answer = rng.randint(1, 400), rng.randint(1, 100)
    machine.add(100, prompt, answer, client="modest")
    before = machine.steps
    while 100 not in machine.finished:
        assert machine.step(rows)
        machine.scheduler.check()
    turns = -(-prompt // BLOCK)  # a turn has at least a block's rows
    assert machine.steps - before <= 1 + 2 * turns + answer
    while machine.step(rows):
        pass
    assert len(machine.finished) == 101 and machine.scheduler.pool.n_used == 0


def test_a_short_question_does_not_wait_for_the_long_prompts_of_another() -> None:
    machine = Machine(max_rows=64)
    for id in range(3):
        machine.add(id, 4000, 10, client="patient")
    for _ in range(5):
        machine.step(64)
    machine.add(3, 10, 1, client="other")
    for _ in range(2):
        machine.step(64)
    assert machine.finished == {3}


def test_a_long_prompt_does_not_wait_for_the_short_questions_of_others() -> None:
    """Neither one client's, one in every step and as long as it, nor those of ever new clients in every second step."""
    for every, names in ((1, ["one"] * 100), (2, [f"client {number}" for number in range(100)])):
        machine = Machine(max_rows=64)
        machine.add(0, 640, 1, client="patient")
        for id, name in enumerate(names, 1):
            machine.add(id, 64, 1, client=name)
            for _ in range(every):
                machine.step(64)
            if 0 in machine.finished:
                break
        assert machine.steps <= 22, "ten steps of its own, and one of another's after each"


def test_two_clients_with_many_requests_get_halves() -> None:
    machine = Machine(max_seqs=8)
    for id in range(40):
        machine.add(id, 10, 400, client="first")
    machine.step(512)
    for id in range(40, 80):
        machine.add(id, 10, 400, client="second")
    machine.step(512)
    running = [sequence.client for sequence in machine.scheduler._running]
    assert sorted(running) == ["first"] * 4 + ["second"] * 4
    assert machine.scheduler.preemptions == 4
    for _ in range(50):
        machine.step()
    assert machine.scheduler.preemptions == 4, "once the numbers are equal nobody is put back"


def test_accounts_are_exact_when_idle_whatever_happened() -> None:
    """free + cached + used is all, and nothing is used: after preemption for blocks and for places, and cancels."""
    machine = Machine(n_blocks=20, n_ctx=512, max_seqs=6)
    rng = random.Random(3)
    for id in range(120):
        machine.add(id, rng.randint(1, 300), rng.randint(1, 200), client=rng.choice("abc"))
        for _ in range(rng.randint(0, 20)):
            machine.step(rng.randint(6, 100))
        machine.scheduler.cancel(rng.randint(0, id))
        machine.scheduler.check()
    while machine.step():
        machine.scheduler.check()
    pool = machine.scheduler.pool
    assert machine.scheduler.preemptions > 10
    assert (pool.n_used, pool.available) == (0, 20) and pool.n_cached > 0
    pool.clear()
    assert (pool.n_cached, pool.available) == (0, 20)
    pool.check()
