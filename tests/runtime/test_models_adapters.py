"""LoRA at load: an adapted plan means what the merged weights mean, keeps the engine's laws and the base's packs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from manifests.errors import GgufError
from manifests.gguf import Gguf
from manifests.lora import pairs
from native import engine as native
from native.engine import BLOCK, Batch, Engine
from native.packing import best_isa
from native.plan import Plan
from native.reference import Reference, reference
from native.weight import Weight
from runtime.engine import packfile
from runtime.engine.link import Load
from runtime.engine.native_runner import open_native
from runtime.models import load
from runtime.models.adapters import adapt
from runtime.source import ModelSource
from tests.peers.adapters import linear_names, make_adapter, merged
from tests.peers.model_maker import ARCHITECTURES, make_model, values
from tests.runtime.test_models import by_name

TOKENS = 40
Floats = npt.NDArray[np.float32]


def adapted(base: Gguf, *adapters: Path) -> tuple[Plan, dict[str, Weight], int]:
    spec, plan, weights = load(base)
    changed, added = adapt(base, spec, plan, weights, [Gguf.open(path) for path in adapters])
    return changed, {**weights, **added}, spec.vocab


def exact(weights: dict[str, Weight]) -> dict[str, Floats]:
    return {name: native.dequantize(weight) for name, weight in weights.items()}


def logits(
    plan: Plan, weights: dict[str, Weight], tokens: list[int], cuts: tuple[int, ...] = ()
) -> npt.NDArray[np.float32]:
    """Every row's, the prompt cut at `cuts`, beside another sequence."""
    blocks = -(-len(tokens) // BLOCK)
    most = 2 * len(tokens)
    found = []
    with Engine(plan, weights, threads=2, n_blocks=2 * blocks, max_rows=most, max_seqs=2, max_outputs=most) as engine:
        for first, last in zip((0, *cuts), (*cuts, len(tokens)), strict=True):
            rows = last - first
            batch = Batch(
                tokens=[*tokens[first:last], *(tokens[::-1] if first == 0 and cuts else ())],
                row_start=[0, rows, rows + len(tokens)] if first == 0 and cuts else [0, rows],
                start_pos=[first, 0] if first == 0 and cuts else [first],
                blocks=np.arange(2 * blocks).reshape(2, -1)[: 2 if first == 0 and cuts else 1],
                out_rows=list(range(rows)),
                want_logits=True,
            )
            result = engine.step(batch).logits
            assert result is not None
            found.append(result)
    return np.concatenate(found)


@pytest.mark.parametrize("alpha", [8.0, 0.0])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_adapted_plan_means_the_merged_weights(arch: str, alpha: float, tmp_path: Path) -> None:
    """Both in float64; the scaled A is rounded to float32 once, 2^-24 of each product."""
    base = Gguf.open(make_model(tmp_path / "m.gguf", arch, tied=False))
    path = make_adapter(tmp_path / "a.gguf", base, alpha=alpha)
    adapter = Gguf.open(path)
    plan, weights, vocab = adapted(base, path)
    tokens = np.random.default_rng(3).integers(0, vocab, 12).tolist()
    spec, bare, _ = load(base)
    whole = merged(values(base), adapter, values(adapter), alpha)
    expected = reference(bare, by_name(base, bare, spec, whole), tokens)
    plain = reference(bare, by_name(base, bare, spec), tokens)
    found = reference(plan, exact(weights), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected - plain).max() > 0.05  # the adapter does something


@pytest.mark.parametrize(("arch", "quant", "rank"), [("llama", "F32", 1), ("phi3", "F32", 7), ("gemma3", "F32", 64)])
def test_the_engine_runs_it_and_keeps_batch_invariance(arch: str, quant: str, rank: int, tmp_path: Path) -> None:
    base = Gguf.open(make_model(tmp_path / "m.gguf", arch, quant=quant))
    plan, weights, vocab = adapted(base, make_adapter(tmp_path / "a.gguf", base, rank=rank))
    tokens = np.random.default_rng(3).integers(0, vocab, TOKENS).tolist()
    expected = Reference(plan, exact(weights), cache_type="f16").step(tokens)
    found = logits(plan, weights, tokens)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert logits(plan, weights, tokens, cuts=(1, 17, 33)).tobytes() == found.tobytes()


def test_quantized_halves_and_several_adapters(tmp_path: Path) -> None:
    base = Gguf.open(make_model(tmp_path / "m.gguf", "qwen2"))
    one = make_adapter(tmp_path / "a.gguf", base, rank=32, quant="Q8_0", targets=linear_names(base)[:3])
    two = make_adapter(tmp_path / "b.gguf", base, rank=2, alpha=3.0, seed=1)
    plan, weights, vocab = adapted(base, one, two)
    tokens = np.random.default_rng(3).integers(0, vocab, 12).tolist()
    whole = values(base)
    for path, alpha in ((one, 8.0), (two, 3.0)):
        adapter = Gguf.open(path)
        whole = merged(whole, adapter, values(adapter), alpha)
    _, bare, _ = load(base)
    expected = reference(bare, {name: whole[name] for name in bare.tensors}, tokens)
    np.testing.assert_allclose(reference(plan, exact(weights), tokens), expected, atol=1e-4)
    assert np.isfinite(logits(plan, weights, tokens)).all()


def test_the_packs_of_the_base_serve_with_adapters(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", quant="Q8_0")
    adapter = make_adapter(tmp_path / "a.gguf", Gguf.open(path))
    _, plan, weights = load(Gguf.open(path))
    isa = best_isa()
    with open(packfile.path_of(str(tmp_path / "m"), isa), "wb") as out:
        packfile.write(out, packfile.layout_of(plan, weights, "sha256:0", isa), weights, isa)
    bare = Load(path=str(path), packs=str(tmp_path / "m"), blob="sha256:0", threads=1)
    with_adapter = replace(bare, adapters=(str(adapter),))
    assert open_native(bare).facts["pack"] == open_native(with_adapter).facts["pack"] == "used"


def test_models_of_one_base_and_other_adapters_share_no_worker() -> None:
    bare = ModelSource(name="a", digest="d", weights="w", path=Path("/w"), size=1)
    one, two = (replace(bare, adapters=((name, Path("/") / name),)) for name in ("x", "y"))
    both = replace(bare, adapters=(("x", Path("/x")), ("y", Path("/y"))))
    assert len({bare.content, one.content, two.content, both.content}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"general.type": None}}, "not an adapter"),
        ({"metadata": {"adapter.type": "loha"}}, "adapter.type"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"targets": ()}, "changes nothing"),
        ({"targets": ("token_embd.weight",)}, "embeddings"),
        ({"base": "other"}, "no such matrix"),
        ({"base": "wide"}, "halves of"),
        ({"base": "gemma"}, "for the architecture gemma"),
    ],
)
def test_refused_by_name(change: dict[str, object], message: str, tmp_path: Path) -> None:
    from tests.peers.model_maker import Size

    base = Gguf.open(make_model(tmp_path / "m.gguf"))
    others = {
        "other": {"size": Size(layers=3)},
        "wide": {"size": Size(width=128, heads=8)},
        "gemma": {"arch": "gemma"},
    }
    given = dict(change)
    which = given.pop("base", None)
    trained = Gguf.open(make_model(tmp_path / "o.gguf", **others[str(which)])) if which else base  # type: ignore[arg-type]
    adapter = Gguf.open(make_adapter(tmp_path / "a.gguf", trained, **given))  # type: ignore[arg-type]
    with pytest.raises(GgufError, match=message):
        pairs(adapter, base)


def test_half_a_pair_and_foreign_tensors_are_refused(tmp_path: Path) -> None:
    base = Gguf.open(make_model(tmp_path / "m.gguf"))
    raw = make_adapter(tmp_path / "a.gguf", base).read_bytes()
    half = b"blk.0.attn_q.weight.lora_"
    for old, new in ((half + b"a", half + b"c"), (half + b"b", half.replace(b"0", b"9") + b"b")):
        path = tmp_path / "b.gguf"
        path.write_bytes(raw.replace(old, new))
        with pytest.raises(GgufError):
            pairs(Gguf.open(path), base)
