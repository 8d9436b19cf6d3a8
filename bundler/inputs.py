"""What the verbs of bundles are given: options that several share, and files that options name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bundler.printing import say

if TYPE_CHECKING:
    from bundler.policy import Policy
    from bundler.seal import Keys, Sealing
    from bundler.verify import VerifiedBundle
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


def sealing_of(encrypt: list[str], index: str, *, with_trust: bool, passphrase: bool) -> Sealing | None:
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
    from signing.errors import PassphraseNeeded
    from signing.passphrase import find_passphrase

    try:
        return find_passphrase(what, confirm=confirm, variable=BUNDLE_PASSPHRASE)
    except PassphraseNeeded as error:
        error.hint = f"run it on a terminal, or set {BUNDLE_PASSPHRASE}"
        raise


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


def expiry(text: str | None) -> str | None:
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
