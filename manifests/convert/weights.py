"""The tensors of a tree as a GGUF has them: renamed, reordered where the family asks for it, streamed one by one.

Matrices keep their number format (F32, F16, BF16); vectors become F32. Refused by name: a tensor that the family does
not have, other number formats, a name that occurs twice after renaming, more dimensions than two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from manifests.convert.families import Family, head_dim, rope_factors
from manifests.convert.tree import Config, Tree
from manifests.errors import CreateError
from manifests.gguf_types import TensorType
from manifests.gguf_write import Tensor

_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_PIECE = 1 << 24  # bytes written at a time


def tensors(tree: Tree, family: Family, config: Config) -> list[Tensor]:
    """In the order of layers. Raises CreateError."""
    found: dict[str, Tensor] = {}
    tied = config.flag("tie_word_embeddings", family.name.startswith("gemma"))
    for name in tree.tensors:
        renamed = rename(family, name)
        if renamed is None or (tied and renamed == "output.weight"):
            continue
        if renamed in found:
            raise CreateError(f"tensor {name[:80]}: it occurs twice")
        found[renamed] = _tensor(tree, family, config, name, renamed)
    if not tied and "output" in family.top.values() and "output.weight" not in found:
        raise CreateError("tensor lm_head.weight is missing, and tie_word_embeddings of config.json is not set")
    if family.pairs and (factors := rope_factors(config)):
        raw = np.array(factors, "<f4").tobytes()
        kind, shape = TensorType.F32, (len(factors),)
        found["rope_freqs.weight"] = Tensor(name="rope_freqs.weight", shape=shape, type=kind, data=lambda: [raw])
    return sorted(found.values(), key=lambda tensor: _order(tensor.name))


def rename(family: Family, name: str) -> str | None:
    """GGUF's name of a tensor; None for one that nothing reads."""
    module, _, part = name.rpartition(".")
    plain = name.removeprefix("bert.") if family.name == "bert" else name
    if name.endswith(family.unused) or plain in family.unused:
        return None
    found = rename_module(family, module)
    if found is None or part not in ("weight", "bias"):
        hint = "the model sees images or hears sound; only text models are converted" if "vision" in name else None
        raise CreateError(f"tensor {name[:120]}: unknown to the architecture {family.name}", hint=hint)
    return f"{found}.{part}"


def rename_module(family: Family, module: str) -> str | None:
    """`model.layers.3.mlp.up_proj` -> `blk.3.ffn_up`; None where the family has no such module."""
    module = module.removeprefix("bert.") if family.name == "bert" else module
    match = re.fullmatch(rf"{re.escape(family.layers)}\.(\d{{1,4}})\.(.+)", module)
    if match:
        return f"blk.{int(match[1])}.{family.layer[match[2]]}" if match[2] in family.layer else None
    return family.top.get(module)


def _tensor(tree: Tree, family: Family, config: Config, name: str, renamed: str) -> Tensor:
    info = tree.info(name)
    if info.dtype not in _TYPES:
        raise CreateError(
            f"tensor {name[:120]}: number format {info.dtype}; only F32, F16 and BF16 are converted",
            hint="a model that is quantized already cannot be converted: begin with the original",
        )
    if not 1 <= len(info.shape) <= 2 or 0 in info.shape:
        raise CreateError(f"tensor {name[:120]}: shape {list(info.shape)}, expected one or two dimensions")
    heads = 0
    if family.pairs and re.search(r"\.attn_[qk]\.(weight|bias)$", renamed):
        count = config.integer("num_attention_heads")
        heads = count if ".attn_q." in renamed else config.integer("num_key_value_heads", count)
        check_pairs(name, info.shape[0], heads, head_dim(config))
    add = 1.0 if family.plus_one and renamed.endswith("norm.weight") else 0.0
    source = _TYPES[info.dtype]
    return Tensor(
        name=renamed,
        shape=info.shape[::-1],
        type=TensorType.F32 if len(info.shape) == 1 else source,
        data=partial(_vector, tree, name, source, heads, add)
        if len(info.shape) == 1
        else partial(_rows, tree, name, heads),
    )


def check_pairs(name: str, rows: int, heads: int, width: int) -> None:
    if rows != heads * width or width % 2:
        raise CreateError(f"tensor {name[:120]}: {rows} rows, expected {heads} heads of {width}, an even number")


def adjacent(raw: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * width, ..] from the order of halves (j, j + width/2) to that of adjacent pairs (2j, 2j + 1)."""
    split = raw.reshape(heads, 2, len(raw) // heads // 2, *raw.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(raw.shape)


def _rows(tree: Tree, name: str, heads: int) -> Iterator[memoryview]:
    raw = tree.tensors[name].data(name)
    if heads:
        raw = adjacent(np.frombuffer(raw, np.uint8).reshape(tree.info(name).shape[0], -1), heads).reshape(-1).data
    for first in range(0, len(raw), _PIECE):
        yield raw[first : first + _PIECE]
    tree.tensors[name].release()


def _vector(tree: Tree, name: str, kind: TensorType, heads: int, add: float) -> Iterator[bytes]:
    from manifests.quantize.blocks import decode

    values = decode(tree.tensors[name].data(name), kind)
    values = adjacent(values, heads) if heads else values
    yield (values + np.float32(add)).astype("<f4").tobytes()


def _order(name: str) -> tuple[int, int, str]:
    """The embedding first, then the layers, then the output."""
    match = re.match(r"blk\.(\d+)\.", name)
    if match:
        return 1, int(match[1]), name
    return (2 if name.startswith("output") else 0), 0, name
