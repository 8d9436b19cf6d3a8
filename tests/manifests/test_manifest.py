"""Manifests: Docker's and OCI's form, bytes kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manifests.digest import Digest
from manifests.errors import ManifestError
from manifests.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_MANIFEST, OLLAMA_PREFIX, Descriptor, Manifest

D1, D2 = Digest.of(b"1"), Digest.of(b"2")


def document(**changes: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "digest": str(D1), "size": 1},
        "layers": [
            {"mediaType": OLLAMA_PREFIX + "model", "digest": str(D2), "size": 5, "from": "/x", "new": {"a": [1]}}
        ],
    } | changes


def test_raw_bytes_and_unknown_keys_are_kept() -> None:
    raw = json.dumps(document(extra=1), indent=7).encode() + b"\n \n"
    manifest = Manifest.parse(raw)
    assert manifest.raw == raw and manifest.digest == Digest.of(raw)
    assert manifest.layers[0].kind == "model" and manifest.size == 6


def test_build_writes_what_ollama_writes() -> None:
    config = Descriptor(media_type=DOCKER_CONFIG, digest=D1, size=1)
    manifest = Manifest.build(config, (Descriptor(media_type=OLLAMA_PREFIX + "model", digest=D2, size=5),))
    assert manifest.raw.endswith(b"}\n") and b" " not in manifest.raw
    assert Manifest.parse(manifest.raw) == manifest


def test_oci_form_and_absent_media_type() -> None:
    without = document()
    del without["mediaType"]
    for value in (document(mediaType=OCI_MANIFEST), without):
        assert Manifest.parse(json.dumps(value).encode()).media_type == OCI_MANIFEST


def test_a_blob_named_twice_is_one_blob() -> None:
    layer = document()["layers"][0]
    manifest = Manifest.parse(json.dumps(document(layers=[layer, layer])).encode())
    assert [blob.digest for blob in manifest.blobs()] == [D2, D1]


BAD: list[dict[str, Any]] = [
    {"schemaVersion": 1},
    {"mediaType": "application/vnd.oci.image.index.v1+json"},
    {"config": {"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}},
    {"config": {"mediaType": "x", "digest": str(D1), "size": -1}},
    {"config": {"mediaType": "x", "digest": str(D1), "size": True}},
    {"layers": [{"mediaType": "x", "digest": str(D1), "size": 1 << 60}]},
    {"layers": [{}] * 20_000},
    {"layers": {}},
]


@pytest.mark.parametrize("change", BAD)
def test_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        Manifest.parse(json.dumps(document(**change)).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b'{"schemaVersion":2,"schemaVersion":2}'])
def test_not_even_a_document(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.parse(raw)
