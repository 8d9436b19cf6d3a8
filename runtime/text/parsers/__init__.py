"""From an answer's text to its parts: what the model says, what it thinks, which tools it calls.

A Parser is fed the text of one answer in pieces of any size and gives parts as soon as they are certain: text that
could still turn out to be the beginning of a tag is held back. What the parts say does not depend on the cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.text.message import ToolCall


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    call: ToolCall


Part = Content | Thinking | Call


class Parser(Protocol):
    def push(self, text: str) -> list[Part]: ...

    def flush(self) -> list[Part]:
        """At the end of the answer: what was held back, as what it then is."""
        ...


class Plain:
    """An answer that is content and nothing else."""

    def push(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def flush(self) -> list[Part]:
        return []
