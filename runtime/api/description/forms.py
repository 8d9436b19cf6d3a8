"""The words that the descriptions are written in: JSON Schema, short. Answers are closed objects (`has`), requests open
ones (`wants`), since unknown fields are passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time"}
HEX: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
NAME: Schema = {"type": "string", "minLength": 1}


def many(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def one_of(*values: str | None) -> Schema:
    return {"enum": list(values)}


def either(*ways: Schema) -> Schema:
    return {"anyOf": list(ways)}


def or_null(schema: Schema) -> Schema:
    return either(schema, {"type": "null"})


def has(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """A closed object."""
    return wants(required, optional) | {"additionalProperties": False}


def wants(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An open one."""
    found: Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    return found | ({"required": list(required)} if required else {})


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"


def takes(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {JSON: {"schema": wants(required, optional)}}


def answers(schema: Schema, stream: tuple[str, Schema] | None = None) -> Schema:
    """`stream`: what one of its lines or events is."""
    found = {JSON: {"schema": schema}}
    return found | ({stream[0]: {"schema": stream[1]}} if stream else {})


Route = tuple[str, Schema | None, Schema | None]  # what it is, what it takes, what it answers; None: nothing
