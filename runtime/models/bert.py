"""Encoders that make a text's vector: bert (BERT, MiniLM, BGE, E5, arctic) and nomic-bert.

bert: an embedding of positions, biases everywhere, an ungated feed-forward with the gelu of erf.
nomic-bert: rotations instead of positions, q, k and v in one tensor, a feed-forward gated with silu. Its mixture of
experts (nomic-bert-moe) is another architecture and unknown here.

Every token is of the first type: a text is one segment. Files converted by llama.cpp say `attention.causal` false, and
those by Ollama nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from native.record import replace
from runtime.models.common import HARMLESS, Base, read_base, read_rope
from runtime.models.source import Source
from runtime.models.spec import AttentionSpec, EncoderSpec, FeedForwardSpec, LayerSpec, ModelSpec


def bert(source: Source) -> ModelSpec:
    base = read_base(source, encoder=True)
    source.finish(HARMLESS)
    places = source.tensor_rows("position_embd.weight")
    if places < base.context:
        raise source.refuse("context_length", f"found {base.context}, position_embd.weight has {places} rows")

    def layer(i: int) -> LayerSpec:
        return LayerSpec(
            attention=replace(_attention(source, base, i), biases=("q", "k", "v", "output")),
            feed_forward=FeedForwardSpec(width=base.ff[i], act="gelu_erf", gated=False, biases=("up", "down")),
        )

    return _model(source, base, layer, places=True)


def nomic_bert(source: Source) -> ModelSpec:
    base = read_base(source, encoder=True)
    rope = read_rope(source, base.head_dim, "halves", base=1000.0)
    source.only("moe_every_n_layers", 0)
    source.finish(HARMLESS)

    def layer(i: int) -> LayerSpec:
        return LayerSpec(
            attention=replace(_attention(source, base, i), rope=rope),
            feed_forward=FeedForwardSpec(width=base.ff[i], act="silu"),
        )

    return _model(source, base, layer, places=False)


def _attention(source: Source, base: Base, i: int) -> AttentionSpec:
    return replace(base.attention(i, None), fused=source.has_tensor(f"blk.{i}.attn_qkv.weight"))


def _model(source: Source, base: Base, layer: Callable[[int], LayerSpec], *, places: bool) -> ModelSpec:
    if base.pooling is None:
        raise source.refuse("pooling_type", "missing, expected 1 (mean), 2 (cls) or 3 (last)")
    types = source.tensor_rows("token_types.weight") if source.has_tensor("token_types.weight") else 0
    return replace(base.model(map(layer, range(base.layers))), encoder=EncoderSpec(token_types=types, places=places))
