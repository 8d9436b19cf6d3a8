"""Go template text to tokens. Delimiters are `{{` and `}}`; the trim markers and comments are consumed here.

A `field` token is `.Name` and a `variable` token `$name`; blanks between tokens are tokens too, because `.A .B` is two
arguments and `.A.B` one field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.text.errors import TemplateLimitError, TemplateSyntaxError

MAX_TEMPLATE_CHARS = 1 << 20
_BLANKS = " \t\r\n"

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<declare>:=)
    |(?P<mark>[.()|,=])""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    kind: str  # text, open, close, end, or a group name of _TOKEN
    text: str
    line: int


def tokens(source: str) -> Iterator[Token]:
    """Raises TemplateSyntaxError for an unclosed action or comment and for a character no token starts with."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TemplateLimitError(f"template: found {len(source)} characters, the limit is {MAX_TEMPLATE_CHARS}")
    at, line, trim = 0, 1, False
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        shown = text.lstrip(_BLANKS) if trim else text
        trim_left = start >= 0 and source.startswith("{{-", start) and source[start + 3 : start + 4] in tuple(_BLANKS)
        if trim_left:
            shown = shown.rstrip(_BLANKS)
        if shown:
            yield Token(kind="text", text=shown, line=line)
        line += text.count("\n")
        if start < 0:
            yield Token(kind="end", text="", line=line)
            return
        inside = start + (3 if trim_left else 2)
        comment = inside + (1 if trim_left else 0)
        if source.startswith("/*", comment):
            at, trim = _comment(source, comment, line)
            line += source.count("\n", start, at)
            continue
        yield Token(kind="open", text="{{", line=line)
        for token in _action(source, inside, line):
            if token.kind == "close":
                at, trim = int(token.text), token.line < 0
            else:
                yield token
        line += source.count("\n", start, at)
        yield Token(kind="close", text="}}", line=line)


def _comment(source: str, at: int, line: int) -> tuple[int, bool]:
    """Place after the comment's delimiter, and whether it trims."""
    end = source.find("*/", at)
    if end < 0:
        raise TemplateSyntaxError("unclosed comment", line=line)
    tail = source[end + 2 : end + 6]
    if tail.startswith("}}"):
        return end + 4, False
    if tail[:1] in tuple(_BLANKS) and tail[1:] == "-}}":
        return end + 6, True
    raise TemplateSyntaxError("comment ends before closing delimiter", line=line)


def _action(source: str, at: int, line: int) -> Iterator[Token]:
    """Tokens of one action; the last is `close` with the place after it as text and line -1 when it trims."""
    while True:
        if source.startswith("}}", at):
            yield Token(kind="close", text=str(at + 2), line=line)
            return
        if source[at : at + 1] in tuple(_BLANKS) and source.startswith("-}}", at + 1):
            yield Token(kind="close", text=str(at + 4), line=-1)
            return
        match = _TOKEN.match(source, at)
        if match is None:
            found = source[at : at + 1]
            raise TemplateSyntaxError(f"unexpected {found!r} in action" if found else "unclosed action", line=line)
        kind, text = str(match.lastgroup), match[0]
        end = match.end()
        if kind == "space":
            # the last blank belongs to a trim marker
            if source.startswith("-}}", end):
                end -= 1
                text = text[:-1]
            if text:
                yield Token(kind="space", text=text, line=line)
        else:
            if kind in ("number", "field", "variable", "word") and source[end : end + 1] not in _AFTER_WORD:
                raise TemplateSyntaxError(f"bad character {source[end]!r} after {text!r}", line=line)
            yield Token(kind=kind, text=text, line=line)
        line += text.count("\n")
        at = end


_AFTER_WORD = frozenset(["", *_BLANKS, ".", ",", "|", ":", "=", "(", ")", "}"])
