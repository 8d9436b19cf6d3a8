"""`sealift custody add | show | head | verify | prove`: arguments and printing; and what other verbs record."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.inputs import JSON
from bundler.printing import print_json, say

if TYPE_CHECKING:
    from bundler.custody_head import Kept, Keys
    from manifests.statement import Statement
    from signing.keys import PublicKey, Signer

KEY = typer.Option(
    None, "--key", help="A .pub file of who signed heads; those of this host are known.", show_default=False
)
HEAD = typer.Option(
    None, "--head", help="A head that was kept: a file, or its text, or - to type it.", show_default=False
)

custody_app = typer.Typer(
    no_args_is_help=True,
    help="What happened to bundles on this side, and through whose hands they went.",
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    app.add_typer(custody_app, name="custody")


# -- for other verbs


def hands(medium: str | None, custodian: str | None) -> dict[str, str | int]:
    named = {"medium": medium, "custodian": custodian}
    return {key: _plain(value) for key, value in named.items() if value}


def named(statement: Statement) -> dict[str, str | int]:
    """The facts by which a bundle is known."""
    return {
        "bundle": statement.id,
        "channel": statement.channel,
        "sequence": statement.sequence,
        "volumes": len(statement.volumes),
    }


def recorded(event: str, facts: Mapping[str, str | int], signer: Signer | None = None) -> None:
    """An entry; where that fails, a word to the person, and no failure of the verb that is done already. A signer that
    cannot sign costs the signature of the head, not the entry."""
    from bundler.custody import Log
    from bundler.errors import BundlerError
    from manifests.errors import ManifestsError
    from signing.errors import SigningError

    plain = {key: _plain(value) if isinstance(value, str) else value for key, value in facts.items()}
    try:
        try:
            Log().append(event, plain, signer)
        except SigningError as error:
            Log().append(event, plain)
            say(f"custody: recorded, the tree head not signed: {error}")
    except (BundlerError, ManifestsError, SigningError, OSError) as error:
        say(f"custody: not recorded: {error}")


def _plain(text: str) -> str:
    """Within the limits of a fact."""
    return "".join(c if c.isprintable() else "?" for c in text)[:500]


# -- the verbs


@custody_app.command("add")
def add_(
    medium: str = typer.Option(..., "--medium", help="Label or serial number of the medium.", show_default=False),
    giver: str = typer.Option(..., "--from", help="Who hands it over.", show_default=False),
    taker: str = typer.Option(..., "--to", help="Who takes it.", show_default=False),
    note: str = typer.Option(None, "--note", help="Anything else: seal, room, time."),
    sign: str = typer.Option(None, "--sign", help="Name of a key that signs the new tree head."),
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with the key's passphrase."),
) -> None:
    """Record that a medium went from one person to another."""
    from bundler.custody import Log

    facts: dict[str, str | int] = {"medium": medium, "from": giver, "to": taker}
    entry, head = Log().append("handover", facts | ({"note": note} if note else {}), _signer(sign, passphrase_file))
    print(f"entry {entry.index}; the log has {head.size} entries, root {head.root}")


@custody_app.command("show")
def show_(
    last: int = typer.Option(0, "--last", min=0, help="Only so many entries; 0 for all."), as_json: bool = JSON
) -> None:
    """Show the entries of the custody log, oldest first. Whether they are as they were, custody verify says."""
    from bundler.custody import Log

    state = Log().read()
    entries = state.entries[-last:] if last else state.entries
    if as_json:
        keys = ("index", "time", "event", "facts")
        print_json([{key: getattr(entry, key) for key in keys} | {"hash": entry.hash.hex()} for entry in entries])
    for entry in entries if not as_json else ():
        facts = ", ".join(f"{key} {value}" for key, value in entry.facts.items())
        print(f"{entry.index:>5}  {entry.time}  {entry.event:<9} {facts}")
    if state.problem or state.torn:
        say(f"the log is damaged behind this: {state.problem or 'its last line is torn'}")


@custody_app.command("head")
def head_(
    sign: str = typer.Option(None, "--sign", help="Name of a key that signs it."),
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with the key's passphrase."),
    qr: Path = typer.Option(None, "--qr", help="Write the QR symbol into this file, .svg or .png.", show_default=False),
    as_json: bool = JSON,
) -> None:
    """Print the tree head of the log as it is now, short enough for paper. Kept elsewhere, it binds all before it."""
    from bundler import paper
    from bundler import qr as drawn
    from bundler.custody import Log
    from bundler.custody_head import TITLE

    head = Log().head()
    raw = head.short(_signer(sign, passphrase_file))
    if qr:
        drawn.write([paper.symbol(TITLE, raw)], qr)
    if as_json:
        print_json({"log": head.log, "size": head.size, "root": head.root, "short": paper.text(TITLE, raw)})
        return
    print(f"# {head.size} entries, {'signed by ' + sign if sign else 'NOT SIGNED'}\n{paper.text(TITLE, raw)}", end="")
    if sys.stdout.isatty():
        print(drawn.terminal([paper.symbol(TITLE, raw)]))


@custody_app.command("verify")
def verify_(
    head: list[str] = HEAD,
    proof: Path = typer.Option(
        None, "--proof", help="Check this proof instead of the log of this host.", show_default=False
    ),
    key: list[Path] = KEY,
    as_json: bool = JSON,
) -> None:
    """Find any edit, cut or reorder of the custody log, and say at which entry; with --head also of all of it together.

    Exit codes: 0 nothing found, 1 something is not as it was.
    """
    from bundler.custody import Log
    from bundler.custody_verify import verify

    kept = [_kept(text) for text in head or ()]
    if proof:
        _verify_proof(proof, kept, _keys(key or []), as_json)
        return
    result = verify(Log(), _keys(key or []), kept)
    if as_json:
        print_json(result.as_dict())
    else:
        for line in result.problems:
            print(f"BAD  {line}")
        for line in result.not_checked:
            print(f"not checked: {line}")
        by = f", signed by {', '.join(result.signed_by)}" if result.signed_by else ""
        print(f"{result.entries} entries, {result.heads} heads{by}: {'DAMAGED' if result.problems else 'sound'}")
    if result.problems:
        raise typer.Exit(1)


@custody_app.command("prove")
def prove_(
    number: int = typer.Argument(min=0, help="The entry, counted from 0 as custody show does.", show_default=False),
    out: Path = typer.Option(..., "--out", "-o", help="The file to write.", show_default=False),
) -> None:
    """Write a proof that an entry is in the log, for somebody without the log: custody verify --proof FILE."""
    from bundler.custody import Log
    from bundler.custody_verify import prove
    from bundler.errors import medium_errors
    from bundler.writing import write_file

    raw = prove(Log(), number)
    with medium_errors(out):
        write_file(out, raw)
    print(f"entry {number}: {out}")


def _verify_proof(file: Path, kept: list[Kept], keys: Keys, as_json: bool) -> None:
    from bundler.custody_verify import MAX_PROOF, check_proof
    from bundler.errors import CustodyRefused, medium_errors

    with medium_errors(file), file.open("rb") as stream:
        proof = check_proof(stream.read(MAX_PROOF + 1))
    same = any(item.head == proof.kept.head for item in kept)
    if kept and not same:
        raise CustodyRefused("the proof is under another head than the one that was kept", hint="ask for a new proof")
    by = proof.kept.signer(keys) if proof.kept.signed else None
    if by is None and not same:
        raise CustodyRefused("the proof's head is not signed", hint="give one that was kept elsewhere: --head")
    entry = proof.entry
    if as_json:
        print_json({"ok": True, "entry": entry.index, "event": entry.event, "facts": entry.facts, "signed_by": by})
    else:
        facts = ", ".join(f"{name} {value}" for name, value in entry.facts.items())
        print(f"entry {entry.index}, {entry.time}, {entry.event}: {facts}")
        print(f"is in the log {proof.kept.head.log} of {proof.kept.head.size} entries, {by or 'as the kept head says'}")


def _kept(text: str) -> Kept:
    from bundler.custody_head import MAX_HEAD, read_head
    from bundler.errors import medium_errors

    if text == "-":
        return read_head(sys.stdin.buffer.read(MAX_HEAD + 1))
    path = Path(text)
    if len(text) < 200 and path.is_file():
        with medium_errors(path), path.open("rb") as stream:
            return read_head(stream.read(MAX_HEAD + 1).removesuffix(b"\n"))
    return read_head(text.encode("ascii", "replace"))


def _keys(files: list[Path]) -> Keys:
    """The public keys of this host, and of these files."""
    from bundler.errors import medium_errors
    from signing.errors import SigningError
    from signing.keyring import keys_dir
    from signing.keys import PublicSigner
    from signing.limits import MAX_PUBLIC_FILE_BYTES

    found: dict[str, tuple[str, PublicKey]] = {}
    for path in [*sorted(keys_dir().glob("*.pub")), *files]:
        try:
            with medium_errors(path), path.open("rb") as stream:
                public = PublicSigner.parse(stream.read(MAX_PUBLIC_FILE_BYTES + 1))
        except SigningError:
            if path in files:
                raise
            continue
        found |= {one.id: (public.name, one) for one in public.keys}
    return found


def _signer(name: str | None, passphrase_file: Path | None) -> Signer | None:
    from signing.keyring import open_signer

    return open_signer(name, passphrase_file=passphrase_file) if name else None
