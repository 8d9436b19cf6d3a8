"""Prune frees what no model needs, and nothing else."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

import sealift
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.prune import AGE, prune
from manifests.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SEALIFT_MODELS", str(tmp_path))
    store = Store(tmp_path)
    layer = Descriptor(media_type=OLLAMA_PREFIX + "model", digest=store.put_bytes(b"weights"), size=7)
    config = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(b"{}"), size=2)
    store.put_manifest(ModelName.parse("a"), Manifest.build(config, (layer,)).raw)
    store.put_bytes(b"orphan")
    (store.blobs / "sha256-short").write_bytes(b"foreign")
    (store.blobs / f"sha256-{'a' * 64}-partial").write_bytes(b"of Ollama")
    (store.private / "partial").mkdir()
    for name in ("0" * 64, "0" * 64 + ".journal", "1" * 64, "1" * 64 + ".journal"):
        (store.private / "partial" / name).write_bytes(b"part")
    return store


def later() -> float:
    return time.time() + AGE + 1


def test_only_what_no_model_needs_goes(store: Store) -> None:
    kept = {path.name for path in store.blobs.iterdir()} - {Digest.of(b"orphan").file_name}
    with (store.private / "partial" / ("1" * 64)).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a pull is at work on it
        assert prune(store, now=later()).files == 3
    assert {path.name for path in store.blobs.iterdir()} == kept
    left = sorted(path.name for path in (store.private / "partial").iterdir())
    assert left == ["1" * 64, "1" * 64 + ".journal"]
    store.verify_blob(Digest.of(b"weights"))


def test_what_is_young_stays(store: Store) -> None:
    assert prune(store).files == 0
    assert store.has_blob(Digest.of(b"orphan"))


def test_nothing_goes_while_a_manifest_cannot_be_read(store: Store) -> None:
    path = store.manifest_path(ModelName.parse("broken"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    with pytest.raises(ManifestsError):
        prune(store, now=later())
    assert store.has_blob(Digest.of(b"orphan"))


def test_the_verb(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert sealift.run(["rm", "--unused"]) == 0
    assert capsys.readouterr().out.startswith("removed 0 unused files")
    assert sealift.run(["rm"]) == 2
    assert sealift.run(["rm", "a", "--unused"]) == 0
    assert store.names() == []
