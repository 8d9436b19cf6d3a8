"""A LoRA of PEFT (adapter_config.json, adapter_model.safetensors) as a GGUF adapter, for one base architecture.

    X.lora_a  [width of x, rank]      X.lora_b  [rank, width of y]      y += (alpha / rank) * b(a(x))

Refused by name: anything but plain LoRA on linear layers (DoRA, biases, whole modules, scales by layer), and pairs that
do not fit each other. Whether they fit the base is seen when both are loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manifests.convert.families import FAMILIES, Family
from manifests.convert.model import typed
from manifests.convert.tree import Config, Tree
from manifests.convert.weights import adjacent, check_pairs, rename_module
from manifests.digest import Digest
from manifests.errors import CreateError
from manifests.gguf import Gguf
from manifests.gguf_types import TensorType
from manifests.gguf_write import Tensor, put_gguf
from manifests.quantize.blocks import decode
from manifests.store import Store

_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
MAX_RANK = 4096


def convert_adapter(store: Store, files: Mapping[str, Path], base: Gguf, done: Callable[[int], None]) -> Digest:
    """The digest of the new blob. `base` is the model that the adapter shall change. Raises CreateError, NoSpace."""
    tree = Tree.open(files)
    config = Config(tree.json("adapter_config.json"), "adapter_config.json")
    family = next((one for one in FAMILIES.values() if one.name == base.architecture), None)
    if family is None:
        raise CreateError(f"ADAPTER: adapters of {base.architecture} are not converted")
    rank, alpha = _plain_lora(config)
    tensors = _tensors(tree, family, base, rank)
    if not tensors:
        raise CreateError("ADAPTER: no lora_A and lora_B tensors were found")
    keys: dict[str, Any] = {
        "general.architecture": family.name,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    return put_gguf(store, {name: typed(value) for name, value in keys.items()}, tensors, done)


def _plain_lora(config: Config) -> tuple[int, float]:
    """(rank, alpha as GGUF means it: the scale is alpha / rank)."""
    if not config.values:
        raise CreateError("adapter_config.json is missing: it says what kind of adapter this is")
    config.only("peft_type", "LORA")
    config.only("bias", None, "none")
    for key in ("fan_in_fan_out", "use_dora", "lora_bias"):
        config.only(key, None, False)
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "trainable_token_indices"):
        if config.raw(key):
            raise config.wrong(key, "not supported")
    rank = config.integer("r", high=MAX_RANK + 1)
    alpha = config.number("lora_alpha")
    return rank, alpha * math.sqrt(rank) if config.flag("use_rslora", False) else alpha


def _tensors(tree: Tree, family: Family, base: Gguf, rank: int) -> list[Tensor]:
    found: dict[str, Tensor] = {}
    for name in tree.tensors:
        match = _NAME.fullmatch(name)
        module = rename_module(family, match[1]) if match else None
        if match is None or module is None or not module.startswith(("blk.", "output")):
            raise CreateError(f"tensor {name[:120]}: not a LoRA of a linear layer of {family.name}")
        info = tree.info(name)
        side = 0 if match[2] == "A" else 1
        if info.dtype not in _TYPES or len(info.shape) != 2 or info.shape[side] != rank or 0 in info.shape:
            raise CreateError(f"tensor {name[:120]}: {info.dtype} {list(info.shape)}, expected a matrix of rank {rank}")
        heads = _heads(family, base, module) if side else 0
        if heads:
            check_pairs(name, info.shape[0], heads, info.shape[0] // heads)
        renamed = f"{module}.weight.lora_{match[2].lower()}"
        data = partial(_data, tree, name, heads)
        found[renamed] = Tensor(name=renamed, shape=info.shape[::-1], type=TensorType.F32, data=data)
    lonely = next((name for name in found if name[:-1] + ("b" if name[-1] == "a" else "a") not in found), None)
    if lonely is not None:
        raise CreateError(f"tensor {lonely}: its other half is missing")
    return [found[name] for name in sorted(found)]


def _heads(family: Family, base: Gguf, module: str) -> int:
    """Where the base's rows are in adjacent pairs, the adapter's must be too: how many heads they belong to, or 0."""
    if not family.pairs or not module.endswith(("attn_q", "attn_k")):
        return 0
    heads = base.metadata.get(f"{family.name}.attention.head_count")
    if module.endswith("attn_k"):
        heads = base.metadata.get(f"{family.name}.attention.head_count_kv", heads)
    if not isinstance(heads, int) or heads < 1:
        raise CreateError(f"the base does not say how many heads {module} has")
    return heads


def _data(tree: Tree, name: str, heads: int) -> list[bytes]:
    info = tree.info(name)
    values = decode(tree.tensors[name].data(name), _TYPES[info.dtype]).reshape(info.shape)
    values = adjacent(values, heads) if heads else values
    return [np.ascontiguousarray(values, "<f4").tobytes()]
