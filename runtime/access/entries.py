"""The file of keys: who may ask, for what, how often. `sealift access` writes it, the server reads it.

    [[key]]
    name = "wiki"                       what logs call it
    sha256 = "<64 hex>"                 of the key; or:
    certificate = "<64 hex>"            SHA-256 of the client's certificate (DER), or
    subject = "wiki.corp"               its common name, under the authority that --tls-client-ca names
    scopes = ["infer", "read"]
    models = ["llama3.2", "acme/*"]     absent: all
    rate = "60/m"                       absent: no limit
    concurrent = 4                      absent: no limit
    created = "2026-11-26T12:00:00Z"
    expires = "2027-01-01T00:00:00Z"    absent: never

The key itself is nowhere: it is shown once. Plain SHA-256 is enough for it, unlike for passwords: its 256 random bits
cannot be searched for. Refused: a file that others than its owner may read or write, unknown fields, two entries of one
name, and more than MAX_BYTES or MAX_ENTRIES. A file appears whole or not at all, with mode 600.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import tomli_w

from manifests.errors import ManifestsError, ModelNameError
from manifests.fields import Fields, text_item
from manifests.home import home
from manifests.name import ModelName
from manifests.store import sync_file, sync_folder
from native.record import record
from runtime.access import PREFIX
from runtime.access.limits import MAX_CONCURRENT, Rate
from runtime.access.scopes import SCOPES, Scope
from runtime.errors import RequestRefused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 4 << 20
MAX_ENTRIES = 4096  # each is compared with every key that is shown
MAX_MODELS = 256  # of one entry
KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")  # 256 bits in base64url
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SUBJECT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_PATTERN = re.compile(r"[A-Za-z0-9_.:/*-]{1,700}")


@record(frozen=True, slots=True, kw_only=True)
class Entry:
    """One who may ask. Exactly one of `sha256`, `certificate` and `subject` is set. `models` empty: all;
    `concurrent` 0: no limit. Times are RFC 3339 in UTC; `expires` "": never."""

    name: str
    sha256: str = ""
    certificate: str = ""
    subject: str = ""
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] = ()
    rate: Rate | None = None
    concurrent: int = 0
    created: str = ""
    expires: str = ""

    @property
    def id(self) -> str:
        """For logs: tells a key from an earlier one of the same name. Eight digits of a hash give nothing away."""
        return hashlib.sha256(f"{self.sha256}{self.certificate}{self.subject}".encode()).hexdigest()[:8]

    def expired(self, now: datetime) -> bool:
        return bool(self.expires) and now >= _when(self.expires)

    def may_use(self, name: ModelName) -> bool:
        return not self.models or any(matches(pattern, name) for pattern in self.models)


def matches(pattern: str, name: ModelName) -> bool:
    """A name means the model of that name, defaults and letter case as in the store; with `*` it is a pattern of the
    short or the full name, in which `*` stands for any text."""
    if "*" not in pattern:
        return ModelName.parse(pattern) == name
    found = re.compile(".*".join(re.escape(part) for part in pattern.lower().split("*")), re.DOTALL)
    return bool(found.fullmatch(name.short.lower()) or found.fullmatch(name.full.lower()))


def new_key() -> tuple[str, str]:
    """A key, and what is kept of it."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, hash_of(key)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def default_path() -> Path:
    own = os.environ.get("SEALIFT_ACCESS", "").strip()
    return Path(own).expanduser() if own else home() / "access.toml"


# -- the file


def read(path: Path) -> tuple[Entry, ...]:
    """Empty where there is no file. Raises RequestRefused, with the path and the field."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if mode & 0o077:
            raise RequestRefused(f"{path}: others than its owner may use it", hint=f"chmod 600 {path}")
        raw = file.read(MAX_BYTES + 1)
    try:
        return decode(raw)
    except (RequestRefused, ManifestsError) as error:
        raise RequestRefused(f"{path}: {error}", hint=error.hint) from None


def decode(raw: bytes) -> tuple[Entry, ...]:
    """Raises RequestRefused or FieldError, with the place."""
    if len(raw) > MAX_BYTES:
        raise RequestRefused(f"more than {MAX_BYTES} bytes")
    try:
        document = Fields.of(tomllib.loads(raw.decode()))
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"not TOML in UTF-8: {error}") from None
    entries = document.optional("key", document.array, item=_entry, maximum=MAX_ENTRIES) or ()
    document.done()
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise RequestRefused(f"two keys are called {twice!r}")
    return entries


def _entry(value: Any, path: str) -> Entry:
    fields = Fields.of(value, path)
    kinds = {kind: fields.optional(kind, fields.text, pattern=pattern) or "" for kind, pattern in _KINDS.items()}
    if sum(map(bool, kinds.values())) != 1:
        raise RequestRefused(f"{path}: expected one of sha256, certificate and subject")
    scopes = fields.array("scopes", text_item, maximum=len(SCOPES))
    models = fields.optional("models", fields.array, item=text_item, maximum=MAX_MODELS) or ()
    rate = fields.optional("rate", fields.text, maximum=20)
    made = Entry(
        name=fields.text("name", pattern=NAME),
        scopes=tuple(checked_scope(scope) for scope in scopes),
        models=tuple(checked_model(model) for model in models),
        rate=Rate.parse(rate) if rate else None,
        concurrent=fields.optional("concurrent", fields.integer, minimum=1, maximum=MAX_CONCURRENT) or 0,
        created=fields.optional("created", fields.text, pattern=_TIME) or "",
        expires=fields.optional("expires", fields.text, pattern=_TIME) or "",
        **kinds,
    )
    if made.expires:
        _when(made.expires)
    if fields.has("models") and not models:
        raise RequestRefused(f"{path}.models: an empty list would mean all models", hint="take the field away")
    fields.done()
    return made


_KINDS = {"sha256": _HEX, "certificate": _HEX, "subject": SUBJECT}


def _when(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise RequestRefused(f"{text!r} is no time", hint="write 2027-01-01T00:00:00Z") from None


def checked_scope(text: str) -> Scope:
    for scope in SCOPES:
        if scope == text:
            return scope
    raise RequestRefused(f"unknown scope {text[:40]!r}", hint=f"there are {', '.join(SCOPES)}")


def checked_model(text: str) -> str:
    if "*" not in text:
        try:
            ModelName.parse(text)
        except ModelNameError as error:
            raise RequestRefused(str(error), hint=error.hint) from None
    elif not _PATTERN.fullmatch(text):
        raise RequestRefused(f"bad pattern of model names {text[:80]!r}", hint="example: acme/*")
    return text


def encode(entries: Iterable[Entry]) -> bytes:
    """`decode(encode(entries)) == entries`."""
    found = []
    for entry in entries:
        values: dict[str, Any] = {
            "name": entry.name,
            "sha256": entry.sha256,
            "certificate": entry.certificate,
            "subject": entry.subject,
            "scopes": list(entry.scopes),
            "models": list(entry.models),
            "rate": str(entry.rate or ""),
            "concurrent": entry.concurrent,
            "created": entry.created,
            "expires": entry.expires,
        }
        found.append({key: value for key, value in values.items() if value or key == "scopes"})
    return tomli_w.dumps({"key": found}).encode()


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Whole or not at all, mode 600. Raises RequestRefused."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(entries))
                sync_file(file)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time changes the file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RequestRefused(f"{path.parent}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
