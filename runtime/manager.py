"""Manager: which models are loaded. Loads on first use, counts users, unloads what rests too long.

    async with manager.use(source, keep_alive=300.0) as model:
        async for event in model.generate(request): ...

Rules (contract 2.3 and 7.2):
* Names that share weights and adapters share one worker. Other runner options (context asked for, threads, parallel)
  mean a reload: the old worker takes no new users, ends when its last one has gone, and then the new one loads.
* Loads happen one at a time; a model that is loaded already never waits for them. A load belongs to all who wait for
  it: one who goes away leaves it to the others, and only the last one ends it.
* At most `max_loaded` models: the idle one with the shortest keep-alive goes first; if all are busy, the busy one with
  the shortest keep-alive takes no new users and goes when it is idle. A running request is never cut.
* keep_alive in seconds: a given one replaces the model's, None leaves it; negative means for ever, 0 unloads after the
  last user. The clock starts when the last user leaves.
* At most `max_queue` users wait, for a load or for a place in a batch, all models together: beyond it, ServerBusy.
* A worker that died is dropped at once; the next user loads anew.
* Weights that had to be packed are packed once more into a file for the next load, after the first answer, in a thread.
Refuses after `close`. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from native.record import field, record
from runtime.errors import OutOfMemory, ServerBusy, ShuttingDown, Unavailable
from runtime.loaded import LoadedModel, load_model
from runtime.source import DEFAULT_CONTEXT, ModelSource

T = TypeVar("T")
Loader = Callable[[ModelSource], Awaitable[LoadedModel]]
KEEP_ALIVE_S = 300.0
LOAD_TIMEOUT_S = 300.0
MAX_QUEUE = 512
MAX_LOADED = 3


@record(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One line of `ps`. `expires_at` None: never. `size`: memory held, in bytes. `users`: requests under way, of them
    `waiting` in the worker's line. `cache_use`: the share of the key/value pool in use, 0 to 1."""

    name: str
    digest: str
    size: int
    expires_at: datetime | None
    n_ctx: int
    users: int
    waiting: int
    cache_use: float
    source: ModelSource


@record(eq=False, slots=True, kw_only=True)
class _Entry:
    model: LoadedModel
    keep_alive: float
    users: int = 0
    leaving: bool = False  # takes no new users
    prepared: bool = False  # its packed weights are kept, or somebody is at it
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None
    expires_at: datetime | None = None

    def fits(self, source: ModelSource) -> bool:
        """An automatic thread count accepts what is there, an automatic context also a larger one; never a smaller one,
        that another client has asked for: it would refuse or cut this one's prompt."""
        have, n_ctx = self.model.source, self.model.n_ctx
        wanted = source.n_ctx or DEFAULT_CONTEXT
        usual = min(wanted, self.model.n_ctx_train or wanted)
        context = n_ctx == usual or (source.n_ctx == 0 and n_ctx > usual)
        threads = source.threads == 0 or source.threads == have.threads
        return context and threads and source.parallel == have.parallel


@record(eq=False, slots=True, kw_only=True)
class _Arrival:
    """A load that users wait for. Its task's entry counts every one of `waiting` as a user already."""

    waiting: int = 0
    task: asyncio.Task[_Entry] | None = None


class Manager:
    def __init__(
        self,
        *,
        keep_alive: float = KEEP_ALIVE_S,
        max_loaded: int = MAX_LOADED,
        max_queue: int = MAX_QUEUE,
        load_timeout: float = LOAD_TIMEOUT_S,
        load: Loader = load_model,
        prepare: Callable[[ModelSource], None] | None = None,
    ) -> None:
        """`load_timeout` in seconds, 0 or less: none. `max_loaded` 0: the default. `prepare` keeps a model's packed
        weights: it blocks, raises nothing, and is told to stop by who gave it."""
        self.keep_alive = keep_alive
        self.max_loaded = max_loaded or MAX_LOADED
        self.max_queue = max_queue
        self.load_timeout = load_timeout
        self._load = load
        self._prepare = prepare
        self._entries: list[_Entry] = []
        self._loading = asyncio.Lock()
        self._arrivals: dict[ModelSource, _Arrival] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @contextlib.asynccontextmanager
    async def use(self, source: ModelSource, *, keep_alive: float | None = None) -> AsyncIterator[LoadedModel]:
        """The model, loaded, kept while the block runs. Raises ServerBusy, OutOfMemory, or why it cannot be loaded."""
        entry = await self._enter(source)
        if keep_alive is not None:
            entry.keep_alive = keep_alive
        try:
            yield entry.model
        finally:
            self._leave(entry)

    def loaded(self) -> tuple[Loaded, ...]:
        """What is in memory now, longest remaining first."""
        lines = [self._line(entry) for entry in self._entries if entry.model.alive]
        forever = datetime.max.replace(tzinfo=timezone.utc)
        return tuple(sorted(lines, key=lambda line: line.expires_at or forever, reverse=True))

    def arriving(self) -> tuple[tuple[ModelSource, int], ...]:
        """Which models are being loaded, or shall be, and how many requests wait for each."""
        return tuple((source, arrival.waiting) for source, arrival in self._arrivals.items())

    def unload(self, content: str) -> bool:
        """Ends the model with this content (ModelSource) once its users have gone; False when it is not loaded."""
        entry = self._find(content)
        if entry is None:
            return False
        entry.keep_alive = 0.0
        if not entry.users:
            self._retire(entry)
        return True

    async def close(self) -> None:
        """Ends every worker now; requests under way end in an error."""
        self._closed = True
        for arrival in list(self._arrivals.values()):
            if arrival.task is not None:
                arrival.task.cancel()
        for entry in list(self._entries):
            self._retire(entry)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- users

    async def _enter(self, source: ModelSource) -> _Entry:
        if self._closed:
            raise ShuttingDown()
        entry = self._fitting(source)
        if entry is None:
            entry = await self._enter_slowly(source)
        elif (entry.users >= entry.model.max_seqs or entry.model.waiting) and self._pending >= self.max_queue:
            raise ServerBusy()
        else:
            self._take(entry)
        return entry

    async def _enter_slowly(self, source: ModelSource) -> _Entry:
        """Waits for the model with all others who want the same."""
        if self._pending >= self.max_queue:
            raise ServerBusy()
        arrival = self._arrivals.setdefault(source, _Arrival())
        task = arrival.task = arrival.task or self._task(self._arrive(source, arrival))
        arrival.waiting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done() and not task.cancelled() and task.exception() is None:
                self._leave(task.result())  # it was loaded, and we were counted, in the moment we went away
            elif arrival.waiting == 1:
                self._forget(source, arrival)
                task.cancel()
            if task.cancelled() and self._closed:
                raise ShuttingDown() from None
            raise
        finally:
            arrival.waiting -= 1

    async def _arrive(self, source: ModelSource, arrival: _Arrival) -> _Entry:
        try:
            async with self._loading:
                entry = self._fitting(source) or await self._make(source)
                self._take(entry, arrival.waiting + 1)
                self._leave(entry)  # ours: starts the clock where all who waited have gone
                return entry
        finally:
            self._forget(source, arrival)

    def _forget(self, source: ModelSource, arrival: _Arrival) -> None:
        if self._arrivals.get(source) is arrival:
            del self._arrivals[source]

    def _take(self, entry: _Entry, users: int = 1) -> None:
        entry.users += users
        entry.expires_at = None
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _leave(self, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users or entry not in self._entries:
            return
        if self._prepare is not None and not entry.prepared and not self._closed:
            entry.prepared = True
            self._task(asyncio.to_thread(self._prepare, entry.model.source))
        if entry.keep_alive == 0 or entry.leaving or self._closed:
            self._retire(entry)
        elif entry.keep_alive > 0:
            entry.expires_at = datetime.now(timezone.utc) + _span(entry.keep_alive)
            entry.timer = asyncio.get_running_loop().call_later(entry.keep_alive, self._retire, entry)

    @property
    def _pending(self) -> int:
        """Users that wait: for a load, because their model's batch is full, or for memory in its key/value pool. One
        who embeds has many sequences in line, and is one."""
        loads = sum(arrival.waiting for arrival in self._arrivals.values())
        return loads + sum(
            min(entry.users, max(entry.model.waiting, entry.users - entry.model.max_seqs)) for entry in self._entries
        )

    # -- coming and going of models

    async def _make(self, source: ModelSource) -> _Entry:
        """Under the lock: room, then the load; after a refusal for lack of memory, once more without the idle ones."""
        old = self._find(source.content)
        if old is not None:
            await self._drain(old)
        while len(self._entries) >= self.max_loaded:
            await self._drain(self._victim())
        try:
            model = await self._timed_load(source)
        except OutOfMemory:
            idle = [entry for entry in self._entries if not entry.users]
            if not idle:
                raise
            for entry in idle:
                await self._drain(entry)
            model = await self._timed_load(source)
        entry = _Entry(model=model, keep_alive=self.keep_alive, prepared=not model.unpacked)
        self._entries.append(entry)
        entry.watcher = self._task(self._watch(entry))
        if self._closed:
            self._retire(entry)
            raise ShuttingDown()
        return entry

    async def _timed_load(self, source: ModelSource) -> LoadedModel:
        limit = self.load_timeout if self.load_timeout > 0 else None
        try:
            return await asyncio.wait_for(self._load(source), limit)
        except asyncio.TimeoutError:
            raise Unavailable(
                f"timed out waiting for the model to load: {self.load_timeout:g} s have passed",
                hint="set SEALIFT_LOAD_TIMEOUT to a longer time",
                http_status=500,
            ) from None

    def _victim(self) -> _Entry:
        def order(entry: _Entry) -> tuple[bool, float, str]:
            keep = entry.keep_alive if entry.keep_alive >= 0 else float("inf")
            return bool(entry.users), keep, entry.model.name

        return min(self._entries, key=order)

    async def _drain(self, entry: _Entry) -> None:
        """No new users; unloaded when the last one has gone; returns then."""
        entry.leaving = True
        if not entry.users:
            self._retire(entry)
        await entry.gone.wait()

    def _retire(self, entry: _Entry) -> None:
        """Takes the model out of the list now and ends its worker in the background."""
        if entry not in self._entries:
            return
        self._entries.remove(entry)
        entry.leaving = True
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.watcher is not None:
            entry.watcher.cancel()
        self._task(self._end(entry))

    async def _end(self, entry: _Entry) -> None:
        try:
            await entry.model.close()
        finally:
            entry.gone.set()

    async def _watch(self, entry: _Entry) -> None:
        await entry.model.died()
        entry.watcher = None
        self._retire(entry)

    def _fitting(self, source: ModelSource) -> _Entry | None:
        entry = self._find(source.content)
        if entry is None or entry.leaving or not entry.fits(source):
            return None
        return entry

    def _find(self, content: str) -> _Entry | None:
        for entry in list(self._entries):
            if entry.model.source.content == content:
                if entry.model.alive:
                    return entry
                self._retire(entry)
        return None

    def _line(self, entry: _Entry) -> Loaded:
        expires = entry.expires_at
        if entry.users and entry.keep_alive >= 0:
            expires = datetime.now(timezone.utc) + _span(entry.keep_alive)
        model = entry.model
        return Loaded(
            name=model.name, digest=model.digest, size=model.figures.total, expires_at=expires, n_ctx=model.n_ctx,
            users=entry.users, waiting=min(entry.users, model.waiting), cache_use=model.cache_use, source=model.source,
        )  # fmt: skip

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _span(seconds: float) -> timedelta:
    """At most ten years: a clock on the wire has an end."""
    return timedelta(seconds=min(seconds, 10 * 365 * 86400.0))
