"""Holds text back while it may become a stop string.

Invariants, whatever the cuts between pushes: no character of the stop string that ends the answer is ever given out;
what is given out plus what is held is a prefix of what came in; the stop that is complete first wins, the earlier start
when two are complete at once.
"""

from __future__ import annotations

from collections.abc import Iterable


class StopFilter:
    """stops: empty strings among them are ignored."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._heads = {stop[0] for stop in self._stops}
        self._longest = max((len(stop) - 1 for stop in self._stops), default=0)
        self._held = ""
        self.matched: str | None = None  # the stop string that ended the answer

    def push(self, text: str) -> str:
        """Text that may be shown now. After `matched` is set, always empty."""
        if self.matched is not None:
            return ""
        if not self._held and self._heads.isdisjoint(text):  # nearly every token
            return text
        buffer = self._held + text
        match = self._first(buffer)
        if match is not None:
            self.matched, self._held = match, ""
            return buffer[: buffer.find(match)]
        keep = self._pending(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def flush(self) -> str:
        """At the end of the answer: what was held and became no stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, buffer: str) -> str | None:
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := buffer.find(stop)) >= 0]
        return min(found)[2] if found else None

    def _pending(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that begins a stop string."""
        if self._heads.isdisjoint(buffer[-self._longest :]):
            return 0
        for length in range(min(self._longest, len(buffer)), 0, -1):
            tail = buffer[len(buffer) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
