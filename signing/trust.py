"""Who is trusted for what: named signers, roles with thresholds and channels, revocations.

A TrustStore is a value. It is built whole and checked whole; every change returns a new one with the next version.

Invariants (held by the constructors, whoever calls them):
* one name, one signer; no key belongs to two signers, so nobody counts twice;
* members of a role are signers of the store; a threshold is at least 1; an absent role trusts nobody;
* a revoked signer stays, with its keys, so that it cannot come back under another name.

The roles: `publisher` signs bundles; `approver` counter-signs them, and once a store names an approver an approval is
needed. `receiver` signs receipts of what arrived, and `root` is recorded for the succession of trust.toml itself:
neither counts for content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from signing.errors import MalformedTrust, RefusedInput, TrustConflict, UnknownSigner
from signing.judge import PROFILES, Channel, Demand, SignedAt, judge
from signing.keys import PublicKey, PublicSigner
from signing.limits import (
    MAX_CHANNEL_CHARS,
    MAX_CHANNELS,
    MAX_REASON_CHARS,
    MAX_SIGNERS,
    MAX_THRESHOLD,
    MAX_VERSION,
)
from signing.verified import VerifiedPayload

_T = TypeVar("_T")

ROLES = ("approver", "publisher", "receiver", "root")
EVERY_CHANNEL = ("*",)
_CHANNEL = re.compile(r"(?:[A-Za-z0-9._/-]+\*?|\*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    """`date` is for people: a revoked signer never counts, whenever it signed."""

    date: date
    reason: str

    def __post_init__(self) -> None:
        # Printable, because it is shown on terminals; a newline or an escape sequence has no place in it.
        if not 0 < len(self.reason) <= MAX_REASON_CHARS or not self.reason.isprintable():
            raise MalformedTrust(f"reason: expected one line of at most {MAX_REASON_CHARS} printable characters")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedSigner:
    """`x509`: certificates for its ECDSA P-384 key, DER, the anchor last; empty for a key that is trusted as it is."""

    public: PublicSigner
    revoked: Revocation | None = None
    x509: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.x509:
            from signing.certificates import check_chain

            check_chain(self.x509, self.public)

    @property
    def name(self) -> str:
        return self.public.name

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        return self.public.keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A signer's place in a role. A channel pattern is exact, or a prefix followed by one `*`; `*` alone is all,
    content without a channel included."""

    signer: str
    channels: tuple[str, ...] = EVERY_CHANNEL

    def __post_init__(self) -> None:
        if not 0 < len(self.channels) <= MAX_CHANNELS or list(self.channels) != sorted(set(self.channels)):
            raise MalformedTrust(f"{self.signer}: expected 1 to {MAX_CHANNELS} channel patterns, sorted, each once")
        for pattern in self.channels:
            if len(pattern) > MAX_CHANNEL_CHARS or not _CHANNEL.fullmatch(pattern):
                raise MalformedTrust(
                    f"{self.signer}: {pattern[:80]!r} is no channel pattern", hint="examples: acme/llm, acme/*, *"
                )

    def covers(self, channel: str | None) -> bool:
        return any(_covers(pattern, channel) for pattern in self.channels)


def _covers(pattern: str, channel: str | None) -> bool:
    if pattern == "*":
        return True
    if channel is None:
        return False
    return channel.startswith(pattern[:-1]) if pattern.endswith("*") else channel == pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    name: str
    threshold: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if self.name not in ROLES:
            raise MalformedTrust(f"unknown role {self.name[:40]!r}", hint=f"known roles: {', '.join(ROLES)}")
        if not 1 <= self.threshold <= MAX_THRESHOLD:
            raise MalformedTrust(f"roles.{self.name}.threshold: expected 1 to {MAX_THRESHOLD}, found {self.threshold}")
        _ascending([member.signer for member in self.members], f"roles.{self.name}.members")
        if not self.members:
            raise MalformedTrust(f"roles.{self.name}.members: expected at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustStore:
    """`version` counts changes. `expires` is the last day on which this file is believed, or None for never."""

    version: int
    expires: date | None
    signers: tuple[TrustedSigner, ...]
    roles: tuple[Role, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.version <= MAX_VERSION:
            raise MalformedTrust(f"version: expected 0 to {MAX_VERSION}, found {self.version}")
        if len(self.signers) > MAX_SIGNERS:
            raise MalformedTrust(f"signers: at most {MAX_SIGNERS}, found {len(self.signers)}")
        _ascending([signer.name for signer in self.signers], "signers")
        _ascending([role.name for role in self.roles], "roles")
        self._check_keys()
        names = {signer.name for signer in self.signers}
        for role in self.roles:
            for member in role.members:
                if member.signer not in names:
                    raise MalformedTrust(f"roles.{role.name}.members.{member.signer}: no such signer")
                if role.name == "root" and self.signer(member.signer).x509:
                    raise MalformedTrust(
                        f"roles.root.members.{member.signer}: trust documents bear no time to judge certificates by"
                    )

    def _check_keys(self) -> None:
        owners: dict[PublicKey, str] = {}
        for signer in self.signers:
            for key in signer.keys:
                other = owners.setdefault(key, signer.name)
                if other != signer.name:
                    raise MalformedTrust(f"signers {other} and {signer.name} have the same {key.scheme} key")

    @classmethod
    def empty(cls) -> TrustStore:
        """Trusts nobody."""
        return cls(version=0, expires=None, signers=(), roles=())

    @classmethod
    def parse(cls, data: bytes) -> TrustStore:
        """Raises MalformedTrust. `TrustStore.parse(store.encode()) == store`."""
        from signing.trustfile import parse_trust

        return parse_trust(data)

    def encode(self) -> bytes:
        """The canonical text of trust.toml."""
        from signing.trustfile import encode_trust

        return encode_trust(self)

    @classmethod
    def load(cls, path: Path) -> TrustStore:
        """An absent file is the empty store: nobody is trusted. Raises MalformedTrust or KeyFileUnavailable."""
        from signing.trustfile import load_trust

        return load_trust(path)

    def save(self, path: Path) -> None:
        from signing.trustfile import save_trust

        save_trust(self, path)

    def signer(self, name: str) -> TrustedSigner:
        """Raises UnknownSigner."""
        for signer in self.signers:
            if signer.name == name:
                return signer
        known = ", ".join(signer.name for signer in self.signers) or "nobody"
        raise UnknownSigner(f"no signer named {name[:80]!r} is trusted (known: {known})", hint="sealift trust list")

    def role(self, name: str) -> Role | None:
        return next((role for role in self.roles if role.name == name), None)

    @property
    def required_roles(self) -> tuple[str, ...]:
        """What content needs: a publisher always, an approver once the store names one."""
        return ("approver", "publisher") if self.role("approver") else ("publisher",)

    def verify(
        self,
        envelope: bytes,
        *,
        payload_type: str,
        roles: Sequence[str] | None = None,
        channel: Channel = None,
        required_profile: str = "hybrid",
        signed_at: SignedAt = None,
        now: date | None = None,
    ) -> VerifiedPayload:
        """The payload, if its signatures carry it; see `judge` for the checks and their order.

        roles:    None stands for `required_roles`.
        channel:  the content's channel, or a function from payload to channel that is called only after everything
                  else has passed, or None for content without one (signers limited to channels then do not count).
        signed_at: from the payload, like `channel`, the time when it was signed, for certificates.
        now:      today in UTC, for the expiry of trust.toml; without it that check is listed as not checked.
        Raises MalformedEnvelope, WrongPayloadType, or NotTrusted with the verdict.
        """
        if required_profile not in PROFILES:
            raise RefusedInput(
                f"unknown profile {required_profile[:40]!r}", hint=f"known profiles: {', '.join(PROFILES)}"
            )
        wanted = self.required_roles if roles is None else tuple(roles)
        unknown = [role for role in wanted if role not in ROLES]
        if unknown or not wanted:
            raise RefusedInput(f"unknown role {unknown!r}", hint=f"known roles: {', '.join(ROLES)}")
        demand = Demand(payload_type=payload_type, roles=wanted, profile=required_profile)
        return judge(envelope, self, demand, channel, now, signed_at)

    def add(
        self,
        public: PublicSigner,
        roles: Iterable[str],
        channels: Iterable[str] = EVERY_CHANNEL,
        x509: Iterable[bytes] = (),
    ) -> TrustStore:
        """The signer holds these roles, for these channels, beside any role it held before. `x509` replaces the
        certificates it had; without any it keeps them. TrustConflict when the name has other keys, a key has another
        name, or the signer was revoked."""
        signers = list(self.signers)
        found = next((signer for signer in signers if signer.name == public.name), None)
        if found is None:
            self._refuse_known_keys(public)
            signers.append(TrustedSigner(public=public, x509=tuple(x509)))
        elif found.public != public:
            raise TrustConflict(
                f"{public.name} is trusted with other keys (fingerprint {found.public.fingerprint})",
                hint=f"if the keys were replaced: sealift trust revoke {public.name}, then add the new keys "
                "under a new name with --name",
            )
        elif found.revoked is not None:
            raise TrustConflict(f"{public.name} was revoked on {found.revoked.date} ({found.revoked.reason})")
        elif chain := tuple(x509):
            signers[signers.index(found)] = replace(found, x509=chain)
        member = Member(signer=public.name, channels=tuple(sorted(set(channels))))
        changed = {role.name: role for role in self.roles}
        for name in roles:
            changed[name] = _with_member(changed.get(name), name, member)
        return self._next(signers=signers, roles=changed.values())

    def grant(self, name: str, roles: Iterable[str], channels: Iterable[str] = EVERY_CHANNEL) -> TrustStore:
        """A signer that is known holds these roles too, for these channels. Raises UnknownSigner or TrustConflict."""
        return self.add(self.signer(name).public, roles, channels)

    def with_channels(self, name: str, role_name: str, channels: Iterable[str]) -> TrustStore:
        """A member of the role signs for these channels only. TrustConflict for a role that it does not hold."""
        self._require_member(name, role_name)
        return self.grant(name, [role_name], channels)

    def _require_member(self, name: str, role_name: str) -> None:
        self.signer(name)
        held = self.role(role_name)
        if held is None or name not in [member.signer for member in held.members]:
            raise TrustConflict(f"{name} does not hold the role {role_name[:40]}", hint="sealift trust list")

    def _refuse_known_keys(self, public: PublicSigner) -> None:
        for signer in self.signers:
            if not set(signer.keys).isdisjoint(public.keys):
                state = "revoked" if signer.revoked else "known already"
                raise TrustConflict(f"a key of {public.name} is {state} under the name {signer.name}")

    def revoke(self, name: str, reason: str, on: date) -> TrustStore:
        """The signer never counts again. Revoking twice is a TrustConflict: the first reason stands."""
        found = self.signer(name)
        if found.revoked is not None:
            raise TrustConflict(f"{name} was revoked on {found.revoked.date} already ({found.revoked.reason})")
        revoked = replace(found, revoked=Revocation(date=on, reason=reason))
        return self._next(signers=[revoked if signer is found else signer for signer in self.signers])

    def remove(self, name: str) -> TrustStore:
        """Forgets a signer and its places in roles. Refused for a revoked signer, because forgetting a revocation
        would let the keys return."""
        found = self.signer(name)
        if found.revoked is not None:
            raise TrustConflict(
                f"{name} is revoked and stays listed, so that its keys cannot return",
                hint=f"to take a role from it: sealift trust remove {name} --role ROLE",
            )
        return self._next(
            signers=[signer for signer in self.signers if signer is not found], roles=self._without(name, ROLES)
        )

    def remove_from(self, name: str, roles: Iterable[str]) -> TrustStore:
        """Takes the roles from the signer, which stays known. TrustConflict for a role that it does not hold."""
        wanted = tuple(roles)
        for role in wanted:
            self._require_member(name, role)
        return self._next(roles=self._without(name, wanted))

    def _without(self, name: str, affected: Sequence[str]) -> list[Role]:
        """The roles with the signer taken from those affected; a role without members disappears."""
        roles = []
        for role in self.roles:
            kept = tuple(m for m in role.members if m.signer != name or role.name not in affected)
            if kept:
                roles.append(replace(role, members=kept))
        return roles

    def with_threshold(self, role_name: str, threshold: int) -> TrustStore:
        """TrustConflict for a role that is none, and when fewer signers could count than the threshold asks for."""
        if role_name not in ROLES:
            raise TrustConflict(f"unknown role {role_name[:40]!r}", hint=f"known roles: {', '.join(ROLES)}")
        role = self.role(role_name)
        able = [m for m in role.members if self.signer(m.signer).revoked is None] if role else []
        if role is None or threshold > len(able):
            raise TrustConflict(
                f"{role_name}: {len(able)} of its signers can count, so a threshold of {threshold} could never be met",
                hint=f"sealift trust add NAME.pub --role {role_name}",
            )
        changed = replace(role, threshold=threshold)
        return self._next(roles=[changed if item is role else item for item in self.roles])

    def with_expiry(self, expires: date | None) -> TrustStore:
        return replace(self._next(), expires=expires)

    def _next(self, signers: Iterable[TrustedSigner] | None = None, roles: Iterable[Role] | None = None) -> TrustStore:
        return replace(
            self,
            version=self.version + 1,
            signers=_sorted(self.signers if signers is None else signers, lambda signer: signer.name),
            roles=_sorted(self.roles if roles is None else roles, lambda role: role.name),
        )


def _with_member(role: Role | None, name: str, member: Member) -> Role:
    if role is None:
        return Role(name=name, threshold=1, members=(member,))
    others = [item for item in role.members if item.signer != member.signer]
    return replace(role, members=_sorted([*others, member], lambda item: item.signer))


def _sorted(items: Iterable[_T], key: Callable[[_T], str]) -> tuple[_T, ...]:
    return tuple(sorted(items, key=key))


def _ascending(names: Sequence[str], where: str) -> None:
    if any(a >= b for a, b in pairwise(names)):
        raise MalformedTrust(f"{where}: expected each name once, in ascending order")
