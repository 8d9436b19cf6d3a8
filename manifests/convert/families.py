"""The architectures that are converted, as data: Hugging Face's name -> GGUF's, tensor names, and what the config says.

Tensor names are those that llama.cpp's converter writes, so that one adapter fits both. Differences die here, once:
`llama` has the rows of q and k in the order of adjacent rope pairs; the gemmas' norm weights get their "+1".
Refused by name: a config that asks for what the engine would not do (other activations, rope kinds, score scales).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from manifests.convert.tree import Config

_ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_LLAMA = _ATTENTION | {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PHI3 = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_DECODER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BERT = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_BERT_TOP = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}

Keys = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`name` is GGUF's; `keys` reads the config into GGUF keys without their prefix; `layer` and `top` map modules.

    `layers`: what stands before a layer's number. `pairs`: q and k are written in adjacent pairs. `plus_one`: norms.
    `unused`: tensors that nothing reads.
    """

    name: str
    keys: Callable[[Config], Keys]
    layer: Mapping[str, str]
    top: Mapping[str, str] = field(default_factory=lambda: _DECODER)
    layers: str = "model.layers"
    pairs: bool = False
    plus_one: bool = False
    unused: tuple[str, ...] = ("rotary_emb.inv_freq",)


def head_dim(config: Config) -> int:
    return config.integer("head_dim", config.integer("hidden_size") // config.integer("num_attention_heads"))


def rope(config: Config) -> Config:
    """Where the rope's facts stand: newer configs gather them in `rope_parameters`, by kind of layer or for all."""
    for key in ("rope_parameters", "rope_scaling"):
        if config.raw(key) is not None:
            found = config.part(key)
            return found.part("full_attention") if found.raw("full_attention") is not None else found
    return Config({}, f"{config.path}: rope_scaling")


def rope_kind(config: Config) -> str:
    found = rope(config)
    kind = found.raw("rope_type") or found.raw("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise found.wrong("rope_type" if found.raw("rope_type") else "type", "only 'linear' and 'llama3' are supported")
    return str(kind)


def _decoder(config: Config, *, act: tuple[str, ...] = ("silu",)) -> Keys:
    """What all decoders say in the same way. `act`: what `hidden_act` may say."""
    heads = config.integer("num_attention_heads")
    config.only("hidden_act", None, *act)
    config.only("hidden_activation", None, act[0])
    keys: Keys = {
        "block_count": config.integer("num_hidden_layers", high=1025),
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": config.integer("hidden_size"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.integer("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
        "rope.freq_base": config.number("rope_theta", rope(config).number("rope_theta", 10000.0)),
        "vocab_size": config.integer("vocab_size"),
    }
    if head_dim(config) * heads != config.integer("hidden_size"):
        keys |= {"attention.key_length": head_dim(config), "attention.value_length": head_dim(config)}
    if rope_kind(config) == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope(config).number("factor")}
    return keys


def _llama(config: Config) -> Keys:
    _whole_heads(config)
    return _decoder(config) | {"rope.dimension_count": head_dim(config)}


def _mistral(config: Config) -> Keys:
    return _llama(config) | _window(config)


def _qwen(config: Config) -> Keys:
    _whole_heads(config)
    config.only("use_sliding_window", None, False)
    return _decoder(config)


def _window(config: Config) -> Keys:
    window = config.integer("sliding_window", 0, low=0)
    return {"attention.sliding_window": window} if window else {}


def _whole_heads(config: Config) -> None:
    """The rope turns all of a head."""
    for found in (config, rope(config)):
        found.only("partial_rotary_factor", None, 1)


def _gemma(config: Config) -> Keys:
    _whole_heads(config)
    lengths = {"attention.key_length": head_dim(config), "attention.value_length": head_dim(config)}
    return _decoder(config, act=("gelu_pytorch_tanh", "gelu")) | lengths


def _score_scale(config: Config, layers_of_27b: int) -> None:
    """The engine divides by the root of a head's width; in the two 27B models, of the width over the heads."""
    wide = config.integer("num_hidden_layers") == layers_of_27b
    expected = config.integer("hidden_size") // config.integer("num_attention_heads") if wide else head_dim(config)
    config.only("query_pre_attn_scalar", None, expected)


def _gemma2(config: Config) -> Keys:
    _score_scale(config, 46)
    return _gemma(config) | {
        "attention.sliding_window": config.integer("sliding_window", 4096),
        "attn_logit_softcapping": config.number("attn_logit_softcapping"),
        "final_logit_softcapping": config.number("final_logit_softcapping"),
    }


def _gemma3(config: Config) -> Keys:
    _score_scale(config, 62)
    config.only("use_bidirectional_attention", None, False)
    config.only("attn_logit_softcapping", None)
    keys = _gemma(config) | {"attention.sliding_window": config.integer("sliding_window", 1024)}
    keys["rope.freq_base"] = config.number("rope_theta", rope(config).number("rope_theta", 1e6))
    near = config.part("rope_parameters").part("sliding_attention").number("rope_theta", 10000.0)
    keys["rope.freq_base_swa"] = config.number("rope_local_base_freq", near)
    if config.raw("final_logit_softcapping") is not None:
        keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
    layers = config.integer("num_hidden_layers", high=1025)
    local = _local_layers(config, layers)
    if local != [(i + 1) % 6 != 0 for i in range(layers)]:
        keys["attention.sliding_window_pattern"] = local
    return keys


def _local_layers(config: Config, layers: int) -> list[bool]:
    kinds = config.raw("layer_types")
    if kinds is None:
        every = config.integer("sliding_window_pattern", 6)
        return [(i + 1) % every != 0 for i in range(layers)]
    known = {"sliding_attention": True, "full_attention": False}
    if not isinstance(kinds, list) or len(kinds) != layers or any(str(kind) not in known for kind in kinds):
        raise config.wrong("layer_types", f"expected {layers} of {', '.join(known)}")
    return [known[str(kind)] for kind in kinds]


def _phi3(config: Config) -> Keys:
    if rope_kind(config) != "default":
        raise config.wrong("rope_scaling", "only the short-context models are supported")
    share = rope(config).number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    return _decoder(config) | {"rope.dimension_count": int(share * head_dim(config))} | _window(config)


def _bert(config: Config) -> Keys:
    config.only("hidden_act", "gelu")
    config.only("position_embedding_type", None, "absolute")
    return {
        "block_count": config.integer("num_hidden_layers", high=1025),
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": config.integer("hidden_size"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.integer("num_attention_heads"),
        "attention.layer_norm_epsilon": config.number("layer_norm_eps"),
        "attention.causal": False,
        "vocab_size": config.integer("vocab_size"),
    }


LLAMA = Family(name="llama", keys=_llama, layer=_LLAMA, pairs=True)
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": replace(LLAMA, keys=_mistral),
    "Qwen2ForCausalLM": Family(name="qwen2", keys=_qwen, layer=_LLAMA),
    "Qwen3ForCausalLM": Family(name="qwen3", keys=_qwen, layer=_LLAMA | _HEAD_NORMS),
    "GemmaForCausalLM": Family(name="gemma", keys=_gemma, layer=_LLAMA, plus_one=True),
    "Gemma2ForCausalLM": Family(name="gemma2", keys=_gemma2, layer=_LLAMA | _SANDWICH, plus_one=True),
    "Gemma3ForCausalLM": Family(name="gemma3", keys=_gemma3, layer=_LLAMA | _SANDWICH | _HEAD_NORMS, plus_one=True),
    "Phi3ForCausalLM": Family(name="phi3", keys=_phi3, layer=_PHI3),
    "BertModel": Family(
        name="bert",
        keys=_bert,
        layer=_BERT,
        top=_BERT_TOP,
        layers="encoder.layer",
        unused=("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"),
    ),
}


def rope_factors(config: Config) -> list[float]:
    """Llama 3.1's: low frequencies are divided by `factor`, high ones kept, those between blended; empty for others."""
    if rope_kind(config) != "llama3":
        return []
    found, dims = rope(config), head_dim(config)
    base = config.number("rope_theta", found.number("rope_theta", 10000.0))
    factor, low, high = (found.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = found.number("original_max_position_embeddings")
    if high <= low:
        raise found.wrong("high_freq_factor", "expected more than low_freq_factor")
    factors = []
    for pair in range(dims // 2):
        turns = trained / (2 * math.pi * base ** (2 * pair / dims))  # full turns within the trained context
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / (share + (1 - share) / factor))
    return factors
