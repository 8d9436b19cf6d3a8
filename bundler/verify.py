"""Verify a bundle where it lies, with no store: steps 1 to 7 of an import (DESIGN 5), without staging.

    1 size-capped SEALIFT line and statement    medium.open_medium, approvals.gather
    2 signatures, threshold, revocation         signing: TrustStore.verify
    3 strict parse                              Statement.decode, layout.check
    4 policy that needs no payload              policy.check, channels.check, medium.check_volumes, the files beside
    5 stop here for a dry run
    6 stream, leaf by leaf · 7 whole digests    intake.Intake

A `VerifiedBundle` is made here alone, after step 3: holding one is the proof that its statement was signed as the trust
that `authenticate` was given demands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from bundler import approvals, channels, conceal, delta_apply, layout, medium, sheet
from bundler.approvals import Approval, Signed
from bundler.channels import Channels
from bundler.errors import BundleRefused, VolumeMixed, medium_errors
from bundler.intake import Intake, Progress
from bundler.layout import Member
from bundler.medium import Medium
from bundler.policy import Policy
from bundler.seal import Keys
from manifests.digest import Digest
from manifests.statement import PAYLOAD_TYPE, Statement, parse_time
from manifests.store import Store
from signing.errors import NotTrusted
from signing.trust import TrustStore
from signing.verdict import Verdict
from signing.verified import VerifiedPayload

_SEAL = object()
MAX_BESIDE = 16 << 20  # bytes of the sheet or the verifier

DRY_RUN = "every byte of the volumes behind the statement: this was a dry run"
IMPLIED = "payload hashes of volumes: implied by headers, leaves and digests"
NOT_IN_VERIFY = (
    "the content gate: it runs at import",
    "free space and names of a store: no store was looked at",
)


class VerifiedBundle:
    """A bundle whose statement is trusted; its payload is not yet read. Made by `authenticate` only.

    `envelope` carries the signatures of the volumes and of all approvals; `medium.envelope` those of the volumes alone.
    """

    __slots__ = ("approvals", "envelope", "medium", "payloads", "statement", "statement_digest", "verdict")

    def __init__(
        self,
        seal: object,
        medium: Medium,
        signed: Signed,
        statement: Statement,
        statement_digest: Digest,
        verdict: Verdict,
        payloads: list[list[Member]],
    ) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedBundle is made by authenticate only")
        self.medium, self.statement, self.statement_digest = medium, statement, statement_digest
        self.verdict, self.payloads = verdict, payloads
        self.envelope: bytes = signed.envelope
        self.approvals: tuple[Approval, ...] = signed.approvals

    @property
    def size(self) -> int:
        """Bytes of all volumes."""
        volumes = self.statement.volumes
        return sum(medium.volume_size(self.statement, self.medium.envelope, i) for i in range(len(volumes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `complete` is false after a dry run: then no payload byte was read."""

    bundle: VerifiedBundle
    complete: bool
    notes: tuple[str, ...]
    not_checked: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "verified": self.complete,
            "bundle": describe(self.bundle.statement),
            "statement": str(self.bundle.statement_digest),
            "verdict": self.bundle.verdict.as_dict(),
            "approvals": [item.name for item in self.bundle.approvals],
            "notes": list(self.notes),
            "not_checked": list(self.not_checked),
        }


def verify(
    path: Path,
    trust: TrustStore,
    *,
    policy: Policy | None = None,
    seen: Channels | None = None,
    dry_run: bool = False,
    sums: bool = False,
    store: Store | None = None,
    extra: Sequence[Path] = (),
    keys: Keys | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Raises what the first failing check raises. `seen` is the memory of this side; the default lies in the home.
    `store`: what a delta supposes is looked for there, and what it builds is built and thrown away. `extra`: approvals
    that do not lie beside the volumes. `keys`: where volumes are encrypted. `sums`: see Intake."""
    now = now or datetime.now(timezone.utc)
    policy, seen = policy or Policy(), seen or Channels.imported()
    bundle = authenticate(path, trust, policy, seen.moment(now), extra, keys=keys)
    notes, not_checked = admit(bundle, policy, seen, now)
    if dry_run or store is None:
        not_checked += supposed(bundle.statement)
    if dry_run:
        not_checked.append(DRY_RUN)
    else:
        held = _held(store, bundle, policy, progress) if store else frozenset()
        Intake(bundle.medium, bundle.statement, bundle.payloads, sums=sums, progress=progress).run()
        not_checked += [] if sums else [IMPLIED]
        if store:
            _try_out(store, bundle, held)
    return Verification(
        bundle=bundle, complete=not dry_run, notes=tuple(notes), not_checked=(*not_checked, *NOT_IN_VERIFY)
    )


def authenticate(
    path: Path,
    trust: TrustStore,
    policy: Policy,
    now: datetime,
    extra: Sequence[Path] = (),
    *,
    roles: Sequence[str] | None = None,
    keys: Keys | None = None,
) -> VerifiedBundle:
    """Steps 1 to 3. `now`: see `Channels.moment`. `roles` None: all that an import needs. Raises NotTrusted,
    BundleRefused, StatementError."""
    found = medium.open_medium(path, keys)  # 1
    signed = approvals.gather(found, extra)
    roles = roles or required_roles(trust, policy)
    verified = judge(signed.envelope, trust, policy, now, roles)  # 2
    statement = Statement.decode(verified.payload)  # 3
    if (made := parse_time(statement.created)) > now:  # then it is at least as late as it says, also for trust.toml
        verified = judge(signed.envelope, trust, policy, made, roles)
    if statement.id != found.id:
        raise BundleRefused(f"the SEALIFT line says bundle {found.id}, the statement {statement.id}")
    if found.stem not in (layout.stem(statement), conceal.stem(statement)):
        raise VolumeMixed(
            f"volumes named {found.stem}.v*.tar carry the statement of {layout.stem(statement)}: renamed",
            hint="give the volumes back the names they were exported with",
        )
    digest = Digest.of(verified.payload)
    return VerifiedBundle(_SEAL, found, signed, statement, digest, verified.verdict, layout.check(statement))


def required_roles(trust: TrustStore, policy: Policy) -> list[str]:
    return sorted({*policy.roles, *trust.required_roles})


def judge(envelope: bytes, trust: TrustStore, policy: Policy, now: datetime, roles: Sequence[str]) -> VerifiedPayload:
    """Step 2. Raises NotTrusted or MalformedEnvelope, and StatementError for a trusted payload without a channel."""
    decode = lru_cache(maxsize=1)(Statement.decode)  # asked twice for the same large payload
    try:
        return trust.verify(
            envelope,
            payload_type=PAYLOAD_TYPE,
            roles=roles,
            channel=lambda payload: decode(payload).channel,
            signed_at=lambda payload: parse_time(decode(payload).created),
            required_profile=policy.profile,
            now=now.date(),
        )
    except NotTrusted as error:
        wanting = [role.role for role in error.verdict.roles if not role.met]
        if error.hint is None and wanting == ["approver"]:
            error.hint = "an approver signs it with: sealift bundle approve FOLDER --sign NAME"
        raise


def admit(
    bundle: VerifiedBundle, policy: Policy, seen: Channels, now: datetime, *, partial: bool = False
) -> tuple[list[str], list[str]]:
    """Step 4 without the store: notes for a person, and what could not be checked. `now` is the clock's; `partial`:
    volumes may be absent."""
    not_checked = list(bundle.verdict.not_checked) + policy.check(bundle.statement, seen.moment(now))
    last = seen.last(bundle.statement.channel)
    notes = channels.clock_notes(seen.newest_time(), parse_time(bundle.statement.created), now)
    notes += channels.check(last, bundle.statement, allow_rollback=policy.allow_rollback, allow_gap=policy.allow_gap)
    if last is None:
        not_checked.append(f"rollback: no bundle of channel {bundle.statement.channel} was ever imported here")
    missing = medium.check_volumes(bundle.medium, bundle.statement, partial=partial)
    not_checked += [f"volume {name}: it is not here" for name in missing]
    if medium.parity_names(bundle.medium):
        not_checked.append("the parity volumes: sealift bundle repair looks at them")
    if policy.profile == "cnsa2" and _read_beside(bundle.medium.folder / layout.VERIFIER) not in (
        None,
        layout.verifier(),
    ):
        not_checked.append(f"{layout.VERIFIER} beside the volumes: the statement names it by SHA-256 alone")
    return notes + _check_beside(bundle), not_checked


def _check_beside(bundle: VerifiedBundle) -> list[str]:
    """The sheet and the verifier are read and run by people, so on the medium they must be what the statement
    implies."""
    notes = []
    text = _read_beside(bundle.medium.folder / (bundle.medium.stem + layout.SHEET_SUFFIX))
    right = (sheet.text(bundle.statement, bundle.medium.envelope).encode(), conceal.sheet(bundle.statement).encode())
    if text is None:
        notes.append("the officer's sheet is not on the medium")
    elif text not in right:
        raise BundleRefused(
            "the officer's sheet on the medium does not say what the statement says: altered or damaged"
        )
    program = _read_beside(bundle.medium.folder / layout.VERIFIER)
    if program is None:
        notes.append(f"{layout.VERIFIER} is not on the medium")
    elif hashlib.sha256(program).hexdigest() != bundle.statement.verifier.hex:
        raise BundleRefused(
            f"{layout.VERIFIER} on the medium is not the one that the statement names: altered or damaged",
            hint="do not run it; take the one from an installed sealift",
        )
    return notes


def _read_beside(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with medium_errors(path), path.open("rb") as stream:
        return stream.read(MAX_BESIDE)


def _held(store: Store, bundle: VerifiedBundle, policy: Policy, progress: Progress | None) -> frozenset[Digest]:
    return delta_apply.demand(store, bundle.statement, progress, sha512=policy.profile == "cnsa2")


def _try_out(store: Store, bundle: VerifiedBundle, held: frozenset[Digest]) -> None:
    statement, envelope = bundle.statement, bundle.medium.envelope
    names = layout.volume_names(statement)
    heads = [len(layout.head(statement, envelope, index)) for index in range(len(names))]
    delta_apply.try_out(store, bundle.medium, heads, bundle.payloads, names, statement, held)


def supposed(statement: Statement) -> list[str]:
    """What a delta leaves to the other side's store, for `not_checked`."""
    said = []
    if statement.held:
        said.append(f"{len(statement.held)} blobs that the other side has")
    if statement.built:
        said.append(f"{len(statement.built)} blobs that it builds from them and the patches that travel")
    return said


def describe(statement: Statement) -> dict[str, Any]:
    """The statement for people and scripts: names and sizes, no hashes of volumes."""
    sizes = {blob.digest: blob.size for blob in statement.blobs}
    return {
        "id": statement.id,
        "label": statement.label,
        "channel": statement.channel,
        "sequence": statement.sequence,
        "predecessor": str(statement.predecessor) if statement.predecessor else None,
        "created": statement.created,
        "expires": statement.expires,
        "tool": statement.tool,
        "bytes": sum(sizes.values()),
        "since": _since_out(statement),
        "models": [
            {"name": model.name.short, "manifest": str(model.manifest), "source": dict(model.source)}
            for model in statement.models
        ],
        "volumes": layout.volume_names(statement),
        "evidence": [{"kind": item.kind, "digest": str(item.digest)} for item in statement.evidence],
    }


def _since_out(statement: Statement) -> dict[str, Any] | None:
    """Of a delta: what it follows, and what must be in the store."""
    if statement.since is None:
        return None
    return {
        "kind": statement.since.kind,
        "id": statement.since.id,
        "held": [{"digest": str(blob.digest), "size": blob.size} for blob in statement.held],
        "built": [
            {
                "digest": str(blob.digest),
                "size": blob.size,
                "base": str(blob.built.base),
                "travels": sum(piece.size for piece in blob.built.pieces if piece.base is None),
            }
            for blob in statement.built
            if blob.built
        ],
    }
