"""Making models: layers, inheritance, refusals; the stored digest is the file's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.create import CreateRequest, create, read_config, request_from_modelfile, size_text
from manifests.digest import Digest
from manifests.errors import CreateError, ManifestsError, NotFound
from manifests.manifest import Manifest
from manifests.modelfile import Modelfile
from manifests.name import ModelName
from manifests.store import Store

NAME = ModelName.parse("mine")


def gguf_bytes(architecture: str = "llama", kind: str | None = None) -> bytes:
    """A GGUF head with two keys and no tensors: magic, version 3, counts, then keys (GGUF specification)."""
    pairs = [("general.architecture", architecture)] + ([("general.type", kind)] if kind else [])
    body = b"".join(text(key) + (8).to_bytes(4, "little") + text(value) for key, value in pairs)
    return b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + len(pairs).to_bytes(8, "little") + body


def text(value: str) -> bytes:
    return len(value).to_bytes(8, "little") + value.encode()


def make(store: Store, folder: Path, lines: str, name: ModelName = NAME) -> Manifest:
    request = request_from_modelfile(store, Modelfile.parse(lines.encode()), folder, lambda line: None)
    return create(store, name, request)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes())
    return Store(tmp_path / "store")


def layer(store: Store, manifest: Manifest, kind: str) -> bytes:
    (found,) = manifest.of_kind(kind)
    return store.read_blob(found, limit=1 << 20)


def test_from_a_file(store: Store, tmp_path: Path) -> None:
    manifest = make(
        store,
        tmp_path,
        'FROM m.gguf\nSYSTEM be brief\nTEMPLATE "{{ .Prompt }}"\nPARAMETER stop a\nPARAMETER top_k 3\nLICENSE MIT\n'
        "MESSAGE user hi\nMESSAGE assistant hello\n",
    )
    assert [blob.kind for blob in manifest.layers] == ["model", "template", "system", "messages", "params", "license"]
    assert manifest.layers[0].digest == Digest.of(gguf_bytes())
    assert json.loads(layer(store, manifest, "params")) == {"stop": ["a"], "top_k": 3}
    assert json.loads(layer(store, manifest, "messages"))[1] == {"role": "assistant", "content": "hello"}
    assert read_config(store, manifest)["model_family"] == "llama"
    (record,) = store.records(manifest.digest)
    assert record["files"] == {"m.gguf": str(Digest.of(gguf_bytes()))}


def test_from_a_model_inherits_and_overrides(store: Store, tmp_path: Path) -> None:
    make(store, tmp_path, "FROM m.gguf\nSYSTEM one\nPARAMETER top_k 3\nPARAMETER stop a\nLICENSE MIT\n", ModelName.parse("base"))
    manifest = make(store, tmp_path, "FROM base\nSYSTEM two\nPARAMETER stop b\nLICENSE Apache\n")
    assert layer(store, manifest, "system") == b"two"
    assert json.loads(layer(store, manifest, "params")) == {"stop": ["b"], "top_k": 3}
    assert [store.read_blob(found, limit=100) for found in manifest.of_kind("license")] == [b"MIT", b"Apache"]
    assert store.records(manifest.digest)[0]["from"].endswith("/base:latest")


def test_same_input_makes_the_same_model(store: Store, tmp_path: Path) -> None:
    lines = "FROM m.gguf\nSYSTEM x\nPARAMETER temperature 0.5\n"
    assert make(store, tmp_path, lines).digest == make(store, tmp_path, lines, ModelName.parse("other")).digest


def test_nothing_is_pulled(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        make(store, tmp_path, "FROM unknown-model\n")
    assert "pull" in (caught.value.hint or "")


def test_a_stub_is_no_base(store: Store, tmp_path: Path) -> None:
    manifest = make(store, tmp_path, "FROM m.gguf\n")
    config = store.put_bytes(json.dumps({"remote_host": "https://far.example"}).encode())
    document = json.loads(manifest.raw)
    document["config"] |= {"digest": str(config), "size": store.blob_path(config).stat().st_size}
    store.put_manifest(ModelName.parse("stub"), json.dumps(document).encode())
    with pytest.raises(CreateError, match="another host"):
        make(store, tmp_path, "FROM stub\n")


def test_projector_and_adapter_are_recognised(store: Store, tmp_path: Path) -> None:
    (tmp_path / "p.gguf").write_bytes(gguf_bytes("clip"))
    (tmp_path / "a.gguf").write_bytes(gguf_bytes("llama", "adapter"))
    manifest = make(store, tmp_path, "FROM m.gguf\nFROM p.gguf\nADAPTER a.gguf\n")
    assert [blob.kind for blob in manifest.layers] == ["model", "projector", "adapter"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("FROM ./none.gguf\n", "no such file"),
        ("FROM text.gguf\n", "not in GGUF format"),
        ("FROM cut.gguf\n", "the GGUF is refused"),
        ("FROM big-00001-of-00002.gguf\n", "split GGUF"),
        ("FROM .\n", "folder"),
        ("FROM m.gguf\nFROM m2.gguf\n", "more than one model"),
        ("FROM p.gguf\n", "no model file"),
        ("FROM m.gguf\nADAPTER m2.gguf\n", "not an adapter"),
        ("FROM m.gguf\nDRAFT m2.gguf\n", "DRAFT is not supported"),
    ],
)
def test_refused(store: Store, tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "text.gguf").write_bytes(b"hello")
    (tmp_path / "cut.gguf").write_bytes(gguf_bytes()[:-3])
    (tmp_path / "big-00001-of-00002.gguf").write_bytes(gguf_bytes())
    (tmp_path / "m2.gguf").write_bytes(gguf_bytes("gemma3"))
    (tmp_path / "p.gguf").write_bytes(gguf_bytes("clip"))
    with pytest.raises(CreateError, match=message):
        make(store, tmp_path, lines)
    assert store.names() == []


def test_an_api_request_names_blobs(store: Store) -> None:
    with pytest.raises(CreateError, match="neither 'from' or 'files'"):
        create(store, NAME, CreateRequest())
    with pytest.raises(NotFound):
        create(store, NAME, CreateRequest(files={"m.gguf": Digest.of(b"absent")}))
    digest = store.put_bytes(gguf_bytes())
    lines: list[str] = []
    create(store, NAME, CreateRequest(files={"m.gguf": digest}, parameters={"stop": "x"}), lines.append)
    assert lines[0] == "parsing GGUF" and lines[-2:] == ["writing manifest", "success"]
    with pytest.raises(ManifestsError, match="unknown parameter"):
        create(store, NAME, CreateRequest(files={"m.gguf": digest}, parameters={"nope": 1}))


def test_sizes_of_models() -> None:
    # contract, 3.4
    sizes = {134_515_008: "134.52M", 1_235_814_432: "1.2B", 7_000_000_000: "7B", 70_600_000_000: "70.6B", 12_345: "12K"}
    assert {count: size_text(count) for count in sizes} == sizes
