"""Converted models mean what Hugging Face's formulas say: every architecture, from safetensors to our plan's logits."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from manifests.convert.model import convert_model
from manifests.gguf import Gguf
from manifests.store import Store
from native.reference import reference
from runtime.models import load
from runtime.text.tokenizer import Tokenizer
from tests.peers import hugging_face as hf
from tests.peers.model_maker import values
from tests.runtime.test_models import by_name

TEXTS = ["the hen in an inn", " there", "a\n\nthe  the", "naïve 火 🚀", "", "</s> the <s>"]


def files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def converted(folder: Path, store: Path) -> Gguf:
    made = Store(store)
    return Gguf.open(made.blob_path(convert_model(made, files_of(folder), lambda step: None)))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("kind", hf.CLASSES)
def test_logits_are_those_of_the_formulas(kind: str, dtype: str, tmp_path: Path) -> None:
    """Both in float64; the facts of rope and norms travel as float32, whose rounding grows to about 1e-5 here. A wrong
    order of rows, scale, window or norm moves logits by tenths."""
    config = hf.config_of(kind)
    tensors = hf.tensors_of(kind, config)
    if dtype == "BF16":
        tensors = {name: (array.view("<u4") & 0xFFFF0000).view("<f4") for name, array in tensors.items()}
    hf.write_tree(tmp_path / kind, kind, config=config, tensors=tensors, dtype=dtype, shards=3 if dtype == "F32" else 1)
    model = converted(tmp_path / kind, tmp_path / "store")
    spec, plan, _ = load(model)
    tokens = np.random.default_rng(5).integers(0, 300, 24).tolist()
    expected = hf.logits(kind, config, tensors, tokens)
    np.testing.assert_allclose(reference(plan, by_name(model, plan, spec), tokens), expected, atol=1e-3)


def test_attention_biases_of_llama_are_reordered_too(tmp_path: Path) -> None:
    config = hf.config_of("llama", rope_scaling=None)
    tensors = hf.tensors_of("llama", config)
    rng = np.random.default_rng(1)
    for layer in range(3):
        for name, rows in (("q", 64), ("k", 32), ("v", 32)):
            tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = rng.standard_normal(rows, np.float32)
    hf.write_tree(tmp_path / "m", "llama", config=config, tensors=tensors)
    model = converted(tmp_path / "m", tmp_path / "store")
    spec, plan, _ = load(model)
    expected = hf.logits("llama", config, tensors, [1, 2, 3, 4])
    np.testing.assert_allclose(reference(plan, by_name(model, plan, spec), [1, 2, 3, 4]), expected, atol=1e-3)


@pytest.mark.parametrize("told", [True, False])
def test_an_encoder_makes_the_vector_of_the_formulas_from_the_librarys_ids(told: bool, tmp_path: Path) -> None:
    """Whether tokenizer_config.json names the special tokens or is not there."""
    config, document = hf.bert_config(), hf.word_piece_tokenizer()
    tensors = hf.bert_tensors(config)
    folder = hf.write_tree(tmp_path / "m", "bert", config=config, tensors=tensors, tokenizer=document)
    if not told:
        (folder / "tokenizer_config.json").unlink()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    model = converted(folder, tmp_path / "store")
    ours = Tokenizer.from_gguf(model.metadata)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in ("the hens, an inner Héns inn", "", "zzz [MASK] the"):
        assert ours.encode(text, special=True) == theirs.encode(text).ids, text
    _, plan, weights = load(model)
    exact = {name: np.frombuffer(one.buffer, "<f4").reshape(one.rows, one.cols) for name, one in weights.items()}
    ids = ours.encode("the hens, an inner inn", special=False)
    found = reference(plan, exact, ids)[-1]
    np.testing.assert_allclose(found, hf.bert_vector(config, tensors, ids), atol=1e-4)


@pytest.mark.parametrize("prefix", [True, False])
def test_spaced_tokenizers_give_the_librarys_ids(prefix: bool, tmp_path: Path) -> None:
    document = hf.spm_tokenizer(prefix=prefix)
    hf.write_tree(tmp_path / "m", "mistral", tokenizer=document)
    ours = Tokenizer.from_gguf(converted(tmp_path / "m", tmp_path / "store").metadata)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in TEXTS[:5]:
        assert ours.encode(text, special=True) == theirs.encode(text).ids, text
    assert ours.add_bos and ours.eos == 2 and ours.is_control(1)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> dict[str, object]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "type": "Sequence",
        "pretokenizers": [
            cut,
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }


DIGITS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


@pytest.mark.parametrize(
    ("step", "ignore_merges", "name"),
    [
        (None, False, "gpt-2"),
        (DIGITS, False, "smollm"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3.replace("{1,3}", "")), False, "qwen2"),
    ],
)
def test_byte_level_tokenizers_give_the_librarys_ids(
    step: dict[str, object] | None, ignore_merges: bool, name: str, tmp_path: Path
) -> None:
    document = hf.bpe_tokenizer(step, ignore_merges=ignore_merges)
    hf.write_tree(tmp_path / "m", "llama", tokenizer=document)
    metadata = converted(tmp_path / "m", tmp_path / "store").metadata
    assert metadata["tokenizer.ggml.pre"] == name
    ours = Tokenizer.from_gguf(metadata)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in (*TEXTS, "it's 12345 o'clock<|end|>\r\n x"):
        assert ours.encode(text, special=True, bos=False) == theirs.encode(text).ids, text


REAL = os.environ.get("SEALIFT_TEST_MODEL", "")
PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens", "output_norm": "model.norm",
}  # fmt: skip


@pytest.mark.skipif(not REAL, reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")
def test_a_real_model_survives_the_way_there_and_back(tmp_path: Path) -> None:
    """SmolLM2's first layer, written as Hugging Face stores them (q and k in halves, a tokenizer.json of its
    tables) and converted: the same ids for texts, the same tensors, and the logits of the formulas."""
    whole = Gguf.open(REAL)
    kept = {name: info for name, info in whole.tensors.items() if not re.match(r"blk\.([1-9]|\d\d)\.", name)}
    real = whole._replace(tensors=kept)
    every = values(real)
    tensors = {}
    for name, matrix in every.items():
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
        assert match
        heads = {"attn_q": 9, "attn_k": 3}.get(match[2], 0)
        if heads:
            matrix = matrix.reshape(heads, 32, 2, -1).swapaxes(1, 2).reshape(matrix.shape)
        at = f"model.layers.{match[1]}." if match[1] else ""
        matrix = matrix.astype(np.float16).astype(np.float32)  # the file's own
        tensors[f"{at}{PARTS[match[2]]}.weight"] = matrix[0] if "norm" in match[2] else matrix
    config = hf.config_of(
        "llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3, rope_theta=100000.0, vocab_size=49152, tie_word_embeddings=True, rope_scaling=None,
    )  # fmt: skip
    tables = real.metadata
    tokens = tables["tokenizer.ggml.tokens"]
    tokenizer = hf.bpe_tokenizer(DIGITS)
    control = [i for i, kind in enumerate(tables["tokenizer.ggml.token_type"]) if kind == 3]
    tokenizer["added_tokens"] = [hf.added(index, tokens[index]) for index in control]
    tokenizer["model"] |= {
        "vocab": {text: i for i, text in enumerate(tokens)},
        "merges": tables["tokenizer.ggml.merges"],
    }
    folder = hf.write_tree(tmp_path / "m", "llama", config=config, tensors=tensors, tokenizer=tokenizer, dtype="F16")
    model = converted(folder, tmp_path / "store")
    for key in ("tokens", "token_type", "merges", "pre", "model"):
        assert model.metadata[f"tokenizer.ggml.{key}"] == tables[f"tokenizer.ggml.{key}"]
    ours, theirs = Tokenizer.from_gguf(model.metadata), Tokenizer.from_gguf(tables)
    text = "The 12 quick foxes aren't here.\n\n  naïve 火🚀 <|im_start|>user"
    assert ours.encode(text, special=True) == theirs.encode(text, special=True)
    for name, matrix in values(model).items():
        np.testing.assert_array_equal(matrix, every[name].astype(np.float16).astype(np.float32))
    spec, plan, _ = load(model)
    ids = ours.encode("Once upon a time", special=False)
    expected = hf.logits("llama", config, tensors, ids)
    np.testing.assert_allclose(reference(plan, by_name(model, plan, spec), ids), expected, atol=2e-3)
