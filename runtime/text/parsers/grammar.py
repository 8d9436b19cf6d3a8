"""A family's call of one of some tools, as a grammar: for answers that must be a call.

Nothing but one call is in the language (gpt-oss may think before it). Its arguments are the tool's schema, closed
(runtime.engine.grammar_schema), in the spacing that templates show. Refuses a schema that no grammar keeps, with the
name of its tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtime.engine.constraint import Constraint
from runtime.engine.grammar_schema import closed_schema
from runtime.errors import RequestRefused
from runtime.text.parsers.calls import Offered, kinds
from runtime.text.parsers.syntax import Syntax

Pieces = Callable[[str], Iterable[str | int]]  # a text as texts and the control tokens among them

_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_THOUGHT = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
_TEXT = r"text[lazy]: /(?s:.*)\n<\/parameter>\n/"


def call_grammar(syntax: Syntax, offered: Offered, *, only: str | None, pieces: Pieces) -> Constraint | None:
    """only: the one tool that must be called. None where the family's form is not written down, or there is no such
    tool. Raises RequestRefused."""
    schemas = {name: schema for name, schema in offered.schemas.items() if only in (None, name)}
    if not syntax.written or not schemas:
        return None
    closed = {name: _closed(name, schema) for name, schema in schemas.items()}
    try:
        closed_schema(json.dumps({"$defs": closed}))  # the limits hold for all of them together
    except RequestRefused as refused:
        raise RequestRefused(str(refused), hint=refused.hint, param="tools") from None
    before, _, after = syntax.written.partition("{arguments}")
    calls: list[str] = []
    rules: list[str] = []
    for number, (name, schema) in enumerate(closed.items()):
        inner, more = _arguments(f"arguments{number}", schema, xml="<parameter=" in syntax.inner)
        head, tail = (part.format(name=_json(name), bare=name) for part in (before, after))
        calls.append(" ".join([*_terms(head, pieces), inner, *_terms(tail, pieces)]))
        rules += more
    thought = []
    if syntax.channels:
        opening, closing = (" ".join(_terms(text, pieces)) for text in _THOUGHT)
        thought = [f"thought: {opening} FREE {closing}", "FREE: /(?s:.*)/"]
    rules = [f"start: {'thought? ' if thought else ''}call", *thought, f"call: {' | '.join(calls)}", *rules]
    return Constraint(kind="lark", text="\n".join([*dict.fromkeys(rules), ""]), calls=True, param="tools")


def _closed(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    try:
        closed: dict[str, Any] = json.loads(closed_schema(json.dumps({"type": "object", "properties": {}, **schema})))
    except RequestRefused as refused:
        raise RequestRefused(f"tool {name!r}: {refused}", hint=refused.hint, param="tools") from None
    if not closed["properties"]:
        closed.setdefault("additionalProperties", False)
    return closed


def _arguments(rule: str, schema: Mapping[str, Any], *, xml: bool) -> tuple[str, list[str]]:
    """What stands for the arguments in a call, and the rules it needs."""
    if not xml:
        return rule, [f"{rule}: {_value(schema)}"]
    parts: list[str] = []
    rules: list[str] = []
    for number, (key, inner) in enumerate(schema["properties"].items()):
        part = f"{rule}_{number}"
        parts.append(part if key in schema.get("required", ()) else part + "?")
        opening = _json(f"<parameter={key}>\n")
        if kinds(inner) - {"string"}:
            inner = {**inner, **{defs: schema[defs] for defs in ("$defs", "definitions") if defs in schema}}
            rules.append(f'{part}: {opening} {part}_value "\\n</parameter>\\n"')
            rules.append(f"{part}_value: {_value(inner)}")
        elif isinstance(choices := inner.get("enum"), list):
            one = " | ".join(_json(f"{choice}") for choice in choices)
            rules.append(f'{part}: {opening} ({one}) "\\n</parameter>\\n"')
        else:
            rules += [f"{part}: {opening} text", _TEXT]
    return " ".join(parts) or '""', rules


def _value(schema: Mapping[str, Any]) -> str:
    return f"%json {_json({**schema, 'x-guidance': _SPACING})}"


def _terms(text: str, pieces: Pieces) -> list[str]:
    return [f"<[{piece}]>" if isinstance(piece, int) else _json(piece) for piece in pieces(text)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
