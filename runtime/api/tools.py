"""Tools and calls of all APIs as the one form that templates know: OpenAI's function tools, and ToolCall.

Refuses, with the path of the field: a tool that is no function with a name, a name given twice, a call whose arguments
are no JSON object, hosted tools (web search and the like), which would need a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import RequestRefused
from runtime.text.errors import MessageError
from runtime.text.message import ToolCall, message_from_json

MAX_TOOLS = 1024
Tool = Mapping[str, Any]


def function_tools(values: Sequence[Any], path: str = "tools") -> tuple[Tool, ...]:
    """`[{"type": "function", "function": {"name", "description", "parameters"}}]`, checked. A parameter object that is
    left out is one without properties."""
    return each_once([_tool(value, f"{path}[{place}]") for place, value in enumerate(few_tools(values, path))], path)


def few_tools(values: Sequence[Any], path: str) -> Sequence[Any]:
    if len(values) > MAX_TOOLS:
        raise RequestRefused(f"'{path}' has {len(values)} tools; at most {MAX_TOOLS} are accepted", param=path)
    return values


def each_once(tools: Sequence[Tool], path: str) -> tuple[Tool, ...]:
    """Refuses a second tool of a name."""
    seen: set[str] = set()
    for place, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in seen:
            raise RequestRefused(f"'{path}[{place}]' is a second tool named {name[:80]!r}", param=path)
        seen.add(name)
    return tuple(tools)


def function_tool(tool: Mapping[str, Any], path: str, schema: str = "parameters") -> Tool:
    """The same of an API where a tool has no inner object; `schema` is what its parameters are called there."""
    function = {key: tool.get(key) for key in ("name", "description")} | {"parameters": tool.get(schema)}
    return _function({key: value for key, value in function.items() if value is not None}, path, schema)


def _folded(value: Any, *names: str) -> Any:
    """An object whose keys of these names are found whatever their case, as Go's reader does; other values as they
    are. What a schema calls its own stays untouched."""
    if not isinstance(value, Mapping):
        return value
    return {lower if (lower := key.lower()) in names else key: inner for key, inner in value.items()}


def _tool(value: Any, path: str) -> Tool:
    value = _folded(value, "type", "function")
    kind = value.get("type", "function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str):
        raise RequestRefused(f"'{path}' must be an object with a type and a function", param=path)
    if kind != "function":
        raise RequestRefused(f"'{path}.type' is {kind[:40]!r}: this server knows function tools only", param=path)
    function = _folded(value.get("function"), "name", "description", "parameters")
    if not isinstance(function, Mapping):
        raise RequestRefused(f"'{path}.function' must be an object", param=path)
    return _function(function, f"{path}.function")


def _function(function: Mapping[str, Any], path: str, schema: str = "parameters") -> Tool:
    name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    place = path.partition(".")[0]
    if not isinstance(name, str) or not name:
        raise RequestRefused(f"'{path}.name' must be a string that is not empty", param=place)
    if description is not None and not isinstance(description, str):
        raise RequestRefused(f"'{path}.description' must be a string", param=place)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestRefused(f"'{path}.{schema}' must be a JSON schema object", param=place)
    whole = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "description": description or "", "parameters": whole}}


def tool_calls_of(value: Any, path: str) -> tuple[ToolCall, ...]:
    """`tool_calls` of a message in the history; arguments as an object, or as OpenAI's JSON text."""
    if isinstance(value, list):
        value = [_call(one) for one in value]
    try:
        return message_from_json({"tool_calls": value}, path).tool_calls if value else ()
    except MessageError as error:
        raise RequestRefused(str(error), param=path) from None


def _call(value: Any) -> Any:
    call = _folded(value, "id", "function")
    if isinstance(call, dict) and "function" in call:
        call["function"] = _folded(call["function"], "index", "name", "arguments")
    return call
