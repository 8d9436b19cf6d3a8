"""What a worker says about one sequence, as its reader takes it: `link.py` puts it here, in order."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from native.record import record
from runtime.errors import RuntimeFailure


class Token(NamedTuple):
    """One chosen token; a tuple because there are so many.

    `cached` and `queue_ns` describe the whole sequence and do not change after the first;
    `age_ns` is the time from the sequence's arrival in the worker until this token was computed, by its own clock."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    cached: int
    queue_ns: int
    age_ns: int


class Score(NamedTuple):
    """How likely the next token of a scored prompt was; NaN: the model gave no number."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@record(frozen=True, slots=True, kw_only=True)
class Vector:
    """A text's vector: float32, little-endian, as many as Ready.vector says; finite or not."""

    values: bytes


@record(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a sequence. `failure` is set when it ended in an error; 0 where the worker did not say."""

    reason: str
    cached: int = 0
    queue_ns: int = 0
    age_ns: int = 0
    failure: RuntimeFailure | None = None


Item = Token | Score | Vector | Ended


class Stream:
    """What the worker says about one sequence, in order. One reader."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._wanted: asyncio.Future[None] | None = None  # while the reader waits

    def put(self, item: Item) -> None:
        self._items.append(item)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def take(self) -> list[Item]:
        """All that has come since the last call; waits for at least one item."""
        if not self._items:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
            self._wanted = None
        items, self._items = self._items, []
        return items
