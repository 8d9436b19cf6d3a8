"""What the scripts beside this one share: where the server is, what they ask, how they report.

Each script is one published client, as its own documentation uses it. It prints one JSON line: what it checked.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from typing import Any

from questions import GONE, TEXTS

ADDRESS = os.environ["SEALIFT_ADDRESS"]  # without a slash at its end
MODEL, EMBEDDER = os.environ["SEALIFT_MODEL"], os.environ["SEALIFT_EMBEDDER"]

_started = time.monotonic()
_checked: dict[str, None] = {}


def check(what: str, found: Any, expected: Any = True) -> None:
    """Ends the script, unless they are equal; else `what` counts as checked."""
    if found != expected:
        raise SystemExit(f"{what}: expected {expected!r}, got {found!r}")
    _checked[what] = None


def same(streamed: list[str], whole: str) -> None:
    """A stream came in parts, and they are the answer that comes without one."""
    check("streaming", len([part for part in streamed if part]) > 1)
    check("streamed is not streamed", "".join(streamed), whole)


def refused(error: type[BaseException], ask: Any, *words: str) -> None:
    """`ask()` must raise this client's own error, with the server's words in it."""
    try:
        ask()
    except error as raised:
        check("errors", all(word in str(raised) for word in words or (GONE,)) or str(raised))
    else:
        raise SystemExit(f"errors: {error.__name__} was not raised")


def person(found: Any) -> None:
    """An answer that keeps SCHEMA."""
    check("schema", sorted(found) == ["age", "name"] and type(found["age"]) is int and len(found["name"]) <= 12)


def vectors(found: Any) -> None:
    """One vector for each of TEXTS, of one size, not alike."""
    check("embeddings", len(found) == len(TEXTS) and len(found[0]) == len(found[1]) > 1 and list(found[0]) != found[1])


def report(package: str, *, version: str = "") -> None:
    """`version`: of what is no package."""
    version = version or importlib.metadata.version(package)
    told = {"client": package, "version": version, "checked": [*_checked], "seconds": time.monotonic() - _started}
    print(json.dumps(told))
