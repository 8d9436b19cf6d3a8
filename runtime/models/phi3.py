"""phi3: Phi-3 and Phi-3.5 mini and medium, short context. q, k, v in one tensor, gate and up in another.

The long-context variants bring two sets of rope factors and a magnitude factor; they are refused by these names.
"""

from __future__ import annotations

from native.record import replace
from runtime.models.common import HARMLESS, read_base, read_rope, read_window
from runtime.models.source import Source
from runtime.models.spec import LayerSpec, ModelSpec


def phi3(source: Source) -> ModelSpec:
    base = read_base(source)
    rope = read_rope(source, base.head_dim, "halves")
    window = read_window(source, 0)
    source.finish(HARMLESS)

    def layer(i: int) -> LayerSpec:
        attention = replace(base.attention(i, rope), window=window, fused=True)
        return LayerSpec(attention=attention, feed_forward=replace(base.feed_forward(i, "silu"), fused=True))

    return base.model(map(layer, range(base.layers)))
