"""The verdict on one envelope: what was found, who counted, who is missing and why. Data and words, no decisions.

Everything in it is sorted and comes from trust.toml or is hex, never from the payload, so it is safe to print and the
same input gives the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal["no_role", "revoked", "channel", "incomplete", "profile", "certificate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignatureFinding:
    """One signature of the envelope. `signer` and `scheme` are None when no trusted signer has the key."""

    keyid: str
    status: Literal["good", "bad", "unknown"]
    signer: str | None = None
    scheme: str | None = None

    def sentence(self) -> str:
        if self.status == "unknown":
            return f"a signature by the key {self.keyid[:16]}… was not checked: no signer in trust.toml has this key"
        if self.status == "bad":
            return f"the signature by {self.signer}'s {self.scheme} key is wrong: the envelope is damaged or forged"
        return f"the signature by {self.signer}'s {self.scheme} key is valid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A signer with at least one valid signature that does not count for a role."""

    signer: str
    reason: Reason
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleVerdict:
    """One role: `counted` signers against the threshold; `absent` are members that could count and did not sign."""

    role: str
    threshold: int
    counted: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    absent: tuple[str, ...]

    @property
    def met(self) -> bool:
        return 0 < self.threshold <= len(self.counted)

    def sentences(self) -> list[str]:
        who = f": {', '.join(self.counted)}" if self.counted else ""
        if self.threshold == 0:
            lines = [f"{self.role}: nobody is trusted for this role"]
        else:
            lines = [f"{self.role}: {len(self.counted)} of {self.threshold} needed{who}"]
        # Somebody else's signature is worth a line only while this role is still looking for signers.
        shown = [item for item in self.rejected if item.reason != "no_role" or not self.met]
        lines += [f"{self.role}: {item.signer} does not count: {item.text}" for item in shown]
        if not self.met and self.absent:
            lines.append(f"{self.role}: no signature from {', '.join(self.absent)}")
        return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`channel` is the one judged, None when none was known. `problems` are fatal whatever the roles say;
    `not_checked` lists what could not be judged and is never to be read as passed."""

    payload_type: str
    profile: str
    channel: str | None
    trust_version: int
    roles: tuple[RoleVerdict, ...]
    signatures: tuple[SignatureFinding, ...]
    problems: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return bool(self.roles) and not self.problems and all(role.met for role in self.roles)

    @property
    def signers(self) -> tuple[str, ...]:
        """Everybody who counted for a role."""
        return tuple(sorted({name for role in self.roles for name in role.counted}))

    def sentences(self) -> list[str]:
        lines = [f"{'trusted' if self.accepted else 'not trusted'} (profile {self.profile})"]
        lines += self.problems
        for role in self.roles:
            lines += role.sentences()
        lines += [finding.sentence() for finding in self.signatures if finding.status != "good"]
        lines += [f"not checked: {what}" for what in self.not_checked]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON values only, in a fixed order."""
        return {
            "accepted": self.accepted,
            "payload_type": self.payload_type,
            "profile": self.profile,
            "channel": self.channel,
            "trust_version": self.trust_version,
            "roles": [_role(role) for role in self.roles],
            "signatures": [
                {"keyid": f.keyid, "status": f.status, "signer": f.signer, "scheme": f.scheme} for f in self.signatures
            ],
            "problems": list(self.problems),
            "not_checked": list(self.not_checked),
            "sentences": self.sentences(),
        }


def _role(role: RoleVerdict) -> dict[str, Any]:
    return {
        "role": role.role,
        "threshold": role.threshold,
        "met": role.met,
        "counted": list(role.counted),
        "rejected": [{"signer": r.signer, "reason": r.reason, "text": r.text} for r in role.rejected],
        "absent": list(role.absent),
    }
