"""The stage between a model's text and every API (runtime.parting), with a parser of three tags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events import CallDelta, Event, Finish, PromptScored, Reason, TextDelta, ThinkingDelta, TokenInfo, Usage
from runtime.parting import Collected, parted
from runtime.text.message import ToolCall
from runtime.text.parsers import Call, Content, Part, Plain, Thinking

TAGS = {"(": ")", "{": "}"}  # ( thinking ) and { call }


class Tagged:
    """Content, (thinking) and {"name": ...}: a call is held back until it is whole."""

    def __init__(self) -> None:
        self._open, self._held = "", ""

    def push(self, text: str) -> list[Part]:
        parts: list[Part] = []
        for character in text:
            if not self._open and character in TAGS:
                self._open = character
            elif self._open and character == TAGS[self._open]:
                if self._open == "{":
                    parts.append(Call(ToolCall(name=self._held)))
                self._open, self._held = "", ""
            elif self._open == "{":
                self._held += character
            else:
                parts.append(Thinking(character) if self._open else Content(character))
        return parts

    def flush(self) -> list[Part]:
        held, self._held = self._held, ""
        return [Content(held)] if held else []


FINISH = Finish(reason="stop", usage=Usage(generated_tokens=3), seed=1)


def collected(events: Sequence[Event]) -> Collected:
    found = Collected()
    for event in events:
        found.add(event)
    return found


def run(events: Sequence[Event], parser: Tagged | Plain, most_calls: int | None = None) -> list[Event]:
    async def source() -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    async def main() -> list[Event]:
        return [event async for event in parted(source(), parser, most_calls=most_calls)]

    return asyncio.run(main())


def deltas(pieces: Sequence[str]) -> list[Event]:
    return [TextDelta(text=text, tokens=(TokenInfo(id=place, logprob=-1.0),)) for place, text in enumerate(pieces)]


def spoken(found: Collected) -> tuple[str, str, list[tuple[str, int]]]:
    return found.text, found.thinking, [(call.name, call.index) for call in found.calls]


@given(st.text("ab(){}", max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_the_parts_and_the_infos_do_not_depend_on_the_cuts(text: str, cuts: list[int]) -> None:
    whole = run([*deltas([text]), FINISH], Tagged())
    borders = sorted({0, *cuts, len(text)})
    pieces = [text[a:b] for a, b in zip(borders, [*borders[1:], len(text)], strict=True)]
    cut = run([*deltas(pieces), FINISH], Tagged())
    assert spoken(collected(cut)) == spoken(collected(whole))
    assert [info.id for info in collected(cut).tokens] == list(range(len(pieces)))  # none lost, doubled or moved
    for events in (whole, cut):
        assert [isinstance(event, Finish) for event in events] == [False] * (len(events) - 1) + [True]


def test_a_part_carries_the_infos_of_the_text_that_completed_it() -> None:
    events = run([*deltas(["(", "hm", ")", "x", "{f", "}"]), FINISH], Tagged())
    told = [(type(event), [info.id for info in event.tokens]) for event in events if not isinstance(event, Finish)]
    assert told == [
        (ThinkingDelta, []),
        (ThinkingDelta, [0, 1]),
        (TextDelta, [2, 3]),
        (CallDelta, [4, 5]),
    ]


def test_calls_are_numbered_and_have_ids_of_their_own() -> None:
    calls = [
        event.call for event in run([*deltas(["{f}{g}", "{h}"]), FINISH], Tagged()) if isinstance(event, CallDelta)
    ]
    assert [(call.name, call.index) for call in calls] == [("f", 0), ("g", 1), ("h", 2)]
    assert len({call.id for call in calls}) == 3
    assert all(call.id.startswith("call_") and len(call.id) == 13 for call in calls)


@pytest.mark.parametrize(("most", "names"), [(None, "fgh"), (1, "f"), (2, "fg"), (0, "")])
def test_no_more_calls_than_were_asked_for_are_shown(most: int | None, names: str) -> None:
    events = run([*deltas(["{f}a{g}", "b{h}c"]), FINISH], Tagged(), most)
    found = collected(events)
    assert "".join(call.name for call in found.calls) == names
    assert found.text == "abc" and [info.id for info in found.tokens] == [0, 1]


@pytest.mark.parametrize(("reason", "text"), [("stop", "ab"), ("length", "ab"), ("error", "a"), ("cancelled", "a")])
def test_what_is_held_back_is_shown_at_an_answers_end_and_not_where_it_broke_off(reason: Reason, text: str) -> None:
    finish = Finish(reason=reason, usage=Usage(), seed=1)
    events = run([*deltas(["a{b"]), finish], Tagged())
    assert collected(events).text == text and events[-1] is finish


def test_infos_without_text_are_told_at_the_end() -> None:
    events = run([*deltas(["a", "("]), FINISH], Tagged())
    assert [info.id for info in collected(events).tokens] == [0, 1]


def test_content_has_no_tokens_of_a_tag_behind_a_call() -> None:
    """A client that lays log probabilities beside the text finds as many of one as of the other."""
    found = collected(run([*deltas(["a", "{f}", "", "{", "}"]), FINISH], Tagged(), 1))
    assert found.text == "a" and [info.id for info in found.text_tokens] == [0]
    assert [info.id for info in found.tokens] == list(range(5))


def test_a_plain_answer_and_the_scores_of_a_prompt_pass_as_they_are() -> None:
    scored = PromptScored(tokens=(TokenInfo(id=7, logprob=-2.0),))
    events = [scored, *deltas(["a(", "{"]), FINISH]
    assert run(events, Plain()) == events
    assert run(events, Tagged())[0] is scored
    assert json.dumps([info.id for info in collected(events).tokens]) == "[0, 1]"  # the prompt's are not the answer's
