"""Streaming: whole characters only, and no piece of a stop string, wherever the stream is cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.detokenize import StreamDecoder
from runtime.text.stop import StopFilter
from runtime.text.tokenizer import Tokenizer
from tests.peers.vocabularies import byte_level

BYTES = Tokenizer.from_gguf(byte_level())


@given(st.lists(st.integers(0, BYTES.vocab_size - 1), max_size=60))
@settings(max_examples=300, deadline=None)
def test_pieces_join_to_decode(ids: list[int]) -> None:
    for special in (False, True):
        decoder = StreamDecoder(BYTES, special=special)
        pieces = [decoder.push(one) for one in ids]
        assert "".join(pieces) + decoder.flush() == BYTES.decode(ids, special=special)


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_valid_text_never_shows_a_broken_character(text: str) -> None:
    decoder = StreamDecoder(BYTES)
    shown = ""
    for one in BYTES.encode(text, special=False, bos=False):
        shown += decoder.push(one)
        assert text.startswith(shown)
    assert shown == text
    assert decoder.flush() == ""


def whole_answer(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: read character by character; the first end of a stop string decides, then its earliest start."""
    for end in range(1, len(text) + 1):
        starts = [(end - len(stop), stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            start, stop = min(starts)
            return text[:start], stop
    return text, None


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    stop = StopFilter(stops)
    out = [stop.push(piece) for piece in pieces]
    if stop.matched is None:
        out.append(stop.flush())
    return out, stop.matched


SAMPLES: tuple[tuple[str, list[str]], ...] = (
    ("one two</s> three", ["</s>"]),
    ("aXaXb tail", ["XaXa", "XaXb"]),
    ("abcd", ["bc", "abcd"]),
    ("ababac", ["abac"]),
    ("no stop <", ["<|im_end|>", "<end>"]),
    ("\n\nUser: x", ["\nUser:", "\n\nUser:"]),
    ("日本語 end", ["語 e", ""]),
    ("", ["x"]),
    ("xx", []),
)


def test_every_split_of_every_sample() -> None:
    for text, stops in SAMPLES:
        expected = whole_answer(text, stops)
        places = range(len(text) + 1)
        cuts = [[text[:i], text[i:j], text[j:]] for i in places for j in places if i <= j]
        for pieces in [[text], *cuts, list(text)]:
            out, matched = run(pieces, stops)
            assert ("".join(out), matched) == expected, (pieces, stops)


@given(st.text(alphabet="ab<", max_size=14), st.lists(st.text(alphabet="ab<", max_size=4), max_size=3), st.data())
@settings(max_examples=400, deadline=None)
def test_any_split_gives_the_same_answer(text: str, stops: list[str], data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]
    out, matched = run(pieces, stops)
    assert ("".join(out), matched) == whole_answer(text, stops)


def test_nothing_after_the_stop() -> None:
    stop = StopFilter(["END"])
    assert stop.push("a END b") == "a "
    assert stop.push("more") == "" and stop.flush() == "" and stop.matched == "END"


def test_text_flows_at_once_when_nothing_can_follow() -> None:
    stop = StopFilter(["<end>"])
    assert stop.push("hello ") == "hello "
    assert stop.push("<e") == ""
    assert stop.push("x") == "<ex"
