"""What a model's words may do to a terminal, and how lines break; `show`'s sections (contract, 8)."""

from __future__ import annotations

import contextlib
import io
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from runtime.chat.answer import Part, Parts, part_of, print_answer
from runtime.chat.printing import facts, statistics
from runtime.chat.screen import GREY, JOINER, MARGIN, PLAIN, Wrapper, harmless, write
from runtime.errors import RuntimeFailure, WorkerDied

COUPLE = f"\N{WOMAN}{JOINER}\N{PERSONAL COMPUTER}"


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def shown_by(parts: Parts, **how: Any) -> str:
    """What a terminal gets of an answer."""
    with contextlib.redirect_stdout(Screen()) as screen:
        print_answer(parts, **how)
    return screen.getvalue()


# -- harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("over\rwritten\r\n", "overwritten\n"),
        ("\x9b31m\x85\x7f\x00", "\ufffd31m\ufffd␡␀"),
        ("a\u202eb\u2028c", "a\ufffdb\ufffdc"),
        ("tab\tline\nשלום\u200f \u2067x\u2069 " + COUPLE, "tab\tline\nשלום\u200f \u2067x\u2069 " + COUPLE),
        ("half a pair \ud83d", "half a pair \ufffd"),
    ],
)
def test_what_a_terminal_obeys_is_shown_instead(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(st.characters(blacklist_categories=())))
def test_no_text_controls_the_terminal(text: str) -> None:
    shown = harmless(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert harmless(shown) == shown and len(shown) == len(text.replace("\r", ""))


def test_a_pipe_gets_what_the_model_said(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    write("\x1b[1mé\r\n \N{SNOWMAN}\ud83d")
    assert raw.getvalue() == "\x1b[1mé\r\n ??".encode("latin-1")


# -- an answer


def answer(*parts: Part, error: RuntimeFailure | None = None) -> Parts:
    yield from parts
    if error:
        raise error


@pytest.mark.usefixtures("terminal")
def test_thinking_is_grey_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Part(thinking="Hm"), Part(thinking="m"), Part(text="Yes\x1b[0m")
    grey = f"Thinking...\n{GREY}Hmm\n{PLAIN}...done thinking.\n\nYes␛[0m"
    assert shown_by(answer(*parts), wordwrap=False) == grey
    assert shown_by(answer(*parts), wordwrap=True, hide_thinking=True) == "Yes␛[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown_by(answer(parts[0]), wordwrap=True) == "Thinking...\nHm\n...done thinking.\n\n"


@pytest.mark.usefixtures("terminal")
def test_a_call_is_told_and_a_break_ends_the_line() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    said = '  Model called a non-existent function \'weather()\' with arguments: {"city":"Zürich"}\n'
    assert shown_by(answer(Part(calls=(call,))), wordwrap=False) == said
    with contextlib.redirect_stdout(Screen()) as screen, pytest.raises(WorkerDied):
        print_answer(answer(Part(text="half"), error=WorkerDied("gone")), wordwrap=True)
    assert screen.getvalue() == "half\n"


@pytest.mark.parametrize(
    ("chunk", "part"),
    [
        ({"message": {"content": "a", "thinking": "b"}}, Part("b", "a")),
        ({"response": "a", "thinking": "b"}, Part("b", "a")),
        ({"response": 7, "tool_calls": "x"}, Part()),
        ({"message": {"tool_calls": [1, {"function": {}}]}}, Part(calls=({"function": {}},))),
        ({}, Part()),
    ],
)
def test_parts_of_chunks(chunk: dict[str, Any], part: Part) -> None:
    assert part_of(chunk) == part


# -- lines


def wrapped(text: str, width: int, step: int) -> str:
    out: list[str] = []
    wrapper = Wrapper(out.append, width)
    for at in range(0, len(text), step):
        wrapper.feed(text[at : at + step])
    wrapper.end()
    return "".join(out)


WORDS = st.lists(st.sampled_from(["a", "word", "longer-than-twenty-columns", "日本語", COUPLE, "é", " ", "\t", "\n"]))


@given(WORDS.map("".join) | st.text(), st.sampled_from([0, 9, 10, 20, 80]), st.integers(1, 40))
def test_wrapping_loses_no_character(text: str, width: int, step: int) -> None:
    """What was fed and what was written differ in line ends only; and those that were there stay."""
    found = wrapped(text, width, step)
    left = iter(found)
    assert all(any(c == other for other in left) for c in text), "a subsequence, in order"
    assert found.replace("\n", "") == text.replace("\n", "")
    assert width >= 10 or found == text


@given(WORDS.map("".join), st.integers(1, 40))
@example("aaalonger-than-twenty-columns日", 1)  # a word that just fits, and a wide character at its end
def test_no_line_is_longer_than_its_only_word(text: str, step: int) -> None:
    for line in wrapped(text.replace("\t", " "), 20, step).splitlines():
        assert get_cwidth(line.rstrip(" ")) <= 20 - MARGIN or "longer" in line or COUPLE in line
        assert not line.startswith(JOINER) and not line.endswith(JOINER)


def test_lines_break_between_words_five_columns_before_the_edge() -> None:
    text = "The quick brown fox jumps over the lazy dog. "
    assert wrapped(text, 25, 3) == "The quick brown fox \njumps over the lazy \ndog. "
    assert wrapped("日本語" * 4, 20, 1) == "日本語日本語日\n本語日本語"


def test_wide_characters_do_not_wait_for_a_blank() -> None:
    out: list[str] = []
    Wrapper(out.append, 40).feed("日本語word")
    assert "".join(out) == "日本語"


# -- figures


def test_statistics_have_ollamas_lines() -> None:
    last = {
        "total_duration": 1_500_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 130_000_000,
        "eval_count": 3,
        "eval_duration": 2_000_000_000,
    }
    assert statistics(last).splitlines() == [
        "total duration:       1.5s",
        "prompt eval count:    26 token(s)",
        "prompt eval duration: 130ms",
        "prompt eval rate:     200.00 tokens/s",
        "eval count:           3 token(s)",
        "eval duration:        2s",
        "eval rate:            1.50 tokens/s",
    ]


SHOWN: dict[str, Any] = {
    "details": {"family": "llama", "parameter_size": "8B", "quantization_level": "Q8_0"},
    "requires": "0.19.0",
    "model_info": {
        "llama.context_length": 1000,
        "general.architecture": "llama",
        "llama.embedding_length": 64,
        "a.list": [1, 2, 3, 4, 5],
        "a.long": ["x" * 40, "y"],
        "a.null": None,
        "a.flag": True,
        "a.float": 1e-5,
    },
    "capabilities": ["completion", "tools"],
    "parameters": 'stop                           "<|end|>"\nstop                           up\ntemperature 99',
    "tensors": [{"name": "blk.0.attn_k.weight", "type": "BF16", "shape": [42, 3117]}],
    "system": "You are brief.\n\n  Very brief.  \nReally.",
    "license": "MIT License\x1b[2J\n",
}
SECTIONS = """\
  Model
    architecture        llama
    parameters          8B
    context length      1000
    embedding length    64
    quantization        Q8_0
    requires            0.19.0

  Capabilities
    completion
    tools

  Parameters
    stop           "<|end|>"
    stop           up
    temperature    99

VERBOSE  System
    You are brief.
    Very brief.
    ...

  License
    MIT License\ufffd[2J

"""
VERBOSE = f"""\
  Metadata
    a.flag                    true
    a.float                   1e-05
    a.list                    [1, 2, 3 ...+2 more]
    a.long                    [{"x" * 40} ...+1 more]
    a.null                    null
    general.architecture      llama
    llama.context_length      1000
    llama.embedding_length    64

  Tensors
    blk.0.attn_k.weight    BF16    [42 3117]

"""


def test_show_has_ollamas_sections_and_columns() -> None:
    assert facts(SHOWN) == SECTIONS.replace("VERBOSE", "")
    assert facts(SHOWN, verbose=True) == SECTIONS.replace("VERBOSE", VERBOSE)
    assert facts({}) == ""
