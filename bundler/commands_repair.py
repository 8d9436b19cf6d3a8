"""`sealift bundle repair`: arguments and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.commands_bundle import JSON, bar, counted, print_json

if TYPE_CHECKING:
    from bundler.repair import RepairReport


def register(bundle_app: typer.Typer) -> None:
    bundle_app.command("repair")(repair_)


def repair_(
    folder: Path = typer.Argument(
        help="The folder with the volumes and parity volumes, or one of them.", show_default=False
    ),
    out: Path = typer.Option(None, "--out", "-o", help="Write restored volumes there.", show_default=False),
    in_place: bool = typer.Option(False, "--in-place", help="Replace the damaged volumes where they lie."),
    as_json: bool = JSON,
) -> None:
    """Restore lost and damaged volumes from the parity volumes that `bundle export --parity` made.

    Without -o and --in-place it only looks.
    What is restored has the hashes of the statement. Who signed is not judged here: verify afterwards. Exit codes:
    0 whole, restorable or restored, 1 more is lost than can be restored (what is missing is listed).
    """
    from bundler.errors import BadRequest
    from bundler.repair import repair

    if out is not None and in_place:
        raise BadRequest("-o and --in-place: only one of them")
    place = (folder if folder.is_dir() else folder.parent) if in_place else out
    with bar("repairing") as progress:
        report = repair(folder, place, progress=counted(progress, folder))
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)


def _print(report: RepairReport) -> None:
    print(f"bundle {report.id}")
    for damage in report.damaged:
        print(f"damaged: {damage.sentence()}")
    for name in report.parity:
        print(f"damaged: {name} (parity)")
    for path in report.written:
        print(f"restored: {path}")
    if not report.damaged:
        print("all volumes are whole")
    elif not report.written:
        print("all of it can be restored: add --in-place, or -o FOLDER")
