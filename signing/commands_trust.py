"""`sealift trust …`: whom this host believes, for what. Every change is one new version of trust.toml."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signing.printing import hint, print_json, read_public, say, trust_dict

if TYPE_CHECKING:
    from signing.trust import TrustStore

trust_app = typer.Typer(no_args_is_help=True, help="Whom this host believes: signers, roles, thresholds, revocations.")

Name = Annotated[str, typer.Argument(help="The signer's name, as `sealift trust list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _load() -> TrustStore:
    from signing.keyring import trust_path
    from signing.trust import TrustStore

    return TrustStore.load(trust_path())


@trust_app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="The signer's .pub file.")],
    role: Annotated[list[str], typer.Option("--role", metavar="ROLE", help="publisher, approver or root; repeatable.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Call the signer this here.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="PATTERN", help="Only for these channels, such as acme/*; repeatable."),
    ] = None,
) -> None:
    """Trust a signer for a role. Compare the fingerprint with its owner, by another way than the file came."""
    from signing.judge import unmet
    from signing.keyring import trust_path
    from signing.keys import PublicSigner
    from signing.trust import EVERY_CHANNEL
    from signing.trustfile import change_trust

    public = read_public(file)
    if name is not None:
        public = PublicSigner(name, public.keys)
    store = change_trust(trust_path(), lambda old: old.add(public, role, channel or EVERY_CHANNEL))
    typer.echo(f"{public.name}\t{public.fingerprint}")
    where = f" for {', '.join(sorted(set(channel)))}" if channel else ""
    say(f"{public.name} is trusted as {' and '.join(sorted(set(role)))}{where}")
    if "approver" in role:
        say("from now on every bundle needs an approver's signature")
    lacking = unmet("hybrid", [key.scheme for key in public.keys])
    if lacking:
        say(f"{public.name} does not count under the default policy: {lacking}")
    hint("compare the fingerprint with its owner before you rely on it")
    _warn_unreachable(store)


@trust_app.command("list")
def list_trust(as_json: AsJson = False) -> None:
    """List the signers this host believes, with roles and revocations."""
    store = _load()
    if as_json:
        print_json(trust_dict(store))
        return
    for entry in trust_dict(store)["signers"]:
        roles = ",".join(_role_text(item["role"], item["channels"]) for item in entry["roles"]) or "no role"
        state = f"revoked {entry['revoked']['date']}" if entry["revoked"] else "trusted"
        typer.echo(f"{entry['name']}\t{state}\t{roles}\t{entry['fingerprint']}")
    if not store.signers:
        say("nobody is trusted yet, so no bundle can be imported")
        hint("sealift trust add NAME.pub --role publisher")
    _warn_unreachable(store)


@trust_app.command("show")
def show(as_json: AsJson = False) -> None:
    """Print everything: version, thresholds, members, channels, keys, revocations."""
    store = _load()
    if as_json:
        print_json(trust_dict(store))
        return
    expires = store.expires.isoformat() if store.expires else "never"
    typer.echo(f"version {store.version}, expires {expires}")
    for role in store.roles:
        typer.echo(f"\n{role.name}: {role.threshold} of {len(role.members)} must sign")
        for member in role.members:
            typer.echo(f"  {_role_text(member.signer, list(member.channels))}")
    for signer in store.signers:
        typer.echo(f"\n{signer.name}: {signer.public.fingerprint}")
        for key in signer.keys:
            typer.echo(f"  {key.scheme} {key.id}")
        if signer.revoked is not None:
            typer.echo(f"  revoked on {signer.revoked.date.isoformat()}: {signer.revoked.reason}")


@trust_app.command("revoke")
def revoke(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, in one line; shown whenever the signature is met.")],
) -> None:
    """Never count this signer's signatures again, old ones included. It cannot be undone."""
    from signing.keyring import trust_path
    from signing.trustfile import change_trust

    today = datetime.now(timezone.utc).date()
    store = change_trust(trust_path(), lambda old: old.revoke(name, reason, today))
    say(f"{name} is revoked")
    _warn_unreachable(store)


@trust_app.command("remove")
def remove(
    name: Name,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Take only this role from it; repeatable.")
    ] = None,
) -> None:
    """Forget a signer that was never compromised, or take a role from it. For a lost or stolen key use revoke."""
    from signing.keyring import trust_path
    from signing.trustfile import change_trust

    before = _load()
    store = change_trust(trust_path(), lambda old: old.remove_from(name, role) if role else old.remove(name))
    say(f"{name} is no longer {' or '.join(role)}" if role else f"{name} is forgotten")
    if before.role("approver") and not store.role("approver"):
        say("there is no approver any more, so bundles need a publisher only")
    _warn_unreachable(store)


@trust_app.command("threshold")
def threshold(
    role: Annotated[str, typer.Argument(help="publisher, approver or root.")],
    count: Annotated[int, typer.Argument(min=1, help="How many different signers of the role must sign.")],
) -> None:
    """Set how many signers of a role must sign."""
    from signing.keyring import trust_path
    from signing.trustfile import change_trust

    change_trust(trust_path(), lambda old: old.with_threshold(role, count))
    say(f"{role}: {count} must sign")


@trust_app.command("expires")
def expires(
    day: Annotated[str, typer.Argument(metavar="DATE|never", help="The last good day, as 2028-01-01, or never.")],
) -> None:
    """Set the last day on which this host believes trust.toml; afterwards it refuses until it is renewed."""
    from signing.keyring import trust_path
    from signing.trustfile import change_trust

    try:
        limit = None if day == "never" else date.fromisoformat(day)
    except ValueError as error:
        raise typer.BadParameter(f"{day[:40]!r} is neither a date such as 2028-01-01 nor never") from error
    change_trust(trust_path(), lambda old: old.with_expiry(limit))
    say(f"trust.toml expires: {day}")


def _role_text(name: str, channels: list[str]) -> str:
    return name if channels == ["*"] else f"{name}({' '.join(channels)})"


def _warn_unreachable(store: TrustStore) -> None:
    for role in store.roles:
        able = [member for member in role.members if store.signer(member.signer).revoked is None]
        if len(able) < role.threshold:
            say(f"{role.name}: {role.threshold} must sign and only {len(able)} can, so nothing will be accepted")
            hint(f"sealift trust add NAME.pub --role {role.name}")
