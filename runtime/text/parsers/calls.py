"""What a model wrote for a call, as a ToolCall: which tool, which arguments, their types.

Refused (None, and the text stays text): no JSON, a name that was not offered, arguments that are no object, numbers no
JSON can carry. Half surrogates become U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.text.message import ToolCall
from runtime.text.parsers.feed import MAX_DEPTH

NAME_KEYS = ("name", "tool_name", "tool", "function")
ARGUMENT_KEYS = ("arguments", "parameters")
_FIRST_KEYS = {*NAME_KEYS, *ARGUMENT_KEYS, "type", "id", "tool_call_id", "index"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Offered:
    """The tools of one request, and the calls of its answer: counted from 0, with an id only where the model gave one
    that lasts (a number that starts anew in every answer does not)."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self.schemas: dict[str, Mapping[str, Any]] = {}
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
                parameters = function.get("parameters")
                self.schemas[name] = parameters if isinstance(parameters, Mapping) else {}
        self._plain = {_identifier(name): name for name in self.schemas}
        self._any = re.compile("|".join(map(re.escape, sorted(self.schemas, key=len, reverse=True))) or "(?!)")
        self.made = 0  # calls so far

    def __bool__(self) -> bool:
        return bool(self.schemas)

    def known(self, name: object) -> str | None:
        """The tool of that name; a template may have had to spell it as an identifier."""
        if not isinstance(name, str):
            return None
        return name if name in self.schemas else self._plain.get(name.strip())

    def may_begin(self, key: str) -> bool:
        """Whether a call that is one JSON object may begin with this key."""
        return key in _FIRST_KEYS or self.known(key) is not None

    def named_in(self, text: str) -> str | None:
        """The first tool named anywhere in the text, the longest where several begin."""
        match = self._any.search(text)
        return match[0] if match else None

    def call(self, name: object, arguments: object, id: str = "") -> ToolCall | None:
        known = self.known(name)
        if isinstance(arguments, str):
            arguments = read_json(arguments) if arguments.strip() else {}
        if known is None or not isinstance(arguments, dict):
            return None
        self.made += 1
        return ToolCall(
            name=known,
            arguments=arguments,
            id=id,
            index=self.made - 1,
        )

    def typed(self, name: str, texts: Mapping[str, str]) -> dict[str, Any]:
        """Arguments that came as bare texts, by the types of the tool's schema."""
        known = self.known(name)
        properties = self.schemas.get(known or "", {}).get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return {key: typed(text, properties.get(key)) for key, text in texts.items()}

    def from_object(self, value: object, depth: int = 0) -> ToolCall | None:
        """A call that is one JSON object: name and arguments under one of the usual keys, in `function`, or as
        `{name: arguments}`."""
        if not isinstance(value, dict) or depth > 2:
            return None
        inner = value.get("function")
        if isinstance(inner, dict):
            return self.from_object(inner, depth + 1)
        for key in NAME_KEYS:
            if self.known(value.get(key)) is not None:
                return self.call(value[key], _arguments(value))
        if len(value) == 1 and self.known(key := next(iter(value))) is not None:
            return self.call(key, value[key])
        return None


def _arguments(value: Mapping[str, Any]) -> object:
    """Without arguments: none. (Ollama never recognises such a call.)"""
    return next((found for key in ARGUMENT_KEYS if (found := value.get(key)) is not None), {})


def nested(value: object, name: str) -> object:
    """The arguments in an object of unknown shape: under one of the usual keys or the tool's name, at any depth, or the
    object itself."""
    for one in _objects(value):
        for key in (*ARGUMENT_KEYS, name):
            if isinstance(found := one.get(key), dict):
                return found
            if isinstance(found, str) and isinstance(read := read_json(found), dict):
                return read
    return value


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects within a value, outermost first."""
    rows = [value]
    while rows:
        for one in rows:
            if isinstance(one, dict):
                yield one
        children = ((one.values() if isinstance(one, dict) else one) for one in rows if isinstance(one, (dict, list)))
        rows = [child for some in children for child in some]


def read_json(text: str) -> Any:
    """JSON, or None. Line ends inside a string are let pass: models write them."""
    try:
        value = json.loads(text, strict=False, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    return clean(value) if "\\u" in text or _SURROGATE.search(text) else value


def finite(text: str) -> float:
    """ValueError for what JSON has no number for."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def clean(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {clean(key): clean(one, depth + 1) for key, one in value.items()}
    return [clean(one, depth + 1) for one in value] if isinstance(value, list) else value


def typed(text: str, schema: object) -> Any:
    """A bare text by its schema: JSON where the schema knows another type than string, else the text."""
    known = kinds(schema)
    if not known - {"string"}:
        return text
    value = _literal(text.strip(), known)
    return text if value is None and not (text.strip().lower() in ("null", "none") and "null" in known) else value


def kinds(schema: object, depth: int = 0) -> set[str]:
    """The types a schema names, of its variants too."""
    if not isinstance(schema, Mapping) or depth > 4:
        return set()
    given = schema.get("type")
    found = {one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)}
    variants = [schema.get(key) for key in ("anyOf", "oneOf")]
    return found.union(*(kinds(one, depth + 1) for some in variants if isinstance(some, list) for one in some))


def _literal(text: str, known: set[str]) -> Any:
    if "boolean" in known and text.lower() in ("true", "false"):
        return text.lower() == "true"
    value = read_json(text)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int) and known & {"integer", "number"}:
        return value
    if isinstance(value, float):
        whole = "integer" in known and "number" not in known and value.is_integer()
        return int(value) if whole else value if "number" in known else None
    fits = (isinstance(value, dict) and "object" in known) or (isinstance(value, list) and "array" in known)
    return value if fits else None


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
