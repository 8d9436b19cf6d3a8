"""Encoders, and decoders that give vectors: made models beside a BERT written down in float64, and beside llama.cpp."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from manifests.gguf import Gguf
from native.engine import BLOCK, Batch, Engine
from native.plan import Plan
from runtime.errors import ArchitectureRefused
from runtime.models import load
from runtime.text.tokenizer import Tokenizer
from tests.peers.bert_maker import SPECIAL, WORDS, Bert, cosine, named, random_bert, vector, write
from tests.peers.model_maker import make_model

HERE = Path(__file__).parent
# What llama.cpp (as in llama-cpp-python 0.3.36) says of MODELS' texts in F32, rounded to 6 digits, not normalised.
PEER: dict[str, Any] = json.loads((HERE / "test_models_embed.json").read_text())

MODELS: dict[str, Bert] = {
    "bert": random_bert(),
    "bert-cls": random_bert(pooling="cls", heads=2),
    "bert-last": random_bert(pooling="last", layers=1),
    "nomic-bert": random_bert(base=1000.0),
}
Vector = npt.NDArray[np.float32]


def text_of(model: Bert, length: int = 60, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(5, len(model.vocab), length)]


def run(gguf: Gguf, ids: list[int], *, outputs: list[int] | None = None) -> Vector:
    """The last slot's rows for one text in one step."""
    _, plan, weights = load(gguf)
    outputs = [len(ids) - 1] if outputs is None else outputs
    blocks = [list(range(-(-len(ids) // BLOCK)))]
    with Engine(plan, weights, threads=2, n_blocks=32, max_rows=512, max_seqs=1, max_outputs=512) as engine:
        batch = Batch(
            tokens=ids, row_start=[0, len(ids)], start_pos=[0], blocks=blocks, out_rows=outputs, want_logits=True
        )
        found = engine.step(batch).logits
    assert found is not None
    return found


def made(model: Bert, folder: Path, quant: str = "F32", metadata: dict[str, Any] | None = None) -> Gguf:
    return Gguf.open(write(model, folder / "m.gguf", quant=quant, metadata=metadata))


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """After a change that is meant: read the difference, then write `plan.text()` to the file."""
    _, plan, _ = load(made(MODELS[name], tmp_path))
    assert plan.text() == (HERE / "test_models_plans" / f"{name}.txt").read_text()


@pytest.mark.parametrize(("quant", "least"), [("F32", 1 - 1e-6), ("F16", 1 - 1e-5), ("Q8_0", 0.999)])
@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_the_figure(name: str, quant: str, least: float, tmp_path: Path) -> None:
    """Keys and values of attention are float16 in all of them; Q8_0 also rounds what each product takes to 8 bits."""
    model = MODELS[name]
    gguf = made(model, tmp_path, quant)
    for length in (1, 2, 33, 100):
        ids = text_of(model, length, seed=length)
        assert cosine(run(gguf, ids)[0], vector(model, ids)) > least


@pytest.mark.parametrize("name", MODELS)
def test_the_figure_is_llama_cpps(name: str) -> None:
    """So that both are not wrong together. The peer rounds to float16 in attention, and its gelu is the tanh form in
    float16: 3e-6 of cosine on all-MiniLM-L6-v2, less on these."""
    model, peer = MODELS[name], PEER[name]
    sample = float(named(model)["token_embd.weight"].astype(np.float64).sum())
    assert sample == pytest.approx(peer["sum"], abs=1e-6), "numpy makes other random numbers: make the vectors again"
    found = vector(model, peer["ids"])
    assert cosine(found, np.array(peer["vector"])) > 1 - 1e-6
    assert np.abs(found - np.array(peer["vector"])).max() < 5e-3


@pytest.mark.parametrize("pooling", [1, 2, 3])
def test_a_decoders_vector_is_what_its_logits_are_made_of(pooling: int, tmp_path: Path) -> None:
    """The same weights without the key: logits are token_embd . (last norm's row), so they tell those rows' pool."""
    ids = [int(i) for i in np.random.default_rng(2).integers(0, 256, 50)]
    plain = Gguf.open(make_model(tmp_path / "plain.gguf", "qwen3", seed=4))
    pooled = Gguf.open(make_model(tmp_path / "pool.gguf", "qwen3", seed=4, metadata={"qwen3.pooling_type": pooling}))
    logits = run(plain, ids, outputs=list(range(len(ids))))
    expected = {1: logits.mean(axis=0), 2: logits[0], 3: logits[-1]}[pooling]
    (found,) = run(pooled, ids)
    table = np.frombuffer(plain.data("token_embd.weight"), np.float32).reshape(len(expected), -1)
    np.testing.assert_allclose(table @ found, expected, rtol=1e-4, atol=1e-4)
    assert load(pooled)[1].whole is (pooling != 3)


def test_a_decoders_own_output_matrix_is_passed_over(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", "qwen3", tied=False, metadata={"qwen3.pooling_type": 3})
    _, plan, weights = load(Gguf.open(path))
    assert "output.weight" not in weights and weights.keys() == set(plan.tensors)


def test_separate_tensors_are_read_where_the_file_has_them(tmp_path: Path) -> None:
    """Q, K and V of bert in one tensor with one bias is another form, and not guessed at."""
    gguf = made(MODELS["bert"], tmp_path)
    spec, plan, weights = load(gguf)
    assert not spec.layers[0].attention.fused and isinstance(plan, Plan)
    spare = {name for name in gguf.tensors if name not in weights}
    assert not spare
    types = weights["token_types.weight"]
    assert (types.rows, types.cols) == (1, 64) and bytes(types.buffer) == bytes(gguf.data("token_types.weight"))[:256]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no pooling": ({"bert.pooling_type": None}, "bert.pooling_type: missing, expected 1"),
    "rank": ({"bert.pooling_type": 4}, "bert.pooling_type: found 4, expected 1"),
    "causal": ({"bert.attention.causal": True}, "bert.attention.causal: found True, only False"),
    "long": ({"bert.context_length": 129}, "context_length: found 129, position_embd.weight has 128 rows"),
    "eps": ({"bert.attention.layer_norm_epsilon": None}, "layer_norm_epsilon: missing"),
    "alibi": ({"bert.attention.max_alibi_bias": 8.0}, "max_alibi_bias: unknown to this version"),
    "classifier": ({"bert.classifier.output_labels": ["a"]}, "output_labels: unknown to this version"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_this_encoder_is_refused_by_name(name: str, tmp_path: Path) -> None:
    metadata, words = REFUSED[name]
    with pytest.raises(ArchitectureRefused, match=words):
        load(made(MODELS["bert"], tmp_path, metadata=metadata))


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureRefused, match="moe_every_n_layers: found 2"):
        load(made(MODELS["nomic-bert"], tmp_path, metadata={"nomic-bert.moe_every_n_layers": 2}))


def test_ollamas_own_key_is_known(tmp_path: Path) -> None:
    load(made(MODELS["bert"], tmp_path, metadata={"bert.normalize_embeddings": False}))


ALPHABET = [
    *WORDS,
    *"ab z.,!?'-0",
    "é",
    "É",
    "ing",
    "##s",
    "[MASK]",
    "[CLS]",
    "中",
    "\u0301",
    "\x00",
    "\t",
    "🙂",
    " ",
    " ",
]


@given(st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join))
def test_tokens_are_the_librarys_own(text: str) -> None:
    """Words spelled GGUF's way mean what `##` means in a vocab.txt; names of control tokens are those tokens."""
    ours, theirs = tokenizers_of(MODELS["bert"].vocab)
    assert ours.encode(text, special=True) == theirs.encode(text).ids


@functools.cache
def tokenizers_of(vocab: tuple[str, ...]) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    theirs = tokenizers.Tokenizer(WordPiece({word: at for at, word in enumerate(vocab)}, unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    theirs.add_special_tokens(list(SPECIAL))
    ends = [(name, vocab.index(name)) for name in ("[CLS]", "[SEP]")]
    theirs.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    with tempfile.TemporaryDirectory() as folder:
        path = write(MODELS["bert"], Path(folder) / "m.gguf")
        return Tokenizer.from_gguf(Gguf.open(path).metadata), theirs
