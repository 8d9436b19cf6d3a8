r"""Texts to ids by the merging machine, and for byte-level BPE the fast way: word by word, remembered.

BPE merges within words only, so the ids of a text are those of its words, one after the other, and most words of a text
are in other texts too. Python's `re` finds the words of ASCII text several times as fast as the library does; any other
text goes to the library whole.
Invariant: `list(Words(machine, rule)(text)) == list(whole(machine, text))`, for every rule and text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from runtime.text.models import BYTE_TO_CHAR
from runtime.text.pretokenize import PreRule

if TYPE_CHECKING:
    import tokenizers

MOST = 1 << 15  # words remembered, of one model: some 8 MB
LONGEST = 64  # characters of one

# Unicode's classes as they are among ASCII characters, for use inside brackets.
_ASCII = {
    "L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}", "S": r"$+<->\^`|\~",
}  # fmt: skip
_CLASS = re.compile(r"\\p\{(\w+)\}|\\.|[\[\]]")


def whole(machine: tokenizers.Tokenizer, text: str) -> Iterable[int]:
    """As a batch of one: that way the library keeps no places of characters, and lets other threads run."""
    return machine.encode_batch_fast([text], add_special_tokens=False)[0].ids


class Words:
    """Calling it gives a text's ids. Safe to share between threads."""

    def __init__(self, machine: tokenizers.Tokenizer, rule: PreRule) -> None:
        self._machine = machine
        self._cuts = [re.compile(f"({_of_ascii(one)})", re.ASCII) for one in rule.patterns]
        self._known = _Known(machine)

    def __call__(self, text: str) -> Iterable[int]:
        if not text.isascii():
            return whole(self._machine, text)
        words = [text]
        for cut in self._cuts:
            words = [piece for word in words for piece in cut.split(word) if piece]
        return chain.from_iterable(map(self._known.__getitem__, words))


class _Known(dict[str, tuple[int, ...]]):
    def __init__(self, machine: tokenizers.Tokenizer) -> None:
        self._model = machine.model

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(token.id for token in self._model.tokenize(word.translate(BYTE_TO_CHAR)))
        if len(word) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[word] = ids
        return ids


def _of_ascii(pattern: str) -> str:
    """The pattern for `re`, which knows no Unicode classes."""
    inside = False

    def spelled(match: re.Match[str]) -> str:
        nonlocal inside
        found = match.group()
        if match[1]:
            return _ASCII[match[1]] if inside else f"[{_ASCII[match[1]]}]"
        inside = found == "[" or (inside and found != "]")
        return found

    return _CLASS.sub(spelled, pattern)
