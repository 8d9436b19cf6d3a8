"""A signature that fits on paper: by the signer's Ed25519 key alone, 64 bytes.

An ML-DSA-65 signature has 3,309 bytes, more than a QR symbol holds, so the short forms of receipts and tree heads carry
the classical half of a hybrid signer only. They are judged by the same code as envelopes, under the profile `any` and a
store in which every signer is its Ed25519 key and nothing else.

Refused: a signer without an Ed25519 key, and one whose keys rest on certificates: paper bears no time to judge them by.
What is signed is DSSE's `pae(type, payload)`, so a short form can never pass for an envelope of another type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from signing.envelope import Envelope, Signature, encode, pae
from signing.errors import MalformedEnvelope
from signing.judge import Channel
from signing.keys import PublicKey, PublicSigner, Signer
from signing.trust import TrustedSigner, TrustStore
from signing.verified import VerifiedPayload

SCHEME = "ed25519"
SIZE = 64  # bytes of a signature, RFC 8032
HINT = 4  # bytes of a key id: they say which key to try, and prove nothing


def paper_key(public: PublicSigner) -> PublicKey | None:
    return next((key for key in public.keys if key.scheme == SCHEME), None)


def sign_compact(signer: Signer, payload_type: str, payload: bytes) -> bytes:
    """Of a signer for whom `paper_key` is not None."""
    made = {public.scheme: sig for public, sig in signer.sign(pae(payload_type, payload))}
    return made[SCHEME]


def verify_compact(
    store: TrustStore,
    payload_type: str,
    payload: bytes,
    hint: bytes,
    sig: bytes,
    *,
    roles: Sequence[str],
    channel: Channel = None,
    now: date | None = None,
) -> VerifiedPayload:
    """Raises NotTrusted with the verdict, or MalformedEnvelope when two known keys begin like `hint`."""
    paper = classical(store)
    found = [key.id for signer in paper.signers for key in signer.keys if key.id.startswith(hint.hex())]
    if len(found) > 1:
        raise MalformedEnvelope(f"several known keys begin with {hint.hex()}: carry the full form instead")
    keyid = found[0] if found else hint.hex().ljust(64, "0")
    made = Envelope(payload_type=payload_type, payload=payload, signatures=(Signature(keyid=keyid, sig=sig),))
    return paper.verify(
        encode(made), payload_type=payload_type, roles=roles, channel=channel, required_profile="any", now=now
    )


def classical(store: TrustStore) -> TrustStore:
    """The same store, in which each signer is its Ed25519 key alone; signers without one are gone."""
    signers = []
    for signer in store.signers:
        key = paper_key(signer.public)
        if key is not None and not signer.x509:
            public = PublicSigner(signer.name, (key,))
            signers.append(TrustedSigner(public=public, revoked=signer.revoked))
    names = {signer.name for signer in signers}
    roles = []
    for role in store.roles:
        members = tuple(member for member in role.members if member.signer in names)
        if members:
            roles.append(replace(role, members=members))
    return replace(store, signers=tuple(signers), roles=tuple(roles))
