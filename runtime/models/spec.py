"""A model as data: what an architecture's figure shows, without tensors and without code.

Everything that differs between architectures and between layers is a field here; `lower` turns a spec into a plan and
`weights` knows from it which tensors to bind. Widths are in values, `context` in tokens.
"""

from __future__ import annotations

from typing import Literal

from native.ops import Activation, Pairing
from native.record import record

Pooling = Literal["mean", "cls", "last"]


@record(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """Rotation of the first `dims` values of a head; the angle of pair j at position p is p * scale * base^(-2j/dims),
    divided by factor j of `rope_freqs.weight` if `factors`."""

    dims: int
    pairing: Pairing
    base: float
    scale: float = 1.0
    factors: bool = False


@record(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """`scale` multiplies q . k; `softcap` 0: none; `window` in tokens, 0: all; `biases` among q, k, v and output.
    `rope` None: positions come in another way.

    `fused`: the file holds q, k and v as one tensor, rows in this order.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    softcap: float = 0.0
    window: int = 0
    qk_norm: bool = False
    biases: tuple[str, ...] = ()
    fused: bool = False

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


@record(frozen=True, kw_only=True, slots=True)
class FeedForwardSpec:
    """down(act(gate(x)) * up(x)), or down(act(up(x))) if not `gated`. `fused`: the file holds gate and up as one
    tensor, gate's rows first. `biases` among gate, up and down."""

    width: int
    act: Activation
    fused: bool = False
    gated: bool = True
    biases: tuple[str, ...] = ()


@record(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """`post_norms`: a norm also after attention and after the feed-forward, before each is added."""

    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    post_norms: bool = False


@record(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """What BERT's figure has and a decoder's has not. Its tokens all see each other, and norms come after each sum.
    `token_types`: rows of that embedding, of which every token has the first; `places`: positions have an embedding."""

    token_types: int
    places: bool


@record(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A decoder, or an encoder. `context`: the most tokens it was trained for. `tied`: the logits reuse the embedding
    matrix. `pooling`: how the rows of a text become its vector; None: the model gives logits. `encoder`: its own facts,
    None for a decoder."""

    architecture: str
    vocab: int
    width: int
    context: int
    eps: float
    layers: tuple[LayerSpec, ...]
    tied: bool
    embed_scale: float = 1.0
    final_softcap: float = 0.0
    pooling: Pooling | None = None
    encoder: EncoderSpec | None = None
