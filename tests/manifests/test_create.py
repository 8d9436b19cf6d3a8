"""Making models: layers, inheritance, refusals; the stored digest is the file's own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manifests.create import CreateRequest, create, read_config
from manifests.create_layers import Status
from manifests.create_request import request_from_modelfile
from manifests.digest import Digest
from manifests.errors import CreateError, ManifestsError, NotFound
from manifests.gguf import Gguf, count_text
from manifests.manifest import Manifest
from manifests.modelfile import Modelfile
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.adapters import make_adapter
from tests.peers.gguf_head import gguf_bytes
from tests.peers.model_maker import make_model

NAME = ModelName.parse("mine")


def make(
    store: Store,
    folder: Path,
    lines: str,
    name: ModelName = NAME,
    *,
    quantize: str | None = None,
    status: Status = lambda line: None,
) -> Manifest:
    return create(store, name, request_from_modelfile(Modelfile.parse(lines.encode()), folder, quantize), status)


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
    make(
        store,
        tmp_path,
        "FROM m.gguf\nSYSTEM one\nPARAMETER top_k 3\nPARAMETER stop a\nLICENSE MIT\n",
        ModelName.parse("base"),
    )
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
    make_adapter(tmp_path / "a.gguf", Gguf.open(make_model(tmp_path / "whole.gguf")))
    manifest = make(store, tmp_path, "FROM whole.gguf\nFROM p.gguf\nADAPTER a.gguf\n")
    assert [blob.kind for blob in manifest.layers] == ["model", "projector", "adapter", "params"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("FROM ./none.gguf\n", "no such file"),
        ("FROM text.gguf\n", "not in GGUF format"),
        ("FROM cut.gguf\n", "the GGUF is refused"),
        ("FROM big-00001-of-00002.gguf\n", "split GGUF"),
        ("FROM empty\n", "no safetensors and no GGUF"),
        ("FROM pickled\n", "pickle"),
        ("FROM ./x.pth\n", "pickle"),
        ("FROM linked\n", "link out of the folder"),
        ("FROM m.gguf\nADAPTER a.gguf\nADAPTER b.gguf\n", "only one adapter"),
        ("FROM m.gguf\nTEMPLATE {{ if }\n", "template error"),
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
    for folder in ("empty", "pickled", "linked"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "x.pth").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "linked" / "model.safetensors").symlink_to(tmp_path / "m.gguf")
    with pytest.raises(CreateError, match=message):
        make(store, tmp_path, lines)
    assert store.names() == []


@pytest.mark.parametrize(
    "lines",
    [
        "FROM ~nobody-of-that-name/m.gguf\n", "FROM " + "a" * 300 + ".gguf\n", "FROM a\0b.gguf\n", "FROM /dev/zero\n",
        "FROM pipe\n", "FROM m.gguf\nADAPTER a\0b\n", "FROM m.gguf\nADAPTER none\n", "FROM m.gguf\nADAPTER .\n",
        "FROM m.gguf/x.gguf\n", "FROM " + "d/" * 5000 + "m.gguf\n", "FROM m.gguf\nADAPTER text.gguf\n",
    ],
)  # fmt: skip
def test_a_path_that_is_none_leaves_nothing(store: Store, tmp_path: Path, lines: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.gguf").write_bytes(b"hello")
    with pytest.raises(ManifestsError):
        make(store, tmp_path, lines)
    assert not store.blobs.exists() or not any(store.blobs.iterdir())  # no weights stay of a model that is refused


def test_making_a_model_anew_drops_what_only_the_old_one_named(store: Store, tmp_path: Path) -> None:
    old = make(store, tmp_path, "FROM m.gguf\nSYSTEM one\n")
    new = make(store, tmp_path, "FROM mine\nSYSTEM two\n")  # based on itself
    assert not store.has_blob(Digest.of(b"one")) and store.has_blob(Digest.of(b"two"))
    (record,) = store.records(new.digest)
    assert record["from_manifest"] == str(old.digest)


def test_two_files_of_one_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m.gguf").write_bytes(gguf_bytes("clip"))
    manifest = make(store, tmp_path, "FROM m.gguf\nFROM other/m.gguf\n")
    assert [blob.kind for blob in manifest.layers] == ["model", "projector"]


def test_text_that_is_no_unicode(store: Store) -> None:
    digest = store.put_bytes(gguf_bytes())
    for fields in (
        {"system": "\ud800"},
        {"licenses": ("\ud800",)},
        {"messages": (("user", "\ud800"),)},
        {"renderer": "\ud800"},
    ):
        with pytest.raises(CreateError, match="surrogate"):
            create(store, NAME, CreateRequest(files={"m.gguf": digest}, **fields))


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b"{", b"[" * 100_000, b'"' + b'\\"' * 100_000])
def test_a_base_whose_params_or_config_are_not_objects(store: Store, tmp_path: Path, raw: bytes) -> None:
    manifest = make(store, tmp_path, "FROM m.gguf\nPARAMETER top_k 3\n", ModelName.parse("base"))
    digest = store.put_bytes(raw)
    for place in (("config",), ("layers", 1)):
        document = json.loads(manifest.raw)
        part = document["config"] if place == ("config",) else document["layers"][1]
        part |= {"digest": str(digest), "size": len(raw)}
        store.put_manifest(ModelName.parse("bad"), json.dumps(document).encode())
        with pytest.raises(ManifestsError):
            make(store, tmp_path, "FROM bad\nPARAMETER top_k 4\n")


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
    assert {count: count_text(count) for count in sizes} == sizes


def test_copying_reports_every_byte(store: Store, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        steps: list[int] = []
        yield steps.append
        told.append((title, total, sum(steps)))

    create(store, NAME, request_from_modelfile(Modelfile.parse(b"FROM m.gguf\n"), tmp_path), lambda line: None, bar)
    size = (tmp_path / "m.gguf").stat().st_size
    assert told == [("m.gguf", size, size)]
