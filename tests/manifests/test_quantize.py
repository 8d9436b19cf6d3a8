"""Quantizing: the bytes are ggml's layouts, as close to the values as llama.cpp's own, in its own mixtures."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from manifests.errors import CreateError, NoSpace
from manifests.gguf import Gguf, TensorInfo
from manifests.gguf_types import TensorType
from manifests.quantize import blocks
from manifests.quantize.recipe import TARGETS, recipe, target
from manifests.quantize.run import quantize
from manifests.store import Store
from tests.peers.model_maker import Size, make_model, values

Floats = npt.NDArray[np.float32]

# Root mean square errors of llama.cpp's own quantizer (ggml as in llama-cpp-python 0.3.36, no importance matrix) on
# `drawn`: what is lost is a fact of the format and of the search for scales, and ours must not lose more than 2 % more.
PEER: dict[str, dict[str, float]] = {
    "normal": {
        "Q4_K": 0.071293,
        "Q5_K": 0.036121,
        "Q6_K": 0.017724,
        "Q8_0": 0.0053639,
        "Q4_0": 0.085996,
        "Q4_1": 0.078035,
        "Q5_0": 0.042601,
        "Q5_1": 0.037758,
    },
    "heavy": {
        "Q4_K": 0.0024738,
        "Q5_K": 0.0012541,
        "Q6_K": 0.00065345,
        "Q8_0": 0.00020945,
        "Q4_0": 0.0033562,
        "Q4_1": 0.0026642,
        "Q5_0": 0.0016642,
        "Q5_1": 0.0012919,
    },
    "shifted": {
        "Q4_K": 0.071074,
        "Q5_K": 0.035714,
        "Q6_K": 0.026741,
        "Q8_0": 0.0080253,
        "Q4_0": 0.12741,
        "Q4_1": 0.078034,
        "Q5_0": 0.063782,
        "Q5_1": 0.037754,
    },
}


def drawn(kind: str) -> Floats:
    rng = np.random.default_rng(7)
    shape = (64, 1024)
    if kind == "heavy":
        return (rng.standard_t(4, shape) * 0.02).astype(np.float32)
    return (rng.standard_normal(shape) + (1.5 if kind == "shifted" else 0.0)).astype(np.float32)


def back(raw: npt.NDArray[np.uint8], kind: TensorType, rows: int) -> Floats:
    """By the peer."""
    found: Floats = gguf.quants.dequantize(raw.reshape(rows, -1), gguf.GGMLQuantizationType(int(kind)))
    return found


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("what", PEER)
def test_errors_are_no_larger_than_the_peers(what: str, name: str) -> None:
    x, kind = drawn(what), TensorType[name]
    found = back(blocks.encode(x, kind, "x"), kind, len(x))
    assert np.sqrt(np.mean((x.astype(np.float64) - found) ** 2)) <= 1.02 * PEER[what][name]


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e-8, 1e-30, -1e-38, 6e4, -6e4], ids=lambda value: f"{value:g}")
def test_blocks_of_one_value(name: str, value: float) -> None:
    """Exact to the step of a float16 scale, to zero where the scale has none."""
    x, kind = np.full((2, 256), value, np.float32), TensorType[name]
    found = back(blocks.encode(x, kind, "x"), kind, 2)
    assert np.abs(found - x).max() <= max(2e-3 * abs(value), 1e-6)


@pytest.mark.parametrize(("name", "top"), [("Q4_K", 15), ("Q5_K", 31)])
def test_codes_that_are_exact_stay_so(name: str, top: int) -> None:
    """Values that a format can hold come back as they were, but for the rounding of a float16 scale (2^-11)."""
    x = np.resize(np.arange(top + 1, dtype=np.float32), 512).reshape(2, 256) * np.float32(0.5)
    found = back(blocks.encode(x, TensorType[name], "x"), TensorType[name], 2)
    np.testing.assert_allclose(found, x, rtol=1e-3)


def test_values_that_are_no_numbers_are_refused_by_name() -> None:
    for bad in (np.nan, np.inf):
        x = np.zeros((1, 256), np.float32)
        x[0, 7] = bad
        with pytest.raises(CreateError, match=r"tensor blk\.0"):
            blocks.encode(x, TensorType.Q4_K, "blk.0.ffn_up.weight")
    with pytest.raises(CreateError, match="finite number of F16"):
        blocks.encode(np.full((1, 32), 1e5, np.float32), TensorType.F16, "x")


def test_what_one_thread_takes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn("heavy")
    whole = blocks.encode(x, TensorType.Q4_K, "x")
    monkeypatch.setattr(blocks, "PIECE", 1024)
    np.testing.assert_array_equal(blocks.encode(x, TensorType.Q4_K, "x"), whole)
    monkeypatch.setattr(blocks, "SLICE", 5000)
    raw = memoryview(x.tobytes())
    parts = list(blocks.recode(raw, TensorType.F32, TensorType.Q4_K, 1024, "x"))
    assert len(parts) > 5 and b"".join(parts) == whole.tobytes()


# -- which tensor gets what


def tensors(layers: int, *, tied: bool = False, cols: int = 512) -> dict[str, TensorInfo]:
    names = ["token_embd.weight", "output_norm.weight"] + ([] if tied else ["output.weight"])
    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names += [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    return {
        name: TensorInfo(
            name=name, shape=(cols,) if "norm" in name else (cols, 32), type=TensorType.F16, offset=0, size=0
        )
        for name in names
    }


@pytest.mark.parametrize(
    ("name", "better", "value_layers", "down_layers"),
    [
        # as llama_model_quantize chose for a llama of 16 layers
        ("Q4_K_M", "Q6_K", {0, 1, 4, 7, 10, 13, 14, 15}, {0, 1, 4, 7, 10, 13, 14, 15}),
        ("Q5_K_M", "Q6_K", {0, 1, 4, 7, 10, 13, 14, 15}, {0, 1, 4, 7, 10, 13, 14, 15}),
        ("Q4_K_S", "Q5_K", {0, 1, 2, 3}, {0, 1}),
        ("Q5_K_S", "", set(), set()),
        ("Q4_0", "", set(), set()),
    ],
)
def test_mixtures(name: str, better: str, value_layers: set[int], down_layers: set[int]) -> None:
    every = tensors(16)
    chosen = recipe(name, every)
    got = {tensor: chosen.choose(info).name for tensor, info in every.items()}
    base = TARGETS[name].name
    assert got["output.weight"] == "Q6_K" and got["token_embd.weight"] == base
    assert got["blk.3.attn_norm.weight"] == "F16"  # norms stay as they are
    for layer in range(16):
        assert got[f"blk.{layer}.attn_v.weight"] == (better if layer in value_layers else base)
        assert got[f"blk.{layer}.ffn_down.weight"] == (better if layer in down_layers else base)
        assert got[f"blk.{layer}.attn_q.weight"] == base


@pytest.mark.parametrize(
    ("name", "cols", "expected"),
    [
        ("Q4_K_M", 576, "Q5_0"), ("Q5_K_M", 576, "Q5_1"), ("Q6_K", 576, "Q8_0"), ("Q4_K_M", 100, "F16"),
        ("Q8_0", 100, "F16"), ("Q4_0", 100, "F16"), ("F32", 100, "F32"),
    ],
)  # fmt: skip
def test_odd_widths_fall_back(name: str, cols: int, expected: str) -> None:
    every = tensors(4, cols=cols)
    assert recipe(name, every).choose(every["blk.2.attn_q.weight"]).name == expected


def test_a_tied_embedding_is_the_output() -> None:
    every = tensors(4, tied=True)
    assert recipe("Q4_K_S", every).choose(every["token_embd.weight"]) is TensorType.Q6_K
    assert recipe("Q8_0", every).choose(every["token_embd.weight"]) is TensorType.Q8_0


def test_names_of_formats() -> None:
    assert [target(text) for text in ("q4_K_M", "q4_k", "Q5_K", "bf16")] == ["Q4_K_M", "Q4_K_M", "Q5_K_M", "BF16"]
    for text in ("q3_K_M", "iq4_xs", "", "Q2_K"):
        with pytest.raises(CreateError, match=f"unsupported quantization type {text} - supported types are F32, F16"):
            target(text)


# -- whole files


@pytest.mark.parametrize(("name", "source"), [*((name, "F32") for name in TARGETS), ("Q4_K_M", "BF16"), ("F32", "F16")])
def test_a_file(name: str, source: str, tmp_path: Path) -> None:
    size = Size(width=256, heads=4, kv_heads=2, head_dim=64, ff=512)
    model = Gguf.open(make_model(tmp_path / "m.gguf", quant=source, size=size, tied=False))
    steps: list[int] = []
    store = Store(tmp_path / "store")
    made = Gguf.open(store.blob_path(quantize(store, model, name, steps.append)))
    assert made.file_type == (name if name != "F32" else "unknown")
    kept = {key: value for key, value in made.metadata.items() if not key.startswith(("general.file", "general.quant"))}
    assert kept == {key: value for key, value in model.metadata.items() if key != "general.file_type"}
    assert {key: made.kinds[key] for key in kept} == {key: model.kinds[key] for key in kept}
    assert list(made.tensors) == list(model.tensors) and sum(steps) == sum(info.size for info in made.tensors.values())
    before, after = values(model), values(made)
    worst = {"F32": 0.0, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.01}.get(name, 0.12)
    for tensor, info in made.tensors.items():
        if len(info.shape) == 1:
            assert made.data(tensor) == model.data(tensor)
        else:
            assert np.sqrt(np.mean((before[tensor] - after[tensor]) ** 2)) <= worst * np.std(before[tensor]) + 1e-9


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    model = Gguf.open(make_model(tmp_path / "m.gguf"))
    one, two = (quantize(Store(tmp_path / name), model, "Q4_K_M") for name in "ab")
    assert one == two


def test_what_is_quantized_already_is_refused(tmp_path: Path) -> None:
    model = Gguf.open(make_model(tmp_path / "m.gguf", quant="Q8_0"))
    with pytest.raises(CreateError, match="quantization is only supported for F16, BF16 and F32 models"):
        quantize(Store(tmp_path / "store"), model, "Q4_0")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gguf.open(make_model(tmp_path / "m.gguf"))
    store = Store(tmp_path / "store")
    monkeypatch.setattr("manifests.store.RESERVE", 1 << 60)
    with pytest.raises(NoSpace, match="kept free"):
        quantize(store, model, "Q4_0")
    assert not any(path.is_file() for path in store.root.rglob("*"))
