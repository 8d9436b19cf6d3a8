"""Fields that OpenAI's routes share, checked: sampling, form of the answer, tools and how they are chosen.

Refused by name: what would need another modality or a network. Unknown fields are passed over: clients send many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from native.record import record
from runtime.api.asking import THINK_LEVELS, think_of
from runtime.api.gojson import Body, dump
from runtime.api.tools import Tool, function_tools
from runtime.card import ModelCard
from runtime.engine.constraint import Constraint
from runtime.engine.sampling import MAX_BIAS
from runtime.errors import OptionRefused, RequestRefused
from runtime.options import INT32_MAX, Options, merge
from runtime.text.message import Think

MAX_ANSWERS = 128  # of one request: prompts times choices


def options_of(body: Body, card: ModelCard, *limits: str) -> Options:
    """`limits`: fields that bound the answer's tokens, the one that counts first."""
    asked: dict[str, Any] = {}
    for name in ("seed", "temperature", "top_p", "frequency_penalty", "presence_penalty"):
        if body.has(name):
            asked[name] = body.raw(name)
    limit = next((limit for limit in limits if body.has(limit)), None)
    if limit is not None:
        asked["num_predict"] = _most_tokens(body, limit)
    stop = body.raw("stop")
    if stop is not None:
        asked["stop"] = [item for item in (stop if isinstance(stop, list) else [stop]) if isinstance(item, str)]
    return openai_options({"temperature": 1.0, "top_p": 1.0}, card.params, body.object("options"), asked)


def _most_tokens(body: Body, name: str) -> int:
    """Options know this field by another name. More than any context has is no limit, and no mistake."""
    value = body.number(name)
    if value < 0:
        raise RequestRefused(f"'{name}' must be 0 or more, found {value:g}", param=name)
    return int(min(value, INT32_MAX))


def openai_options(*sources: Mapping[str, Any]) -> Options:
    """As `merge`, but a wrong type is a 400: OpenAI's and Anthropic's clients retry a 500."""
    try:
        return merge(*sources)
    except OptionRefused as error:
        raise OptionRefused(str(error), http_status=400, param=error.param) from None


def answers_of(body: Body, prompts: int = 1) -> int:
    """`n`."""
    count = body.integer("n", 1)
    if not 1 <= count <= MAX_ANSWERS // prompts:
        raise RequestRefused(
            f"'n' must be from 1 to {MAX_ANSWERS // prompts} here, found {count}: one request has at most "
            f"{MAX_ANSWERS} answers",
            param="n",
        )
    return count


def logit_bias_of(body: Body) -> dict[int, float]:
    found: dict[int, float] = {}
    given = body.object("logit_bias")
    if len(given) > MAX_BIAS:
        raise OptionRefused(f'option "logit_bias" names {len(given)} tokens; at most {MAX_BIAS} are allowed')
    for key, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and -100 <= value <= 100
        if not (key.isascii() and key.isdigit() and len(key) < 10 and number):
            raise RequestRefused("'logit_bias' must map token ids to numbers from -100 to 100", param="logit_bias")
        found[int(key)] = float(value)
    return found


def refuse_other_media(body: Body) -> None:
    for key in ("audio", "web_search_options"):
        if body.has(key):
            raise RequestRefused(f"'{key}' is not supported by this server", param=key)
    if any(kind != "text" for kind in body.array("modalities", str, "string")):
        raise RequestRefused("'modalities' must be [\"text\"]: this server answers in text only", param="modalities")


# -- the form of the answer


def form_of(value: Any, param: str = "response_format") -> Constraint | None:
    """`response_format` of chat, `text.format` of responses (where the schema lies one level higher)."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema"):
        shown = dump(kind if isinstance(value, dict) else value).decode()[:40]
        raise RequestRefused(f"'{param}.type' must be text, json_object or json_schema, found {shown}", param=param)
    holder = value.get("json_schema", value) if kind == "json_schema" else value
    schema = holder.get("schema") if isinstance(holder, dict) else None
    if schema is None and kind == "json_object":
        return Constraint(kind="json", param=param)
    if not isinstance(schema, dict):
        raise RequestRefused(f"'{param}' names no schema: expected a JSON Schema object", param=param)
    return Constraint(kind="schema", text=dump(schema).decode(), param=param)


# -- tools


@record(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """`choice` as in prompts.Chat. `legacy`: asked for with `functions`, and answered in that form. `parallel`: more
    than one call may be answered."""

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    legacy: bool = False
    parallel: bool = True


def tool_use_of(body: Body) -> ToolUse:
    legacy = not body.raw("tools") and bool(body.raw("functions"))
    if legacy:
        tools = function_tools([{"function": value} for value in body.array("functions", dict, "map")], "functions")
        return chosen(tools, body.raw("function_call"), "function_call", legacy=True, parallel=False)
    tools = function_tools(body.array("tools", dict, "map[string]interface {}"))
    return chosen(tools, body.raw("tool_choice"), "tool_choice", parallel=body.flag("parallel_tool_calls", True))


def chosen(tools: tuple[Tool, ...], value: Any, param: str, *, legacy: bool = False, parallel: bool = True) -> ToolUse:
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        inner = value.get("allowed_tools", value)  # responses spell it without the inner object
        tools, value = allowed_tools(tools, inner if isinstance(inner, dict) else {}, param)
    choice = choice_of(value, tools, param)
    if choice == "none":
        return ToolUse(legacy=legacy)
    return ToolUse(tools=tools, choice=choice, legacy=legacy, parallel=parallel)


def choice_of(value: Any, tools: tuple[Tool, ...], param: str) -> str:
    """ "auto", "none", "required" or, behind `=`, the name of a tool."""
    if value is None or value in ("auto", "none"):
        return value or "auto"
    if value != "required":
        holder = value.get("function", value) if isinstance(value, dict) else None
        name = holder.get("name") if isinstance(holder, dict) else None
        if not isinstance(name, str):
            raise RequestRefused(f"'{param}' must be auto, none, required or name a function", param=param)
        if name not in _names(tools):
            raise RequestRefused(f"'{param}' names {name[:80]!r}, which is not among the tools", param=param)
        return f"={name}"
    if not tools:
        raise RequestRefused(f"'{param}' is required, but there are no tools", param=param)
    return "required"


def allowed_tools(tools: tuple[Tool, ...], value: Mapping[str, Any], param: str) -> tuple[tuple[Tool, ...], Any]:
    listed = value.get("tools")
    known, names = _names(tools), set()
    for one in listed if isinstance(listed, list) else []:
        holder = one.get("function", one) if isinstance(one, dict) else {}
        name = holder.get("name") if isinstance(holder, dict) else None
        if not isinstance(name, str) or name not in known:
            raise RequestRefused(f"'{param}.tools' names {str(name)[:80]!r}, which is not among the tools", param=param)
        names.add(name)
    mode = value.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise RequestRefused(f"'{param}.mode' must be auto or required", param=param)
    return tuple(tool for tool in tools if tool["function"]["name"] in names), mode


def _names(tools: tuple[Tool, ...]) -> set[str]:
    return {tool["function"]["name"] for tool in tools}


# -- thinking

_EFFORTS: dict[str, str | bool] = {
    "none": False,
    "minimal": "low",
    "xhigh": "max",
    "ultra": "max",
    **{level: level for level in THINK_LEVELS},
}


def effort_of(body: Body, asked: str, card: ModelCard) -> Think:
    """`reasoning_effort` or `reasoning.effort` as a native `think` value."""
    value = body.raw("reasoning_effort") or body.object("reasoning").get("effort")
    if value is None:
        return think_of(None, asked, card)
    if not isinstance(value, str) or value not in _EFFORTS:
        expected = 'must be "high", "medium", "low", "max", or "none"'
        raise RequestRefused(f"invalid reasoning value: {str(value)[:40]!r} ({expected})", param="reasoning_effort")
    return think_of(_EFFORTS[value], asked, card, param="reasoning_effort")
