"""What an export carries: the models' blobs, sorted into whole and large ones, and where small bytes come from.

Reads manifests and GGUF heads only. Large blobs are not hashed here: the hashing pass and the writer check what they
read.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from bundler import contents, layout, oci
from bundler.errors import ExportRefused
from bundler.patch import Ranges, literals
from manifests import canonical, gate
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.leaves import ENTRY, LEAF_SIZE, content_cuts, leaf_lengths
from manifests.manifest import OCI_MANIFEST, Descriptor, Manifest
from manifests.name import ModelName
from manifests.statement import MAX_SOURCE_TEXT, PLAIN, SCAN_TYPE, SOURCE_KEY, Built, Evidence, Model, Statement
from manifests.store import Store


@dataclass(slots=True, kw_only=True)
class Load:
    """Everything that travels, and, in a delta, what does not: `absent` (digest: SHA-512), some of it `built`.

    `made` are blobs that exist only in the bundle: OCI manifests, the scan, leaf lists. So do patches, which are ranges
    of the blobs they build."""

    store: Store
    leaf_size: int
    models: tuple[Model, ...]
    evidence: tuple[Evidence, ...]
    media_types: dict[Digest, str]
    sizes: dict[Digest, int]
    heads: set[Digest]
    larges: dict[Digest, list[int]]  # leaf lengths
    made: dict[Digest, bytes] = field(repr=False)
    absent: dict[Digest, str] = field(default_factory=dict)
    built: dict[Digest, Built] = field(default_factory=dict)

    @property
    def wholes(self) -> set[Digest]:
        return set(self.sizes) - self.heads - set(self.larges) - set(self.absent)

    def small(self, digest: Digest) -> bytes:
        """The bytes of a blob that travels whole, checked."""
        if digest in self.made:
            return self.made[digest]
        if self._patched(digest) is not None:
            with self.open(digest) as stream:
                data = stream.read()
            if Digest.of(data) != digest:
                raise ExportRefused(
                    "a blob changed between comparing and writing", hint="sealift verify checks the store"
                )
            return data
        descriptor = Descriptor(media_type=self.media_types[digest], digest=digest, size=self.sizes[digest])
        return self.store.read_blob(descriptor, limit=self.sizes[digest])

    def open(self, digest: Digest) -> BinaryIO:
        if digest in self.made:
            return io.BytesIO(self.made[digest])
        target = self._patched(digest)
        if target is None:
            return self.store.open_blob(digest)
        return io.BufferedReader(Ranges(self.store.open_blob(target), literals(self.built[target].pieces)))

    def _patched(self, digest: Digest) -> Digest | None:
        """The blob that this patch builds."""
        return next((target for target, built in self.built.items() if built.patch == digest), None)

    def cargo(self, files: Sequence[int]) -> layout.Cargo:
        """For the packer. `files`: sizes of the layout files."""
        lists = [len(lengths) * ENTRY.size for _, lengths in sorted(self.larges.items())]
        return layout.Cargo(
            heads={digest: self.sizes[digest] for digest in self.heads},
            fixed=[*files, *lists],
            wholes={digest: self.sizes[digest] for digest in self.wholes},
            larges=self.larges,
        )


def load(
    store: Store, names: Sequence[ModelName], *, leaf_size: int = LEAF_SIZE, rules: gate.Rules | None = None
) -> Load:
    """Raises NotFound for an unknown model or a missing blob, ExportRefused for what an importer would refuse."""
    if not names:
        raise ExportRefused("no model named", hint="sealift list shows the models of this store")
    found: dict[ModelName, Manifest] = {}
    for name in names:
        spelled = store.resolve(name)
        found[spelled] = store.manifest(spelled)
    out = Load(
        store=store,
        leaf_size=leaf_size,
        models=(),
        evidence=(),
        media_types={},
        sizes={},
        heads=set(),
        larges={},
        made={},
    )
    models, evidence = [], []
    for name, manifest in sorted(found.items(), key=lambda item: item[0].key):
        for blob in manifest.blobs():
            _add_blob(out, name, blob)
        model = Model(
            name=name,
            manifest=_add_made(out, manifest.raw, manifest.media_type),
            oci=_add_made(out, oci.oci_manifest(manifest), OCI_MANIFEST),
            source=source(store, manifest.digest),
        )
        models.append(model)
        evidence += [Evidence(kind="licence", digest=layer.digest) for layer in manifest.of_kind("license")]
    out.models = tuple(models)
    scan = _scan(store, [manifest for _, manifest in sorted(found.items(), key=lambda item: item[0].key)], rules)
    evidence.append(Evidence(kind="scan", digest=_add_made(out, scan, SCAN_TYPE)))
    out.evidence = tuple(dict.fromkeys(evidence))
    return out


def again(store: Store, statement: Statement, made: dict[Digest, bytes]) -> Load:
    """What a statement says that travels, for writing it once more. `made`: the blobs that the store has not."""
    leaf_size = max((blob.leaves.size for blob in statement.blobs if blob.leaves), default=LEAF_SIZE)
    return Load(
        store=store,
        leaf_size=leaf_size,
        models=statement.models,
        evidence=statement.evidence,
        media_types={blob.digest: blob.media_type for blob in statement.blobs},
        sizes={blob.digest: blob.size for blob in statement.blobs},
        heads=set(),
        larges={},
        made=made,
        built={blob.digest: blob.built for blob in statement.built if blob.built},
    )


def _add_made(out: Load, data: bytes, media_type: str) -> Digest:
    digest = Digest.of(data)
    out.made[digest], out.sizes[digest], out.media_types[digest] = data, len(data), media_type
    out.heads.add(digest)
    return digest


def _add_blob(out: Load, name: ModelName, blob: Descriptor) -> None:
    path = out.store.blob_path(blob.digest)
    with out.store.open_blob(blob.digest):
        size = path.stat().st_size
    if size != blob.size or out.sizes.get(blob.digest, size) != size:
        raise ExportRefused(
            f"{name.short}: blob {blob.digest} has {size} bytes, its manifest says {blob.size}",
            hint=f"pull the model again: sealift pull {name.short}",
        )
    out.sizes[blob.digest] = size
    out.media_types.setdefault(blob.digest, blob.media_type)
    if size > out.leaf_size and blob.digest not in out.larges:
        try:
            cuts = content_cuts(path)
        except ManifestsError as error:
            raise ExportRefused(f"{name.short}: {blob.kind} blob {blob.digest.short}: {error}") from None
        out.larges[blob.digest] = leaf_lengths(size, cuts, out.leaf_size)


def _scan(store: Store, manifests: Sequence[Manifest], rules: gate.Rules | None) -> bytes:
    """The content gate's findings on this side, as evidence. What this side's policy refuses is not exported: the far
    side would refuse it too."""
    report = gate.run([contents.gate_items(manifest, store.blob_path) for manifest in manifests], rules)
    if report.refused:
        raise ExportRefused(
            f"the far side would refuse this: {report.words()}",
            hint="pull or create the model again, or allow the rule under [gate] in policy.toml on both sides",
        )
    return canonical.encode(
        {
            "findings": sorted((f.as_dict() for f in set(report.findings)), key=lambda f: tuple(f.values())),
            "gate": gate.VERSION,
        }
    )


def source(store: Store, manifest: Digest) -> dict[str, str]:
    """Where a model came from, by the store's own records: the newest event that brought it here."""
    records = store.records(manifest)
    if not records:
        return {"kind": "unknown"}
    last = records[-1]
    if last.get("kind") == "import" and isinstance(last.get("source"), dict):
        last = last["source"]
    kept = {}
    for key, value in last.items():
        plain = isinstance(value, str) and PLAIN.fullmatch(value) and len(value) <= MAX_SOURCE_TEXT
        if plain and key != "manifest" and SOURCE_KEY.fullmatch(key):
            kept[key] = value
    return kept
