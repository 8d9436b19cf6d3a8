"""What an answer must be: a language that every answer of one request belongs to.

`kind` says how `text` describes it: "json" (any JSON object; `text` is empty), "schema" (a JSON schema as JSON text),
"regex", "lark" (llguidance's Lark dialect). `after`: the language begins behind the first occurrence of this text, what
comes before it is free (a model that thinks first); "" from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["json", "schema", "regex", "lark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    kind: Kind
    text: str = ""
    after: str = ""
