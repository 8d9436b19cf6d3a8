"""`sealift bundle approve`: arguments and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import APPROVAL, FOLDER, IDENTITY, JSON, TRUST, load_identity, load_policy, renewed_trust
from bundler.printing import bar, counted, print_json, say

if TYPE_CHECKING:
    from bundler.approve import ApprovalReport, Candidate


def register(bundle_app: typer.Typer) -> None:
    bundle_app.command("approve")(approve_)


def approve_(
    folder: Path = FOLDER,
    sign: list[str] = typer.Option(
        ..., "--sign", help="Name of the approver's key; may be given several times.", show_default=False
    ),
    out: Path = typer.Option(
        None, "--out", "-o", help="Write the approval there, not beside the volumes.", show_default=False
    ),
    statement_only: bool = typer.Option(
        False, "--statement-only", help="Read no payload; volumes may be elsewhere. What was not checked is said."
    ),
    approval: list[Path] = APPROVAL,
    identity: Path = IDENTITY,
    trust: Path = TRUST,
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with the key's passphrase."),
    as_json: bool = JSON,
) -> None:
    """Check a bundle, say what is in it, and sign the same statement as an approver.

    The signature goes into a small file beside the volumes, which stay as they are. A trust file that names an approver
    refuses a bundle until this is done. From a medium that cannot be written:

    \b
        sealift bundle approve /media/usb --sign officer -o officer.dsse.json
        sealift bundle import /media/usb --approval officer.dsse.json
    """
    from bundler.approve import approve, examine
    from bundler.commands_custody import named, recorded
    from signing.keyring import Keyring, keys_dir, open_signer

    names = list(dict.fromkeys(sign))
    for name in names:
        Keyring(keys_dir()).public(name)  # a misspelt name is told before every byte is read
    policy, keys = load_policy(), load_identity(identity, folder)
    judged_by = renewed_trust(folder, trust, policy, keep=False)
    with bar("verifying") as progress:
        candidate = examine(
            folder,
            judged_by,
            policy=policy,
            statement_only=statement_only,
            beside=out is None,
            extra=approval or (),
            keys=keys,
            progress=None if statement_only else counted(progress, folder),
        )
    if not as_json:
        _print_candidate(candidate)  # before the passphrase is asked for
    signers = [open_signer(name, passphrase_file=passphrase_file) for name in names]
    report = approve(candidate, signers, out)
    if report.signed:
        by = {"by": ", ".join(report.signed)}
        recorded("approve", named(candidate.found.bundle.statement) | by, signers[0])
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)


def _print_candidate(candidate: Candidate) -> None:
    from bundler.sizes import show_size

    found = candidate.found
    statement = found.bundle.statement
    print(
        f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}, created {statement.created}"
    )
    print(f"statement {found.bundle.statement_digest}")
    print(f"published by {', '.join(candidate.publishers)}")
    print(f"{len(statement.volumes)} volume(s), {show_size(found.bundle.size)}")
    for model in statement.models:
        origin = model.source.get("source") or model.source.get("kind", "unknown")
        print(f"  {model.name.short}  {model.manifest}  from {origin}")
    for note in found.notes:
        print(f"note: {note}")
    for item in found.not_checked:
        print(f"not checked: {item}")
    if found.complete:
        print("verified: every byte of every volume is as signed", flush=True)
    else:
        print("the statement alone was checked", flush=True)


def _print_report(report: ApprovalReport) -> None:
    if report.file is None:
        say(f"nothing to do: {', '.join(report.already)} signed this statement already")
    else:
        print(f"approved by {', '.join(report.signed)}: {report.file}")
    if report.verdict.accepted:
        print("with this, the trust of this host is satisfied")
        return
    print("the trust of this host is not satisfied yet:")
    for line in report.verdict.sentences()[1:]:
        print(f"  {line}")
