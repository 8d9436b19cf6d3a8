"""Tokenizing: published vectors of ten families, the scored merge against its slow twin, and what must be refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.gguf import Gguf
from runtime.text.errors import TokenizerError
from runtime.text.pretokenize import PRE_RULES
from runtime.text.tokenizer import Tokenizer
from tests.peers.vocabularies import CONTROL_TEXTS, byte_level, scored

VOCAB = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "vocab"
FAMILIES = (
    "bert-bge", "deepseek-coder", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder",
)  # fmt: skip


def _load(family: str) -> tuple[Tokenizer, Path]:
    path = VOCAB / f"ggml-vocab-{family}.gguf"
    if not path.exists():
        pytest.skip(f"{path}: the folder with vocabularies is not beside this checkout")
    return Tokenizer.from_gguf(Gguf.open(path).metadata), path


@pytest.mark.parametrize("family", FAMILIES)
def test_published_vectors(family: str) -> None:
    tokenizer, path = _load(family)
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text().splitlines()
    assert len(lines) >= 46
    wrong = [
        text
        for text, line in zip(texts, lines, strict=False)
        if tokenizer.encode(text, special=False, bos=False) != [int(one) for one in line.split()]
    ]
    assert wrong == []
    if family == "bert-bge":  # WordPiece folds case and blanks: no way back
        return
    for text in texts:
        back = tokenizer.decode(tokenizer.encode(text, special=False, bos=False))
        assert back in (text, " " + text)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_has_fewer_ids_than_is_said_without_looking(family: str) -> None:
    tokenizer, _ = _load(family)
    longest = sorted((tokenizer.token_bytes(one) for one in range(tokenizer.vocab_size)), key=len)[-20:]
    texts = [
        *(token.decode("utf-8", "ignore") * 50 for token in longest),
        " " * 999,
        "\n" * 999,
        "漢字🦙é" * 300,
        "x" * 999,
    ]
    for text in texts:
        for special in (True, False):
            assert tokenizer.least(text) <= len(tokenizer.encode(text, special=special, bos=False))
    assert (tokenizer.least("x" * (8 << 20)) > 4096) == (family not in ("bert-bge", "phi-3"))


SPM_WORDS = {
    "▁": -1.0, "a": -2.0, "b": -3.0, "c": -4.0, "ab": -5.0, "ba": -6.0, "▁a": -7.0, "aba": -8.0, "abc": -9.0,
    "▁ab": -4.5, "cc": -10.0, "ccc": -11.0, "▁▁": -2.5, "abab": -12.0, "é": -13.0,
}  # fmt: skip


def slow_scored_merge(text: str, words: dict[str, float], first: int) -> list[int]:
    """The definition: of all neighbours whose joined text is a token, join the one with the highest score, leftmost."""
    ids = {word: first + index for index, word in enumerate(words)}
    parts = list(text)
    while True:
        pairs = [(-words[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in words]
        if not pairs:
            break
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [one for part in parts for one in ([ids[part]] if part in ids else [3 + byte for byte in part.encode()])]


@given(st.text(alphabet="abc é\n🦙", max_size=40))
@settings(max_examples=300, deadline=None)
def test_scores_merge_like_the_definition(text: str) -> None:
    got = SPM.encode(text, special=False, bos=False)
    assert got == (slow_scored_merge((" " + text).replace(" ", "▁"), SPM_WORDS, 259) if text else [])


SPM = Tokenizer.from_gguf(scored(SPM_WORDS))
BYTES = Tokenizer.from_gguf(byte_level())


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_decode_gives_the_text_back(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text, special=False, bos=False)) == text
    assert SPM.decode(SPM.encode(text, special=False, bos=False)) == (" " + text if text else "").replace("▁", " ")


@given(st.lists(st.sampled_from([*CONTROL_TEXTS, "hello", "a", " ", "é", "🦙"]), max_size=60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_least_is_no_more_than_there_are(parts: list[str], special: bool) -> None:
    text = "".join(parts)
    for tokenizer in (BYTES, SPM):
        assert tokenizer.least(text) <= len(tokenizer.encode(text, special=special, bos=False))
    assert BYTES.least("a" * 1000) > 10


@given(st.lists(st.sampled_from([*CONTROL_TEXTS, "a", " ", "<", "|im_end|>", "<|im_<|im_end|>end|>"]), max_size=8))
@settings(max_examples=200, deadline=None)
def test_text_cannot_forge_control_tokens(parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer in (BYTES, SPM):
        plain = tokenizer.encode(text, special=False, bos=False)
        assert not any(tokenizer.is_control(one) for one in plain)
        assert tokenizer.decode(plain) in (text, " " + text)


def test_neighbours_that_spell_a_control_text_do_not_merge_into_it() -> None:
    tokenizer = Tokenizer.from_gguf(scored({"<": -1.0, "s": -2.0, ">": -3.0, "<s": -4.0}, space_prefix=False))
    ids = tokenizer.encode("<s>", special=False, bos=False)
    assert [tokenizer.token_text(one) for one in ids] == ["<s", ">"]


def test_special_texts_become_tokens_when_asked() -> None:
    ids = BYTES.encode("<|im_start|>hell<|im_end|>", special=True, bos=False)
    assert [BYTES.token_text(one) for one in ids] == ["<|im_start|>", "hell", "<|im_end|>"]
    assert BYTES.decode(ids) == "hell"
    assert BYTES.decode(ids, special=True) == "<|im_start|>hell<|im_end|>"


def test_user_defined_framing_counts_as_control() -> None:
    table = byte_level()
    table["tokenizer.ggml.token_type"][-4:] = [4, 4, 4, 4]
    tokenizer = Tokenizer.from_gguf(table)
    for text in ("<|im_start|>", "<|im_end|>"):
        ids = tokenizer.encode(text, special=False, bos=False)
        assert text not in [tokenizer.token_text(one) for one in ids]
    assert tokenizer.token_text(max(tokenizer.eog)) == "<|im_end|>"


def test_begin_is_added_as_the_file_says() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level(add_bos=True))
    assert tokenizer.encode("a", special=False)[0] == tokenizer.bos
    assert tokenizer.encode("a", special=False, bos=False)[0] != tokenizer.bos
    assert Tokenizer.from_gguf(byte_level(add_bos=False)).add_bos is False


def test_ends_of_answers() -> None:
    assert {BYTES.token_text(one) for one in BYTES.eog} == {"<|im_end|>", "</s>"}
    assert BYTES.eot is not None and BYTES.token_text(BYTES.eot) == "<|im_end|>"


def test_lone_surrogates_become_replacement_characters() -> None:
    assert BYTES.decode(BYTES.encode("a\ud800b", special=False, bos=False)) == "a\ufffdb"


def _without(key: str) -> dict[str, Any]:
    table = byte_level()
    del table[f"tokenizer.ggml.{key}"]
    return table


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "model": (byte_level() | {"tokenizer.ggml.model": "rwkv"}, "unknown tokenizer 'rwkv'"),
    "pre": (byte_level(pre="martian"), "unknown pre-tokenizer 'martian'"),
    "no pre": (_without("pre"), "tokenizer.ggml.pre: absent"),
    "no tokens": (_without("tokens"), "tokenizer.ggml.tokens: found nothing"),
    "types short": (byte_level() | {"tokenizer.ggml.token_type": [1]}, "found 1 rows, expected 263"),
    "type wrong": (byte_level() | {"tokenizer.ggml.token_type": [1] * 262 + [9]}, r"token_type\[262\]: found 9"),
    "twins": (byte_level() | {"tokenizer.ggml.tokens": ["a", "a"]}, "the text 'a' occurs twice"),
    "id range": (byte_level() | {"tokenizer.ggml.eos_token_id": 263}, "found 263, expected below 263"),
    "id type": (byte_level() | {"tokenizer.ggml.bos_token_id": True}, "expected int, got bool"),
    "merge": (byte_level() | {"tokenizer.ggml.merges": ["ab"]}, r"merges\[0\]: found 'ab'"),
    "merge out": (byte_level() | {"tokenizer.ggml.merges": ["q q"]}, "without a token"),
    "merges type": (byte_level() | {"tokenizer.ggml.merges": [1]}, "expected an array of strings"),
    "scores": (scored({"a": -1.0}) | {"tokenizer.ggml.scores": [0.0]}, "found 1, expected 260 rows"),
    "nan": (scored({"a": float("nan")}), "not a number"),
    "long": (scored({"a" * 5000: -1.0}), "longer than 4096"),
    "work": (scored({f"{index}" + "a" * 4000: -1.0 for index in range(9)}), "too long to derive merges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    table, message = REFUSED[case]
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(table)


def test_a_byte_without_a_token_is_refused_not_dropped() -> None:
    table = byte_level()
    table["tokenizer.ggml.tokens"][0x03] = "unused"
    tokenizer = Tokenizer.from_gguf(table)
    assert tokenizer.encode("fine", special=False, bos=False)
    with pytest.raises(TokenizerError, match="0x03"):
        tokenizer.encode("a\x03", special=False, bos=False)


@pytest.mark.parametrize("pre", sorted(name for name, rule in PRE_RULES.items() if rule.byte_level))
def test_every_rule_compiles_and_loses_nothing(pre: str) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level(pre=pre))
    text = "Hello, 世界! don't 12345 I'LL\r\n\n  x\t ÄÖ ʼn 🦙🏽 \u3000。\u0e01 ３ camelCase"
    assert tokenizer.decode(tokenizer.encode(text, special=False, bos=False)) == text
