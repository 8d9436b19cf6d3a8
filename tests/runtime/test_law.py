"""The law of batch invariance where models meet the engine: every architecture's own plan on every instruction set, and
the real model, through the engine alone and through scheduler, prefix cache and preemption. Bits are compared."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifests.gguf import Gguf
from native.engine import Engine
from native.library import isa_names
from runtime.engine.scheduler import Scheduler, Step
from runtime.models.load import load
from tests.peers.company import Guest, Stage
from tests.peers.house import House, alone, asks
from tests.peers.model_maker import ARCHITECTURES, QUANTS, make_model
from tests.peers.tiny_plan import alone as one_by_one

BLOCKS, MAX_ROWS, MAX_SEQS = 128, 512, 16
CHUNKS = (17, 1, 256, 512)
REAL = Path(os.environ.get("SEALIFT_TEST_MODEL") or "/nonexistent")
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")


def play(path: Path, isa: str, *, company: int, long: int, short: int, plays: list[tuple[int, int]]) -> None:
    """One prompt of `long` tokens among `company` of at most `short`, once for each (threads, chunk) of `plays`."""
    spec, plan, weights = load(Gguf.open(path))
    rng = np.random.default_rng(long)
    first = rng.integers(0, spec.vocab, long).tolist()
    tokens = [first]
    for _ in range(company):
        shared = int(rng.choice([0, 32, 64]))
        tokens.append(first[:shared] + rng.integers(0, spec.vocab, rng.integers(1, short)).tolist())

    def opened(threads: int) -> Engine:
        return Engine(
            plan, weights, threads=threads, n_blocks=BLOCKS, max_rows=MAX_ROWS, max_seqs=MAX_SEQS,
            max_outputs=MAX_ROWS, isa=isa,
        )  # fmt: skip

    with opened(1) as engine:
        expected = [one_by_one(engine, one) for one in tokens]
    for threads, chunk in plays:
        pairs = zip(tokens, expected, strict=True)
        guests = [Guest(i, one, e, CHUNKS[i % 4] if i else chunk) for i, (one, e) in enumerate(pairs)]
        with opened(threads) as engine:
            Stage(engine, guests, company=company, n_blocks=BLOCKS, max_rows=MAX_ROWS, seed=threads).play()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("isa", isa_names())
def test_every_architecture_in_company(arch: str, isa: str, tmp_path: Path) -> None:
    """The formats go round, so that each meets several architectures and instruction sets."""
    at = ARCHITECTURES.index(arch) + 4 * isa_names().index(isa)
    path = make_model(tmp_path / "m.gguf", arch, quant=QUANTS[at % len(QUANTS)], tied=at % 2 == 0)
    play(path, isa, company=5, long=270, short=50, plays=[(1 + at % 4, CHUNKS[at % 4]), (1 + (at + 1) % 4, 512)])


@needs_real
@pytest.mark.parametrize("isa", isa_names())
def test_the_real_model_in_company(isa: str) -> None:
    """At length on the body that the dispatch would choose here; the others are slow, the slowest a hundred times."""
    if isa == isa_names()[-1]:
        play(REAL, isa, company=15, long=270, short=20, plays=[(2, 17), (3, 256)])
        play(REAL, isa, company=1, long=40, short=20, plays=[(1, 512), (4, 1)])
    elif isa == "portable":
        play(REAL, isa, company=2, long=9, short=4, plays=[(2, 4)])
    else:
        play(REAL, isa, company=7, long=40, short=20, plays=[(2, 17)])


@needs_real
@pytest.mark.parametrize(("max_rows", "parallel", "threads"), [(24, 2, 2), (512, 1, 3)])
def test_the_real_model_behind_the_scheduler(max_rows: int, parallel: int, threads: int) -> None:
    """Warm beginnings and preemption: tokens and bits of log probabilities are those of each request alone."""
    wanted = asks(3, number=5, vocab=40_000)
    expected = alone(REAL, wanted)
    house = House(REAL, max_rows=max_rows, parallel=parallel, threads=threads)
    assert house.come(wanted, threads) == expected
    assert house.loop.scheduler.preemptions > 0 or parallel > 1, "the pool was meant to be too small"
    assert house.come(wanted[:2], threads + 1) == expected[:2]  # warm


def test_steps_given_again_are_steps_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of up to 160 tokens, past the table's spare blocks, half of them with penalties, which look back."""
    path = make_model(tmp_path / "m.gguf", "llama")
    wanted = [replace(ask, count=2 * ask.count + 20) for ask in asks(3, 4)]
    assert {ask.sampling.penalises for ask in wanted} == {True, False}
    again = House(path).come(wanted, 5)
    repeated = 0
    schedule = Scheduler.schedule

    def anew(scheduler: Scheduler, rows: int | None = None) -> Step | None:
        nonlocal repeated
        repeated += scheduler._steady is not None
        return schedule(scheduler, rows)

    monkeypatch.setattr(Scheduler, "again", lambda scheduler: None)
    monkeypatch.setattr(Scheduler, "schedule", anew)
    assert House(path).come(wanted, 5) == again
    assert repeated > 100
