"""K-quants: super-blocks of 256 values in 4, 5 or 6 bits, found by a search over scales.

    Q4_K, Q5_K   8 sub-blocks of 32: value = d * scale * code - dmin * least; scale and least in 6 bits each
    Q6_K         16 sub-blocks of 16: value = d * scale * code; scale a signed byte, code -32 .. 31

For each sub-block the search rounds the values at several trial steps, and of each takes the scale (and offset) that
weighted least squares gives for those codes; the one with the smallest weighted error wins. Larger values weigh more.
The layouts are ggml's (`block_q4_K`, `block_q5_K`, `block_q6_K`); the codes are rounded once more with the scales as
stored. Arrays are [values of a sub-block, sub-blocks]: sums run over the first axis, which keeps them fast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

SUPER = 256  # values
_TINY = np.float32(1e-30)


def q4_k(values: Floats) -> Bytes:
    """values [n * 256] -> [n, 144]."""
    head, codes = _affine_blocks(values, top=15, trials=np.linspace(-1.0, 1.0, 21))
    pairs = codes.reshape(-1, 4, 2, 32)
    return np.concatenate([head, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def q5_k(values: Floats) -> Bytes:
    """values [n * 256] -> [n, 176]."""
    head, codes = _affine_blocks(values, top=31, trials=np.linspace(-0.5, 1.0, 16))
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    fifth = (codes >> 4) << np.arange(8, dtype=np.uint8)[:, None]  # sub-block j keeps its fifth bits in bit j
    return np.concatenate([head, np.bitwise_or.reduce(fifth, axis=1), low], axis=1)


def q6_k(values: Floats) -> Bytes:
    """values [n * 256] -> [n, 210]."""
    x = np.ascontiguousarray(values.reshape(-1, 16).T)  # [16, sub-blocks]
    scales = _symmetric_search(x, np.linspace(-0.9, 0.9, 19)).reshape(-1, 16)
    most = np.take_along_axis(scales, np.abs(scales).argmax(axis=1, keepdims=True), axis=1)  # [n, 1], signed
    d = (most / -128).astype(np.float16)
    steps = np.rint(scales * _inverse(d.astype(np.float32))).clip(-128, 127).astype(np.int8)
    step = (d.astype(np.float32) * steps).reshape(-1)
    codes = (np.rint(x * _inverse(step)).clip(-32, 31) + 32).astype(np.uint8).T.reshape(-1, 2, 4, 32)
    low, high = codes & 15, codes >> 4
    ql = np.concatenate([low[:, :, :2] | low[:, :, 2:] << 4], axis=2).reshape(-1, 128)
    qh = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(-1, 64)
    return np.concatenate([ql, qh, steps.view(np.uint8), d.view(np.uint8)], axis=1)


def _affine_blocks(values: Floats, *, top: int, trials: npt.NDArray[np.float64]) -> tuple[Bytes, Bytes]:
    """d, dmin and the packed 6-bit scales, [n, 16]; the codes, [n, 8, 32]."""
    x = np.ascontiguousarray(values.reshape(-1, 32).T)  # [32, sub-blocks]
    scale, least = (found.reshape(-1, 8) for found in _affine_search(x, top, trials))
    d, dmin = ((part.max(axis=1, keepdims=True) / 63).astype(np.float16) for part in (scale, least))
    wide_d, wide_dmin = d.astype(np.float32), dmin.astype(np.float32)
    scales = np.rint(scale * _inverse(wide_d)).clip(0, 63).astype(np.uint8)
    mins = np.rint(least * _inverse(wide_dmin)).clip(0, 63).astype(np.uint8)
    step, offset = (wide_d * scales).reshape(-1), (wide_dmin * mins).reshape(-1)
    codes = np.rint((x + offset) * _inverse(step)).clip(0, top).astype(np.uint8)
    packed = [
        scales[:, :4] | (scales[:, 4:] >> 4) << 6,
        mins[:, :4] | (mins[:, 4:] >> 4) << 6,
        (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4,
    ]
    head = np.concatenate([d.view(np.uint8), dmin.view(np.uint8), *packed], axis=1)
    return head, np.ascontiguousarray(codes.T).reshape(-1, 8, 32)


def _affine_search(x: Floats, top: int, trials: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
    """(scale, least), each [sub-blocks] and 0 or more, so that x is about scale * code - least, code 0 .. top."""
    weight = np.abs(x) + np.sqrt(np.mean(x * x, axis=0))
    low = np.minimum(x.min(axis=0), 0)
    span = x.max(axis=0) - low
    above = x - low  # codes begin at the smallest value
    weighted = weight * x
    s_w, s_x, s_xx = weight.sum(axis=0), weighted.sum(axis=0), (weighted * x).sum(axis=0)
    best = np.full_like(span, np.inf)
    best_scale, best_offset = np.zeros_like(span), np.zeros_like(span)
    code, product = np.empty_like(x), np.empty_like(x)
    for trial in trials.astype(np.float32):
        np.multiply(above, (top + trial) * _inverse(span), out=code)
        np.rint(code, out=code)
        np.minimum(code, top, out=code)
        s_cx = np.multiply(weighted, code, out=product).sum(axis=0)
        s_c = np.multiply(weight, code, out=product).sum(axis=0)
        s_cc = np.multiply(product, code, out=product).sum(axis=0)
        scale, offset = _line(s_w, s_c, s_cc, s_x, s_cx)
        error = s_xx - scale * s_cx - offset * s_x
        better = error < best
        best = np.where(better, error, best)
        best_scale = np.where(better, scale, best_scale)
        best_offset = np.where(better, offset, best_offset)
    return best_scale, -best_offset


def _line(s_w: Floats, s_c: Floats, s_cc: Floats, s_x: Floats, s_cx: Floats) -> tuple[Floats, Floats]:
    """The weighted least-squares line x = scale * code + offset; offset is at most 0, scale at least.

    Where all codes are the same, many lines fit: the one through zero, or for code 0 the offset alone.
    """
    spread = s_w * s_cc - s_c * s_c
    spread = np.where(spread > 1e-5 * s_w * s_cc, spread, 0)
    scale = (s_w * s_cx - s_x * s_c) * _inverse(spread)
    offset = (s_cc * s_x - s_c * s_cx) * _inverse(spread)
    through_zero = (offset > 0) | ((spread == 0) & (s_cx > 0))
    scale = np.where(through_zero, s_cx * _inverse(s_cc), scale)
    offset = np.where(through_zero, 0, np.where(s_cc == 0, s_x * _inverse(s_w), offset))
    return np.maximum(scale, 0), np.minimum(offset, 0)


def _symmetric_search(x: Floats, trials: npt.NDArray[np.float64]) -> Floats:
    """scale [sub-blocks], of either sign, so that x is about scale * code, code -32 .. 31; weights x^2."""
    most: Floats = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]  # signed: it gets code -32
    weight = x * x
    weighted = weight * x
    best, best_scale = np.zeros_like(most), np.zeros_like(most)
    code, product = np.empty_like(x), np.empty_like(x)
    for trial in trials.astype(np.float32):
        np.multiply(x, -(32 + trial) * _inverse(most), out=code)
        np.rint(code, out=code)
        np.clip(code, -32, 31, out=code)
        s_cx = np.multiply(weighted, code, out=product).sum(axis=0)
        np.multiply(weight, code, out=product)
        s_cc = np.multiply(product, code, out=product).sum(axis=0)
        scale = s_cx * _inverse(s_cc)
        gain = scale * s_cx  # what the fit takes away from the weighted error
        better = gain > best
        best = np.where(better, gain, best)
        np.copyto(best_scale, scale, where=better)
    return best_scale


def _inverse(x: Floats) -> Floats:
    """1 / x; 0 where x is 0, or so small that its inverse has no float32."""
    inverse = np.zeros_like(x)
    np.divide(np.float32(1), x, out=inverse, where=np.abs(x) > _TINY)
    return inverse
