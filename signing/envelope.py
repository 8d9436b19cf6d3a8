"""DSSE v1.0.2 envelopes: a payload, its type, and any number of signatures over both.

    {"payload":"<base64>","payloadType":"<type>","signatures":[{"keyid":"<64 hex>","sig":"<base64>"},…]}

One canonical form: this member order, no white space, padded standard base64, signatures strictly ascending by keyid,
no newline at the end. The reader is a cursor over exactly this grammar, not a JSON parser: nothing nests, nothing can
be said twice, and nothing is allocated that the limits have not admitted.

Law: `encode(decode(b)) == b`, or `decode(b)` is refused.
A decoded Envelope is unverified. `keyid` says which key to try and never that it signed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from signing.errors import MalformedEnvelope
from signing.keys import Signer
from signing.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_TYPE_CHARS,
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
)

_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]*/[A-Za-z0-9.+_;=/-]+")
_KEYID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    keyid: str  # 64 hex digits, a hint
    sig: bytes

    def __post_init__(self) -> None:
        if not _KEYID.fullmatch(self.keyid):
            raise MalformedEnvelope(f"keyid: expected 64 hex digits, found {self.keyid[:80]!r}")
        if not 0 < len(self.sig) <= MAX_SIGNATURE_BYTES:
            raise MalformedEnvelope(f"sig: expected 1 to {MAX_SIGNATURE_BYTES} bytes, found {len(self.sig)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """Unverified. Equal envelopes have equal bytes."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if len(self.payload_type) > MAX_PAYLOAD_TYPE_CHARS or not _TYPE.fullmatch(self.payload_type):
            raise MalformedEnvelope(f"payloadType: not a media type: {self.payload_type[:80]!r}")
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise MalformedEnvelope(f"payload: at most {MAX_PAYLOAD_BYTES} bytes, found {len(self.payload)}")
        if not 0 < len(self.signatures) <= MAX_SIGNATURES:
            raise MalformedEnvelope(f"signatures: expected 1 to {MAX_SIGNATURES}, found {len(self.signatures)}")
        ids = [signature.keyid for signature in self.signatures]
        if any(a >= b for a, b in pairwise(ids)):
            raise MalformedEnvelope("signatures: one per key, ascending by keyid; found a repeat or another order")

    @property
    def signed_bytes(self) -> bytes:
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed (DSSE protocol, "Signature definition"): `DSSEv1 LEN(type) type LEN(body) body`."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, signers: Sequence[Signer]) -> Envelope:
    """An envelope signed by every key of every signer; at least one signer."""
    assert signers, "an envelope without a signer is no envelope"
    message = pae(payload_type, payload)
    made = _signatures(message, signers)
    return Envelope(payload_type=payload_type, payload=payload, signatures=_sorted(made))


def add_signature(envelope: Envelope, signer: Signer) -> Envelope:
    """The same payload with one more signer; a signature by the same key is replaced.

    The caller vouches that it verified the envelope or otherwise knows what it is signing.
    """
    kept = {signature.keyid: signature for signature in envelope.signatures}
    kept |= _signatures(envelope.signed_bytes, [signer])
    return Envelope(payload_type=envelope.payload_type, payload=envelope.payload, signatures=_sorted(kept))


def _signatures(message: bytes, signers: Sequence[Signer]) -> dict[str, Signature]:
    return {
        public.id: Signature(keyid=public.id, sig=sig) for signer in signers for public, sig in signer.sign(message)
    }


def _sorted(signatures: dict[str, Signature]) -> tuple[Signature, ...]:
    return tuple(signatures[keyid] for keyid in sorted(signatures))


def encode(envelope: Envelope) -> bytes:
    """The one form. No character in it needs escaping: the types' patterns admit neither quote nor backslash."""
    signatures = b",".join(
        b'{"keyid":"%s","sig":"%s"}' % (s.keyid.encode(), base64.b64encode(s.sig)) for s in envelope.signatures
    )
    return b'{"payload":"%s","payloadType":"%s","signatures":[%s]}' % (
        base64.b64encode(envelope.payload),
        envelope.payload_type.encode(),
        signatures,
    )


def decode(data: bytes) -> Envelope:
    """Raises MalformedEnvelope, naming the place, for anything that `encode` does not write."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedEnvelope(f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes, found {len(data)}")
    at = _Cursor(data)
    at.expect(b'{"payload":"')
    payload = at.base64("payload", MAX_PAYLOAD_BYTES)
    at.expect(b'","payloadType":"')
    payload_type = at.text("payloadType", MAX_PAYLOAD_TYPE_CHARS)
    at.expect(b'","signatures":[')
    signatures: list[Signature] = []
    while not signatures or at.skip(b","):
        if len(signatures) == MAX_SIGNATURES:
            raise MalformedEnvelope(f"signatures: more than {MAX_SIGNATURES}")
        signatures.append(_signature(at))
    at.expect(b"]}")
    at.end()
    return Envelope(payload_type=payload_type, payload=payload, signatures=tuple(signatures))


def _signature(at: _Cursor) -> Signature:
    at.expect(b'{"keyid":"')
    keyid = at.text("keyid", 64)
    at.expect(b'","sig":"')
    sig = at.base64("sig", MAX_SIGNATURE_BYTES)
    at.expect(b'"}')
    return Signature(keyid=keyid, sig=sig)


class _Cursor:
    """Reads the grammar from left to right; every refusal says at which byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def skip(self, literal: bytes) -> bool:
        found = self._data.startswith(literal, self._at)
        self._at += len(literal) if found else 0
        return found

    def expect(self, literal: bytes) -> None:
        if not self.skip(literal):
            found = self._data[self._at : self._at + len(literal)]
            raise MalformedEnvelope(
                f"byte {self._at}: expected {literal.decode()}, found {found!r}",
                hint="only the compact form that sealift writes is read; was the file edited or re-formatted?",
            )

    def text(self, what: str, limit: int) -> str:
        """Up to the next quote, ASCII, at most `limit` bytes; the quote itself stays."""
        end = self._data.find(b'"', self._at, self._at + limit + 1)
        if end < 0:
            raise MalformedEnvelope(f"{what}: longer than {limit} characters, or cut short")
        raw = self._data[self._at : end]
        self._at = end
        if not raw.isascii():
            raise MalformedEnvelope(f"{what}: not ASCII")
        return raw.decode("ascii")

    def base64(self, what: str, limit: int) -> bytes:
        """Padded standard base64 of at most `limit` bytes, in its one canonical spelling."""
        encoded = self.text(what, (limit + 2) // 3 * 4)
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedEnvelope(f"{what}: not base64") from error
        # Padding bits that are not zero decode to the same bytes: a second spelling, so it is refused.
        if base64.b64encode(decoded) != encoded.encode():
            raise MalformedEnvelope(f"{what}: base64 in a form that no encoder writes")
        return decoded

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedEnvelope(f"byte {self._at}: {len(self._data) - self._at} bytes after the end")
