"""The one stage between a model's text and every API: TextDelta in, TextDelta, ThinkingDelta and CallDelta out.

Invariants: no token's TokenInfo is lost, doubled or moved before another; a part carries the infos of the text that
completed it, tags included; those that complete none (of the tag behind a call) come last, with no text, and as
content only where the answer's end was content. Calls are numbered from 0 and each has an id; Finish passes as it is,
after what the parser held back. An answer that broke off (error, cancelled) shows nothing that was held back.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace

from runtime.events import CallDelta, Event, Finish, PromptScored, TextDelta, ThinkingDelta, TokenInfo
from runtime.text.message import ToolCall
from runtime.text.parsers import Call, Content, Parser, Part, Plain, Thinking

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def call_id() -> str:
    """`call_` and eight letters or digits: what Ollama's clients have seen."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(8))


def parted(
    events: AsyncGenerator[Event, None], parser: Parser, *, most_calls: int | None = None
) -> AsyncGenerator[Event, None]:
    """The events of `model.generate` as parts; of calls the first `most_calls`, where it is given. Closing the result
    does not close `events`: whoever made them does."""
    return events if isinstance(parser, Plain) else _parted(events, parser, most_calls)


async def _parted(events: AsyncIterator[Event], parser: Parser, most_calls: int | None) -> AsyncGenerator[Event, None]:
    held: list[TokenInfo] = []
    calls, silent = 0, False  # `silent`: the last part was no content
    async for event in events:
        parts: list[Part] = []
        if isinstance(event, PromptScored):
            yield event
        elif isinstance(event, TextDelta):
            held += event.tokens
            parts = parser.push(event.text)
        elif isinstance(event, Finish) and event.reason in ("stop", "length"):
            parts = parser.flush()
        if most_calls is not None:
            parts = _fewer(parts, most_calls - calls)
        for number, part in enumerate(parts, 1):
            infos: tuple[TokenInfo, ...] = ()
            if number == len(parts):
                infos, held = tuple(held), []
            yield _delta(part, infos, calls)
            calls += isinstance(part, Call)
            silent = not isinstance(part, Content)
        if isinstance(event, Finish):
            if held and event.reason in ("stop", "length"):
                yield _delta(Thinking("") if silent else Content(""), tuple(held), calls)
            yield event


def _fewer(parts: list[Part], calls: int) -> list[Part]:
    """Without the calls after the first `calls`."""
    kept = []
    for part in parts:
        calls -= isinstance(part, Call)
        if calls >= 0 or not isinstance(part, Call):
            kept.append(part)
    return kept


def _delta(part: Part, infos: tuple[TokenInfo, ...], calls: int) -> Event:
    if isinstance(part, Content):
        return TextDelta(text=part.text, tokens=infos)
    if isinstance(part, Call):
        return CallDelta(call=replace(part.call, id=part.call.id or call_id(), index=calls), tokens=infos)
    return ThinkingDelta(text=part.text, tokens=infos)


@dataclass(slots=True)
class Collected:
    """All parts of an answer, for whoever writes it in one piece."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)  # of everything
    text_tokens: list[TokenInfo] = field(default_factory=list)  # of the text alone

    def add(self, event: Event) -> None:
        if isinstance(event, (Finish, PromptScored)):
            return
        self.tokens += event.tokens
        if isinstance(event, TextDelta):
            self.texts.append(event.text)
            self.text_tokens += event.tokens
        elif isinstance(event, ThinkingDelta):
            self.thoughts.append(event.text)
        else:
            self.calls.append(event.call)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def thinking(self) -> str:
        return "".join(self.thoughts)
