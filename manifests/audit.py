"""Audit: what is in a store, where it came from and whether its bytes are still what they were.

For every model: each blob hashed again, the source, the licence layers, who signed, when and with which bundle it came.
The report states what was checked and what was not; it never says "compliant". It is made from the store alone, so
another person can run it again and compare.
Checks, in order: 1 the manifest parses · 2 every blob is there, of the right size, and hashes to its name · 3 its
records. Signatures are not checked again here (this room knows none): the record of the import says who counted then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.manifest import Descriptor
from manifests.name import ModelName
from manifests.store import Progress, Store

MAX_LICENSE = 4 << 20  # bytes read of a licence text
NOT_CHECKED = (
    "signatures were checked when the bundle was imported, not again now: sealift bundle verify does",
    "the content of models (behaviour, templates) is not judged",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobAudit:
    kind: str
    digest: str
    size: int
    problem: str | None  # None: the bytes were hashed and match


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAudit:
    name: str
    manifest: str | None  # None: the manifest could not be read
    problem: str | None
    blobs: tuple[BlobAudit, ...]
    licenses: tuple[dict[str, str], ...]  # digest, first line
    records: tuple[dict[str, Any], ...]  # oldest first
    records_problem: str | None

    @property
    def ok(self) -> bool:
        return (
            self.problem is None and self.records_problem is None and all(blob.problem is None for blob in self.blobs)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    time: str  # UTC, RFC 3339
    store: str
    models: tuple[ModelAudit, ...]
    not_checked: tuple[str, ...] = NOT_CHECKED

    @property
    def ok(self) -> bool:
        return all(model.ok for model in self.models)


def audit(
    store: Store, names: list[ModelName], *, now: datetime | None = None, progress: Progress | None = None
) -> Audit:
    """Audits the named models, or all of the store's. A blob shared by several models is hashed once."""
    known: dict[tuple[Digest, int], str | None] = {}
    models = tuple(_model(store, name, known, progress) for name in names or store.names())
    stamp = (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Audit(time=stamp, store=str(store.root), models=models)


def bytes_to_hash(store: Store, names: list[ModelName]) -> int:
    """The size of all distinct blobs of these models (or of all), for a progress bar. Unreadable manifests count 0."""
    sizes: dict[Digest, int] = {}
    for name in names or store.names():
        try:
            sizes |= {blob.digest: blob.size for blob in store.manifest(name).blobs()}
        except ManifestsError:
            continue
    return sum(sizes.values())


def _model(
    store: Store, name: ModelName, known: dict[tuple[Digest, int], str | None], progress: Progress | None
) -> ModelAudit:
    try:
        manifest = store.manifest(name)
    except ManifestsError as error:
        return ModelAudit(
            name=name.short, manifest=None, problem=str(error), blobs=(), licenses=(), records=(), records_problem=None
        )
    blobs = []
    for blob in manifest.blobs():
        key = (blob.digest, blob.size)
        if key not in known:
            known[key] = _problem(store, blob, progress)
        kind = "config" if blob.digest == manifest.config.digest else blob.kind
        blobs.append(BlobAudit(kind=kind, digest=str(blob.digest), size=blob.size, problem=known[key]))
    records, records_problem = _records(store, manifest.digest)
    return ModelAudit(
        name=name.short,
        manifest=str(manifest.digest),
        problem=None,
        blobs=tuple(blobs),
        licenses=tuple(_license(store, layer) for layer in manifest.of_kind("license")),
        records=records,
        records_problem=records_problem,
    )


def _problem(store: Store, blob: Descriptor, progress: Progress | None) -> str | None:
    try:
        store.verify_blob(blob.digest, blob.size, progress)
    except ManifestsError as error:
        return str(error)
    return None


def _records(store: Store, manifest: Digest) -> tuple[tuple[dict[str, Any], ...], str | None]:
    try:
        return tuple(store.records(manifest)), None
    except ManifestsError as error:
        return (), str(error)


def _license(store: Store, layer: Descriptor) -> dict[str, str]:
    try:
        text = store.read_blob(layer, limit=MAX_LICENSE).decode("utf-8", "replace").strip()
    except ManifestsError:
        text = "(cannot be read)"
    return {"digest": str(layer.digest), "title": text.partition("\n")[0].strip()[:120]}
