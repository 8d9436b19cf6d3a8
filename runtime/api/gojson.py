"""JSON as Go's encoding/json reads and writes it, because that is what Ollama's clients have been tested against.

Reading (`read_object`): keys match whatever their case, unknown keys are ignored, null leaves the default, bytes after
the first value are ignored, broken UTF-8 and lone surrogates become U+FFFD. Messages of errors are Go's.
Refuses: nesting deeper than MAX_DEPTH, more than MAX_VALUES values, NaN and infinities, numbers beyond float64 or of
more than MAX_DIGITS digits.
Writing (`dump`): no spaces, `<`, `>`, `&`, U+2028 and U+2029 escaped.
Invariant: `read_object(dump(x)) == x` for any x of JSON's types with string keys.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from runtime.errors import RequestRefused

MAX_DEPTH = 128  # arrays and objects within each other; Go's own bound is 10000, which a recursive parser must not try
MAX_VALUES = 400_000  # keys, strings, objects and arrays: each becomes an object of Python's, and some work
MAX_DIGITS = 309  # of an integer: as many as the largest float64 has

_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_SPACE = " \t\r\n"
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_ESCAPED = re.compile("[<>&\u2028\u2029]")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dump(value: Any) -> bytes:
    """The characters escaped here occur in JSON only inside strings, so they may be replaced in the finished text."""
    text = _encode(value)
    if _ESCAPED.search(text):  # most texts have none, and a search costs a tenth of a translation
        text = text.translate(_ESCAPES)
    return text.encode("utf-8", "replace")


def read_object(raw: bytes, struct: str) -> Body:
    """The request body as a `Body`; `struct` is the Go name the messages mention, such as ChatRequest."""
    text = raw.decode("utf-8", "replace").lstrip("\ufeff")
    start = len(text) - len(text.lstrip(_SPACE))
    if start == len(text):
        raise RequestRefused("missing request body")
    _bound(text)
    value = _decode(text, start)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise RequestRefused(f"json: cannot unmarshal {_KINDS[type(value)]} into Go value of type api.{struct}")
    return Body(value, struct)


def _decode(text: str, start: int) -> Any:
    decoder = json.JSONDecoder(strict=True, parse_constant=_constant, parse_float=_float, parse_int=_int)
    try:
        value, _ = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise RequestRefused(_go_message(text, error)) from None
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"invalid JSON: {error}") from None
    return _mend(value) if _ESCAPED_SURROGATE.search(text) else value


def _constant(name: str) -> Any:
    raise ValueError(f"invalid character {name[0]!r} looking for beginning of value")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"cannot unmarshal number {text[:40]} into Go value of type float64")
    return value


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"cannot unmarshal a number of {len(text)} digits into Go value of type float64")
    return int(text)


def _bound(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH and text.count('"') <= MAX_VALUES:
        return
    depth = values = 0
    for token in _BRACKETS.finditer(text):
        first = token.group()[0]
        if first in "]}":
            depth -= 1
            continue
        values += 1
        depth += first != '"'
        if depth > MAX_DEPTH:
            raise RequestRefused("exceeded max depth")
        if values > MAX_VALUES:
            raise RequestRefused(f"the request has more than {MAX_VALUES} keys, strings, objects and arrays")


def _go_message(text: str, error: json.JSONDecodeError) -> str:
    """Python's complaint in Go's words."""
    at, said = error.pos, error.msg
    if said.startswith("Illegal trailing comma"):  # Python 3.13 points at the comma, Go at what follows it
        at += 1
    while at < len(text) and text[at] in _SPACE and not said.startswith("Invalid control"):
        at += 1
    if at >= len(text) or said.startswith("Unterminated string"):
        return "unexpected EOF"
    if said.startswith("Invalid \\u"):
        at = text.rindex("\\u", 0, at + 2) + 2
        while at < len(text) and text[at] in "0123456789abcdefABCDEF":
            at += 1
        if at == len(text):
            return "unexpected EOF"
        return f"invalid character {_quote(text[at])} in \\u hexadecimal character escape"
    if said.startswith("Invalid \\"):
        escape = text[at + 1 : at + 2] if text[at] == "\\" else text[at]
        return f"invalid character {_quote(escape)} in string escape code" if escape else "unexpected EOF"
    where = "looking for beginning of value"
    if said.startswith("Expecting property name") or said.endswith("before end of object"):
        where = "looking for beginning of object key string"
    elif said.startswith("Expecting ':'"):
        where = "after object key"
    elif said.startswith("Expecting ','"):
        where = "after object key:value pair" if _inside_object(text, at) else "after array element"
    elif said.startswith("Invalid control"):
        where = "in string literal"
    return f"invalid character {_quote(text[at])} {where}"


def _quote(character: str) -> str:
    return {"'": "'\\''", "\n": "'\\n'", "\t": "'\\t'", "\r": "'\\r'"}.get(character, f"'{character}'")


def _inside_object(text: str, at: int) -> bool:
    open_brackets: list[str] = []
    for token in _BRACKETS.finditer(text, 0, at):
        first = token.group()[0]
        if first in "[{":
            open_brackets.append(first)
        elif first in "]}" and open_brackets:
            open_brackets.pop()
    return bool(open_brackets) and open_brackets[-1] == "{"


def _mend(value: Any) -> Any:
    """Pairs of escaped surrogates are already joined; a single one becomes U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


def too_many(path: str, count: int, most: int) -> RequestRefused:
    return RequestRefused(f"'{path}' has {count} elements; at most {most} are accepted", param=path)


class Body:
    """The fields of one object of a request. A getter returns its default where the key is absent or null."""

    def __init__(self, values: dict[str, Any], struct: str, path: str = "") -> None:
        self.struct, self._path = struct, path
        self._values = {key.lower(): value for key, value in values.items() if value is not None}

    def has(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        return str(self._get(key, str, "string", default))

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self._get(key, bool, "bool", default))

    def integer(self, key: str, default: int = 0) -> int:
        value = int(self._get(key, int, "int", default))
        if abs(value) >= 1 << 63:
            raise self.wrong(key, f"number {value}"[:40], "int")
        return value

    def number(self, key: str, default: float = 0.0) -> float:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, _KINDS[type(value)], "float64")
        return float(value) if abs(value) < 1e308 else float("inf")

    def object(self, key: str) -> dict[str, Any]:
        return dict(self._get(key, dict, "map[string]interface {}", {}))

    def array(self, key: str, item: type[Any], go_type: str, *, most: int | None = None) -> list[Any]:
        """All elements, at most `most`, of one JSON type; null elements become that type's empty value, as in Go."""
        values: list[Any] = self._get(key, list, f"[]{go_type}", [])
        if most is not None and len(values) > most:
            raise too_many(self._at(key), len(values), most)
        if set(map(type, values)) <= {item}:
            return values
        filled = [item() if value is None else value for value in values]
        for value in filled:
            if type(value) is not item:
                raise self.wrong(key, _KINDS[type(value)], go_type)
        return filled

    def structs(self, key: str, struct: str, *, most: int | None = None) -> list[Body]:
        values = self.array(key, dict, f"api.{struct}", most=most)
        return [Body(value, struct, self._at(key)) for value in values]

    def _get(self, key: str, kind: type[Any], go_type: str, default: Any) -> Any:
        value = self._values.get(key, default)
        if type(value) is not kind:  # exact: a bool is an int to Python and not to JSON
            found = _KINDS[type(value)]
            raise self.wrong(key, f"number {value}" if found == "number" and kind is int else found, go_type)
        return value

    def wrong(self, key: str, found: str, go_type: str) -> RequestRefused:
        field = f"{self.struct}.{self._at(key)}"
        return RequestRefused(
            f"json: cannot unmarshal {found} into Go struct field {field} of type {go_type}", param=self._at(key)
        )

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key
