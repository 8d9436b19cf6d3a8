"""`sealift bundle export | verify | inspect | import`: arguments and printing only. `approve`: commands_approve."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import (
    APPROVAL,
    BUNDLE_PASSPHRASE,
    CUSTODIAN,
    FOLDER,
    GAP,
    IDENTITY,
    JSON,
    MEDIUM,
    TRUST,
    authenticated,
    expiry,
    load_identity,
    load_policy,
    load_trust,
    renewed_trust,
    sealing_of,
)
from bundler.printing import (
    bar,
    counted,
    print_bundle,
    print_import,
    print_inspection,
    print_json,
    print_since,
    print_verification,
    say,
)

if TYPE_CHECKING:
    from bundler.importer import ImportReport
    from bundler.seal import Keys
    from manifests.name import ModelName
    from manifests.store import Store

# Set by the door (sealift.py), where there is an engine: packs a model's weights for this machine.
prepare_model: Callable[[Store, ModelName], object] | None = None


def register(group: typer.Typer) -> None:
    for name, verb in (("export", export_), ("verify", verify_), ("inspect", inspect_), ("import", import_)):
        group.command(name)(verb)


def export_(
    names: list[str] = typer.Argument(help="Models of the store, such as llama3.2:1b.", show_default=False),
    out: Path = typer.Option(..., "--out", "-o", help="An empty folder: the medium.", show_default=False),
    sign: list[str] = typer.Option(
        ..., "--sign", help="Name of a key; may be given several times.", show_default=False
    ),
    volume_size: str = typer.Option(
        "fat32", "--volume-size", help="Largest volume: 32M, 4GB, none, diode, av2g, fat32, dvd, bd25, bd100."
    ),
    channel: str = typer.Option(None, "--channel", help="Series of bundles this belongs to, such as acme/llm."),
    seq: int = typer.Option(None, "--seq", min=1, help="Number in the channel; by default one more than the last."),
    parity: str = typer.Option(
        None, "--parity", help="Add parity volumes: 10% of the volumes, or a number such as 2. See `bundle repair`."
    ),
    since: str = typer.Option(
        None,
        "--since",
        metavar="BUNDLE|INVENTORY",
        help="Send only what changed: a bundle's folder or id, or a file of `sealift inventory`.",
        show_default=False,
    ),
    allow_unsigned: bool = typer.Option(
        False, "--allow-unsigned-inventory", help="Take an inventory without looking at its signatures."
    ),
    label: str = typer.Option(
        None, "--label", help="Beginning of the files' names; by default the name of the model that is named first."
    ),
    expires: str = typer.Option(None, "--expires", help="Refused after this time: 2027-01-31 or 2027-01-31T12:00:00Z."),
    with_trust: bool = typer.Option(
        False, "--with-trust", help="Carry the signed versions of trust too. See `trust init`."
    ),
    encrypt: list[str] = typer.Option(
        None,
        "--encrypt",
        help="Encrypt the volumes for this recipient, age1…, or for those in this file; may be given several times.",
        show_default=False,
    ),
    encrypt_passphrase: bool = typer.Option(
        False, "--encrypt-passphrase", help=f"Encrypt for who knows a passphrase: asked for, or {BUNDLE_PASSPHRASE}."
    ),
    index: str = typer.Option(
        "hidden", "--index", help="With --encrypt: `readable` leaves the index volume, the sheet and names in clear."
    ),
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with the key's passphrase."),
    medium: str = MEDIUM,
    custodian: str = CUSTODIAN,
    as_json: bool = JSON,
) -> None:
    """Seal models into a signed bundle of volumes.

    The same command again after an interruption finishes the same bundle. Example:

    \b
        sealift bundle export llama3.2:1b mine -o /media/usb --sign alice --volume-size fat32
    """
    from bundler import carried, layout
    from bundler.commands_custody import hands, named, recorded
    from bundler.delta_since import other_side
    from bundler.draft import Options
    from bundler.export import export
    from bundler.sizes import parse_size, show_size
    from manifests.name import ModelName
    from manifests.store import Store
    from signing.hosttrust import HostTrust
    from signing.keyring import open_signer

    sealing = sealing_of(encrypt or [], index, with_trust=with_trust, passphrase=encrypt_passphrase)
    chain = HostTrust.here().chain() if with_trust else None  # before the work: there may be nothing signed
    options = Options(
        volume_size=parse_size(volume_size),
        channel=channel,
        sequence=seq,
        label=label,
        expires=expiry(expires),
        parity=parity,
        sealing=sealing,
    )
    parsed = [ModelName.parse(name) for name in names]
    signers = [open_signer(name, passphrase_file=passphrase_file) for name in dict.fromkeys(sign)]
    known = other_side(since, load_trust(None), signers, unsigned=allow_unsigned) if since is not None else None
    with bar("exporting") as progress:
        report = export(
            Store(), parsed, out, signers, options, since=known, rules=load_policy().gate, progress=progress
        )
    if chain is not None:
        carried.write(out, layout.stem(report.statement), chain)
    recorded("export", named(report.statement) | hands(medium, custodian), signers[0])
    if as_json:
        print_json(report.as_dict())
        return
    statement = report.statement
    print(f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}")
    also = f" and {len(report.parity)} parity volume(s)" if report.parity else ""
    also += f", encrypted for {len(sealing.recipients)} recipient(s)" if sealing else ""
    print(f"{len(statement.volumes)} volume(s){also}, {show_size(report.bytes)}, in {report.folder}")
    print_since(statement)
    say(
        "finished the export that was interrupted"
        if report.resumed
        else "signed by " + ", ".join(s.name for s in signers)
    )


def verify_(
    folder: Path = FOLDER,
    dry_run: bool = typer.Option(False, "--dry-run", help="Judge the statement only; read no payload."),
    sums: bool = typer.Option(
        False, "--sums", help="Also compare the sums of whole volumes that the sheet has; takes half as long again."
    ),
    with_store: bool = typer.Option(
        False, "--store", help="Of a bundle that sends only what changed: check against this host's store too."
    ),
    allow_gap: bool = GAP,
    approval: list[Path] = APPROVAL,
    identity: Path = IDENTITY,
    trust: Path = TRUST,
    slip: Path = typer.Option(
        None,
        "--slip",
        help="Where volumes are damaged or missing: look at all, write a resend slip.",
        show_default=False,
    ),
    as_json: bool = JSON,
) -> None:
    """Check a bundle where it lies: who signed, what is inside, every byte. Says what was not checked.

    Exit codes: 0 verified, 1 refused, 3 not trusted, 4 unreadable.
    """
    from bundler.errors import MediumUnavailable, VolumeDamaged, VolumeMissing
    from bundler.verify import verify
    from manifests.store import Store

    policy = load_policy(allow_gap)
    keys = load_identity(identity, folder)
    judged_by = renewed_trust(folder, trust, policy, keep=False)
    try:
        with bar("verifying") as progress:
            report = verify(
                folder,
                judged_by,
                policy=policy,
                dry_run=dry_run,
                sums=sums,
                store=Store() if with_store else None,
                extra=approval or (),
                keys=keys,
                progress=counted(progress, folder),
            )
    except (VolumeDamaged, VolumeMissing, MediumUnavailable) as error:
        if slip is not None:
            _write_slip(folder, slip, as_json, keys)
        error.hint = error.hint or "sealift bundle repair FOLDER looks at all of it, and says what to send again"
        raise
    if as_json:
        print_json(report.as_dict())
    else:
        print_bundle(report.bundle)
        print_verification(report)


def _write_slip(folder: Path, slip: Path, as_json: bool, keys: Keys | None) -> None:
    from bundler.commands_repair import hand_out
    from bundler.errors import RepairImpossible
    from bundler.repair import survey

    try:
        with bar("looking at all volumes") as progress:
            survey(folder, keys=keys, progress=counted(progress, folder))
    except RepairImpossible as error:
        hand_out(error, slip, None, as_json)


def inspect_(
    folder: Path = FOLDER,
    approval: list[Path] = APPROVAL,
    identity: Path = IDENTITY,
    trust: Path = TRUST,
    as_json: bool = JSON,
) -> None:
    """Show what a bundle says it holds, without reading its payload. This is no verdict."""
    from bundler.inspect import inspect

    keys = load_identity(identity, folder)
    found = inspect(folder, load_trust(trust) if trust else None, extra=approval or (), keys=keys)
    if as_json:
        print_json(found.as_dict())
    else:
        print_inspection(found)


def import_(
    folder: Path = FOLDER,
    dry_run: bool = typer.Option(False, "--dry-run", help="Judge the statement only; change nothing."),
    keep: bool = typer.Option(False, "--keep", help="A name that is here with other content keeps its content."),
    allow_gap: bool = GAP,
    prepare: bool = typer.Option(False, "--prepare", help="Then pack the weights, so that the first load is fast too."),
    approval: list[Path] = APPROVAL,
    receipt_key: str = typer.Option(
        None, "--receipt-key", help="Key that signs the receipt; `receipt` if there is one of that name, else nobody."
    ),
    receipt_out: Path = typer.Option(
        None, "--receipt-out", help="Folder that gets a copy of the receipt, to be carried back.", show_default=False
    ),
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with that key's passphrase."),
    medium: str = MEDIUM,
    custodian: str = CUSTODIAN,
    identity: Path = IDENTITY,
    trust: Path = TRUST,
    as_json: bool = JSON,
) -> None:
    """Check a bundle and bring its models into the store. Nothing is visible before everything was checked.

    The same command again after an interruption goes on where it stopped. The medium is never changed.
    What became of the bundle is written as a receipt, for a refused one too: `sealift receipt show FILE`.
    """
    from bundler.commands_custody import hands
    from bundler.commands_receipts import open_keeper, print_kept
    from bundler.importer import import_bundle
    from manifests.store import Store

    store, policy, keys = Store(), load_policy(allow_gap), load_identity(identity, folder)
    keeper = open_keeper(receipt_key, passphrase_file, receipt_out, hands(medium, custodian), unused=dry_run)
    with print_kept(keeper), bar("importing") as progress:
        count = counted(progress, folder)

        def run() -> ImportReport:
            return import_bundle(
                folder,
                store,
                renewed_trust(folder, trust, policy, keep=not dry_run),
                policy=policy,
                keep=keep,
                dry_run=dry_run,
                extra=approval or (),
                keys=keys,
                progress=count,
            )

        again = partial(authenticated, folder, trust, policy, approval or (), keys)
        report, kept = keeper.attest(run, folder, store, None if dry_run else again, keys)
    if as_json:
        print_json(report.as_dict() | {"receipt": kept.as_dict() if kept else None})
    else:
        print_bundle(report.bundle)
        print_import(report)
    if prepare and report.complete:
        _prepare(report)


def _prepare(report: ImportReport) -> None:
    """The models are in the store whatever happens here: a pack only makes them load faster."""
    from manifests.store import Store

    if prepare_model is None:
        raise typer.BadParameter("--prepare: this installation has no part that runs models")
    for model in report.models:
        try:
            prepare_model(Store(), model.name)
        except Exception as error:
            if not hasattr(error, "exit_code"):
                raise
            print(f"sealift: {model.name.short} is imported, and its weights are not packed: {error}", file=sys.stderr)
