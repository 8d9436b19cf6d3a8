"""The trust core: bytes and a TrustStore in, a VerifiedPayload or NotTrusted out. No files, no network, no clock.

The checks, in order (DSSE v1.0.2 "Protocol", with thresholds as in its multi-signature section):

* size cap and canonical form of the envelope                                        MalformedEnvelope
* the payload type is the one asked for, before any signature                        WrongPayloadType
* every signature whose key a signer has is checked; one wrong signature is fatal    NotTrusted
* the signatures of keys that nobody has are recorded and count for nothing
* a signer counts when it is not revoked, every one of its keys signed, and its keys satisfy the profile
* a signer with certificates counts when they hold now, and held when it signed; one of both must be known
* each role needed: unique signers who hold the role and count, against the threshold
* trust.toml itself has not expired, when a time is given; otherwise that is listed as not checked
* the channel last: the payload is shown to the caller's `channel` function only after all of the above

Absent: a check of `keyid` beyond choosing the key. A false one chooses a key that did not sign (fatal), or no key.
Absent: counting keys. A store never holds one key under two names, so a signer cannot count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from signing.envelope import Envelope, decode
from signing.errors import NotTrusted, WrongPayloadType
from signing.keys import PublicKey
from signing.verdict import Rejection, RoleVerdict, SignatureFinding, Verdict
from signing.verified import _SEAL, VerifiedPayload

if TYPE_CHECKING:
    from signing.trust import Member, TrustedSigner, TrustStore

Channel = str | Callable[[bytes], str | None] | None
SignedAt = Callable[[bytes], datetime] | None

_CLASSICAL = frozenset({"ed25519", "ecdsa-p384"})
# What a signer's keys must contain, one of each set. Every key of a signer must have signed, whatever the profile.
PROFILES: dict[str, tuple[frozenset[str], ...]] = {
    "hybrid": (_CLASSICAL, frozenset({"ml-dsa-65", "ml-dsa-87"})),
    "cnsa2": (frozenset({"ml-dsa-87"}),),  # CNSA 2.0: ML-DSA-87 only counts
    "any": (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What the caller asks of an envelope."""

    payload_type: str
    roles: tuple[str, ...]
    profile: str


def judge(
    data: bytes, store: TrustStore, demand: Demand, channel: Channel, now: date | None, signed_at: SignedAt = None
) -> VerifiedPayload:
    """Raises MalformedEnvelope, WrongPayloadType or NotTrusted; what `channel` or `signed_at` raises passes through."""
    assert demand.roles and demand.profile in PROFILES, f"unusable demand: {demand}"
    envelope = decode(data)
    if envelope.payload_type != demand.payload_type:
        raise WrongPayloadType(f"payloadType: expected {demand.payload_type}, found {envelope.payload_type}")
    findings = _check_signatures(envelope, store)
    moments = [] if now is None else [now]
    if callable(channel) or signed_at:
        anywhere = _verdict(store, demand, findings, None, now, moments, unread=True)
        _refuse_unless_accepted(anywhere)
        channel = channel(envelope.payload) if callable(channel) else channel
        moments += [signed_at(envelope.payload)] if signed_at else []
    verdict = _verdict(store, demand, findings, channel, now, moments, unread=False)
    _refuse_unless_accepted(verdict)
    return VerifiedPayload(_SEAL, envelope.payload_type, envelope.payload, verdict)


def _check_signatures(envelope: Envelope, store: TrustStore) -> tuple[SignatureFinding, ...]:
    """At most limits.MAX_SIGNATURES verifications: each signature is tried against the one key it names.

    A revoked signer's signatures are checked too: they count for nothing, but a wrong one is still a forgery.
    """
    # Ids are computed here from the keys themselves; nothing stored or received says what a key's id is.
    known: dict[str, tuple[str, PublicKey]] = {
        key.id: (signer.name, key) for signer in store.signers for key in signer.keys
    }
    message = envelope.signed_bytes
    findings = []
    for signature in envelope.signatures:
        if signature.keyid not in known:
            findings.append(SignatureFinding(keyid=signature.keyid, status="unknown"))
            continue
        name, key = known[signature.keyid]
        good = key.verify(signature.sig, message)
        findings.append(
            SignatureFinding(keyid=signature.keyid, status="good" if good else "bad", signer=name, scheme=key.scheme)
        )
    return tuple(findings)


def _verdict(
    store: TrustStore,
    demand: Demand,
    findings: tuple[SignatureFinding, ...],
    channel: str | None,
    now: date | None,
    moments: Sequence[date],
    *,
    unread: bool,
) -> Verdict:
    """`unread`: the payload was not looked at, so channels and certificates are not judged yet."""
    bad = [finding for finding in findings if finding.status == "bad"]
    good = {finding.keyid for finding in findings if finding.status == "good"}
    problems, not_checked = _expiry(store, now)
    if bad:
        problems.append("a known key comes with a wrong signature, so nothing in this envelope counts")
    return Verdict(
        payload_type=demand.payload_type,
        profile=demand.profile,
        channel=channel,
        trust_version=store.version,
        roles=tuple(
            _judge_role(store, role, demand.profile, good, channel, moments, unread)
            for role in sorted(set(demand.roles))
        ),
        signatures=findings,
        problems=tuple(problems),
        not_checked=tuple(not_checked),
    )


def _expiry(store: TrustStore, now: date | None) -> tuple[list[str], list[str]]:
    """Problems and unchecked items from the expiry of trust.toml; the day of expiry is its last good day."""
    if store.expires is None:
        return [], []
    if now is None:
        return [], [f"whether trust.toml has expired ({store.expires.isoformat()}): no time was given"]
    today = now.date() if isinstance(now, datetime) else now
    return ([f"trust.toml expired on {store.expires.isoformat()}"] if today > store.expires else []), []


def _judge_role(
    store: TrustStore,
    name: str,
    profile: str,
    good: set[str],
    channel: str | None,
    moments: Sequence[date],
    unread: bool,
) -> RoleVerdict:
    role = store.role(name)
    members = {member.signer: member for member in role.members} if role else {}
    counted, rejected, absent = [], [], []
    for signer in store.signers:
        member = members.get(signer.name)
        if not any(key.id in good for key in signer.keys):
            if member is not None and signer.revoked is None:
                absent.append(signer.name)
            continue
        rejection = _why_not(signer, member, name, profile, good, channel, moments, unread)
        if rejection is None:
            counted.append(signer.name)
        else:
            rejected.append(rejection)
    return RoleVerdict(
        role=name,
        threshold=role.threshold if role else 0,
        counted=tuple(counted),
        rejected=tuple(rejected),
        absent=tuple(absent),
    )


def _why_not(
    signer: TrustedSigner,
    member: Member | None,
    role: str,
    profile: str,
    good: set[str],
    channel: str | None,
    moments: Sequence[date],
    unread: bool,
) -> Rejection | None:
    """The first reason why a signer with a valid signature does not count for the role; None when it counts."""
    if signer.revoked is not None:
        text = f"revoked on {signer.revoked.date.isoformat()} ({signer.revoked.reason})"
        return Rejection(signer=signer.name, reason="revoked", text=text)
    if member is None:
        return Rejection(signer=signer.name, reason="no_role", text=f"it does not hold the role {role}")
    missing = [key.scheme for key in signer.keys if key.id not in good]
    if missing:
        text = f"its {' and '.join(missing)} signature is missing; every key of a signer must sign"
        return Rejection(signer=signer.name, reason="incomplete", text=text)
    lacking = unmet(profile, [key.scheme for key in signer.keys])
    if lacking:
        return Rejection(signer=signer.name, reason="profile", text=lacking)
    if not unread and signer.x509:
        from signing.certificates import problem

        if lacking := problem(signer.x509, moments):
            return Rejection(signer=signer.name, reason="certificate", text=lacking)
    if not unread and not member.covers(channel):
        where = f"the channel {channel!r}" if channel is not None else "content that names no channel"
        text = f"it may sign for {', '.join(member.channels)} and not for {where}"
        return Rejection(signer=signer.name, reason="channel", text=text)
    return None


def unmet(profile: str, schemes: Sequence[str]) -> str | None:
    """What the profile still needs from a signer with keys of these schemes, in words; None when satisfied."""
    for needed in PROFILES[profile]:
        if needed.isdisjoint(schemes):
            return f"profile {profile} needs a key of {' or '.join(sorted(needed))}"
    return None


def _refuse_unless_accepted(verdict: Verdict) -> None:
    if verdict.accepted:
        return
    lines = [*verdict.problems]
    for role in verdict.roles:
        lines += role.sentences() if not role.met else []
    lines += [finding.sentence() for finding in verdict.signatures if finding.status == "bad"]
    raise NotTrusted("; ".join(lines), verdict=verdict, hint=_hint(verdict))


def _hint(verdict: Verdict) -> str | None:
    """The next step of whoever holds this host; None where it can only wait."""
    found = {finding.status for finding in verdict.signatures}
    if "bad" in found:
        return "get the content again from its source"
    if verdict.problems:
        return "renew the trust of this host: sealift trust show, then sealift trust expires DATE"
    wanting = next(role for role in verdict.roles if not role.met)
    if "unknown" in found:
        return f"if you know who signed: sealift trust add NAME.pub --role {wanting.role}"
    if wanting.absent and any(item.reason != "no_role" for item in wanting.rejected):
        return f"ask the sender for one that is signed by {' or '.join(wanting.absent)}"
    return None
