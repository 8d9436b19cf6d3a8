"""/api/embed, /api/embeddings, /v1/embeddings and `sealift run` (contract, 1.5, 1.9 and 1.11): every answer and refusal
in process with a scripted model, then the published clients against the real engine."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.api import embedding
from runtime.api.app import create_app
from tests.peers.bert_maker import Bert, cosine, random_bert, vector, write
from tests.peers.live import Live, live
from tests.peers.scripted import Script, scripted_manager, small_store
from tests.runtime.test_api_commands import sealift

BERT: Bert = random_bert(context=64)
TEXTS = ("a king sat on the mat", "a queen", "fast")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """And `bert`, whose vectors are to be normalised, and `raw`, whose file says that they are not."""
    root = tmp_path_factory.mktemp("store")
    store = small_store(root)
    for name, metadata in (("bert", {}), ("raw", {"bert.normalize_embeddings": False})):
        blob = store.put_file(write(BERT, root / f"{name}.gguf", metadata=metadata))
        create(store, ModelName.parse(name), CreateRequest(files={f"{name}.gguf": blob}))
    return store


def post(store: Store, path: str, body: Any, script: Script | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(script or Script())
        transport = httpx.ASGITransport(app=create_app(store, manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.post(path, content=json.dumps(body))
        await manager.close()
        return response

    return asyncio.run(main())


def ids(text: str) -> list[int]:
    """As WordPiece cuts words that the vocabulary has whole."""
    words = ["[CLS]", *text.split(), "[SEP]"]
    return [BERT.vocab.index(word) for word in words]


# -- /api/embed


def test_embed_answers_in_the_texts_order_with_vectors_of_length_one(store: Store) -> None:
    script = Script()
    response = post(store, "/api/embed", {"model": "Bert", "input": TEXTS}, script)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    answer = response.json()
    assert set(answer) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert answer["model"] == "Bert" and answer["total_duration"] >= answer["load_duration"] > 0
    assert [list(tokens) for tokens, _, _ in script.embedded] == [ids(text) for text in TEXTS]
    assert answer["prompt_eval_count"] == sum(len(ids(text)) for text in TEXTS)
    for text, found in zip(TEXTS, answer["embeddings"], strict=True):
        whole = (len(ids(text)), ids(text)[0], ids(text)[-1])
        assert found == pytest.approx([value / math.hypot(*whole) for value in whole], rel=1e-7)


@pytest.mark.parametrize("input", [None, "", []])
def test_nothing_to_embed_loads_the_model(store: Store, input: Any) -> None:
    script = Script()
    answer = post(store, "/api/embed", {"model": "bert", "input": input}, script).json()
    assert answer["embeddings"] == [] and answer["prompt_eval_count"] == 0 and len(script.sources) == 1


def test_one_text_and_a_list_of_one_are_the_same(store: Store) -> None:
    one, many = (post(store, "/api/embed", {"model": "bert", "input": value}).json() for value in ("a", ["a"]))
    assert one["embeddings"] == many["embeddings"] and len(one["embeddings"]) == 1


@pytest.mark.parametrize(("dimensions", "count"), [(1, 1), (2, 2), (3, 3), (4, 3), (0, 3), (-1, 3)])
def test_dimensions_are_the_first_and_have_length_one(store: Store, dimensions: int, count: int) -> None:
    body = {"model": "bert", "input": "a", "dimensions": dimensions}
    (found,) = post(store, "/api/embed", body).json()["embeddings"]
    assert len(found) == count and math.hypot(*found) == pytest.approx(1, abs=1e-6)


def test_langchains_thirteen_empty_options_and_the_others(store: Store) -> None:
    script = Script()
    names = ["mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_gpu", "num_thread", "repeat_last_n"]
    names += ["repeat_penalty", "temperature", "stop", "tfs_z", "top_k", "top_p"]
    body = {"model": "bert", "input": "a", "options": dict.fromkeys(names), "keep_alive": None}
    assert post(store, "/api/embed", body, script).status_code == 200
    assert post(store, "/api/embed", body | {"options": {"num_ctx": 32}}, script).status_code == 200
    assert [source.n_ctx for source in script.sources] == [0, 32]


LONG = "a " * 100  # 102 tokens; the model has 64


def test_a_long_text_is_cut_behind_and_keeps_its_end(store: Store) -> None:
    script = Script()
    answer = post(store, "/api/embed", {"model": "bert", "input": LONG, "options": {"num_ctx": 8}}, script).json()
    cls, a, sep = (BERT.vocab.index(word) for word in ("[CLS]", "a", "[SEP]"))
    assert script.embedded[0][0] == (cls, a, a, a, a, a, a, sep) and answer["prompt_eval_count"] == 8


def test_many_texts_are_all_answered_and_few_are_with_the_worker_at_once(store: Store) -> None:
    script = Script()
    texts = ["a " * (1 + i % 7) for i in range(300)]
    response = post(store, "/api/embed", {"model": "bert", "input": texts}, script)
    counts = [round(math.hypot(*one)) for one in response.json()["embeddings"]]
    assert counts == [1] * 300 and len(script.embedded) == 300
    assert "content-length" not in response.headers  # as they come, not held back
    assert {client for _, client, _ in script.embedded} == {"127.0.0.1"}


ERRORS = [
    ("/api/embed", {"model": "bert", "input": 5}, 400, "invalid input type"),
    ("/api/embed", {"model": "bert", "input": ["a", 5]}, 400, "invalid input type"),
    ("/api/embed", {"model": "bert", "input": {"a": 1}}, 400, "invalid input type"),
    ("/api/embed", {"model": "bert", "input": [[1, 2]]}, 400, "invalid input type"),
    ("/api/embed", {"input": "a"}, 404, "model '' not found"),
    ("/api/embed", {"model": "a b", "input": "a"}, 400, "invalid model name"),
    ("/api/embed", {"model": "gone", "input": "a"}, 404, 'model "gone" not found, try pulling it first'),
    ("/api/embed", {"model": "demo", "input": "a"}, 400, '"demo" does not support embeddings'),
    (
        "/api/embed",
        {"model": "bert", "input": ["a", LONG], "truncate": False, "options": {"num_ctx": 64}},
        400,
        "the input length exceeds the context length: 102 tokens, at most 64",
    ),
    ("/api/embed", {"model": "bert", "input": "a", "options": {"num_ctx": "x"}}, 500,
     'option "num_ctx" must be of type integer'),
    ("/api/embed", {"model": "bert", "input": "a", "dimensions": "x"}, 400,
     "json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int"),
    ("/api/embed", {"model": "bert", "input": ["a"] * 10001}, 400,
     "the input has 10001 texts, at most 10000 are taken in one request"),
    ("/api/embeddings", {"prompt": "a"}, 400, "model is required"),
    ("/api/embeddings", {"model": "a b", "prompt": "a"}, 400, "invalid model name"),
    ("/api/embeddings", {"model": "gone", "prompt": "a"}, 404, 'model "gone" not found, try pulling it first'),
    ("/api/embeddings", {"model": "demo", "prompt": "a"}, 400, '"demo" does not support embeddings'),
    ("/api/generate", {"model": "bert", "prompt": "a"}, 400, '"bert" does not support generate'),
    ("/api/chat", {"model": "bert", "messages": [{"role": "user", "content": "a"}]}, 400,
     '"bert" does not support chat'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "text"), ERRORS)
def test_refusals_have_the_contracts_status_and_words(
    store: Store, path: str, body: Any, status: int, text: str
) -> None:
    response = post(store, path, body)
    assert (response.status_code, response.json()["error"]) == (status, text)


# -- /api/embeddings


def test_the_older_route_gives_one_vector_as_the_file_wants_it(store: Store) -> None:
    """Normalised, but where the file says `normalize_embeddings` false."""
    expected = [float(len(ids("a"))), float(ids("a")[0]), float(ids("a")[-1])]
    assert post(store, "/api/embeddings", {"model": "raw", "prompt": "a"}).json() == {"embedding": expected}
    found = post(store, "/api/embeddings", {"model": "bert", "prompt": "a"}).json()["embedding"]
    assert found == pytest.approx([value / math.hypot(*expected) for value in expected], rel=1e-7)
    assert post(store, "/api/embeddings", {"model": "bert"}).json() == {"embedding": []}


# -- /v1/embeddings


def test_openai_gives_floats_and_base64_of_the_same_numbers(store: Store) -> None:
    body = {"model": "bert", "input": list(TEXTS), "user": "u"}
    plain = post(store, "/v1/embeddings", body).json()
    assert set(plain) == {"object", "data", "model", "usage"} and plain["object"] == "list" and plain["model"] == "bert"
    count = sum(len(ids(text)) for text in TEXTS)
    assert plain["usage"] == {"prompt_tokens": count, "total_tokens": count}
    encoded = post(store, "/v1/embeddings", body | {"encoding_format": "base64"}).json()
    for place, (one, other) in enumerate(zip(plain["data"], encoded["data"], strict=True)):
        assert one["index"] == other["index"] == place and one["object"] == other["object"] == "embedding"
        raw = base64.b64decode(other["embedding"])
        assert raw == struct.pack("<3f", *one["embedding"])


@pytest.mark.parametrize(
    ("input", "expected"), [([7, 8, 9], [(7, 8, 9)]), ([[7], [8, 9]], [(7,), (8, 9)]), ([[7], "a"], None)]
)
def test_openai_takes_token_ids_as_they_are(store: Store, input: Any, expected: Any) -> None:
    script = Script()
    assert post(store, "/v1/embeddings", {"model": "bert", "input": input}, script).status_code == 200
    expected = expected or [(7,), tuple(ids("a"))]
    assert [tokens for tokens, _, _ in script.embedded] == expected


BAD = "invalid_request_error"
OPENAI_ERRORS = [
    ({"model": "bert"}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": ""}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": []}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": [1.5]}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": [True]}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": [[]]}, 400, BAD, "invalid input", "input"),
    ({"model": "bert", "input": "a", "encoding_format": "int8"}, 400, BAD, "float or base64", "encoding_format"),
    ({"model": "bert", "input": "a", "options": {"num_ctx": "x"}}, 400, BAD, "must be of type integer", "num_ctx"),
    ({"input": "a"}, 400, BAD, "model is required", "model"),
    ({"model": "gone", "input": "a"}, 404, "not_found_error", 'model "gone" not found', "model"),
    ({"model": "demo", "input": "a"}, 400, BAD, "does not support embeddings", None),
]


@pytest.mark.parametrize(("body", "status", "kind", "words", "param"), OPENAI_ERRORS)
def test_openais_refusals(store: Store, body: Any, status: int, kind: str, words: str, param: str | None) -> None:
    response = post(store, "/v1/embeddings", body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (status, kind, param) and words in error["message"]


# -- numbers


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_numbers_are_read_back_as_the_same_float32(values: list[float]) -> None:
    from array import array

    shown = json.loads(json.dumps(embedding._numbers(array("f", values))))
    assert struct.pack(f"<{len(values)}f", *shown) == struct.pack(f"<{len(values)}f", *values)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9), st.integers(-1, 10))
def test_normalized_vectors_have_length_one_or_are_zero(values: list[float], dimensions: int) -> None:
    from array import array

    found = embedding.normalized(array("f", values), dimensions)
    assert len(found) == (min(dimensions, len(values)) if dimensions > 0 else len(values))
    length = math.hypot(*found)
    assert length == pytest.approx(1, abs=1e-5) or not any(values[: len(found)])


# -- the real thing


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Live]:
    with live(store) as server:
        yield server


def test_the_ollama_client_gets_the_models_vectors(server: Live) -> None:
    client = ollama.Client(host=server.url)
    try:
        answer = client.embed("bert", list(TEXTS))
        assert (answer.prompt_eval_count or 0) == sum(len(ids(text)) for text in TEXTS)
        for text, found in zip(TEXTS, answer.embeddings, strict=True):
            assert cosine(list(found), vector(BERT, ids(text))) > 1 - 1e-6
        old = client.embeddings("raw", TEXTS[0]).embedding
        assert list(old) == pytest.approx(list(vector(BERT, ids(TEXTS[0]))), abs=2e-3)
        assert client.show("bert").capabilities == ["embedding"]
        with pytest.raises(ollama.ResponseError, match='"bert" does not support chat'):
            client.chat("bert", messages=[{"role": "user", "content": "a"}])
    finally:
        client._client.close()


def test_the_openai_client_which_asks_for_base64(server: Live) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="bert", input=list(TEXTS))
        for text, item in zip(TEXTS, answer.data, strict=True):
            assert cosine(item.embedding, vector(BERT, ids(text))) > 1 - 1e-6
        short = client.embeddings.create(model="bert", input=TEXTS[0], dimensions=5).data[0].embedding
        assert len(short) == 5 and cosine(short, answer.data[0].embedding[:5]) > 1 - 1e-9


def test_a_decoder_that_pools(server: Live) -> None:
    client = ollama.Client(host=server.url)
    try:
        one, two, again = client.embed("embedder", ["Hi", "Hello there", "Hi"]).embeddings
        assert one == again != two and math.hypot(*one) == pytest.approx(1, abs=1e-6)
    finally:
        client._client.close()


def test_run_prints_the_vector(server: Live, tmp_path: Path) -> None:
    done = sealift("run", "bert", "a", "queen", host=server.url)
    assert done.returncode == 0, done.stderr
    assert cosine(json.loads(done.stdout), vector(BERT, ids("a queen"))) > 1 - 1e-6
    assert done.stdout.count("\n") == 1
    short = sealift("run", "bert", "--dimensions", "3", input="a queen", host=server.url)
    assert len(json.loads(short.stdout)) == 3
    long = sealift("run", "bert", "--no-truncate", LONG, host=server.url)
    assert long.returncode == 1 and "102 tokens, at most 64" in long.stderr
    nothing = sealift("run", "bert", host=server.url)
    assert nothing.returncode == 1 and "needs a text" in nothing.stderr
