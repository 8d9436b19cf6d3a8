"""A Go chat template: parse once, ask what it uses, render it. The three modes of the dialect are here.

* messages: one execution over the whole conversation, when the text mentions .Messages.
* legacy: one execution per turn with .System, .Prompt and .Response; the last turn ends right after .Response.
* suffix: one execution with .Prompt and .Suffix.

Where Ollama's last legacy turn loses its functions and panics at a .Response inside if/else, this one works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from runtime.text.gotemplate import nodes
from runtime.text.gotemplate.executor import Limits, execute
from runtime.text.gotemplate.functions import NAMES
from runtime.text.gotemplate.parser import parse
from runtime.text.gotemplate.values import Value

_RESPONSE = nodes.Field(names=("Response",))


class GoTemplate:
    def __init__(self, source: str, *, limits: Limits | None = None) -> None:
        """Raises TemplateSyntaxError or TemplateLimitError."""
        parsed = parse(source, NAMES)
        self.source = source
        self._limits = limits or Limits()
        self._defined = parsed.defined
        self._root = parsed.root
        if not {"messages", "response"} & self.variables():
            pipe = nodes.Pipe(line=1, names=(), assign=False, commands=(nodes.Command(args=(_RESPONSE,)),))
            self._root = (*self._root, nodes.Action(pipe=pipe, line=1 + source.count("\n")))

    def variables(self) -> frozenset[str]:
        """Every field and variable part the text names, in lower case."""
        bodies = (self._root, *self._defined.values())
        return frozenset(name.lower() for body in bodies for name in _names(body))

    def thinking_tags(self) -> tuple[str, str] | None:
        """The texts around .Thinking inside the range over .Messages, or None."""
        for branch in _branches(self._root):
            if branch.kind == "range" and "Messages" in set(_pipe_names(branch.pipe)):
                tags = _around(branch.body, "Thinking")
                if tags is not None:
                    return tags
        return None

    def tool_tag(self) -> str | None:
        """The text before a call: the first text that is not blank where .ToolCalls is told, up to `{`; `{` when
        there is none; None without .ToolCalls."""
        for branch in _branches(self._root):
            if "ToolCalls" in set(_pipe_names(branch.pipe)):
                return _first_text(branch.body).split("{", 1)[0].strip() or "{"
        return None

    def execute(self, data: Mapping[str, Value]) -> str:
        """One plain execution. Raises TemplateError."""
        return execute(self._root, self._defined, dict(data), self._limits)

    def execute_open(self, data: Mapping[str, Value]) -> str:
        """One execution that ends right after .Response: the turn that the model continues."""
        root, _ = _cut(self._root)
        return execute(root, self._defined, dict(data), self._limits)

    def execute_turns(self, turns: Iterable[tuple[str, str]], extra: Mapping[str, Value]) -> str:
        """Legacy mode. turns: (role, content) in order; roles other than system, user and assistant are skipped."""
        out: list[str] = []
        turn: dict[str, Value] = {"System": "", "Prompt": "", "Response": ""}
        for role, content in turns:
            complete = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(role, ())
            if any(turn[name] for name in complete):
                out.append(self.execute({**extra, **turn}))
                turn = {"System": "", "Prompt": "", "Response": ""}
            slot = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(role)
            if slot is not None:
                turn[slot] = content
        out.append(self.execute_open({**extra, **turn}))
        return "".join(out)


def _cut(body: nodes.Nodes) -> tuple[nodes.Nodes, bool]:
    """The nodes up to and with the first that prints .Response, and whether there was one."""
    kept: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.Branch):
            inner, found = _cut(node.body)
            orelse, found_else = _cut(node.orelse) if node.orelse is not None else (None, False)
            kept.append(replace(node, body=inner, orelse=orelse))
            if found or found_else:
                return tuple(kept), True
            continue
        kept.append(node)
        if isinstance(node, nodes.Action) and "Response" in set(_pipe_names(node.pipe)):
            return tuple(kept), True
    return tuple(kept), False


def _branches(body: nodes.Nodes) -> Iterator[nodes.Branch]:
    for node in body:
        if isinstance(node, nodes.Branch):
            yield node
            yield from _branches(node.body)
            yield from _branches(node.orelse or ())


def _first_text(body: nodes.Nodes) -> str:
    """The first text that is not blank, unless a value is printed or another block ends before it."""
    for node in body:
        if isinstance(node, nodes.Text) and not node.text.strip():
            continue
        if isinstance(node, nodes.Branch):
            return _first_text(node.body) or _first_text(node.orelse or ())
        return node.text if isinstance(node, nodes.Text) else ""
    return ""


def _around(body: nodes.Nodes, name: str) -> tuple[str, str] | None:
    for index, node in enumerate(body):
        if isinstance(node, nodes.Action) and name in set(_pipe_names(node.pipe)):
            texts = [_text(body, index - 1), _text(body, index + 1)]
            return (texts[0], texts[1]) if all(texts) else None
        if isinstance(node, nodes.Branch):
            for inner in (node.body, node.orelse or ()):
                tags = _around(inner, name)
                if tags is not None:
                    return tags
    return None


def _text(body: nodes.Nodes, index: int) -> str:
    node = body[index] if 0 <= index < len(body) else None
    return node.text.strip() if isinstance(node, nodes.Text) else ""


def _names(body: nodes.Nodes) -> Iterator[str]:
    for node in body:
        if isinstance(node, (nodes.Action, nodes.Branch, nodes.Call)) and node.pipe is not None:
            yield from _pipe_names(node.pipe)
        if isinstance(node, nodes.Branch):
            yield from _names(node.body)
            yield from _names(node.orelse or ())


def _pipe_names(pipe: nodes.Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for arg in command.args:
            yield from _operand_names(arg)


def _operand_names(arg: nodes.Operand) -> Iterator[str]:
    if isinstance(arg, nodes.Pipe):
        yield from _pipe_names(arg)
    elif isinstance(arg, nodes.Chain):
        yield from _operand_names(arg.base)
        yield from arg.names
    elif isinstance(arg, nodes.Variable):
        yield arg.name
        yield from arg.names
    elif isinstance(arg, nodes.Field):
        yield from arg.names
