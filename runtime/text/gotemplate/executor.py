"""Runs a template tree over plain values, by Go's rules.

Bounds: steps, time, output size and depth of blocks and template calls. The only errors that come out are TemplateError
and its kinds; each carries the line of the action that was running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from runtime.text.errors import TemplateError, TemplateLimitError
from runtime.text.gotemplate import nodes
from runtime.text.gotemplate.functions import FUNCTIONS, SHORT_CIRCUIT, typescript_type
from runtime.text.gotemplate.values import JsonList, JsonMap, Struct, Value, mapping, sequence, shown, truth, type_name
from runtime.text.patience import Deadline

STEPS = 128  # between two looks at the clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    output_chars: int = 16 << 20  # of a prompt: twice what a conversation may have
    steps: int = 1_000_000  # nodes, arguments and loop turns
    work_chars: int = 64 << 20  # text made by functions, shown or not
    depth: int = 60  # blocks and template calls inside one another


class _NoFinal:
    """There is no value from an earlier stage of the pipeline (nil is a value)."""


_NO_FINAL = _NoFinal()
_Final: TypeAlias = "Value | _NoFinal"  # the result of the stage before, given as last argument


class _Jump(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


def execute(root: nodes.Nodes, defined: Mapping[str, nodes.Nodes], data: Value, limits: Limits) -> str:
    """Raises TemplateError for what Go calls an execution error, TemplateLimitError at a bound."""
    run = _Run(defined, limits)
    try:
        run.template(root, data)
    except RecursionError:
        raise TemplateLimitError("nested too deep", line=run.line) from None
    except TemplateError as error:
        if error.line is not None:
            raise
        raise type(error)(str(error), line=run.line, hint=error.hint) from error
    return "".join(run.out)


class _Run:
    def __init__(self, defined: Mapping[str, nodes.Nodes], limits: Limits) -> None:
        self._defined = defined
        self._limits = limits
        self._variables: list[tuple[str, Value]] = []
        self._steps = self._size = self._work = self._depth = 0
        self._deadline = Deadline()
        self.line = 1
        self.out: list[str] = []

    # blocks

    def template(self, body: nodes.Nodes, data: Value) -> None:
        saved = self._variables
        self._variables = [("$", data)]
        self._walk(body, data)
        self._variables = saved

    def _walk(self, body: nodes.Nodes, dot: Value) -> None:
        self._depth += 1
        if self._depth > self._limits.depth:
            raise TemplateLimitError(f"exceeded maximum template depth ({self._limits.depth})")
        for node in body:
            self._step()
            self._node(node, dot)
        self._depth -= 1

    def _node(self, node: nodes.Node, dot: Value) -> None:
        self.line = node.line
        if isinstance(node, nodes.Text):
            self._write(node.text)
        elif isinstance(node, nodes.Action):
            value = self._pipe(node.pipe, dot)
            if not node.pipe.names:
                self._write(shown(value))
        elif isinstance(node, nodes.Branch):
            self._branch(node, dot)
        elif isinstance(node, nodes.Jump):
            raise _Jump(node.kind)
        else:
            self._call_template(node, dot)

    def _call_template(self, node: nodes.Call, dot: Value) -> None:
        body = self._defined.get(node.name)
        if body is None:
            raise TemplateError(f'template "{node.name}" not defined')
        self.template(body, None if node.pipe is None else self._pipe(node.pipe, dot))

    def _branch(self, node: nodes.Branch, dot: Value) -> None:
        mark = len(self._variables)
        if node.kind == "range":
            self._range(node, dot, mark)
        else:
            value = self._pipe(node.pipe, dot)
            if truth(value):
                self._walk(node.body, value if node.kind == "with" else dot)
            elif node.orelse is not None:
                self._walk(node.orelse, dot)
        del self._variables[mark:]

    def _range(self, node: nodes.Branch, dot: Value, mark: int) -> None:
        value = self._pipe(node.pipe, dot, declare=False)
        pairs = self._pairs(value)
        depth = self._depth
        for index, element in pairs:
            self._step()
            self._bind(node.pipe, index, element)
            try:
                self._walk(node.body, element)
            except _Jump as jump:
                self._depth = depth
                if jump.kind == "break":
                    break
            finally:
                if not node.pipe.assign:
                    del self._variables[mark:]
        if not pairs and node.orelse is not None:
            self._walk(node.orelse, dot)

    def _pairs(self, value: Value) -> list[tuple[Value, Value]]:
        if value is None:
            return []
        items, table = sequence(value), mapping(value)
        if items is not None:
            return list(enumerate(items))
        if table is not None:
            return [(key, table[key]) for key in sorted(table)]
        if isinstance(value, int) and not isinstance(value, bool):
            if value > self._limits.steps:
                raise TemplateLimitError(f"range over {value}")
            return [(index, index) for index in range(value)]
        raise TemplateError(f"range can't iterate over {shown(value)}")

    def _bind(self, pipe: nodes.Pipe, index: Value, element: Value) -> None:
        values = {0: (), 1: (element,), 2: (index, element)}[len(pipe.names)]
        for name, value in zip(pipe.names, values, strict=True):
            self._set(name, value) if pipe.assign else self._variables.append((name, value))

    # values

    def _pipe(self, pipe: nodes.Pipe, dot: Value, *, declare: bool = True) -> Value:
        self.line = pipe.line
        value: _Final = _NO_FINAL
        for command in pipe.commands:
            value = self._command(command, dot, value)
        assert not isinstance(value, _NoFinal)
        for name in pipe.names if declare else ():
            if pipe.assign:
                self._set(name, value)
            else:
                self._variables.append((name, value))
        return value

    def _set(self, name: str, value: Value) -> None:
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                self._variables[index] = (name, value)
                return
        raise TemplateError(f"undefined variable: {name}")

    def _get(self, name: str) -> Value:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        raise TemplateError(f"undefined variable: {name}")

    def _command(self, command: nodes.Command, dot: Value, final: _Final) -> Value:
        first = command.args[0]
        if isinstance(first, nodes.Name):
            return self._function(first.name, command.args[1:], dot, final)
        if len(command.args) > 1 or not isinstance(final, _NoFinal):
            what = first.names[-1] if isinstance(first, nodes.Field) else "value"
            raise TemplateError(f"{what} has arguments but cannot be invoked as function")
        if isinstance(first, nodes.Constant) and first.value is None:
            raise TemplateError("nil is not a command")
        return self._operand(first, dot)

    def _operand(self, node: nodes.Operand, dot: Value) -> Value:
        self._step()
        if isinstance(node, nodes.Constant):
            return node.value
        if isinstance(node, nodes.Dot):
            return dot
        if isinstance(node, nodes.Field):
            return self._fields(dot, node.names)
        if isinstance(node, nodes.Variable):
            return self._fields(self._get(node.name), node.names)
        if isinstance(node, nodes.Chain):
            return self._fields(self._operand(node.base, dot), node.names)
        if isinstance(node, nodes.Pipe):
            return self._pipe(node, dot)
        return self._function(node.name, (), dot, _NO_FINAL)

    def _fields(self, value: Value, names: tuple[str, ...]) -> Value:
        for name in names:
            value = self._field(value, name)
        return value

    def _field(self, value: Value, name: str) -> Value:
        if value is None:
            raise TemplateError(f"nil data; no entry for key {name!r}: <.{name}> of a missing value")
        if name == "String" and (
            isinstance(value, (JsonMap, JsonList)) or (isinstance(value, Struct) and value.as_json)
        ):
            return shown(value)
        if isinstance(value, Struct):
            if name == "ToTypeScriptType" and "AnyOf" in value.fields:
                return typescript_type(value)
            if name not in value.fields:
                raise TemplateError(f"can't evaluate field {name} in type {value.type}")
            return value.fields[name]
        table = mapping(value)
        if table is None:
            raise TemplateError(f"can't evaluate field {name} in type {type_name(value)}")
        return table.get(name)

    def _function(self, name: str, args: tuple[nodes.Operand, ...], dot: Value, final: _Final) -> Value:
        if name in SHORT_CIRCUIT:
            return self._short_circuit(name, args, dot, final)
        function, fewest, most = FUNCTIONS[name]
        values = [self._operand(arg, dot) for arg in args]
        if not isinstance(final, _NoFinal):
            values.append(final)
        if len(values) < fewest or (most is not None and len(values) > most):
            want = f"{fewest}" if fewest == most else f"at least {fewest}" if most is None else f"{fewest} to {most}"
            raise TemplateError(f"wrong number of args for {name}: want {want} got {len(values)}")
        result = function(*values)
        if isinstance(result, str):
            self._work += len(result)
            if self._work > self._limits.work_chars:
                raise TemplateLimitError(f"functions made more than {self._limits.work_chars} characters")
        return result

    def _short_circuit(self, name: str, args: tuple[nodes.Operand, ...], dot: Value, final: _Final) -> Value:
        if not args and isinstance(final, _NoFinal):
            raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")
        value: Value = None
        for arg in args:
            value = self._operand(arg, dot)
            if truth(value) == (name == "or"):
                return value
        return value if isinstance(final, _NoFinal) else final

    # bounds

    def _step(self) -> None:
        self._steps += 1
        if self._steps > self._limits.steps:
            raise TemplateLimitError(f"took more than {self._limits.steps} steps")
        if self._steps % STEPS == 0:
            self._deadline.check()

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > self._limits.output_chars:
            raise TemplateLimitError(f"made more than {self._limits.output_chars} characters")
        self.out.append(text)
