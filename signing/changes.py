"""What one version of trust changes against another, in sentences for the people who are to sign it."""

from __future__ import annotations

from signing.trust import Member, TrustStore


def changes(old: TrustStore, new: TrustStore) -> list[str]:
    """One line for each change, in a fixed order. Everything in a line is a name, a pattern or printable."""
    return [*_signers(old, new), *_roles(old, new), *_expiry(old, new)] or ["nothing but the version"]


def _signers(old: TrustStore, new: TrustStore) -> list[str]:
    before = {signer.name: signer for signer in old.signers}
    after = {signer.name: signer for signer in new.signers}
    lines = [f"{name} is forgotten" for name in sorted(before.keys() - after.keys())]
    for name, signer in after.items():
        known = before.get(name)
        if known is None:
            lines.append(f"{name} is new, fingerprint {signer.public.fingerprint}")
        elif known.public != signer.public:
            lines.append(f"{name} has other keys, fingerprint {signer.public.fingerprint}")
        if signer.x509 != (known.x509 if known else ()):
            lines.append(f"{name} has {len(signer.x509)} certificates")
        if signer.revoked is not None and (known is None or known.revoked != signer.revoked):
            lines.append(f"{name} is revoked: {signer.revoked.reason}")
    return lines


def _roles(old: TrustStore, new: TrustStore) -> list[str]:
    lines = []
    for name in sorted({role.name for role in (*old.roles, *new.roles)}):
        was, now = old.role(name), new.role(name)
        before = _members(was.members if was else ())
        after = _members(now.members if now else ())
        lines += [f"{signer} is no longer {name}" for signer in sorted(before.keys() - after.keys())]
        lines += [
            f"{signer} is {name}{_where(after[signer])}"
            for signer in sorted(after)
            if before.get(signer) != after[signer]
        ]
        if now and (was.threshold if was else 1) != now.threshold:
            lines.append(f"{name}: {now.threshold} must sign")
    return lines


def _members(members: tuple[Member, ...]) -> dict[str, tuple[str, ...]]:
    return {member.signer: member.channels for member in members}


def _where(channels: tuple[str, ...]) -> str:
    return "" if channels == ("*",) else f" for {', '.join(channels)}"


def _expiry(old: TrustStore, new: TrustStore) -> list[str]:
    if old.expires == new.expires:
        return []
    return [f"expires on {new.expires.isoformat()}" if new.expires else "never expires"]
