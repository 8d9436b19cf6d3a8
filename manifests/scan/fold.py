"""What a Jinja expression of constant texts would be, without running it: the pieces of an assembled name.

Knows +, ~, *, join, replace, reverse, lower, upper, trim, slices and the like over texts and lists of texts, and
names that were set to such. Every result is at most MAX_CHARS long and every set of alternatives at most MAX_VALUES
large; beyond, and for all it does not know, the answer is the empty set. So `'a' * 10 ** 9` costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from jinja2 import nodes

MAX_CHARS = 512
MAX_VALUES = 16
MAX_STEPS = 100_000  # of one template
Values = tuple[Any, ...]  # alternatives: texts, whole numbers, lists of them

_METHODS: dict[str, Callable[..., Any]] = {
    "replace": lambda text, old, new: _replaced(text, old, new),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "strip": lambda text, chars=None: text.strip(chars),
    "lstrip": lambda text, chars=None: text.lstrip(chars),
    "rstrip": lambda text, chars=None: text.rstrip(chars),
    "title": lambda text: text.title(),
    "capitalize": lambda text: text.capitalize(),
    "swapcase": lambda text: text.swapcase(),
    "reverse": lambda value: value[::-1],
    "string": lambda value: str(value),
    "list": lambda value: list(value),
    "first": lambda value: value[0],
    "last": lambda value: value[-1],
    "split": lambda text, mark=None: text.split(mark),
    "safe": lambda text: text,
    "int": lambda value: int(value),
}


class Folder:
    """`names`: every constant a name was ever set to in the template, whatever the flow."""

    def __init__(self, tree: nodes.Template) -> None:
        self.steps = 0
        self.names: dict[str, Values] = {}
        for _ in range(3):  # names set from names
            for assign in tree.find_all(nodes.Assign):
                if isinstance(assign.target, nodes.Name):
                    self._learn(assign.target.name, self.values(assign.node))
                elif isinstance(assign.target, nodes.NSRef):
                    self._learn(f"{assign.target.name}.{assign.target.attr}", self.values(assign.node))

    def _learn(self, name: str, values: Iterable[Any]) -> None:
        known = self.names.get(name, ())
        for value in values:
            if value not in known:
                known += (value,)
        self.names[name] = known[:MAX_VALUES]

    def texts(self, node: nodes.Node | None) -> tuple[str, ...]:
        return tuple(value for value in self.values(node) if isinstance(value, str)) if node is not None else ()

    def values(self, node: nodes.Node) -> Values:
        self.steps += 1
        if self.steps > MAX_STEPS:
            return ()
        try:
            found = list(self._values(node))
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError):
            return ()
        return tuple(value for value in found if _small(value))[:MAX_VALUES]

    def _values(self, node: nodes.Node) -> Iterable[Any]:
        if isinstance(node, nodes.Const):
            return (node.value,) if isinstance(node.value, (str, int)) else ()
        if isinstance(node, nodes.TemplateData):
            return (node.data,)
        if isinstance(node, nodes.Name):
            return self.names.get(node.name, ())
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
            return self.names.get(f"{node.node.name}.{node.attr}", ())
        if isinstance(node, (nodes.List, nodes.Tuple)):
            return self._combine(node.items, lambda *items: list(items))
        if isinstance(node, nodes.Concat):
            return self._combine(node.nodes, lambda *items: "".join(map(str, items)))
        if isinstance(node, nodes.Add):
            return self._combine([node.left, node.right], lambda left, right: left + right)
        if isinstance(node, nodes.Mul):
            return self._combine([node.left, node.right], _times)
        if isinstance(node, nodes.Neg):
            return [-value for value in self.values(node.node) if isinstance(value, int)]
        if isinstance(node, nodes.CondExpr):
            return (*self.values(node.expr1), *(self.values(node.expr2) if node.expr2 else ()))
        if isinstance(node, nodes.Getitem):
            return self._item(node)
        if isinstance(node, nodes.Filter) and node.node is not None:
            return self._method(node.name, node.node, node.args)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            return self._method(node.node.attr, node.node.node, node.args)
        return ()

    def _item(self, node: nodes.Getitem) -> Iterable[Any]:
        if not isinstance(node.arg, nodes.Slice):
            return self._combine([node.node, node.arg], lambda value, key: value[key])
        parts = [node.arg.start, node.arg.stop, node.arg.step]
        bounds = [self.values(part) if part is not None else (None,) for part in parts]
        return [value[slice(*cut)] for value in self.values(node.node) for cut in product(*bounds)]

    def _method(self, name: str, on: nodes.Expr, args: list[nodes.Expr]) -> Iterable[Any]:
        if name == "join":
            return self._join(on, args)
        function = _METHODS.get(name)
        return self._combine([on, *args], function) if function else ()

    def _join(self, on: nodes.Expr, args: list[nodes.Expr]) -> Iterable[Any]:
        """Both `['a', 'b'] | join('-')` and `'-'.join(['a', 'b'])`."""
        marks = self.values(args[0]) if args else ("",)
        for value, mark in product(self.values(on), marks):
            pieces, glue = (mark, value) if isinstance(value, str) and isinstance(mark, list) else (value, mark)
            yield str(glue).join(map(str, pieces))

    def _combine(self, parts: list[nodes.Expr], make: Callable[..., Any]) -> list[Any]:
        alternatives = [self.values(part) for part in parts[:64]]
        if len(parts) > 64 or not all(alternatives):
            return []
        found = []
        for choice in product(*alternatives):
            found.append(make(*choice))
            if len(found) >= MAX_VALUES:
                break
        return found


def _replaced(text: str, old: str, new: str) -> str:
    if len(text) + text.count(old) * len(new) > 4 * MAX_CHARS:
        raise ValueError("too large")
    return text.replace(old, new)


def _times(left: Any, right: Any) -> Any:
    if isinstance(right, (str, list)):
        left, right = right, left
    size = len(left) if isinstance(left, (str, list)) else 1
    if isinstance(right, int) and abs(right) * size <= MAX_CHARS:
        return left * right
    raise ValueError("too large")


def _small(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_CHARS
    if isinstance(value, list):
        return len(value) <= MAX_CHARS and all(_small(item) for item in value)
    return isinstance(value, int) and abs(value) < 1 << 62
