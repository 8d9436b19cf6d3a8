"""llama: Llama 1 to 3.3, Mistral, SmolLM, TinyLlama and other models stored under this name.

Files hold the rows of q and k already in the order of adjacent pairs. Llama 3.1's frequency scaling comes as the tensor
`rope_freqs.weight`. Mixtures of experts stored under this name are refused.
"""

from __future__ import annotations

from native.record import replace
from runtime.models.common import HARMLESS, read_base, read_rope, read_window
from runtime.models.source import Source
from runtime.models.spec import LayerSpec, ModelSpec

BIASES = ("q", "k", "v", "output")


def llama(source: Source) -> ModelSpec:
    base = read_base(source)
    rope = read_rope(source, base.head_dim, "adjacent")
    window = read_window(source, 0)
    source.finish(HARMLESS)

    def layer(i: int) -> LayerSpec:
        biases = tuple(part for part in BIASES if source.has_tensor(f"blk.{i}.attn_{part}.bias"))
        attention = replace(base.attention(i, rope), window=window, biases=biases)
        return LayerSpec(attention=attention, feed_forward=base.feed_forward(i, "silu"))

    return base.model(map(layer, range(base.layers)))
