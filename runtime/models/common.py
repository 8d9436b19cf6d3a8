"""The facts that all architectures read in the same way. Each architecture's own file says the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable

from native.ops import Activation, Pairing
from native.record import record
from runtime.models.source import MAX_CONTEXT, MAX_LAYERS, Source
from runtime.models.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Pooling, RopeSpec

# Keys that say nothing the engine must act on: sizes that tensors state better, and notes by converters.
HARMLESS = frozenset(
    {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"}
    | {"normalize_embeddings"}  # the server does, or does not
)


@record(frozen=True, kw_only=True, slots=True)
class Base:
    """`heads`, `kv_heads` and `ff`: one value for each layer."""

    architecture: str
    layers: int
    width: int
    context: int
    eps: float
    vocab: int
    tied: bool
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    ff: tuple[int, ...]
    pooling: Pooling | None

    def attention(self, i: int, rope: RopeSpec | None) -> AttentionSpec:
        """Plain attention of layer `i`; an architecture replaces what differs."""
        return AttentionSpec(
            heads=self.heads[i],
            kv_heads=self.kv_heads[i],
            head_dim=self.head_dim,
            scale=1 / math.sqrt(self.head_dim),
            rope=rope,
        )

    def feed_forward(self, i: int, act: Activation) -> FeedForwardSpec:
        return FeedForwardSpec(width=self.ff[i], act=act)

    def model(self, layers: Iterable[LayerSpec]) -> ModelSpec:
        return ModelSpec(
            pooling=self.pooling,
            architecture=self.architecture,
            vocab=self.vocab,
            width=self.width,
            context=self.context,
            eps=self.eps,
            layers=tuple(layers),
            tied=self.tied,
        )


def read_base(source: Source, *, encoder: bool = False) -> Base:
    layers = source.integer("block_count", high=MAX_LAYERS)
    width = source.integer("embedding_length")
    heads = source.per_layer("attention.head_count", layers)
    kv_heads = source.per_layer("attention.head_count_kv", layers, heads[0])
    source.only("expert_count", 0)
    source.only("expert_used_count", 0)
    source.only("attention.causal", not encoder)
    source.only("use_parallel_residual", False)
    return Base(
        architecture=source.architecture,
        layers=layers,
        width=width,
        context=source.integer("context_length", high=MAX_CONTEXT),
        eps=source.number("attention.layer_norm_epsilon" if encoder else "attention.layer_norm_rms_epsilon"),
        vocab=_vocab(source),
        tied=not source.has_tensor("output.weight"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(source, width, heads[0]),
        ff=source.per_layer("feed_forward_length", layers),
        pooling=read_pooling(source),
    )


POOLINGS: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}  # of GGUF; 0: none, 4: rank


def read_pooling(source: Source) -> Pooling | None:
    """None where the file does not say, and then the model answers with tokens."""
    number = source.value("pooling_type")
    if number is None:
        return None
    if isinstance(number, bool) or number not in POOLINGS:
        raise source.refuse("pooling_type", f"found {number!r:.40}, expected 1 (mean), 2 (cls) or 3 (last)")
    return POOLINGS[number]


def _vocab(source: Source) -> int:
    """Rows of the embedding, which must be as many as the tokenizer has tokens (where the file has one)."""
    rows = source.tensor_rows("token_embd.weight")
    tokens = source.gguf.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != rows:
        raise source.refuse("vocab", f"token_embd.weight has {rows} rows, the tokenizer {len(tokens)} tokens")
    return rows


def _head_dim(source: Source, width: int, heads: int) -> int:
    if heads > width:
        raise source.refuse("attention.head_count", f"found {heads}, more than the width {width}")
    head_dim = source.integer("attention.key_length", width // heads)
    values = source.integer("attention.value_length", width // heads)
    if values != head_dim:
        raise source.refuse("attention.value_length", f"found {values}, expected that of keys, {head_dim}")
    return head_dim


def read_rope(source: Source, head_dim: int, pairing: Pairing, *, base: float = 10000.0) -> RopeSpec:
    """Rotation with no or linear scaling. Refuses every other kind (yarn, longrope, ...) by name.

    A file may give a factor and no kind: then it means linear, as in llama.cpp.
    """
    source.only("rope.scaling.type", "none", "linear")
    source.only("rope.scaling.attn_factor", 1.0)
    factor = source.number("rope.scaling.factor", source.number("rope.scale_linear", 1.0))
    scaled = source.value("rope.scaling.type") != "none"
    return RopeSpec(
        dims=source.integer("rope.dimension_count", head_dim),
        pairing=pairing,
        base=source.number("rope.freq_base", base),
        scale=1 / factor if scaled else 1.0,
        factors=source.has_tensor("rope_freqs.weight"),
    )


def read_window(source: Source, default: int) -> int:
    """How many tokens a local layer sees, its own included; 0: all."""
    return source.integer("attention.sliding_window", default, low=0, high=2**31 - 1)
