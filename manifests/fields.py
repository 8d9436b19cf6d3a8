"""Typed getters over decoded JSON or TOML, so that a parser is a table and every error names its place.

`fields = Fields.of(document, "layers[3]")`, then `fields.integer("size", minimum=0)`, ..., `fields.done()`.
Refuses duplicate keys (in `parse_json`), booleans where integers are wanted, and, in `done`, keys nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from manifests.digest import Digest
from manifests.errors import FieldError, ManifestsError

T = TypeVar("T")
MAX_DEPTH = 64  # nesting of any document we parse


def parse_json(raw: bytes, *, limit: int) -> Any:
    """JSON in UTF-8 of at most `limit` bytes: no duplicate keys, no NaN or infinity, nesting of at most MAX_DEPTH."""
    if len(raw) > limit:
        raise FieldError("", f"document of {len(raw)} bytes; at most {limit} are accepted")
    _bound_depth(raw)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise FieldError("", f"not JSON: {error}") from None


def _bound_depth(raw: bytes) -> None:
    """Brackets outside strings, counted before the recursive parser sees them."""
    depth = 0
    for token in _TOKEN.finditer(raw):
        first = token.group()[:1]
        depth += first in b"[{"
        depth -= first in b"]}"
        if depth > MAX_DEPTH:
            raise FieldError("", f"nested deeper than {MAX_DEPTH}")


# a string that is never closed matches to the end of the document, so that no text makes the search start over and over
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key[:80]!r}")
        found[key] = value
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


class Fields:
    """The keys of one object, each to be asked for once."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values, self.path = values, path
        self._asked: set[str] = set()

    @classmethod
    def of(cls, value: Any, path: str = "") -> Fields:
        return cls(_typed(value, dict, path), path)

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        self._asked.add(key)
        return self._values.get(key) is not None

    def raw(self, key: str) -> Any:
        """The value as decoded; missing is an error."""
        self._asked.add(key)
        if key not in self._values:
            raise FieldError(self.at(key), "missing")
        return self._values[key]

    def text(self, key: str, *, pattern: re.Pattern[str] | None = None, maximum: int = 1 << 20) -> str:
        value = _typed(self.raw(key), str, self.at(key))
        if len(value) > maximum:
            raise FieldError(self.at(key), f"{len(value)} characters; at most {maximum} are accepted")
        if pattern and not pattern.fullmatch(value):
            raise FieldError(self.at(key), f"unexpected text {value[:80]!r}")
        return value

    def integer(self, key: str, *, minimum: int = 0, maximum: int = 1 << 62) -> int:
        value = _typed(self.raw(key), int, self.at(key))
        if not minimum <= value <= maximum:
            raise FieldError(self.at(key), f"expected {minimum} to {maximum}, found {value}")
        return value

    def boolean(self, key: str) -> bool:
        return _typed(self.raw(key), bool, self.at(key))

    def digest(self, key: str) -> Digest:
        return self._wrap(key, lambda: Digest.parse(self.text(key)))

    def object(self, key: str) -> Fields:
        return Fields.of(self.raw(key), self.at(key))

    def array(self, key: str, item: Callable[[Any, str], T], *, maximum: int = 1 << 20) -> tuple[T, ...]:
        """`item(value, path)` makes one element."""
        values = _typed(self.raw(key), list, self.at(key))
        if len(values) > maximum:
            raise FieldError(self.at(key), f"{len(values)} elements; at most {maximum} are accepted")
        return tuple(item(value, f"{self.at(key)}[{i}]") for i, value in enumerate(values))

    def names(self) -> tuple[str, ...]:
        """All of them, for an object whose keys are data."""
        return tuple(self._values)

    def texts(self) -> dict[str, str]:
        """All keys whose value is a string."""
        self._asked.update(self._values)
        return {key: value for key, value in self._values.items() if isinstance(value, str)}

    def optional(self, key: str, getter: Callable[..., T], **options: Any) -> T | None:
        """`fields.optional("note", fields.text)`: None where the key is absent or null."""
        return getter(key, **options) if self.has(key) else None

    def done(self) -> None:
        """Refuses keys that nobody asked for."""
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            raise FieldError(self.at(unknown[0]), "unknown field")

    def _wrap(self, key: str, make: Callable[[], T]) -> T:
        try:
            return make()
        except FieldError:
            raise
        except ManifestsError as error:
            raise FieldError(self.at(key), str(error)) from None


def text_item(value: Any, path: str) -> str:
    return _typed(value, str, path)


def _typed(value: Any, kind: type[T], path: str) -> T:
    # bool is a subclass of int in Python, but not a number in any of our documents
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FieldError(path, f"expected {kind.__name__}, found {type(value).__name__}")
    return value
