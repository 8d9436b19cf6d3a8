"""A spec becomes a plan: the block diagram of a decoder, read from top to bottom.

Tensors are named as in GGUF. A tensor that the file stores fused has the name it would have alone; `weights` finds its
rows. The function decides nothing: every branch below asks a field of the spec.
"""

from __future__ import annotations

from native.plan import Plan, PlanBuilder
from runtime.models.spec import AttentionSpec, FeedForwardSpec, ModelSpec, RopeSpec


def lower(spec: ModelSpec) -> Plan:
    b = PlanBuilder()
    x = b.embed("token_embd.weight", scale=spec.embed_scale)
    for number, layer in enumerate(spec.layers):
        at = f"blk.{number}."
        h = b.rms_norm(x, at + "attn_norm.weight", group=spec.width, eps=spec.eps)
        h = _attend(b, h, at, layer.attention, number, spec.eps)
        if number == len(spec.layers) - 1:  # nothing after this mixes rows: only those asked for go on
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
    logits = b.linear(x, "token_embd.weight" if spec.tied else "output.weight")
    if spec.final_softcap:
        b.softcap(logits, spec.final_softcap)
    return b.build()


def _attend(b: PlanBuilder, x: int, at: str, spec: AttentionSpec, layer: int, eps: float) -> int:
    q, k, v = (_project(b, x, at, spec, part) for part in ("q", "k", "v"))
    if spec.qk_norm:
        q = b.rms_norm(q, at + "attn_q_norm.weight", group=spec.head_dim, eps=eps)
        k = b.rms_norm(k, at + "attn_k_norm.weight", group=spec.head_dim, eps=eps)
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
    gate, up = b.linear(x, at + "ffn_gate.weight"), b.linear(x, at + "ffn_up.weight")
    return b.linear(b.glu(gate, up, act=spec.act), at + "ffn_down.weight")
