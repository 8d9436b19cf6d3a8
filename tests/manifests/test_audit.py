"""The audit: every blob hashed again, every finding named, the same input the same report."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

import sealift
from manifests.audit import audit
from manifests.digest import Digest
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SEALIFT_MODELS", str(tmp_path))
    store = Store(tmp_path)
    for name, weights in (("a", b"shared"), ("b", b"shared"), ("c", b"own")):
        layers = tuple(
            Descriptor(media_type=OLLAMA_PREFIX + kind, digest=store.put_bytes(data), size=len(data))
            for kind, data in (("model", weights), ("license", b"\n MIT License\nmore"))
        )
        config = name.encode()
        blob = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(config), size=1)
        manifest = store.put_manifest(ModelName.parse(name), Manifest.build(blob, layers).raw)
        store.add_record(manifest.digest, "create", {"time": "2026-01-01T00:00:00Z", "signers": ["alice"]})
    return store


def test_a_sound_store(store: Store) -> None:
    hashed: list[int] = []
    result = audit(store, [], now=NOW, progress=hashed.append)
    assert result.ok and [model.name for model in result.models] == ["a:latest", "b:latest", "c:latest"]
    assert result.models[0].licenses[0]["title"] == "MIT License"
    assert result.models[0].records[0]["signers"] == ["alice"]
    assert sum(hashed) == len(b"shared") + len(b"own") + len(b"\n MIT License\nmore") + 3  # each distinct blob once
    assert result == audit(store, [], now=NOW)
    assert result.not_checked


def test_findings_name_model_and_blob(store: Store) -> None:
    store.blob_path(Digest.of(b"shared")).write_bytes(b"sharee")
    store.blob_path(Digest.of(b"own")).unlink()
    result = audit(store, [], now=NOW)
    problems = {model.name: [blob.problem for blob in model.blobs if blob.problem] for model in result.models}
    assert not result.ok
    assert "hash to" in problems["a:latest"][0] and "hash to" in problems["b:latest"][0]
    assert "not found" in problems["c:latest"][0]


def test_an_unreadable_manifest_or_record_is_a_finding(store: Store) -> None:
    store.manifest_path(ModelName.parse("a")).write_bytes(b"{}")
    digest = store.manifest(ModelName.parse("b")).digest
    next((store.private / "records" / digest.hex).iterdir()).write_bytes(b"x")
    a, b, c = audit(store, [], now=NOW).models
    assert a.problem and not a.ok and b.records_problem and not b.ok and c.ok


def test_the_verbs_print_and_exit(store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sealift.run(["verify"]) == 0
    assert sealift.run(["audit", "--out", str(tmp_path / "out"), "a"]) == 0
    assert "hashed, matches" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["ok"] is True
    store.blob_path(Digest.of(b"own")).write_bytes(b"OWN")
    assert sealift.run(["verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["model"] == "c:latest"
    assert sealift.run(["audit", "c"]) == 1
    assert "NOT OK" in capsys.readouterr().out
    assert sealift.run(["audit", "unknown"]) == 1
    assert "sealift: model 'unknown:latest' not found" in capsys.readouterr().err
