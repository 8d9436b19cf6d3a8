"""Canonical JSON, so that equal documents are equal bytes: RFC 8785 for objects, arrays, strings, integers and
booleans.

Keys sorted by UTF-16 code units, no white space, minimal escapes, UTF-8. Refuses floats, integers beyond 2^53 - 1
(which RFC 8785 readers may round) and lone surrogates.
Law: `encode(decode(raw)) == raw`, or `decode` refuses.
"""

from __future__ import annotations

import json
from typing import Any

from manifests.errors import FieldError

MAX_INTEGER = (1 << 53) - 1


def encode(value: Any) -> bytes:
    _check(value, "")
    return json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def decode(raw: bytes, *, limit: int) -> Any:
    """The document, if `raw` is exactly its canonical form."""
    from manifests.fields import parse_json

    value = parse_json(raw, limit=limit)
    if encode(value) != raw:
        raise FieldError("", "not in canonical form (RFC 8785)")
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda k: k.encode("utf-16-be"))}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def _check(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FieldError(path, f"key {key!r} is not a string")
            _check_text(key, path)
            _check(item, f"{path}.{key}" if path else key)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check(item, f"{path}[{i}]")
    elif isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise FieldError(path, f"integer {value} is beyond 2^53 - 1")
    else:
        raise FieldError(path, f"{type(value).__name__} has no canonical form here")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FieldError(path, "text with a lone surrogate") from None
