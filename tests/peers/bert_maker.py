"""Makes GGUF encoders: small random ones by seed, and others' weights from Hugging Face's form, named as llama.cpp's
converter names them; and says what a BERT means, in numpy and float64, from Hugging Face's own names.

`Bert` is the middle: tensors under Hugging Face's names, facts as in its config.json. `write` puts it into a GGUF,
`vector` computes a text's vector without knowing of GGUF, plans or slots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Pooling = Literal["mean", "cls", "last"]
NUMBERS: dict[Pooling, int] = {"mean": 1, "cls": 2, "last": 3}

# GGUF's name -> Hugging Face's, of the model and of a layer; both end in .weight or .bias
NAMES = {"token_embd": "word_embeddings", "position_embd": "position_embeddings"}
NAMES |= {"token_types": "token_type_embeddings", "token_embd_norm": "LayerNorm"}
LAYER_NAMES = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_gate": "intermediate.gate",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bert:
    """`vocab`: as vocab.txt spells it, `##` inside words. `tensors`: Hugging Face's names without "bert.".
    `base`: 0, or that of rotations, and then it is a nomic-bert: no places, a gate, no biases but the norms'."""

    layers: int
    heads: int
    width: int
    ff: int
    context: int
    eps: float
    pooling: Pooling
    vocab: tuple[str, ...]
    tensors: Mapping[str, Floats]
    base: float = 0.0

    @property
    def arch(self) -> str:
        return "nomic-bert" if self.base else "bert"


def read(folder: Path) -> Bert:
    """A model as Hugging Face keeps it: config.json, vocab.txt, model.safetensors, 1_Pooling/config.json."""
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_act"] == "gelu"
    how = json.loads((folder / "1_Pooling/config.json").read_text())
    tensors = _safetensors(folder / "model.safetensors")
    return Bert(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        width=config["hidden_size"],
        ff=config["intermediate_size"],
        context=config["max_position_embeddings"],
        eps=config["layer_norm_eps"],
        pooling="mean" if how["pooling_mode_mean_tokens"] else "cls",
        vocab=tuple((folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")),
        tensors={name: array for name, array in tensors.items() if not name.startswith(("pooler", "embeddings.pos_"))},
    )


def _safetensors(path: Path) -> dict[str, Floats]:
    """Its float32 tensors: 8 bytes of the header's length, the header in JSON, the data."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:start])
    return {
        name: np.frombuffer(raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], "<f4").reshape(
            entry["shape"]
        )
        for name, entry in entries.items()
        if entry.get("dtype") == "F32"
    }


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "king", "queen", "man", "woman", "cat", "dog", "sat", "on", "mat", "is", "good", "bad", "fast")


def random_bert(
    *, layers: int = 2, heads: int = 4, width: int = 64, ff: int = 96, context: int = 128, pooling: Pooling = "mean",
    base: float = 0.0, seed: int = 0,
) -> Bert:  # fmt: skip
    rng = np.random.default_rng(seed)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    vocab = (*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters), "##ing")
    vocab = tuple(dict.fromkeys(vocab))
    tensors: dict[str, Floats] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = (1 + 0.2 * rng.standard_normal(width)).astype(np.float32)
        tensors[f"{name}.bias"] = (0.1 * rng.standard_normal(width)).astype(np.float32)

    for name, rows in (("word", len(vocab)), ("position", context), ("token_type", 2)):
        if base and name == "position":
            continue
        add(f"embeddings.{name}_embeddings.weight", rows, width)
    norm("embeddings.LayerNorm")
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}
    shapes |= {"attn_output": (width, width), "ffn_up": (ff, width), "ffn_down": (width, ff)}
    shapes |= {"ffn_gate": (ff, width)} if base else {}
    for layer in range(layers):
        for part, theirs in LAYER_NAMES.items():
            name = f"encoder.layer.{layer}.{theirs}"
            if part == "ffn_gate" and not base:
                continue
            if part not in shapes:
                norm(name)
                continue
            add(f"{name}.weight", *shapes[part])
            if not base:
                add(f"{name}.bias", shapes[part][0])
            tensors[f"{name}.weight"] *= 2.0  # so that attention is no even mean and gelu is bent
    return Bert(
        layers=layers, heads=heads, width=width, ff=ff, context=context, eps=1e-12, pooling=pooling, vocab=vocab,
        tensors=tensors, base=base,
    )  # fmt: skip


def write(model: Bert, path: Path, *, quant: str = "F32", metadata: Mapping[str, Any] | None = None) -> Path:
    """`quant`: of the matrices, where their columns fill its blocks, else F16. `metadata` adds keys, or removes those
    that are None."""
    writer = gguf.GGUFWriter(path, model.arch)
    file_type = int(gguf.LlamaFileType[("ALL_" if quant == "F32" else "MOSTLY_") + quant])
    keys = _keys(model) | _tokens(model.vocab) | {"general.file_type": file_type} | dict(metadata or {})
    for key, value in keys.items():
        if value is None:
            continue
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if kind is gguf.GGUFValueType.INT32 else kind)
    for name, array in named(model).items():
        _add(writer, name, array, quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def names(model: Bert) -> dict[str, str]:
    """GGUF's name of every tensor -> Hugging Face's."""
    pairs = {ours: f"embeddings.{theirs}" for ours, theirs in NAMES.items()}
    for layer in range(model.layers):
        pairs |= {f"blk.{layer}.{ours}": f"encoder.layer.{layer}.{theirs}" for ours, theirs in LAYER_NAMES.items()}
    found = {f"{a}.{end}": f"{b}.{end}" for a, b in pairs.items() for end in ("weight", "bias")}
    return {ours: theirs for ours, theirs in found.items() if theirs in model.tensors}


def named(model: Bert) -> dict[str, Floats]:
    """Every tensor under GGUF's name; nomic-bert's q, k and v in one."""
    found = {ours: model.tensors[theirs] for ours, theirs in names(model).items()}
    for layer in range(model.layers if model.base else 0):
        parts = [found.pop(f"blk.{layer}.attn_{side}.weight") for side in "qkv"]
        found[f"blk.{layer}.attn_qkv.weight"] = np.concatenate(parts)
    return found


def _keys(model: Bert) -> dict[str, Any]:
    keys = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.width,
        "feed_forward_length": model.ff,
        "attention.head_count": model.heads,
        "attention.layer_norm_epsilon": float(model.eps),
        "attention.causal": False,
        "pooling_type": NUMBERS[model.pooling],
    }
    keys |= {"rope.freq_base": model.base} if model.base else {}
    return {f"{model.arch}.{key}": value for key, value in keys.items()}


def _tokens(vocab: Sequence[str]) -> dict[str, Any]:
    def spelled(token: str) -> str:
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else f"\u2581{token}"

    ids = {name: vocab.index(name) for name in SPECIAL}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",  # what the converter finds for BERT's way to cut words
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": [spelled(token) for token in vocab],
        "tokenizer.ggml.token_type": [3 if token in ids else 1 for token in vocab],
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        "tokenizer.ggml.padding_token_id": ids["[PAD]"],
        "tokenizer.ggml.cls_token_id": ids["[CLS]"],
        "tokenizer.ggml.mask_token_id": ids["[MASK]"],
    }


def _add(writer: gguf.GGUFWriter, name: str, array: Floats, quant: str) -> None:
    kind = Type[quant]
    if array.ndim == 1 or name.startswith(("position_embd", "token_types")) or kind is Type.F32:
        writer.add_tensor(name, array)
        return
    if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Type.F16
    if kind is Type.F16:
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


# -- what it means


def vector(model: Bert, ids: Sequence[int]) -> Doubles:
    """The text's vector [width], not normalised."""

    def w(name: str) -> Doubles:
        return np.asarray(model.tensors[name], np.float64)

    def norm(x: Doubles, name: str) -> Doubles:
        centred = x - x.mean(-1, keepdims=True)
        root = np.sqrt(np.mean(centred**2, -1, keepdims=True) + model.eps)
        return np.asarray(centred / root * w(f"{name}.weight") + w(f"{name}.bias"))

    def dense(x: Doubles, name: str) -> Doubles:
        y = x @ w(f"{name}.weight").T
        return np.asarray(y if model.base else y + w(f"{name}.bias"))

    n, head = len(ids), model.width // model.heads
    x = w("embeddings.word_embeddings.weight")[list(ids)]
    if not model.base:
        x = x + w("embeddings.position_embeddings.weight")[:n]
    x = norm(x + w("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for layer in range(model.layers):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, f"{at}attention.self.{side}").reshape(n, model.heads, head).swapaxes(0, 1)
            for side in ("query", "key", "value")
        )
        if model.base:
            q, k = rotated(q, model.base), rotated(k, model.base)
        scores = q @ k.swapaxes(1, 2) / math.sqrt(head)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(n, -1)
        x = norm(x + dense(seen, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        h = dense(x, f"{at}intermediate.dense")
        if model.base:
            gate = dense(x, f"{at}intermediate.gate")
            h = gate / (1 + np.exp(-gate)) * h
        else:
            h = h / 2 * np.vectorize(math.erfc)(-h / math.sqrt(2))
        x = norm(x + dense(h, f"{at}output.dense"), f"{at}output.LayerNorm")
    return np.asarray({"mean": x.mean(0), "cls": x[0], "last": x[-1]}[model.pooling])


def rotated(x: Doubles, base: float) -> Doubles:
    """x [heads, n, width]: value j and its partner half a head further turn by position * base^(-2j/width)."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))
