"""A spec becomes a plan: the block diagram of a decoder or of an encoder, read from top to bottom.

Tensors are named as in GGUF. A tensor that the file stores fused has the name it would have alone; `weights` finds its
rows. The function decides nothing: every branch below asks a field of the spec.
"""

from __future__ import annotations

from native.plan import Plan, PlanBuilder
from runtime.models.spec import AttentionSpec, EncoderSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec


def lower(spec: ModelSpec) -> Plan:
    b = PlanBuilder()
    if spec.encoder:
        _pool(b, _encode(b, spec, spec.encoder), spec)
    else:
        _decode(b, spec)
    return b.build()


def _decode(b: PlanBuilder, spec: ModelSpec) -> None:
    x = b.embed("token_embd.weight", scale=spec.embed_scale)
    for number, layer in enumerate(spec.layers):
        at = f"blk.{number}."
        h = b.rms_norm(x, at + "attn_norm.weight", group=spec.width, eps=spec.eps)
        h = _attend(b, h, at, layer.attention, number, spec.eps)
        if number == len(spec.layers) - 1 and spec.pooling in (
            None,
            "last",
        ):  # nothing after this mixes rows: only those asked for go on
            h, x = b.pick(h), b.pick(x)
        h = _project(b, h, at, layer.attention, "output")
        if layer.post_norms:
            h = b.rms_norm(h, at + "post_attention_norm.weight", group=spec.width, eps=spec.eps)
        x = b.add(x, h)
        h = b.rms_norm(x, at + "ffn_norm.weight", group=spec.width, eps=spec.eps)
        h = _feed_forward(b, h, at, layer.feed_forward)
        if layer.post_norms:
            h = b.rms_norm(h, at + "post_ffw_norm.weight", group=spec.width, eps=spec.eps)
        x = b.add(x, h)
    x = b.rms_norm(x, "output_norm.weight", group=spec.width, eps=spec.eps)
    if spec.pooling:
        if spec.pooling != "last":  # it is picked already
            _pool(b, x, spec)
        return
    logits = b.linear(x, "token_embd.weight" if spec.tied else "output.weight")
    if spec.final_softcap:
        b.softcap(logits, spec.final_softcap)


def _encode(b: PlanBuilder, spec: ModelSpec, encoder: EncoderSpec) -> int:
    """Devlin et al. 2018, figure 3 of Vaswani et al. 2017's left half. Norms come after each sum."""
    x = b.embed("token_embd.weight")
    if encoder.token_types:
        x = b.shift(x, "token_types.weight")
    if encoder.places:
        x = b.add(x, b.place("position_embd.weight"))
    x = _layer_norm(b, x, "token_embd_norm", spec)
    for number, layer in enumerate(spec.layers):
        at = f"blk.{number}."
        h = _project(b, _attend_all(b, x, at, layer), at, layer.attention, "output")
        x = _layer_norm(b, b.add(x, h), at + "attn_output_norm", spec)
        h = _feed_forward(b, x, at, layer.feed_forward)
        x = _layer_norm(b, b.add(x, h), at + "layer_output_norm", spec)
    return x


def _layer_norm(b: PlanBuilder, x: int, name: str, spec: ModelSpec) -> int:
    return b.layer_norm(x, f"{name}.weight", f"{name}.bias", eps=spec.eps)


def _pool(b: PlanBuilder, x: int, spec: ModelSpec) -> int:
    return b.pick(x) if spec.pooling == "last" else b.pool(x, how="mean" if spec.pooling == "mean" else "first")


def _attend_all(b: PlanBuilder, x: int, at: str, layer: LayerSpec) -> int:
    spec = layer.attention
    q, k, v = (_project(b, x, at, spec, part) for part in ("q", "k", "v"))
    if spec.rope:
        q, k = (_rope(b, side, spec.rope, spec.head_dim) for side in (q, k))
    return b.attend_all(q, k, v, heads=spec.heads, kv_heads=spec.kv_heads, head_dim=spec.head_dim, scale=spec.scale)


def _attend(b: PlanBuilder, x: int, at: str, spec: AttentionSpec, layer: int, eps: float) -> int:
    q, k, v = (_project(b, x, at, spec, part) for part in ("q", "k", "v"))
    if spec.qk_norm:
        q = b.rms_norm(q, at + "attn_q_norm.weight", group=spec.head_dim, eps=eps)
        k = b.rms_norm(k, at + "attn_k_norm.weight", group=spec.head_dim, eps=eps)
    if spec.rope:
        q, k = (_rope(b, side, spec.rope, spec.head_dim) for side in (q, k))
    return b.attend(
        q,
        k,
        v,
        layer=layer,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        window=spec.window,
        scale=spec.scale,
        softcap=spec.softcap,
    )


def _project(b: PlanBuilder, x: int, at: str, spec: AttentionSpec, part: str) -> int:
    name = f"{at}attn_{part}"
    return b.linear(x, f"{name}.weight", f"{name}.bias" if part in spec.biases else None)


def _rope(b: PlanBuilder, x: int, spec: RopeSpec, head_dim: int) -> int:
    return b.rope(
        x,
        head_dim=head_dim,
        dims=spec.dims,
        pairing=spec.pairing,
        base=spec.base,
        scale=spec.scale,
        factors="rope_freqs.weight" if spec.factors else None,
    )


def _feed_forward(b: PlanBuilder, x: int, at: str, spec: FeedForwardSpec) -> int:
    def linear(x: int, part: str) -> int:
        name = f"{at}ffn_{part}"
        return b.linear(x, f"{name}.weight", f"{name}.bias" if part in spec.biases else None)

    if not spec.gated:
        return linear(b.activate(linear(x, "up"), act=spec.act), "down")
    gate, up = linear(x, "gate"), linear(x, "up")
    return linear(b.glu(gate, up, act=spec.act), "down")
