"""`sealift bundle export`: arguments and printing only."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import (
    BUNDLE_PASSPHRASE,
    CUSTODIAN,
    JSON,
    MEDIUM,
    expiry,
    load_policy,
    load_trust,
    sealing_of,
)
from bundler.printing import bar, print_json, print_since, say

if TYPE_CHECKING:
    from bundler.export import ExportReport
    from bundler.seal import Sealing
    from signing.keys import Signer

NAMES = typer.Argument(help="Models of the store, such as llama3.2:1b.", show_default=False)
OUT = typer.Option(..., "--out", "-o", help="An empty folder: the medium.", show_default=False)
SIGN = typer.Option(..., "--sign", help="Name of a key; may be given several times.", show_default=False)
VOLUME_SIZE = typer.Option(
    "fat32", "--volume-size", help="Largest volume: 32M, 4GB, none, diode, av2g, fat32, dvd, bd25, bd100."
)
CHANNEL = typer.Option(None, "--channel", help="Series of bundles this belongs to, such as acme/llm.")
SEQ = typer.Option(None, "--seq", min=1, help="Number in the channel; by default one more than the last.")
PARITY = typer.Option(
    None, "--parity", help="Add parity volumes: 10% of the volumes, or a number such as 2. See `bundle repair`."
)
SINCE = typer.Option(
    None,
    "--since",
    metavar="BUNDLE|INVENTORY",
    help="Send only what changed: a bundle's folder or id, or a file of `sealift inventory`.",
    show_default=False,
)
UNSIGNED = typer.Option(
    False, "--allow-unsigned-inventory", help="Take an inventory without looking at its signatures."
)
LABEL = typer.Option(
    None, "--label", help="Beginning of the files' names; by default the name of the model that is named first."
)
EXPIRES = typer.Option(None, "--expires", help="Refused after this time: 2027-01-31 or 2027-01-31T12:00:00Z.")
WITH_TRUST = typer.Option(False, "--with-trust", help="Carry the signed versions of trust too. See `trust init`.")
ENCRYPT = typer.Option(
    None,
    "--encrypt",
    help="Encrypt the volumes for this recipient, age1…, or for those in this file; may be given several times.",
    show_default=False,
)
ENCRYPT_PASSPHRASE = typer.Option(
    False, "--encrypt-passphrase", help=f"Encrypt for who knows a passphrase: asked for, or {BUNDLE_PASSPHRASE}."
)
INDEX = typer.Option(
    "hidden", "--index", help="With --encrypt: `readable` leaves the index volume, the sheet and names in clear."
)
PASSPHRASE_FILE = typer.Option(None, "--passphrase-file", help="File with the key's passphrase.")


def register(group: typer.Typer) -> None:
    group.command("export")(export_)


def export_(
    names: list[str] = NAMES,
    out: Path = OUT,
    sign: list[str] = SIGN,
    volume_size: str = VOLUME_SIZE,
    channel: str = CHANNEL,
    seq: int = SEQ,
    parity: str = PARITY,
    since: str = SINCE,
    allow_unsigned: bool = UNSIGNED,
    label: str = LABEL,
    expires: str = EXPIRES,
    with_trust: bool = WITH_TRUST,
    encrypt: list[str] = ENCRYPT,
    encrypt_passphrase: bool = ENCRYPT_PASSPHRASE,
    index: str = INDEX,
    passphrase_file: Path = PASSPHRASE_FILE,
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
    from bundler.sizes import parse_size
    from manifests.name import ModelName
    from manifests.store import Store
    from signing.hosttrust import HostTrust
    from signing.keyring import open_signer

    sealing = sealing_of(encrypt or [], index, with_trust=with_trust, passphrase=encrypt_passphrase)
    chain = HostTrust.here().chain() if with_trust else None  # before the work: there may be nothing signed
    options = Options(volume_size=parse_size(volume_size), channel=channel, sequence=seq, label=label,
                      expires=expiry(expires), parity=parity, sealing=sealing)  # fmt: skip
    models = [ModelName.parse(name) for name in names]
    signers = [open_signer(name, passphrase_file=passphrase_file) for name in dict.fromkeys(sign)]
    known = other_side(since, load_trust(None), signers, unsigned=allow_unsigned) if since is not None else None
    rules = load_policy().gate
    with bar("exporting") as progress:
        report = export(Store(), models, out, signers, options, since=known, rules=rules, progress=progress)
    _say_revoked(signers)
    if chain is not None:
        carried.write(out, layout.stem(report.statement), chain)
    recorded("export", named(report.statement) | hands(medium, custodian), signers[0])
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report, sealing, [signer.name for signer in signers])


def _print(report: ExportReport, sealing: Sealing | None, signers: list[str]) -> None:
    from bundler.sizes import show_size

    statement = report.statement
    print(f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}")
    also = f" and {len(report.parity)} parity volume(s)" if report.parity else ""
    also += f", encrypted for {len(sealing.recipients)} recipient(s)" if sealing else ""
    also += "" if sealing is None or sealing.hidden else " but for the index volume, which is in clear"
    print(f"{len(statement.volumes)} volume(s){also}, {show_size(report.bytes)}, in {report.folder}")
    print_since(statement)
    say("finished the export that was interrupted" if report.resumed else "signed by " + ", ".join(signers))


def _say_revoked(signers: list[Signer]) -> None:
    """Who signs is no question of trust here; but what this side itself has revoked, the other will refuse."""
    from signing.errors import SigningError

    with contextlib.suppress(SigningError):  # a trust that cannot be read stops no export
        revoked = {key.id: one for one in load_trust(None).signers if one.revoked for key in one.public.keys}
        for one in dict.fromkeys(revoked[key.id].name for s in signers for key in s.public.keys if key.id in revoked):
            say(f"{one} is revoked in the trust of this host: whoever has the same trust refuses what it signs")
