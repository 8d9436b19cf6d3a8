"""How long a template may run: MAX_SECONDS, or less where the caller cannot wait and will ask again elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from runtime.text.errors import TemplateTooSlow

MAX_SECONDS = 10.0

_END: ContextVar[float] = ContextVar("sealift_template_end", default=float("inf"))  # by the clock of `monotonic`


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """All renderings in the block end within this time, or in TemplateTooSlow."""
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


class Deadline:
    """Of one rendering, from now on."""

    def __init__(self) -> None:
        self._end = min(time.monotonic() + MAX_SECONDS, _END.get())

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise TemplateTooSlow(f"chat template: ran longer than {MAX_SECONDS:g} s")
