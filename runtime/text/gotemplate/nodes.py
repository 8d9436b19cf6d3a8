"""The syntax tree of a Go template: plain frozen data. Lines count from 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    text: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    value: str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A function."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """.A.B"""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """$x.A.B; `name` has the dollar sign."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """(pipeline).A.B"""

    base: Operand
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    args: tuple[Operand, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipe:
    """names: variables that take the result (two for `range $i, $e`); assign: `=` instead of `:=`."""

    line: int
    names: tuple[str, ...]
    assign: bool
    commands: tuple[Command, ...]


Operand: TypeAlias = "Constant | Dot | Name | Field | Variable | Chain | Pipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    pipe: Pipe
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    kind: Literal["if", "with", "range"]
    pipe: Pipe
    body: tuple[Node, ...]
    orelse: tuple[Node, ...] | None
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """{{template "name" pipeline}}"""

    name: str
    pipe: Pipe | None
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Jump:
    kind: Literal["break", "continue"]
    line: int


Node: TypeAlias = "Text | Action | Branch | Call | Jump"
Nodes: TypeAlias = "tuple[Node, ...]"
