"""How likely a prompt is: `echo` with `logprobs` on /v1/completions, from socket to kernels, against numpy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from manifests.create import CreateRequest, create
from manifests.gguf import Gguf
from manifests.name import ModelName
from manifests.store import Store
from native.engine import BLOCK, Batch, Engine
from runtime.models.load import load
from runtime.text.tokenizer import Tokenizer
from tests.peers.live import Live, live
from tests.peers.model_maker import CHATML, Size, make_model

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("echo") / "m.gguf"
    return make_model(path, size=Size(context=2048), metadata={"tokenizer.chat_template": CHATML})


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    store = Store(tmp_path_factory.mktemp("store") / "models")
    create(store, ModelName.parse("tiny"), CreateRequest(files={"m.gguf": store.put_file(model)}))
    with live(store) as server:
        yield server


@pytest.fixture(scope="module")
def ids(model: Path) -> list[int]:
    tokenizer = Tokenizer.from_gguf(Gguf.open(model).metadata)
    return tokenizer.encode(TEXT, special=True)


@pytest.fixture(scope="module")
def expected(model: Path, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log probabilities [rows, vocabulary] of the model alone, in double."""
    spec, plan, weights = load(Gguf.open(model))
    blocks = -(-len(ids) // BLOCK)
    engine = Engine(
        plan, weights, threads=1, n_blocks=blocks, max_rows=len(ids), max_seqs=1, max_outputs=len(ids)
    )  # fmt: skip
    batch = Batch(
        tokens=ids, row_start=[0, len(ids)], start_pos=[0], blocks=[list(range(blocks))],
        out_rows=list(range(len(ids))), want_logits=True,
    )  # fmt: skip
    logits = engine.step(batch).logits
    assert logits is not None and spec.vocab == logits.shape[1]
    wide = logits.astype(np.float64)
    highest = wide.max(1, keepdims=True)
    return np.asarray(wide - highest - np.log(np.exp(wide - highest).sum(1, keepdims=True)))


def ask(server: Live, **body: Any) -> Any:
    asked = {"model": "tiny", "echo": True, "temperature": 0} | body
    response = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_every_token_of_the_prompt_has_its_log_probability(
    server: Live, ids: list[int], expected: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    answer = ask(server, prompt=ids, logprobs=2, max_tokens=1)
    [choice] = answer["choices"]
    told = choice["logprobs"]
    assert choice["text"].startswith(TEXT) and "".join(told["tokens"]).startswith(TEXT)
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    own = [expected[place, token] for place, token in enumerate(ids[1:])]
    np.testing.assert_allclose(told["token_logprobs"][1 : len(ids)], own, atol=1e-4)
    for place, top in enumerate(told["top_logprobs"][1 : len(ids)]):
        highest = np.sort(expected[place])[::-1][:2]
        np.testing.assert_allclose(sorted(top.values(), reverse=True), highest, atol=1e-4)
    assert told["text_offset"][0] == 0 and answer["usage"]["prompt_tokens"] == len(ids)


def test_with_no_tokens_asked_for_the_prompt_alone_is_answered(server: Live, ids: list[int]) -> None:
    whole = ask(server, prompt=ids, logprobs=0, max_tokens=4)["choices"][0]
    alone = ask(server, prompt=ids, logprobs=0, max_tokens=0)["choices"][0]
    assert alone["text"] == TEXT and alone["finish_reason"] == "length"
    assert alone["logprobs"]["token_logprobs"] == whole["logprobs"]["token_logprobs"][: len(ids)]
    assert ask(server, prompt=TEXT, max_tokens=0)["choices"][0]["text"] == TEXT  # no template around it


def test_scores_do_not_depend_on_company_and_streams_say_the_same(server: Live, ids: list[int]) -> None:
    prompts = [ids[: 5 + 3 * place] for place in range(12)]

    def scores(prompt: list[int]) -> list[float]:
        return list(ask(server, prompt=prompt, logprobs=1, max_tokens=1)["choices"][0]["logprobs"]["token_logprobs"])

    alone = [scores(prompt) for prompt in prompts]
    with ThreadPoolExecutor(12) as crowd:
        assert list(crowd.map(scores, prompts)) == alone
    together = ask(server, prompt=prompts, logprobs=1, max_tokens=1)["choices"]
    assert [choice["logprobs"]["token_logprobs"] for choice in together] == alone


def test_a_token_that_ends_the_answer_is_told_too(server: Live, model: Path, ids: list[int]) -> None:
    """lm-eval asks for one token, and leaves out the last of what it gets."""
    end = min(Tokenizer.from_gguf(Gguf.open(model).metadata).eog)
    choice = ask(server, prompt=ids, logprobs=1, max_tokens=1, logit_bias={str(end): 100})["choices"][0]
    assert (choice["finish_reason"], choice["text"]) == ("stop", TEXT)
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1


def test_one_token_has_nothing_before_it(server: Live, ids: list[int]) -> None:
    told = ask(server, prompt=ids[:1], logprobs=1, max_tokens=0)["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None]
