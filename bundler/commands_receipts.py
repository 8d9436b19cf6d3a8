"""`sealift receipt show` and `sealift reconcile`: arguments and printing; and what `bundle import` needs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bundler.inputs import JSON, TRUST, load_policy, load_trust
from bundler.printing import print_json, say

if TYPE_CHECKING:
    from bundler.receipts import Receipt
    from bundler.receipts_compact import Short
    from bundler.receipts_keep import Keeper
    from bundler.receipts_read import Found, Judged
    from bundler.reconcile import Reconciled
    from signing.keys import Signer

DEFAULT_KEY = "receipt"

receipt_app = typer.Typer(
    no_args_is_help=True, help="What became of bundles on the side that imported them.", rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    app.add_typer(receipt_app, name="receipt")
    app.command("reconcile")(reconcile_)


@receipt_app.command("show")
def show_(
    file: Path = typer.Argument(help="A receipt, full or short; - reads text from standard input.", show_default=False),
    qr: Path = typer.Option(None, "--qr", help="Write the QR symbol into this file, .svg or .png.", show_default=False),
    trust: Path = TRUST,
    as_json: bool = JSON,
) -> None:
    """Show a receipt: what it says, who signed it, and its short form as text and QR symbol for the way back."""
    from bundler import qr as drawn
    from bundler.errors import BadRequest
    from bundler.receipts_read import judge, read, read_file

    found = read(sys.stdin.buffer.read(1 << 17), "standard input") if str(file) == "-" else read_file(file)
    judged = judge(found, load_trust(trust), load_policy().profile, datetime.now(timezone.utc))
    short = _short(file, found)
    if qr:
        if short is None:
            raise BadRequest(f"{file}: its short form is not here", hint="give the .receipt.txt that lay beside it")
        drawn.write([short.symbol()], qr)
    if as_json:
        print_json(_as_dict(judged) | {"short": short.text() if short else None})
        return
    _print_receipt(judged)
    if short is None:
        say("its short form for paper is not beside it")
    else:
        print(f"\n{short.text()}")
        if sys.stdout.isatty():
            print(drawn.terminal([short.symbol()]))


def reconcile_(
    places: list[Path] = typer.Argument(
        metavar="RECEIPTS", help="Files of receipts, folders of them, or - for a text on standard input."
    ),
    channel: str = typer.Option(None, "--channel", help="List this channel only."),
    trust: Path = TRUST,
    as_json: bool = JSON,
) -> None:
    """Compare what was exported here with the receipts that came back: arrived, refused, missing, unknown, conflicting.

    Only receipts of signers with the role receiver count: sealift trust add NAME.pub --role receiver.
    Exit code 1 if a bundle was refused, is missing, or if receipts conflict.
    """
    from bundler.channels import Channels
    from bundler.receipts_read import read
    from bundler.reconcile import gather, reconcile

    found, unread = gather(path for path in places if str(path) != "-")
    if any(str(path) == "-" for path in places):
        found.append(read(sys.stdin.buffer.read(1 << 17), "standard input"))
    now = datetime.now(timezone.utc)
    profile = load_policy().profile
    result = reconcile(found, Channels.exported().load(), load_trust(trust), profile, now, channel=channel)
    if as_json:
        print_json(result.as_dict() | {"unread": [{"file": name, "problem": problem} for name, problem in unread]})
    else:
        _print_reconciled(result)
        for name, problem in [*unread, *result.ignored]:
            say(f"{name} counts for nothing: {problem}")
    if not result.ok:
        raise typer.Exit(1)


def _print_reconciled(result: Reconciled) -> None:
    from manifests.display import table

    rows = [(row.channel, str(row.sequence), (row.id or "?")[:8], row.state, row.text) for row in result.rows]
    print(table(("CHANNEL", "NUMBER", "BUNDLE", "STATE", ""), rows))
    for item in result.unplaced:
        print(f"{item.found.place}: {item.found.content.outcome} ({item.found.content.reason}), of no known bundle")


def _short(file: Path, found: Found) -> Short | None:
    """The short form itself, or the one that was written beside a full receipt, if it says the same."""
    from bundler.errors import BundlerError
    from bundler.receipts_compact import Short
    from bundler.receipts_keep import FULL, SHORT
    from bundler.receipts_read import read_file

    if isinstance(found.content, Short):
        return found.content
    if not file.name.endswith(FULL):
        return None
    try:
        short = read_file(file.with_name(file.name.removesuffix(FULL) + SHORT)).content
    except BundlerError:
        return None
    return short if isinstance(short, Short) and short.unsigned() == Short.of(found.content) else None


def _as_dict(judged: Judged) -> dict[str, Any]:
    content, receipt = judged.found.content, _full(judged)
    out: dict[str, Any] = {
        "form": "full" if receipt else "short",
        "outcome": content.outcome,
        "reason": content.reason,
        "time": content.time,
        "bundle": content.id,
        "channel": content.channel,
        "sequence": content.sequence,
        "statement": judged.found.subject if content.known else None,
        "signed": judged.found.signed,
        "receiver": judged.signer,
        "problem": judged.problem,
    }
    if receipt is not None:
        out |= {
            "statement": str(receipt.subject) if receipt.known else None,
            "properties": list(receipt.properties),
            "models": [{"name": m.name.short, "manifest": str(m.manifest), "action": m.action} for m in receipt.models],
            "signers": list(receipt.signers),
            "gate": {"errors": receipt.gate.errors, "notes": receipt.gate.notes, "rules": list(receipt.gate.rules)}
            if receipt.gate
            else None,
            "not_checked": list(receipt.not_checked),
            "tool": receipt.tool,
        }
    return out


def _print_receipt(judged: Judged) -> None:
    from bundler.receipts import EXIT_WORDS, REASONS

    content, receipt = judged.found.content, _full(judged)
    why = "" if content.reason == "arrived" else f" ({content.reason}; {EXIT_WORDS[REASONS[content.reason]]})"
    print(f"{content.outcome}{why} at {content.time}")
    if content.channel is not None:
        print(f"bundle {content.id}: channel {content.channel}, number {content.sequence}")
    elif content.id is not None:
        print(f"bundle {content.id}, as the medium said: its signatures did not count, so its channel is not told")
    what = "statement" if content.known else "list of files"
    print(f"{what} sha256:{receipt.subject.hex}" if receipt else f"{what} sha256:{judged.found.subject}…")
    if receipt is not None:
        for model in receipt.models:
            print(f"  {model.name.short}  {model.manifest.short}  {model.action}")
        if receipt.signers:
            print(f"published or approved by {', '.join(receipt.signers)}")
        for name in receipt.properties:
            print(f"holds: {name}")
        if receipt.gate is not None:
            print(f"content gate: {receipt.gate.errors} error(s), {receipt.gate.notes} note(s)")
        for item in receipt.not_checked:
            print(f"not checked: {item}")
    if judged.signer:
        half = "" if receipt else " (its Ed25519 key: the short form)"
        print(f"signed by the receiver {judged.signer}{half}")
    elif not judged.found.signed:
        print("NOT SIGNED: anybody could have written this")
    else:
        print(f"its signature does not count here: {judged.problem}")


def _full(judged: Judged) -> Receipt | None:
    from bundler.receipts import Receipt

    return judged.found.content if isinstance(judged.found.content, Receipt) else None


# -- for `bundle import`


def open_keeper(
    name: str | None,
    passphrase_file: Path | None,
    out: Path | None,
    hands: dict[str, str | int],
    *,
    unused: bool,
) -> Keeper:
    """With the key that was named, or `receipt` where that can be opened. A key that was named and cannot be opened is
    the user's error; one that merely lies there stops no import. `unused`: a dry run asks for no passphrase."""
    from bundler.custody import Log
    from bundler.receipts_keep import Keeper
    from signing.errors import SigningError
    from signing.keyring import Keyring, keys_dir, open_signer

    signer: Signer | None = None
    notes: list[str] = []
    if unused:
        pass
    elif name is not None:
        signer = open_signer(name, passphrase_file=passphrase_file)
    elif Keyring(keys_dir()).private_path(DEFAULT_KEY).exists():
        try:
            signer = open_signer(DEFAULT_KEY, passphrase_file=passphrase_file)
        except SigningError as error:
            notes.append(f"the receipt will not be signed: {error}")
    return Keeper(signer=signer, out=out, log=Log(), hands=hands, notes=notes)


@contextlib.contextmanager
def print_kept(keeper: Keeper) -> Iterator[None]:
    """Says where the receipt is, after an import that failed too; its own error comes after that."""
    try:
        yield
    finally:
        for note in keeper.notes:
            say(note)
        for kept in keeper.kept:
            by = f"signed by {kept.signer}" if kept.signer else "NOT SIGNED; for the next: sealift key generate receipt"
            say(f"receipt ({kept.receipt.outcome}, {by}): {kept.paths[0]}")
