"""`sealift trust init | sign | discard | export | import | history`: trust that a root signs, version after version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from signing.printing import hint, print_json, read_public, say

if TYPE_CHECKING:
    from signing.hosttrust import Changed
    from signing.keys import Signer
    from signing.trust import TrustStore

PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from a one-line file.")
]
Profile = Annotated[
    str, typer.Option("--profile", help="What the keys of a root must be: hybrid, cnsa2 (ML-DSA-87) or any.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(trust_app: typer.Typer) -> None:
    for name, verb in (
        ("init", init), ("sign", sign), ("discard", discard), ("export", export), ("import", import_),
        ("history", history),
    ):  # fmt: skip
        trust_app.command(name)(verb)


def init(
    root: Annotated[
        list[str],
        typer.Option("--root", metavar="FILE|NAME", help="A .pub file, or a known signer; repeatable."),
    ],
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="How many root signers must sign.")] = 1,
    sign: Annotated[
        list[str] | None, typer.Option("--sign", metavar="NAME", help="Sign with this key at once; repeatable.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    profile: Profile = "hybrid",
) -> None:
    """Set a root: from then on whom this host believes changes only by documents that the root signs.

    Signed documents can be carried to other hosts, by hand or inside a bundle. Name at least two root signers and keep
    their keys apart from daily work: with none of them left, trust can no longer be changed.
    """
    from signing.hosttrust import HostTrust

    def with_root(old: TrustStore) -> TrustStore:
        for item in root:
            known = item in [signer.name for signer in old.signers]
            old = old.grant(item, ["root"]) if known else old.add(read_public(Path(item)), ["root"])
        return old.with_threshold("root", threshold)

    host = HostTrust.here()
    made = host.begin(with_root)
    if sign:
        made = host.sign(_signers(sign, passphrase_file), profile)
    _tell(host.draft.path, made)


def sign(
    file: Annotated[Path | None, typer.Argument(help="A draft of another host; absent: of this one.")] = None,
    sign: Annotated[
        list[str] | None, typer.Option("--sign", metavar="NAME", help="A key of yours; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the signed FILE there instead.")] = None,
    passphrase_file: PassphraseFile = None,
    profile: Profile = "hybrid",
) -> None:
    """Sign the next version of trust as a root signer. What it changes is printed first."""
    from signing.changes import changes
    from signing.draft import add_signers
    from signing.envelope import decode
    from signing.files import write_atomic
    from signing.hosttrust import HostTrust
    from signing.succession import parse

    if not sign:
        raise typer.BadParameter("name a key: --sign NAME")
    host = HostTrust.here()
    if file is None:
        if draft := host.draft.load():
            _print_lines(changes(host.load(), draft))
        _tell(host.draft.path, host.sign(_signers(sign, passphrase_file), profile))
        return
    raw = _read(file).removesuffix(b"\n")
    document = parse(raw)
    typer.echo(f"version {document.store.version}")
    _print_lines(changes(host.load(), document.store))
    signed = add_signers(decode(raw), _signers(sign, passphrase_file))
    write_atomic(out or file, signed, mode=0o644, replace=True)
    say(f"signed {out or file}")
    hint(f"carry it back: sealift trust import {(out or file).name}")


def discard() -> None:
    """Give up the draft and its signatures. What counts now stays."""
    from signing.hosttrust import HostTrust

    say("the draft is gone" if HostTrust.here().discard() else "there was no draft")


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    since: Annotated[int, typer.Option("--since", min=0, help="Leave out this version and all before it.")] = 0,
) -> None:
    """Write every signed version of trust into one file, for hosts that have an older one or none."""
    from signing.files import write_atomic
    from signing.hosttrust import HostTrust
    from signing.succession import root_fingerprint

    host = HostTrust.here()
    write_atomic(out, host.chain(since), mode=0o644, replace=True)
    typer.echo(out)
    say(f"root fingerprint {root_fingerprint(host.load())}")
    hint(f"on a host of the same root: sealift trust import {out.name}")


def import_(
    file: Annotated[Path, typer.Argument(help="What trust export or trust sign wrote.")],
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="FINGERPRINT", help="Take over this root, on a host that has none yet."),
    ] = None,
    profile: Profile = "hybrid",
    as_json: AsJson = False,
) -> None:
    """Take newer versions of trust that the root of this host signed; each by the root before and its own root."""
    from signing.changes import changes
    from signing.hosttrust import HostTrust

    host, data = HostTrust.here(), _read(file)
    before = host.load()
    taken = [host.adopt(data, root, profile)] if root is not None else host.update(data, profile, own_draft=True)
    if as_json:
        print_json({"taken": [store.version for store in taken], "version": host.load().version})
        return
    for store in taken:
        typer.echo(f"version {store.version}")
        _print_lines(changes(before, store))
        before = store
    if not taken:
        say(f"nothing newer than version {before.version}, which is here already")


def history(as_json: AsJson = False) -> None:
    """List the signed versions that this host took, and what each changed."""
    from signing.changes import changes
    from signing.hosttrust import HostTrust, read_chain_file
    from signing.succession import parse
    from signing.trust import TrustStore

    host, before, found = HostTrust.here(), TrustStore.empty(), list[dict[str, Any]]()
    host.load()  # refuses what does not agree
    for version, path in host.accepted().items():
        store = parse(read_chain_file(path)).store
        found.append({"version": version, "changes": changes(before, store)})
        before = store
    if as_json:
        print_json(found)
        return
    for item in found:
        typer.echo(f"version {item['version']}")
        _print_lines(item["changes"])
    if not found:
        say("no signed version was taken here: this host edits trust.toml itself")


def _signers(names: list[str], passphrase_file: Path | None) -> list[Signer]:
    from signing.keyring import open_signer

    return [open_signer(name, passphrase_file=passphrase_file) for name in dict.fromkeys(names)]


def _read(path: Path) -> bytes:
    from signing.errors import UnknownSigner
    from signing.hosttrust import read_chain_file

    try:
        return read_chain_file(path)
    except FileNotFoundError as error:
        raise UnknownSigner(f"there is no file {path}", hint="give what `sealift trust export` wrote") from error


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"  {line}")


def _tell(draft: Path, made: Changed) -> None:
    from signing.succession import root_fingerprint

    if not made.pending:
        typer.echo(f"version {made.store.version} counts from now on")
        say(f"root fingerprint {root_fingerprint(made.store)}")
        return
    typer.echo(f"version {made.store.version} is a draft")
    if made.verdict is None:
        hint("sealift trust sign --sign NAME")
        return
    say(f"not enough signatures yet: {made.verdict}")
    hint(f"carry {draft} to the other root signers: sealift trust sign FILE --sign NAME; then trust import it here")
