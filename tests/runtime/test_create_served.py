"""Making models through the server with Ollama's own client: blobs uploaded, converted, quantized, adapted, asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from manifests.gguf import Gguf
from manifests.name import ModelName
from manifests.store import Store
from tests.peers import hugging_face as hf
from tests.peers.adapters import make_adapter
from tests.peers.live import Live, live
from tests.peers.model_maker import make_model

GREEDY = {"temperature": 0, "num_predict": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("served") / "models")


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Live]:
    with live(store) as server:
        yield server


@pytest.fixture
def client(server: Live) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


def test_a_tree_is_uploaded_quantized_adapted_and_asked(client: ollama.Client, store: Store, tmp_path: Path) -> None:
    folder = hf.write_tree(tmp_path / "tree", "qwen3", shards=2)
    files = {path.name: client.create_blob(path) for path in sorted(folder.iterdir())}
    told = list(client.create("base", files=files, quantize="q8_0", stream=True))
    lines = list(dict.fromkeys(one.status for one in told))
    assert lines[0] == "converting model" and lines[-1] == "success" and "quantizing F32 model to Q8_0" in lines
    done = [one for one in told if one.completed is not None]
    assert {one.status for one in done} == {"converting model", "quantizing F32 model to Q8_0"}
    assert all(0 < (one.completed or 0) <= (one.total or 0) for one in done)
    assert client.show("base").details.quantization_level == "Q8_0"  # type: ignore[union-attr]
    (layer,) = store.manifest(ModelName.parse("base")).of_kind("model")
    adapter = make_adapter(tmp_path / "a.gguf", Gguf.open(store.blob_path(layer.digest)), size=2.0)
    made = client.create("tuned", from_="base", adapters={"a.gguf": client.create_blob(adapter)})
    assert made.status == "success"

    def answer(name: str) -> str:
        return client.generate(name, "the hen in an inn", raw=True, options=GREEDY).response or ""

    first = [answer("base"), answer("tuned")]
    assert first[0] != first[1]
    assert {loaded.model for loaded in client.ps().models} == {"base:latest", "tuned:latest"}  # no shared process
    assert [answer("base"), answer("tuned")] == first
    client.generate("tuned", "", keep_alive=0)
    assert {loaded.model for loaded in client.ps().models} == {"base:latest"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"adapters": {"a.gguf": "blob"}}, "not an adapter"),
    ({"quantize": "q4_K_M"}, "only supported for F16, BF16 and F32"),
    ({"adapters": {"a.gguf": "blob", "b.gguf": "blob"}}, "only one adapter"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_refusals_reach_the_client(
    more: dict[str, Any], message: str, client: ollama.Client, store: Store, tmp_path: Path
) -> None:
    blob = client.create_blob(make_model(tmp_path / "m.gguf", quant="Q4_0"))
    given: dict[str, Any] = {
        name: dict.fromkeys(value, blob) if isinstance(value, dict) else value for name, value in more.items()
    }
    with pytest.raises(ollama.ResponseError, match=message):
        client.create("bad", files={"m.gguf": blob}, **given)
    assert not store.has(ModelName.parse("bad"))
