"""The OCI side of a bundle: an image layout that oras and skopeo read, derived from what the statement pins.

An Ollama manifest travels byte for byte. Beside it stands an OCI manifest over the same config and layers, because
skopeo refuses Docker manifests with Ollama's layer types. `index.json` lists both. None of it is trusted on the way in:
readers derive it again and compare.
"""

from __future__ import annotations

from manifests import canonical
from manifests.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from manifests.statement import Statement

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.ollama.image.manifest.v1"
REF_NAME = "org.opencontainers.image.ref.name"
OLLAMA_MANIFEST = "dev.sealift.ollama.manifest"


def oci_manifest(manifest: Manifest) -> bytes:
    """The OCI manifest over the blobs of a Docker manifest; an OCI manifest itself stays as it is."""
    if manifest.media_type == OCI_MANIFEST:
        return manifest.raw
    return canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": manifest.config.as_dict(),
            "layers": [layer.as_dict() for layer in manifest.layers],
            "annotations": {OLLAMA_MANIFEST: str(manifest.digest)},
        }
    )


def layout_files(statement: Statement) -> tuple[tuple[str, bytes], ...]:
    """`oci-layout` and `index.json`, whose bytes follow from the statement alone."""
    sizes = {blob.digest: blob.size for blob in statement.blobs}
    entries = []
    for model in statement.models:
        notes = {REF_NAME: model.name.full, OLLAMA_MANIFEST: str(model.manifest)}
        oci = {"mediaType": OCI_MANIFEST, "digest": str(model.oci), "size": sizes[model.oci], "annotations": notes}
        entries.append(oci)
        if model.oci != model.manifest:
            docker = {"mediaType": DOCKER_MANIFEST, "digest": str(model.manifest), "size": sizes[model.manifest]}
            entries.append(docker)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return (
        ("oci-layout", canonical.encode({"imageLayoutVersion": "1.0.0"})),
        ("index.json", canonical.encode(index)),
    )
