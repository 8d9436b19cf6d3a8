"""Making and taking away entries of the file of keys, for `sealift access`.

Everything is checked before the file is touched; one process at a time changes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from runtime.access.entries import (
    MAX_ENTRIES,
    MAX_MODELS,
    NAME,
    SUBJECT,
    Entry,
    checked_model,
    checked_scope,
    locked,
    new_key,
    read,
    write,
)
from runtime.access.limits import MAX_CONCURRENT, Rate
from runtime.access.scopes import USUAL
from runtime.errors import RequestRefused

MAX_CERTIFICATE = 1 << 16  # bytes of a PEM file


def make(
    path: Path, name: str, *, scopes: str = "", models: Sequence[str] = (), rate: str = "", concurrent: int = 0,
    expires: str = "", certificate: Path | None = None, subject: str = "", now: datetime | None = None,
) -> tuple[Entry, str]:  # fmt: skip
    """Adds an entry; returns it with its key, "" where a certificate takes its place. Raises RequestRefused."""
    now = now or datetime.now(timezone.utc)
    if not NAME.fullmatch(name):
        raise RequestRefused(f"bad name {name[:80]!r}", hint="use up to 64 letters, digits, . _ @ and -")
    if len(models) > MAX_MODELS or not 0 <= concurrent <= MAX_CONCURRENT:
        raise RequestRefused(f"at most {MAX_MODELS} models and {MAX_CONCURRENT} requests at once")
    if certificate is not None and subject:
        raise RequestRefused("--certificate and --subject: give one of them")
    if subject and not SUBJECT.fullmatch(subject):
        raise RequestRefused(f"bad common name {subject[:80]!r}")
    wanted = [part.strip() for part in scopes.split(",")] if scopes else USUAL
    entry = Entry(
        name=name,
        certificate=fingerprint(certificate) if certificate is not None else "",
        subject=subject,
        scopes=tuple(dict.fromkeys(checked_scope(part) for part in wanted)),
        models=tuple(checked_model(model) for model in models),
        rate=Rate.parse(rate) if rate else None,
        concurrent=concurrent,
        created=_stamp(now),
        expires=_stamp(end_of(expires, now)) if expires else "",
    )
    key = ""
    if not (entry.certificate or entry.subject):
        key, digest = new_key()
        entry = replace(entry, sha256=digest)
    with locked(path):
        entries = read(path)
        if any(other.name == name for other in entries):
            raise RequestRefused(f"{name} has access already", hint=f"sealift access revoke {name} takes it away")
        if len(entries) >= MAX_ENTRIES:
            raise RequestRefused(f"{path} has {len(entries)} entries; more are not accepted")
        write(path, (*entries, entry))
    return entry, key


def remove(path: Path, name: str) -> None:
    """Raises RequestRefused where there is no such entry."""
    with locked(path):
        entries = read(path)
        left = [entry for entry in entries if entry.name != name]
        if len(left) == len(entries):
            raise RequestRefused(f"nobody called {name[:80]!r} has access", hint="sealift access list shows who has")
        write(path, left)


def end_of(text: str, now: datetime) -> datetime:
    """`2027-01-31`: the end of that day in UTC; `90d`: so many days from now."""
    days = re.fullmatch(r"([1-9][0-9]{0,4})d", text)
    if days:
        return now + timedelta(days=int(days.group(1)))
    try:
        last = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise RequestRefused(f"bad date {text[:40]!r}", hint="write 2027-01-31 or 90d") from None
    if last <= now:
        raise RequestRefused(f"{text} is over already")
    return last


def fingerprint(path: Path) -> str:
    """SHA-256 of the first certificate of a PEM file, in DER, as 64 hex digits."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CERTIFICATE + 1)
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(raw) > MAX_CERTIFICATE:
            raise ValueError(f"more than {MAX_CERTIFICATE} bytes")
        return hashlib.sha256(x509.load_pem_x509_certificate(raw).public_bytes(Encoding.DER)).hexdigest()
    except ValueError as error:
        raise RequestRefused(f"{path}: not a certificate in PEM: {error}") from None


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
