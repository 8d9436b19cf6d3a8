"""Random small models of every shape the plan language can say: mixtures of weight formats, odd widths, windows, caps,
norms of queries and keys, norms after a block, partial ropes, biases, tied heads. Drawn by hypothesis, made by seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import gguf
import numpy as np
from hypothesis import strategies as st

from native.engine import Weight
from native.plan import Plan, PlanBuilder
from tests.peers.kernels import INTEGER, PLAIN, SCALE_AT, Tensor, block_of, random_tensor, values_of

VOCAB = 61


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    heads: int
    kv_heads: int
    head_dim: int
    rotary: int  # even, at most head_dim
    pairing: Literal["adjacent", "halves"]
    window: int
    softcap: float
    qk_norm: bool
    post_norm: bool
    bias: bool
    act: Literal["silu", "gelu"]
    ff: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """`kinds` are taken in turn; a matrix whose columns do not fill the blocks of the next one becomes F16."""

    width: int
    layers: tuple[Layer, ...]
    kinds: tuple[str, ...]
    tied: bool
    cap: float  # of the logits; 0: none
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    plan: Plan
    weights: dict[str, Weight]
    raw: dict[str, Tensor]  # keeps the bytes alive


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kv_heads, group = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 5), (3, 1), (2, 4), (1, 16)]))
    head_dim = draw(st.sampled_from([8, 16, 20, 33, 48, 64]))
    return Layer(
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary=draw(st.sampled_from([head_dim // 2 * 2, max(2, head_dim // 4 * 2)])),
        pairing=draw(st.sampled_from(["adjacent", "halves"])),
        window=draw(st.sampled_from([0, 0, 1, 20, 32, 70, 260])),
        softcap=draw(st.sampled_from([0.0, 0.0, 3.0, 50.0])),
        qk_norm=draw(st.booleans()),
        post_norm=draw(st.booleans()),
        bias=draw(st.booleans()),
        act=draw(st.sampled_from(["silu", "gelu"])),
        ff=draw(st.sampled_from([33, 64, 96, 256])),
    )


def models(kinds: tuple[str, ...] = PLAIN + INTEGER) -> st.SearchStrategy[Model]:
    return st.builds(
        Model,
        width=st.sampled_from([37, 64, 96, 256]),
        layers=st.lists(layers(), min_size=1, max_size=2).map(tuple),
        kinds=st.lists(st.sampled_from(kinds), min_size=1, max_size=4).map(tuple),
        tied=st.booleans(),
        cap=st.sampled_from([0.0, 30.0]),
        seed=st.integers(0, 2**32 - 1),
    )


def sized(kind: str, rows: int, cols: int, rng: np.random.Generator) -> Tensor:
    """Random codes, scales such that a product with ordinary numbers is ordinary."""
    tensor = random_tensor(kind, rows, cols, rng)
    values = values_of(tensor)
    factor = 1 / np.sqrt(np.mean(values.astype(np.float64) ** 2) * cols)
    if kind in PLAIN:
        scaled = gguf.quants.quantize((values * factor).astype(np.float32), gguf.GGMLQuantizationType[kind])
        return Tensor(
            kind=kind, rows=rows, cols=cols, raw=np.ascontiguousarray(scaled).view(np.uint8).reshape(rows, -1)
        )
    blocks = tensor.raw.reshape(rows, -1, block_of(kind)[1])
    for at in SCALE_AT[kind]:
        scales = np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)
        blocks[:, :, at : at + 2] = (scales * factor).astype(np.float16).view(np.uint8)
    return tensor


def make(model: Model) -> Made:
    rng = np.random.default_rng(model.seed)
    kinds = itertools.cycle(model.kinds)
    raw: dict[str, Tensor] = {}
    p = PlanBuilder()

    def matrix(name: str, rows: int, cols: int) -> str:
        kind = next(kinds)
        raw[name] = sized(kind if cols % block_of(kind)[0] == 0 else "F16", rows, cols, rng)
        return name

    def vector(name: str, cols: int) -> str:
        values = (1 + 0.2 * rng.standard_normal((1, cols))).astype(np.float32)
        raw[name] = Tensor(kind="F32", rows=1, cols=cols, raw=values.view(np.uint8))
        return name

    def norm(x: int, name: str, group: int) -> int:
        return p.rms_norm(x, vector(name, group), group=group, eps=1e-6)

    def attention(x: int, at: int, layer: Layer) -> int:
        sides = []
        for side, heads in (("q", layer.heads), ("k", layer.kv_heads), ("v", layer.kv_heads)):
            name, width = f"{at}.{side}", heads * layer.head_dim
            s = p.linear(x, matrix(name, width, model.width), vector(f"{name}.bias", width) if layer.bias else None)
            if side != "v":
                s = norm(s, f"{name}.norm", layer.head_dim) if layer.qk_norm else s
                s = p.rope(s, head_dim=layer.head_dim, dims=layer.rotary, pairing=layer.pairing, base=1e4)
            sides.append(s)
        a = p.attend(
            *sides, layer=at, heads=layer.heads, kv_heads=layer.kv_heads, head_dim=layer.head_dim,
            window=layer.window, scale=layer.head_dim**-0.5, softcap=layer.softcap,
        )  # fmt: skip
        return p.linear(a, matrix(f"{at}.out", model.width, layer.heads * layer.head_dim))

    def gated(x: int, at: int, layer: Layer) -> int:
        gate, up = (p.linear(x, matrix(f"{at}.{name}", layer.ff, model.width)) for name in ("gate", "up"))
        return p.linear(p.glu(gate, up, act=layer.act), matrix(f"{at}.down", model.width, layer.ff))

    x = p.embed(matrix("embed", VOCAB, model.width), scale=np.sqrt(model.width))
    for at, layer in enumerate(model.layers):
        for name, block in (("attention", attention), ("ffn", gated)):
            y = block(norm(x, f"{at}.{name}.norm", model.width), at, layer)
            x = p.add(x, norm(y, f"{at}.{name}.post", model.width) if layer.post_norm else y)
    last = norm(p.pick(x), "norm", model.width)
    logits = p.linear(last, "embed" if model.tied else matrix("head", VOCAB, model.width))
    if model.cap:
        p.softcap(logits, model.cap)
    weights = {
        name: Weight(buffer=t.raw.reshape(-1).data, type=t.number, rows=t.rows, cols=t.cols) for name, t in raw.items()
    }
    return Made(plan=p.build(), weights=weights, raw=raw)
