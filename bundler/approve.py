"""Approve a bundle: one more signer for the very statement that its volumes carry, in a file beside them.

    examine   steps 1 to 7 of `verify`, with the trust of this host, except that approvers are not asked for yet and one
              publisher is enough: their signatures may be what is about to be added. The policy holds.
    approve   signs the payload that was examined, tries whether readers would take the result, writes it

Invariants: nothing is signed that was not examined; the volumes are not written; a file that is there is not replaced;
whoever has signed already does not sign again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler import approvals, verify
from bundler.approvals import MAX_APPROVALS, Signed
from bundler.channels import Channels
from bundler.errors import ApprovalRefused, BadRequest, MediumUnavailable
from bundler.intake import Intake, Progress
from bundler.policy import Policy
from bundler.seal import Keys
from bundler.verify import DRY_RUN, NOT_IN_VERIFY, Verification, VerifiedBundle
from bundler.writing import sync_medium, write_file
from signing import envelope as dsse
from signing.envelope import Envelope, Signature
from signing.errors import NotTrusted
from signing.keys import Signer
from signing.trust import TrustStore
from signing.verdict import Verdict

_SEAL = object()


class Candidate:
    """A bundle that was examined and may be approved. Made by `examine` only."""

    __slots__ = ("found", "now", "policy", "trust")

    def __init__(self, seal: object, found: Verification, trust: TrustStore, policy: Policy, now: datetime) -> None:
        if seal is not _SEAL:
            raise TypeError("a Candidate is made by examine only")
        self.found, self.trust, self.policy, self.now = found, trust, policy, now

    @property
    def publishers(self) -> tuple[str, ...]:
        """Who published it: trusted for that by this host, with good signatures."""
        return self.found.bundle.verdict.signers


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalReport:
    """`file` is None where all signers had signed already. `verdict`: what an import on this host would now say."""

    candidate: Candidate
    file: Path | None
    signed: tuple[str, ...]
    already: tuple[str, ...]
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        found = self.candidate.found
        return {
            "approved": self.file is not None,
            "file": str(self.file) if self.file else None,
            "signed": list(self.signed),
            "already": list(self.already),
            "complete": found.complete,
            "bundle": verify.describe(found.bundle.statement),
            "statement": str(found.bundle.statement_digest),
            "published_by": list(self.candidate.publishers),
            "verdict": self.verdict.as_dict(),
            "notes": list(found.notes),
            "not_checked": list(found.not_checked),
        }


def examine(
    path: Path,
    trust: TrustStore,
    *,
    policy: Policy | None = None,
    seen: Channels | None = None,
    statement_only: bool = False,
    beside: bool = False,
    extra: Sequence[Path] = (),
    keys: Keys | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> Candidate:
    """`statement_only`: no payload is read, and volumes may be elsewhere. `beside`: the approval shall lie beside the
    volumes, or is refused before they are read. `extra`: approvals that lie elsewhere."""
    now, policy = now or datetime.now(timezone.utc), policy or Policy()
    roles = sorted({"publisher", *policy.roles} - {"approver"})
    seen = seen or Channels.imported()
    bundle = verify.authenticate(path, one_publisher(trust), policy, seen.moment(now), extra, roles=roles, keys=keys)
    if beside:
        _require_beside(bundle)
    notes, not_checked = verify.admit(bundle, policy, seen, now, partial=statement_only)
    not_checked += verify.supposed(bundle.statement)
    if statement_only:
        not_checked.append(DRY_RUN)
    else:
        Intake(bundle.medium, bundle.statement, bundle.payloads, sums=True, progress=progress).run()
    found = Verification(
        bundle=bundle,
        complete=not statement_only,
        notes=tuple(notes),
        not_checked=(*not_checked, *NOT_IN_VERIFY),
    )
    return Candidate(_SEAL, found, trust, policy, seen.moment(now))


def one_publisher(trust: TrustStore) -> TrustStore:
    """The same trust where one publisher is enough: for what may come before all have signed."""
    roles = (replace(role, threshold=1) if role.name == "publisher" else role for role in trust.roles)
    return replace(trust, roles=tuple(roles))


def approve(candidate: Candidate, signers: Sequence[Signer], out: Path | None = None) -> ApprovalReport:
    """`out`: the file to write, or a folder for it; None: beside the volumes."""
    bundle = candidate.found.bundle
    if out is None:
        _require_beside(bundle)
    base = dsse.decode(bundle.envelope)
    waiting = {signer.name: _missing(base, signer) for signer in signers}
    signed = tuple(name for name, signatures in waiting.items() if signatures)
    already = tuple(name for name, signatures in waiting.items() if not signatures)
    file, envelope = None, bundle.envelope
    if signed:
        made = sorted((one for found in waiting.values() for one in found), key=lambda one: one.keyid)
        raw = dsse.encode(replace(base, signatures=tuple(made)))
        file = _place(bundle.medium.folder, approvals.file_name(bundle.medium.stem, made[0].keyid), out)
        if len(bundle.approvals) >= MAX_APPROVALS:
            raise ApprovalRefused(f"{len(bundle.approvals)} approvals are there already; readers take no more")
        envelope = approvals.merge(envelope, [(file.name, raw)]).envelope
        _write(file, raw)
    return ApprovalReport(
        candidate=candidate,
        file=file,
        signed=signed,
        already=already,
        verdict=_verdict(candidate, Signed(envelope=envelope)),
    )


def _require_beside(bundle: VerifiedBundle) -> None:
    if bundle.medium.sealed:
        raise BadRequest(
            "an approval carries the statement, which this bundle hides: it does not belong beside the volumes",
            hint="write it elsewhere with -o FILE, and name it at the import: --approval FILE",
        )


def _missing(base: Envelope, signer: Signer) -> tuple[Signature, ...]:
    """New signatures by those keys of the signer that have not signed. A wrong one in its name is refused."""
    made = {signature.keyid: signature.sig for signature in base.signatures}
    for key in signer.public.keys:
        if key.id in made and not key.verify(made[key.id], base.signed_bytes):
            raise ApprovalRefused(
                f"the bundle carries a wrong signature by {signer.name}'s {key.scheme} key: damaged or forged",
                hint="get the bundle and its approvals again from their source",
            )
    if all(key.id in made for key in signer.public.keys):
        return ()
    new = signer.sign(base.signed_bytes)
    return tuple(Signature(keyid=key.id, sig=sig) for key, sig in new if key.id not in made)


def _place(folder: Path, name: str, out: Path | None) -> Path:
    path = folder / name if out is None else out / name if out.is_dir() else out
    if path.exists():
        raise BadRequest(f"{path} exists and stays as it is", hint="give another file with -o")
    return path


def _write(path: Path, raw: bytes) -> None:
    try:
        write_file(path, raw)
    except OSError as error:
        raise MediumUnavailable(
            f"cannot write {path}: {error.strerror or error}",
            hint="give a file elsewhere with -o, and carry it with the volumes or name it with --approval",
        ) from None
    sync_medium(path.parent)


def _verdict(candidate: Candidate, signed: Signed) -> Verdict:
    trust, policy = candidate.trust, candidate.policy
    try:
        roles = verify.required_roles(trust, policy)
        return verify.judge(signed.envelope, trust, policy, candidate.now, roles).verdict
    except NotTrusted as error:
        return error.verdict
