"""`sealift bundle repair | resend`: arguments and printing only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import IDENTITY, JSON, load_identity
from bundler.printing import bar, counted, print_json, say

if TYPE_CHECKING:
    from bundler.errors import RepairImpossible
    from bundler.repair import RepairReport

SLIP = typer.Option(None, "--slip", help="Write the resend slip to this file too.", show_default=False)
QR = typer.Option(None, "--qr", help="Write the slip as QR symbols: a file named *.svg or *.png.", show_default=False)


def register(bundle_app: typer.Typer) -> None:
    bundle_app.command("repair")(repair_)
    bundle_app.command("resend")(resend_)


def repair_(
    folder: Path = typer.Argument(
        help="The folder with the volumes and parity volumes, or one of them.", show_default=False
    ),
    out: Path = typer.Option(None, "--out", "-o", help="Write restored volumes there.", show_default=False),
    in_place: bool = typer.Option(False, "--in-place", help="Replace the damaged volumes where they lie."),
    slip: Path = SLIP,
    qr: Path = QR,
    identity: Path = IDENTITY,
    as_json: bool = JSON,
) -> None:
    """Restore lost and damaged volumes from parity volumes, and from parts that were sent again.

    Without -o and --in-place it only looks. Where more is lost than can be restored, it prints a resend slip: carry
    it to the connected side as text or QR symbol, and give it to `bundle resend` there.

    Encrypted volumes are restored as they were, still encrypted, and that needs no identity. With one, what is restored
    is also compared with the statement, inside; and where there is no parity, the slip names what is damaged. Without
    one, what is replaced in place is kept as *.before, since nobody signed what it is compared with.

    What is restored has the hashes of the statement. Who signed is not judged here: verify afterwards. Exit codes:
    0 whole, restorable or restored, 1 more is lost than can be restored (what is missing is listed), 4 nothing can be
    read, or without parity it is encrypted and no identity opens it.
    """
    from bundler.commands_custody import recorded
    from bundler.errors import BadRequest, RepairImpossible
    from bundler.repair import repair

    if out is not None and in_place:
        raise BadRequest("-o and --in-place: only one of them")
    place = (folder if folder.is_dir() else folder.parent) if in_place else out
    keys = load_identity(identity)
    try:
        with bar("repairing") as progress:
            report = repair(folder, place, keys=keys, progress=counted(progress, folder))
    except RepairImpossible as error:
        hand_out(error, slip, qr, as_json)
        raise
    if report.written:
        recorded("repair", {"packing" if report.listed else "bundle": report.id, "restored": len(report.written)})
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)


def hand_out(error: RepairImpossible, slip: Path | None, qr: Path | None, as_json: bool) -> None:
    """The slip: on stdout, and where it was asked for. With JSON it is part of the error."""
    from bundler import qr as symbols
    from bundler.errors import medium_errors
    from bundler.writing import write_file

    text = error.slip.text(error.stem)
    text += "".join(f"# {item.sentence()}\n" for item in error.missing[:40])
    if slip is not None:
        with medium_errors(slip):
            write_file(slip, text.encode())
    if qr is not None:
        for path in symbols.write(error.slip.symbols(), qr):
            say(f"wrote {path}")
    if not as_json:
        print(text, end="")
        if sys.stdout.isatty():
            print(symbols.terminal(error.slip.symbols()), end="")


def _print(report: RepairReport) -> None:
    print(f"{'packing list' if report.listed else 'bundle'} {report.id}")
    for damage in report.damaged:
        print(f"damaged: {damage.sentence()}")
    for name in report.parity:
        print(f"damaged: {name} (parity)")
    for path in report.written:
        print(f"restored: {path}")
    for path in report.kept:
        print(f"kept as it was: {path}")
    if not report.damaged:
        print("all volumes are whole")
    elif not report.written:
        print("all of it can be restored: add --in-place, or -o FOLDER")
    if report.sealed and not report.inside:
        say("nobody signed the packing list; what is inside was not looked at: sealift bundle verify --identity FILE")
    if report.kept:
        say("hint: take away what was kept when `bundle verify` is content; else give it its name back")


def resend_(
    slip: str = typer.Argument(help="A file with the slip, or - to type or paste it.", show_default=False),
    out: Path = typer.Option(..., "--out", "-o", help="Write what it asks for there.", show_default=False),
    volumes: Path = typer.Option(
        None,
        "--from",
        help="The folder of the exported volumes; by default they are written again from the store.",
        show_default=False,
    ),
    whole: bool = typer.Option(False, "--whole", help="No parts: whole volumes, as a network diode takes them."),
    as_json: bool = JSON,
) -> None:
    """Write just what a resend slip asks for: whole volumes, or parts of them.

    Put it beside the other volumes on the isolated side: `bundle repair` and `bundle receive` take it in. Of encrypted
    bundles --from is needed, since only these very volumes are the ones that the slip asks for.
    A slip may be typed by hand, or be the text of its QR symbols. Exit codes: 0 written, 1 the slip or the bundle is
    not right, 4 a folder cannot be read or written.
    """
    from bundler import paper
    from bundler import slip as slips
    from bundler.commands_custody import named, recorded
    from bundler.errors import medium_errors
    from bundler.resend import resend
    from bundler.sizes import show_size

    if slip == "-":
        raw = sys.stdin.buffer.read(paper.MAX_TEXT + 1)
    else:
        with medium_errors(Path(slip)), open(slip, "rb") as stream:
            raw = stream.read(paper.MAX_TEXT + 1)
    with bar("resending") as progress:
        report = resend(
            slips.parse(raw.decode("utf-8", "replace")),
            out,
            volumes=volumes,
            whole=whole,
            progress=counted(progress, volumes) if volumes else None,
        )
    bundle = named(report.statement) if report.statement else {"bundle": report.id}
    recorded("resend", bundle | {"files": len(report.written)})
    if as_json:
        print_json(report.as_dict())
        return
    place = {"volumes": "the volumes", "encrypted": "the encrypted volumes", "store": "the store"}[report.source]
    print(f"bundle {report.id}, from {place}")
    for path in report.written:
        print(f"written: {path}  {show_size(path.stat().st_size)}")
