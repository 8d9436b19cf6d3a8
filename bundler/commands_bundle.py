"""`sealift bundle export | verify | inspect | import`: arguments and printing only. `approve`: commands_approve."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from bundler.importer import ImportReport
    from bundler.inspect import Inspection
    from bundler.policy import Policy
    from bundler.seal import Keys, Sealing
    from bundler.verify import Verification, VerifiedBundle
    from manifests.gate import Finding
    from manifests.name import ModelName
    from manifests.statement import Statement
    from manifests.store import Store
    from signing.trust import TrustStore

JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")
TRUST = typer.Option(
    None, "--trust", help="The trust file to judge by, instead of the one of this host.", show_default=False
)
APPROVAL = typer.Option(
    None, "--approval", help="An approval that lies elsewhere; may be given several times.", show_default=False
)
IDENTITY = typer.Option(
    None,
    "--identity",
    envvar="SEALIFT_IDENTITY",
    help="An age identity file, for volumes that are encrypted.",
    show_default=False,
)
BUNDLE_PASSPHRASE = "SEALIFT_BUNDLE_PASSPHRASE"  # variable of the environment; keys have another one
GAP = typer.Option(False, "--allow-gap", help="Take it although bundles before it in its channel were never seen.")
MEDIUM = typer.Option(None, "--medium", help="Label or serial number of the medium, for the custody log.")
CUSTODIAN = typer.Option(None, "--custodian", help="Who carries it, for the custody log.")
FOLDER = typer.Argument(help="The folder with the volumes, or one of the volumes.", show_default=False)

# Set by the door (sealift.py), where there is an engine: packs a model's weights for this machine.
prepare_model: Callable[[Store, ModelName], object] | None = None

bundle_app = typer.Typer(
    no_args_is_help=True, help="Seal models into volumes, check them and bring them in.", rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    app.add_typer(bundle_app, name="bundle")


@bundle_app.command("export")
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

    sealing = _sealing(encrypt or [], index, with_trust=with_trust, passphrase=encrypt_passphrase)
    chain = HostTrust.here().chain() if with_trust else None  # before the work: there may be nothing signed
    options = Options(
        volume_size=parse_size(volume_size),
        channel=channel,
        sequence=seq,
        label=label,
        expires=_moment(expires),
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
    _print_since(statement)
    say(
        "finished the export that was interrupted"
        if report.resumed
        else "signed by " + ", ".join(s.name for s in signers)
    )


@bundle_app.command("verify")
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
            _write_slip(folder, slip, as_json)
        error.hint = error.hint or "sealift bundle repair FOLDER looks at all of it, and says what to send again"
        raise
    if as_json:
        print_json(report.as_dict())
    else:
        _print_bundle(report.bundle)
        _print_verification(report)


def _write_slip(folder: Path, slip: Path, as_json: bool) -> None:
    from bundler.commands_repair import hand_out
    from bundler.errors import RepairImpossible
    from bundler.repair import survey

    try:
        with bar("looking at all volumes") as progress:
            survey(folder, progress=counted(progress, folder))
    except RepairImpossible as error:
        hand_out(error, slip, None, as_json)


@bundle_app.command("inspect")
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
        _print_inspection(found)


@bundle_app.command("import")
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
        _print_bundle(report.bundle)
        _print_import(report)
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


# -- input


def load_trust(path: Path | None) -> TrustStore:
    from bundler.errors import BadRequest
    from signing.hosttrust import HostTrust
    from signing.trust import TrustStore

    if path is None:
        return HostTrust.here().load()
    if not path.is_file():
        raise BadRequest(f"there is no trust file {path}")
    return TrustStore.load(path)


def load_identity(path: Path | None, folder: Path | None = None) -> Keys | None:
    """The identity that was named; or the one that lies in `folder` under a passphrase, if there is one."""
    from bundler import seal
    from bundler.conceal import LOCKED

    if path is None and folder is not None:
        place = folder if folder.is_dir() else folder.parent
        path = next(iter(sorted(place.glob(f"*{LOCKED}"))), None)
    if path is None:
        return None
    return seal.unlock(path, _bundle_passphrase(path.name)) if seal.is_locked(path) else seal.load_keys(path)


def _sealing(encrypt: list[str], index: str, *, with_trust: bool, passphrase: bool) -> Sealing | None:
    from bundler import seal
    from bundler.errors import BadRequest

    if index not in ("hidden", "readable"):
        raise BadRequest(f"--index {index[:40]!r}: expected hidden or readable")
    if not encrypt and not passphrase:
        return None
    if with_trust and index == "hidden":
        raise BadRequest(
            "--with-trust lies beside the volumes in clear, and names signers and channels",
            hint="carry it another way (sealift trust export), or add --index readable",
        )
    locked = None
    if passphrase:
        locked = seal.lock(_bundle_passphrase("the bundle", confirm=True))
        encrypt = [*encrypt, locked[0]]
    return seal.Sealing(recipients=seal.recipients(encrypt), hidden=index == "hidden", locked=locked)


def _bundle_passphrase(what: str, *, confirm: bool = False) -> bytes:
    from signing.passphrase import find_passphrase

    return find_passphrase(what, confirm=confirm, variable=BUNDLE_PASSPHRASE)


def renewed_trust(folder: Path, given: Path | None, policy: Policy, *, keep: bool) -> TrustStore:
    """The trust of this host, with what the bundle carries; a trust file that was named is taken as it is."""
    from bundler import carried
    from signing.hosttrust import HostTrust

    if given is not None:
        return load_trust(given)
    renewed = carried.renew(folder, HostTrust.here(), policy.profile, keep=keep)
    for note in renewed.notes:
        say(note)
    return renewed.trust


def authenticated(
    folder: Path, trust: Path | None, policy: Policy, extra: Sequence[Path], keys: Keys | None = None
) -> VerifiedBundle:
    """Steps 1 to 3 once more, for the receipt of a bundle that was refused later."""
    from bundler import verify
    from bundler.channels import Channels

    moment = Channels.imported().moment(datetime.now(timezone.utc))
    return verify.authenticate(folder, load_trust(trust), policy, moment, extra, keys=keys)


def load_policy(allow_gap: bool = False) -> Policy:
    from bundler.policy import Policy
    from manifests.home import home

    policy = Policy.load(home() / "policy.toml")
    return replace(policy, allow_gap=True) if allow_gap else policy


def _moment(text: str | None) -> str | None:
    """A day or a moment in UTC, as the statement writes it."""
    from bundler.errors import BadRequest
    from manifests.statement import parse_time

    if text is None:
        return None
    full = f"{text}T23:59:59Z" if len(text) == 10 else text
    try:
        moment = parse_time(full)
    except ValueError:
        raise BadRequest(f"--expires {text[:40]!r}: expected 2027-01-31 or 2027-01-31T12:00:00Z") from None
    if moment <= datetime.now(timezone.utc):
        raise BadRequest(f"--expires {text}: that time has passed, so nobody could import the bundle")
    return full


# -- output


def say(text: str) -> None:
    print(f"sealift: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_bundle(bundle: VerifiedBundle) -> None:
    from bundler.sizes import show_size

    statement = bundle.statement
    for line in bundle.verdict.sentences():
        print(line)
    print(
        f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}, created {statement.created}"
    )
    print(f"{len(statement.volumes)} volume(s), {show_size(bundle.size)}")
    _print_since(statement)
    for model in statement.models:
        origin = model.source.get("source") or model.source.get("kind", "unknown")
        print(f"  {model.name.short}  {model.manifest.short}  from {origin}")


def _print_since(statement: Statement) -> None:
    """Of a delta: what must be on the other side."""
    from bundler.sizes import show_size

    if statement.since is None:
        return
    print(f"only what changed since {statement.since}; the other side must have:")
    for blob in statement.held:
        print(f"  {blob.digest}  {show_size(blob.size)}")
    for blob in statement.built:
        if blob.built:
            size = sum(piece.size for piece in blob.built.pieces if piece.base is None)
            print(
                f"  {blob.digest.short} is built there from {blob.built.base.short} and {show_size(size)} that travel"
            )


def _print_verification(report: Verification) -> None:
    for note in report.notes:
        print(f"note: {note}")
    for item in report.not_checked:
        if item not in report.bundle.verdict.not_checked:  # printed with the verdict already
            print(f"not checked: {item}")
    print(
        "verified: every byte of every volume is as signed" if report.complete else "the statement is trusted (dry run)"
    )


def _print_import(report: ImportReport) -> None:
    for finding in report.findings:
        print_finding(finding)
    for note in report.notes:
        print(f"note: {note}")
    for item in report.not_checked:
        if item not in report.bundle.verdict.not_checked:
            print(f"not checked: {item}")
    words = {"new": "new", "same": "was here already", "replaced": "replaced", "kept": "kept as it was here"}
    for model in report.models:
        before = f" (before: {model.previous.short})" if model.action in ("replaced", "kept") and model.previous else ""
        print(f"{'imported' if report.complete else 'would import'} {model.name.short}: {words[model.action]}{before}")


def print_finding(finding: Finding) -> None:
    word = "ignored" if finding.action == "ignore" else finding.severity
    print(f"{word}: {finding.place}: {finding.text} [{finding.rule}]")


def _print_inspection(found: Inspection) -> None:
    from bundler.sizes import show_size

    statement = found.statement
    print("unverified: this is what the medium says of itself" if not found.trusted else "the statement is trusted")
    print(
        f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}, created {statement.created}"
    )
    for model in statement.models:
        print(f"  {model.name.short}  {model.manifest.short}")
    print(f"  {len(statement.blobs)} blobs, {show_size(sum(blob.size for blob in statement.blobs))}")
    _print_since(statement)
    for line in found.verdict.sentences() if found.verdict else [f"signature by key {keyid}" for keyid in found.keyids]:
        print(line)
    for item in found.approvals:
        print(f"  {item.name}  an approval, signed by {len(item.keyids)} key(s)")
    words = {"here": "here, not read", "missing": "MISSING", "size": "WRONG SIZE"}
    for volume in found.volumes:
        print(f"  {volume.name}  {show_size(volume.size)}  {words[volume.state]}")


# -- progress

Bar = Callable[[int, int], None]


@contextlib.contextmanager
def bar(title: str) -> Iterator[Bar | None]:
    """Bytes, rate and time left on a terminal; nothing when piped."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def counted(bar: Bar | None, folder: Path) -> Callable[[int], None] | None:
    """From pieces to a running sum, against the size of the volumes that lie there."""
    if bar is None:
        return None
    place = folder if folder.is_dir() else folder.parent
    paths = [*place.glob("*.v*.tar"), *place.glob("*.v*.tar.age")]
    total, done = sum(path.stat().st_size for path in paths), 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        bar(min(done, total), total)

    return add
