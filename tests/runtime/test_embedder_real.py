"""all-MiniLM-L6-v2, as Ollama's all-minilm: its tokens beside Hugging Face's, its vectors beside a BERT in float64, and
whether they mean what they should. `scripts/embedder` fetches it."""

from __future__ import annotations

import functools
import os
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers

from manifests.gguf import Gguf
from runtime.text.tokenizer import Tokenizer
from tests.peers.bert_maker import Bert, cosine, read, vector, write
from tests.runtime.test_models_embed import run

FOLDER = Path(os.environ.get("SEALIFT_TEST_EMBEDDER") or "/nonexistent")
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs SEALIFT_TEST_EMBEDDER, the folder scripts/embedder prints"
)

TEXTS = (
    "hello world",
    "Sealed bundles of language models are lifted across an air gap and served on the other side.",
    "Größe, naïveté and ½ a cup — 東京 🙂",
    "A",
    "The quick brown fox jumps over the lazy dog. " * 15,  # 152 tokens
)
# The beginning of the first text's vector, as published beside the model by several users of sentence-transformers
HELLO = (-0.0344773, 0.0310232, 0.0067350, 0.0261089, -0.0393620)


@functools.cache
def model() -> Bert:
    return read(FOLDER)


@functools.cache
def expected(ids: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return vector(model(), ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gguf]:
    folder = tmp_path_factory.mktemp("minilm")
    return {quant: Gguf.open(write(model(), folder / f"{quant}.gguf", quant=quant)) for quant in ("F32", "F16", "Q8_0")}


@pytest.mark.parametrize(("quant", "least"), [("F32", 1 - 1e-6), ("F16", 1 - 1e-5), ("Q8_0", 0.999)])
def test_vectors_are_those_of_the_figure(files: dict[str, Gguf], quant: str, least: float) -> None:
    """Measured: 3e-8, 3e-7 and 3e-4 to 7e-4 from 1; of the last, a third is in the file itself."""
    tokenizer = Tokenizer.from_gguf(files[quant].metadata)
    for text in TEXTS:
        ids = tokenizer.encode(text, special=True)
        assert cosine(run(files[quant], ids)[0], expected(tuple(ids))) > least


def test_the_published_vector(files: dict[str, Gguf]) -> None:
    ids = Tokenizer.from_gguf(files["F32"].metadata).encode("hello world", special=True)
    found = run(files["F32"], ids)[0].astype(np.float64)
    assert (found / np.linalg.norm(found))[:5] == pytest.approx(HELLO, abs=1e-4)


MEANINGS = (
    ("A man is playing a guitar.", "Someone plays a musical instrument.", "The stock market fell sharply today."),
    ("How do I reset my password?", "I forgot my login credentials.", "Whales are the largest mammals."),
    ("The cat sat on the mat.", "A kitten is resting on a rug.", "Quarterly tax forms are due in April."),
    ("Paris is the capital of France.", "France's government sits in Paris.", "Add two eggs and whisk the batter."),
)


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_what_means_the_same_is_near(files: dict[str, Gguf], quant: str) -> None:
    tokenizer = Tokenizer.from_gguf(files[quant].metadata)

    def embedded(text: str) -> npt.NDArray[np.float32]:
        return np.asarray(run(files[quant], tokenizer.encode(text, special=True))[0])

    for text, same, other in MEANINGS:
        one = embedded(text)
        assert cosine(one, embedded(same)) > cosine(one, embedded(other)) + 0.3


PLACES = [(0x00, 0x250), (0x300, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x1100, 0x1200), (0x2000, 0x2C00)]
PLACES += [(0x3000, 0x3200), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0xE000, 0xE010), (0xF900, 0xFB10)]
PLACES += [(0xFE00, 0x10000), (0x1F300, 0x1F700), (0x20000, 0x20020)]
ODD = ("", " ", "[MASK] [CLS]x[SEP]", "[unused5]", "##ing", "▁x", "İstanbul ẞ Σς", "e\u0301", "a\u00adb",
       "\x7f\x80\x9f", "\x00\x01a\tb\r\n", "\ufeffbom\ufffd", "don't $100.00 50%", "1２３", "a" * 100)  # fmt: skip


def test_tokens_are_hugging_faces(files: dict[str, Gguf]) -> None:
    """Characters of every kind: accents, CJK, marks, controls, private and unassigned ones."""
    theirs = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    ours = Tokenizer.from_gguf(files["F16"].metadata)
    rng = random.Random(0)
    texts = list(ODD) + [
        "".join(chr(rng.randrange(*rng.choice(PLACES))) for _ in range(rng.randint(1, 30))) for _ in range(5000)
    ]
    wrong = [text for text in texts if ours.encode(text, special=True) != theirs.encode(text).ids]
    assert wrong == []


def test_words_of_more_than_100_characters_are_cut_as_llama_cpp_does(files: dict[str, Gguf]) -> None:
    """Hugging Face makes one unknown token of such a word."""
    ids = Tokenizer.from_gguf(files["F16"].metadata).encode("a" * 101, special=True)
    assert len(ids) == 52
