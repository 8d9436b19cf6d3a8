"""Finds texts that stand for one token each inside a larger text: leftmost first, longest at each place.

A vocabulary may list thousands; the search jumps between places where one could begin (two leading characters) and
then asks a table per length, so its cost does not grow with their number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class SpecialTexts:
    def __init__(self, texts: Mapping[str, int]) -> None:
        self._ids = {text: index for text, index in texts.items() if text}
        heads: dict[str, set[int]] = {}
        for text in self._ids:
            heads.setdefault(text[:2], set()).add(len(text))
        self._lengths = {head: sorted(lengths, reverse=True) for head, lengths in heads.items()}
        pattern = "|".join(re.escape(head) for head in sorted(heads, key=len, reverse=True))
        self._head = re.compile(pattern) if pattern else None

    def split(self, text: str) -> Iterator[str | int]:
        """Text pieces and token ids in order; joining their texts gives `text`."""
        done = at = 0
        while self._head is not None and (match := self._head.search(text, at)):
            start = match.start()
            found = self._at(text, start)
            if found is None:
                at = start + 1
                continue
            if done < start:
                yield text[done:start]
            yield self._ids[found]
            done = at = start + len(found)
        if done < len(text):
            yield text[done:]

    def _at(self, text: str, start: int) -> str | None:
        for head in (text[start : start + 2], text[start]):
            for length in self._lengths.get(head, ()):
                if (candidate := text[start : start + length]) in self._ids:
                    return candidate
        return None
