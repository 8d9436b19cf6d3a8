"""The functions a template may call: Go's builtins, and those Ollama adds (`json`, dates, `toTypeScriptType`).

`and` and `or` are not here: they do not evaluate all their arguments, so the executor has them.
A wrong count or type of arguments raises TemplateError with the function's name.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from runtime.text.errors import TemplateError
from runtime.text.gotemplate.printf import sprint, sprintf
from runtime.text.gotemplate.values import Struct, Value, mapping, sequence, shown, to_json, truth, type_name


def _fail(name: str, message: str) -> TemplateError:
    return TemplateError(f"error calling {name}: {message}")


def _not(value: Value) -> bool:
    return not truth(value)


def _kind(value: Value) -> str:
    for kind, types in (("bool", bool), ("int", int), ("float", float), ("string", str)):
        if isinstance(value, types):
            return kind
    return "other"


def _eq(first: Value, *others: Value) -> bool:
    if not others:
        raise _fail("eq", "missing argument for comparison")
    return any(_equal("eq", first, other) for other in others)


def _equal(name: str, one: Value, two: Value) -> bool:
    if one is None or two is None:
        return one is two
    if _kind(one) != _kind(two):
        raise _fail(name, "incompatible types for comparison")
    if _kind(one) == "other":
        raise _fail(name, f"non-comparable type {shown(one, top=False)}: {type_name(one)}")
    return one == two


def _less(name: str, one: Value, two: Value) -> bool:
    kind = _kind(one)
    if kind in ("bool", "other") or _kind(two) in ("bool", "other"):
        raise _fail(name, "invalid type for comparison")
    if kind != _kind(two):
        raise _fail(name, "incompatible types for comparison")
    return bool(one < two)  # type: ignore[operator]


def _ne(one: Value, two: Value) -> bool:
    return not _equal("ne", one, two)


def _lt(one: Value, two: Value) -> bool:
    return _less("lt", one, two)


def _le(one: Value, two: Value) -> bool:
    return _less("le", one, two) or _equal("le", one, two)


def _gt(one: Value, two: Value) -> bool:
    return not _le(one, two)


def _ge(one: Value, two: Value) -> bool:
    return not _less("ge", one, two)


def _len(value: Value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    items = sequence(value)
    table = mapping(value) if items is None else items
    if table is None:
        raise _fail("len", f"len of type {type_name(value)}" if value is not None else "len of nil pointer")
    return len(table)


def _index(value: Value, *keys: Value) -> Value:
    if value is None:
        raise _fail("index", "index of untyped nil")
    for key in keys:
        value = _index_one(value, key)
    return value


def _index_one(value: Value, key: Value) -> Value:
    if value is None:
        raise _fail("index", "index of untyped nil")
    table = mapping(value)
    if table is not None:
        if not isinstance(key, str):
            raise _fail("index", f"value has type {type_name(key)}; should be string")
        return table.get(key)
    items: Any = value.encode() if isinstance(value, str) else sequence(value)
    if items is None:
        raise _fail("index", f"can't index item of type {type_name(value)}")
    at = _position("index", key)
    if not 0 <= at < len(items):
        raise _fail("index", f"index out of range: {at}")
    return items[at]  # type: ignore[no-any-return]


def _position(name: str, key: Value) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise _fail(name, f"cannot index slice/array with {'nil' if key is None else 'type ' + type_name(key)}")
    return key


def _slice(value: Value, *bounds: Value) -> Value:
    data: Any = value.encode() if isinstance(value, str) else sequence(value)
    if data is None or len(bounds) > 3:
        raise _fail("slice", f"can't slice item of type {type_name(value)}")
    if isinstance(value, str) and len(bounds) == 3:
        raise _fail("slice", "cannot 3-index slice a string")
    places = [_position("slice", bound) for bound in bounds]
    low = places[0] if places else 0
    high = places[1] if len(places) > 1 else len(data)
    limit = places[2] if len(places) > 2 else len(data)
    if not 0 <= low <= high <= limit <= len(data):
        raise _fail("slice", f"index out of range: {high if high > len(data) else low}")
    cut = data[low:high]
    return cut.decode("utf-8", "replace") if isinstance(value, str) else list(cut)


def _print(*values: Value) -> str:
    return sprint(values)


def _println(*values: Value) -> str:
    return " ".join(shown(value, top=False) for value in values) + "\n"


def _printf(form: Value, *values: Value) -> str:
    if not isinstance(form, str):
        raise _fail("printf", f"wrong type for value; expected string; got {type_name(form)}")
    return sprintf(form, values)


def _escaper_text(values: tuple[Value, ...]) -> str:
    return shown(values[0]) if len(values) == 1 else sprint(values)


def _html(*values: Value) -> str:
    escaped = html.escape(_escaper_text(values)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    return escaped.replace("\0", "\ufffd")


_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _js(*values: Value) -> str:
    return "".join(
        _JS.get(char) or (char if _plain_js(char) else f"\\u{ord(char):04X}") for char in _escaper_text(values)
    )


def _plain_js(char: str) -> bool:
    """U+2028 ends a line of JavaScript, and Go writes whatever cannot be seen as an escape."""
    return ord(char) >= 32 if char < "\x80" else char.isprintable()


def _urlquery(*values: Value) -> str:
    return quote_plus(_escaper_text(values), safe="~").replace("%7E", "~")


def _call(function: Value, *_: Value) -> Value:
    raise _fail("call", "call of nil" if function is None else f"non-function of type {type_name(function)}")


def _current_date(*_: Value) -> str:
    return datetime.date.today().isoformat()


def _yesterday_date(*_: Value) -> str:
    return (datetime.date.today() - datetime.timedelta(days=1)).isoformat()


_TYPESCRIPT = {
    "string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "any[]",
    "object": "Record<string, any>", "null": "null",
}  # fmt: skip


def typescript_type(value: Value) -> str:
    """A tool parameter's type as TypeScript writes it."""
    if not isinstance(value, Struct) or "AnyOf" not in value.fields:
        return "any"
    any_of = sequence(value.fields.get("AnyOf")) or ()
    if any_of:
        return " | ".join(typescript_type(one) for one in any_of)
    types = sequence(value.fields.get("Type")) or [value.fields.get("Type")]
    return " | ".join(_TYPESCRIPT.get(str(one), "any") for one in types)


# name: (function, fewest arguments, most or None)
FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int | None]] = {
    "not": (_not, 1, 1),
    "eq": (_eq, 1, None),
    "ne": (_ne, 2, 2),
    "lt": (_lt, 2, 2),
    "le": (_le, 2, 2),
    "gt": (_gt, 2, 2),
    "ge": (_ge, 2, 2),
    "len": (_len, 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, None),
    "print": (_print, 0, None),
    "println": (_println, 0, None),
    "printf": (_printf, 1, None),
    "html": (_html, 0, None),
    "js": (_js, 0, None),
    "urlquery": (_urlquery, 0, None),
    "call": (_call, 1, None),
    "json": (to_json, 1, 1),
    "currentDate": (_current_date, 0, None),
    "yesterdayDate": (_yesterday_date, 0, None),
    "toTypeScriptType": (typescript_type, 1, 1),
}
SHORT_CIRCUIT = ("and", "or")
NAMES = frozenset(FUNCTIONS) | frozenset(SHORT_CIRCUIT)
