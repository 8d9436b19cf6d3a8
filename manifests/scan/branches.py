"""Hidden branches of a Jinja template: conditions that look at what somebody said, or at the date.

Content is what `.content`, `['content']`, `.text` give, and every name, loop variable, namespace field or macro
parameter that was set from it, by a method or not; dates come from strftime_now and names set from it. A comparison of
such a value with a constant of ordinary words is a gate. Markers are not words:
`<think>`, `[INST]`, `/no_think`, punctuation.

A gate whose branch puts in words of its own is a hidden branch; one that does not is told as a content gate.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from manifests.scan.fold import Folder
from manifests.scan.rules import Hit
from manifests.scan.text import is_words, said

_CONTENT = frozenset({"content", "text", "prompt", "reasoning_content"})
_SEARCHES = frozenset({
    "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition", "split",
})  # fmt: skip
_TESTS = frozenset({"in", "eq", "equalto", "==", "ne", "!=", "contains", "sameas", "gt", "lt", "ge", "le"})
_NO_TEXT = frozenset({"length", "count", "wordcount"})  # filters that give a number
CONTENT, PART, DATE = "content", "part", "date"


class Branches:
    def __init__(self, tree: nodes.Template, fold: Folder) -> None:
        self.tree, self.fold = tree, fold
        self.tainted: dict[str, str] = {}
        self.gated: dict[str, str] = {}  # names set from a comparison
        self.macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        for _ in range(4):  # names set from names set from names
            before = len(self.tainted) + len(self.gated)
            self._spread()
            if len(self.tainted) + len(self.gated) == before:
                break

    def hits(self) -> Iterator[Hit]:
        for branch in self.tree.find_all((nodes.If, nodes.CondExpr, nodes.For, nodes.Output)):
            # in an output, `gate and text`, `text * gate`, `[…][gate]` are branches too
            condition = getattr(branch, "test", branch)
            if condition is None or (gate := self._gate(condition)) is None:
                continue
            words = _words(branch)
            rule = "template.hidden-branch" if words else "template.content-gate"
            yield rule, f"line {branch.lineno}: where {gate[:80]}{': ' + words[:120] if words else ''}"

    # -- where content goes

    def _spread(self) -> None:
        for assign in self.tree.find_all(nodes.Assign):
            self._mark(assign.target, self._taint(assign.node))
            if gate := self._gate(assign.node):
                self.gated.setdefault(_name(assign.target), gate)
        for loop in self.tree.find_all(nodes.For):
            taint = self._taint(loop.iter)
            # the elements of a content are its parts (images, texts); those of what a method made of it are texts
            self._mark(loop.target, PART if taint == CONTENT and not isinstance(loop.iter, nodes.Call) else taint)
        for call in self.tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in self.macros:
                macro = self.macros[call.node.name]
                for parameter, argument in zip(macro.args, call.args):  # noqa: B905 (a call may give fewer)
                    self._mark(parameter, self._taint(argument))
                named = {keyword.key: keyword.value for keyword in call.kwargs}
                for parameter in macro.args:
                    if parameter.name in named:
                        self._mark(parameter, self._taint(named[parameter.name]))

    def _mark(self, target: nodes.Node, taint: str | None) -> None:
        if taint is None:
            return
        if isinstance(target, nodes.Name):
            self._set(target.name, taint)
        elif isinstance(target, nodes.NSRef):
            self._set(f"{target.name}.{target.attr}", taint)
        elif isinstance(target, nodes.Tuple):
            for item in target.items:
                self._mark(item, taint)

    def _set(self, name: str, taint: str) -> None:
        if self.tainted.get(name) in (None, PART):  # content outweighs part
            self.tainted[name] = taint

    def _taint(self, node: nodes.Node | None) -> str | None:
        if isinstance(node, nodes.Name):
            return self.tainted.get(node.name)
        if isinstance(node, nodes.Getattr):
            own = self.tainted.get(f"{node.node.name}.{node.attr}") if isinstance(node.node, nodes.Name) else None
            return CONTENT if node.attr in _CONTENT else own
        if isinstance(node, nodes.Getitem):
            return self._item(node)
        if isinstance(node, nodes.Filter):
            return None if node.name in _NO_TEXT else self._taint(node.node)
        if isinstance(node, nodes.Call):
            return self._call(node)
        if isinstance(node, nodes.CondExpr):
            return self._taint(node.expr1) or self._taint(node.expr2)
        if isinstance(node, nodes.Concat):
            return next(filter(None, map(self._taint, node.nodes)), None)
        if isinstance(node, (nodes.BinExpr, nodes.And, nodes.Or)):
            return self._taint(node.left) or self._taint(node.right)
        return None

    def _item(self, node: nodes.Getitem) -> str | None:
        keys = self.fold.texts(node.arg)
        if keys:
            return CONTENT if _CONTENT & set(keys) else None
        return self._taint(node.node)

    def _call(self, node: nodes.Call) -> str | None:
        if isinstance(node.node, nodes.Name):
            if node.node.name == "strftime_now":
                return DATE
            return next(filter(None, map(self._taint, node.args)), None)
        if isinstance(node.node, nodes.Getattr):
            if node.node.attr == "get" and node.args:
                return CONTENT if _CONTENT & set(self.fold.texts(node.args[0])) else None
            return self._taint(node.node.node)
        return None

    # -- what is asked of it

    def _gate(self, condition: nodes.Node) -> str | None:
        for node in (condition, *condition.find_all(nodes.Node)):
            found = None
            if isinstance(node, (nodes.Name, nodes.Getattr)):
                found = self.gated.get(_name(node))
            elif isinstance(node, nodes.Compare):
                found = self._compare(node)
            elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
                if node.node.attr in _SEARCHES:
                    found = self._words_for(self._taint(node.node.node), node.args, contains=True)
            elif isinstance(node, nodes.Test) and node.name in _TESTS:
                found = self._words_for(self._taint(node.node), node.args, contains=True)
            elif isinstance(node, nodes.Filter) and node.name in ("select", "selectattr", "reject", "rejectattr"):
                found = self._words_for(self._filtered(node), node.args[1:], contains=True)
            if found:
                return found
        return None

    def _filtered(self, node: nodes.Filter) -> str | None:
        """`selectattr('content', 'in', …)` asks for the content of each, `select('in', …)` for each itself."""
        if not node.name.endswith("attr"):
            return self._taint(node.node)
        asked = {part for text in self.fold.texts(node.args[0] if node.args else None) for part in text.split(".")}
        return CONTENT if asked & _CONTENT else None

    def _compare(self, node: nodes.Compare) -> str | None:
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        contains = any(operand.op in ("in", "notin") for operand in node.ops)
        taint = next(filter(None, map(self._taint, sides)), None)
        return self._words_for(taint, sides, contains=contains)

    def _words_for(self, taint: str | None, others: list[nodes.Expr], *, contains: bool) -> str | None:
        if taint is None or (taint == PART and contains):  # `'image' in part` asks for a key
            return None
        for other in others:
            if taint == DATE and isinstance(other, nodes.Const) and other.value not in (None, ""):
                return f"the date is compared with {other.value!r:.60}"
            for text in () if self._taint(other) else self._constants(other):
                if is_words(text):
                    return f"content is compared with {text!r:.60}"
        return None

    def _constants(self, node: nodes.Expr) -> tuple[str, ...]:
        if isinstance(node, (nodes.List, nodes.Tuple)):
            return tuple(text for item in node.items for text in self.fold.texts(item))
        return self.fold.texts(node)


def _name(node: nodes.Node) -> str:
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) else ""


def _words(branch: nodes.Node) -> str:
    """What either side of the branch would put in: the other side of a negated condition is the hidden one."""
    if isinstance(branch, nodes.If):
        bodies: list[nodes.Node] = [*branch.body, *branch.elif_, *branch.else_]
    elif isinstance(branch, nodes.For):
        bodies = [*branch.body]
    elif isinstance(branch, nodes.CondExpr):
        bodies = [part for part in (branch.expr1, branch.expr2) if part is not None]
    else:
        bodies = [branch]
    return said(" ".join(piece for body in bodies for piece in _pieces(body)))


def _pieces(node: nodes.Node) -> Iterator[str]:
    """Texts below, but not those that only name a key, are compared with, or explain a refusal."""
    if isinstance(node, nodes.TemplateData):
        yield node.data
    elif isinstance(node, nodes.Const):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, nodes.Getitem):
        yield from _pieces(node.node)
    elif isinstance(node, (nodes.Compare, nodes.Test)) or (
        isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "raise_exception"
    ):
        return
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        yield from _pieces(node.node.node)  # the arguments of split, replace and so on are not put in
    else:
        for child in node.iter_child_nodes():
            yield from _pieces(child)
