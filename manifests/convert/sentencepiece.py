"""Reads SentencePiece's `tokenizer.model`: a protocol buffer, of which four fields matter. Bounded; nothing is run.

    ModelProto  1 pieces: 1 text, 2 score (float), 3 type · 2 trainer: 3 model_type · 3 normalizer: 3 add_dummy_prefix

Refused: models other than BPE (unigram models choose tokens otherwise), broken or overlong fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from manifests.errors import CreateError

MAX_PIECES = 1 << 21
BPE = 2
NORMAL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """`types`: as GGUF's `token_type`, which took SentencePiece's numbers."""

    texts: list[str]
    scores: list[float]
    types: list[int]
    space_prefix: bool


def read_pieces(raw: bytes) -> Pieces:
    """Raises CreateError."""
    found = Pieces(texts=[], scores=[], types=[], space_prefix=True)
    space_prefix, model = True, 1
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            text, score, kind = _piece(value)
            found.texts.append(text)
            found.scores.append(score)
            found.types.append(kind)
            if len(found.texts) > MAX_PIECES:
                raise CreateError(f"tokenizer.model: more than {MAX_PIECES} pieces")
        elif number == 2 and isinstance(value, bytes):
            model = next((part for key, part in _fields(value) if key == 3 and isinstance(part, int)), model)
        elif number == 3 and isinstance(value, bytes):
            parts = [part for key, part in _fields(value) if key == 3]
            space_prefix = bool(parts[-1]) if parts else True
    if model != BPE:
        raise CreateError(f"tokenizer.model: model type {model}, only BPE ({BPE}) is converted")
    if not found.texts:
        raise CreateError("tokenizer.model: no pieces")
    return Pieces(texts=found.texts, scores=found.scores, types=found.types, space_prefix=space_prefix)


def _piece(raw: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise CreateError("tokenizer.model: a piece that is not UTF-8") from None
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not 1 <= kind <= 6 or score != score:
        raise CreateError(f"tokenizer.model: piece {text[:40]!r}: type {kind}, score {score}")
    return text, score, kind


def _fields(raw: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) of one message (protocol buffers, "Encoding"); groups are refused."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        wire, size = tag & 7, 0
        if wire == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(raw, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise CreateError(f"tokenizer.model: byte {at}: wire type {wire}")
        if size > len(raw) - at:
            raise CreateError(f"tokenizer.model: byte {at}: a field of {size} bytes, {len(raw) - at} are left")
        part = raw[at : at + size]
        at += size
        yield tag >> 3, struct.unpack("<f", part)[0] if wire == 5 else part


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise CreateError(f"tokenizer.model: byte {at}: a number that does not end")
