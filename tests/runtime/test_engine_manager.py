"""Manager: who is loaded and for how long, with models that cost nothing. Times are long or zero, never raced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.errors import ModelRefused, OutOfMemory, ServerBusy, ShuttingDown, Unavailable
from runtime.loaded import Figures, LoadedModel
from runtime.manager import Loaded, Manager
from runtime.source import ModelSource

WAIT = 60.0


class FakeModel:
    figures = Figures(weights=10, cache=5, scratch=1)
    n_ctx_train = 8192

    def __init__(self, source: ModelSource) -> None:
        self.source, self.name, self.digest = source, source.name, source.digest
        self.n_ctx = min(source.n_ctx or 4096, self.n_ctx_train)
        self.max_seqs = 2
        self.waiting, self.cache_use = 0, 0.0
        self.unpacked = True
        self.dead = asyncio.Event()
        self.closed = 0

    @property
    def alive(self) -> bool:
        return not self.dead.is_set()

    async def died(self) -> None:
        await self.dead.wait()

    async def close(self) -> None:
        self.closed += 1
        self.dead.set()


class House:
    """A manager and the models it made, in order."""

    def __init__(self, **how: object) -> None:
        self.made: list[FakeModel] = []
        self.fail: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.manager = Manager(load=cast("Callable[[ModelSource], Awaitable[LoadedModel]]", self.load), **how)  # type: ignore[arg-type]

    async def load(self, source: ModelSource) -> FakeModel:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.fail:
            raise self.fail.pop(0)
        self.made.append(FakeModel(source))
        return self.made[-1]

    @property
    def names(self) -> list[str]:
        return sorted(line.name for line in self.manager.loaded())


def source(name: str = "a", *, weights: str | None = None, **how: Any) -> ModelSource:
    return ModelSource(name=name, digest=name * 4, weights=weights or name, path=Path("/nowhere"), size=1, **how)


async def visit(house: House, wanted: ModelSource, keep_alive: float | None = None) -> LoadedModel:
    async with house.manager.use(wanted, keep_alive=keep_alive) as model:
        return model


def lives(model: LoadedModel) -> bool:
    return model.alive


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def play(scene: Callable[[House], Awaitable[None]], **how: object) -> None:
    async def run() -> None:
        house = House(**how)
        try:
            await asyncio.wait_for(scene(house), WAIT)
        finally:
            await house.manager.close()
        assert all(model.closed == 1 for model in house.made), "a worker was left behind, or ended twice"

    asyncio.run(run())


def test_loaded_once_and_shared_by_names_with_the_same_weights() -> None:
    async def scene(house: House) -> None:
        first = await visit(house, source("a"))
        assert await visit(house, source("b", weights="a")) is first
        both = await asyncio.gather(*(visit(house, source("c")) for _ in range(5)))
        assert len(set(map(id, both))) == 1 and len(house.made) == 2
        assert house.names == ["a", "c"]

    play(scene)


def test_keep_alive_zero_unloads_after_the_last_user() -> None:
    async def scene(house: House) -> None:
        async with house.manager.use(source()), house.manager.use(source(), keep_alive=0):
            pass
        await settle()
        assert house.names == [] and house.made[0].closed == 1

    play(scene)


def test_keep_alive_given_replaces_and_absent_leaves() -> None:
    async def scene(house: House) -> None:
        def line() -> Loaded:
            return house.manager.loaded()[0]

        await visit(house, source(), keep_alive=-1)
        assert line().expires_at is None
        await visit(house, source())
        assert line().expires_at is None
        await visit(house, source(), keep_alive=7200)
        forever = line().expires_at
        assert forever is not None
        await visit(house, source(), keep_alive=3600)
        shorter = line().expires_at
        assert shorter is not None and shorter < forever

    play(scene)


def test_time_runs_out_only_when_nobody_uses_it() -> None:
    async def scene(house: House) -> None:
        async with house.manager.use(source(), keep_alive=0.01):
            await asyncio.sleep(0.05)
            assert house.names == ["a"]
        async with house.manager.use(source()) as model:  # the clock that ran is stopped
            await asyncio.sleep(0.05)
            assert lives(model)
        while house.names:
            await asyncio.sleep(0.005)
        await settle()
        assert all(model.closed == 1 for model in house.made)

    play(scene)


def test_a_model_that_is_leaving_takes_no_new_users() -> None:
    async def scene(house: House) -> None:
        async with house.manager.use(source(n_ctx=1024)):
            wanted = []
            for n_ctx in (2048, 1024):
                wanted.append(asyncio.ensure_future(visit(house, source(n_ctx=n_ctx))))
                await settle()
            assert not any(task.done() for task in wanted)
        assert [model.n_ctx for model in await asyncio.gather(*wanted)] == [2048, 1024]
        assert len(house.made) == 3

    play(scene)


def test_other_options_reload_when_the_users_have_gone() -> None:
    async def scene(house: House) -> None:
        async with house.manager.use(source(n_ctx=1024)) as first:
            waiting = asyncio.ensure_future(visit(house, source(n_ctx=2048)))
            await settle()
            assert not waiting.done() and lives(first)
        second = await waiting
        assert second.n_ctx == 2048 and not lives(first)
        assert (await visit(house, source())).n_ctx == 4096  # automatic: not the small one that another asked for
        largest = await visit(house, source(n_ctx=100_000))
        assert largest.n_ctx == 8192 and len(house.made) == 4
        assert await visit(house, source(n_ctx=200_000)) is largest  # cut to what it was trained for: the same again
        assert await visit(house, source()) is largest  # automatic: a larger one will do
        assert len(house.made) == 4

    play(scene)


def test_the_idle_one_with_the_shortest_stay_makes_room_and_a_busy_one_is_never_cut() -> None:
    async def scene(house: House) -> None:
        await visit(house, source("long"), keep_alive=-1)
        await visit(house, source("short"), keep_alive=60)
        await visit(house, source("new"))
        assert house.names == ["long", "new"]
        async with house.manager.use(source("long")), house.manager.use(source("new")) as busy:
            waiting = asyncio.ensure_future(visit(house, source("more")))
            await settle()
            assert not waiting.done() and lives(busy)
        await waiting
        assert "more" in house.names and len(house.names) == 2

    play(scene, max_loaded=2)


def test_lack_of_memory_evicts_the_idle_and_tries_once_more() -> None:
    async def scene(house: House) -> None:
        await visit(house, source("old"))
        house.fail = [OutOfMemory("9 needed, 3 free")]
        await visit(house, source("new"))
        assert house.names == ["new"]
        house.fail = [OutOfMemory("9 needed, 3 free")] * 2
        with pytest.raises(OutOfMemory):
            await visit(house, source("huge"))
        assert house.names == []

    play(scene)


def test_weights_that_had_to_be_packed_are_kept_packed_once_after_the_first_answer() -> None:
    asked: list[ModelSource] = []

    async def scene(house: House) -> None:
        async with house.manager.use(source()), house.manager.use(source()):
            await settle()
            assert not asked  # somebody waits for an answer
        await visit(house, source())
        await settle()
        assert asked == [source()]

    play(scene, prepare=asked.append)


def test_a_load_that_fails_is_not_remembered() -> None:
    async def scene(house: House) -> None:
        house.fail = [ModelRefused("no")]
        with pytest.raises(ModelRefused):
            await visit(house, source())
        await visit(house, source())
        assert house.names == ["a"]

    play(scene)


def test_a_dead_worker_is_dropped_and_the_next_user_loads_anew() -> None:
    async def scene(house: House) -> None:
        async with house.manager.use(source()) as model:
            house.made[0].dead.set()
            assert house.names == []
            second = await visit(house, source())
            assert second is not model
        await settle()
        assert house.names == ["a"] and len(house.made) == 2

    play(scene)


def test_the_queue_has_an_end() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(visit(house, source("a"))) for _ in range(3)]
        await settle()
        with pytest.raises(ServerBusy, match=r"server busy, please try again\.  maximum pending requests exceeded"):
            await visit(house, source("b"))
        house.gate.set()
        await asyncio.gather(*waiting)
        held = [house.manager.use(source("a")) for _ in range(2 + 3)]  # two compute, three wait
        for one in held:
            await one.__aenter__()
        with pytest.raises(ServerBusy):
            await visit(house, source("a"))
        for one in held:
            await one.__aexit__(None, None, None)
        await visit(house, source("a"))

    play(scene, max_queue=3)


def test_who_waits_for_memory_in_a_batch_with_places_counts_as_waiting() -> None:
    async def scene(house: House) -> None:
        use = house.manager.use
        async with use(source("a")), use(source("a")), use(source("a")):
            house.made[0].waiting = 2
            await visit(house, source("a"))
            house.made[0].waiting = 3
            with pytest.raises(ServerBusy):
                await visit(house, source("a"))
            with pytest.raises(ServerBusy):
                await visit(house, source("b"))
            house.made[0].waiting = 0
            await visit(house, source("a"))

    play(scene, max_queue=3)


def test_one_user_with_many_sequences_in_line_is_one_that_waits() -> None:
    """A request to embed has up to 32 texts in the worker at once: the queue bounds requests."""

    async def scene(house: House) -> None:
        async with house.manager.use(source("a")):
            house.made[0].waiting = 30
            assert [(line.users, line.waiting) for line in house.manager.loaded()] == [(1, 1)]
            await visit(house, source("a"))
            async with house.manager.use(source("a")), house.manager.use(source("a")):
                with pytest.raises(ServerBusy):
                    await visit(house, source("a"))

    play(scene, max_queue=3)


def test_a_waiting_user_who_goes_away_holds_nothing_up() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        first, second = (asyncio.ensure_future(visit(house, source(name))) for name in "ab")
        await settle()
        first.cancel()
        house.gate.set()
        await second
        assert house.names == ["b"]

    play(scene, max_queue=2)


def test_a_load_goes_on_for_the_others_when_the_one_who_began_it_goes_away() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        first, second, third = (asyncio.ensure_future(visit(house, source("a"), keep_alive=-1)) for _ in range(3))
        await settle()
        first.cancel()
        await settle()
        third.cancel()
        await settle()
        house.gate.set()
        await second
        assert len(house.made) == 1 and house.manager.loaded()[0].users == 0

    play(scene)


def test_a_load_ends_when_all_who_waited_for_it_have_gone() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(visit(house, source("a"))) for _ in range(3)]
        await settle()
        for one in waiting:
            one.cancel()
        await settle()
        house.gate.set()
        await settle()
        assert house.made == [] and house.names == []
        await visit(house, source("a"))
        assert house.names == ["a"]

    play(scene)


@pytest.mark.parametrize("turns", range(12))
def test_whenever_a_user_goes_away_nobody_is_counted_for_ever(turns: int) -> None:
    async def scene(house: House) -> None:
        async def leave_after() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            visitor.cancel()

        visitor = asyncio.ensure_future(visit(house, source("a"), keep_alive=0))
        await asyncio.gather(visitor, leave_after(), return_exceptions=True)
        await settle()
        assert all(line.users == 0 for line in house.manager.loaded())
        house.manager.unload("a")
        await settle()
        assert house.names == [] and all(model.closed == 1 for model in house.made)

    play(scene)


def test_closing_tells_those_who_wait_for_a_load() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(visit(house, source(name))) for name in "aab"]
        await settle()
        await house.manager.close()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, ShuttingDown)
        assert house.made == []

    play(scene)


def test_a_load_has_a_time_limit() -> None:
    async def scene(house: House) -> None:
        house.gate = asyncio.Event()
        with pytest.raises(Unavailable, match="timed out"):
            await visit(house, source())
        house.gate, house.manager.load_timeout = None, -1.0
        await visit(house, source())

    play(scene, load_timeout=0.01)


def test_unload_waits_for_users_and_close_does_not() -> None:
    async def scene(house: House) -> None:
        assert not house.manager.unload("a")
        async with house.manager.use(source()) as model:
            assert house.manager.unload("a")
            await settle()
            assert lives(model)
        await settle()
        assert not lives(model)
        async with house.manager.use(source()) as model:
            await house.manager.close()
            assert not lives(model)
        with pytest.raises(Unavailable, match="shutting down"):
            await visit(house, source())

    play(scene)


def test_loaded_lists_the_longest_remaining_first() -> None:
    async def scene(house: House) -> None:
        for name, keep in (("a", 100), ("b", -1), ("c", 1000)):
            await visit(house, source(name), keep_alive=keep)
        assert [line.name for line in house.manager.loaded()] == ["b", "c", "a"]
        assert house.manager.loaded()[0].size == 16

    play(scene)
