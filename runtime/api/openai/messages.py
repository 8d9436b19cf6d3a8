"""Messages of /v1/chat/completions as ours: parts, the developer's role, calls and their answers, also in the older
form of `functions`.

Refused by name: images, audio, files; a tool's answer to a call that nobody made keeps its id and has no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manifests.name import ModelName
from runtime.api.gojson import Body
from runtime.api.tools import tool_calls_of
from runtime.errors import CapabilityMissing, RequestRefused
from runtime.text.message import Message, ToolCall

ROLES = {"developer": "system", "function": "tool"}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # where the text lies
OTHER_PARTS = {
    "image_url": "vision",
    "input_image": "vision",
    "image": "vision",
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
}


def messages_of(name: ModelName, bodies: Sequence[Body]) -> list[Message]:
    names: dict[str, str] = {}  # of the tools that were called, by the calls' ids
    found = []
    for place, body in enumerate(bodies):
        message = _message(name, body, f"messages[{place}]", names)
        names.update((call.id, call.name) for call in message.tool_calls)
        found.append(message)
    return found


def calls_tools(bodies: Sequence[Body]) -> bool:
    return any(body.raw("tool_calls") or body.raw("function_call") for body in bodies)


def _message(name: ModelName, body: Body, path: str, names: dict[str, str]) -> Message:
    role, answers = body.text("role").lower(), body.text("tool_call_id")
    return Message(
        role=ROLES.get(role, role),
        content=text_of(name, body.raw("content"), f"{path}.content"),
        thinking=body.text("reasoning") or body.text("reasoning_content"),
        tool_calls=_calls(body, path),
        tool_name=(body.text("name") or names.get(answers, "")) if role in ("tool", "function") else "",
        tool_call_id=answers,
    )


def _calls(body: Body, path: str) -> tuple[ToolCall, ...]:
    older = body.raw("function_call")
    if older and not body.raw("tool_calls"):
        return tool_calls_of([{"function": older}], path)
    return tool_calls_of(body.raw("tool_calls"), path)


def text_of(name: ModelName, content: Any, path: str) -> str:
    """A string, null, or a list of parts that are text."""
    if isinstance(content, list):
        return "\n\n".join(_part(name, part, f"{path}[{place}]") for place, part in enumerate(content))
    if content is not None and not isinstance(content, str):
        raise RequestRefused("invalid message format", param=path)
    return content or ""


def _part(name: ModelName, part: Any, path: str) -> str:
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    if kind in TEXT_PARTS and isinstance(text := part.get(TEXT_PARTS[kind]), str):
        return text
    if kind in OTHER_PARTS:
        raise CapabilityMissing(f"{name.full} does not support {OTHER_PARTS[kind]}", param=path)
    raise RequestRefused("invalid message format", param=path)
