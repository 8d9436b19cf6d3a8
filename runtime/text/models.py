"""Builds the merging machine of each tokenizer family on the `tokenizers` library, from checked tables.

* `gpt2`, `gemma4`: BPE with listed merges.
* `llama`: SentencePiece's BPE, which lists no merges: the best pair is the one whose joined text has the highest score.
  Every way to split a token into two tokens is a merge, ranked by that score: the same order, found once at load.
* `bert`: WordPiece; a GGUF spells the start of a word with U+2581 instead of `##` inside words.

Control texts are kept out of the merging tables, so text alone can never merge into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from runtime.text.errors import TokenizerError
from runtime.text.pretokenize import PreRule
from runtime.text.vocab import BYTE, CONTROL, UNKNOWN, Vocab, flag, merges_field, scores_field

SPACE = "\u2581"  # SentencePiece's spelling of a blank
MAX_SPLIT_WORK = 1 << 27  # sum of squared token lengths; a 262k vocabulary needs 2^24


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


def byte_level_bpe(metadata: Mapping[str, object], vocab: Vocab, rule: PreRule) -> Tokenizer:
    bpe = _bpe(_mergeable(vocab), merges_field(metadata), ignore_merges=rule.ignore_merges)
    return byte_level_machine(bpe, rule)


def byte_level_machine(bpe: models.BPE, rule: PreRule) -> Tokenizer:
    machine = Tokenizer(bpe)
    steps: list[Any] = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in rule.patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    machine.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return machine


def missing_bytes(vocab: Vocab) -> bytes:
    """Bytes of UTF-8 text without a token of their own (Falcon lacks some control characters)."""
    return bytes(byte for byte in _BYTES_IN_UTF8 if BYTE_TO_CHAR[byte] not in vocab.ids)


def spaced_bpe(metadata: Mapping[str, object], vocab: Vocab, rule: PreRule) -> Tokenizer:
    """BPE with listed merges over text whose blanks are U+2581."""
    machine = Tokenizer(_bpe(_mergeable(vocab), merges_field(metadata), **_fallback(vocab)))
    machine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in rule.patterns]
    )
    return machine


def scored_bpe(metadata: Mapping[str, object], vocab: Vocab) -> Tokenizer:
    scores = scores_field(metadata, len(vocab.tokens))
    table = _mergeable(vocab)
    return Tokenizer(_bpe(table, merges_by_score(table, scores, vocab.types), **_fallback(vocab)))


def merges_by_score(table: Mapping[str, int], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Every split of every token into two tokens, highest score of the whole first."""
    words = {text: index for text, index in table.items() if types[index] != BYTE}
    if sum(len(text) ** 2 for text in words) > MAX_SPLIT_WORK:
        raise TokenizerError("tokenizer.ggml.tokens: the tokens are too long to derive merges from")
    order = sorted(words, key=lambda text: -scores[words[text]])
    return [
        (head, tail)
        for text in order
        for cut in range(1, len(text))
        if (head := text[:cut]) in words and (tail := text[cut:]) in words
    ]


def word_piece(metadata: Mapping[str, object], vocab: Vocab) -> Tokenizer:
    table = {}
    for index, text in enumerate(vocab.tokens):
        special = vocab.types[index] in (CONTROL, UNKNOWN) or (text.startswith("[") and text.endswith("]"))
        spelled = text if special else text[1:] if text.startswith(SPACE) else f"##{text}"
        table[spelled] = index
    if vocab.unk is None:
        raise TokenizerError("tokenizer.ggml.unknown_token_id: WordPiece needs one")
    machine = Tokenizer(models.WordPiece(table, unk_token=vocab.tokens[vocab.unk], max_input_chars_per_word=1 << 10))
    lowercase = flag(metadata, "tokenizer.ggml.normalizer.lowercase", True)
    accents = flag(metadata, "tokenizer.ggml.normalizer.strip_accents", lowercase)
    machine.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    machine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return machine


def _mergeable(vocab: Vocab) -> dict[str, int]:
    table = dict(vocab.ids)
    for index in [index for index, kind in enumerate(vocab.types) if kind in (CONTROL, UNKNOWN)]:
        del table[vocab.tokens[index]]
    return table


def _fallback(vocab: Vocab) -> dict[str, Any]:
    """Characters outside the vocabulary become byte tokens; without a full set of those, the unknown token."""
    if all(f"<0x{byte:02X}>" in vocab.ids for byte in _BYTES_IN_UTF8):
        return {"byte_fallback": True}
    raise TokenizerError("tokenizer.ggml.tokens: no byte tokens <0x00> to <0xFF> for characters outside the vocabulary")


def _bpe(table: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=table, merges=merges, **options)
    except Exception as error:
        reason = next((pair for pair in merges if not {*pair, "".join(pair)} <= table.keys()), None)
        if reason is None:
            raise TokenizerError(f"tokenizer.ggml.merges: {error}") from error
        raise TokenizerError(f"tokenizer.ggml.merges: {reason!r} makes or joins a text without a token") from error
