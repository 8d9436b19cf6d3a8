"""qwen2 (also Qwen 2.5): biases on q, k and v. qwen3: no biases, a norm on every head of q and k. Dense models only."""

from __future__ import annotations

from native.record import replace
from runtime.models.common import HARMLESS, read_base, read_rope
from runtime.models.source import Source
from runtime.models.spec import LayerSpec, ModelSpec


def qwen2(source: Source) -> ModelSpec:
    return _qwen(source, biases=("q", "k", "v"), qk_norm=False)


def qwen3(source: Source) -> ModelSpec:
    return _qwen(source, biases=(), qk_norm=True)


def _qwen(source: Source, *, biases: tuple[str, ...], qk_norm: bool) -> ModelSpec:
    base = read_base(source)
    rope = read_rope(source, base.head_dim, "halves")
    source.finish(HARMLESS)

    def layer(i: int) -> LayerSpec:
        attention = replace(base.attention(i, rope), biases=biases, qk_norm=qk_norm)
        return LayerSpec(attention=attention, feed_forward=base.feed_forward(i, "silu"))

    return base.model(map(layer, range(base.layers)))
