"""Calls that are not JSON: the text between the opening and the closing of one, to names and arguments.

Each reader takes the whole text and the tools on offer, and gives the calls, or None where the text is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from runtime.text.message import ToolCall
from runtime.text.parsers.calls import Offered, clean, finite
from runtime.text.parsers.feed import MAX_DEPTH

Block = Callable[[str, Offered], "list[ToolCall] | None"]

_PARAMETER = re.compile(r"<parameter=([^<>\s]+)>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)


def xml_parameters(text: str, offered: Offered) -> list[ToolCall] | None:
    """`NAME> <parameter=KEY> VALUE </parameter> …`. One line end on either side of a value is not its own."""
    name, mark, rest = text.partition(">")
    if not mark:
        return None
    texts = {match[1]: _unframed(match[2]) for match in _PARAMETER.finditer(rest)}
    return _one(offered, name.strip().strip("\"'"), texts)


def xml_pairs(text: str, offered: Offered) -> list[ToolCall] | None:
    """`NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value> …`."""
    name, *pairs = text.split("<arg_key>")
    texts: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("</arg_key>")
        before, open, rest = value.partition("<arg_value>")
        inner, close, after = rest.rpartition("</arg_value>")
        if not (open and close) or before.strip() or after.strip():
            return None
        texts[key.strip()] = inner
    return _one(offered, name.strip(), texts)


def _one(offered: Offered, name: str, texts: dict[str, str]) -> list[ToolCall] | None:
    call = offered.call(name, offered.typed(name, texts))
    return None if call is None else [call]


def _unframed(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")


def python_calls(text: str, offered: Offered) -> list[ToolCall] | None:
    """`[name(key=value, …), …]`, or one in a line without brackets; values as Python writes them."""
    reader = _Literals(text)
    try:
        close = "]" if reader.taken("[") else ""
        found = [reader.python_call()]
        while not reader.done(close):
            if close:
                reader.need(",")
            found.append(reader.python_call())
        reader.end()
    except ValueError:
        return None
    return _all(offered, found)


def brace_call(text: str, offered: Offered) -> list[ToolCall] | None:
    """`call:NAME{key:value, …}`, texts between <escape> marks or <|"|> marks."""
    reader = _Literals(text)
    try:
        reader.need("call:")
        name = reader.word()
        found = [(name, reader.braces())]
        reader.end()
    except ValueError:
        return None
    return _all(offered, found)


def _all(offered: Offered, found: list[tuple[str, dict[str, Any]]]) -> list[ToolCall] | None:
    if any(offered.known(name) is None for name, _ in found):
        return None
    calls = [offered.call(name, clean(arguments)) for name, arguments in found]
    return [call for call in calls if call is not None]


_BLANK = re.compile(r"\s*")
_WORD = re.compile(r"[^\W\d][\w.\-]*")
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_QUOTED = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL),
    "<escape>": re.compile(r"<escape>(.*?)<escape>", re.DOTALL),
    '<|"|>': re.compile(r'<\|"\|>(.*?)<\|"\|>', re.DOTALL),
}
_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "\n": ""}


class _Literals:
    """Values as Python, JavaScript or Gemma write them. ValueError where there is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def taken(self, mark: str) -> bool:
        self._match(_BLANK)
        there = self._text.startswith(mark, self._at)
        self._at += len(mark) if there else 0
        return there

    def need(self, mark: str) -> None:
        if not self.taken(mark):
            raise ValueError(mark)

    def done(self, close: str) -> bool:
        """At the closing mark, which is taken, or without one at the end."""
        self._match(_BLANK)
        return self.taken(close) if close else self._at == len(self._text)

    def end(self) -> None:
        self._match(_BLANK)
        if self._at < len(self._text):
            raise ValueError("text after the call")

    def word(self) -> str:
        self._match(_BLANK)
        match = self._match(_WORD)
        if match is None:
            raise ValueError("a name")
        return match[0]

    def python_call(self) -> tuple[str, dict[str, Any]]:
        name = self.word()
        self.need("(")
        return name, self._pairs("=", ")")

    def braces(self) -> dict[str, Any]:
        self.need("{")
        return self._pairs(":", "}")

    def _pairs(self, between: str, close: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        while not self.taken(close):
            quoted = self._quoted()
            key = self.word() if quoted is None else quoted
            self.need(between)
            out[key] = self.value()
            if not self.taken(","):
                self.need(close)
                break
        return out

    def value(self) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("too deep")
        value = self._value()
        self._depth -= 1
        return value

    def _value(self) -> Any:
        if self.taken("{"):
            return self._pairs(":", "}")
        for open, close in (("[", "]"), ("(", ")")):
            if self.taken(open):
                return self._items(close)
        quoted = self._quoted()
        if quoted is not None:
            return quoted
        number = self._match(_NUMBER)
        if number is not None:
            return finite(number[0]) if set(number[0]) & set(".eE") else int(number[0])
        word = self.word()
        return _CONSTANTS.get(word, word)

    def _items(self, close: str) -> list[Any]:
        out: list[Any] = []
        while not self.taken(close):
            out.append(self.value())
            if not self.taken(","):
                self.need(close)
                break
        return out

    def _quoted(self) -> str | None:
        self._match(_BLANK)
        for mark, pattern in _QUOTED.items():
            if self._text.startswith(mark, self._at):
                match = self._match(pattern)
                if match is None:
                    raise ValueError("an open quote")
                return match[1] if len(mark) > 1 else _unescaped(match[1])
        return None


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        return chr(int(code, 16)) if code else _ESCAPES.get(match[3], match[3])

    return _ESCAPE.sub(one, text)
