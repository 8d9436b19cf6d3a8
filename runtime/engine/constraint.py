"""What an answer must be: a language that every answer of one request belongs to, and what of such a wish is refused.

`kind` says how `text` describes it: "json" (any JSON object; `text` is empty), "schema" (a JSON schema as JSON text),
"regex", "lark" (llguidance's Lark dialect). `after`: the language begins behind the first occurrence of this text, what
comes before it is free (a model that thinks first); "" from the beginning. `opening`: what comes before begins with
this text, or there is nothing before (a model that may think first). `calls`: a grammar that the server wrote, of
schemas that were checked together: few rules deep, so that it may be longer than a stranger's. `param`: the field of
the request that asked for it, to blame where it is refused; "" where none did.

Refuses here, before the worker sees it: a text over its limit, a schema that grammar_schema.py refuses. What only the
grammar's compiler can see (a regex that is none, a schema that no value satisfies) the worker refuses, before it
computes anything.
"""

from __future__ import annotations

from typing import Literal

from native.record import record, replace
from runtime.engine.grammar_schema import closed_schema
from runtime.errors import RequestRefused

Kind = Literal["json", "schema", "regex", "lark"]

MAX_TEXT: dict[Kind, int] = {"json": 0, "schema": 128 << 10, "regex": 4 << 10, "lark": 32 << 10}  # bytes
MAX_CALLS = 512 << 10  # bytes of a grammar of tool calls: 128 large tools compile in half a second
MAX_AFTER = 64  # characters
NAMES: dict[Kind, str] = {
    "json": "the JSON format", "schema": "the JSON schema", "regex": "the regular expression", "lark": "the grammar",
}  # fmt: skip


@record(frozen=True, slots=True, kw_only=True)
class Constraint:
    kind: Kind
    text: str = ""
    after: str = ""
    opening: str = ""
    calls: bool = False
    param: str = ""


def prepared(constraint: Constraint) -> Constraint:
    """The same language as the worker takes it: a schema is checked, and its objects are closed (grammar_schema.py).

    Raises RequestRefused. Takes milliseconds for a large schema, so a server calls it in a thread.
    """
    try:
        return _prepared(constraint)
    except RequestRefused as refused:
        raise blamed(refused, constraint) from None


def blamed(refused: RequestRefused, constraint: Constraint) -> RequestRefused:
    """The same error, with the field that asked for the constraint."""
    refused.param = refused.param or constraint.param or None
    return refused


def _prepared(constraint: Constraint) -> Constraint:
    size = len(constraint.text.encode("utf-8", "replace"))
    most = MAX_CALLS if constraint.calls else MAX_TEXT[constraint.kind]
    if size > most:
        raise RequestRefused(f"{NAMES[constraint.kind]} has {size} bytes; at most {most} are allowed")
    if (length := max(len(constraint.after), len(constraint.opening))) > MAX_AFTER:
        raise RequestRefused(f"the text before the answer has {length} characters, at most {MAX_AFTER}")
    if constraint.kind == "schema":
        return replace(constraint, text=closed_schema(constraint.text))
    return constraint
