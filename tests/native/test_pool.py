"""The thread pool, seen through an engine: any number of threads gives the same bits, also beside neighbours that
keep the cores busy, and pools come and go without leaving threads behind."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from native.engine import Batch, Sampling
from native.errors import InputError
from tests.peers.tiny_plan import VOCAB, Shape, Tiny, alone, tiny

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB, 120)]


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_more_threads_than_cores_and_than_work() -> None:
    model = tiny(Shape())
    with model.engine() as engine:
        expected = alone(engine, TOKENS).tobytes()
    for threads in (2, 5, 16, 40):
        with model.engine(threads=threads) as engine:
            assert alone(engine, TOKENS, chunk=40).tobytes() == expected


def test_pools_end_with_their_engine() -> None:
    """Threads of others may end meanwhile; the kernel lists one that was joined for a moment more."""
    model = tiny(Shape(layers=1))
    before = threads()
    for _ in range(30):
        with model.engine(threads=4) as engine:
            assert len(threads() - before) >= 3
            alone(engine, TOKENS[:5])
    end = time.monotonic() + 60
    while left := threads() - before:
        assert time.monotonic() < end, left
        time.sleep(0.002)


def test_a_pool_that_slept_wakes_up() -> None:
    """Longer than any thread spins before it sleeps, then work again."""
    with tiny(Shape(layers=1)).engine(threads=3) as engine:
        expected = alone(engine, TOKENS).tobytes()
        for _ in range(10):
            threading.Event().wait(0.005)
            assert alone(engine, TOKENS).tobytes() == expected


def test_engines_side_by_side() -> None:
    """Several engines, each with its own pool and its own thread, at once: the GIL is free while they compute."""
    model: Tiny = tiny(Shape())
    with model.engine() as engine:
        expected = alone(engine, TOKENS).tobytes()

    def run(_: int) -> bool:
        with model.engine(threads=2) as mine:
            return all(alone(mine, TOKENS, chunk=chunk).tobytes() == expected for chunk in (1, 13, 120))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(8)))


def test_two_threads_in_one_engine_are_refused_not_raced() -> None:
    """Every call either computes the right rows or is refused by name."""
    rows = 512
    batch = Batch(
        tokens=[1] * rows,
        row_start=[0, rows],
        start_pos=[0],
        blocks=np.arange(16)[None],
        out_rows=[rows - 1],
        want_logits=True,
    )
    with tiny(Shape()).engine(threads=2) as engine:
        expected = engine.step(batch).logits
        assert expected is not None

        def call(_: int) -> bool:
            try:
                found = engine.step(batch).logits
            except InputError as error:
                return "another thread is inside this engine" in str(error)
            return found is not None and found.tobytes() == expected.tobytes()

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(call, range(12)))
            said: set[str] = set()
            for _ in range(100):  # a choice reads the logits that a step writes
                other = pool.submit(call, 0)
                while not other.done():
                    try:
                        engine.choose([Sampling()])
                    except InputError as error:
                        said.add(str(error))
                assert other.result()
                if "another thread is inside this engine" in said:
                    return
        raise AssertionError(f"choices beside a step: {said}")
