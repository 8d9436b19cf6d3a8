"""The vocabulary of a GGUF, checked: every table has the declared length and type, every special id is in range.

Refused by name: tables over the limits, two tokens of the same text, a special id outside the table. Ids are rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from runtime.text.errors import TokenizerError

MAX_TOKENS = 1 << 21
MAX_MERGES = 1 << 22
MAX_TOKEN_CHARS = 1 << 12

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's tokenizer.ggml.token_type
_KINDS = frozenset(range(BYTE + 1))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocab:
    model: str  # tokenizer.ggml.model
    tokens: tuple[str, ...]
    types: tuple[int, ...]  # one per token
    ids: Mapping[str, int]
    bos: int | None
    eos: int | None
    eot: int | None
    unk: int | None
    eog: frozenset[int]  # every token that ends an answer


def vocab_from_gguf(metadata: Mapping[str, object]) -> Vocab:
    """Raises TokenizerError when a table is absent, of the wrong type or length, or over the limits."""
    tokens = tuple(_strings(metadata, "tokenizer.ggml.tokens", MAX_TOKENS))
    if not tokens:
        raise TokenizerError("tokenizer.ggml.tokens: found nothing, expected a list of token texts")
    if max(map(len, tokens)) > MAX_TOKEN_CHARS:
        raise TokenizerError(f"tokenizer.ggml.tokens: a token is longer than {MAX_TOKEN_CHARS} characters")
    ids = {text: index for index, text in enumerate(tokens)}
    if len(ids) != len(tokens):
        twin = next(text for index, text in enumerate(tokens) if ids[text] != index)
        raise TokenizerError(f"tokenizer.ggml.tokens: the text {twin[:80]!r} occurs twice")
    types = _types(metadata, tokens, ids)
    eos = special_id(metadata, "eos", len(tokens))
    eot = special_id(metadata, "eot", len(tokens))
    if eot is None:
        eot = next((ids[name] for name in EOT_NAMES if name in ids), None)
    eom = special_id(metadata, "eom", len(tokens))
    return Vocab(
        model=text_field(metadata, "tokenizer.ggml.model"),
        tokens=tokens,
        types=types,
        ids=ids,
        bos=special_id(metadata, "bos", len(tokens)),
        eos=eos,
        eot=eot,
        unk=special_id(metadata, "unknown", len(tokens)),
        eog=_eog(ids, types, (eos, eot, eom)),
    )


def _types(metadata: Mapping[str, object], tokens: tuple[str, ...], ids: Mapping[str, int]) -> tuple[int, ...]:
    raw = sequence(metadata, "tokenizer.ggml.token_type", MAX_TOKENS)
    if raw is None:
        return tuple(CONTROL if text in _UNTYPED or _FRAMING.fullmatch(text) else NORMAL for text in tokens)
    if len(raw) != len(tokens):
        raise TokenizerError(f"tokenizer.ggml.token_type: found {len(raw)} rows, expected {len(tokens)}")
    types = [int(kind) if isinstance(kind, int) else -1 for kind in raw]
    if not set(types) <= _KINDS:
        index = next(index for index, kind in enumerate(types) if kind not in _KINDS)
        raise TokenizerError(f"tokenizer.ggml.token_type[{index}]: found {raw[index]!r}, expected 0 to {BYTE}")
    listed = [index for index, kind in enumerate(types) if kind == USER_DEFINED]
    framing = [index for index in listed if _FRAMING.fullmatch(tokens[index])]
    always = [ids[text] for text in _ALWAYS_CONTROL if text in ids]
    for index in (*framing, *(index for index in always if types[index] in (NORMAL, USER_DEFINED))):
        types[index] = CONTROL
    return tuple(types)


def _eog(ids: Mapping[str, int], types: tuple[int, ...], declared: tuple[int | None, ...]) -> frozenset[int]:
    found = {ids[name] for name in EOG_NAMES if name in ids and types[ids[name]] == CONTROL}
    found |= {one for one in declared if one is not None}
    # gpt-oss: <|end|> closes a channel, not the answer, where <|return|> and <|call|> exist.
    if {"<|return|>", "<|call|>", "<|end|>"} <= ids.keys() or {"<|calls|>", "<|flush|>", "<|end|>"} <= ids.keys():
        found.discard(ids["<|end|>"])
    # Gemma 4: </s> is an HTML tag there, not the end.
    if {"<|tool_response>", "</s>"} <= ids.keys():
        found.discard(ids["</s>"])
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


def _strings(metadata: Mapping[str, object], key: str, limit: int) -> list[str]:
    raw = sequence(metadata, key, limit) or []
    if not set(map(type, raw)) <= {str}:
        raise TokenizerError(f"{key}: expected an array of strings")
    return raw  # type: ignore[return-value]


def merges_field(metadata: Mapping[str, object]) -> list[tuple[str, str]]:
    """`tokenizer.ggml.merges` as pairs, best first. The separator is the first blank after the first character."""
    merges = _strings(metadata, "tokenizer.ggml.merges", MAX_MERGES)
    pairs: list[Any] = [tuple(merge.split(" ")) for merge in merges]
    if set(map(len, pairs)) <= {2} and all(map(all, pairs)):  # all that converters write, in half the time
        return pairs
    return [_halves(merge, index) for index, merge in enumerate(merges)]


def _halves(merge: str, index: int) -> tuple[str, str]:
    cut = merge.find(" ", 1)
    if cut < 0 or cut == len(merge) - 1:
        raise TokenizerError(f"tokenizer.ggml.merges[{index}]: found {merge[:80]!r}, expected two parts")
    return merge[:cut], merge[cut + 1 :]


def scores_field(metadata: Mapping[str, object], n_tokens: int) -> list[float]:
    raw = sequence(metadata, "tokenizer.ggml.scores", MAX_TOKENS)
    if raw is None or len(raw) != n_tokens:
        raise TokenizerError(
            f"tokenizer.ggml.scores: found {'none' if raw is None else len(raw)}, expected {n_tokens} rows"
        )
    scores = [float(one) if isinstance(one, (int, float)) else float("nan") for one in raw]
    if any(one != one for one in scores):
        raise TokenizerError("tokenizer.ggml.scores: found a row that is not a number")
    return scores
