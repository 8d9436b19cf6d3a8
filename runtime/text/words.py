r"""Texts to ids by byte pair encoding: cut into words here, merged in the native library.

BPE merges within words only, so the ids of a text are those of its words, one after the other. Families:

* `gpt2`: a word begins as its bytes, each spelled as a printable character; merges are listed.
* `gemma4`: a word begins as its characters, and as bytes where a character is no token; merges are listed.
* `llama`: SentencePiece's, as `gemma4`, but it has no words and lists no merges: of all neighbours whose joined text is
  a token, those are joined whose token has the highest score.

Control texts are no parts of words and no merge makes them, so text alone can never become one.
Invariant: for every rule and text, the ids are those of the `tokenizers` library.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping

from native.errors import InputError
from native.tokenizer import RowRefused, Tokens
from runtime.text.alphabet import Alphabet
from runtime.text.errors import TokenizerError
from runtime.text.pretokenize import PreRule
from runtime.text.vocab import (
    BYTE,
    CONTROL,
    MAX_MERGES,
    UNKNOWN,
    Vocab,
    refused_text,
    scores_field,
    strings,
)

LARGE = 1 << 16  # characters of a text: `re` stops all other threads while it cuts, for some 50 ms of a million
MANY = 1 << 14  # words of a larger text that are cut at a time


def byte_table() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return table


BYTE_TO_CHAR = byte_table()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}
_BYTES_IN_UTF8 = [byte for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]
_PARTS = bytes(kind not in (CONTROL, UNKNOWN, BYTE) for kind in range(256))


class Words:
    """Calling it gives a text's ids. Safe to share between threads. `missing`: bytes of UTF-8 text that no token stands
    for (Falcon lacks some control characters); a text with one must not come here."""

    def __init__(self, tokens: Tokens, rule: PreRule | None, missing: frozenset[int] = frozenset()) -> None:
        self._tokens = tokens
        self._alphabet = Alphabet(rule.patterns if rule else ())
        self.missing = missing

    def __call__(self, text: str) -> list[int]:
        return self._tokens.encode(text.encode(), array("i", map(len, self.cut(text))))

    def cut(self, text: str) -> Iterable[str]:
        """The text's words, with stand-ins for what is not ASCII in them."""
        patterns = self._alphabet.patterns
        if not patterns:
            return [text] if text else []
        if len(text) > LARGE:
            parts = (text[at : at + LARGE].translate(self._alphabet) for at in range(0, len(text), LARGE))
            pieces: Iterable[str] = ["".join(parts)]
            for pattern in patterns:
                pieces = _lazily(pattern, pieces)
            return pieces
        words = [text if text.isascii() else text.translate(self._alphabet)]
        for pattern in patterns:
            words = [piece for word in words for piece in pattern.split(word) if piece]
        return words


def _lazily(pattern: re.Pattern[str], pieces: Iterable[str]) -> Iterator[str]:
    """What matches and what is between, some at a time: other threads get their turn, and memory is bounded."""
    for rest in pieces:
        while rest:
            *found, rest = pattern.split(rest, maxsplit=MANY)
            yield from filter(None, found)
            if len(found) < 2 * MANY and rest:
                yield rest
                break


def byte_level_bpe(metadata: Mapping[str, object], vocab: Vocab, rule: PreRule) -> Words:
    """Raises TokenizerError."""
    starts = _starts(vocab, [BYTE_TO_CHAR[byte] for byte in range(256)])
    vocab.tokens.words(vocab.mergeable(), starts, whole=rule.ignore_merges)
    _add_merges(metadata, vocab)
    return Words(vocab.tokens, rule, frozenset(byte for byte in _BYTES_IN_UTF8 if starts[byte] < 0))


def spaced_bpe(metadata: Mapping[str, object], vocab: Vocab, rule: PreRule) -> Words:
    """Over text whose blanks are U+2581. Raises TokenizerError."""
    _by_characters(vocab)
    _add_merges(metadata, vocab)
    return Words(vocab.tokens, rule)


def scored_bpe(metadata: Mapping[str, object], vocab: Vocab) -> Words:
    """As `spaced_bpe`. Raises TokenizerError."""
    scores = scores_field(metadata, len(vocab))
    _by_characters(vocab)
    try:
        vocab.tokens.scores(scores, vocab.types.translate(_PARTS))
    except InputError as error:
        raise TokenizerError(f"tokenizer.ggml.scores: {error}") from None
    return Words(vocab.tokens, None)


def _by_characters(vocab: Vocab) -> None:
    starts = _starts(vocab, [f"<0x{byte:02X}>" for byte in range(256)])
    if any(starts[byte] < 0 for byte in _BYTES_IN_UTF8):
        raise TokenizerError(
            "tokenizer.ggml.tokens: no byte tokens <0x00> to <0xFF> for characters outside the vocabulary"
        )
    vocab.tokens.words(vocab.mergeable(), starts, characters=True)


def _starts(vocab: Vocab, spelled: list[str]) -> array[int]:
    """The token of each byte, -1 where text may not become it."""
    mergeable = vocab.mergeable()
    found = map(vocab.find, spelled)
    return array("i", (index if index is not None and mergeable[index] else -1 for index in found))


def _add_merges(metadata: Mapping[str, object], vocab: Vocab) -> None:
    key = "tokenizer.ggml.merges"
    raw, count = strings(metadata, key, MAX_MERGES)
    try:
        vocab.tokens.merges(raw, count)
    except RowRefused as error:
        merge = refused_text(metadata, key, error)
        cut = merge.find(" ", 1)
        if cut < 0 or cut == len(merge) - 1:
            raise TokenizerError(f"{key}[{error.row}]: found {merge[:80]!r}, expected two parts") from None
        parts = merge[:cut][:80], merge[cut + 1 :][:80]
        raise TokenizerError(f"{key}[{error.row}]: {parts!r} makes or joins a text without a token") from None
