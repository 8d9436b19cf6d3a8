"""Approvals: signatures that were added after the volumes were written, each in a small file beside them.

    <stem>.approval-<8 hex>.dsse.json    a DSSE envelope: the volumes' payload and payload type, byte for byte,
                                         and one or more further signatures over them

The volumes never change. A reader merges the signatures of the envelope in the volumes with those of all approvals, and
judges the result as one envelope. This module decides nothing about trust.
Refused, by the file's name: more than 32 files, more bytes than a statement may have, what is not a canonical envelope,
another payload, a key with two different signatures, more than 64 signatures together.
Normative text: docs/formats/bundle.md, section 3.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bundler import conceal
from bundler.errors import ApprovalRefused
from bundler.medium import MAX_ENVELOPE, Medium, VolumeReader, file_names
from signing import envelope as dsse
from signing.envelope import Envelope
from signing.errors import MalformedEnvelope

MAX_APPROVALS = 32  # files
NAME = re.compile(r"(?P<stem>.+)\.approval-[0-9a-f]{8}\.dsse\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One file, by name, and the keys whose signatures it carries."""

    name: str
    keyids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The volumes' payload with every signature that was found: unverified."""

    envelope: bytes = field(repr=False)
    approvals: tuple[Approval, ...] = ()


def file_name(stem: str, keyid: str) -> str:
    """`keyid`: the first key of the approval. Readers take the name as a hint only."""
    return f"{stem}.approval-{keyid[:8]}.dsse.json"


def gather(medium: Medium, extra: Sequence[Path] = ()) -> Signed:
    """The approvals in the medium's folder, and `extra` ones that came another way. Raises ApprovalRefused."""
    found = [match for match in map(NAME.fullmatch, file_names(medium.folder)) if match]
    paths = [*(medium.folder / match.group() for match in found if conceal.alike(match["stem"], medium.stem)), *extra]
    if len(paths) > MAX_APPROVALS:
        raise ApprovalRefused(f"{len(paths)} approvals of one bundle; at most {MAX_APPROVALS} are read")
    return merge(medium.envelope, ((path.name, _read(path)) for path in paths))


def check(path: Path, envelope: bytes) -> None:
    """Raises ApprovalRefused for what is no approval of the statement in `envelope`."""
    merge(envelope, [(path.name, _read(path))])


def merge(envelope: bytes, approvals: Iterable[tuple[str, bytes]]) -> Signed:
    """One envelope with all signatures. `approvals`: name and bytes of each, read one at a time."""
    merged: Envelope | None = None
    found = []
    for name, raw in approvals:
        merged = merged or dsse.decode(envelope)
        other = _decode(name, raw)
        if (other.payload_type, other.payload) != (merged.payload_type, merged.payload):
            raise ApprovalRefused(
                f"{name} approves another statement than the one in the volumes",
                hint="take the file away; an approval belongs to exactly one bundle",
            )
        merged = _join(merged, name, other)
        found.append(Approval(name=name, keyids=tuple(signature.keyid for signature in other.signatures)))
    return Signed(envelope=dsse.encode(merged) if merged else envelope, approvals=tuple(found))


def _join(merged: Envelope, name: str, other: Envelope) -> Envelope:
    made = {signature.keyid: signature for signature in merged.signatures}
    for signature in other.signatures:
        if made.setdefault(signature.keyid, signature) != signature:
            raise ApprovalRefused(
                f"{name}: the key {signature.keyid[:16]}… has signed elsewhere with another signature",
                hint="keep one of the two approvals",
            )
    try:
        return replace(merged, signatures=tuple(made[keyid] for keyid in sorted(made)))
    except MalformedEnvelope as error:
        raise ApprovalRefused(f"{name}: with its signatures: {error}") from None


def _decode(name: str, raw: bytes) -> Envelope:
    try:
        return dsse.decode(raw)
    except MalformedEnvelope as error:
        raise ApprovalRefused(
            f"{name}: not an approval: {error}", hint="take the file away, or copy it again from its source"
        ) from None


def _read(path: Path) -> bytes:
    with VolumeReader(path) as file:
        if file.size > MAX_ENVELOPE:
            raise ApprovalRefused(f"{path.name}: {file.size:,} bytes; an approval has at most {MAX_ENVELOPE:,}")
        return file.read(file.size, "an approval")
