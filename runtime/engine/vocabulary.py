"""What a model's tokens say in bytes: all that the worker is told of text, and only where an answer is constrained."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

MAX_BYTES = 16 << 20  # of all tokens; 262,144 tokens have 2 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """tokens [n]: the bytes that each id adds to an answer. `special`: ids that are never text; `ends`: those of them
    that end an answer, at least one."""

    tokens: tuple[bytes, ...]
    special: frozenset[int]
    ends: frozenset[int]

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": base64.b64encode(b"".join(self.tokens)).decode(),
            "lengths": list(map(len, self.tokens)),
            "special": sorted(self.special),
            "ends": sorted(self.ends),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Vocabulary:
        whole = base64.b64decode(values["bytes"])
        places = list(accumulate(values["lengths"], initial=0))
        tokens = tuple(whole[begin:end] for begin, end in pairwise(places))
        return cls(tokens=tokens, special=frozenset(values["special"]), ends=frozenset(values["ends"]))
