"""Answers to parts: every family's samples, at every cut; nothing lost, nothing raised, time by the length."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.parsers import Call, Content, Parser, Part
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.feed import Feed
from runtime.text.parsers.reader import AnswerReader
from runtime.text.parsers.syntax import FAMILIES, GENERIC, of_tag
from runtime.text.prompt import FRAMED
from tests.peers.answers import SAMPLES, TOOLS, Sample

BY_NAME = {one.name: one for one in (*FAMILIES, GENERIC)}


def parser(family: str, tags: tuple[str, str] | None = None, inside: bool = False) -> Parser:
    if family in FRAMED:
        return FRAMED[family](Offered(TOOLS), "<|start|>assistant")
    syntax = BY_NAME[family]
    return AnswerReader(Offered(TOOLS), syntax=syntax, tags=tags, inside=inside, frames=syntax.frames)


def joined(parts: Iterable[Part]) -> list[tuple[Any, ...]]:
    """Neighbours of a kind as one, as the samples have them."""
    out: list[tuple[Any, ...]] = []
    for part in parts:
        if isinstance(part, Call):
            out.append(("call", part.call.name, part.call.arguments))
            continue
        assert part.text, "an empty part says nothing"
        kind = "say" if isinstance(part, Content) else "think"
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + part.text)
        else:
            out.append((kind, part.text))
    return out


def read(reader: Parser, pieces: Iterable[str]) -> list[tuple[Any, ...]]:
    parts = [part for piece in pieces for part in reader.push(piece)]
    return joined([*parts, *reader.flush()])


def of(sample: Sample) -> Parser:
    return parser(sample.family, sample.tags, sample.inside)


IDS = [f"{one.family}: {one.about}" for one in SAMPLES]


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_samples(sample: Sample) -> None:
    assert read(of(sample), [sample.text]) == sample.parts


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_cuts_change_nothing(sample: Sample) -> None:
    text = sample.text
    assert read(of(sample), text) == sample.parts
    for at in range(len(text)):
        assert read(of(sample), [text[:at], "", text[at:]]) == sample.parts, at
    chance = random.Random(text)
    for _ in range(20):
        cuts = sorted(chance.sample(range(len(text) + 1), k=min(4, len(text))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(of(sample), pieces) == sample.parts, cuts


def test_calls_are_counted_and_keep_an_id_that_the_model_gave() -> None:
    reader = parser("mistral")
    text = "[TOOL_CALLS]now[CALL_ID]a1B2c3D4e[ARGS]{}[TOOL_CALLS]now[ARGS]{}"
    calls = [part.call for part in (*reader.push(text), *reader.flush()) if isinstance(part, Call)]
    assert [(one.index, one.id) for one in calls] == [(0, "a1B2c3D4e"), (1, "")]


def test_calls_come_as_soon_as_they_are_whole() -> None:
    reader = parser("hermes")
    one = '<tool_call>[{"name": "now"}, '
    parts = reader.push(one)
    assert joined(parts) == [("call", "now", {})]
    assert joined(reader.push('{"name": "now"}')) == [("call", "now", {})]
    assert reader.push("]</tool_call>") == reader.flush() == []


def test_text_is_held_back_only_while_it_may_be_a_tag() -> None:
    reader = parser("hermes", ("<think>", "</think>"))
    assert reader.push("<thi") == []
    assert joined(reader.push("s> is ")) == [("say", "<this> is")]
    assert joined(reader.push("it. <tool")) == [("say", " it.")]
    assert joined(reader.push("s> and")) == [("say", " <tools> and")]
    assert reader.flush() == []


def test_json_that_is_no_call_is_not_held_back() -> None:
    for family in ("llama", "json"):
        reader = parser(family)
        assert reader.push('{"ci') == []
        assert joined(reader.push('ties": [')) == [("say", '{"cities": [')]
        assert joined([*reader.push('"Paris"]}'), *reader.flush()]) == [("say", '"Paris"]}')]
        reader = parser(family)
        assert reader.push('```json\n[{"name": "no') == []
        assert joined(reader.push('w"}, {"x": 1}')) == [("call", "now", {}), ("say", '{"x": 1}')]


# inference without a family: Ollama's rule


INFERRED = {
    "JSON with the name": ('<<call>> {"name": "now", "arguments": {}}', [("call", "now", {})]),
    "name before the object": ('<<call>> get_weather {"city": "Paris"} ', [("call", "get_weather", {"city": "Paris"})]),
    "the longer name": ('<<call>> get_weather_map: {"city": "x"}', [("call", "get_weather_map", {"city": "x"})]),
    "arguments within": ('<<call>>{"do": {"what": "now", "parameters": {"a": 1}}}', [("call", "now", {"a": 1})]),
    "under the name": ('<<call>>{"x": [{"now": {"a": 1}}]}', [("call", "now", {"a": 1})]),
    "as JSON text": ('<<call>>{"fn": "now", "arguments": "{\\"a\\": 1}"}', [("call", "now", {"a": 1})]),
    "unknown": ('<<call>> rm {"a": 1}', [("say", '<<call>> rm {"a": 1}')]),
    "no object": ("<<call>> now", [("say", "<<call>> now")]),
}


@pytest.mark.parametrize("case", INFERRED)
def test_a_tag_that_no_family_has(case: str) -> None:
    text, parts = INFERRED[case]
    for pieces in ([text], text):
        assert read(AnswerReader(Offered(TOOLS), syntax=of_tag("<<call>>"), tags=None), pieces) == parts


# laws

EVERY = [*BY_NAME]
PLAIN_TEXT = st.text(st.characters(exclude_characters="<[{`AfH|", exclude_categories=["Cs"]), max_size=60)


@given(st.sampled_from(EVERY), st.lists(PLAIN_TEXT, max_size=6), st.booleans())
@settings(max_examples=300, deadline=None)
def test_without_tags_nothing_is_lost(family: str, pieces: list[str], thinks: bool) -> None:
    parts = read(parser(family, ("<think>", "</think>") if thinks else None), pieces)
    text = "".join(pieces)
    assert parts == ([("say", text)] if text else [])


MARKS = sorted({text for one in BY_NAME.values() for text in (*one.texts, *one.frames)} | {"<think>", "</think>"})
BITS = st.sampled_from(
    [*MARKS, "{", "}", "[", "]", '"', "\\", ",", ":", "now", "get_weather", '"name"', '"arguments"', "{}", " ", "\n",
     "é", "functions.", "to=", "analysis", "final", "(", ")", "=", "call:", "1", "\ud800", '{"name": "now"}', "NaN"]
)  # fmt: skip
WILD = st.lists(BITS, max_size=25)


@given(st.sampled_from(EVERY), WILD, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=1000, deadline=None)
def test_any_answer_gives_the_same_parts_at_any_cut(
    family: str, bits: list[str], thinks: bool, inside: bool, chance: random.Random
) -> None:
    text = "".join(bits)
    tags = ("<think>", "</think>") if thinks or inside else None
    whole = read(parser(family, tags, inside), [text])
    assert read(parser(family, tags, inside), text) == whole
    cut = chance.randint(0, len(text))
    assert read(parser(family, tags, inside), [text[:cut], text[cut:]]) == whole


@given(WILD, st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_no_call_is_told_to_the_letter(bits: list[str], thinks: bool) -> None:
    """With no tool of that name nothing is a call: all but thinking tags and the blanks about them is there again."""
    text = "".join(bits)
    none = [tool for tool in TOOLS if tool["function"]["name"] == "get_weather_map"]
    text = text.replace("get_weather_map", "")
    for family in BY_NAME.values():
        if family.channels:
            continue
        reader = AnswerReader(Offered(none), syntax=family, tags=None, inside=False)
        assert read(reader, [text]) == ([("say", text)] if text else []), family.name


HOSTILE = {
    "openings": "<tool_call>" * 5_000,
    "openings with objects": '<tool_call>{"name": "rm"}' * 2_000,
    "open braces": '<tool_call>{"a": ' * 2_000,
    "deep": "<tool_call>" + "[{" * 12_000,
    "one long string": '<tool_call>{"name": "now", "arguments": {"a": "' + "x" * 75_000,
    "backslashes": '<tool_call>{"' + "\\" * 50_000,
    "half closings": "<think>" + "</thin" * 12_000,
    "blanks": " \n" * 25_000,
    "half openings": "<tool_cal" * 7_000,
    "parameters": "<function=now>" + "<parameter=a>" * 7_000 + "</function>",
    "pairs": "<tool_call>now" + "<arg_key>a</arg_key><arg_value>" * 5_000 + "</tool_call>",
    "quotes": "<|tool_call_start|>[now(a=" + "'\\" * 25_000 + "<|tool_call_end|>",
    "brackets": "<|tool_call_start|>[now(a=" + "[" * 25_000 + "<|tool_call_end|>",
    "headers": "<|start|>" * 7_000 + "<|channel|>" * 7_000,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answers_cost_what_they_are_long(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character is scanned a bounded number of times: counted by the lengths that the readers look at."""
    text = HOSTILE[case]
    looked = 0

    class Counting(Feed):
        def __setattr__(self, name: str, value: Any) -> None:
            nonlocal looked
            looked += len(value) if name == "text" else 0
            super().__setattr__(name, value)

    monkeypatch.setattr("runtime.text.parsers.feed.Feed", Counting)
    pieces = [text[at : at + 97] for at in range(0, len(text), 97)]
    for family in EVERY:
        looked = 0
        read(parser(family, ("<think>", "</think>")), pieces)
        assert len(text) <= looked < 20 * len(text), family


# borders


def test_the_marker_that_begins_first_wins_though_it_ends_last() -> None:
    for pieces in (["<a<b>x."], "<a<b>x.", ["<a<b>", "x."]):
        shown: list[str] = []
        feed = Feed()
        reading = feed.passing(("<a<b>x", "<b>"), shown.append)
        found = ""
        for piece in pieces:
            feed.text += piece
            try:
                next(reading)
            except StopIteration as end:
                found = end.value
                break
        assert (found, "".join(shown)) == ("<a<b>x", "")


def test_a_call_may_be_64_deep() -> None:
    for depth, kept in ((62, True), (63, False)):
        text = '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * depth + "]" * depth + "}}</tool_call>"
        assert (read(parser("hermes"), [text])[0][0] == "call") == kept


def test_a_tag_that_begins_the_closing_of_thinking_does_not_hide_it() -> None:
    text = '<think>a</now {"a": 1}</think>b'
    for pieces in ([text], text):
        reader = AnswerReader(Offered(TOOLS), syntax=of_tag("</"), tags=("<think>", "</think>"))
        assert read(reader, pieces) == [("think", 'a</now {"a": 1}'), ("say", "b")]
