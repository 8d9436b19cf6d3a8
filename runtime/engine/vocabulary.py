"""What a model's tokens say in bytes: all that the worker is told of text, and only where an answer is constrained."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from native.record import record

MAX_BYTES = 16 << 20  # of all tokens; 262,144 tokens have 2 MiB
MARK = b"\xff"  # what llguidance wants before the bytes of a token that is no text


@record(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """`text`: the bytes that ids add to an answer, one id's behind the other's; `lengths` [n]: how many each adds, as
    uint32. `special`: ids that are never text; `ends`: those of them that end an answer, at least one.

    Two pieces and not `n`: the threads that read and write them keep the interpreter's lock from nobody for long."""

    text: bytes
    lengths: array[int]
    special: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokens: Sequence[bytes], *, special: frozenset[int], ends: frozenset[int]) -> Vocabulary:
        return cls(text=b"".join(tokens), lengths=array("I", map(len, tokens)), special=special, ends=ends)

    def names(self) -> dict[int, bytes]:
        """The bytes of the special ids."""
        places = array("I", accumulate(self.lengths, initial=0))
        return {id: self.text[places[id] : places[id + 1]] for id in sorted(self.special)}

    def marked(self, n_vocab: int) -> tuple[bytes, array[int]]:
        """Text and lengths of `n_vocab` ids, MARK before each special one; what the table has not is empty."""
        places = array("I", accumulate(self.lengths, initial=0))
        lengths = self.lengths[:n_vocab]
        lengths.extend([0] * (n_vocab - len(lengths)))
        special = sorted(id for id in self.special if id < n_vocab)
        cuts = [0, *(places[id] for id in special), places[min(n_vocab, len(self.lengths))]]
        for id in special:
            lengths[id] += 1
        return MARK.join(self.text[begin:end] for begin, end in pairwise(cuts)), lengths

    def to_json(self) -> dict[str, Any]:
        return {
            "text": base64.b64encode(self.text).decode(),
            "lengths": base64.b64encode(_little(self.lengths).tobytes()).decode(),
            "special": sorted(self.special),
            "ends": sorted(self.ends),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Vocabulary:
        lengths = _little(array("I", base64.b64decode(values["lengths"])))
        special, ends = frozenset(values["special"]), frozenset(values["ends"])
        return cls(text=base64.b64decode(values["text"]), lengths=lengths, special=special, ends=ends)


def _little(numbers: array[int]) -> array[int]:
    """Little-endian from this machine's order, or back."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
