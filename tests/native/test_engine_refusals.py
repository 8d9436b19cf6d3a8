"""What the engine refuses, each by its own sentence, and that a refused call changes nothing. The C side is asked
directly: plans, tensors and batches reach it as bytes that nobody has checked."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from native.engine import Batch, Engine, Sampling
from native.errors import InputError, LibraryError, MemoryShortError, NativeError, PlanError, UnsupportedError
from native.library import ISAS, SlConfig, SlTensor, check, compare, library
from native.ops import Embed
from tests.peers.tiny_plan import VOCAB, Shape, Tiny, alone, ops_of, tiny

MODEL = tiny(Shape(bias=True))
OPS = ops_of(MODEL.plan)
ROPE, ATTEND = (int(np.flatnonzero(OPS["kind"] == kind)[0]) for kind in (4, 5))
LINEAR, GLU, PICK = (int(np.flatnonzero(OPS["kind"] == kind)[0]) for kind in (3, 6, 9))
CONFIG = dict(threads=1, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16, isa=0, kv_type=1)


def given_tensors(model: Tiny) -> list[SlTensor]:
    made = []
    for name in model.plan.tensors:
        weight = model.weights[name]
        view = np.frombuffer(weight.buffer, np.uint8)
        made.append(SlTensor(view.ctypes.data, view.nbytes, weight.rows, weight.cols, weight.type, 0))
    return made


def create(ops: Any, tensors: list[SlTensor], config: dict[str, int]) -> None:
    array = (SlTensor * max(1, len(tensors)))(*tensors)
    handle = ctypes.c_void_p()
    status = library().sl_create(
        ops.ctypes.data, len(ops), array, len(tensors), ctypes.byref(SlConfig(**config)), ctypes.byref(handle)
    )
    if handle:
        library().sl_free(handle)
    check(status)


def test_the_plan_as_it_is_is_taken() -> None:
    create(OPS, given_tensors(MODEL), CONFIG)


PLANS: list[tuple[int, str, Any, str]] = [
    (3, "kind", 0, "kind 0 is not in the vocabulary"),
    (3, "kind", 16, "kind 16 is not in the vocabulary"),
    (3, "kind", -(2**31), "is not in the vocabulary"),
    (3, "a", -1, "read before it is written"),
    (3, "a", 40, "read before it is written"),
    (3, "a", 2**31 - 1, "read before it is written"),
    (3, "out", 0, "written twice"),
    (3, "out", -5, "out of range"),
    (3, "out", 1 << 30, "out of range"),
    (1, "b", 0, "is unused and must be -1"),
    (0, "weight", -1, "tensor -1 does not exist"),
    (0, "weight", 10_000, "does not exist"),
    (0, "bias", 1, "takes no bias"),
    (0, "f", (np.nan, 0), "expected a finite number above 0"),
    (0, "f", (np.inf, 0), "expected a finite number above 0"),
    (0, "f", (1, 1), r"f\[1\] is unused"),
    (0, "i", (1, 0, 0, 0, 0), r"i\[0\] is unused"),
    (1, "i", (63, 0, 0, 0, 0), "group 63 does not divide the width 64"),
    (1, "i", (0, 0, 0, 0, 0), "group 0 does not divide"),
    (1, "i", (32, 0, 0, 0, 0), r"is \[1, 64\], expected \[1, 32\] \(group\)"),
    (1, "f", (-1e-5, 0), "expected a finite number above 0"),
    (LINEAR, "weight", 0, "read by no op|columns|rows of the weight"),
    (LINEAR, "bias", 1, "rows of the weight"),
    (ROPE, "i", (33, 32, 1, 0, 0), "head width 33 does not divide"),
    (ROPE, "i", (32, 31, 1, 0, 0), "expected an even number up to the head width"),
    (ROPE, "i", (32, 34, 1, 0, 0), "expected an even number up to the head width"),
    (ROPE, "i", (32, 32, 2, 0, 0), "neither adjacent"),
    (ROPE, "weight", 1, r"expected \[1, 16\]"),
    (ATTEND, "i", (1, 4, 2, 32, 0), r"cache layer 1, expected 0"),
    (ATTEND, "i", (-1, 4, 2, 32, 0), "cache layer -1, expected 0"),
    (ATTEND, "i", (0, 4, 3, 32, 0), "must divide the first"),
    (ATTEND, "i", (0, 4, 0, 32, 0), "must divide the first"),
    (ATTEND, "i", (0, 2**31 - 1, 1, 32, 0), "at most 1024"),
    (ATTEND, "i", (0, 2, 2, 32, 0), "queries are 128 wide, expected 64"),
    (ATTEND, "i", (0, 4, 4, 32, 0), "keys or values are 64 wide, expected 128"),
    (ATTEND, "i", (0, 4, 2, 2**30, 0), "head width"),
    (ATTEND, "i", (0, 4, 2, 32, -1), "window -1 is negative"),
    (ATTEND, "f", (0.1, -1), "expected a finite number above 0"),
    (GLU, "i", (3, 0, 0, 0, 0), "none of silu"),
    (GLU, "a", 0, "is 64 wide, slot"),
    (PICK, "kind", 7, "read before it is written"),
    (len(OPS) - 1, "a", 0, "logits are not picked"),
    (PICK + 1, "a", 0, "logits are not picked"),
]


@pytest.mark.parametrize(("place", "name", "value", "sentence"), PLANS)
def test_a_hostile_plan(place: int, name: str, value: Any, sentence: str) -> None:
    ops = OPS.copy()
    ops[name][place] = value
    with pytest.raises(InputError, match=sentence):
        create(ops, given_tensors(MODEL), CONFIG)


def test_plans_that_end_badly() -> None:
    tensors = given_tensors(MODEL)
    with pytest.raises(InputError, match="1 to 65536 ops, found 0"):
        create(OPS[:0], tensors, CONFIG)
    with pytest.raises(InputError, match="not picked"):
        create(OPS[:4], tensors, CONFIG)
    with pytest.raises(InputError, match=r"tensor \d+ is read by no op"):
        create(OPS, [*tensors, tensors[0]], CONFIG)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    """A few fields of the op array are replaced by numbers of every size. Whatever is accepted must also run."""
    rng = np.random.default_rng(seed)
    numbers = [-(2**31), -2, -1, 0, 1, 2, 3, 5, 16, 32, 64, 128, 1 << 16, 1 << 20, 2**31 - 1]
    for _ in range(20):
        ops = OPS.copy()
        flat = ops.view(np.int32).reshape(len(ops), -1)
        for _ in range(int(rng.integers(1, 3))):
            flat[rng.integers(len(ops)), rng.integers(flat.shape[1])] = rng.choice(numbers)
        try:
            create(ops, given_tensors(MODEL), CONFIG)
        except NativeError as error:
            assert type(error) in (InputError, MemoryShortError) and str(error)


TENSORS: list[tuple[dict[str, Any], str]] = [
    (dict(size=1), "has 1 bytes, its type and shape need"),
    (dict(rows=0), r"is \[0, 64\]"),
    (dict(rows=-1), r"is \[-1, 64\]"),
    (dict(rows=2**62), "expected 1 to"),
    (dict(cols=2**62), "expected 1 to"),
    (dict(cols=63), "63"),
    (dict(data=None), "has no data"),
    (dict(packed=1), "panels where GGUF's own bytes"),  # it is looked up, not multiplied with
]


@pytest.mark.parametrize(("change", "sentence"), TENSORS)
def test_a_hostile_tensor(change: dict[str, Any], sentence: str) -> None:
    tensors = given_tensors(MODEL)
    for name, value in change.items():
        setattr(tensors[0], name, value)
    with pytest.raises(InputError, match=sentence):
        create(OPS, tensors, CONFIG)


def test_an_unknown_type_is_unsupported() -> None:
    tensors = given_tensors(MODEL)
    tensors[0].type = 99
    with pytest.raises(UnsupportedError, match="99"):
        create(OPS, tensors, CONFIG)


@pytest.mark.parametrize("name", ["threads", "n_blocks", "max_rows", "max_seqs", "max_outputs"])
@pytest.mark.parametrize("value", [0, -1, 2**31 - 1])
def test_a_hostile_config(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"config {name} is {value}, expected 1 to"):
        create(OPS, given_tensors(MODEL), {**CONFIG, name: value})


@pytest.mark.parametrize("isa", [-1, max(ISAS.values()) + 1, 2**31 - 1])
def test_an_unknown_instruction_set(isa: int) -> None:
    with pytest.raises(UnsupportedError, match="instruction set"):
        create(OPS, given_tensors(MODEL), {**CONFIG, "isa": isa})


GOOD = Batch(
    tokens=[1, 2, 3, 4, 5],
    row_start=[0, 2, 5],
    start_pos=[0, 31],
    blocks=np.array([[0, -1], [1, 2]]),
    out_rows=[1, 4],
    sampling=[Sampling(), Sampling()],
)
BATCHES: list[tuple[dict[str, Any], str]] = [
    (dict(tokens=[1, 2, -1, 4, 5]), "batch row 2: token -1 is not in the vocabulary of 96"),
    (dict(tokens=[1, 2, 3, 4, VOCAB]), "batch row 4: token 96"),
    (dict(tokens=[]), "n_rows is 0"),
    (dict(tokens=[1] * 65, row_start=[0, 2, 65]), "n_rows is 65, expected 1 to 64"),
    (dict(row_start=[0, 2, 4]), "row_start goes from 0 to 4, expected 0 to n_rows = 5"),
    (dict(row_start=[1, 2, 5]), "row_start goes from 1"),
    (dict(row_start=[0, 0, 5]), "does not ascend at sequence 0"),
    (dict(row_start=[0, 9, 5]), "does not ascend at sequence 1"),
    (dict(row_start=[0, 5]), r"row_start \[2\]"),
    (dict(start_pos=[-1, 31]), "sequence 0 starts at position -1"),
    (dict(start_pos=[0, 62]), "sequence 1 ends at position 65, its table covers 64"),
    (dict(start_pos=[0, 2**31 - 1]), "ends at position"),
    (dict(blocks=np.array([[0, -1], [1, -1]])), "sequence 1: block -1 for positions from 32"),
    (dict(blocks=np.array([[8, -1], [1, 2]])), "sequence 0: block 8 for positions from 0 is not in the pool of 8"),
    (dict(blocks=np.array([[0, -1], [1, 1]])), "sequence 1: block 1 is written twice"),
    (dict(blocks=np.array([[1, -1], [1, 2]])), "sequence 1: block 1 is written twice"),
    (
        dict(start_pos=[0, 32], blocks=np.array([[0, -1], [0, 2]])),
        "sequence 1 reads block 0, which this step writes elsewhere",
    ),
    (dict(blocks=np.array([0, 1])), "expected integers"),
    (dict(blocks=np.zeros((2, 0), np.int32)), "table_width is 0"),
    (dict(out_rows=[1, 5]), r"out_rows\[1\] is 5"),
    (dict(out_rows=[4, 1]), r"out_rows\[1\] is 1, expected ascending"),
    (dict(out_rows=[1, 1]), r"out_rows\[1\] is 1, expected ascending"),
    (dict(out_rows=[-1, 1]), r"out_rows\[0\] is -1"),
    (dict(sampling=[Sampling()]), "2 outputs with 1 samplings"),
    (dict(sampling=[Sampling(), Sampling(top_p=1.5)]), "sampling of output 1: top_p is 1.5"),
    (dict(tokens=[1, 2, 2**40, 4, 5]), "32-bit integers"),
    (dict(tokens=["x", 2, 3, 4, 5]), "expected integers"),
]


@pytest.fixture(scope="module")
def engine() -> Any:
    with Engine(MODEL.plan, MODEL.weights, threads=2, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16) as made:
        yield made


@pytest.mark.parametrize(("change", "sentence"), BATCHES)
def test_a_hostile_batch(engine: Engine, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        engine.step(dataclasses.replace(GOOD, **change))


def test_a_refused_batch_changes_nothing(engine: Engine) -> None:
    """A good step gives the same bits before and after every refusal."""
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB, 12)]
    small = Engine(MODEL.plan, MODEL.weights, threads=1, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16)
    with small:
        alone(small, tokens, chunk=6)
        clean = alone(small, tokens, chunk=6)
        for change, _ in BATCHES:
            with pytest.raises(InputError):
                small.step(dataclasses.replace(GOOD, **change))
        assert alone(small, tokens, chunk=6).tobytes() == clean.tobytes()


def test_too_many_sequences(engine: Engine) -> None:
    batch = Batch(tokens=[1] * 5, row_start=range(6), start_pos=[0] * 5, blocks=np.arange(5)[:, None], out_rows=[])
    with pytest.raises(InputError, match="n_seqs is 5, expected 1 to 4"):
        engine.step(batch)


def test_null_pointers_are_refused() -> None:
    for call in (library().sl_step, library().sl_get_info):
        with pytest.raises(InputError, match="must not be null"):
            check(call(None, None))
    with pytest.raises(InputError, match="must not be null"):
        check(library().sl_create(OPS.ctypes.data, len(OPS), None, 0, None, None))


def test_a_closed_engine() -> None:
    made = Engine(MODEL.plan, MODEL.weights, threads=2, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16)
    made.close()
    made.close()
    with pytest.raises(InputError, match="closed"):
        made.step(GOOD)


def test_a_missing_tensor_and_an_unknown_instruction_set() -> None:
    few = {name: weight for name, weight in MODEL.weights.items() if name != "head"}
    sizes = dict(threads=1, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16)
    with pytest.raises(PlanError, match="head"):
        Engine(MODEL.plan, few, **sizes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'sse9'"):
        Engine(MODEL.plan, MODEL.weights, isa="sse9", **sizes)  # type: ignore[arg-type]


def test_an_unknown_kv_type() -> None:
    sizes = dict(threads=1, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16)
    with pytest.raises(InputError, match=r"kv type 'q4_0'.*f16, q8_0"):
        Engine(MODEL.plan, MODEL.weights, kv_type="q4_0", **sizes)  # type: ignore[arg-type]
    for number in (0, 2, 30, -1):
        with pytest.raises(InputError, match=f"kv_type is {number}, expected 1"):
            create(OPS, given_tensors(MODEL), {**CONFIG, "kv_type": number})


def test_weights_may_change_once_the_engine_is_made_but_for_a_matrix_that_is_only_looked_up() -> None:
    looked_up = next(op.weight for op in MODEL.plan.ops if isinstance(op, Embed))
    own = {name: dataclasses.replace(w, buffer=memoryview(bytearray(w.buffer))) for name, w in MODEL.weights.items()}
    with Engine(MODEL.plan, own, threads=1, n_blocks=8, max_rows=64, max_seqs=4, max_outputs=16) as made:
        expected = alone(made, [1, 2, 3])
        for name, w in own.items():
            if name != looked_up:
                w.buffer[:] = bytes(len(w.buffer))
        assert alone(made, [1, 2, 3]).tobytes() == expected.tobytes()


def test_what_the_engine_says_it_holds(engine: Engine) -> None:
    info = engine.info
    assert (info.vocab, info.layers, info.threads) == (VOCAB, 2, 2)
    assert (
        info.bytes_per_block == 2 * 2 * (32 * 2 * 32) * 2
    )  # layers * (keys and values) * (tokens * heads * width) * halves
    assert info.kv_bytes == 8 * info.bytes_per_block
    before = np.array(engine.op_times())
    engine.step(GOOD)
    spent = engine.op_times() - before
    assert len(spent) == len(MODEL.plan.ops) and (spent >= 0).all() and spent.sum() > 0


def _swapped(layout: str) -> str:
    return layout.replace("sl_batch.tokens 0 8", "sl_batch.tokens 8 8")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_swapped, "sl_batch.tokens"),
        (lambda text: text + "sl_new 0 8\n", "sl_new"),
        (lambda text: text.replace("sl_info.isa", "sl_info.isb"), "sl_info.is"),
    ],
)
def test_a_library_of_another_header_is_noticed(change: Callable[[str], str], name: str) -> None:
    layout = library().sl_layout().decode()
    assert compare(layout) == ""
    assert name in compare(change(layout))


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from native.library import find

    monkeypatch.setenv("SEALIFT_NATIVE_LIBRARY", "/nonexistent/libsealift.so")
    with pytest.raises(LibraryError, match="not there"):
        find()
