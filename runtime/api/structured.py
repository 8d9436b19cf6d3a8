"""`structured_outputs`: the form of an answer beyond JSON, in the field that vLLM's clients send; on chat and on
completion routes of both APIs. One of `regex`, `grammar` (Lark), `choice` (texts), `json` (a schema), `json_object`.

Refuses: two forms at once, an empty one, and other keys that are set (they would bind the answer further).
"""

from __future__ import annotations

import json
from typing import Any

from runtime.api.gojson import Body, dump
from runtime.engine.constraint import Constraint
from runtime.errors import RequestRefused

FIELD = "structured_outputs"
MAX_CHOICES = 1024


def structured_form(body: Body, other: Constraint | None) -> Constraint | None:
    """`other`: what `format` or `response_format` says, which stands where this field is absent."""
    asked = {key: value for key, value in body.object(FIELD).items() if value is not None and value is not False}
    if not asked:
        return other
    if other is not None or len(asked) > 1:
        raise RequestRefused(f"'{FIELD}': an answer has one form, found more than one", param=FIELD)
    ((key, value),) = asked.items()
    if key == "json_object":
        return Constraint(kind="json", param=FIELD)
    if key == "json" and isinstance(value, (dict, str)):
        return Constraint(kind="schema", text=value if isinstance(value, str) else dump(value).decode(), param=FIELD)
    if key in ("regex", "grammar") and isinstance(value, str) and value:
        return Constraint(kind="regex" if key == "regex" else "lark", text=value, param=FIELD)
    if key == "choice":
        return _one_of(value)
    raise RequestRefused(
        f"'{FIELD}.{key[:40]}' is not known, or of a wrong type: expected regex, grammar, choice, json or json_object",
        param=FIELD,
    )


def _one_of(texts: Any) -> Constraint:
    whole = (
        isinstance(texts, list) and 0 < len(texts) <= MAX_CHOICES and all(isinstance(one, str) and one for one in texts)
    )
    if not whole:
        raise RequestRefused(f"'{FIELD}.choice' must be a list of 1 to {MAX_CHOICES} texts", param=FIELD)
    text = "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in texts)
    return Constraint(kind="lark", text=text, param=FIELD)
