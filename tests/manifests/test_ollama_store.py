"""A store as Ollama writes it can be read and is not changed by it; what we write Ollama can read (contract, 3)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import sealift
from manifests.audit import audit
from manifests.create import CreateRequest, create, read_config
from manifests.digest import Digest
from manifests.manifest import Manifest
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.gguf_head import gguf_bytes

PREFIX = "application/vnd.ollama.image."
OLD_CONFIG = {
    "model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "1.2B", "file_type":
    "Q8_0", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
}  # fmt: skip


def write(root: Path, data: bytes) -> dict[str, object]:
    digest = Digest.of(data)
    path = root / "blobs" / digest.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"digest": str(digest), "size": len(data)}


def write_model(
    root: Path, path: str, config: Mapping[str, object], layers: list[tuple[str, bytes]], **extra: object
) -> bytes:
    """Key order, `from` on layers and the newline at the end as in manifest/manifest.go."""
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            **write(root, json.dumps(config).encode()),
        },
        "layers": [
            {"mediaType": PREFIX + kind, **write(root, data), "from": "/some/blob", "name": "n"}
            for kind, data in layers
        ],
        **extra,
    }
    raw = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    file = root / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(raw)
    return raw


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    umask = os.umask(0o022)
    root = tmp_path / "ollama"
    monkeypatch.setenv("SEALIFT_MODELS", str(root))
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    layers = [
        ("model", gguf_bytes()), ("template", b"{{ .Prompt }}"), ("license", b"MIT"), ("license", b"Apache-2.0"),
        ("params", b'{"stop":["<|im_end|>"],"num_gqa":8,"temperature":0.6}'), ("system", b"brief"),
        ("messages", b'[{"role":"user","content":"hi"}]'), ("embed", b"old"), ("some-future-type", b"x"),
    ]  # fmt: skip
    write_model(root, "registry.ollama.ai/library/Llama3.2/1B", OLD_CONFIG, layers)
    bare = {key: value for key, value in OLD_CONFIG.items() if key != "rootfs"}
    write_model(
        root, "hf.co/User_1/Some.Repo-GGUF/Q4_K_M", bare, [("model", gguf_bytes()), ("prompt", b"{{ .Prompt }}")]
    )
    write_model(root, "localhost:5000/team/m/v1", {}, [("model", gguf_bytes("gemma3"))], annotations={"a": "b"})
    for odd in (
        f"sha256-{'a' * 64}-partial",
        f"sha256-{'a' * 64}-partial-0",
        f"sha256:{'b' * 64}",
        "upload.tmp",
        ".DS_Store",
        "sha256-short",
    ):
        (root / "blobs" / odd).write_bytes(b"foreign")
    (root / "blobs" / "folder").mkdir()
    (root / "manifests" / ".DS_Store").write_bytes(b"")
    (root / "manifests" / "registry.ollama.ai" / "library" / "empty").mkdir()
    (root / "README").write_bytes(b"foreign")
    yield root
    os.umask(umask)


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in root.rglob("*")
    }


def test_reading_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(root)
    store = Store()
    assert [name.short for name in store.names()] == [
        "hf.co/User_1/Some.Repo-GGUF:Q4_K_M",
        "localhost:5000/team/m:v1",
        "Llama3.2:1B",
    ]
    assert store.manifest(ModelName.parse("llama3.2:1b")).of_kind("messages")
    result = audit(store, [])
    assert result.ok and [licence["title"] for licence in result.models[2].licenses] == ["MIT", "Apache-2.0"]
    for arguments in (
        ["list"],
        ["list", "--json"],
        ["verify"],
        ["audit"],
        ["audit", "--json"],
        ["show", "llama3.2:1b"],
    ):
        assert sealift.run(arguments) == 0, arguments
    assert "no record: sealift did not bring this model here" in capsys.readouterr().out
    assert tree(root) == before


def test_removing_leaves_what_is_not_ours(root: Path) -> None:
    foreign = {path for path in tree(root) if "sha256-" not in path or len(Path(path).name) != 71}
    store = Store()
    for name in store.names():
        store.remove(name)
    left = {path for path in tree(root) if not path.startswith((".sealift", "manifests/"))}
    assert left == {path for path in foreign if not path.startswith("manifests/")}


def test_what_we_make_is_what_ollama_reads(root: Path) -> None:
    """Contract 3.3 and 3.4, field by field; `rootfs`, which today's Ollama does not write, is not inherited."""
    store = Store()
    base = ModelName.parse("llama3.2:1b")
    made = create(
        store, ModelName.parse("mine"), CreateRequest(from_model=base, system="other", parameters={"temperature": 1})
    )
    raw = (root / "manifests" / "registry.ollama.ai" / "library" / "mine" / "latest").read_bytes()
    assert raw == made.raw and raw.endswith(b"}\n") and made.digest == Digest.of(raw)
    document = json.loads(raw)
    assert list(document) == ["schemaVersion", "mediaType", "config", "layers"]
    assert document["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert document["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    for part in (document["config"], *document["layers"]):
        assert set(part) == {"mediaType", "digest", "size"}
        path = root / "blobs" / part["digest"].replace(":", "-")
        assert path.stat().st_size == part["size"] and path.stat().st_mode & 0o777 == 0o644
    kinds = [layer["mediaType"].removeprefix(PREFIX) for layer in document["layers"]]
    assert sorted(kinds) == sorted(
        ["model", "template", "license", "license", "params", "system", "messages", "embed", "some-future-type"]
    )
    (params,) = made.of_kind("params")
    assert json.loads(store.read_blob(params, limit=1000)) == {"stop": ["<|im_end|>"], "num_gqa": 8, "temperature": 1.0}
    assert read_config(store, made) == {key: value for key, value in OLD_CONFIG.items() if key != "rootfs"}


def test_an_unknown_key_stays_in_the_bytes(root: Path) -> None:
    store = Store()
    raw = (root / "manifests" / "localhost:5000" / "team" / "m" / "v1").read_bytes()
    assert b"annotations" in raw and store.manifest(ModelName.parse("localhost:5000/team/m:v1")).raw == raw
    store.copy(ModelName.parse("localhost:5000/team/m:v1"), ModelName.parse("copy"))
    assert store.manifest(ModelName.parse("copy")).raw == raw == Manifest.parse(raw).raw
