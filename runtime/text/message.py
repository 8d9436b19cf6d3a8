"""One message of a conversation, as both APIs hand it to the prompt. Plain data.

Refused by `message_from_json`: wrong types, with the path of the field. Roles are not checked: templates know
more roles than any list of ours.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from native.record import field, record, replace
from runtime.text.errors import MessageError

MAX_CHARS = 8 << 20  # of a conversation, and of what a template makes of it

Tools = Sequence[Mapping[str, Any]]  # in OpenAI's form
Think: TypeAlias = "bool | str | None"  # None: not asked; true, false, or a level


@record(frozen=True, kw_only=True, slots=True)
class ToolCall:
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    index: int = 0


@record(frozen=True, kw_only=True, slots=True)
class Message:
    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()  # base64; refused until a model can see
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""  # of a tool's answer
    tool_call_id: str = ""


def refuse_images(messages: Iterable[Message]) -> None:
    if any(message.images for message in messages):
        raise MessageError("images are not supported by this server yet", hint="send text only")


def linked(messages: Iterable[Message]) -> list[Message]:
    """Every call with an id, and every tool's answer with the id and the name of its call: by the id it gives, else by
    the tool it names, else in the order of the calls. What is given stays."""
    out: list[Message] = []
    waiting: dict[str, str] = {}  # id -> name, of calls that have no answer yet
    numbers = itertools.count()
    for message in messages:
        if message.tool_calls:
            calls = [replace(call, id=call.id or f"call{next(numbers):05d}") for call in message.tool_calls]
            waiting |= {call.id: call.name for call in calls}
            message = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            message = _answering(message, waiting)
            waiting.pop(message.tool_call_id, None)
        out.append(message)
    return out


def _answering(message: Message, waiting: Mapping[str, str]) -> Message:
    id = message.tool_call_id
    if not id:
        named = (id for id, name in waiting.items() if name == message.tool_name or not message.tool_name)
        id = next(named, "")
    return replace(message, tool_call_id=id, tool_name=message.tool_name or waiting.get(id, ""))


def collate(messages: Iterable[Message]) -> list[Message]:
    """Neighbours of the same role become one, with a blank line between; tools' answers stay apart."""
    turns: list[list[Message]] = []
    for message in messages:
        if turns and turns[-1][0].role == message.role != "tool":
            turns[-1].append(message)
        else:
            turns.append([message])
    return [_merged(turn) if len(turn) > 1 else turn[0] for turn in turns]


def _merged(turn: Sequence[Message]) -> Message:
    return replace(
        turn[0],
        content="\n\n".join(one.content for one in turn if one.content),
        thinking="\n\n".join(one.thinking for one in turn if one.thinking),
        images=tuple(image for one in turn for image in one.images),
        tool_calls=tuple(call for one in turn for call in one.tool_calls),
    )


def message_from_json(raw: object, path: str) -> Message:
    """A message of the native API. path: where it stands in the request, for errors."""
    if not isinstance(raw, Mapping):
        raise MessageError(f"{path}: expected an object, got {type(raw).__name__}")
    images = raw.get("images") or []
    calls = raw.get("tool_calls") or []
    for name, value in (("images", images), ("tool_calls", calls)):
        if not isinstance(value, list):
            raise MessageError(f"{path}.{name}: expected an array, got {type(value).__name__}")
    return Message(
        role=_text(raw, "role", path).lower(),
        content=_text(raw, "content", path),
        thinking=_text(raw, "thinking", path),
        images=tuple(map(str, images)),
        tool_calls=tuple(_tool_call(one, f"{path}.tool_calls[{index}]", index) for index, one in enumerate(calls)),
        tool_name=_text(raw, "tool_name", path),
        tool_call_id=_text(raw, "tool_call_id", path),
    )


def _tool_call(raw: object, path: str, index: int) -> ToolCall:
    function = raw.get("function") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or not isinstance(function, Mapping):
        raise MessageError(f"{path}.function: expected an object")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):  # OpenAI's spelling: the object as JSON text
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise MessageError(f"{path}.function.arguments: expected a JSON object") from None
    if not isinstance(arguments, Mapping):
        raise MessageError(f"{path}.function.arguments: expected an object, got {type(arguments).__name__}")
    place = function.get("index", index)
    return ToolCall(
        name=_text(function, "name", f"{path}.function"),
        arguments=arguments,
        id=_text(raw, "id", path),
        index=place if isinstance(place, int) else index,
    )


def _text(raw: Mapping[str, Any], key: str, path: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MessageError(f"{path}.{key}: expected string, got {type(value).__name__}")
    return value
