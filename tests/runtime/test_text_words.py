"""BPE says what the `tokenizers` library says: for every rule and text the same words, by every table the same ids."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from manifests.gguf import Gguf
from native.tokenizer import pass_strings
from runtime.text import alphabet, words
from runtime.text.pretokenize import PRE_RULES, PreRule
from runtime.text.tokenizer import Tokenizer
from runtime.text.vocab import SPACE
from tests.peers.library_tokenizer import library_machine
from tests.peers.vocabularies import byte_chars, byte_level, scored
from tests.runtime.test_text_tokenizer import VOCAB

RULES = list({rule.patterns: rule for rule in PRE_RULES.values()}.values())
# Of each kind, and what a pattern lists by name; \x1c is white space to Python and not to Unicode, U+2EBF0 and U+1C80
# came late or are unassigned, U+E000 is a stand-in and a character.
CHARACTERS = (
    " \n\r\t\x0b\x1caBsTlLv'19-$/_~[^"
    "éÉßЯяǅʰªאあカ中\u4e00世한\u0301\u20dd²٣Ⅻ«。！～\u2018\u3001€＋\u3000\xa0\x85\u2028\u200b\u200d\u0378\uffff\ue000\ue00b"
    "\U00010400\U00010428\U0001f999\U0002ebf1\U0001c8a5\U000e0001"
)
TEXTS = st.text(st.one_of(st.sampled_from(CHARACTERS), st.characters(exclude_categories=["Cs"])), max_size=30)


def cutter(rule: PreRule) -> Any:
    published = (one.removeprefix(r"(?<!\s)") for one in rule.patterns)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(one), behavior="isolated") for one in published])


@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
def test_every_rule_cuts_as_the_library_does(rule: PreRule, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = words.Words(None, rule), cutter(rule)  # type: ignore[arg-type]

    @given(text=TEXTS)
    @settings(max_examples=150, deadline=None)
    @example("I'LL don't\r\n\r\n  x   12345 camelCase ÀÉaé中文，テスト。!?/path ʼn٣٤")
    def same(text: str) -> None:
        wanted = [len(piece) for piece, _ in theirs.pre_tokenize_str(text)]
        for large, many in ((1 << 20, 1), (3, 1), (3, 2)):
            monkeypatch.setattr(words, "LARGE", large)
            monkeypatch.setattr(words, "MANY", many)
            found = list(ours.cut(text))
            assert list(map(len, found)) == wanted

    same()


def test_every_character_is_of_the_librarys_kind() -> None:
    """Of those that are assigned in the library's Unicode."""
    codes = [code for code in (*range(0x80, 0x32400), *range(0xE0000, 0xE0200)) if not 0xD800 <= code < 0xE000]
    every = "".join(map(chr, codes))
    known = set(normalizers.Replace(Regex(r"\p{Cn}"), "").normalize_str(every))
    assert len(known) > 140_000
    for kind in ("Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S", "s"):
        pattern = r"\s" if kind == "s" else rf"\p{{{kind}}}"
        theirs = set(every) - set(normalizers.Replace(Regex(pattern), "").normalize_str(every))
        assigned = {char for char in known if unicodedata.category(char) != "Cn"}
        later = random.Random(kind).sample(sorted(theirs - assigned), min(20, len(theirs - assigned)))
        assert {char for char in assigned if alphabet._kind(char) == kind} == theirs & assigned, kind
        assert all(alphabet._kind(char) == kind for char in later), kind


def test_what_is_remembered_of_characters_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alphabet, "_MOST", 200)
    made = alphabet.Alphabet(PRE_RULES["gpt-2"].patterns)
    text = "".join(map(chr, range(0x3000, 0x4000)))
    assert len(text.translate(made)) == len(text) and len(made) == 200


def test_a_long_run_of_blanks_is_cut_in_linear_time() -> None:
    text = " " * 200_000 + "1"  # with a square of steps: a minute
    for rule in RULES:
        assert sum(map(len, words.Words(None, rule).cut(text))) == len(text)  # type: ignore[arg-type]


# -- merging


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Tokens and merges: some come twice, some make a token that another one makes, in any order."""
    tokens, merges = list("abc"), []
    for _ in range(draw(st.integers(0, 14))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        merges.append(f"{left} {right}")
        if left + right not in tokens:
            tokens.append(left + right)
    merges += draw(st.lists(st.sampled_from(merges), max_size=4)) if merges else []
    return tokens, draw(st.permutations(merges)) if draw(st.booleans()) else merges


RUNS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "ab", "abc", "ca"]), st.integers(1, 60)), max_size=6)
LONG = RUNS.map(lambda runs: "".join(text * count for text, count in runs)) | st.text("abc", max_size=300)


@given(made=vocabularies(), text=LONG, whole=st.booleans())
@settings(max_examples=400, deadline=None)
@example(made=(["a", "b", "c", "bc", "ab", "abc"], ["a b", "a bc", "b c", "ab c"]), text="abc" * 30, whole=False)
def test_listed_merges_give_the_librarys_ids(made: tuple[list[str], list[str]], text: str, whole: bool) -> None:
    tokens, merges = made
    others = [char for char in byte_chars() if char not in tokens]
    table = byte_level() | {
        "tokenizer.ggml.tokens": tokens + others,
        "tokenizer.ggml.token_type": [1] * (len(tokens) + len(others)),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    rule = PreRule(patterns=(), ignore_merges=whole)
    ours = words.byte_level_bpe(table, Tokenizer.from_gguf(table)._vocab, rule)
    assert ours(text) == library_machine(table, rule)(text)


@given(
    pieces=st.dictionaries(
        st.text("abé▁", min_size=1, max_size=5), st.sampled_from([-1.0, -2.0, -2.5, 0.0]), max_size=14
    ),
    text=st.text("abé▁ß🦙", max_size=120),
)
@settings(max_examples=300, deadline=None)
def test_scores_give_the_librarys_ids(pieces: dict[str, float], text: str) -> None:
    """Ties too: among pairs of the same score the token with the lower id is made first."""
    table = scored(pieces)
    ours = Tokenizer.from_gguf(table)._merge
    assert list(ours(text)) == library_machine(table)(text)


@given(text=st.text("abc▁é\n🦙", max_size=100))
@settings(max_examples=100, deadline=None)
def test_listed_merges_over_characters_give_the_librarys_ids(text: str) -> None:
    pieces = dict.fromkeys(["▁", "a", "b", "ab", "▁a", "▁ab", "\n", "\n\n", "ba", "aba"], 0.0)
    table = scored(pieces) | {"tokenizer.ggml.model": "gemma4"}
    table["tokenizer.ggml.merges"] = ["▁ a", "a b", "▁a b", "\n \n", "b a", "ab a", "<0xF0> <0x9F>", "a ba"]
    table["tokenizer.ggml.tokens"].append("<0xF0><0x9F>")
    table["tokenizer.ggml.token_type"].append(1)
    assert list(Tokenizer.from_gguf(table)._merge(text)) == library_machine(table)(text)


@pytest.fixture(scope="module", params=["deepseek-coder", "falcon", "gpt-2", "llama-spm"])
def family(request: pytest.FixtureRequest) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    path = VOCAB / f"ggml-vocab-{request.param}.gguf"
    if not path.exists():
        pytest.skip(f"{path}: the folder with vocabularies is not beside this checkout")
    raw = Gguf.open(path, arrays=False, pass_strings=pass_strings)
    return Tokenizer.from_gguf(raw.metadata), library_machine(Gguf.open(path).metadata)


@given(
    text=st.lists(st.sampled_from(["the ", "Ünïcode ", "您好", "Ж", "🚀", "==", "\n"]) | TEXTS, max_size=12).map(
        "".join
    )
)
@settings(max_examples=100, deadline=None)
def test_a_real_vocabulary_gives_the_librarys_ids(
    family: tuple[Tokenizer, Callable[[str], list[int]]], text: str
) -> None:
    ours, theirs = family
    if ours._style.spaced:
        text = text.replace(" ", SPACE)
    text = "".join(char for char in text if not ours._style.missing.intersection(char.encode()))
    assert list(ours._merge(text)) == theirs(text)


def test_long_words_of_a_real_vocabulary(family: tuple[Tokenizer, Callable[[str], list[int]]]) -> None:
    ours, theirs = family
    for text in ("a" * 50_000, "abcdefgh" * 5000, "大" * 9000, "".join(random.Random(1).choices("estzqk", k=30_000))):
        assert list(ours._merge(text)) == theirs(text)


def test_a_table_as_lists_is_as_the_files_own() -> None:
    path = VOCAB / "ggml-vocab-gpt-2.gguf"
    if not path.exists():
        pytest.skip(f"{path}: the folder with vocabularies is not beside this checkout")
    lists, raw = (
        Tokenizer.from_gguf(Gguf.open(path).metadata),
        Tokenizer.from_gguf(Gguf.open(path, arrays=False).metadata),
    )
    assert lists._vocab.texts() == raw._vocab.texts() and lists._vocab.types == raw._vocab.types
    assert lists.table() == raw.table() == [raw.token_bytes(index) for index in range(raw.vocab_size)]
    assert lists.eog == raw.eog and (lists.bos, lists.eos, lists.eot) == (raw.bos, raw.eos, raw.eot)
    assert lists.encode("as it is", special=True) == raw.encode("as it is", special=True)
