"""Text to token ids and back, built from a GGUF's own tables.

Refused by name: a tokenizer model or pre-tokenizer we do not know (a guess gives wrong tokens without any error).
Invariants: with `special=False`, or inside `harmless`, no control token comes out, whatever the text says;
`decode(encode(x))` is x up to the blank that SentencePiece families put in front; an id outside the vocabulary is our
own mistake (IndexError).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

from runtime.text import words
from runtime.text.errors import TokenizerError
from runtime.text.pretokenize import pre_rule
from runtime.text.specials import SpecialTexts
from runtime.text.vocab import (
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Vocab,
    flag,
    special_id,
    text_field,
    vocab_from_gguf,
)

Merge = Callable[[str], Iterable[int]]  # a text without control texts to its ids

_MODELS = ("gpt2", "gemma4", "llama", "bert")
SEAM = "\ufdd0"  # a noncharacter: Unicode keeps it for a program's own use
_BYTE_TEXT = re.compile(rb"<0x([0-9A-F]{2})>")
_SPACE_BYTES = SPACE.encode()


class Tokenizer:
    """Made by `from_gguf`; safe to share between threads: nothing changes after construction but what is remembered."""

    def __init__(self, *, vocab: Vocab, merge: Merge, style: _Style) -> None:
        self._vocab = vocab
        self._merge = merge
        self._style = style
        self._bytes: dict[int, bytes] = {}  # of tokens that were asked for: every answer asks for each of its own
        self._whole: dict[int, str | None] = {}
        framing = {vocab.text(index): index for index in vocab.of_type(CONTROL, UNKNOWN)}
        always = {vocab.text(index): index for index in vocab.of_type(USER_DEFINED)}
        self._always = SpecialTexts(always)
        self._all = SpecialTexts(always | framing)
        self._framing = SpecialTexts(framing)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Raises TokenizerError when the tables are not those of a tokenizer we know."""
        model = text_field(metadata, "tokenizer.ggml.model")
        if model not in _MODELS:
            raise TokenizerError(
                f"tokenizer.ggml.model: unknown tokenizer {model!r}", hint=f"known: {', '.join(_MODELS)}"
            )
        vocab = vocab_from_gguf(metadata)
        merge, style = _build(metadata, vocab)
        return cls(vocab=vocab, merge=merge, style=style)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    @property
    def bos(self) -> int | None:
        return self._style.bos

    @property
    def eos(self) -> int | None:
        return self._style.eos

    @property
    def eot(self) -> int | None:
        return self._vocab.eot

    @property
    def eog(self) -> frozenset[int]:
        """Every id that ends an answer."""
        return self._vocab.eog

    @property
    def add_bos(self) -> bool:
        return self._style.add_bos

    @property
    def add_eos(self) -> bool:
        return self._style.add_eos

    def token_text(self, index: int) -> str:
        """The token as the vocabulary spells it."""
        return self._vocab.text(index)

    def is_control(self, index: int) -> bool:
        return self._vocab.types[index] in (CONTROL, UNKNOWN)

    def control(self, text: str) -> int | None:
        """The control token of that text."""
        index = self._vocab.find(text)
        return index if index is not None and self.is_control(index) else None

    def pieces(self, text: str) -> Iterator[str | int]:
        """The text as texts and the control tokens among them."""
        return self._framing.split(text)

    def encode(self, text: str, *, special: bool, bos: bool | None = None) -> list[int]:
        """Ids of `text`. special: control texts inside it become control tokens. bos: None means what the GGUF says
        (begin and end), True puts begin in front, False adds nothing."""
        add_bos, add_eos = (self.add_bos, self.add_eos) if bos is None else (bos, False)
        ids = [self.bos] if add_bos and self.bos is not None else []
        ids += self._ids(_encodable(text), special=special)
        if add_eos and self.eos is not None:
            ids.append(self.eos)
        return ids

    def least(self, text: str) -> int:
        """So many ids `text` has at the least, without looking at it: no token holds more of it than the longest one.
        0 for families whose tokens may stand for any length of text."""
        return len(text) // self._longest if self._longest else 0

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token, of byte-level ones bytes; 0 where not every character has ids of its own.
        Only long texts ask, so a start does not wait for it."""
        every = self._style.byte_level or self._vocab.types.count(BYTE) == 256
        return max(map(len, self._vocab.texts())) if every and not self._style.strip_after else 0

    def harmless(self, text: str) -> str:
        """`text` for use inside a template: its control texts are broken by SEAM, so that `encode` reads them as plain
        text. A SEAM is in no id, so one in the text itself becomes U+FFFD."""
        parts = self._framing.split(text.replace(SEAM, "\ufffd"))
        return "".join(part if isinstance(part, str) else _seamed(self._vocab.text(part)) for part in parts)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = []
        style = self._style
        after_special = True
        strip = False
        for piece in (self._all if special else self._always).split(text):
            if isinstance(piece, int):
                ids.append(piece)
                after_special = True
                strip = piece in style.strip_after
                continue
            piece = piece.replace(SEAM, "") if special else piece
            plain = piece.lstrip() if strip else piece
            strip = False
            if not plain:
                continue
            if style.space_prefix and after_special:
                plain = " " + plain
            if style.spaced:
                plain = plain.replace(" ", SPACE)
            style.refuse_missing(plain)
            ids += self._merge(plain)
            after_special = False
        return ids

    def token_bytes(self, index: int) -> bytes:
        """What the token adds to the text; one token may hold part of a character. Control tokens give their name."""
        known = self._bytes.get(index)
        if known is None:
            raw, kind = self._vocab.tokens.text(index), self._vocab.types[index]
            known = self._bytes[index] = self._token_bytes(raw, kind)
        return known

    def _token_bytes(self, raw: bytes, kind: int) -> bytes:
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return raw
        if kind == BYTE:
            match = _BYTE_TEXT.fullmatch(raw)
            return bytes([int(match[1], 16)]) if match else raw
        if self._style.byte_level:
            table = words.CHAR_TO_BYTE
            return b"".join(bytes([table[char]]) if char in table else char.encode() for char in raw.decode())
        return raw.replace(_SPACE_BYTES, b" ")

    def table(self) -> list[bytes]:
        """`token_bytes` of every id."""
        return list(map(self._token_bytes, self._vocab.tokens.texts(), self._vocab.types))

    def piece(self, index: int, *, special: bool = False) -> bytes:
        """`token_bytes`, but nothing for a control token unless `special`."""
        return b"" if self.is_control(index) and not special else self.token_bytes(index)

    def whole(self, index: int) -> str | None:
        """`piece` as text, where it is whole characters."""
        try:
            return self._whole[index]
        except KeyError:
            text: str | None = None
            with contextlib.suppress(UnicodeDecodeError):
                text = self.piece(index).decode()
            self._whole[index] = text
            return text

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of `ids`; broken UTF-8 becomes U+FFFD. special: control tokens appear by name, else not at all."""
        return b"".join(self.piece(index, special=special) for index in ids).decode("utf-8", "replace")


class _Style:
    """What differs between the families around the merging machine."""

    __slots__ = ("add_bos", "add_eos", "bos", "byte_level", "eos", "missing", "space_prefix", "spaced", "strip_after")

    def __init__(
        self,
        metadata: Mapping[str, object],
        vocab: Vocab,
        *,
        byte_level: bool = False,
        spaced: bool = False,
        space_prefix: bool = False,
        add_bos: bool = False,
        add_eos: bool = False,
        bos: int | None = None,
        eos: int | None = None,
        missing: frozenset[int] = frozenset(),
    ) -> None:
        self.byte_level = byte_level
        self.spaced = spaced
        self.space_prefix = spaced and flag(metadata, "tokenizer.ggml.add_space_prefix", space_prefix)
        self.bos = vocab.bos if bos is None else bos
        self.eos = vocab.eos if eos is None else eos
        self.add_bos = flag(metadata, "tokenizer.ggml.add_bos_token", add_bos) and self.bos is not None
        self.add_eos = flag(metadata, "tokenizer.ggml.add_eos_token", add_eos) and self.eos is not None
        self.strip_after = _strip_after(metadata, vocab)
        self.missing = missing

    def refuse_missing(self, text: str) -> None:
        """The merging machine would drop a byte without a token in silence."""
        if self.missing and (lost := self.missing.intersection(text.encode())):
            raise TokenizerError(
                f"this model's vocabulary has no token for the byte 0x{min(lost):02X} found in the text",
                hint="remove that character",
            )


def _strip_after(metadata: Mapping[str, object], vocab: Vocab) -> frozenset[int]:
    """Phi-3's added tokens eat the white space after them (its tokenizer.json: rstrip); a GGUF has no field for it."""
    name = metadata.get("general.name")
    if not isinstance(name, str) or not any(one in name.lower() for one in ("phi-3", "phi3")):
        return frozenset()
    kept = {"<unk>", "<s>", "<|endoftext|>"}
    return frozenset(index for index in vocab.of_type(CONTROL, USER_DEFINED) if vocab.text(index) not in kept)


def _build(metadata: Mapping[str, object], vocab: Vocab) -> tuple[Merge, _Style]:
    if vocab.model == "llama":
        style = _Style(metadata, vocab, spaced=True, space_prefix=True, add_bos=True)
        return words.scored_bpe(metadata, vocab), style
    if vocab.model == "bert":
        from runtime.text.wordpiece import word_piece

        bos = special_id(metadata, "cls", len(vocab))
        eos = special_id(metadata, "seperator", len(vocab))  # GGUF's own spelling
        style = _Style(metadata, vocab, add_bos=True, add_eos=True, bos=bos, eos=eos)
        return word_piece(metadata, vocab), style
    rule = pre_rule("gemma4" if vocab.model == "gemma4" else _pre_name(metadata))
    if rule.byte_level:
        merge = words.byte_level_bpe(metadata, vocab, rule)
        return merge, _Style(metadata, vocab, byte_level=True, add_bos=rule.add_bos, missing=merge.missing)
    return words.spaced_bpe(metadata, vocab, rule), _Style(metadata, vocab, spaced=True, add_bos=rule.add_bos)


def _pre_name(metadata: Mapping[str, object]) -> str:
    if "tokenizer.ggml.pre" not in metadata:
        raise TokenizerError(
            "tokenizer.ggml.pre: absent, so how to cut words is unknown",
            hint="convert the model again with a current converter",
        )
    return text_field(metadata, "tokenizer.ggml.pre")


def _encodable(text: str) -> str:
    """Lone surrogates (JSON can carry them) become U+FFFD, as every UTF-8 reader would see them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _seamed(text: str) -> str:
    """A seam after every character: no shorter control text is left inside."""
    return SEAM.join(text) + SEAM
