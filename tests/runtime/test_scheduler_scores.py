"""Prompts that are scored: every token but the first, once, whoever shares the batch, on an engine that checks every
step (tests/peers/fake_engine.py)."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.batch import rows_of
from runtime.engine.blocks import BlockPool
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Chosen, Scheduler
from runtime.engine.sequence import Sequence
from tests.peers.fake_engine import FakeEngine, answer, score

N_CTX, N_BLOCKS, MAX_SEQS = 160, 6, 4  # a pool of one full context and a little: sequences are preempted


@st.composite
def sequences(draw: st.DrawFn) -> list[Sequence]:
    """Prompts that share beginnings, so that a cache would have their blocks."""
    found = []
    for id in range(draw(st.integers(1, 7))):
        length = draw(st.integers(1, N_CTX - 1))
        tokens = [7] * min(length, draw(st.sampled_from([0, 32, 64]))) + [id] * length
        found.append(
            Sequence(
                id=id, client=draw(st.sampled_from("ab")), arrival=id, tokens=tokens[:length], n_prompt=length,
                max_tokens=draw(st.integers(0, 6)), sampling=Sampling(seed=id), ends=frozenset(),
                score=draw(st.booleans()),
            )
        )  # fmt: skip
    return found


@settings(max_examples=150, deadline=None)
@given(sequences(), st.integers(4, 64), st.sampled_from([0, 4, 5, 20, 64]))
def test_every_token_but_the_first_is_scored_once_and_as_it_is_alone(
    asked: list[Sequence], rows: int, outputs: int
) -> None:
    scheduler = Scheduler(BlockPool(N_BLOCKS), n_ctx=N_CTX, max_seqs=MAX_SEQS, max_rows=64, max_outputs=outputs)
    engine = FakeEngine(n_blocks=N_BLOCKS, max_rows=64, max_seqs=MAX_SEQS, max_outputs=outputs)  # checks their places
    scores: dict[int, list[float]] = defaultdict(list)
    chosen: dict[int, list[int]] = defaultdict(list)
    prompts = {sequence.id: list(sequence.tokens) for sequence in asked}
    for sequence in asked:
        scheduler.add(sequence)
    while (step := scheduler.schedule(rows)) is not None:
        for outcome in scheduler.commit(step, engine.run(rows_of(step))):
            id = outcome.sequence.id
            if outcome.scores:
                assert not chosen[id], "a score after a token"
                scores[id] += [one.logprob for one in outcome.scores]
            elif isinstance(outcome.chosen, Chosen):
                chosen[id].append(outcome.chosen.token)
        scheduler.check()
    for sequence in asked:
        prompt = prompts[sequence.id]
        expected = [score(prompt[: place + 1]) for place in range(1, len(prompt))]
        assert scores[sequence.id] == (expected if sequence.score else [])
        room = min(sequence.max_tokens, N_CTX - len(prompt))
        assert chosen[sequence.id] == answer(prompt, sequence.id, room)


def test_a_prompt_that_is_scored_alone_has_all_outputs_of_a_step() -> None:
    scheduler = Scheduler(BlockPool(N_BLOCKS), n_ctx=N_CTX, max_seqs=MAX_SEQS, max_rows=64, max_outputs=40)
    tokens = list(range(100))
    scheduler.add(
        Sequence(
            id=0, client="", arrival=0, tokens=tokens, n_prompt=100, max_tokens=0, sampling=Sampling(seed=0),
            ends=frozenset(), score=True,
        )
    )  # fmt: skip
    engine, rows = FakeEngine(n_blocks=N_BLOCKS, max_rows=64, max_seqs=MAX_SEQS, max_outputs=40), []
    while (step := scheduler.schedule()) is not None:
        rows.append(step.rows)
        scheduler.commit(step, engine.run(rows_of(step)))
    assert rows == [32, 32, 36]
