"""Go template tokens to a tree. Knows which functions exist and which variables are in scope, as Go's parser does.

Bounds: nesting of blocks and parentheses together, number of nodes by the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, cast

from runtime.text.errors import TemplateLimitError, TemplateSyntaxError
from runtime.text.gotemplate import nodes
from runtime.text.gotemplate.lexer import Token, tokens

MAX_DEPTH = 48
_EXECUTABLE = (nodes.Name, nodes.Field, nodes.Variable, nodes.Chain)


@dataclass(kw_only=True, slots=True)
class Parsed:
    root: nodes.Nodes
    defined: dict[str, nodes.Nodes] = field(default_factory=dict)  # {{define}} and {{block}} bodies by name


def parse(source: str, functions: Collection[str]) -> Parsed:
    """Raises TemplateSyntaxError (with the line) or TemplateLimitError."""
    parser = _Parser(source, functions)
    root, stop = parser.body(())
    assert stop == ""
    return Parsed(root=root, defined=parser.defined)


class _Parser:
    def __init__(self, source: str, functions: Collection[str]) -> None:
        self._tokens = tokens(source)
        self._ahead: list[Token] = []
        self._functions = functions
        self._scope = ["$"]
        self._depth = 0
        self._loops = 0
        self._line = 1
        self.defined: dict[str, nodes.Nodes] = {}

    # tokens

    def _next(self) -> Token:
        token = self._ahead.pop() if self._ahead else next(self._tokens)
        self._line = max(token.line, 1)
        return token

    def _peek(self) -> Token:
        if not self._ahead:
            self._ahead.append(next(self._tokens))
        return self._ahead[-1]

    def _skip(self) -> Token:
        """The next token that is no blank, not taken."""
        while self._peek().kind == "space":
            self._next()
        return self._peek()

    def _fail(self, message: str) -> TemplateSyntaxError:
        return TemplateSyntaxError(message, line=self._line)

    def _expect(self, kind: str, where: str) -> Token:
        self._skip()
        token = self._next()
        if token.kind != kind:
            raise self._fail(f"unexpected {_shown(token)} in {where}")
        return token

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateLimitError(f"nested deeper than {MAX_DEPTH}", line=self._line)

    # blocks

    def body(self, stops: tuple[str, ...]) -> tuple[nodes.Nodes, str]:
        """Nodes up to one of the stop words (`end`, `else`), which is taken and returned; its rest is not taken."""
        self._deeper()
        out: list[nodes.Node] = []
        while True:
            token = self._next()
            if token.kind == "text":
                out.append(nodes.Text(text=token.text, line=token.line))
                continue
            if token.kind == "end":
                if stops:
                    raise self._fail("unexpected EOF")
                self._depth -= 1
                return tuple(out), ""
            word = self._skip()
            if word.kind == "word" and word.text in ("end", "else"):
                self._next()
                if word.text not in stops:
                    raise self._fail(f"unexpected {{{{{word.text}}}}}")
                self._depth -= 1
                return tuple(out), word.text
            node = self._action(word)
            if node is not None:
                out.append(node)

    def _action(self, word: Token) -> nodes.Node | None:
        line = word.line
        if word.kind == "word" and word.text in ("if", "with", "range"):
            self._next()
            return self._branch(word.text, line)
        if word.kind == "word" and word.text in ("break", "continue"):
            return self._jump(line)
        if word.kind == "word" and word.text == "define":
            self._next()
            self._define()
            return None
        if word.kind == "word" and word.text in ("template", "block"):
            self._next()
            return self._call(word.text, line)
        pipe = self._pipe("command", close=True)
        return nodes.Action(pipe=pipe, line=line)

    def _jump(self, line: int) -> nodes.Jump:
        kind = self._next().text
        self._expect("close", kind)
        if not self._loops:
            raise self._fail(f"{{{{{kind}}}}} outside {{{{range}}}}")
        return nodes.Jump(kind=cast(Literal["break", "continue"], kind), line=line)

    def _branch(self, kind: str, line: int) -> nodes.Branch:
        scope = len(self._scope)
        pipe = self._pipe(kind, close=True)
        self._loops += kind == "range"
        body, stop = self.body(("end", "else"))
        self._loops -= kind == "range"
        orelse = self._orelse(kind) if stop == "else" else None
        if stop == "end":
            self._expect("close", "end")
        del self._scope[scope:]
        return nodes.Branch(kind=cast(Literal["if"], kind), pipe=pipe, body=body, orelse=orelse, line=line)

    def _orelse(self, kind: str) -> nodes.Nodes:
        word = self._skip()
        if word.kind == "word" and word.text == kind and kind in ("if", "with"):  # {{else if x}} shares our {{end}}
            self._next()
            self._deeper()
            inner = self._branch(kind, word.line)
            self._depth -= 1
            return (inner,)
        self._expect("close", "else")
        nodes_, _ = self.body(("end",))
        self._expect("close", "end")
        return nodes_

    def _define(self) -> None:
        name = self._string("define clause")
        self._expect("close", "define clause")
        self._keep(name, self._outer_body())

    def _outer_body(self) -> nodes.Nodes:
        scope, loops = self._scope, self._loops
        self._scope, self._loops = ["$"], 0
        body, _ = self.body(("end",))
        self._scope, self._loops = scope, loops
        self._expect("close", "end")
        return body

    def _keep(self, name: str, body: nodes.Nodes) -> None:
        blank = all(isinstance(node, nodes.Text) and not node.text.strip() for node in body)
        known = self.defined.get(name)
        if known and blank:  # an empty definition replaces nothing
            return
        if known and any(not isinstance(node, nodes.Text) or node.text.strip() for node in known):
            raise self._fail(f'multiple definition of template "{name}"')
        self.defined[name] = body

    def _call(self, kind: str, line: int) -> nodes.Call:
        name = self._string(f"{kind} clause")
        pipe = None
        if kind == "block" or self._skip().kind != "close":
            pipe = self._pipe(f"{kind} clause", close=True)
        else:
            self._next()
        if kind == "block":
            self._keep(name, self._outer_body())
        return nodes.Call(name=name, pipe=pipe, line=line)

    def _string(self, where: str) -> str:
        self._skip()
        token = self._next()
        if token.kind not in ("string", "raw"):
            raise self._fail(f"unexpected {_shown(token)} in {where}")
        return self._unquote(token)

    # pipelines

    def _pipe(self, where: str, *, close: bool) -> nodes.Pipe:
        """Up to and with the closing delimiter, or parenthesis when not `close`."""
        self._deeper()
        self._skip()
        line = self._peek().line
        names, assign = self._declaration(where)
        commands: list[nodes.Command] = []
        while True:
            args, end = self._command(where)
            if not args and not (commands and end != "|"):  # Go lets a pipeline end with its bar
                raise self._fail(f"missing value for {where}")
            if args and commands and not isinstance(args[0], _EXECUTABLE):
                raise self._fail(f"non executable command in pipeline stage {len(commands) + 1}")
            if args:
                commands.append(nodes.Command(args=tuple(args)))
            if end == "|":
                continue
            if (end == "close") != close:
                raise self._fail(f"unexpected {'end of action' if end == 'close' else repr(end)} in {where}")
            break
        self._scope.extend(name for name in names if not assign)
        self._depth -= 1
        return nodes.Pipe(line=line, names=names, assign=assign, commands=tuple(commands))

    def _declaration(self, where: str) -> tuple[tuple[str, ...], bool]:
        if self._skip().kind != "variable":
            return (), False
        taken: list[Token] = []
        names: list[str] = []
        while True:
            names.append(self._take(taken).text)
            token = self._take_after_blanks(taken)
            if token.kind == "declare" or token.text == "=":
                if len(names) > (2 if where == "range" else 1):
                    raise self._fail(f"too many declarations in {where}")
                for name in names if token.text == "=" else ():
                    self._known(name)
                return tuple(names), token.text == "="
            if token.text == "," and where == "range" and len(names) < 2:
                variable = self._take_after_blanks(taken)
                if variable.kind == "variable":
                    self._ahead.append(taken.pop())
                    continue
            if token.text == ",":
                raise self._fail(f"unexpected ',' in {where}")
            self._ahead.extend(reversed(taken))  # an ordinary operand after all
            return (), False

    def _take(self, taken: list[Token]) -> Token:
        taken.append(self._next())
        return taken[-1]

    def _take_after_blanks(self, taken: list[Token]) -> Token:
        token = self._take(taken)
        while token.kind == "space":
            token = self._take(taken)
        return token

    def _command(self, where: str) -> tuple[list[nodes.Operand], str]:
        """Operands, and what ended them: `|`, `)` or `close`."""
        args: list[nodes.Operand] = []
        while True:
            token = self._skip()
            if token.kind == "close" or (token.text in ("|", ")") and token.kind == "mark"):
                self._next()
                if token.text == "|" and not args:
                    raise self._fail(f"missing value for {where}")
                return args, "close" if token.kind == "close" else token.text
            args.append(self._operand(where))
            after = self._peek()
            if after.kind not in ("space", "close") and after.text not in ("|", ")"):
                raise self._fail(f"unexpected {_shown(after)} in operand")

    def _operand(self, where: str) -> nodes.Operand:
        base = self._term(where)
        names: list[str] = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        if not names:
            return base
        if isinstance(base, nodes.Field):
            return nodes.Field(names=(*base.names, *names))
        if isinstance(base, nodes.Variable):
            return nodes.Variable(name=base.name, names=(*base.names, *names))
        if isinstance(base, (nodes.Constant, nodes.Dot)):
            raise self._fail(f"unexpected . after term {_text_of(base)}")
        return nodes.Chain(base=base, names=tuple(names))

    def _term(self, where: str) -> nodes.Operand:
        token = self._next()
        kind, text = token.kind, token.text
        if kind == "word":
            return self._word(text)
        if kind == "field":
            return nodes.Field(names=(text[1:],))
        if kind == "variable":
            self._known(text)
            return nodes.Variable(name=text, names=())
        if kind in ("string", "raw"):
            return nodes.Constant(value=self._unquote(token))
        if kind == "char":
            return nodes.Constant(value=ord(self._rune(token)))
        if kind == "number":
            return nodes.Constant(value=self._number(text))
        if text == ".":
            return nodes.Dot()
        if text == "(":
            return self._pipe("parenthesized pipeline", close=False)
        raise self._fail(f"unexpected {_shown(token)} in {where}")

    def _word(self, text: str) -> nodes.Operand:
        constants: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
        if text in constants:
            return nodes.Constant(value=constants[text])
        if text in ("if", "else", "end", "range", "with", "define", "template", "block"):
            raise self._fail(f"unexpected <{text}>")
        if text not in self._functions:
            raise self._fail(f'function "{text}" not defined')
        return nodes.Name(name=text)

    def _known(self, name: str) -> None:
        if name not in self._scope:
            raise self._fail(f'undefined variable "{name}"')

    # constants

    def _unquote(self, token: Token) -> str:
        if token.kind == "raw":
            return token.text[1:-1].replace("\r", "")
        return _unescape(token.text[1:-1], self._fail)

    def _rune(self, token: Token) -> str:
        text = _unescape(token.text[1:-1], self._fail)
        if len(text) != 1:
            raise self._fail(f"malformed character constant: {token.text}")
        return text

    def _number(self, text: str) -> int | float:
        plain = text.replace("_", "")
        try:
            if not re.search(r"[xXbBoO]", plain) and re.search(r"[.eE]", plain):
                return float(plain)
            if re.fullmatch(r"[+-]?0[0-9]+", plain):  # Go: a leading zero is octal
                plain = re.sub(r"0", "0o", plain, count=1)
            if len(plain) > 70:
                raise ValueError("integer overflow")
            number = int(plain, 0)
        except ValueError:
            raise self._fail(f"bad number syntax: {text!r}") from None
        if not -(1 << 63) <= number < 1 << 63:
            raise self._fail(f"integer overflow: {text!r}")
        return number


_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))", re.DOTALL
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _unescape(body: str, fail: object) -> str:
    def one(match: re.Match[str]) -> str:
        simple, byte, short, long, octal, bad = match.groups()
        if simple is not None:
            return _SIMPLE.get(simple, simple)
        if bad is not None:
            raise fail(f"invalid escape \\{bad}")  # type: ignore[operator]
        code = int(byte or short or long or "0", 16) if octal is None else int(octal, 8)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise fail("escape is not a Unicode character")  # type: ignore[operator]
        return chr(code)

    return _ESCAPE.sub(one, body)


def _shown(token: Token) -> str:
    if token.kind == "end":
        return "EOF"
    return '"}}"' if token.kind == "close" else repr(token.text)


def _text_of(node: nodes.Operand) -> str:
    return "." if isinstance(node, nodes.Dot) else repr(node.value) if isinstance(node, nodes.Constant) else "term"
