"""Contents: the manifests of a bundle, and that they name exactly the blobs that travel. Nothing more, nothing less.

Refused: a manifest that does not parse, an OCI manifest that is not the one derived from it, a blob that a manifest
names and the statement lacks (or knows with another size, or as another kind of file), and a blob that nothing names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler import oci
from bundler.errors import BundleRefused
from manifests import gate
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.manifest import Descriptor, Manifest
from manifests.statement import Model, Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """`manifests[i]` belongs to `statement.models[i]`; `blobs` are what a store needs for them, each once."""

    manifests: tuple[Manifest, ...]
    blobs: dict[Digest, Descriptor]


def check(statement: Statement, raw: Mapping[Digest, bytes]) -> Contents:
    """`raw`: the bytes of all manifests, already checked against their digests."""
    sizes = {blob.digest: blob.size for blob in statement.blobs}
    types: dict[Digest, set[str]] = {}
    found, blobs = [], {}
    for model in statement.models:
        manifest = _manifest(model, raw)
        for blob in manifest.blobs():
            if sizes.get(blob.digest) != blob.size:
                raise BundleRefused(
                    f"{model.name.short}: its manifest names {blob.digest} with {blob.size} bytes, "
                    f"the statement says {sizes.get(blob.digest, 'nothing')}"
                )
            blobs[blob.digest] = blob
            types.setdefault(blob.digest, set()).add(blob.media_type)
        found.append(manifest)
    _check_types(statement, types)
    _check_unused(statement, set(blobs))
    return Contents(manifests=tuple(found), blobs=blobs)


def _manifest(model: Model, raw: Mapping[Digest, bytes]) -> Manifest:
    try:
        manifest = Manifest.parse(raw[model.manifest])
    except ManifestsError as error:
        raise BundleRefused(f"{model.name.short}: {error}") from None
    if raw[model.oci] != oci.oci_manifest(manifest):
        raise BundleRefused(f"{model.name.short}: its OCI manifest is not the one that follows from its manifest")
    return manifest


def _check_types(statement: Statement, types: Mapping[Digest, set[str]]) -> None:
    """The statement calls each blob what one of the manifests calls it."""
    for blob in statement.blobs:
        if blob.digest in types and blob.media_type not in types[blob.digest]:
            wanted = ", ".join(sorted(types[blob.digest]))
            raise BundleRefused(
                f"statement: blob {blob.digest} is called {blob.media_type}, its manifest says {wanted}"
            )


def _check_unused(statement: Statement, used: set[Digest]) -> None:
    used |= {blob.leaves.list for blob in statement.blobs if blob.leaves}
    used |= {digest for model in statement.models for digest in (model.manifest, model.oci)}
    used |= {item.digest for item in statement.evidence}
    used |= {digest for blob in statement.blobs if blob.built for digest in (blob.built.base, blob.built.patch)}
    unused = [blob.digest for blob in statement.blobs if blob.digest not in used]
    if unused:
        raise BundleRefused(f"statement: no model names blob {unused[0]}")


def gate_items(manifest: Manifest, path: Callable[[Digest], Path]) -> list[gate.Item]:
    """What the gate looks at for one model. `path` maps a digest to the file that holds its bytes."""
    layers = [
        gate.Item(media_type=layer.media_type, digest=layer.digest, path=path(layer.digest))
        for layer in manifest.layers
    ]
    config = manifest.config.digest
    return [*layers, gate.Item(media_type=gate.CONFIG, digest=config, path=path(config))]
