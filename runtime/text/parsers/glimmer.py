"""Glimmer: messages as gpt-oss frames them, each to somebody; calls as tags.

    <|start|>assistant to=self<|message|>…<|eom|>
    <|start|>assistant to=NAME<|message|><atem:function_calls>
    <atem:invoke name="NAME"><atem:parameter name="KEY">VALUE</atem:parameter></atem:invoke>
    </atem:function_calls><|eom|>

A message to `self` is thinking. One that is calls of offered tools and nothing else is calls, whomever it is to: the
header may be wrong. All else is content. A tool without a dot in its name may be called in a namespace of that name.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from runtime.text.message import ToolCall
from runtime.text.parsers import Call
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.feed import MAX_CALL_CHARS
from runtime.text.parsers.harmony import MESSAGE, START, HarmonyReader

OPEN, CLOSE = "<atem:function_calls>", "</atem:function_calls>"
_BLANKS = " \t\r\n"
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_INVOKE = re.compile(r'\s*<atem:invoke name="([^"]*)">(.*?)</atem:invoke>\s*', re.DOTALL)
_PARAMETER = re.compile(r'\s*<atem:parameter name="([^"]*)">(.*?)</atem:parameter>\s*', re.DOTALL)


class GlimmerReader(HarmonyReader):
    ENDS = ("<|eom|>", "<|eot|>", START)
    HEADED = (START,)
    NO_HEADER = ENDS

    def _message(self, header: str) -> Generator[None, None, str]:
        to = _RECIPIENT.search(header)
        if to is not None and to[1] == "self":
            return (yield from self._feed.passing(self.ENDS, self._thinking))
        raw: list[str] = []
        yield from self._feed.run(_BLANKS, raw.append)
        opened = (yield from self._feed.option((OPEN,))) if self._offered else ""
        if not opened:
            self._content("".join(raw))
            return (yield from self._feed.passing(self.ENDS, self._content))
        inner: list[str] = []
        stop = yield from self._feed.passing((CLOSE, *self.ENDS), inner.append, MAX_CALL_CHARS)
        after: list[str] = []
        if stop == CLOSE:
            stop = yield from self._feed.passing(self.ENDS, after.append, MAX_CALL_CHARS)
            calls = invoked("".join(inner), self._offered) if not "".join(after).strip() else None
            if calls:
                self._out.extend(Call(call) for call in calls)
                return stop
            after.insert(0, CLOSE)
        self._content("".join([*raw, OPEN, *inner, *after]))
        return stop or (yield from self._feed.passing(self.ENDS, self._content))


def invoked(text: str, offered: Offered) -> list[ToolCall] | None:
    """What stands between OPEN and CLOSE, as calls; None where it is anything else. Values are typed by the schema."""
    found: list[tuple[str, dict[str, str]]] = []
    for name, inner in _all(_INVOKE, text) or ():
        tool, parameters = _tool(name.replace(MESSAGE, ""), offered), _all(_PARAMETER, inner)
        if tool is None or parameters is None:
            return None
        found.append((tool, dict(parameters)))
    calls = [offered.call(tool, offered.typed(tool, texts)) for tool, texts in found]
    return [call for call in calls if call is not None]


def _all(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]] | None:
    """The two groups of each match, which follow each other and leave nothing."""
    found, at = [], 0
    while match := pattern.match(text, at):
        found.append((match[1], match[2]))
        at = match.end()
    return found if not text[at:].strip() else None


def _tool(name: str, offered: Offered) -> str | None:
    space, dot, rest = name.partition(".")
    known = offered.known(name)
    if known is None and dot and space == rest.partition(".")[0]:
        known = offered.known(rest)
    return known
