"""The plan: its text, its encoding as `sl_op`, and every contradiction `verify` names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from native import plan as p
from native.errors import PlanError
from native.ops import shortest
from native.plan import Op, Plan, PlanBuilder
from tests.peers.tiny_plan import OP_LAYOUT, ops_of

HEADER = Path(__file__).parents[2] / "native" / "include" / "sealift.h"

SHAPES = {
    "token_embd.weight": (11, 8),
    "norm": (1, 8),
    "q": (16, 8),
    "q.bias": (1, 16),
    "q_norm": (1, 4),
    "k": (8, 8),
    "v": (8, 8),
    "o": (8, 16),
    "factors": (1, 2),
    "gate": (12, 8),
    "up": (12, 8),
    "down": (8, 12),
}
TEXT = """\
%0 = embed token_embd.weight scale=2.828427
%1 = rms_norm %0 norm group=8 eps=1e-06
%2 = linear %1 q q.bias
%3 = linear %1 k
%4 = linear %1 v
%5 = rms_norm %2 q_norm group=4 eps=1e-06
%6 = rope %5 factors head_dim=4 dims=4 pairing=halves base=10000 scale=0.125
%7 = rope %3 head_dim=4 dims=4 pairing=adjacent base=10000 scale=1
%8 = attend %6 %7 %4 layer=0 heads=4 kv_heads=2 head_dim=4 window=16 scale=0.5 softcap=50
%9 = linear %8 o
%10 = add %0 %9
%11 = linear %10 gate
%12 = linear %10 up
%13 = glu %11 %12 act=gelu
%14 = linear %13 down
%15 = add %10 %14
%16 = pick %15
%17 = linear %16 token_embd.weight
%18 = softcap %17 cap=30
"""


def one_layer() -> Plan:
    """One op of every kind at least once."""
    b = PlanBuilder()
    x = b.embed("token_embd.weight", scale=8**0.5)
    h = b.rms_norm(x, "norm", group=8, eps=1e-6)
    q, k, v = b.linear(h, "q", "q.bias"), b.linear(h, "k"), b.linear(h, "v")
    q = b.rms_norm(q, "q_norm", group=4, eps=1e-6)
    q = b.rope(q, head_dim=4, dims=4, pairing="halves", base=1e4, scale=0.125, factors="factors")
    k = b.rope(k, head_dim=4, dims=4, pairing="adjacent", base=1e4)
    a = b.attend(q, k, v, layer=0, heads=4, kv_heads=2, head_dim=4, window=16, scale=0.5, softcap=50.0)
    x = b.add(x, b.linear(a, "o"))
    g = b.glu(b.linear(x, "gate"), b.linear(x, "up"), act="gelu")
    x = b.add(x, b.linear(g, "down"))
    b.softcap(b.linear(b.pick(x), "token_embd.weight"), 30.0)
    return b.build()


def changed(place: int, **fields: object) -> Plan:
    plan = one_layer()
    ops = list(plan.ops)
    ops[place] = dataclasses.replace(ops[place], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(plan, ops=tuple(ops))


def test_text_is_the_golden_one() -> None:
    assert one_layer().text() == TEXT


def test_widths_are_inferred() -> None:
    widths = one_layer().verify(SHAPES)
    expected = [8, 8, 16, 8, 8, 16, 16, 8, 16, 8, 8, 12, 12, 12, 8, 8, 8, 11, 11]
    assert [widths[slot] for slot in range(19)] == expected


def test_tensors_are_named_once_in_order_of_use() -> None:
    plan = one_layer()
    assert set(plan.tensors) == set(SHAPES)
    assert len(plan.tensors) == len(SHAPES)
    assert plan.tensors[:2] == ("token_embd.weight", "norm")
    assert plan.layers == 1


WRONG: dict[str, tuple[int, dict[str, object], str]] = {
    "read too early": (1, {"x": 5}, r"op 1 \(%1 = rms_norm %5 .*: %5 is read before it is written"),
    "written twice": (3, {"out": 2}, r"op 3 .*: slot %2 is written twice"),
    "norm group": (1, {"group": 3}, "op 1 .*: group 3 does not divide the width 8"),
    "norm weight": (1, {"group": 4}, r"op 1 .*: norm is \[1, 8\], expected \[1, 4\]"),
    "norm eps": (1, {"eps": 0.0}, "op 1 .*: eps is 0.0, expected more than 0"),
    "norm eps nan": (1, {"eps": float("nan")}, "op 1 .*: eps is nan, expected a finite number"),
    "linear width": (9, {"x": 0}, r"op 9 .*: o is \[8, 16\], expected \[\*, 8\] \(width of %0\)"),
    "bias": (2, {"bias": "norm"}, r"op 2 .*: norm is \[1, 8\], expected \[1, 16\] \(rows of q\)"),
    "unknown tensor": (2, {"weight": "qq"}, "op 2 .*: qq is not among the plan's tensors"),
    "rope head": (6, {"head_dim": 5}, "op 6 .*: head_dim 5 does not divide the width 16"),
    "rope dims odd": (6, {"dims": 3}, "op 6 .*: dims 3 is not an even number"),
    "rope dims": (6, {"dims": 6}, "op 6 .*: dims 6 is not an even number of values of a head of 4"),
    "rope factors": (6, {"dims": 2}, r"op 6 .*: factors is \[1, 2\], expected \[1, 1\]"),
    "rope pairing": (6, {"pairing": "odd"}, "op 6 .*: pairing is neither"),
    "rope base": (6, {"base": -1.0}, "op 6 .*: base is -1.0"),
    "kv heads": (8, {"kv_heads": 3}, "op 8 .*: kv_heads 3 does not divide"),
    "heads": (8, {"heads": 2}, r"op 8 .*: %6 is 16 wide, expected 8 \(heads \* head_dim\)"),
    "values": (8, {"v": 6}, r"op 8 .*: %6 is 16 wide, expected 8 \(kv_heads \* head_dim\)"),
    "window": (8, {"window": -1}, "op 8 .*: window is -1, expected 0"),
    "score scale": (8, {"scale": 0.0}, "op 8 .*: scale is 0.0"),
    "score cap": (8, {"softcap": -2.0}, "op 8 .*: softcap is -2.0"),
    "cache layer": (8, {"layer": 1}, r"cache layers are \[1\], expected 0, 1"),
    "glu": (13, {"up": 10}, "op 13 .*: %11 is 12 wide, %10 is 8"),
    "act": (13, {"act": "relu"}, "op 13 .*: act is none of"),
    "add": (15, {"b": 12}, "op 15 .*: %10 is 8 wide, %12 is 12"),
    "mixed rows": (18, {"x": 15}, "op 18 .*: the logits are not picked"),
    "picked twice": (16, {"x": 17}, "op 16 .*: %17 is read before"),
}


@pytest.mark.parametrize("name", WRONG)
def test_contradiction_is_named(name: str) -> None:
    place, fields, words = WRONG[name]
    with pytest.raises(PlanError, match=words):
        changed(place, **fields).verify(SHAPES)


def test_rows_of_batch_and_of_outputs_do_not_mix() -> None:
    b = PlanBuilder()
    x = b.embed("e")
    b.add(b.pick(x), x)
    with pytest.raises(PlanError, match=r"op 2 \(%2 = add %1 %0\): mixes batch rows with output rows"):
        b.build().verify({"e": (3, 4)})
    b = PlanBuilder()
    b.pick(b.pick(b.embed("e")))
    with pytest.raises(PlanError, match="pick needs batch rows, found output rows"):
        b.build().verify({"e": (3, 4)})


def test_tensors_must_match_ops() -> None:
    plan = one_layer()
    with pytest.raises(PlanError, match="tensor spare is in the plan and no op reads it"):
        dataclasses.replace(plan, tensors=(*plan.tensors, "spare")).verify(SHAPES)
    with pytest.raises(PlanError, match="names a tensor twice"):
        dataclasses.replace(plan, tensors=(*plan.tensors, "norm")).verify(SHAPES)
    with pytest.raises(PlanError, match="down is not bound to a tensor"):
        plan.verify({name: shape for name, shape in SHAPES.items() if name != "down"})
    with pytest.raises(PlanError, match="no ops"):
        Plan(ops=(), tensors=()).verify({})


def test_layout_is_that_of_the_header() -> None:
    body = re.search(r"typedef struct sl_op \{(.*?)\} sl_op;", HEADER.read_text(), re.S)
    assert body is not None
    declared = re.sub(r"/\*.*?\*/", "", body[1])
    names = re.findall(r"(\w+)(?:\[(\d)\])?[,;]", declared)
    assert [(name, int(count or 1)) for name, count in names] == [
        (name, int(np.prod(OP_LAYOUT[name].shape, initial=1))) for name in OP_LAYOUT.names or ()
    ]
    assert OP_LAYOUT.itemsize == 56


def test_codes_are_those_of_the_header() -> None:
    codes = dict(re.findall(r"SL_([A-Z_]+) = (\d+),? */\*", HEADER.read_text()))
    assert {kind.NAME.upper(): str(kind.CODE) for kind in p.KINDS} == {
        name: code for name, code in codes.items() if name.lower() in {kind.NAME for kind in p.KINDS}
    }
    assert len(p.KINDS) == 15


def test_encoding_of_what_encoders_need() -> None:
    b = p.PlanBuilder()
    x = b.shift(b.add(b.embed("e"), b.place("places")), "types")
    x = b.layer_norm(x, "w", "b", eps=1e-12)
    x = b.activate(b.attend_all(x, x, x, heads=4, kv_heads=2, head_dim=8, scale=0.5), act="gelu_erf")
    b.pool(x, how="first")
    plan = b.build()
    rows = [(*(int(op[name]) for name in ("kind", "out", "a", "b", "c", "weight", "bias")), *op["i"].tolist()[:3],
             float(op["f"][0])) for op in ops_of(plan)]  # fmt: skip
    eps = float(np.float32(1e-12))
    assert plan.tensors == ("e", "places", "types", "w", "b") and plan.whole and plan.layers == 0
    assert rows[1] == (12, 1, -1, -1, -1, 1, -1, 0, 0, 0, 0.0)
    assert rows[3] == (13, 3, 2, -1, -1, 2, -1, 0, 0, 0, 0.0)
    assert rows[4] == (10, 4, 3, -1, -1, 3, 4, 0, 0, 0, eps)
    assert rows[5] == (14, 5, 4, 4, 4, -1, -1, 4, 2, 8, 0.5)
    assert rows[6] == (11, 6, 5, -1, -1, -1, -1, 2, 0, 0, 0.0)
    assert rows[7] == (15, 7, 6, -1, -1, -1, -1, 1, 0, 0, 0.0)


def test_encoding_holds_every_field() -> None:
    encoded = ops_of(one_layer())
    fields = ("kind", "out", "a", "b", "c", "weight", "bias")

    def row(place: int) -> tuple[list[int], list[int], list[float]]:
        op = encoded[place]
        return [int(op[name]) for name in fields], op["i"].tolist(), op["f"].tolist()

    scale, eps = float(np.float32(8**0.5)), float(np.float32(1e-6))
    assert row(0) == ([1, 0, -1, -1, -1, 0, -1], [0] * 5, [scale, 0.0])
    assert row(1) == ([2, 1, 0, -1, -1, 1, -1], [8, 0, 0, 0, 0], [eps, 0.0])
    assert row(2) == ([3, 2, 1, -1, -1, 2, 3], [0] * 5, [0.0, 0.0])
    assert row(6) == ([4, 6, 5, -1, -1, 7, -1], [4, 4, 1, 0, 0], [10000.0, 0.125])
    assert row(7) == ([4, 7, 3, -1, -1, -1, -1], [4, 4, 0, 0, 0], [10000.0, 1.0])
    assert row(8) == ([5, 8, 6, 7, 4, -1, -1], [0, 4, 2, 4, 16], [0.5, 50.0])
    assert row(13) == ([6, 13, 11, 12, -1, -1, -1], [1, 0, 0, 0, 0], [0.0, 0.0])
    assert row(16) == ([9, 16, 15, -1, -1, -1, -1], [0] * 5, [0.0, 0.0])
    assert row(18) == ([8, 18, 17, -1, -1, -1, -1], [0] * 5, [30.0, 0.0])


def test_ops_are_immutable_and_hold_float32() -> None:
    op: Op = one_layer().ops[1]
    with pytest.raises(AttributeError):
        op.out = 3  # type: ignore[misc]
    assert isinstance(op, p.RmsNorm)
    assert op.eps == float(np.float32(1e-6)) != 1e-6


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-6, "1e-06"), (1e6, "1e+06"), (0.1, "0.1"), (1 / 3, "0.33333334"), (2**24 + 2, "16777218"), (1.0, "1")],
)
def test_numbers_are_printed_with_few_digits(value: float, text: str) -> None:
    assert shortest(float(np.float32(value))) == text
    assert np.float32(float(text)) == np.float32(value)
