"""Import a bundle into a store. The order is the law of DESIGN 5, and the numbers below are its steps.

    1-3 verify.authenticate · 4 verify.admit, free space, what a delta supposes to be here · 5 stop for a dry run ·
    6-7 intake into staging, then what a delta builds ·
    8 the content gate, in a child · 9 blobs, then manifests, by rename · 10 record, and what the channel has seen

Invariants: until step 9 the live store is only read; a blob it has already is used only after being hashed again;
nothing of the medium is written or removed. After any failure, running the import again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler import contents as contents_of
from bundler import delta_apply, receipt, verify
from bundler.channels import Channels
from bundler.contents import Contents
from bundler.errors import GateFailed, GateRefused
from bundler.intake import Intake, Progress
from bundler.policy import Policy
from bundler.seal import Keys
from bundler.staging import Staging
from bundler.verify import VerifiedBundle
from manifests import gate
from manifests.digest import Digest
from manifests.errors import DigestMismatch, ManifestsError, NotFound
from manifests.gate import Finding
from manifests.manifest import Manifest
from manifests.name import ModelName
from manifests.statement import Model, format_time
from manifests.store import Store
from signing.trust import TrustStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`action` is `new`, `same` (was there already), `replaced` (`previous` says what) or `kept` (see `keep`)."""

    name: ModelName
    manifest: Digest
    action: str
    previous: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    bundle: VerifiedBundle
    complete: bool  # false after a dry run
    models: tuple[Imported, ...]
    reused: int  # bytes that the store had and that were hashed again instead of read from the medium
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    not_checked: tuple[str, ...]
    time: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "imported": self.complete,
            "time": self.time,
            "bundle": verify.describe(self.bundle.statement),
            "statement": str(self.bundle.statement_digest),
            "models": [
                {
                    "name": item.name.short,
                    "manifest": str(item.manifest),
                    "action": item.action,
                    "previous": str(item.previous) if item.previous else None,
                }
                for item in self.models
            ],
            "reused_bytes": self.reused,
            "verdict": self.bundle.verdict.as_dict(),
            "approvals": [item.name for item in self.bundle.approvals],
            "findings": receipt.findings_out(self.findings),
            "notes": list(self.notes),
            "not_checked": list(self.not_checked),
        }


def import_bundle(
    path: Path,
    store: Store,
    trust: TrustStore,
    *,
    policy: Policy | None = None,
    seen: Channels | None = None,
    keep: bool = False,
    dry_run: bool = False,
    extra: Sequence[Path] = (),
    keys: Keys | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """`keep`: a name that the store has with another manifest keeps it; by default the verified bundle replaces it.
    `extra`: approvals that do not lie beside the volumes. `keys`: where volumes are encrypted."""
    now = now or datetime.now(timezone.utc)
    policy, seen = policy or Policy(), seen or Channels.imported()
    bundle = verify.authenticate(path, trust, policy, seen.moment(now), extra, keys=keys)  # 1-3
    if not dry_run:
        seen.witness(bundle.statement)  # even if it is refused below
    notes, not_checked = verify.admit(bundle, policy, seen, now)  # 4
    models = _plan(store, bundle, keep)
    if dry_run:  # 5
        delta_apply.present(store, bundle.statement)
        return ImportReport(
            bundle=bundle,
            complete=False,
            models=models,
            reused=0,
            findings=(),
            notes=tuple(notes),
            not_checked=(*not_checked, verify.DRY_RUN, "the content gate"),
            time=format_time(now),
        )
    with Staging(store, bundle.statement.id) as staging:
        sha512 = policy.profile == "cnsa2"
        held = delta_apply.demand(store, bundle.statement, progress, sha512=sha512)
        held |= _held(store, bundle, progress, sha512=sha512)
        store.require_space(_bytes_needed(bundle, staging, held))
        intake = Intake(bundle.medium, bundle.statement, bundle.payloads, staging=staging, held=held, progress=progress)
        contents = intake.run()  # 6, 7
        delta_apply.build(store, staging, bundle.statement, held, progress)
        report = _gate(store, staging, contents, held, policy)  # 8
        not_checked += [*report.not_checked, verify.IMPLIED]
        result = ImportReport(
            bundle=bundle,
            complete=True,
            models=models,
            reused=sum(blob.size for blob in bundle.statement.blobs if blob.digest in held),
            findings=report.findings,
            notes=tuple(notes),
            not_checked=tuple(not_checked),
            time=format_time(now),
        )
        _install(store, staging, held, contents, result, seen)  # 9, 10
        staging.remove()
    return result


def _plan(store: Store, bundle: VerifiedBundle, keep: bool) -> tuple[Imported, ...]:
    return tuple(_plan_model(store, model, keep) for model in bundle.statement.models)


def _plan_model(store: Store, model: Model, keep: bool) -> Imported:
    try:
        previous = store.manifest(model.name).digest
    except NotFound:
        return Imported(name=model.name, manifest=model.manifest, action="new")
    except ManifestsError:
        return Imported(name=model.name, manifest=model.manifest, action="replaced")  # what is there cannot be read
    if previous == model.manifest:
        return Imported(name=model.name, manifest=model.manifest, action="same", previous=previous)
    action = "kept" if keep else "replaced"
    return Imported(name=model.name, manifest=model.manifest, action=action, previous=previous)


def _held(store: Store, bundle: VerifiedBundle, progress: Progress | None, *, sha512: bool) -> frozenset[Digest]:
    """The large blobs that the live store has and whose bytes are right. A damaged one will be replaced. `sha512`: the
    store's own hash is not enough (profile cnsa2)."""
    held = set()
    for blob in bundle.statement.blobs:
        if blob.leaves is not None and store.has_blob(blob.digest):
            try:
                store.verify_blob(blob.digest, blob.size, progress)
            except DigestMismatch:
                continue
            if sha512 and _sha512(store.blob_path(blob.digest)) != blob.sha512:
                continue
            held.add(blob.digest)
    return frozenset(held)


def _sha512(path: Path) -> str:
    found = hashlib.sha512()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def _bytes_needed(bundle: VerifiedBundle, staging: Staging, held: frozenset[Digest]) -> int:
    blobs = [blob for blob in bundle.statement.blobs if blob.digest not in held]
    return sum(max(0, blob.size - staging.held(blob.digest)) for blob in blobs)


def _gate(store: Store, staging: Staging, contents: Contents, held: frozenset[Digest], policy: Policy) -> gate.Report:
    """Step 8. One finding that policy refuses, and the whole bundle is."""

    def path(digest: Digest) -> Path:
        return store.blob_path(digest) if digest in held else staging.path(digest)

    try:
        report = gate.run([contents_of.gate_items(manifest, path) for manifest in contents.manifests], policy.gate)
    except ManifestsError as error:
        raise GateFailed(str(error), hint="nothing was imported; run it again") from None
    if report.refused:
        raise GateRefused(
            f"the content gate found {len(report.refused)} problem(s): {report.words()}",
            report.findings,
            hint="nothing was imported; tell the publisher of the bundle, or decide by rule: [gate] in policy.toml",
        )
    return report


def _install(
    store: Store,
    staging: Staging,
    held: frozenset[Digest],
    contents: Contents,
    result: ImportReport,
    seen: Channels,
) -> None:
    """Steps 9 and 10. Blobs before manifests, because Ollama prunes blobs that no manifest names; the channel's number
    before the first manifest, so that no crash leaves a bundle visible and its predecessors welcome."""
    wanted = _installed(contents.manifests, result.models)
    for manifest, _ in wanted:
        for blob in manifest.blobs():
            if blob.digest not in held and staging.path(blob.digest).exists():
                store.adopt(staging.path(blob.digest), blob.digest)
    receipt.keep_envelope(store, result.bundle)
    seen.remember(result.bundle.statement, result.bundle.statement_digest, result.time)
    for manifest, item in wanted:
        store.put_manifest(item.name, manifest.raw)
    for (_, item), model in zip(wanted, _sources(result), strict=True):
        receipt.record(store, result, item, model)


def _installed(manifests: Sequence[Manifest], models: Sequence[Imported]) -> list[tuple[Manifest, Imported]]:
    return [(manifest, item) for manifest, item in zip(manifests, models, strict=True) if item.action != "kept"]


def _sources(result: ImportReport) -> list[Model]:
    pairs = zip(result.bundle.statement.models, result.models, strict=True)
    return [model for model, item in pairs if item.action != "kept"]
