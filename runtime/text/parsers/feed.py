"""The unread text of an answer, and the ways to read it that do not depend on how the text was cut.

A reader is a generator: it yields when it cannot decide without more text, and goes on when there is more or `ended` is
set. Every character is looked at a bounded number of times; what a reader leaves unread is shorter than a marker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence

from runtime.text.parsers import Part

MAX_CALL_CHARS = 1 << 20  # of one tool call; a longer one is text
MAX_DEPTH = 64  # arrays and objects within each other

_OUTSIDE = re.compile(r'["{}\[\]]')
_FIRST_KEY = re.compile(r'\{\s{0,64}"([^"\\]{0,128})"')
_TO_A_KEY = re.compile(r'\{\s{0,64}(?:"[^"\\]{0,128})?')
_INSIDE = re.compile(r'["\\]')

Steps = Generator[None, None, str]


class Feed:
    __slots__ = ("ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.ended = False

    def passing(self, markers: Sequence[str], show: Callable[[str], None], room: int | None = None) -> Steps:
        """Shows text up to the marker that begins first, takes the marker and returns it; "" at the end of the answer,
        or when more than `room` characters were shown. No marker may begin another."""
        find = re.compile("|".join(map(re.escape, markers))).search if markers else None
        shown = 0
        while True:
            text = self.text
            match = find(text) if find else None
            safe = len(text) - (0 if self.ended else pending(text, markers))
            if match is not None and match.start() <= safe:  # nothing that begins earlier may still become a marker
                show(text[: match.start()])
                self.text = text[match.end() :]
                return match[0]
            show(text[:safe])
            self.text = text[safe:]
            shown += safe
            if self.ended or (room is not None and shown > room):
                return ""
            yield

    def option(self, options: Sequence[str]) -> Steps:
        """The longest option that the text begins with, taken; "" when it begins with none."""
        while True:
            text = self.text
            if not self.ended and any(len(one) > len(text) and one.startswith(text) for one in options):
                yield
                continue
            found = max((one for one in options if text.startswith(one)), key=len, default="")
            self.text = text[len(found) :]
            return found

    def run(self, characters: str, show: Callable[[str], None]) -> Steps:
        """Shows and takes all that comes of `characters`."""
        while True:
            rest = self.text.lstrip(characters)
            show(self.text[: len(self.text) - len(rest)])
            self.text = rest
            if rest or self.ended:
                return ""
            yield

    def first_key(self) -> Steps:
        """The first key of the object that is next; "" when it has none, or a long one. Takes nothing."""
        while True:
            match = _FIRST_KEY.match(self.text)
            if match is not None or self.ended or not _TO_A_KEY.fullmatch(self.text):
                return match[1] if match else ""
            yield

    def balanced(self, show: Callable[[str], None]) -> Steps:
        """Shows and takes one JSON object or array, which is next, up to its last bracket. Returns that bracket; ""
        when the end came first or a bound was met."""
        depth = size = 0
        quoted = escaped = False
        while True:
            text, at = self.text, 0
            while at < len(text):
                if escaped:
                    at, escaped = at + 1, False
                    continue
                match = (_INSIDE if quoted else _OUTSIDE).search(text, at)
                if match is None:
                    break
                at, found = match.end(), match[0]
                if quoted:
                    escaped, quoted = found == "\\", found != '"'
                elif found == '"':
                    quoted = True
                else:
                    depth += 1 if found in "{[" else -1
                    if depth == 0 or depth > MAX_DEPTH:
                        show(text[:at])
                        self.text = text[at:]
                        return found if depth == 0 else ""
            show(text)
            self.text = ""
            size += len(text)
            if self.ended or size > MAX_CALL_CHARS:
                return ""
            yield


def pending(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a marker without being one."""
    longest = max(map(len, markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        tail = text[len(text) - length :]
        if any(len(one) > length and one.startswith(tail) for one in markers):
            return length
    return 0


class Reader:
    """A Parser that runs a generator over a feed. What the generator appends to `_out` is given by the push in which it
    was decided."""

    def __init__(self) -> None:
        self._feed = Feed()
        self._out: list[Part] = []
        self._run: Iterator[None] = iter(())

    def _begin(self, run: Iterator[None]) -> None:
        self._run = run
        next(run, None)

    def push(self, text: str) -> list[Part]:
        self._feed.text += text
        return self._go()

    def flush(self) -> list[Part]:
        self._feed.ended = True
        return self._go()

    def _go(self) -> list[Part]:
        next(self._run, None)
        out = self._out[:]
        self._out.clear()
        return out
