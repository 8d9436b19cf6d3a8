"""A request of /v1/messages as ours: system, messages of blocks, tools, sampling, thinking.

A turn of the user may hold tools' results and text: the results become messages of their own, before the text. A search
that another server made in its own turn becomes a call and its result, of which titles and addresses can be read.
`redacted_thinking` says nothing to a model of ours and is passed over. Refused by name: what would mean other messages
than those that were sent (a thread that the server keeps, its summary), tools that the server would call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manifests.name import ModelName
from runtime.api import prompts
from runtime.api.asking import THINK_LEVELS
from runtime.api.gojson import Body
from runtime.api.openai.fields import choice_of, form_of, openai_options
from runtime.api.tools import Tool, each_once, few_tools, function_tool
from runtime.card import ModelCard
from runtime.engine.constraint import Constraint
from runtime.errors import CapabilityMissing, RequestRefused, ThreadRefused
from runtime.options import INT32_MAX, Options
from runtime.text.message import Message, Think, ToolCall

PASSED_OVER = ("redacted_thinking",)
SEARCHED = "web_search_tool_result"
ELSEWHERE = ("compaction", "container", "mcp_servers")
OTHER_BLOCKS = {"image": "vision", "document": "documents", "search_result": "search results"}


def chat_of(body: Body, name: ModelName, card: ModelCard) -> prompts.Chat:
    """Refuses what is no message, block or tool, with its path."""
    if body.has("thread"):
        raise ThreadRefused()
    for key in ELSEWHERE:
        if body.raw(key):
            raise RequestRefused(f"'{key}' is not supported by this server", param=key)
    messages = body.structs("messages", "MessageParam", most=prompts.MAX_MESSAGES)
    if not messages:
        raise RequestRefused("messages is required", param="messages")
    system = _plain(name, body.raw("system"), "system")
    found = [Message(role="system", content=system)] if system else []
    names: dict[str, str] = {}  # of the tools that were called, by the calls' ids
    for place, message in enumerate(messages):
        role, path = message.text("role"), f"messages[{place}]"
        if role not in ("user", "assistant", "system"):
            raise RequestRefused(f"'{path}.role' must be user or assistant, found {role[:40]!r}", param="messages")
        found += _turn(name, role, message.raw("content"), f"{path}.content", names)
    tools, choice, parallel = _tools(body)
    return prompts.Chat(
        messages=found,
        tools=tools,
        choice=choice,
        parallel=parallel,
        think=_think(body, card),
        form=_form(body),
    )


def options_of(body: Body, card: ModelCard) -> Options:
    asked: dict[str, Any] = {key: body.raw(key) for key in ("temperature", "top_p", "top_k") if body.has(key)}
    asked["num_predict"] = min(body.integer("max_tokens"), INT32_MAX)
    if body.has("stop_sequences"):
        asked["stop"] = body.array("stop_sequences", str, "string")
    return openai_options({"temperature": 1.0, "top_p": 1.0}, card.params, body.object("options"), asked)


# -- messages


def _turn(name: ModelName, role: str, content: Any, path: str, names: dict[str, str]) -> list[Message]:
    if isinstance(content, str):
        return [Message(role=role, content=content)]
    if not isinstance(content, list):
        raise RequestRefused(f"'{path}' must be a string or a list of blocks", param="messages")
    return [one for first, part in _parts(content) for one in _part(name, role, part, first, path, names)]


def _parts(content: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Place and blocks of each: what stands behind the result of a search was written with it in sight."""
    first = 0
    for place in range(1, len(content)):
        if _kind(content[place - 1]) == SEARCHED != _kind(content[place]):
            yield first, content[first:place]
            first = place
    yield first, content[first:]


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _part(
    name: ModelName, role: str, blocks: Sequence[Any], first: int, path: str, names: dict[str, str]
) -> list[Message]:
    results: list[Message] = []
    searched: list[Message] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for place, block in enumerate(blocks, first):
        where = f"{path}[{place}]"
        kind = _kind(block)
        if kind == "text":
            texts.append(_string(block, "text", where))
        elif kind == "thinking":
            thoughts.append(_string(block, "thinking", where))
        elif kind in ("tool_use", "server_tool_use"):
            calls.append(_call(block, where, len(calls)))
            names[calls[-1].id] = calls[-1].name
        elif kind == "tool_result":
            results.append(_result(name, block, where, names))
        elif kind == SEARCHED:
            searched.append(_searched(block, where, names))
        elif kind not in PASSED_OVER:
            raise _unknown(name, kind, where)
    if not (texts or thoughts or calls) and (results or searched):
        return [*results, *searched]
    text, thought = "\n\n".join(filter(None, texts)), "\n\n".join(thoughts)
    return [*results, Message(role=role, content=text, thinking=thought, tool_calls=tuple(calls)), *searched]


def _call(block: Mapping[str, Any], path: str, index: int) -> ToolCall:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise RequestRefused(f"'{path}.input' must be an object", param="messages")
    return ToolCall(name=_string(block, "name", path), arguments=given, id=_string(block, "id", path), index=index)


def _result(name: ModelName, block: Mapping[str, Any], path: str, names: Mapping[str, str]) -> Message:
    """A result that is an error says so in its text: templates have no other place for it."""
    asked = _string(block, "tool_use_id", path)
    text = _plain(name, block.get("content"), f"{path}.content")
    failed = block.get("is_error") is True
    return Message(
        role="tool", content=f"Error: {text}" if failed else text, tool_name=names.get(asked, ""), tool_call_id=asked
    )


def _searched(block: Mapping[str, Any], path: str, names: Mapping[str, str]) -> Message:
    """What was found is encrypted for the server that found it."""
    asked, content, where = _string(block, "tool_use_id", path), block.get("content"), f"{path}.content"
    if isinstance(content, dict):
        text = f"Error: {_string(content, 'error_code', where)}"
    elif isinstance(content, list) and all(_kind(one) == "web_search_result" for one in content):
        text = "\n".join(f"{_string(one, 'title', where)}: {_string(one, 'url', where)}" for one in content)
    else:
        raise RequestRefused(f"'{where}' must be a list of web_search_result blocks or an error", param="messages")
    return Message(role="tool", content=text, tool_name=names.get(asked, ""), tool_call_id=asked)


def _plain(name: ModelName, value: Any, path: str) -> str:
    """A string, or blocks of text."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise RequestRefused(f"'{path}' must be a string or a list of text blocks", param=path.partition("[")[0])
    texts = []
    for place, block in enumerate(value):
        where, kind = f"{path}[{place}]", _kind(block)
        if kind != "text":
            raise _unknown(name, kind, where)
        texts.append(_string(block, "text", where))
    return "\n\n".join(texts)


def _unknown(name: ModelName, kind: Any, path: str) -> RequestRefused:
    if not isinstance(kind, str):
        return RequestRefused(f"'{path}' must be an object with a type", param=path)
    if kind in OTHER_BLOCKS:
        return CapabilityMissing(f"{name.full} does not support {OTHER_BLOCKS[kind]}", param=path)
    return RequestRefused(f"'{path}.type' is {kind[:40]!r}, which this server does not know", param=path)


def _string(block: Mapping[str, Any], key: str, path: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise RequestRefused(f"'{path}.{key}' must be a string", param="messages")
    return value


# -- tools, thinking, form


def _tools(body: Body) -> tuple[tuple[Tool, ...], str, bool]:
    """Tools, choice (as prompts.Chat has it) and whether several calls are welcome."""
    tools = []
    for place, one in enumerate(few_tools(body.array("tools", dict, "anthropic.Tool"), "tools")):
        path, kind = f"tools[{place}]", one.get("type", "custom")
        if kind != "custom":
            raise RequestRefused(
                f"'{path}.type' is {str(kind)[:40]!r}: a hosted tool, and this server has none", param="tools"
            )
        tools.append(function_tool(one, path, "input_schema"))
    listed = each_once(tools, "tools")
    choice = body.object("tool_choice")
    kind = choice.get("type", "auto")
    parallel = choice.get("disable_parallel_tool_use") is not True
    if kind not in ("auto", "any", "tool", "none"):
        raise RequestRefused("'tool_choice.type' must be auto, any, tool or none", param="tool_choice")
    if kind == "none":
        return (), "auto", True
    named = {"name": _string(choice, "name", "tool_choice")} if kind == "tool" else None
    wanted = named or {"any": "required"}.get(kind, "auto")
    return listed, choice_of(wanted, listed, "tool_choice"), parallel


def _think(body: Body, card: ModelCard) -> Think:
    kind = body.object("thinking").get("type", "disabled")
    if kind not in ("enabled", "adaptive", "disabled"):
        raise RequestRefused("'thinking.type' must be enabled, adaptive or disabled", param="thinking")
    if not card.can("thinking"):
        return None
    if kind == "disabled":
        return False
    effort = {"xhigh": "high"}.get(str(body.object("output_config").get("effort")))
    effort = effort or body.object("output_config").get("effort")
    if effort is not None and effort not in THINK_LEVELS:
        raise RequestRefused("'output_config.effort' must be low, medium, high or max", param="output_config")
    return effort or True


def _form(body: Body) -> Constraint | None:
    """`output_config.format`, or `output_format` as it was called at first."""
    value = body.object("output_config").get("format") or body.raw("output_format")
    return form_of(value, "output_config.format")
