"""Makes small random models as Hugging Face stores them, and says what they mean: logits by that library's formulas.

The safetensors are written here, byte by byte. `logits` is written from the architectures' definitions (rotate_half
over halves of a head, norms of 1 + w in the gemmas, repeated key heads) and shares no code with the engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM",
}  # fmt: skip
WORDS = ["the", "a", "in", "an", "re", "on", "he", "th", "er"]


def config_of(kind: str, **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "vocab_size": 300, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip
    if kind.startswith("gemma"):
        config |= {"head_dim": 32, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    if kind == "gemma2":
        config |= {"sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
                   "query_pre_attn_scalar": 32}  # fmt: skip
    if kind == "gemma3":
        config |= {"sliding_window": 4, "rope_local_base_freq": 500.0, "query_pre_attn_scalar": 32,
                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                   "rope_scaling": {"rope_type": "linear", "factor": 4.0}}  # fmt: skip
    if kind == "mistral":
        config |= {"sliding_window": 5}
    if kind == "qwen3":
        config |= {"head_dim": 32}
    if kind == "llama":
        config["rope_scaling"] = {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }  # fmt: skip
    return config | more


def tensors_of(kind: str, config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    width, ff = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def matrix(rows: int, cols: int) -> Floats:
        return np.asarray(rng.standard_normal((rows, cols), np.float32) / np.float32(np.sqrt(cols)))

    def vector(count: int, mean: float) -> Floats:
        return (mean + 0.2 * rng.standard_normal(count)).astype(np.float32)

    mean = 0.0 if kind.startswith("gemma") else 1.0
    found = {"model.embed_tokens.weight": matrix(config["vocab_size"], width), "model.norm.weight": vector(width, mean)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = matrix(config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind in ("gemma2", "gemma3"):
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        found |= {f"{at}{name}.weight": vector(width, mean) for name in norms}
        found |= {f"{at}self_attn.o_proj.weight": matrix(width, q), f"{at}mlp.down_proj.weight": matrix(width, ff)}
        if kind == "phi3":
            found |= {f"{at}self_attn.qkv_proj.weight": matrix(q + 2 * kv, width)}
            found |= {f"{at}mlp.gate_up_proj.weight": matrix(2 * ff, width)}
            continue
        found |= {f"{at}mlp.{name}_proj.weight": matrix(ff, width) for name in ("gate", "up")}
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            found[f"{at}self_attn.{name}_proj.weight"] = matrix(rows, width)
            if kind == "qwen2":
                found[f"{at}self_attn.{name}_proj.bias"] = vector(rows, 0.0)
            if kind in ("qwen3", "gemma3") and name != "v":
                found[f"{at}self_attn.{name}_norm.weight"] = vector(head, mean)
    return found


# -- what it means


def logits(kind: str, config: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]], tokens: list[int]) -> Doubles:
    """[tokens, vocab], in float64."""
    one = {name: array.astype(np.float64) for name, array in weights.items()}
    width, gemma = config["hidden_size"], kind.startswith("gemma")

    def norm(x: Doubles, name: str) -> Doubles:
        weight = one[name] + (1.0 if gemma else 0.0)
        return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight)

    x = one["model.embed_tokens.weight"][tokens] * (np.sqrt(width) if gemma else 1.0)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = _attention(kind, config, one, at, layer, norm(x, at + "input_layernorm.weight"), norm)
        if kind in ("gemma2", "gemma3"):
            x = x + norm(h, at + "post_attention_layernorm.weight")
            h = _feed_forward(kind, config, one, at, norm(x, at + "pre_feedforward_layernorm.weight"))
            x = x + norm(h, at + "post_feedforward_layernorm.weight")
        else:
            x = x + h
            x = x + _feed_forward(kind, config, one, at, norm(x, at + "post_attention_layernorm.weight"))
    head = one["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    y = norm(x, "model.norm.weight") @ head.T
    cap = config.get("final_logit_softcapping")
    return np.asarray(cap * np.tanh(y / cap) if cap else y)


def _feed_forward(kind: str, config: Mapping[str, Any], one: Mapping[str, Doubles], at: str, x: Doubles) -> Doubles:
    if kind == "phi3":
        gate, up = np.split(x @ one[at + "mlp.gate_up_proj.weight"].T, 2, axis=-1)
    else:
        gate, up = (x @ one[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    if kind.startswith("gemma"):
        active = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    else:
        active = gate / (1 + np.exp(-gate))
    return np.asarray((active * up) @ one[at + "mlp.down_proj.weight"].T)


def _attention(
    kind: str, config: Mapping[str, Any], one: Mapping[str, Doubles], at: str, layer: int, x: Doubles, norm: Any
) -> Doubles:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", config["hidden_size"] // heads)
    if kind == "phi3":
        cuts = [heads * head, (heads + kv_heads) * head]
        parts = np.split(x @ one[at + "self_attn.qkv_proj.weight"].T, cuts, axis=-1)
    else:
        parts = [
            x @ one[f"{at}self_attn.{n}_proj.weight"].T + one.get(f"{at}self_attn.{n}_proj.bias", np.zeros(1))
            for n in "qkv"
        ]
    q, k, v = (part.reshape(len(x), -1, head).transpose(1, 0, 2) for part in parts)  # [heads, tokens, head]
    if kind in ("qwen3", "gemma3"):
        q, k = norm(q, at + "self_attn.q_norm.weight"), norm(k, at + "self_attn.k_norm.weight")
    local = _is_local(kind, config, layer)
    frequencies = _frequencies(kind, config, head, local)
    q, k = (_rotate(side, frequencies) for side in (q, k))
    k, v = (np.repeat(side, heads // kv_heads, axis=0) for side in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(head)
    cap = config.get("attn_logit_softcapping")
    scores = cap * np.tanh(scores / cap) if cap else scores
    distance = np.arange(len(x))[:, None] - np.arange(len(x))
    seen = (distance >= 0) & ((distance < config["sliding_window"]) if local else True)
    scores = np.where(seen, scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ v
    return np.asarray(mixed.transpose(1, 0, 2).reshape(len(x), -1) @ one[at + "self_attn.o_proj.weight"].T)


def _is_local(kind: str, config: Mapping[str, Any], layer: int) -> bool:
    if kind == "gemma3":
        return bool(config["layer_types"][layer] == "sliding_attention")
    return layer % 2 == 0 if kind == "gemma2" else "sliding_window" in config


def _frequencies(kind: str, config: Mapping[str, Any], head: int, local: bool) -> Doubles:
    base = config["rope_local_base_freq"] if kind == "gemma3" and local else config["rope_theta"]
    frequencies = base ** (-np.arange(0, head, 2) / head)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear" and not local:
        return np.asarray(frequencies / scaling["factor"])
    if scaling.get("rope_type") == "llama3":
        length = 2 * np.pi / frequencies
        old, low, high = (
            scaling[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        smooth = (old / length - low) / (high - low)
        blend = (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies
        long = np.where(length > old / low, frequencies / scaling["factor"], blend)
        return np.asarray(np.where(length < old / high, frequencies, long))
    return np.asarray(frequencies)


def _rotate(x: Doubles, frequencies: Doubles) -> Doubles:
    angles = np.arange(x.shape[1])[:, None] * np.concatenate([frequencies, frequencies])
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return np.asarray(x * np.cos(angles) + turned * np.sin(angles))


# -- an encoder


def bert_config(**more: Any) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 48, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "vocab_size": 40, "hidden_act": "gelu", "position_embedding_type": "absolute",
    } | more  # fmt: skip


def bert_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    width, ff = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
    }
    linear = {"attention.self.query": (width, width), "attention.self.key": (width, width),
              "attention.self.value": (width, width), "attention.output.dense": (width, width),
              "intermediate.dense": (ff, width), "output.dense": (width, ff)}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
        shapes |= {f"{at}{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{at}{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
    shapes |= {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}
    found = {name: rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1]) for name, shape in shapes.items()}
    return {name: (x + ("LayerNorm.weight" in name)).astype(np.float32) for name, x in found.items()}


def bert_vector(config: Mapping[str, Any], weights: Mapping[str, npt.NDArray[Any]], tokens: list[int]) -> Doubles:
    """[width]: the mean of all tokens' last states, in float64."""
    one = {name: array.astype(np.float64) for name, array in weights.items()}
    heads = config["num_attention_heads"]
    erf = np.vectorize(math.erf)

    def norm(x: Doubles, at: str) -> Doubles:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return np.asarray((x - x.mean(axis=-1, keepdims=True)) / spread * one[f"{at}.weight"] + one[f"{at}.bias"])

    def linear(x: Doubles, at: str) -> Doubles:
        return np.asarray(x @ one[f"{at}.weight"].T + one[f"{at}.bias"])

    x = one["embeddings.word_embeddings.weight"][tokens] + one["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + one["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, f"{at}attention.self.{name}").reshape(len(x), heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = norm(x + linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        h = linear(x, f"{at}intermediate.dense")
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = norm(x + linear(h, f"{at}output.dense"), f"{at}output.LayerNorm")
    return np.asarray(x.mean(axis=0))


def word_piece_tokenizer(size: int = 40) -> dict[str, Any]:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "hen",
        "##s",
        "an",
        "inn",
        "##er",
        ",",
        "a",
        "h",
        "##e",
    ]
    vocab = {word: index for index, word in enumerate(words)}
    vocab |= {f"[unused{index}]": index for index in range(len(words), size)}
    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in special)
    one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "added_tokens": [added(vocab[word], word) for word in words[:5]],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [cls, one, sep], "pair": [cls, one, sep, two, sep],
                           "special_tokens": special},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    }  # fmt: skip


# -- files


def safetensors(tensors: Mapping[str, npt.NDArray[Any]], dtype: str = "F32") -> bytes:
    header: dict[str, Any] = {}
    body = bytearray()
    for name, array in tensors.items():
        raw = _raw(array, dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(body)


def _raw(array: npt.NDArray[Any], dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()  # cut, not rounded: exact either way
    return array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def byte_tokens() -> dict[str, int]:
    """GPT-2's printable stand-ins of all bytes, as ids 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    disguise = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return {disguise[byte]: byte for byte in range(256)}


def added(index: int, text: str, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, "special": special, **flags}


def bpe_tokenizer(pre_tokenizer: Any = None, *, ignore_merges: bool = False) -> dict[str, Any]:
    """Byte-level BPE with a few merges; `<|end|>` is special."""
    vocab = byte_tokens()
    merges = [word.split(" ") for word in ("t h", "th e", "i n", "a n", "r e", "o n", "Ġ the", "e r")]
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    return {
        "version": "1.0",
        "added_tokens": [added(len(vocab), "<|end|>")],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer
        or {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [" ".join(m) for m in merges],
            "ignore_merges": ignore_merges,
        },
    }


def spm_tokenizer(*, prefix: bool) -> dict[str, Any]:
    """BPE with byte fallback, as tokenizer.json spells SentencePiece."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["i", "n"], ["▁", "a"], ["e", "r"]]
    for letter in ["▁", *"theinar"]:
        vocab.setdefault(letter, len(vocab))
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace]
    special = [added(vocab[text], text) for text in ("<unk>", "<s>", "</s>")]
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                         {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}  # fmt: skip
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "unk_token": "<unk>",
             "fuse_unk": True}  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": template,
        "model": model,
    }


def write_tree(
    folder: Path,
    kind: str,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, npt.NDArray[Any]] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    dtype: str = "F32",
    shards: int = 1,
) -> Path:
    """A whole model in `folder`; what is not given is made."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(kind) if config is None else config
    tensors = tensors_of(kind, config) if tensors is None else tensors
    if tokenizer is None:
        spaced = kind.startswith("gemma") or kind in ("mistral", "phi3")
        tokenizer = spm_tokenizer(prefix=not kind.startswith("gemma")) if spaced else bpe_tokenizer()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    plain = "<|end|>" in json.dumps(tokenizer)
    words = {"eos_token": "<|end|>"} if plain else {"bos_token": "<s>", "eos_token": "</s>"}
    if "[CLS]" in json.dumps(tokenizer):
        words = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**words, "chat_template": "{{ messages[0].content }}"}))
    names = list(tensors)
    index: dict[str, str] = {}
    for shard in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {tensor: tensors[tensor] for tensor in names[shard::shards]}
        index |= dict.fromkeys(part, name)
        (folder / name).write_bytes(safetensors(part, dtype))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder
