"""Read a receipt in any of its forms, and say whose it is. Every byte comes from a medium, a keyboard or a camera.

* a file of a DSSE envelope, of a bare statement (unsigned), or of a text for paper; text may also come from elsewhere
* `judge` asks the trust of this host: role `receiver`, for the channel of the receipt. The short form is signed by the
  Ed25519 key alone, so it counts under the profile `any`; the full form under the policy's
* a refusal without a channel is believed only of a receiver for every channel
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bundler import paper, receipts_compact
from bundler.errors import ReceiptRefused, medium_errors
from bundler.receipts import MAX_RECEIPT, Receipt
from bundler.receipts_compact import TITLE, TYPE, Short
from manifests.statement import PAYLOAD_TYPE
from signing import compact
from signing import envelope as dsse
from signing.errors import SigningError
from signing.trust import TrustStore

ROLE = "receiver"
MAX_FILE = 2 * MAX_RECEIPT  # bytes; base64 and the signatures included


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One receipt, unverified. `place` says where it was read; `envelope` is None for a short form, and for a full one
    that nobody signed."""

    place: str
    content: Receipt | Short
    envelope: bytes | None = None

    @property
    def subject(self) -> str:
        """The first 32 hex digits of the subject's digest."""
        return self.content.subject if isinstance(self.content, Short) else self.content.subject.hex[:32]

    @property
    def signed(self) -> bool:
        return bool(self.content.signature if isinstance(self.content, Short) else self.envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """`signer` is the receiver who counted; None, with `problem`, where nobody did."""

    found: Found
    signer: str | None
    problem: str | None = None


def read_file(path: Path) -> Found:
    """Raises ReceiptRefused, PaperRefused or MediumUnavailable."""
    with medium_errors(path), path.open("rb") as stream:
        raw = stream.read(MAX_FILE + 1)
    return read(raw, path.name)


def read(raw: bytes, place: str) -> Found:
    if len(raw) > MAX_FILE:
        raise ReceiptRefused(f"{place}: more than {MAX_FILE:,} bytes")
    try:
        if raw.startswith(b'{"payload":'):
            envelope = dsse.decode(raw)
            if envelope.payload_type != PAYLOAD_TYPE:
                raise ReceiptRefused(f"an envelope of {envelope.payload_type}, not of a receipt")
            return Found(place=place, content=Receipt.decode(envelope.payload), envelope=raw)
        if raw.startswith(b"{"):
            return Found(place=place, content=Receipt.decode(raw))
        text = raw.decode("ascii", "replace")
        if not paper.is_titled(TITLE, text):
            raise ReceiptRefused(f"neither an envelope, nor a statement, nor a text that begins with {TITLE}")
        return Found(place=place, content=receipts_compact.parse(text))
    except SigningError as error:
        raise ReceiptRefused(f"{place}: {error}") from None
    except ReceiptRefused as error:
        raise ReceiptRefused(f"{place}: {error}", hint=error.hint) from None


def judge(found: Found, trust: TrustStore, profile: str, now: date) -> Judged:
    try:
        if found.envelope is not None:
            verified = trust.verify(
                found.envelope,
                payload_type=PAYLOAD_TYPE,
                roles=[ROLE],
                channel=lambda payload: Receipt.decode(payload).channel,
                required_profile=profile,
                now=now,
            )
        elif isinstance(short := found.content, Short) and short.signature:
            verified = compact.verify_compact(
                trust, TYPE, short.body(), short.hint, short.signature, roles=[ROLE], channel=short.channel, now=now
            )
        else:
            return Judged(found=found, signer=None, problem="nobody signed it")
    except SigningError as error:
        return Judged(found=found, signer=None, problem=str(error))
    return Judged(found=found, signer=", ".join(verified.verdict.signers))
