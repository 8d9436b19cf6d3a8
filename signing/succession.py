"""Which trust document may follow which. The rules are TUF's for root metadata (specification 1.0, section 5.3).

A document is a DSSE envelope of type `TRUST_TYPE`. Its successor is accepted only when

* its version is exactly one more;
* the root of the old document signed it: enough of its signers, as everywhere (judge: every key of a signer, nobody
  revoked, one wrong signature is fatal);
* the root of the new document signed it too, so that no root is named that cannot sign;
* it revokes everybody whom the old one revoked (TUF has no revocation; here none is ever taken back).

As in TUF the expiry of an old document does not stop its successor: whoever was away for two years catches up, and what
counts is whether the newest document has expired, which the judgement of content asks.
The first document is signed by the root it names itself; that proves nothing about whose root it is, so a person
compares `root_fingerprint`.

A *chain* is a file of documents, one a line, each the successor of the one before. Bytes in, a TrustStore or an error
out: no files, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from signing.envelope import Envelope, decode
from signing.errors import MalformedTrust, TrustConflict, WrongPayloadType
from signing.limits import MAX_CHAIN_BYTES
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, decode_document

ROOT = "root"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One signed version. Unverified, unless it came from `first` or `successor`."""

    envelope: bytes
    store: TrustStore


def parse(envelope: bytes) -> Document:
    """Raises MalformedEnvelope, WrongPayloadType or MalformedTrust."""
    found: Envelope = decode(envelope)
    if found.payload_type != TRUST_TYPE:
        raise WrongPayloadType(
            f"payloadType: expected {TRUST_TYPE}, found {found.payload_type}", hint="this is no signed trust document"
        )
    return Document(envelope=envelope, store=decode_document(found.payload))


def first(envelope: bytes, profile: str) -> Document:
    """A document that nothing precedes: signed by the root it names. Raises NotTrusted."""
    found = parse(envelope)
    _signed_by_root(found.store, envelope, profile)
    return found


def successor(old: TrustStore, envelope: bytes, profile: str) -> Document:
    """The document, if it may follow `old`. Raises NotTrusted, TrustConflict or what `parse` raises."""
    new = parse(envelope)
    _signed_by_root(old, envelope, profile)
    if new.store.version != old.version + 1:
        raise TrustConflict(
            f"trust version {new.store.version} cannot follow version {old.version}: versions rise by exactly one"
        )
    _signed_by_root(new.store, envelope, profile)
    refuse_lost_revocations(old, new.store)
    return new


def _signed_by_root(store: TrustStore, envelope: bytes, profile: str) -> None:
    store.verify(envelope, payload_type=TRUST_TYPE, roles=[ROOT], required_profile=profile)


def refuse_lost_revocations(old: TrustStore, new: TrustStore) -> None:
    """Raises TrustConflict unless every revoked key of `old` is revoked in `new`."""
    revoked = {key for signer in new.signers if signer.revoked is not None for key in signer.keys}
    for signer in old.signers:
        if signer.revoked is not None and not revoked.issuperset(signer.keys):
            raise TrustConflict(f"{signer.name} was revoked on {signer.revoked.date}; no later version takes that back")


def root_fingerprint(store: TrustStore) -> str:
    """160 bits over the root's threshold and keys, in ten groups of four hex digits, to compare by eye or by
    telephone. Raises TrustConflict where there is no root."""
    role = store.role(ROOT)
    if role is None:
        raise TrustConflict("nobody is root in this trust document")
    ids = [" ".join(sorted(key.id for key in store.signer(member.signer).keys)) for member in role.members]
    digest = hashlib.sha256("\n".join(["sealift-root-1", str(role.threshold), *sorted(ids)]).encode()).hexdigest()
    return " ".join(digest[at : at + 4] for at in range(0, 40, 4))


def split_chain(data: bytes) -> list[bytes]:
    """The lines of a chain. The last line end may be missing, so one envelope alone is a chain too."""
    if len(data) > MAX_CHAIN_BYTES:
        raise MalformedTrust(f"a chain of trust documents has at most {MAX_CHAIN_BYTES} bytes, found {len(data)}")
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines or not all(lines):
        raise MalformedTrust("a chain of trust documents has one document a line, and no empty line")
    return lines


def join_chain(envelopes: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in envelopes)


def advance(current: Document, accepted: Mapping[int, bytes], lines: Sequence[bytes], profile: str) -> list[Document]:
    """The documents of a chain that are new to a host, in order; none if it has them all.

    `accepted`: envelopes by version that this host took before. What the chain says of those versions must be the same
    content: two documents with one version are two roots, or one that says different things to different hosts.
    Raises NotTrusted, TrustConflict, MalformedEnvelope or MalformedTrust; then nothing of the chain counts.
    """
    now, found, before = current, list[Document](), None
    for line in lines:
        version = parse(line).store.version
        if before is not None and version != before + 1:
            raise MalformedTrust(f"the chain jumps from version {before} to {version}")
        before = version
        if version > now.store.version + 1:
            missing = range(now.store.version + 1, version)
            raise TrustConflict(
                f"trust version {version} cannot follow version {now.store.version}: missing "
                + ", ".join(map(str, missing[:8])),
                hint="ask for the whole chain: sealift trust export",
            )
        if version == now.store.version + 1:
            now = successor(now.store, line, profile)
            found.append(now)
        elif version in accepted and decode(accepted[version]).payload != decode(line).payload:
            raise TrustConflict(
                f"trust version {version} is another one than was accepted here",
                hint="it is of another root, or its root said two things: ask its signers",
            )
    return found
