"""A request of /v1/responses as ours: instructions and items as messages, its own spelling of tools and formats.

This server keeps no answers: what would refer to one is refused by name (`previous_response_id`, `conversation`,
`store`, `background`, items that are references, stored prompts), and so are hosted tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from manifests.name import ModelName
from runtime.api.gojson import Body, too_many
from runtime.api.openai.fields import ToolUse, chosen
from runtime.api.openai.messages import text_of
from runtime.api.prompts import MAX_MESSAGES
from runtime.api.tools import each_once, few_tools, function_tool, tool_calls_of
from runtime.errors import RequestRefused
from runtime.text.message import Message

STATELESS = "this server keeps no answers: send the whole conversation as 'input', and \"store\": false"
ROLES = ("user", "assistant", "system", "developer")


def refuse_state(body: Body) -> None:
    for key in ("previous_response_id", "conversation", "prompt"):
        if body.has(key):
            raise RequestRefused(f"'{key}' is not supported: {STATELESS}", param=key)
    for key in ("store", "background"):
        if body.raw(key) not in (None, False):
            raise RequestRefused(f"'{key}' must be false: {STATELESS}", param=key)


def messages_of(body: Body, name: ModelName) -> list[Message]:
    found: list[Message] = []
    if instructions := body.text("instructions"):
        found.append(Message(role="system", content=instructions))
    value = body.raw("input")
    if isinstance(value, str) and value:
        return [*found, Message(role="user", content=value)]
    if not isinstance(value, list) or not value:
        raise RequestRefused("'input' must be a string or a list of items, and not empty", param="input")
    if len(value) > MAX_MESSAGES:
        raise too_many("input", len(value), MAX_MESSAGES)
    turns: list[list[Message]] = []
    names: dict[str, str] = {}  # of the tools that were called, by the calls' ids
    for place, item in enumerate(value):
        path = f"input[{place}]"
        if not isinstance(item, dict):
            raise RequestRefused(f"'{path}' must be an object", param="input")
        message = _item(name, item, path, names)
        names.update((call.id, call.name) for call in message.tool_calls)
        if turns and _continues(message, turns[-1][-1]):
            if message.content or message.thinking or message.tool_calls:
                turns[-1].append(message)
        else:
            turns.append([message])
    return found + [_turn(messages) for messages in turns]


def _continues(message: Message, last: Message) -> bool:
    """Thinking, text and calls that follow each other, in this order, are one turn of the assistant."""
    if last.role != "assistant" or message.role != "assistant":
        return False
    return not ((last.content or last.tool_calls) and (message.content or message.thinking))


def _turn(messages: Sequence[Message]) -> Message:
    calls = [call for message in messages for call in message.tool_calls]
    return replace(
        messages[0],
        content=next((message.content for message in messages if message.content), ""),
        thinking="\n\n".join(message.thinking for message in messages if message.thinking),
        tool_calls=tuple(replace(call, index=place) for place, call in enumerate(calls)),
    )


def _item(name: ModelName, item: Mapping[str, Any], path: str, names: Mapping[str, str]) -> Message:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise RequestRefused(f"'{path}.role' must be one of {', '.join(ROLES)}", param="input")
        text = text_of(name, item.get("content"), f"{path}.content")
        return Message(role="system" if role == "developer" else role, content=text)
    if kind == "function_call":
        if not isinstance(item.get("name"), str):
            raise RequestRefused(f"'{path}.name' must be a string", param="input")
        call = {"id": item.get("call_id"), "function": {key: item.get(key) for key in ("name", "arguments")}}
        return Message(role="assistant", tool_calls=tool_calls_of([call], path))
    if kind == "function_call_output":
        asked = item.get("call_id")
        if not isinstance(asked, str):
            raise RequestRefused(f"'{path}.call_id' must be a string", param="input")
        text = text_of(name, item.get("output"), f"{path}.output")
        return Message(role="tool", content=text, tool_name=names.get(asked, ""), tool_call_id=asked)
    if kind == "reasoning":
        return Message(role="assistant", thinking=_thinking(item))
    if kind == "item_reference":
        raise RequestRefused(f"'{path}' is a reference: {STATELESS}", param="input")
    raise RequestRefused(f"'{path}.type' is {str(kind)[:40]!r}, which this server does not know", param="input")


def _thinking(item: Mapping[str, Any]) -> str:
    """What was thought, or its summary."""
    for key in ("content", "summary"):
        parts = item.get(key)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if found := "\n\n".join(text for text in texts if isinstance(text, str) and text):
            return found
    return ""


def tool_use_of(body: Body) -> ToolUse:
    tools = []
    for place, one in enumerate(few_tools(body.array("tools", dict, "responses.Tool"), "tools")):
        path, kind = f"tools[{place}]", one.get("type", "function")
        if kind != "function":
            raise RequestRefused(
                f"'{path}.type' is {str(kind)[:40]!r}: this server knows function tools only", param="tools"
            )
        tools.append(function_tool(one, path))
    parallel = body.flag("parallel_tool_calls", True)
    return chosen(each_once(tools, "tools"), body.raw("tool_choice"), "tool_choice", parallel=parallel)
