"""Where gf256 finds a faster `combine`: in the engine's library, if there is one.

This room may not import the engine: the door hands over how to find it (sealift.py). This file is apart so that the
door need not load numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# rows (outputs, inputs), shards (inputs,), outputs: filled; see gf256.combine
Combine = Callable[[Sequence[Sequence[int]], Sequence[Any], Sequence[Any]], None]


def _absent() -> None:
    """There is no other."""


find: Callable[[], Combine | None] = _absent  # set by the door
