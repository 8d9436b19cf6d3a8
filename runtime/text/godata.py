"""Conversations and tools as the Go structs that Ollama's templates name: fields, their order and their JSON keys.
Messages and calls have no keys of their own there: as JSON they show the fields' names.

A JSON value that no Go struct holds (an unknown key of a tool's schema) is not visible to a Go template, as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.text.gotemplate.values import JsonList, JsonMap, Struct, Value
from runtime.text.message import Message, ToolCall

_TOOL_JSON = {"Type": ("type", False), "Items": ("items", True), "Function": ("function", False)}
_FUNCTION_JSON = {"Name": ("name", False), "Description": ("description", False), "Parameters": ("parameters", False)}
_PARAMETERS_JSON = {
    "Type": ("type", False),
    "Defs": ("$defs", True),
    "Items": ("items", True),
    "Required": ("required", True),
    "Properties": ("properties", False),
}
_PROPERTY_JSON = {
    "AnyOf": ("anyOf", True),
    "Type": ("type", True),
    "Items": ("items", True),
    "Description": ("description", True),
    "Enum": ("enum", True),
    "Properties": ("properties", True),
    "Required": ("required", True),
}


def messages_value(messages: Iterable[Message]) -> Value:
    return [_message(message) for message in messages]


def tools_value(tools: Sequence[Mapping[str, Any]]) -> Value:
    """Without tools: false in an `if`, `null` when printed."""
    return JsonList(items=tuple(_tool(tool) for tool in tools), absent=not tools)


def think_values(think: bool | str | None) -> dict[str, Value]:
    """think: None not asked, or true, false, or a level."""
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _message(message: Message) -> Struct:
    fields: dict[str, Value] = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": [],
        "ToolCalls": [_call(call) for call in message.tool_calls],
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    return Struct(type="api.Message", fields=fields)


def _call(call: ToolCall) -> Struct:
    arguments = JsonMap(items={str(key): plain(value) for key, value in call.arguments.items()})
    function = Struct(
        type="api.ToolCallFunction",
        fields={"Index": call.index, "Name": call.name, "Arguments": arguments},
    )
    return Struct(type="api.ToolCall", fields={"ID": call.id, "Function": function})


def _tool(raw: Mapping[str, Any]) -> Struct:
    function = _object(raw.get("function"))
    parameters = _object(function.get("parameters"))
    inner = Struct(
        type="api.ToolFunctionParameters",
        fields={
            "Type": _text(parameters.get("type")),
            "Defs": plain(parameters.get("$defs")),
            "Items": plain(parameters.get("items")),
            "Required": plain(parameters.get("required") or []),
            "Properties": _properties(parameters.get("properties")),
        },
        json=_PARAMETERS_JSON,
    )
    described = Struct(
        type="api.ToolFunction",
        fields={
            "Name": _text(function.get("name")),
            "Description": _text(function.get("description")),
            "Parameters": inner,
        },
        json=_FUNCTION_JSON,
    )
    fields: dict[str, Value] = {"Type": _text(raw.get("type")), "Items": plain(raw.get("items")), "Function": described}
    return Struct(type="api.Tool", fields=fields, json=_TOOL_JSON, as_json=True)


def _properties(raw: Any) -> Value:
    named = {str(name): _property(_object(value), depth=0) for name, value in _object(raw).items()}
    return JsonMap(items=named, absent=not isinstance(raw, Mapping))


def _property(raw: Mapping[str, Any], *, depth: int) -> Struct:
    inner = _object(raw.get("properties")) if depth < 32 else {}
    variants = raw.get("anyOf") if depth < 32 else None
    fields: dict[str, Value] = {
        "AnyOf": [_property(_object(one), depth=depth + 1) for one in variants] if isinstance(variants, list) else [],
        "Type": _types(raw.get("type")),
        "Items": plain(raw.get("items")),
        "Description": _text(raw.get("description")),
        "Enum": plain(raw.get("enum") or []),
        "Properties": {str(name): _property(_object(value), depth=depth + 1) for name, value in inner.items()},
        "Required": plain(raw.get("required") or []),
    }
    return Struct(type="api.ToolProperty", fields=fields, json=_PROPERTY_JSON)


def _types(raw: Any) -> Value:
    """One type is a text; several stay a list."""
    if isinstance(raw, list):
        return [_text(one) for one in raw] if len(raw) != 1 else _text(raw[0])
    return _text(raw)


def plain(value: Any, depth: int = 0) -> Value:
    """JSON data as a template value; deeper than 64 is cut off."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > 64:
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, depth + 1) for one in value]
    return str(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
