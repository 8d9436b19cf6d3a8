"""Whether a sound GGUF agrees with itself: layers, widths, vocabulary, special tokens, arrays, number formats.

`Gguf` has checked structure already. A fact that the file does not state is not looked for; what one architecture alone
says is the runtime's business, which refuses what it does not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from manifests.gguf import Gguf
from manifests.gguf_types import FILE_TYPES, TensorType, ValueType
from manifests.scan.rules import Hit

# what this version's runtime runs; tests/runtime/test_models.py's table and this one are compared by a test
ARCHITECTURES = ("bert", "gemma", "gemma2", "gemma3", "llama", "nomic-bert", "phi3", "qwen2", "qwen3")
NOT_LANGUAGE = frozenset({"clip", "adapter"})

_BLOCK = re.compile(r"blk\.(\d+)\.")
# loaders of this and other engines read these without asking for their type: llama.cpp #26690
_ARRAYS = {
    "tokenizer.ggml.tokens": ValueType.STRING,
    "tokenizer.ggml.scores": ValueType.F32,
    "tokenizer.ggml.token_type": ValueType.I32,
    "tokenizer.ggml.merges": ValueType.STRING,
}
_PARALLEL = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_IDS = re.compile(r"tokenizer\.ggml\.\w+_token_ids")
# general.file_type is a mixture: the format by which it is named must be in it somewhere
_NAMED = re.compile(r"(F32|F16|BF16|Q\d_[01K]|IQ\d_(?:XXS|XS|NL|S|M)|TQ\d_0|MXFP4|NVFP4)")


def scan(gguf: Gguf, architecture: str, *, adapter: bool = False) -> Iterator[Hit]:
    """`adapter`: a LoRA, which has few tensors of its own shapes; only its arrays and numbers are looked at."""
    if architecture not in (*ARCHITECTURES, *NOT_LANGUAGE):
        yield "gguf.unknown-architecture", repr(architecture)[:80]
    yield from _split(gguf)
    yield from _arrays(gguf)
    yield from _special_tokens(gguf)
    yield from _file_type(gguf)
    if not adapter:
        yield from _blocks(gguf, architecture)
        yield from _widths(gguf, architecture)
        yield from _vocabulary(gguf, architecture)


def _split(gguf: Gguf) -> Iterator[Hit]:
    count, number = gguf.metadata.get("split.count", 1), gguf.metadata.get("split.no", 0)
    total = gguf.metadata.get("split.tensors.count", len(gguf.tensors))
    if count not in (0, 1):
        yield "gguf.split", f"part {number!r:.20} of {count!r:.20}: join the parts with llama-gguf-split --merge"
    elif number != 0 or total != len(gguf.tensors):
        yield "gguf.split", f"one file that says it is part {number!r:.20} of {total!r:.20} tensors"


def _arrays(gguf: Gguf) -> Iterator[Hit]:
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    for key, kind in _ARRAYS.items():
        if key not in gguf.metadata:
            continue
        value, found = gguf.metadata[key], gguf.kinds[key]
        if not isinstance(value, list) or (found is not kind and value):
            yield "gguf.arrays", f"{key}: found {found.name}, expected an array of {kind.name}"
        elif key in _PARALLEL and isinstance(tokens, list) and len(value) != len(tokens):
            yield "gguf.arrays", f"{key}: {len(value)} elements for {len(tokens)} tokens"


def _special_tokens(gguf: Gguf) -> Iterator[Hit]:
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    size = len(tokens) if isinstance(tokens, list) else None
    for key, value in gguf.metadata.items():
        if _ID.fullmatch(key):
            yield from _token(key, value, size)
        elif _IDS.fullmatch(key):
            for one in value[:1000] if isinstance(value, list) else [value]:
                yield from _token(key, one, size)


def _token(key: str, value: Any, size: int | None) -> Iterator[Hit]:
    if not _whole(value) or value < 0:
        yield "gguf.special-token", f"{key}: found {value!r:.40}, expected a number"
    elif size is not None and value >= size:
        yield "gguf.special-token", f"{key}: {value}, the vocabulary has {size} tokens"


def _file_type(gguf: Gguf) -> Iterator[Hit]:
    number = gguf.metadata.get("general.file_type")
    name = FILE_TYPES.get(number) if _whole(number) and number else None
    named = _NAMED.match(name) if name else None
    if not named or not gguf.tensors or named[1] not in TensorType.__members__:
        return
    kind = TensorType[named[1]]
    matrices = [info for info in gguf.tensors.values() if len(info.shape) > 1]
    # a writer falls back to smaller blocks where a row does not divide
    possible = any(info.shape[0] % kind.block_values == 0 for info in matrices)
    if possible and not any(info.type is kind for info in matrices):
        yield "gguf.file-type", f"{name}, but no matrix is {kind.name}"


def _blocks(gguf: Gguf, architecture: str) -> Iterator[Hit]:
    count = gguf.metadata.get(f"{architecture}.block_count")
    found = {int(match[1][:9]) for name in gguf.tensors if (match := _BLOCK.match(name))}
    if count is None or architecture in NOT_LANGUAGE:
        return
    if not _whole(count) or count < 0:
        yield "gguf.blocks", f"block_count: found {count!r:.40}, expected a number"
    elif found and max(found) >= count:
        yield "gguf.blocks", f"blk.{max(found)}, but block_count is {count}"
    elif found and len(found) < count and architecture in ARCHITECTURES:
        missing = next(index for index in range(count) if index not in found)
        yield "gguf.blocks", f"block_count is {count}, but there is no blk.{missing}"


def _widths(gguf: Gguf, architecture: str) -> Iterator[Hit]:
    """Only what every language model means by these names."""
    if architecture not in ARCHITECTURES:
        return

    def key(name: str) -> Any:
        return gguf.metadata.get(f"{architecture}.{name}")

    width, ff, heads = key("embedding_length"), key("feed_forward_length"), key("attention.head_count")
    kv, head = key("attention.head_count_kv"), key("attention.key_length")
    if head is None and _whole(width) and _whole(heads) and heads:
        head = width // heads
    per = _per_layer
    rules: dict[str, tuple[Callable[[int], Any], Callable[[int], tuple[Any, ...]]]] = {
        "token_embd": (lambda layer: width, lambda layer: ()),
        "output": (lambda layer: width, lambda layer: ()),
        "attn_norm": (lambda layer: width, lambda layer: ()),
        "ffn_norm": (lambda layer: width, lambda layer: ()),
        "attn_q": (lambda layer: width, lambda layer: (_product(per(heads, layer), head),)),
        "attn_k": (lambda layer: width, lambda layer: (_product(per(kv, layer), head),)),
        "ffn_gate": (lambda layer: width, lambda layer: (per(ff, layer),)),
        "ffn_up": (
            lambda layer: width,
            lambda layer: (per(ff, layer), _product(2, per(ff, layer))),
        ),  # phi3: two in one
        "ffn_down": (lambda layer: per(ff, layer), lambda layer: (width,)),
    }
    for info in gguf.tensors.values():
        block = _BLOCK.match(info.name)
        rule = rules.get(info.name[block.end() if block else 0 :].removesuffix(".weight"))
        if rule is None or not info.name.endswith(".weight"):
            continue
        layer = int(block[1][:9]) if block else 0
        columns, rows = rule[0](layer), [size for size in rule[1](layer) if _whole(size)]
        if _whole(columns) and info.shape[0] != columns:
            yield "gguf.widths", f"{info.name}: rows of {info.shape[0]} values, the metadata says {columns}"
        elif rows and (info.shape[1] if len(info.shape) > 1 else 1) not in rows:
            yield "gguf.widths", f"{info.name}: {info.shape[1:]} rows, the metadata says {rows[0]}"


def _vocabulary(gguf: Gguf, architecture: str) -> Iterator[Hit]:
    tokens, embedding = gguf.metadata.get("tokenizer.ggml.tokens"), gguf.tensors.get("token_embd.weight")
    said = gguf.metadata.get(f"{architecture}.vocab_size")
    rows = embedding.shape[1] if embedding and len(embedding.shape) == 2 else None
    if isinstance(tokens, list) and rows is not None and len(tokens) != rows:
        yield "gguf.vocabulary", f"{len(tokens)} tokens, token_embd.weight has {rows} rows"
    elif said is not None and rows is not None and said != rows:
        yield "gguf.vocabulary", f"vocab_size {said!r:.40}, token_embd.weight has {rows} rows"


def _per_layer(value: Any, layer: int) -> Any:
    if isinstance(value, list):
        return value[layer] if layer < len(value) else None
    return value


def _product(one: Any, other: Any) -> int | None:
    return one * other if _whole(one) and _whole(other) else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
