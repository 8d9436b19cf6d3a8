"""Tree heads of the custody log: log, size and root, signed or bare, as a line, and short for paper.

    line    a DSSE envelope of {"log":…,"root":…,"size":…}, or that object itself: unsigned
    short   1 version · 1 flags (1 signed) · 16 log · 8 size · 32 root · 4 hint · 0 or 64 Ed25519 signature

Law: what is read is written again byte for byte, or refused. A head that is kept elsewhere (on paper, by an auditor)
binds everything before it: no edit, cut or reorder of those entries leads to the same root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bundler import paper
from bundler.errors import BadRequest, CustodyRefused
from manifests import canonical
from manifests.errors import ManifestsError
from manifests.fields import Fields
from signing import compact
from signing import envelope as dsse
from signing.envelope import Envelope, pae
from signing.errors import SigningError
from signing.keys import PublicKey, Signer

TYPE = "application/vnd.sealift.custody.head.v1+json"
SHORT_TYPE = "application/vnd.sealift.custody.head.short.v1"
TITLE = "SEALIFT HEAD 1"
MAX_HEAD = 64 << 10  # bytes
VERSION = 1
_FIXED = 62  # bytes of the short form before the signature
_LOG = re.compile(r"[0-9a-f]{32}")
_ROOT = re.compile(r"[0-9a-f]{64}")

Keys = Mapping[str, tuple[str, PublicKey]]  # key id -> signer's name and key


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    log: str  # 32 hex digits
    size: int
    root: str  # 64 hex digits

    def encode(self) -> bytes:
        return canonical.encode({"log": self.log, "root": self.root, "size": self.size})

    def line(self, signer: Signer | None) -> bytes:
        return dsse.encode(dsse.sign(TYPE, self.encode(), [signer])) if signer else self.encode()

    @classmethod
    def decode(cls, raw: bytes) -> Head:
        """Raises CustodyRefused."""
        try:
            fields = Fields.of(canonical.decode(raw, limit=MAX_HEAD))
            head = cls(
                log=fields.text("log", pattern=_LOG),
                root=fields.text("root", pattern=_ROOT),
                size=fields.integer("size", minimum=1, maximum=canonical.MAX_INTEGER),
            )
            fields.done()
        except ManifestsError as error:
            raise CustodyRefused(f"not a tree head: {error}") from None
        return head

    def short(self, signer: Signer | None = None) -> bytes:
        """Raises BadRequest for a signer without an Ed25519 key: no other signature is short enough."""
        key = compact.paper_key(signer.public) if signer else None
        if signer and key is None:
            raise BadRequest(
                f"{signer.name} has no Ed25519 key, and no other signature is short enough for paper",
                hint="leave --sign away, or sign with a key that has Ed25519: sealift key list",
            )
        hint = bytes.fromhex(key.id)[: compact.HINT] if key else bytes(compact.HINT)
        body = b"".join(
            (
                bytes([VERSION, key is not None]),
                bytes.fromhex(self.log),
                self.size.to_bytes(8, "big"),
                bytes.fromhex(self.root),
                hint,
            )
        )
        return body + (compact.sign_compact(signer, SHORT_TYPE, body) if signer and key else b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A head as it was read, its signatures not yet checked."""

    head: Head
    envelope: Envelope | None = None
    short: bytes = b""

    @property
    def signed(self) -> bool:
        return self.envelope is not None or len(self.short) > _FIXED

    def signer(self, keys: Keys) -> str:
        """Who signed it. Raises CustodyRefused for a wrong signature, or one by a key that is not among these."""
        if self.envelope is not None:
            message = self.envelope.signed_bytes
            made = {signature.keyid: signature.sig for signature in self.envelope.signatures}
        else:
            body, hint = self.short[:_FIXED], self.short[_FIXED - compact.HINT : _FIXED].hex()
            message = pae(SHORT_TYPE, body)
            made = {keyid: self.short[_FIXED:] for keyid in keys if keyid.startswith(hint)} or {hint: b""}
        names = set()
        for keyid, sig in made.items():
            if keyid not in keys:
                raise CustodyRefused(
                    f"signed by the key {keyid[:16]}…, which is not known here", hint="give it: --key NAME.pub"
                )
            name, key = keys[keyid]
            if not key.verify(sig, message):
                raise CustodyRefused(f"the signature by {name}'s {key.scheme} key is wrong")
            names.add(name)
        return ", ".join(sorted(names))


def read_head(raw: bytes) -> Kept:
    """A line, or a text for paper. Raises CustodyRefused or PaperRefused."""
    if len(raw) > MAX_HEAD:
        raise CustodyRefused(f"a tree head of {len(raw):,} bytes; at most {MAX_HEAD:,} are read")
    if raw.startswith(b'{"payload":'):
        try:
            envelope = dsse.decode(raw)
        except SigningError as error:
            raise CustodyRefused(f"not a tree head: {error}") from None
        if envelope.payload_type != TYPE:
            raise CustodyRefused(f"an envelope of {envelope.payload_type}, not of a tree head")
        return Kept(head=Head.decode(envelope.payload), envelope=envelope)
    if raw.startswith(b"{"):
        return Kept(head=Head.decode(raw))
    return read_short(paper.parse(TITLE, raw.decode("ascii", "replace")))


def read_short(raw: bytes) -> Kept:
    if len(raw) not in (_FIXED, _FIXED + compact.SIZE) or raw[0] != VERSION or raw[1] != (len(raw) > _FIXED):
        raise CustodyRefused("not a short tree head of version 1")
    head = Head(log=raw[2:18].hex(), size=int.from_bytes(raw[18:26], "big"), root=raw[26:58].hex())
    if not 1 <= head.size <= canonical.MAX_INTEGER or (not raw[1] and any(raw[58:62])):
        raise CustodyRefused("not a short tree head of version 1")
    return Kept(head=head, short=raw)
