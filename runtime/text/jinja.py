"""Chat templates of GGUF files: Jinja as Hugging Face runs it, in jinja2's immutable sandbox.

A template is a program from a stranger. Refused or stopped: attributes and calls the sandbox forbids, loops beyond a
number of turns, texts and outputs beyond a size, time beyond a deadline (looked at once per loop turn, call and value).
No exception of jinja2 leaves this file. What the template can see is plain data and the functions named here.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from runtime.text.errors import TemplateError, TemplateLimitError, TemplateRaised, TemplateSyntaxError
from runtime.text.message import MAX_CHARS
from runtime.text.patience import Deadline

MAX_SOURCE_CHARS = 1 << 20
MAX_TEXT_CHARS = 64 << 20  # all texts that values and joins make, shown or not
MAX_TURNS = 1_000_000  # loop turns and calls
MAX_NUMBER_ARGUMENT = 100_000  # width of ljust, center, indent and such

# Names that no template can guess, so that none can shadow them.
_TICK, _JOIN = (f"sealift_{secrets.token_hex(8)}" for _ in range(2))


_SPECIFIED = re.compile(r"\{[^{}]*[:\[{]")  # {:10}, {x[0]}, {:{}}


class _Budget:
    def __init__(self) -> None:
        self._turns = self._chars = 0
        self._deadline = Deadline()

    def turn(self) -> None:
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise TemplateLimitError(f"chat template: more than {MAX_TURNS} loop turns and calls")
        self._deadline.check()

    def text(self, size: int) -> None:
        self._chars += size
        if self._chars > MAX_TEXT_CHARS:
            raise TemplateLimitError(f"chat template: made more than {MAX_TEXT_CHARS} characters")


_BUDGET: ContextVar[_Budget] = ContextVar("sealift_template_budget")


class JinjaTemplate:
    def __init__(self, source: str) -> None:
        """Raises TemplateSyntaxError or TemplateLimitError."""
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateLimitError(f"chat template: found {len(source)} characters, the limit is {MAX_SOURCE_CHARS}")
        self.source = source
        try:
            tree = _ENVIRONMENT.parse(source)
            self._names = frozenset(meta.find_undeclared_variables(tree))
            code = _ENVIRONMENT.compile(_Bounded().visit(tree))
            self._template = jinja2.Template.from_code(_ENVIRONMENT, code, dict(_ENVIRONMENT.globals))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateSyntaxError(f"chat template: {error.message}", line=error.lineno) from error
        except Exception as error:  # too deep for the parser or the compiler
            raise TemplateSyntaxError(f"chat template: {type(error).__name__}: {error}") from error

    def variables(self) -> frozenset[str]:
        """Names the template takes from outside."""
        return self._names - {_TICK, _JOIN}

    def render(self, values: Mapping[str, Any]) -> str:
        """values: plain data only. Raises TemplateError and its kinds."""
        token = _BUDGET.set(_Budget())
        out: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(**values):
                size += len(piece)
                if size > MAX_CHARS:
                    raise TemplateLimitError(f"chat template: made more than {MAX_CHARS} characters")
                out.append(piece)
        except TemplateError:
            raise
        except RecursionError as error:
            raise TemplateLimitError("chat template: nested too deep") from error
        except Exception as error:
            raise TemplateError(f"chat template: {type(error).__name__}: {error}") from error
        finally:
            _BUDGET.reset(token)
        return "".join(out)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = _BUDGET.get()
        budget.turn()
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(other, int):
                    budget.text(len(one) * max(other, 0))
            _small(left, right)
        elif operator == "**":
            _small(left, right, limit=1000)
        elif operator == "%" and isinstance(left, str):
            raise TemplateError("chat template: % on text is not allowed")
        elif operator == "+" and isinstance(left, str) and isinstance(right, JsonObject):
            right = str(right)
        elif isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            budget.text(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Formats with a specification (a width, say) are refused: they could ask for any amount of memory."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None or not _SPECIFIED.search(str(value.__self__)):
            return wrapped
        raise TemplateError("chat template: a text with format specifications is not allowed")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _BUDGET.get()
        budget.turn()
        if isinstance(getattr(__obj, "__self__", None), str):
            _small(*args, *kwargs.values(), limit=MAX_NUMBER_ARGUMENT)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple)):
            budget.text(len(result))
        return result


def _small(*values: Any, limit: int = 1 << 64) -> None:
    if any(isinstance(value, int) and abs(value) > limit for value in values):
        raise TemplateLimitError(f"chat template: found a number above {limit}")


def _shown(value: Any) -> Any:
    """Every value the template prints, into blocks and macros too."""
    budget = _BUDGET.get(None)
    if budget is not None and isinstance(value, str):
        budget.text(len(value))
    return value


class _Bounded(NodeTransformer):
    """Counts every loop turn and macro call, and every join by `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _tick_node(node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _tick_node(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        name = nodes.Name(_JOIN, "load", lineno=node.lineno)
        return nodes.Call(name, node.nodes, [], None, None, lineno=node.lineno)


def _tick_node(line: int) -> nodes.Node:
    call = nodes.Call(nodes.Name(_TICK, "load", lineno=line), [], [], None, None, lineno=line)
    return nodes.ExprStmt(call, lineno=line)


class _Generation(Extension):
    """{% generation %} marks what the assistant said, for training; here its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it on the instance)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class JsonObject(dict[str, Any]):
    """Arguments of a call. Templates expect an object, or its JSON text: as text, this is its JSON."""

    def __str__(self) -> str:
        return _to_json(self)


def _tick() -> str:
    return ""


def _join(*parts: Any) -> str:
    return "".join(map(str, parts))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Hugging Face's `tojson`: plain json.dumps, nothing escaped for HTML."""
    _small(indent or 0, limit=64)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if (budget := _BUDGET.get(None)) is not None:
        budget.text(len(text))
    return text


def _raise(message: Any) -> str:
    raise TemplateRaised(f"the model's chat template refuses this conversation: {message}")


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(str(form)[:1000])


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose numbers could make a huge text."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        _small(*args[1:], *kwargs.values(), limit=MAX_NUMBER_ARGUMENT)
        if name == "format":
            raise TemplateError("chat template: the filter 'format' is not allowed")
        budget = _BUDGET.get()
        budget.turn()
        result = function(*args, **kwargs)
        if isinstance(result, str):
            budget.text(len(result))
        return result

    for mark in ("jinja_pass_arg", "__name__"):  # how jinja2 knows what to pass first
        if hasattr(function, mark):
            setattr(guarded, mark, getattr(function, mark))
    return guarded


def _environment(guarded: Iterable[str]) -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_shown, cache_size=0
    )
    for name in guarded:
        environment.filters[name] = _guarded(name, environment.filters[name])
    environment.filters["tojson"] = _to_json
    environment.globals.update({"raise_exception": _raise, "strftime_now": _strftime_now, _TICK: _tick, _JOIN: _join})
    for name in ("lipsum", "cycler", "joiner"):  # no chat template needs them; two of them are famous ways out
        environment.globals.pop(name, None)
    return environment


_ENVIRONMENT = _environment(("format", "center", "indent", "join", "replace", "string", "wordwrap", "batch", "slice"))
