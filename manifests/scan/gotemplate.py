"""A template in Go's language, as Ollama's models carry it: looked at word by word, not parsed.

Checked: every action is closed and every block has its end; functions and fields are those Ollama has; texts between
actions (links, scripts, invisible characters); conditions that compare content or dates with words, and what such a
branch puts in. Not checked: types, variables' scopes, and whether Go's parser would accept every expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from manifests.scan import text as texts
from manifests.scan.rules import Hit

MAX_SOURCE = 512 << 10  # characters
MAX_DEPTH = 32  # blocks, one in the other

FUNCTIONS = frozenset({
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "printf",
    "println", "html", "js", "urlquery", "call", "json", "currentDate", "yesterdayDate", "toTypeScriptType",
})  # fmt: skip
KEYWORDS = frozenset({
    "if", "else", "end", "range", "with", "block", "define", "template", "break", "continue", "nil", "true",
    "false",
})  # fmt: skip
FIELDS = frozenset({
    "System", "Prompt", "Response", "Suffix", "Messages", "Tools", "Think", "ThinkLevel", "IsThinkSet", "Role",
    "Content", "Thinking", "Images", "ToolCalls", "ToolName", "ToolCallID", "Function", "Name", "Arguments",
    "Index", "ID", "Type", "Items", "Description", "Parameters", "Defs", "Required", "Properties", "AnyOf",
    "Enum", "First", "Options", "String",
})  # fmt: skip
_CONTENT = frozenset({"Content", "Prompt", "System", "Response", "Thinking", "Suffix"})
_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_DATES = frozenset({"currentDate", "yesterdayDate"})
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_OPENS = frozenset({"if", "range", "with", "block", "define"})

# text up to an action; the action's inside may hold strings, raw strings and, alone, a comment
_COMMENT = re.compile(r"\{\{(?:- )?/\*.*?\*/(?: -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`|'(?:[^'\\\n]|\\.)+')|(?P<close>\}\})|(?P<variable>\$\w*)"""
    r"""|(?P<field>\.[A-Za-z_]\w*)|(?P<word>[A-Za-z_]\w*)|(?P<other>\s+|:=|[-+]?\d[\w.]*|[.()|,=-])"""
)


@dataclass(slots=True)
class _Block:
    line: int
    gate: str | None
    texts: list[str]
    opened: str


class _Bad(Exception):
    pass


def scan(source: str) -> list[Hit]:
    hits = list(texts.invisible(source))
    if len(source) > MAX_SOURCE:
        return [*hits, ("template.limits", f"{len(source)} characters, at most {MAX_SOURCE} are looked at")]
    try:
        hits += _Walk(source).hits()
    except _Bad as problem:
        hits.append(("template.syntax", str(problem)))
    return list(dict.fromkeys(hits))


class _Walk:
    def __init__(self, source: str) -> None:
        self.source = source
        self.open: list[_Block] = []
        self.tainted: set[str] = set()  # variables set from content

    def hits(self) -> Iterator[Hit]:
        position = line = 0
        while True:
            start = self.source.find("{{", position)
            plain = self.source[position : start if start >= 0 else None]
            line += plain.count("\n")
            yield from self._text(plain, line + 1)
            if start < 0:
                break
            if comment := _COMMENT.match(self.source, start):
                position = comment.end()
            else:
                tokens, position = self._action(start + 2, line + 1)
                yield from self._visit(tokens, line + 1)
            line += self.source.count("\n", start, position)
        if self.open:
            raise _Bad(f"line {self.open[-1].line}: a block without its end")

    def _action(self, position: int, line: int) -> tuple[list[tuple[str, str]], int]:
        """The tokens of one action and where it ends."""
        tokens: list[tuple[str, str]] = []
        while match := _TOKEN.match(self.source, position):
            position, kind = match.end(), match.lastgroup or ""
            if kind == "close":
                return tokens, position
            if kind != "other" or match.group() in (":=", "=", "|", "(", ")", "."):
                tokens.append((kind, match.group()))
        raise _Bad(f"line {line}: {self.source[position : position + 20]!r} in an action, or an action without its end")

    def _text(self, plain: str, line: int) -> Iterator[Hit]:
        for rule, what in (*texts.markup(plain), *texts.link(plain)):
            yield rule, f"line {line}: {what}"
        for block in self.open:
            if block.gate:
                block.texts.append(plain)

    def _visit(self, tokens: list[tuple[str, str]], line: int) -> Iterator[Hit]:
        yield from self._names(tokens, line)
        words = [text for kind, text in tokens if kind == "word"]
        first = words[0] if words and tokens[0][0] == "word" else ""
        for text in (_unquoted(text) for kind, text in tokens if kind == "string"):
            yield from texts.invisible(text)
            yield from self._text(text, line)
        if first == "end" or first == "else":
            yield from self._close(first, tokens, line)
        elif first in _OPENS:
            self._begin(_Block(line=line, gate=_gate(tokens, self.tainted), texts=[], opened=first))
            if first == "with" and any(_is_content(token, self.tainted) for token in tokens):
                self.tainted.add(".")  # until the next end: more than Go's scope, never less
        elif first in ("break", "continue") and not any(block.opened == "range" for block in self.open):
            raise _Bad(f"line {line}: {first} outside range")
        if len(tokens) > 1 and (":=" in (text for _, text in tokens) or "=" in (text for _, text in tokens)):
            self._assign(tokens)

    def _names(self, tokens: list[tuple[str, str]], line: int) -> Iterator[Hit]:
        for kind, text in tokens:
            if kind == "word" and text not in FUNCTIONS | KEYWORDS:
                yield "template.unknown", f"line {line}: function {text[:60]}"
            elif kind == "field" and text[1:] not in FIELDS:
                yield "template.unknown", f"line {line}: field {text[:60]}"
            elif kind == "word" and text == "call":
                yield "template.gadget", f"line {line}: call"
            elif kind == "word" and text == "template":
                yield "template.include", f"line {line}: template"
            elif kind == "string" and re.search(r"%[-+ #0-9.*\[\]]*[cU]", text) and ("word", "printf") in tokens:
                yield "template.format", f"line {line}: {text[:60]}"

    def _begin(self, block: _Block) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise _Bad(f"line {block.line}: blocks nested deeper than {MAX_DEPTH}")
        self.open.append(block)

    def _close(self, first: str, tokens: list[tuple[str, str]], line: int) -> Iterator[Hit]:
        if not self.open:
            raise _Bad(f"line {line}: {first} without a block")
        block = self.open[-1]
        if first == "else":  # the other side of a gate belongs to it
            block.gate = block.gate or _gate(tokens, self.tainted)
            return
        self.open.pop()
        if block.gate:
            words = texts.said(" ".join(block.texts))
            rule = "template.hidden-branch" if words else "template.content-gate"
            yield rule, f"line {block.line}: where {block.gate[:80]}{': ' + words[:120] if words else ''}"

    def _assign(self, tokens: list[tuple[str, str]]) -> None:
        names = [text for kind, text in tokens[:2] if kind == "variable"]
        if names and any(_is_content(token, self.tainted) for token in tokens if token[1] not in names):
            self.tainted.update(names)


def _unquoted(text: str) -> str:
    """A Go string literal's value, as far as characters by number go."""
    if text.startswith("`"):
        return text[1:-1]
    return _ESCAPE.sub(lambda found: chr(min(int(found[found.lastindex or 0], 16), 0x10FFFF)), text[1:-1])


def _is_content(token: tuple[str, str], tainted: set[str]) -> bool:
    kind, text = token
    return (kind == "field" and text[1:] in _CONTENT) or (kind in ("variable", "other") and text in tainted)


def _gate(tokens: list[tuple[str, str]], tainted: set[str]) -> str | None:
    """A comparison, in the same action, of content or a date with words."""
    names = {text for kind, text in tokens if kind == "word"}
    if not names & _COMPARE:
        return None
    strings = [text[1:-1] for kind, text in tokens if kind == "string"]
    if names & _DATES and strings:
        return f"the date is compared with {strings[0]!r:.60}"
    if not any(_is_content(token, tainted) for token in tokens):
        return None
    wanted = [text for text in _compared(tokens, tainted) if texts.is_words(text)]
    return f"content is compared with {wanted[0]!r:.60}" if wanted else None


def _compared(tokens: list[tuple[str, str]], tainted: set[str]) -> Iterator[str]:
    """The strings that stand in one pair of parentheses with a comparison, where content is there too, or inside it:
    `and (eq .Role "user") (ne .Content "")` compares the role with a word, and content with nothing."""
    stack: list[tuple[bool, bool, list[str]]] = [(False, False, [])]  # comparison, content, strings
    for kind, text in [*tokens, ("other", ")")]:
        compares, content, strings = stack[-1]
        if text == "(":
            stack.append((False, False, []))
        elif text == ")":
            stack.pop()
            if compares and content:
                yield from strings
            if not stack:
                return
            outer = stack[-1]
            # what is read of content and handed out, as by slice, is content; the answer of a comparison is not
            stack[-1] = (outer[0], outer[1] or (content and not compares), outer[2])
        elif kind == "string":
            strings.append(text[1:-1])
        else:
            compares = compares or (kind == "word" and text in _COMPARE)
            stack[-1] = (compares, content or _is_content((kind, text), tainted), strings)
