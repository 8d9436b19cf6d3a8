"""The short form of a receipt: small enough to be read aloud, typed, or held before a camera.

    bytes    content
    1        version, 1
    1        flags: 1 signed · 2 the subject is a statement · 4 the bundle's id is known · 8 its channel and number
    1        the reason's number in receipts.REASONS; 0 is arrived
    5        time, seconds since 1970
    16       the bundle's id, or zeros
    16       the first half of the subject's digest
    8        sequence, or zeros
    1 + n    length of the channel in characters, and the channel
    4        the first bytes of the signing key's id, or zeros
    0 or 64  the Ed25519 signature over all of the above

Strength: 128 bits of the statement's digest. To find another statement for a given receipt takes 2^128 attempts; a
publisher that makes two statements at once for one receipt needs 2^64, and still a second signature of its own.
Law: `Short.decode(short.encode()) == short`; a byte that is not used must be zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone

from bundler import paper
from bundler.errors import ReceiptRefused
from bundler.receipts import MAX_SEQUENCE, REASONS, Receipt
from manifests.statement import CHANNEL, format_time, parse_time
from signing import compact
from signing.keys import Signer

TITLE = "SEALIFT RECEIPT 1"
TYPE = "application/vnd.sealift.receipt.short.v1"
VERSION = 1
_SIGNED, _KNOWN, _ID, _TRUSTED = 1, 2, 4, 8
_FIXED = 49  # bytes before the channel
_HALF = 16
_LATEST = 253402300799  # the last second of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """`signature` is not verified here; `hint` says which key to try."""

    reason: str
    time: str
    subject: str  # 32 hex digits
    known: bool
    id: str | None
    channel: str | None
    sequence: int | None
    hint: bytes = bytes(compact.HINT)
    signature: bytes = b""

    @classmethod
    def of(cls, receipt: Receipt, signer: Signer | None = None) -> Short:
        """Signed where the signer has an Ed25519 key."""
        short = cls(
            reason=receipt.reason,
            time=receipt.time,
            subject=receipt.subject.hex[: 2 * _HALF],
            known=receipt.known,
            id=receipt.id,
            channel=receipt.channel,
            sequence=receipt.sequence,
        )
        key = compact.paper_key(signer.public) if signer else None
        if signer is None or key is None:
            return short
        hinted = replace(short, hint=bytes.fromhex(key.id)[: compact.HINT], signature=bytes(compact.SIZE))
        return replace(hinted, signature=compact.sign_compact(signer, TYPE, hinted.body()))

    @property
    def outcome(self) -> str:
        return "arrived" if self.reason == "arrived" else "refused"

    def unsigned(self) -> Short:
        return replace(self, hint=bytes(compact.HINT), signature=b"")

    def body(self) -> bytes:
        """What is signed."""
        flags = _SIGNED * bool(self.signature) | _KNOWN * self.known
        flags |= _ID * (self.id is not None) | _TRUSTED * (self.channel is not None)
        channel = (self.channel or "").encode()
        return b"".join(
            (
                bytes([VERSION, flags, list(REASONS).index(self.reason)]),
                int(parse_time(self.time).timestamp()).to_bytes(5, "big"),
                bytes.fromhex(self.id or "00" * _HALF),
                bytes.fromhex(self.subject),
                (self.sequence or 0).to_bytes(8, "big"),
                bytes([len(channel)]) + channel,
                self.hint,
            )
        )

    def encode(self) -> bytes:
        return self.body() + self.signature

    @classmethod
    def decode(cls, raw: bytes) -> Short:
        if len(raw) < _FIXED or raw[0] != VERSION:
            raise ReceiptRefused("not a short receipt of version 1")
        flags, end = raw[1], _FIXED + raw[48]
        try:
            short = cls(
                reason=list(REASONS)[raw[2]],
                time=format_time(datetime.fromtimestamp(_seconds(raw[3:8]), timezone.utc)),
                subject=raw[24:40].hex(),
                known=bool(flags & _KNOWN),
                id=raw[8:24].hex() if flags & _ID else None,
                channel=raw[_FIXED:end].decode("ascii") if flags & _TRUSTED else None,
                sequence=int.from_bytes(raw[40:48], "big") if flags & _TRUSTED else None,
                hint=raw[end : end + compact.HINT],
                signature=raw[end + compact.HINT :],
            )
        except (IndexError, UnicodeDecodeError):
            raise ReceiptRefused("not a short receipt: an unknown reason or a channel that is none") from None
        _check(short, raw)
        return short

    def text(self) -> str:
        return paper.text(TITLE, self.encode())

    def symbol(self) -> str:
        return paper.symbol(TITLE, self.encode())


def parse(text: str) -> Short:
    """Raises PaperRefused, naming the line with a mistake, or ReceiptRefused."""
    return Short.decode(paper.parse(TITLE, text))


def _seconds(raw: bytes) -> int:
    return min(int.from_bytes(raw, "big"), _LATEST)


def _check(short: Short, raw: bytes) -> None:
    if len(short.signature) not in (0, compact.SIZE) or len(short.hint) != compact.HINT:
        raise ReceiptRefused("a short receipt of a wrong length")
    if not short.signature and any(short.hint):
        raise ReceiptRefused("a short receipt that names a key and has no signature")
    if short.channel is not None:
        sound = len(short.channel) <= 128 and CHANNEL.fullmatch(short.channel)
        if not sound or not 1 <= (short.sequence or 0) <= MAX_SEQUENCE or short.id is None or not short.known:
            raise ReceiptRefused("a short receipt whose channel or sequence number is none")
    elif short.reason == "arrived":
        raise ReceiptRefused("a short receipt of an arrival without a channel")
    if short.encode() != raw:
        raise ReceiptRefused("the bytes of the short receipt are not in their one spelling")
