"""A client's JSON schema, checked keyword by keyword before anything is made of it.

Refuses, with the path in the schema: what is not a schema; a keyword that JSON Schema defines and the grammar cannot
keep (`not`, `if`, `uniqueItems`, ...), because an answer that might break it is worse than none; a `format` that it
defines and the grammar does not know; sizes over the limits. Keywords and formats that JSON Schema does not define
(`int64`, `binary`, `password`) mean nothing, as it says; they and texts for readers are left out of the grammar.

An object that lists its properties and says nothing of others is closed: the answer has no others. All it allows is
still valid, and a small model cannot add keys for ever. `"additionalProperties": true` keeps it open; so it stays where
closing could leave nothing: in a schema that composes objects (`allOf`, or properties, `anyOf`, `oneOf` and `$ref`
beside each other), and where `required` names a property that is not listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runtime.errors import RequestRefused

MAX_DEPTH = 64  # schemas within schemas
MAX_SCHEMAS = 4096  # in one
MAX_PROPERTIES = 512  # of one object, and names in one `required`: the optional ones cost their square
MAX_PATTERN = 2048  # characters of one pattern
MAX_PATTERNS = 16384  # characters of all
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_OTHER_FORMATS = frozenset(  # Validation 7.3, those that no grammar was made of
    """
    idn-email idn-hostname uri-reference iri iri-reference uri-template json-pointer relative-json-pointer regex
    """.split()  # noqa: SIM905
)
_ANNOTATIONS = ("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly")

_ONE = ("items", "additionalProperties", "additionalItems")  # their value is a schema
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems", "items")  # a list of schemas
_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # schemas by name
_REFUSED = frozenset(
    """
    not if then else dependentRequired dependentSchemas dependencies contains minContains maxContains uniqueItems
    propertyNames unevaluatedProperties unevaluatedItems contentSchema $dynamicRef $dynamicAnchor $recursiveRef
    $recursiveAnchor
    """.split()  # noqa: SIM905
)
_SAYS_OF_OTHERS = ("additionalProperties", "patternProperties", "const", "enum")
_COMPOSERS = ("properties", "anyOf", "oneOf", "$ref")

Schema = dict[str, Any]

# Between JSON's tokens, as the grammar's own option, in the place of any that a client wrote: a model that likes blanks
# gets no further with them.
SPACED: Schema = {"x-guidance": {"whitespace_pattern": r" |\r?\n[ \t]{0,32}"}}
ANY_OBJECT = json.dumps({"type": "object", **SPACED})


def closed_schema(text: str) -> str:
    """The schema as compact JSON, checked and closed, white space bounded. Raises RequestRefused."""
    try:
        schema = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise RequestRefused(f"the JSON schema is {_kind(schema)}; expected an object")
    found = list(_walk(schema, "schema", 0, [0]))
    total = sum(len(one["pattern"]) for one in found if isinstance(one.get("pattern"), str))
    if total > MAX_PATTERNS:
        raise RequestRefused(f"the JSON schema's patterns have {total} characters; at most {MAX_PATTERNS} are allowed")
    if not any(_composes(one) for one in found):
        for one in found:
            _close(one)
    return json.dumps({**schema, **SPACED}, separators=(",", ":"))


def _walk(schema: Any, path: str, depth: int, count: list[int]) -> Iterator[Schema]:
    """Every schema in this one that is an object, itself first, each checked."""
    count[0] += 1
    if depth > MAX_DEPTH:
        raise RequestRefused(f"{_short(path)}: schemas are nested deeper than {MAX_DEPTH}")
    if count[0] > MAX_SCHEMAS:
        raise RequestRefused(f"the JSON schema holds more than {MAX_SCHEMAS} schemas")
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise RequestRefused(f"{_short(path)} is {_kind(schema)}; expected a schema: an object, true or false")
    _check(schema, path)
    yield schema
    for key, value in list(schema.items()):
        if key in _NAMED:
            if not isinstance(value, dict):
                raise RequestRefused(f"{_short(path)}.{key} is {_kind(value)}; expected an object")
            for name, one in value.items():
                yield from _walk(one, f"{path}.{key}.{name}", depth + 1, count)
        elif key in _MANY and (isinstance(value, list) or key not in _ONE):
            if not isinstance(value, list):
                raise RequestRefused(f"{_short(path)}.{key} is {_kind(value)}; expected a list of schemas")
            for index, one in enumerate(value):
                yield from _walk(one, f"{path}.{key}[{index}]", depth + 1, count)
        elif key in _ONE:
            yield from _walk(value, f"{path}.{key}", depth + 1, count)


def _check(schema: Schema, path: str) -> None:
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    for key in schema:
        if key in _REFUSED:
            raise RequestRefused(
                f'{_short(path)}: the keyword "{key}" is not supported',
                hint="answers are only given where it is certain that they satisfy the schema",
            )
    form = schema.get("format")
    if not isinstance(form, str | None) or form in _OTHER_FORMATS:
        raise RequestRefused(f"{_short(path)}.format is {json.dumps(form)[:80]}; known are {', '.join(FORMATS)}")
    if form not in FORMATS:
        schema.pop("format", None)
    for key in _ANNOTATIONS:
        schema.pop(key, None)
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise RequestRefused(f"{_short(path)}.pattern has {len(pattern)} characters; at most {MAX_PATTERN} are allowed")
    for key in ("properties", "patternProperties", "required"):
        value = schema.get(key)
        if isinstance(value, (dict, list)) and len(value) > MAX_PROPERTIES:
            raise RequestRefused(f"{_short(path)}.{key} has {len(value)} names; at most {MAX_PROPERTIES} are allowed")


def _composes(schema: Schema) -> bool:
    return "allOf" in schema or sum(key in schema for key in _COMPOSERS) > 1


def _close(schema: Schema) -> None:
    listed, required = schema.get("properties"), schema.get("required", [])
    if not listed or any(key in schema for key in _SAYS_OF_OTHERS):
        return
    least = schema.get("minProperties", 0)
    if isinstance(required, list) and all(name in listed for name in required) and least in range(len(listed) + 1):
        schema["additionalProperties"] = False


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}…{path[-100:]}"


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
