"""What a model may not bring: each refusal names the key or the tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manifests.gguf import Gguf
from runtime.errors import ArchitectureRefused
from runtime.models import load
from tests.peers.model_maker import make_model

KEYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "yarn": (
        "qwen2",
        {"qwen2.rope.scaling.type": "yarn"},
        "qwen2.rope.scaling.type: found 'yarn', only 'none' or 'lin",
    ),
    "longrope": ("phi3", {"phi3.rope.scaling.attn_factor": 1.19}, "phi3.rope.scaling.attn_factor: found 1.19"),
    "experts": ("llama", {"llama.expert_count": 8}, "llama.expert_count: found 8, only 0 is supported"),
    "not causal": ("llama", {"llama.attention.causal": False}, "llama.attention.causal: found False"),
    "parallel": ("llama", {"llama.use_parallel_residual": True}, "llama.use_parallel_residual: found True"),
    "unknown key": ("llama", {"llama.attention.scale": 0.1}, "llama.attention.scale: unknown to this version"),
    "images": ("gemma3", {"gemma3.vision.block_count": 27}, "gemma3.vision.block_count: unknown to this version"),
    "pooling": ("qwen3", {"qwen3.pooling_type": 4}, "qwen3.pooling_type: found 4, expected 1"),
    "no pooling": ("qwen3", {"qwen3.pooling_type": 0}, "qwen3.pooling_type: found 0, expected 1"),
    "true pooling": ("qwen3", {"qwen3.pooling_type": True}, "qwen3.pooling_type: found True, expected 1"),
    "other's key": ("llama", {"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping: unknown"),
    "no layers": ("llama", {"llama.block_count": None}, "llama.block_count: missing, expected an integer"),
    "zero layers": (
        "llama",
        {"llama.block_count": 0},
        "llama.block_count: found 0, expected an integer from 1 to 1024",
    ),
    "many layers": ("llama", {"llama.block_count": 4096}, "llama.block_count: found 4096"),
    "text layers": ("llama", {"llama.block_count": "2"}, "llama.block_count: found '2'"),
    "bool layers": ("llama", {"llama.block_count": True}, "llama.block_count: found True"),
    "zero heads": ("llama", {"llama.attention.head_count": 0}, "llama.attention.head_count: found 0"),
    "heads per layer": ("llama", {"llama.attention.head_count": [4, 4, 4]}, "head_count: found 3 values, expected 2"),
    "no eps": ("llama", {"llama.attention.layer_norm_rms_epsilon": None}, "rms_epsilon: missing, expected a number"),
    "negative eps": ("llama", {"llama.attention.layer_norm_rms_epsilon": -1.0}, "rms_epsilon: found -1.0"),
    "eps nan": (
        "llama",
        {"llama.attention.layer_norm_rms_epsilon": float("nan")},
        "rms_epsilon: found nan, expected a number from",
    ),
    "base infinite": ("llama", {"llama.rope.freq_base": float("inf")}, "llama.rope.freq_base: found inf"),
    "base tiny": ("llama", {"llama.rope.freq_base": 1e-40}, r"llama.rope.freq_base: found 9\.99\S+e-41, expected"),
    "narrow": ("llama", {"llama.attention.head_count": 65}, "head_count: found 65, more than the width 64"),
    "values differ": (
        "qwen3",
        {"qwen3.attention.value_length": 32},
        "value_length: found 32, expected that of keys, 16",
    ),
    "pattern": ("gemma3", {"gemma3.attention.sliding_window_pattern": [True]}, "pattern: expected 2 booleans"),
    "adapter": ("llama", {"general.type": "adapter"}, "general.type: found 'adapter', expected 'model'"),
    "split": ("llama", {"split.count": 2}, "split.count: the file is one of 2 parts"),
    "tokens": (
        "llama",
        {"tokenizer.ggml.tokens": ["a", "b"]},
        "token_embd.weight has 273 rows, the tokenizer 2 tokens",
    ),
    "width": ("llama", {"llama.embedding_length": 128}, r"op 1 \(.* group 128 does not divide the width 64"),
    "rope width": (
        "llama",
        {"llama.rope.dimension_count": 18},
        "dims 18 is not an even number of values of a head of 16",
    ),
    "kv heads": ("llama", {"llama.attention.head_count_kv": 4}, r"op 7 \(.*%6 is 32 wide, expected 64 \(kv_heads"),
    "odd groups": ("llama", {"llama.attention.head_count_kv": 3}, r"op 7 \(.* kv_heads 3 does not divide"),
}


@pytest.mark.parametrize("name", KEYS)
def test_key_is_refused_by_name(name: str, tmp_path: Path) -> None:
    arch, metadata, words = KEYS[name]
    gguf = Gguf.open(make_model(tmp_path / "m.gguf", arch, metadata=metadata))
    with pytest.raises(ArchitectureRefused, match=words):
        load(gguf)


ODD: list[Any] = [0, 1, 3, 2**31, 2**63, -1, 0.0, 1e-45, 1e300, float("inf"), float("nan"), True, "", "linear"]
ODD += [[], [1], [4, 4], [2**40, 1], [True, False], ["a", "b"], [0.5, 0.5]]


@pytest.mark.parametrize("arch", ["llama", "gemma2", "gemma3", "phi3"])
def test_any_value_under_any_key_loads_or_is_refused(arch: str, tmp_path: Path) -> None:
    good = Gguf.open(make_model(tmp_path / "m.gguf", arch))
    keys = [key for key in good.metadata if not key.startswith("tokenizer.")]
    keys += [
        f"{arch}.{key}" for key in ("rope.scaling.factor", "rope.scaling.type", "attention.sliding_window_pattern")
    ]
    keys += ["split.count", "general.type", "tokenizer.ggml.tokens", f"{arch}.final_logit_softcapping"]
    loaded = 0
    for key in keys:
        for value in ODD:
            try:
                load(good._replace(metadata={**good.metadata, key: value}))
                loaded += 1
            except ArchitectureRefused:
                pass
    assert 0 < loaded < len(keys) * len(ODD) / 2


def test_harmless_keys_are_not_refused(tmp_path: Path) -> None:
    harmless = {"llama.vocab_size": 273, "llama.rope.scaling.type": "none", "other.key": 3, "general.license": "mit"}
    load(Gguf.open(make_model(tmp_path / "m.gguf", "llama", metadata=harmless)))


@pytest.mark.parametrize(
    ("arch", "spare", "words"),
    [
        ("llama", {"blk.0.attn_q_norm.weight": (16,)}, "llama: tensors nobody reads: blk.0.attn_q_norm.weight$"),
        ("qwen2", {"blk.1.attn_output.bias": (64,)}, "qwen2: tensors nobody reads: blk.1.attn_output.bias$"),
        ("llama", {"blk.2.attn_q.weight": (64, 64)}, "llama: tensors nobody reads: blk.2.attn_q.weight$"),
        ("phi3", {"rope_factors_long.weight": (8,)}, "phi3: tensors nobody reads: rope_factors_long.weight$"),
        ("llama", {f"v.{n}": (4,) for n in range(7)}, "nobody reads: v.0, v.1, v.2, v.3, v.4 and 2 more$"),
    ],
)
def test_tensor_nobody_reads_is_named(arch: str, spare: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureRefused, match=words):
        load(Gguf.open(make_model(tmp_path / "m.gguf", arch, spare=spare)))


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("llama", "blk.1.ffn_gate.weight"),
        ("qwen2", "blk.0.attn_k.bias"),
        ("qwen3", "blk.0.attn_q_norm.weight"),
        ("gemma3", "blk.1.post_ffw_norm.weight"),
        ("phi3", "blk.0.attn_qkv.weight"),
        ("llama", "output_norm.weight"),
        ("llama", "token_embd.weight"),
    ],
)
def test_missing_tensor_is_named(arch: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureRefused, match=f"{name} is missing"):
        load(Gguf.open(make_model(tmp_path / "m.gguf", arch, leave_out=(name,))))


@pytest.mark.parametrize(
    ("arch", "name", "shape", "words"),
    [
        (
            "llama",
            "blk.0.attn_q.weight",
            (64, 32),
            r"llama: op 2 .*blk.0.attn_q.weight is \[64, 32\], expected \[\*, 64\]",
        ),
        ("llama", "blk.0.attn_q.weight", (64, 32, 2), "blk.0.attn_q.weight has 3 dimensions, expected 1 or 2"),
        ("llama", "output.weight", (5, 64), "output.weight has 5 rows, the vocabulary 273"),
        ("phi3", "blk.0.attn_qkv.weight", (100, 64), "blk.0.attn_qkv.weight has 100 rows, expected 128"),
        ("llama", "blk.1.attn_norm.weight", (32,), r"blk.1.attn_norm.weight is \[1, 32\], expected \[1, 64\]"),
    ],
)
def test_tensor_of_another_shape_is_named(
    arch: str, name: str, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m.gguf", arch, leave_out=(name,), spare={name: shape})
    with pytest.raises(ArchitectureRefused, match=words):
        load(Gguf.open(path))


def test_number_format_without_a_kernel_is_named(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", "llama", quant="TQ2_0")
    with pytest.raises(ArchitectureRefused, match=r"token_embd\.weight is stored as TQ2_0") as caught:
        load(Gguf.open(path))
    assert "Q4_K" in (caught.value.hint or "")


def test_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    raw = make_model(tmp_path / "m.gguf", "llama").read_bytes().replace(b"llama", b"mamba")
    with pytest.raises(ArchitectureRefused, match="unknown architecture 'mamba'") as caught:
        load(Gguf.parse(raw))
    assert "bert, gemma, gemma2, gemma3, llama, nomic-bert, phi3, qwen2, qwen3" in (caught.value.hint or "")


def test_file_without_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureRefused, match=r"general\.architecture: found None"):
        load(Gguf.parse(b"GGUF" + (3).to_bytes(4, "little") + bytes(16)))
