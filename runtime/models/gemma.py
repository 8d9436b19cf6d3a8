"""gemma, gemma2, gemma3 (text).

All: embeddings times sqrt(width), gelu, norm weights stored with the architecture's "+1" already added.
gemma2: norms after attention and feed-forward too, soft caps on scores and logits, every second layer local.
gemma3: a norm on every head of q and k instead of the score cap, five local layers to one global, and local layers
rotate with their own base and never with the scaling of the global ones.

The score scale is 1/sqrt(head_dim) except in the two 27B models, which divide the width by the heads; files do not say
so, and as in llama.cpp the number of layers tells (46 for gemma2, 62 for gemma3).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from native.record import replace
from runtime.models.common import HARMLESS, Base, read_base, read_rope, read_window
from runtime.models.source import Source
from runtime.models.spec import LayerSpec, ModelSpec


def gemma(source: Source) -> ModelSpec:
    base = read_base(source)
    rope = read_rope(source, base.head_dim, "halves")
    source.finish(HARMLESS)

    def layer(i: int) -> LayerSpec:
        return LayerSpec(attention=base.attention(i, rope), feed_forward=base.feed_forward(i, "gelu"))

    return _model(base, layer)


def gemma2(source: Source) -> ModelSpec:
    base = read_base(source)
    rope = read_rope(source, base.head_dim, "halves")
    window = read_window(source, 4096)
    local = _local_layers(source, base.layers, every=2)
    softcap = source.number("attn_logit_softcapping", 50.0)
    final_softcap = source.number("final_logit_softcapping", 30.0)
    source.finish(HARMLESS)
    scale = _score_scale(base, layers_of_27b=46)

    def layer(i: int) -> LayerSpec:
        plain = base.attention(i, rope)
        attention = replace(plain, scale=scale, softcap=softcap, window=window if local[i] else 0)
        return LayerSpec(attention=attention, feed_forward=base.feed_forward(i, "gelu"), post_norms=True)

    return replace(_model(base, layer), final_softcap=final_softcap)


def gemma3(source: Source) -> ModelSpec:
    base = read_base(source)
    wide = read_rope(source, base.head_dim, "halves", base=source.number("rope.global.freq_base", 1e6))
    near_base = source.number("rope.freq_base_swa", source.number("rope.local.freq_base", 10000.0))
    near = replace(wide, base=near_base, scale=1.0)
    window = read_window(source, 1024)
    local = _local_layers(source, base.layers, every=6)
    capped = source.value("final_logit_softcapping") not in (None, 0.0)
    final_softcap = source.number("final_logit_softcapping") if capped else 0.0
    source.finish(HARMLESS)
    scale = _score_scale(base, layers_of_27b=62)

    def layer(i: int) -> LayerSpec:
        plain = base.attention(i, near if local[i] else wide)
        attention = replace(plain, scale=scale, window=window if local[i] else 0, qk_norm=True)
        return LayerSpec(attention=attention, feed_forward=base.feed_forward(i, "gelu"), post_norms=True)

    return replace(_model(base, layer), final_softcap=final_softcap)


def _model(base: Base, layer: Callable[[int], LayerSpec]) -> ModelSpec:
    return replace(base.model(map(layer, range(base.layers))), embed_scale=math.sqrt(base.width))


def _local_layers(source: Source, layers: int, *, every: int) -> tuple[bool, ...]:
    """Which layers see only a window: a list in the file, or all but the last of every `every`."""
    pattern = source.value("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) != layers or not all(isinstance(item, bool) for item in pattern):
            raise source.refuse("attention.sliding_window_pattern", f"expected {layers} booleans, one for each layer")
        return tuple(pattern)
    every = source.integer("attention.sliding_window_pattern", every)
    return tuple((i + 1) % every != 0 for i in range(layers))


def _score_scale(base: Base, *, layers_of_27b: int) -> float:
    return 1 / math.sqrt(base.width // base.heads[0] if base.layers == layers_of_27b else base.head_dim)
