"""A chat template in Jinja, parsed by jinja2 and never compiled or rendered. Its tree is walked:

    names and attributes that lead out   gadgets, underscores, attr and map(attribute=…), include and its kin
    names made of pieces                 what `fold` makes of constants, where no single piece is suspicious
    tricks with formats and codes        format fields that reach in, %c, decode, chr
    limits                               size, depth, nested loops, huge ranges and repetitions
    text that is put in                  links, scripts, invisible characters; branches on content or date (`branches`)

jinja2 is imported with this module, and this module only by the gate's child.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension, do, loopcontrols
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.parser import Parser
from jinja2.tests import TESTS as JINJA_TESTS

from manifests.scan import text as texts
from manifests.scan.branches import Branches
from manifests.scan.fold import MAX_STEPS, Folder
from manifests.scan.rules import Hit

MAX_SOURCE = 512 << 10  # characters; the largest in use are about 30,000
MAX_NODES = 50_000
MAX_DEPTH = 120  # of the tree; chains of + are deep: 40 in templates in use
MAX_LOOPS = 6  # one in the other
MAX_COUNT = 10_000  # of a constant range or repetition

GADGETS = frozenset({
    "cycler", "joiner", "lipsum", "self", "config", "request", "session", "g", "url_for",
    "get_flashed_messages", "os", "sys", "subprocess", "builtins", "eval", "exec", "compile", "globals",
    "locals", "getattr", "setattr",
})  # fmt: skip
FUNCTIONS = frozenset({
    "range", "dict", "namespace", "raise_exception", "strftime_now", "caller", "super", "loop", "varargs",
    "kwargs",
})  # fmt: skip
FILTERS = frozenset(JINJA_FILTERS) | {"tojson", "fromjson", "from_json"}
# `generation` is a tag that training code adds; bool and contains are tests and filters that inference engines add
TESTS = frozenset(JINJA_TESTS) | {"contains"}
_COMPUTED = frozenset({"attr", "xmlattr"})
_BY_ATTRIBUTE = frozenset({"map", "selectattr", "rejectattr", "groupby", "sort", "sum", "unique", "min", "max"})
_DECODE = frozenset({
    "decode", "encode", "fromhex", "hex", "b64decode", "b64encode", "base64", "unhexlify", "from_bytes",
    "to_bytes", "translate", "maketrans", "chr", "ord", "urldecode", "unquote", "eval", "exec", "gzip", "zlib",
    "rot13",
})  # fmt: skip
_INSIDES = re.compile(
    r"__\w+__|\b(?:cycler|joiner|lipsum|subclasses|popen|func_globals|f_globals|gi_frame|gi_code|cr_frame|mro)\b"
)
# Attributes of Python's frames, coroutines and functions: ways out that need no underscore
_FRAMES = re.compile(
    r"(?:gi|cr|ag|f|tb|func|im)_(?:frame|code|globals|locals|builtins|back|next|func|closure|await)|mro"
)
_REACHES_IN = re.compile(r"\{[^{}]*[.\[{]")
_CHARACTER = re.compile(r"%[-+ #0-9.*]*c|\{[^{}]*:[^{}]*c\}")
_PIECED = (nodes.Concat, nodes.Add, nodes.Mod, nodes.Mul)
_PIECED_FILTERS = frozenset(["join", "replace", "reverse", "format", "upper", "lower"])


class _Generation(Extension):
    """{% generation %} marks what the assistant said, for training; here its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it on the instance)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> Environment:
    # as Hugging Face's: blocks leave no blank line behind, so that lines of text are what a model gets
    return Environment(trim_blocks=True, lstrip_blocks=True, extensions=[do, loopcontrols, _Generation])


def scan(source: str) -> list[Hit]:
    """Each distinct hit once, in the order of the template. No exception but MemoryError leaves."""
    hits = list(texts.invisible(source))
    if len(source) > MAX_SOURCE:
        return [*hits, ("template.limits", f"{len(source)} characters, at most {MAX_SOURCE} are looked at")]
    try:
        tree = _environment().parse(source)
        if problem := _too_deep(tree):
            return [*hits, ("template.limits", problem)]
        hits += _Walk(tree).hits()
    except TemplateSyntaxError as error:
        hits.append(("template.syntax", f"line {error.lineno}: {error.message}"))
    except (RecursionError, OverflowError, ValueError) as error:
        hits.append(("template.limits", f"cannot be parsed within bounds: {type(error).__name__}"))
    return list(dict.fromkeys(hits))


def _too_deep(tree: nodes.Template) -> str | None:
    """Breadth first, so that a deep tree is found without recursion."""
    level: list[nodes.Node] = [tree]
    count = depth = 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > MAX_NODES:
            return f"more than {MAX_NODES} parts"
        if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH}"
        level = [child for node in level for child in node.iter_child_nodes()]
    return None


class _Walk:
    def __init__(self, tree: nodes.Template) -> None:
        self.tree, self.fold = tree, Folder(tree)
        self.macros = {macro.name for macro in tree.find_all(nodes.Macro)}
        self.assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}

    def hits(self) -> Iterator[Hit]:
        yield from self._visit(self.tree, 0)
        yield from Branches(self.tree, self.fold).hits()
        if self.fold.steps > MAX_STEPS:
            yield "template.limits", "too many constant pieces to put together"

    def _visit(self, node: nodes.Node, loops: int) -> Iterator[Hit]:
        for rule, text in self._look(node, loops):
            yield rule, f"line {node.lineno}: {text}"
        loops += isinstance(node, nodes.For)
        for child in node.iter_child_nodes():
            yield from self._visit(child, loops)

    def _look(self, node: nodes.Node, loops: int) -> Iterator[Hit]:
        if isinstance(node, nodes.Name):
            yield from self._name(node)
        elif isinstance(node, nodes.Getattr):
            yield from _key(node.attr)
        elif isinstance(node, nodes.Getitem):
            yield from self._item(node)
        elif isinstance(node, (nodes.Filter, nodes.Test)):
            yield from self._filter(node)
        elif isinstance(node, nodes.Call):
            yield from self._call(node)
        elif isinstance(node, (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            yield "template.include", type(node).__name__.lower()
        elif isinstance(node, nodes.Macro):
            if any(self._called(call) == node.name for call in node.find_all(nodes.Call)):
                yield "template.recursion", f"macro {node.name[:60]}"
        elif isinstance(node, nodes.For) and loops >= MAX_LOOPS:
            yield "template.limits", f"loops nested deeper than {MAX_LOOPS}"
        elif isinstance(node, nodes.TemplateData) or (isinstance(node, nodes.Const) and isinstance(node.value, str)):
            yield from _emitted(node.data if isinstance(node, nodes.TemplateData) else node.value)
        yield from self._pieces(node)

    def _name(self, node: nodes.Name) -> Iterator[Hit]:
        if node.name.startswith("_"):
            yield "template.private", f"name {node.name[:60]}"
        elif node.name in GADGETS and node.name not in self.assigned:
            yield "template.gadget", node.name

    def _item(self, node: nodes.Getitem) -> Iterator[Hit]:
        keys = self.fold.texts(node.arg)
        for key in keys:
            yield from _key(key)
        if not keys and _made_of_texts(node.arg):
            yield "template.computed", "a key is computed from texts"

    def _filter(self, node: nodes.Filter | nodes.Test) -> Iterator[Hit]:
        name = node.name
        if name in _COMPUTED:
            yield "template.attribute", f"filter {name}"
        elif name in _DECODE:
            yield "template.decode", f"filter {name}"
        elif name not in (FILTERS if isinstance(node, nodes.Filter) else TESTS):
            yield "template.unknown", f"{type(node).__name__.lower()} {name[:60]}"
        if name == "format" and isinstance(node, nodes.Filter):
            yield from self._format(node.node, "percent")
        yield from self._by_attribute(node)

    def _by_attribute(self, node: nodes.Filter | nodes.Test) -> Iterator[Hit]:
        """`map('attr', …)` runs a filter by name; `map(attribute='a.b')` and selectattr read attributes by name."""
        if node.name not in _BY_ATTRIBUTE and node.name not in ("select", "reject"):
            return
        named = [keyword.value for keyword in node.kwargs if keyword.key == "attribute"]
        for argument in (*node.args, *named):
            for text in self.fold.texts(argument):
                if text in _COMPUTED or text in _DECODE:
                    yield "template.attribute", f"{node.name}({text!r:.60})"
                for part in text.split("."):
                    yield from _key(part)
            if not isinstance(argument, nodes.Const) and _made_of_texts(argument):
                yield "template.attribute", f"{node.name} with a name that is computed"

    def _call(self, node: nodes.Call) -> Iterator[Hit]:
        if isinstance(node.node, nodes.Getattr):
            yield from self._method(node.node, node)
        name = self._called(node)
        if name == "range" and any(self._number(argument) > MAX_COUNT for argument in node.args):
            yield "template.limits", f"range beyond {MAX_COUNT}"
        if name in _DECODE:
            yield "template.decode", f"function {name}"
        elif name and name not in FUNCTIONS | self.macros | self.assigned | GADGETS:
            yield "template.unknown", f"function {name[:60]}"

    def _method(self, node: nodes.Getattr, call: nodes.Call) -> Iterator[Hit]:
        if node.attr in _DECODE:
            yield "template.decode", f"method {node.attr}"
        elif node.attr == "format_map":
            yield "template.format", "format_map"
        elif node.attr == "format":
            yield from self._format(node.node, "braces")
        padded = node.attr in ("ljust", "rjust", "center", "zfill", "expandtabs")
        if padded and any(self._number(argument) > MAX_COUNT for argument in call.args):
            yield "template.limits", f"{node.attr} beyond {MAX_COUNT}"

    def _format(self, form: nodes.Node | None, kind: str) -> Iterator[Hit]:
        forms = self.fold.texts(form)
        for text in forms:
            if _CHARACTER.search(text) or (kind == "braces" and _REACHES_IN.search(text)):
                yield "template.format", repr(text)[:80]
        if not forms:
            yield "template.computed", "a format that is not a constant"

    def _pieces(self, node: nodes.Node) -> Iterator[Hit]:
        """Assembled texts; a text that stands there whole is judged where it is used."""
        if isinstance(node, nodes.Mod):
            if self.fold.texts(node.left):
                yield from self._format(node.left, "percent")
        elif isinstance(node, nodes.Pow):
            if any(self._number(part) > 64 for part in (node.left, node.right)):
                yield "template.limits", "a power of large numbers"
        elif isinstance(node, nodes.Mul):
            yield from self._repeated(node)
        if not _is_pieced(node):
            return
        for text in self.fold.texts(node):
            if found := _INSIDES.search(text):
                yield "template.assembled", found.group()[:60]

    def _repeated(self, node: nodes.Mul) -> Iterator[Hit]:
        for text, count in ((node.left, node.right), (node.right, node.left)):
            large = self._number(count) > MAX_COUNT or isinstance(count, (nodes.Pow, nodes.Mul))
            if (large and isinstance(text, (nodes.List, nodes.Tuple))) or (large and self.fold.texts(text)):
                yield "template.limits", f"a text repeated more than {MAX_COUNT} times"

    def _number(self, node: nodes.Node) -> int:
        if isinstance(node, nodes.Const) and isinstance(node.value, (int, float)):
            return int(min(abs(node.value), 1 << 62))
        if isinstance(node, nodes.Pow):
            return 1 << 62  # not computed
        return max((abs(value) for value in self.fold.values(node) if isinstance(value, int)), default=0)

    @staticmethod
    def _called(node: nodes.Call) -> str | None:
        return node.node.name if isinstance(node.node, nodes.Name) else None


def _key(key: str) -> Iterator[Hit]:
    if key.startswith("_"):
        yield "template.private", f"attribute {key[:60]}"
    elif _FRAMES.fullmatch(key):
        yield "template.private", f"attribute {key}"


def _emitted(text: str) -> Iterator[Hit]:
    yield from texts.invisible(text)
    yield from texts.markup(text)
    yield from texts.link(text)


def _is_pieced(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Getattr) and node.node.attr in _PIECED_FILTERS
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    return isinstance(node, _PIECED) or (isinstance(node, nodes.Filter) and node.name in _PIECED_FILTERS)


def _made_of_texts(node: nodes.Node) -> bool:
    """~, join and the like make texts for certain; + makes numbers as well, so it needs a text inside."""
    for part in (node, *node.find_all(nodes.Node)):
        if isinstance(part, nodes.Concat) or (isinstance(part, nodes.Filter) and part.name in _PIECED_FILTERS):
            return True
        if isinstance(part, (nodes.Add, nodes.Mul)) and any(
            isinstance(leaf, nodes.Const) and isinstance(leaf.value, str) for leaf in part.find_all(nodes.Const)
        ):
            return True
    return False
