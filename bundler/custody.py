"""The custody log: what happened to bundles on this side, and through whose hands they went. Append-only.

    <home>/custody/log.jsonl     one entry a line, canonical JSON; each names the hash of the one before
    <home>/custody/heads.jsonl   after each entry the tree head: a DSSE envelope, or bare where no key was given

* An entry's hash is its leaf in the RFC 6962 tree (signing.custody_tree): over a zero byte and the line without LF.
* Appends take a lock, check the whole chain and the last head first, and are synced: entry, then head. A log that is
  not sound is never appended to, so that nothing is buried.
* A last line without its LF is what a crash leaves: it is completed if it is whole, else cut, and an entry says which.
* Facts are short plain texts and numbers: no keys, no passphrases, no content.

Who can rewrite both files can rewrite history since the last head that somebody else kept: custody_verify.
Normative text: docs/formats/custody.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler.custody_head import MAX_HEAD, Head, read_head
from bundler.errors import CustodyRefused, medium_errors
from manifests import canonical
from manifests.errors import FieldError, ManifestsError
from manifests.fields import Fields
from manifests.home import home
from manifests.statement import PLAIN, format_time, parse_time
from manifests.store import sync_folder
from signing import custody_tree
from signing.keys import Signer

MAX_LINE = 8192  # bytes of one entry
MAX_LOG = 256 << 20  # bytes; half a million entries
MAX_HEADS = 1 << 30  # bytes that a verification reads; a hybrid head has 5 KiB
MAX_FACTS = 32
MAX_TEXT = 500  # characters of one fact
FIRST = "0" * 64  # what the first entry names as the one before

BEGIN, REPAIRED = "begin", "repaired"
EVENTS = (
    BEGIN, "export", "approve", "send", "receive", "import", "refusal", "repair", "resend", "remove", "trust",
    "handover", REPAIRED,
)  # fmt: skip
_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    index: int
    time: str
    event: str
    facts: dict[str, str | int] = field(hash=False)
    previous: str  # hash of the entry before, 64 hex digits

    def encode(self) -> bytes:
        """The line without its LF."""
        raw = canonical.encode(
            {
                "event": self.event,
                "facts": self.facts,
                "index": self.index,
                "previous": self.previous,
                "time": self.time,
            }
        )
        if len(raw) > MAX_LINE:
            raise CustodyRefused(f"an entry of {len(raw):,} bytes; at most {MAX_LINE:,} are written")
        return raw

    @property
    def hash(self) -> bytes:
        return custody_tree.leaf(self.encode())

    @classmethod
    def decode(cls, raw: bytes) -> Entry:
        """Raises FieldError."""
        fields = Fields.of(canonical.decode(raw, limit=MAX_LINE))
        entry = cls(
            index=fields.integer("index"),
            time=fields.text("time", maximum=40),
            event=fields.text("event", maximum=20),
            facts=_facts(fields.raw("facts")),
            previous=fields.text("previous", pattern=_HEX),
        )
        fields.done()
        try:
            parse_time(entry.time)
        except ValueError:
            raise FieldError("time", "not a time") from None
        if entry.event not in EVENTS:
            raise FieldError("event", f"unknown event {entry.event!r}")
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is on the disk, checked as far as the chain goes. `torn`: bytes after the last LF."""

    entries: tuple[Entry, ...]
    torn: bytes
    problem: str | None = None  # where the chain breaks; `entries` are those before

    @property
    def log(self) -> str:
        """The log's id, from its first entry."""
        return str(self.entries[0].facts.get("log", "")) if self.entries else ""

    def roots(self) -> list[bytes]:
        """The tree's root after 0, 1, 2 ... entries."""
        tree = custody_tree.Growing()
        found = [custody_tree.EMPTY]
        for entry in self.entries:
            tree.add(entry.hash)
            found.append(tree.root())
        return found


class Log:
    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "custody"
        self.path, self.heads = self.folder / "log.jsonl", self.folder / "heads.jsonl"

    def read(self) -> State:
        """Raises MediumUnavailable, and CustodyRefused for a file that is too large."""
        lines, torn = _lines(_bytes(self.path, MAX_LOG))
        entries = list[Entry]()
        problem = None
        for index, line in enumerate(lines):
            try:
                entries.append(_next(line, entries))
            except ManifestsError as error:
                problem = f"entry {index}: {error}"
                break
        return State(entries=tuple(entries), torn=torn, problem=problem)

    def append(
        self, event: str, facts: Mapping[str, str | int], signer: Signer | None = None, now: datetime | None = None
    ) -> tuple[Entry, Head]:
        """Raises CustodyRefused for a log that is not sound, and MediumUnavailable; what the signer raises, before
        anything is written."""
        assert event in EVENTS, event
        with medium_errors(self.path), self._locked():
            state = self.read()
            torn_head, whole = self._check(state), _whole(state)
            time = format_time(now or datetime.now(timezone.utc))
            entries = list(state.entries)
            added = list[Entry]()

            def add(event: str, facts: Mapping[str, str | int]) -> None:
                before = entries[-1].hash.hex() if entries else FIRST
                entry = Entry(index=len(entries), time=time, event=event, facts=_facts(dict(facts)), previous=before)
                entries.append(entry)
                added.append(entry)

            if not entries and not state.torn:
                add(BEGIN, {"log": secrets.token_hex(16)})
            if state.torn:
                if whole is not None:
                    entries.append(whole)
                if not entries:
                    add(BEGIN, {"log": secrets.token_hex(16)})
                how = "completed" if whole is not None else "cut"
                digest = hashlib.sha256(state.torn).hexdigest()
                add(REPAIRED, {"torn_line": how, "bytes": len(state.torn), "sha256": digest})
            if torn_head:
                add(REPAIRED, {"torn_head": "cut", "bytes": torn_head})
            add(event, facts)
            head = self._head(entries)
            line = head.line(signer)
            self._mend(state, torn_head, whole)
            _write(self.path, b"".join(entry.encode() + b"\n" for entry in added))
            _write(self.heads, line + b"\n")
        return entries[-1], head

    def head(self) -> Head:
        """Of what is there now. Raises CustodyRefused for a log that is empty or not sound."""
        state = self.read()
        if state.problem:
            raise CustodyRefused(f"the custody log is damaged: {state.problem}", hint="sealift custody verify")
        if not state.entries:
            raise CustodyRefused("the custody log is empty")
        return self._head(state.entries)

    def head_lines(self) -> tuple[list[bytes], bytes]:
        return _lines(_bytes(self.heads, MAX_HEADS))

    def _head(self, entries: Any) -> Head:
        log = str(entries[0].facts["log"])
        return Head(log=log, size=len(entries), root=custody_tree.root([entry.hash for entry in entries]).hex())

    def _check(self, state: State) -> int:
        """The chain, and the last head against it. A torn last head is what a crash leaves: its bytes are returned."""
        hint = "sealift custody verify says more; keep the files as they are for whoever has to look into it"
        if state.problem:
            raise CustodyRefused(f"the custody log is damaged: {state.problem}", hint=hint)
        last_line, torn = _tail(self.heads)
        if last_line is None:
            return len(torn)
        last = read_head(last_line).head
        if last.size > len(state.entries):
            text = f"its last head is of {last.size} entries, and {len(state.entries)} are there"
            raise CustodyRefused(f"the custody log was cut: {text}", hint=hint)
        if last.log != state.log or state.roots()[last.size].hex() != last.root:
            raise CustodyRefused(f"the custody log is not that of its last head, of {last.size} entries", hint=hint)
        return len(torn)

    def _mend(self, state: State, torn_head: int, whole: Entry | None) -> None:
        """A torn last head is cut; a torn last line is completed if it is a `whole` entry, else cut."""
        if torn_head:
            os.truncate(self.heads, self.heads.stat().st_size - torn_head)
        if whole is not None:
            _write(self.path, b"\n")
        elif state.torn:
            os.truncate(self.path, self.path.stat().st_size - len(state.torn))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _whole(state: State) -> Entry | None:
    """The torn last line, if it is an entry that only lacks its end."""
    try:
        return _next(state.torn, list(state.entries))
    except ManifestsError:
        return None


def _next(line: bytes, entries: list[Entry]) -> Entry:
    """The entry of this line, if it may follow these. Raises FieldError."""
    entry = Entry.decode(line)
    if entry.index != len(entries):
        raise FieldError("index", f"expected {len(entries)}, found {entry.index}")
    if entry.previous != (entries[-1].hash.hex() if entries else FIRST):
        before = f"entry {len(entries) - 1}" if entries else "the beginning"
        raise FieldError("previous", f"{before} is not what it was when this was written")
    if (entry.event == BEGIN) != (entry.index == 0) or (entry.index == 0) != ("log" in entry.facts):
        raise FieldError("event", "a log begins once, with its id")
    return entry


def _facts(value: Any) -> dict[str, str | int]:
    fields = Fields.of(value, "facts")
    if len(value) > MAX_FACTS:
        raise FieldError("facts", f"more than {MAX_FACTS}")
    found: dict[str, str | int] = {}
    for key in value:
        if not _KEY.fullmatch(key):
            raise FieldError("facts", f"not a name: {key[:40]!r}")
        if isinstance(value[key], str):
            found[key] = fields.text(key, pattern=PLAIN, maximum=MAX_TEXT)
        else:
            found[key] = fields.integer(key, maximum=canonical.MAX_INTEGER)
    return found


def _bytes(path: Path, limit: int) -> bytes:
    with medium_errors(path):
        try:
            with path.open("rb") as stream:
                raw = stream.read(limit + 1)
        except FileNotFoundError:
            return b""
    if len(raw) > limit:
        raise CustodyRefused(f"{path}: more than {limit:,} bytes")
    return raw


def _tail(path: Path) -> tuple[bytes | None, bytes]:
    """The last whole line, None where there is none, and what follows it: without reading all of the file."""
    if not path.exists():
        return None, b""
    with medium_errors(path), path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 2 * MAX_HEAD))
        lines, torn = _lines(stream.read(2 * MAX_HEAD))
    if not lines and size > 2 * MAX_HEAD:
        raise CustodyRefused(f"{path}: a line that is longer than any head")
    return (lines[-1] if lines else None), torn


def _lines(raw: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines without their LF, and what follows the last one."""
    *lines, torn = raw.split(b"\n")
    return lines, torn


def _write(path: Path, data: bytes) -> None:
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        sync_folder(path.parent)
