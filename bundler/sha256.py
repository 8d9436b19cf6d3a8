"""Which SHA-256 large content is hashed with: hashlib's, or one of the engine's library that takes several at once.

This room may not import the engine: the door hands over how to find that other kind (sealift.py). It is used where the
library and the processor have it, and gives the same digests; everywhere else hashlib does the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol


class Hash(Protocol):
    """As hashlib's. A kind may have a static `together(hashes, piece)`, which is faster than one after another."""

    def update(self, piece: memoryview, /) -> object: ...


def _absent() -> None:
    """No other kind."""


side_by_side: Callable[[], Callable[[bytes], Any] | None] = _absent  # set by the door


def sha256(data: bytes = b"") -> Any:
    """As hashlib's. One thread at a time may be inside it."""
    return (side_by_side() or hashlib.sha256)(data)


def update(hashes: Sequence[Hash], piece: memoryview) -> None:
    for kind, alike in groupby(hashes, type):
        together = getattr(kind, "together", None)
        if together:
            together(list(alike), piece)
        else:
            for one in alike:
                one.update(piece)
