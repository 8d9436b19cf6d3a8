"""`sealift trust …`: whom this host believes, for what. Every change is one new version of trust.toml, or with a root a
draft of it (commands_root)."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signing.printing import certificates_out, hint, print_json, read_certificates, read_public, say, trust_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from signing.trust import TrustStore

Name = Annotated[str, typer.Argument(help="The signer's name, as `sealift trust list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Role = Annotated[str, typer.Argument(help="publisher, approver, receiver or root.")]


def register(group: typer.Typer) -> None:
    for name, verb in (
        ("add", add), ("list", list_trust), ("show", show), ("revoke", revoke), ("remove", remove), ("role", role_),
        ("channel", channel_), ("threshold", threshold), ("expires", expires),
    ):  # fmt: skip
        group.command(name)(verb)


def _load() -> TrustStore:
    from signing.hosttrust import HostTrust

    return HostTrust.here().load()


def _change(change: Callable[[TrustStore], TrustStore], said: str) -> TrustStore:
    """Edits trust.toml, or with a root the draft, and says `said`, or that it waits for the root."""
    from signing.hosttrust import HostTrust

    found = HostTrust.here().change(change)
    say(f"in the draft of version {found.store.version}: {said}" if found.pending else said)
    if found.pending:
        hint("nothing changes before the root signs it: sealift trust show --draft, sealift trust sign --sign NAME")
    return found.store


def add(
    file: Annotated[Path, typer.Argument(help="The signer's .pub file.")],
    role: Annotated[
        list[str], typer.Option("--role", metavar="ROLE", help="publisher, approver, receiver, root; repeatable.")
    ],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Call the signer this here.")] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="PATTERN", help="Only for these channels, such as acme/*; repeatable."),
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option("--certificates", metavar="FILE", help="PEM for its P-384 key: its own first, the CA last."),
    ] = None,
) -> None:
    """Trust a signer for a role. Compare the fingerprint with its owner, by another way than the file came."""
    from signing.judge import unmet
    from signing.keys import PublicSigner
    from signing.trust import EVERY_CHANNEL

    public = read_public(file)
    if name is not None:
        public = PublicSigner(name, public.keys)
    chain = read_certificates(certificates) if certificates is not None else ()
    where = f" for {', '.join(sorted(set(channel)))}" if channel else ""
    said = f"{public.name} is trusted as {' and '.join(sorted(set(role)))}{where}"
    store = _change(lambda old: old.add(public, role, channel or EVERY_CHANNEL, chain), said)
    typer.echo(f"{public.name}\t{public.fingerprint}")
    if "approver" in role:
        say("from now on every bundle needs an approver's signature")
    lacking = unmet("hybrid", [key.scheme for key in public.keys])
    if lacking:
        say(f"{public.name} does not count under the default policy: {lacking}")
    hint("compare the fingerprint with its owner before you rely on it")
    _warn_unreachable(store)


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


def show(
    draft: Annotated[bool, typer.Option("--draft", help="The draft that waits for the root's signatures.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print everything: version, thresholds, members, channels, keys, revocations."""
    from signing.changes import changes
    from signing.errors import TrustConflict
    from signing.hosttrust import HostTrust

    found = HostTrust.here().draft.load() if draft else _load()
    if found is None:
        raise TrustConflict("there is no draft", hint="with a root, every change makes one")
    store = found
    if as_json:
        print_json(trust_dict(store))
        return
    if draft:
        for line in changes(_load(), store):
            typer.echo(f"change: {line}")
    expires = store.expires.isoformat() if store.expires else "never"
    typer.echo(f"version {store.version}, expires {expires}")
    if store.role("root"):
        from signing.succession import root_fingerprint

        typer.echo(f"root fingerprint {root_fingerprint(store)}")
    for role in store.roles:
        typer.echo(f"\n{role.name}: {role.threshold} of {len(role.members)} must sign")
        for member in role.members:
            typer.echo(f"  {_role_text(member.signer, list(member.channels))}")
    for signer in store.signers:
        typer.echo(f"\n{signer.name}: {signer.public.fingerprint}")
        for key in signer.keys:
            typer.echo(f"  {key.scheme} {key.id}")
        for item in certificates_out(signer.x509):
            typer.echo(f"  certificate {item['subject']} until {item['until']}, SHA-256 {item['sha256']}")
        if signer.revoked is not None:
            typer.echo(f"  revoked on {signer.revoked.date.isoformat()}: {signer.revoked.reason}")


def revoke(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, in one line; shown whenever the signature is met.")],
) -> None:
    """Never count this signer's signatures again, old ones included. It cannot be undone."""

    today = datetime.now(timezone.utc).date()
    store = _change(lambda old: old.revoke(name, reason, today), f"{name} is revoked")
    _warn_unreachable(store)


def remove(
    name: Name,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="Take only this role from it; repeatable.")
    ] = None,
) -> None:
    """Forget a signer that was never compromised, or take a role from it. For a lost or stolen key use revoke."""

    before = _load()
    said = f"{name} is no longer {' or '.join(role)}" if role else f"{name} is forgotten"
    store = _change(lambda old: old.remove_from(name, role) if role else old.remove(name), said)
    if before.role("approver") and not store.role("approver"):
        say("there is no approver any more, so bundles need a publisher only")
    _warn_unreachable(store)


def role_(
    name: Name,
    role: Role,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="PATTERN", help="Only for these channels, such as acme/*; repeatable."),
    ] = None,
) -> None:
    """Give one more role to a signer that is known. `trust remove NAME --role ROLE` takes it away."""
    from signing.trust import EVERY_CHANNEL

    channels = channel or EVERY_CHANNEL
    _warn_unreachable(_change(lambda old: old.grant(name, [role], channels), f"{name} is trusted as {role}"))


def channel_(
    name: Name,
    role: Role,
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN...", help="Such as acme/llm, acme/* or '*'.")],
) -> None:
    """Set the channels that a signer may sign for in a role."""
    _change(lambda old: old.with_channels(name, role, patterns), f"{name} is {role} for {', '.join(patterns)}")


def threshold(
    role: Role,
    count: Annotated[int, typer.Argument(min=1, help="How many different signers of the role must sign.")],
) -> None:
    """Set how many signers of a role must sign."""

    _change(lambda old: old.with_threshold(role, count), f"{role}: {count} must sign")


def expires(
    day: Annotated[str, typer.Argument(metavar="DATE|never", help="The last good day, as 2028-01-01, or never.")],
) -> None:
    """Set the last day on which this host believes trust.toml; afterwards it refuses until it is renewed."""

    try:
        limit = None if day == "never" else date.fromisoformat(day)
    except ValueError as error:
        raise typer.BadParameter(f"{day[:40]!r} is neither a date such as 2028-01-01 nor never") from error
    _change(lambda old: old.with_expiry(limit), f"trust.toml expires: {day}")


def _role_text(name: str, channels: list[str]) -> str:
    return name if channels == ["*"] else f"{name}({' '.join(channels)})"


def _warn_unreachable(store: TrustStore) -> None:
    for role in store.roles:
        able = [member for member in role.members if store.signer(member.signer).revoked is None]
        if len(able) < role.threshold:
            say(f"{role.name}: {role.threshold} must sign and only {len(able)} can, so nothing will be accepted")
            hint(f"sealift trust add NAME.pub --role {role.name}")
