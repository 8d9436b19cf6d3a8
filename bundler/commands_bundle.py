"""`sealift bundle verify | inspect | import`: arguments and printing only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import (
    APPROVAL,
    CUSTODIAN,
    FOLDER,
    GAP,
    IDENTITY,
    JSON,
    MEDIUM,
    TRUST,
    authenticated,
    load_identity,
    load_policy,
    load_trust,
    renewed_trust,
)
from bundler.printing import (
    bar,
    counted,
    print_bundle,
    print_import,
    print_inspection,
    print_json,
    print_verification,
)

if TYPE_CHECKING:
    from bundler.importer import ImportReport
    from bundler.seal import Keys
    from manifests.name import ModelName
    from manifests.store import Store

REPAIR = "sealift bundle repair FOLDER looks at all of it, and says what can be restored, and what to send again"
# Set by the door (sealift.py), where there is an engine: packs a model's weights for this machine.
prepare_model: Callable[[Store, ModelName], object] | None = None


def register(group: typer.Typer) -> None:
    for name, verb in (("verify", verify_), ("inspect", inspect_), ("import", import_)):
        group.command(name)(verb)


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
        error.hint = error.hint or REPAIR
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
    from bundler.errors import VolumeDamaged, VolumeMissing
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
        try:
            report, kept = keeper.attest(run, folder, store, None if dry_run else again, keys)
        except (VolumeDamaged, VolumeMissing) as error:
            error.hint = error.hint or REPAIR
            raise
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
