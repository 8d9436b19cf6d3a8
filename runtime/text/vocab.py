"""The vocabulary of a GGUF, checked: every table has the declared length and type, every special id is in range.

Refused by name: tables over the limits, two tokens of the same text, a special id outside the table. Ids are rows.
The texts are in the native library, as the file has them: nothing is made of a token before it is asked for.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sized

from manifests.gguf_types import ValueType
from manifests.gguf_values import RawArray
from native.tokenizer import RowRefused, Tokens
from runtime.text.errors import TokenizerError

SPACE = "\u2581"  # SentencePiece's spelling of a blank

MAX_TOKENS = 1 << 21
MAX_MERGES = 1 << 22
MAX_TOKEN_CHARS = 1 << 12

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's tokenizer.ggml.token_type
_KINDS = bytes(range(BYTE + 1))

# Texts that end a turn in the families we know; GGUF itself names only eos, and often the wrong one.
EOT_NAMES = (
    "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>",
    "<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
)  # fmt: skip
EOG_NAMES = frozenset(EOT_NAMES) | {
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "</s>", "<|eom_id|>", "[EOS]", "<eos>", "<|tool_response>",
    "[e~[",
}  # fmt: skip

# `</s>` is an ordinary text token in some byte-level vocabularies (Qwen 2); the others never are.
_ALWAYS_CONTROL = EOG_NAMES - {"</s>"}

_UNTYPED = frozenset({"<unk>", "<s>", "</s>"})  # control in every table that has no types

# Markup that frames a conversation. A vocabulary may list such a text as user-defined (always matched); it is held to
# be control here, so that a user's text cannot forge it.
_FRAMING = re.compile(
    r"<[|｜].*|.*[|｜]>|<(bos|eos|pad|start_of_turn|end_of_turn|end_of_utterance)>|\[/?[A-Z_]+\]|_?<EOT>",
    re.DOTALL,
)


class Vocab:
    """Made by `vocab_from_gguf`. model: tokenizer.ggml.model; types: of each token; eog: every token that ends an
    answer."""

    __slots__ = ("bos", "eog", "eos", "eot", "model", "tokens", "types", "unk")

    def __init__(self, metadata: Mapping[str, object], tokens: Tokens, types: bytes) -> None:
        self.model = text_field(metadata, "tokenizer.ggml.model")
        self.tokens = tokens
        self.types = types
        named = {name: index for name in EOG_NAMES if (index := self.find(name)) is not None}
        self.bos = special_id(metadata, "bos", len(tokens))
        self.eos = special_id(metadata, "eos", len(tokens))
        self.eot = special_id(metadata, "eot", len(tokens))
        if self.eot is None:
            self.eot = next((named[name] for name in EOT_NAMES if name in named), None)
        self.unk = special_id(metadata, "unknown", len(tokens))
        self.eog = _eog(named, types, (self.eos, self.eot, special_id(metadata, "eom", len(tokens))))

    def __len__(self) -> int:
        return len(self.tokens)

    def text(self, index: int) -> str:
        return self.tokens.text(index).decode()

    def texts(self) -> list[str]:
        return [text.decode() for text in self.tokens.texts()]

    def find(self, text: str) -> int | None:
        """The token of that text."""
        return self.tokens.find(text.encode("utf-8", "surrogatepass"))

    def of_type(self, *kinds: int) -> list[int]:
        """The tokens of these types."""
        return [match.start() for match in re.finditer(b"[" + bytes(kinds) + b"]", self.types)]

    def mergeable(self) -> bytes:
        """1 for each token that text may become, 0 for the others: control tokens are no text."""
        return self.types.translate(_MERGEABLE)


_MERGEABLE = bytes(kind not in (CONTROL, UNKNOWN) for kind in range(256))


def vocab_from_gguf(metadata: Mapping[str, object]) -> Vocab:
    """Raises TokenizerError when a table is absent, of the wrong type or length, or over the limits."""
    key = "tokenizer.ggml.tokens"
    raw, count = strings(metadata, key, MAX_TOKENS)
    if not count:
        raise TokenizerError(f"{key}: found nothing, expected a list of token texts")
    try:
        tokens = Tokens(raw, count, most=MAX_TOKEN_CHARS)
    except RowRefused as error:
        text = refused_text(metadata, key, error)
        if len(text) > MAX_TOKEN_CHARS:
            raise TokenizerError(f"{key}: a token is longer than {MAX_TOKEN_CHARS} characters") from None
        raise TokenizerError(f"{key}: the text {text[:80]!r} occurs twice") from None
    return Vocab(metadata, tokens, _types(metadata, tokens))


def _types(metadata: Mapping[str, object], tokens: Tokens) -> bytes:
    key = "tokenizer.ggml.token_type"
    value = metadata.get(key)
    if value is None:
        texts = (text.decode() for text in tokens.texts())
        return bytes(CONTROL if text in _UNTYPED or _FRAMING.fullmatch(text) else NORMAL for text in texts)
    found = _small(value) if isinstance(value, RawArray) else None
    if found is None or len(found) != len(tokens) or found.translate(None, _KINDS):
        found = _listed_types(sequence(metadata, key, MAX_TOKENS) or [], len(tokens))
    types = bytearray(found)
    for match in re.finditer(bytes([USER_DEFINED]), found):
        if _FRAMING.fullmatch(tokens.text(match.start()).decode()):
            types[match.start()] = CONTROL
    for text in _ALWAYS_CONTROL:
        index = tokens.find(text.encode())
        if index is not None and types[index] in (NORMAL, USER_DEFINED):
            types[index] = CONTROL
    return bytes(types)


def _small(raw: RawArray) -> bytes | None:
    """Whole numbers as a byte each; None where they are none, or larger."""
    width = len(raw.data) // max(1, len(raw))
    if raw.kind in (ValueType.STRING, ValueType.F32, ValueType.F64):
        return None
    data = bytes(raw.data)
    return None if any(data[at::width].strip(b"\0") for at in range(1, width)) else data[::width]


def _listed_types(raw: list[object], n_tokens: int) -> bytes:
    if len(raw) != n_tokens:
        raise TokenizerError(f"tokenizer.ggml.token_type: found {len(raw)} rows, expected {n_tokens}")
    for index, kind in enumerate(raw):
        if not isinstance(kind, int) or not 0 <= kind <= BYTE:
            raise TokenizerError(f"tokenizer.ggml.token_type[{index}]: found {kind!r}, expected 0 to {BYTE}")
    return bytes(raw)  # type: ignore[arg-type]


def _eog(named: Mapping[str, int], types: bytes, declared: tuple[int | None, ...]) -> frozenset[int]:
    found = {index for index in named.values() if types[index] == CONTROL}
    found |= {one for one in declared if one is not None}
    # gpt-oss: <|end|> closes a channel, not the answer, where <|return|> and <|call|> exist.
    if {"<|return|>", "<|call|>", "<|end|>"} <= named.keys() or {"<|calls|>", "<|flush|>", "<|end|>"} <= named.keys():
        found.discard(named["<|end|>"])
    # Gemma 4: </s> is an HTML tag there, not the end.
    if {"<|tool_response>", "</s>"} <= named.keys():
        found.discard(named["</s>"])
    return frozenset(found)


def special_id(metadata: Mapping[str, object], name: str, n_tokens: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TokenizerError(f"{key}: expected int, got {type(value).__name__}")
    if value in (-1, 0xFFFFFFFF):  # how converters write "none"
        return None
    if not 0 <= value < n_tokens:
        raise TokenizerError(f"{key}: found {value}, expected below {n_tokens}")
    return value


def flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{key}: expected bool, got {type(value).__name__}")
    return value


def text_field(metadata: Mapping[str, object], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise TokenizerError(f"{key}: expected string, got {type(value).__name__}")
    return value


def sequence(metadata: Mapping[str, object], key: str, limit: int) -> list[object] | None:
    """A list, tuple or array of any kind as a plain list; None when the key is absent."""
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or not isinstance(value, Sized):
        raise TokenizerError(f"{key}: expected an array, got {type(value).__name__}")
    if len(value) > limit:
        raise TokenizerError(f"{key}: found {len(value)} rows, the limit is {limit}")
    tolist = getattr(value, "tolist", None)
    return list(tolist()) if callable(tolist) else list(value)


def strings(metadata: Mapping[str, object], key: str, limit: int) -> tuple[memoryview, int]:
    """An array of strings as a GGUF has them, each a u64 length and its UTF-8, and how many; none if absent."""
    value = metadata.get(key)
    if isinstance(value, RawArray) and value.kind is ValueType.STRING and len(value) <= limit:
        return value.data, len(value)
    raw = sequence(metadata, key, limit) or []
    if not set(map(type, raw)) <= {str}:
        raise TokenizerError(f"{key}: expected an array of strings")
    texts = [text.encode() for text in raw]  # type: ignore[attr-defined]
    whole = b"".join(part for text in texts for part in (len(text).to_bytes(8, "little"), text))
    return memoryview(whole), len(texts)


def refused_text(metadata: Mapping[str, object], key: str, refused: RowRefused) -> str:
    """The string of a table that the library refused."""
    if refused.row is None:
        raise TokenizerError(f"{key}: {refused}") from refused
    return str((sequence(metadata, key, MAX_MERGES) or [])[refused.row])


def scores_field(metadata: Mapping[str, object], n_tokens: int) -> array[float]:
    key = "tokenizer.ggml.scores"
    value = metadata.get(key)
    if isinstance(value, RawArray) and value.kind is ValueType.F32 and len(value) == n_tokens:
        return array("f", bytes(value.data))
    raw = sequence(metadata, key, MAX_TOKENS)
    if raw is None or len(raw) != n_tokens:
        raise TokenizerError(f"{key}: found {'none' if raw is None else len(raw)}, expected {n_tokens} rows")
    return array("f", (float(one) if isinstance(one, (int, float)) else float("nan") for one in raw))
