"""The library's tokenizer against its definition, and against tables and texts that nobody has checked."""

from __future__ import annotations

import ctypes
import struct
import threading
from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.errors import InputError
from native.library import library
from native.memory import place
from native.tokenizer import RowRefused, Tokens, pass_strings

BYTES = [bytes([byte]) if byte < 128 else b"<%d>" % byte for byte in range(256)]  # the token that each byte is
STARTS = array("i", range(256))


def packed(texts: list[bytes], more: bytes = b"") -> memoryview:
    return memoryview(b"".join(struct.pack("<Q", len(text)) + text for text in texts) + more)


def made(more: list[bytes], merges: list[tuple[bytes, bytes]], **options: Any) -> Tokens:
    texts = [*BYTES, *more]
    tokens = Tokens(packed(texts), len(texts), most=100)
    tokens.words(bytes([1]) * len(texts), STARTS, **options)
    tokens.merges(packed([left + b" " + right for left, right in merges]), len(merges))
    return tokens


def slow_merge(word: bytes, merges: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The definition."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}  # of twins the later
    parts = [bytes([byte]) for byte in word]
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            return parts
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@st.composite
def merges(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    parts, found = [b"a", b"b", b"c"], []
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.sampled_from(parts)), draw(st.sampled_from(parts))
        found.append(pair)
        if b"".join(pair) not in parts and len(b"".join(pair)) < 40:
            parts.append(b"".join(pair))
        elif b"".join(pair) not in parts:
            found.pop()
    return draw(st.permutations(found))


@given(merges=merges(), words=st.lists(st.text("abc", min_size=1, max_size=130), max_size=6))
@settings(max_examples=300, deadline=None)
def test_merges_as_the_definition(merges: list[tuple[bytes, bytes]], words: list[str]) -> None:
    texts = list(dict.fromkeys(b"".join(pair) for pair in merges))
    tokens = made(texts, merges)
    ids = tokens.encode("".join(words).encode(), array("i", map(len, words)))
    assert [tokens.text(index) for index in ids] == [
        part for word in words for part in slow_merge(word.encode(), merges)
    ]


@given(st.lists(st.text(max_size=30).map(str.encode), min_size=1, max_size=60, unique=True), st.text(max_size=5))
@settings(max_examples=200, deadline=None)
def test_every_text_is_found_and_no_other(texts: list[bytes], other: str) -> None:
    tokens = Tokens(packed(texts), len(texts), most=30)
    assert len(tokens) == len(texts) and tokens.texts() == texts
    assert [tokens.find(text) for text in texts] == list(range(len(texts)))
    assert [tokens.text(index) for index in range(len(texts))] == texts
    assert other.encode() in texts or tokens.find(other.encode()) is None
    assert all(text + b"x" in texts or tokens.find(text + b"x") is None for text in texts)


def test_characters_that_no_token_is_become_their_bytes() -> None:
    tokens = made(["é".encode(), "éa".encode()], [("é".encode(), b"a")], characters=True)
    ids = tokens.encode("éaß€é".encode(), array("i", [5]))
    assert ids == [257, *"ß€".encode(), 256]


def test_tokens_that_are_not_mergeable_are_never_made_of_text() -> None:
    texts = [*BYTES, b"ab", "é".encode()]
    tokens = Tokens(packed(texts), len(texts), most=100)
    tokens.words(bytes([1]) * 256 + bytes(2), STARTS, whole=True, characters=True)
    assert tokens.encode("abé".encode(), array("i", [2, 1])) == [97, 98, *"é".encode()]
    with pytest.raises(RowRefused, match="without a token"):
        tokens.merges(packed([b"a b"]), 1)
    tokens.scores(array("f", [0.0] * 258), bytes([1]) * 256 + bytes(2))
    assert tokens.encode(b"ab", array("i", [2])) == [97, 98]


def test_a_word_that_is_a_token_is_taken_whole_when_asked() -> None:
    assert made([b"abc"], [], whole=True).encode(b"abcab", array("i", [3, 2])) == [256, 97, 98]
    assert made([b"abc"], []).encode(b"abcab", array("i", [3, 2])) == [97, 98, 99, 97, 98]


def test_threads_share_a_tokenizer() -> None:
    tokens = made([b"ab", b"abab"], [(b"a", b"b"), (b"ab", b"ab")])
    text, words = b"ab" * 50_000, array("i", [20] * 5000)
    wanted, found = tokens.encode(text, words), []
    threads = [threading.Thread(target=lambda: found.append(tokens.encode(text, words))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4 and wanted == [257] * 25_000


REFUSED: dict[str, tuple[Callable[[], object], str, int | None]] = {
    "none": (lambda: Tokens(memoryview(b""), 0, most=9), "no tokens", None),
    "too many": (lambda: Tokens(memoryview(b""), (1 << 21) + 1, most=9), "too many strings", None),
    "negative": (lambda: Tokens(memoryview(b""), -1, most=9), "too many strings", None),
    "short": (lambda: Tokens(packed([b"a"]), 2, most=9), "do not fit", None),
    "twins": (lambda: Tokens(packed([b"a", b"b", b"a"]), 3, most=9), "the same text", 2),
    "long": (lambda: Tokens(packed([b"a", b"b" * 10]), 2, most=9), "too long", 1),
    "not UTF-8": (lambda: Tokens(packed([b"a", b"\xc3"]), 2, most=9), "no UTF-8", 1),
    "beyond": (lambda: Tokens(packed([b"a"], struct.pack("<Q", 2**63) + b"b"), 2, most=9), "beyond the end", 1),
    "behind": (lambda: Tokens(packed([b"a", b"b"]), 1, most=9), "behind the last token", None),
    "one part": (lambda: made([], [(b"a", b"")]), "not two parts", 0),
    "no part": (lambda: made([], [(b"", b"")]), "not two parts", 0),
    "unknown part": (lambda: made([b"ab"], [(b"a", b"b"), (b"ab", b"?!")]), "without a token", 1),
    "unknown whole": (lambda: made([], [(b"a", b"b")]), "without a token", 0),
    "no words": (lambda: Tokens(packed([b"a"]), 1, most=9).merges(memoryview(b""), 0), "how words begin", None),
    "merges behind": (lambda: made([b"ab"], []).merges(packed([b"a b"], b"x"), 1), "behind the last merge", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_row(case: str) -> None:
    make, message, row = REFUSED[case]
    with pytest.raises(RowRefused, match=message) as caught:
        make()
    assert caught.value.row == row


@pytest.mark.parametrize("words", [[2], [4], [3, 1], [0, 3], [-1, 3], [3, 0], [2**31 - 1], []])
def test_words_that_are_not_the_text_are_refused(words: list[int]) -> None:
    with pytest.raises(InputError, match="word"):
        made([], []).encode(b"abc", array("i", words))


def test_a_byte_without_a_token_is_refused() -> None:
    tokens = Tokens(packed([b"a"]), 1, most=9)
    with pytest.raises(InputError, match="how words begin"):
        tokens.encode(b"a", array("i", [1]))
    starts = array("i", [-1]) * 256
    starts[97] = 0
    tokens.words(b"\1", starts)
    assert tokens.encode(b"aa", array("i", [2])) == [0, 0]
    with pytest.raises(InputError, match="no token for a byte"):
        tokens.encode(b"ab", array("i", [2]))
    for odd in (-2, 1, 2**31 - 1):
        starts[255] = odd
        with pytest.raises(InputError, match="out of range"):
            tokens.words(b"\1", starts)
    assert tokens.encode(b"a", array("i", [1])) == [0]  # as before


def test_scores_that_are_no_numbers_or_too_much_work_are_refused() -> None:
    texts = [b"%d" % index + b"a" * 4000 for index in range(9)]
    tokens = Tokens(packed(texts), 9, most=5000)
    with pytest.raises(InputError, match="how words begin"):
        tokens.scores(array("f", [0.0] * 9), b"\1" * 9)
    tokens.words(b"\1" * 9, array("i", [0]) * 256)
    with pytest.raises(InputError, match="not a number"):
        tokens.scores(array("f", [float("nan")] * 9), b"\1" * 9)
    with pytest.raises(InputError, match="too long to derive"):
        tokens.scores(array("f", [0.0] * 9), b"\1" * 9)


def test_an_empty_token_is_part_of_nothing() -> None:
    texts = [*BYTES, b"", b"ab"]
    tokens = Tokens(packed(texts), len(texts), most=9)
    tokens.words(b"\1" * 258, STARTS)
    tokens.scores(array("f", [0.0] * 258), b"\1" * 258)
    assert tokens.find(b"") == 256 and tokens.encode(b"abab", array("i", [3, 1])) == [257, 97, 98]


def test_null_is_refused_everywhere() -> None:
    tokens, lib = made([], []), library()
    number, other, handle = ctypes.c_int32(), ctypes.c_int64(), tokens._handle
    start = ctypes.byref(number)
    refused = [
        lib.sl_strings(b"", 0, 1, None, ctypes.byref(other)),
        lib.sl_strings(None, 1, 1, ctypes.byref(other), ctypes.byref(other)),
        lib.sl_strings(b"", -1, 1, ctypes.byref(other), ctypes.byref(other)),
        lib.sl_tokenizer_create(b"", 0, 1, 1, start, None),
        lib.sl_tokenizer_create(None, 8, 1, 1, start, ctypes.byref(ctypes.c_void_p())),
        lib.sl_tokenizer_create(b"", -8, 1, 1, start, ctypes.byref(ctypes.c_void_p())),
        lib.sl_tokenizer_texts(handle, None, None),
        lib.sl_tokenizer_find(None, b"a", 1, start),
        lib.sl_tokenizer_find(handle, None, 1, start),
        lib.sl_tokenizer_find(handle, b"a", -1, start),
        lib.sl_tokenizer_words(handle, None, place(STARTS), 0),
        lib.sl_tokenizer_words(handle, bytes(256), place(STARTS), 4),
        lib.sl_tokenizer_words(handle, bytes(256), place(STARTS), -1),
        lib.sl_tokenizer_merges(handle, None, 8, 1, start),
        lib.sl_tokenizer_scores(handle, None, bytes(256)),
        lib.sl_tokenizer_encode(handle, b"a", 1, None, 1, start, ctypes.byref(other)),
        lib.sl_tokenizer_encode(handle, b"a", 1, start, -1, start, ctypes.byref(other)),
        lib.sl_tokenizer_encode(handle, b"a", 1 << 31, start, 1, start, ctypes.byref(other)),
    ]
    assert refused == [1] * len(refused) and lib.sl_last_error()
    lib.sl_tokenizer_free(None)
    assert tokens.encode(b"ab", array("i", [2])) == [97, 98]


# -- strings


def slow_pass(data: bytes, count: int) -> tuple[int, int]:
    at = passed = 0
    while passed < count and at + 8 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        try:
            data[at + 8 : at + 8 + length].decode()
        except (UnicodeDecodeError, OverflowError):
            break
        if at + 8 + length > len(data):
            break
        at, passed = at + 8 + length, passed + 1
    return passed, at


# Of every length, and the ends of what RFC 3629 allows.
EDGES = [
    b"\x7f", b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2\x80", b"\xdf\xbf", b"\xe0\x9f\xbf", b"\xe0\xa0\x80",
    b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80",
    b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xe2\x82", b"\xf0\x9f\xa6", b"\xc3a",
    b"\xe2a\x82", b"\xe2\x82a", b"\xf0\x9fa\xa6", b"\xf0\x9f\xa6a",
]  # fmt: skip


@given(
    texts=st.lists(st.lists(st.sampled_from([*EDGES, b"abcdefgh", b"a", b""]), max_size=4).map(b"".join), max_size=5),
    count=st.integers(-1, 7),
    cut=st.integers(0, 60),
    spoilt=st.integers(0, 60),
)
@settings(max_examples=500, deadline=None)
def test_strings_are_passed_as_python_reads_them(texts: list[bytes], count: int, cut: int, spoilt: int) -> None:
    data = bytes(packed(texts))
    broken = data[:spoilt] + b"\xf3" + data[spoilt + 1 :]
    for one in (data, data[:cut], broken):
        assert pass_strings(memoryview(one), count) == slow_pass(one, count)


@pytest.mark.parametrize("edge", EDGES)
def test_every_edge_of_utf8(edge: bytes) -> None:
    for text in (edge, b"abcdefgh" + edge, edge + b"abcdefgh"):
        assert pass_strings(packed([text]), 1) == slow_pass(bytes(packed([text])), 1)
