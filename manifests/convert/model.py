"""One GGUF from the files of a Hugging Face model: bert, llama, qwen2, qwen3, gemma, gemma2, gemma3 (text), phi3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from manifests.convert.families import FAMILIES, Family
from manifests.convert.tokenizer import tokenizer_keys
from manifests.convert.tree import Config, Tree
from manifests.convert.weights import tensors
from manifests.digest import Digest
from manifests.errors import CreateError
from manifests.gguf_types import TensorType, ValueType
from manifests.gguf_write import Key, Tensor, put_gguf
from manifests.store import Store

_FILE_TYPES = {TensorType.F32: 0, TensorType.F16: 1, TensorType.BF16: 32}


def convert_model(store: Store, files: Mapping[str, Path], done: Callable[[int], None]) -> Digest:
    """The digest of the new blob; the same files give the same bytes. `files`: relative name to path.

    `done` gets the bytes written, by step. Raises CreateError, and NoSpace.
    """
    tree = Tree.open(files)
    config = Config(tree.json("config.json"))
    family = _family(config)
    body = tensors(tree, family, config)
    by_name = {tensor.name: tensor for tensor in body}
    if "token_embd.weight" not in by_name:
        raise CreateError("the tensor of token embeddings is missing")
    rows = by_name["token_embd.weight"].shape[-1]
    keys = _general(tree, config, family, body)
    keys |= {f"{family.name}.{key}": value for key, value in family.keys(config).items()}
    if family.name == "bert":
        keys["bert.pooling_type"] = _pooling(tree)
        keys["tokenizer.ggml.token_type_count"] = config.integer("type_vocab_size", 1)
    keys |= tokenizer_keys(tree, rows)
    return put_gguf(store, {name: typed(value) for name, value in keys.items()}, body, done)


def _family(config: Config) -> Family:
    if not config.values:
        raise CreateError("config.json is missing: it says which architecture the weights are of")
    found = config.raw("architectures")
    name = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(name, str) or name not in FAMILIES:
        raise CreateError(
            f"config.json: architectures: {str(name)[:80]} is not converted", hint=f"known: {', '.join(FAMILIES)}"
        )
    if config.raw("quantization_config") is not None:
        raise config.wrong("quantization_config", "a model that is quantized already cannot be converted")
    return FAMILIES[name]


def _general(tree: Tree, config: Config, family: Family, body: list[Tensor]) -> dict[str, Any]:
    sizes = dict.fromkeys(_FILE_TYPES, 0)
    for tensor in body:
        sizes[tensor.type] += tensor.size
    name = config.raw("_name_or_path")
    name = PurePosixPath(name).name if isinstance(name, str) else ""
    if family.name == "phi3" and _strips(tree) and "phi-3" not in name.lower():
        name = f"Phi-3 {name}".strip()  # what reads the file knows by the name that its tokens eat blanks
    return {
        "general.architecture": family.name,
        "general.type": "model",
        **({"general.name": name} if name else {}),
        "general.file_type": _FILE_TYPES[max(sizes, key=sizes.__getitem__)],
    }


def _strips(tree: Tree) -> bool:
    added = tree.json("tokenizer.json").get("added_tokens")
    return isinstance(added, list) and any(isinstance(token, dict) and token.get("rstrip") for token in added)


def _pooling(tree: Tree) -> int:
    """llama.cpp's number: 1 the mean, 2 the first token. Told by sentence-transformers' second module."""
    found = Config(tree.json("1_Pooling/config.json"), "1_Pooling/config.json")
    if not found.values:
        return 1
    modes = {key for key, value in found.values.items() if key.startswith("pooling_mode_") and value is True}
    known = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2}
    if len(modes) != 1 or not modes <= known.keys():
        raise CreateError(f"1_Pooling/config.json: {', '.join(sorted(modes)) or 'no mode'}: not supported")
    return known[modes.pop()]


def typed(value: Any) -> Key:
    """Integers as 32 bits, as converters write them: without a sign alone, with one in arrays."""
    kinds = {bool: ValueType.BOOL, float: ValueType.F32, str: ValueType.STRING}
    if isinstance(value, list):
        return Key(value=value, kind=kinds.get(type(value[0]) if value else str, ValueType.I32))
    return Key(value=value, kind=kinds.get(type(value), ValueType.U32))
