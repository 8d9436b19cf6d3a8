"""Token ids to text while they arrive: whole characters only.

Invariant: the pieces of `push` followed by `flush`, joined, are `decode` of all ids, wherever the ids are cut.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection

from runtime.text.tokenizer import Tokenizer


class StreamDecoder:
    """special: control tokens appear by name instead of not at all. shown: of these ids they do in any case."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False, shown: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._shown = shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._broken = False  # a character has begun

    def push(self, index: int) -> str:
        """Text that is certain after this token; empty while a character is incomplete."""
        special = self._special or index in self._shown
        if not (special or self._broken) and (whole := self._tokenizer.whole(index)) is not None:
            return whole
        text = self._utf8.decode(self._tokenizer.piece(index, special=special))
        self._broken = self._utf8.getstate() != (b"", 0)
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character."""
        self._broken = False
        return self._utf8.decode(b"", True)
