"""The one reader of answers: thinking first, then text with calls in it, by a family's Syntax.

Rules. Thinking counts only where the answer begins with it, or the prompt already opened it. Blanks around thinking and
around calls belong to the tags. What is no call after all (unknown tool, broken JSON, too long) is text, to the letter.
A call ends thinking that was never closed. A call that came whole is given at once, each of a list by itself.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field

from runtime.text.message import ToolCall
from runtime.text.parsers import Call, Content, Part, Thinking
from runtime.text.parsers.calls import Offered, nested, read_json
from runtime.text.parsers.feed import MAX_CALL_CHARS, Reader
from runtime.text.parsers.syntax import Syntax, Tags

_HEAD_CHARS = 256  # from the opening to the `{`; more than that is no call
_TAIL = " \t\r\n,;]}`"  # what may follow an object before its closing
_FENCE = "```"
_BLANKS = " \t\r\n\v\f\u0085\u00a0"


@dataclass(slots=True)
class _Writer:
    """Gives text out. Blanks wait until it is known whether they stand before a tag."""

    kind: type[Content] | type[Thinking]
    out: list[Part]
    eat: bool = False  # blanks that come now belong to the tag before
    _waiting: list[str] = field(default_factory=list)

    def show(self, text: str) -> None:
        if self.eat:
            text = text.lstrip(_BLANKS)
        body = text.rstrip(_BLANKS)
        if body:
            self.eat = False
            self.out.append(self.kind("".join(self._waiting) + body))
            self._waiting = []
        if len(body) < len(text):
            self._waiting.append(text[len(body) :])

    def aside(self, text: str) -> None:
        """A text that says nothing, unless other text follows."""
        if not self.eat:
            self._waiting.append(text)

    def tag(self) -> None:
        """A tag came: the blanks before it go, and those after it will."""
        self._waiting, self.eat = [], True

    def flush(self) -> None:
        if self._waiting:
            self.out.append(self.kind("".join(self._waiting)))
        self._waiting = []


class AnswerReader(Reader):
    """A Parser. tags: None for a model that does not think. inside: the prompt has opened the thinking. begun: the
    prompt holds the beginning of the answer, so nothing is at its beginning any more. syntax: None without tools.
    frames: the family's, without tools too."""

    def __init__(
        self, offered: Offered, *, syntax: Syntax | None, tags: Tags | None, inside: bool = False, begun: bool = False,
        frames: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self._offered = offered
        self._syntax = syntax
        self._tags = tags
        self._frames = frames
        self._begin(self._answer(inside, begun))

    # the answer

    def _answer(self, inside: bool, begun: bool) -> Generator[None, None, None]:
        content = _Writer(Content, self._out)
        if self._tags is not None and (inside or not begun):
            yield from self._feed.run(_BLANKS, content.show)
            opened = yield from self._feed.option((self._tags[0],))  # some open it once more
            if inside or opened:
                content.tag()
                yield from self._thought(self._tags[1])
        if self._syntax is None and not self._frames:
            yield from self._plain(content)
            return
        if self._syntax is not None and not begun and self._syntax.leads:
            yield from self._feed.run(_BLANKS, content.show)
            lead = yield from self._feed.option(self._syntax.leads)
            if lead:
                yield from self._called(lead, self._syntax, content)
        yield from self._spoken(content)

    def _plain(self, content: _Writer) -> Generator[None, None, None]:
        if content.eat:
            yield from self._feed.run(_BLANKS, lambda _: None)
        content.flush()
        yield from self._feed.passing((), lambda text: self._out.append(Content(text)) if text else None)

    def _thought(self, close: str) -> Generator[None, None, None]:
        writer = _Writer(Thinking, self._out, eat=True)
        syntax = self._syntax
        opens = () if syntax is None else tuple(one for one in syntax.opens if not _overlap(one, close))
        while True:
            marker = yield from self._feed.passing((close, *opens), writer.show)
            if marker == close:
                return
            if marker == "":
                writer.flush()
                return
            assert syntax is not None
            if (yield from self._called(marker, syntax, writer)):
                return

    def _spoken(self, content: _Writer) -> Generator[None, None, None]:
        syntax = self._syntax
        opens, around = ((), ()) if syntax is None else (syntax.opens, syntax.around)
        while True:
            marker = yield from self._feed.passing((*opens, *around, *self._frames), content.show)
            if marker == "":
                content.flush()
                return
            if marker in self._frames:
                content.tag()
            elif marker in around:
                content.aside(marker)
            else:
                assert syntax is not None
                yield from self._called(marker, syntax, content)

    # calls

    def _called(self, opening: str, syntax: Syntax, writer: _Writer) -> Generator[None, None, bool]:
        """What follows an opening, to calls or to text. Returns whether there was a call."""
        before = self._offered.made
        if syntax.block is not None:
            yield from self._block(opening, syntax, writer)
        else:
            yield from self._objects(opening, syntax, writer)
        return self._offered.made > before

    def _give(self, calls: list[ToolCall], writer: _Writer) -> None:
        writer.tag()
        self._out.extend(Call(call) for call in calls)

    def _block(self, opening: str, syntax: Syntax, writer: _Writer) -> Generator[None, None, None]:
        pieces: list[str] = []
        closing = yield from self._feed.passing(syntax.closes, pieces.append, MAX_CALL_CHARS)
        text = "".join(pieces)
        assert syntax.block is not None
        calls = syntax.block(text, self._offered) if len(text) <= MAX_CALL_CHARS else None
        if calls:
            self._give(calls, writer)
        else:
            writer.show(opening + text + closing)

    def _objects(self, opening: str, syntax: Syntax, writer: _Writer) -> Generator[None, None, None]:
        raw = [opening]
        if opening in ("{", "["):  # the call has no opening but itself
            raw, self._feed.text = [], opening + self._feed.text
        head: list[str] = []
        closes = [one for one in syntax.closes if one != _FENCE]  # which may begin a head, too
        stop = yield from self._feed.passing(_distinct("{", *closes, *syntax.opens), head.append, _HEAD_CHARS)
        named = re.fullmatch(syntax.head, "".join(head)) if stop == "{" else None
        raw += head
        if named is None:
            if stop in syntax.closes:
                raw.append(stop)
            elif stop:
                self._feed.text = stop + self._feed.text
            writer.show("".join(raw))
            return
        self._feed.text = "{" + self._feed.text
        while True:
            if opening in syntax.leads and not self._offered.may_begin((yield from self._feed.first_key())):
                writer.show("".join(raw))  # other JSON: it need not wait for its end
                return
            text: list[str] = []
            yield from self._feed.balanced(text.append)
            call = self._read("".join(text), named, syntax)
            raw += text
            if call is None:
                writer.show("".join(raw))
            else:
                self._give([call], writer)
            raw = []
            yield from self._feed.run(_TAIL, raw.append)
            more = () if "name" in named.groupdict() and named["name"] else ("{",)
            found = yield from self._feed.option((*more, *syntax.closes))
            if call is None:
                writer.show("".join(raw) + (found if found != "{" else ""))
            if found != "{":
                return
            raw = []
            self._feed.text = "{" + self._feed.text

    def _read(self, text: str, head: re.Match[str], syntax: Syntax) -> ToolCall | None:
        value = read_json(text)
        groups = head.groupdict()
        if not isinstance(value, dict):
            return None
        if groups.get("name"):
            return self._offered.call(groups["name"], value, groups.get("id") or "")
        call = self._offered.from_object(value)
        if call is None and syntax.loose and (name := self._offered.named_in(head[0]) or self._offered.named_in(text)):
            return self._offered.call(name, nested(value, name))
        return call


def _overlap(one: str, two: str) -> bool:
    return one.startswith(two) or two.startswith(one)


def _distinct(*markers: str) -> tuple[str, ...]:
    """Without those that another one begins."""
    return tuple(
        one for index, one in enumerate(markers)
        if not any(one.startswith(other) for place, other in enumerate(markers) if other != one or place < index)
    )  # fmt: skip
