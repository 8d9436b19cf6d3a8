"""What a template may touch, and how Go shows it: None, bool, int, float, str, list, dict and `Struct`. Nothing else.

No attribute of a Python object is ever looked up: a field name is only a key of a dict or of a Struct's field table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from runtime.text.errors import TemplateError


@dataclass(frozen=True, kw_only=True, slots=True)
class Struct:
    """A Go struct. fields: in Go's order. json: field to (key, omit when empty). as_json: prints as its JSON."""

    type: str
    fields: Mapping[str, Value]
    json: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    as_json: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonMap:
    """A map that prints as its JSON (a call's arguments, a tool's properties). absent: Go's nil map, `null` in JSON."""

    items: Mapping[str, Value]
    absent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonList:
    """A list that prints as its JSON (tools). absent: Go's nil slice, which prints `null`."""

    items: tuple[Value, ...]
    absent: bool = False


Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | Struct | JsonMap | JsonList | None"


def mapping(value: Value) -> Mapping[str, Value] | None:
    if isinstance(value, JsonMap):
        return value.items
    return value if isinstance(value, dict) else None


def sequence(value: Value) -> tuple[Value, ...] | list[Value] | None:
    if isinstance(value, JsonList):
        return value.items
    return value if isinstance(value, list) else None


def truth(value: Value) -> bool:
    """Go's IsTrue: empty is false, a struct is always true."""
    if isinstance(value, Struct):
        return True
    if isinstance(value, JsonMap):
        return bool(value.items)
    if isinstance(value, JsonList):
        return bool(value.items)
    return bool(value)


def type_name(value: Value) -> str:
    if value is None:
        return "nil"
    if isinstance(value, Struct):
        return value.type
    if isinstance(value, bool):
        return "bool"
    names: dict[type, str] = {
        int: "int", float: "float64", str: "string", list: "[]interface {}", JsonList: "[]interface {}",
        dict: "map[string]interface {}", JsonMap: "map[string]interface {}",
    }  # fmt: skip
    return names[type(value)]


def shown(value: Value, *, top: bool = True) -> str:
    """Go's %v."""
    if value is None:
        return "<no value>" if top else "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, str)):
        return str(value)
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, JsonMap) and value.absent:
        return "{}"
    if isinstance(value, (JsonMap, JsonList)) or (isinstance(value, Struct) and value.as_json):
        return to_json(value)
    if isinstance(value, Struct):
        return "{" + " ".join(shown(one, top=False) for one in value.fields.values()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(shown(one, top=False) for one in value) + "]"
    return "map[" + " ".join(f"{key}:{shown(value[key], top=False)}" for key in sorted(value)) + "]"


def float_text(number: float) -> str:
    """Go's %g: shortest digits that read back; an exponent below 1e-4 and from 1e6 on."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    if number == 0:
        return "-0" if math.copysign(1.0, number) < 0 else "0"
    digits, exponent = _digits(number)
    sign = "-" if number < 0 else ""
    if exponent < -4 or exponent >= 6:
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return sign + _plain(digits, exponent)


def _digits(number: float) -> tuple[str, int]:
    """Shortest significant digits and the decimal exponent of the first."""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    shift = len(whole) - 1 if whole != "0" else -(len(part) - len(part.lstrip("0")) + 1)
    return digits.rstrip("0") or "0", shift + int(exponent or 0)


def _plain(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return whole + ("." + digits[exponent + 1 :] if len(digits) > exponent + 1 else "")


def to_json(value: Value) -> str:
    """Go's json.Marshal: compact, map keys sorted, <, > and & escaped."""
    if isinstance(value, float):
        return _json_float(value)
    if isinstance(value, (bool, int)) or value is None:
        return json.dumps(value)
    if isinstance(value, str):
        return _json_text(value)
    if isinstance(value, Struct):
        keys = value.json or {name: (name, False) for name in value.fields}
        pairs = [
            f"{_json_text(key)}:{to_json(value.fields[name])}"
            for name, (key, omit) in keys.items()
            if not (omit and _empty(value.fields[name]))
        ]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (JsonList, JsonMap)) and value.absent:
        return "null"
    items = sequence(value)
    if items is not None:
        return "[" + ",".join(map(to_json, items)) + "]"
    table = mapping(value)
    assert table is not None
    return "{" + ",".join(f"{_json_text(key)}:{to_json(table[key])}" for key in sorted(table)) + "}"


def _empty(value: Value) -> bool:
    return not isinstance(value, Struct) and not truth(value)


_JSON_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_JSON_ESCAPES)


def _json_float(number: float) -> str:
    if math.isnan(number) or math.isinf(number):
        raise TemplateError(f"json: unsupported value: {shown(number)}")
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        digits, exponent = _digits(number)
        sign = "-" if number < 0 else ""
        return "0" if number == 0 else sign + _plain(digits, exponent)
    text = float_text(number)
    mantissa, _, exponent_text = text.partition("e")
    return f"{mantissa}e{exponent_text[0]}{exponent_text[1:].lstrip('0')}" if "-" in exponent_text else text
