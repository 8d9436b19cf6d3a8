"""What each channel has seen: the memory that refuses an older bundle without needing a clock.

    <home>/state/channels.json   imported: channel -> newest sequence number, bundle id, statement digest, time
    <home>/state/exports.json    exported: the same, so that sequence numbers follow each other

Rules: a lower sequence number is refused · the same number with another id is a fork and refused · the same bundle
again is welcome · a jump is reported with the numbers that were not seen · a predecessor other than the one seen is
reported.
A state file that cannot be read stops the import: forgetting is what an attacker wants.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.errors import PolicyRefused
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.fields import Fields
from manifests.home import home
from manifests.statement import CHANNEL, ID, Statement
from manifests.store import disk_errors, sync_file, sync_folder

MAX_STATE = 16 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    sequence: int
    id: str
    statement: Digest
    time: str


class Channels:
    """One state file. `load` reads it whole; `remember` writes it whole, and never lowers a number."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def imported(cls) -> Channels:
        return cls(home() / "state" / "channels.json")

    @classmethod
    def exported(cls) -> Channels:
        return cls(home() / "state" / "exports.json")

    def load(self) -> dict[str, Seen]:
        try:
            with self.path.open("rb") as stream:
                raw = stream.read(MAX_STATE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PolicyRefused(f"{self.path}: {error.strerror}") from None
        try:
            value = canonical.decode(raw, limit=MAX_STATE)
            document = Fields.of(value)
            return {name: _seen(document.object(name)) for name in value if _channel(name)}
        except ManifestsError as error:
            raise PolicyRefused(
                f"{self.path}: {error}", hint="restore the file from a backup: without it an old bundle could return"
            ) from None

    def last(self, channel: str) -> Seen | None:
        return self.load().get(channel)

    def remember(self, statement: Statement, digest: Digest, time: str) -> None:
        with self._locked(), disk_errors(self.path):
            known = self.load()
            last = known.get(statement.channel)
            if last is not None and last.sequence > statement.sequence:
                return
            known[statement.channel] = Seen(sequence=statement.sequence, id=statement.id, statement=digest, time=time)
            temp = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.tmp")
            with temp.open("xb") as out:
                out.write(canonical.encode({name: _out(seen) for name, seen in known.items()}))
                sync_file(out)
            temp.replace(self.path)
            sync_folder(self.path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def check(last: Seen | None, statement: Statement, *, allow_rollback: bool = False) -> list[str]:
    """Raises PolicyRefused for the past; returns what should be told to a person."""
    if last is None:
        return [] if statement.sequence == 1 else [_gap(1, statement)]
    if statement.sequence == last.sequence and statement.id != last.id:
        raise PolicyRefused(
            f"channel {statement.channel}: number {last.sequence} was already seen as bundle {last.id}, "
            f"this is {statement.id}",
            hint="two bundles with one number: ask the publisher which is right",
        )
    if statement.sequence < last.sequence:
        text = f"channel {statement.channel}: number {statement.sequence} is older than {last.sequence}, already seen"
        if not allow_rollback:
            raise PolicyRefused(
                text, hint="carry the newest bundle of the channel, or export it again with a higher --seq"
            )
        return [text + " (taken: policy.toml allows rollback)"]
    notes = []
    if statement.sequence > last.sequence + 1:
        notes.append(_gap(last.sequence + 1, statement))
    elif statement.sequence == last.sequence + 1 and statement.predecessor not in (None, last.statement):
        notes.append(f"channel {statement.channel}: its predecessor is not the bundle seen as number {last.sequence}")
    return notes


def _gap(first: int, statement: Statement) -> str:
    end = statement.sequence - 1
    numbers = f"number {first} was" if first == end else f"numbers {first} to {end} were"
    return f"channel {statement.channel}: {numbers} never seen here"


def _channel(name: str) -> bool:
    if not CHANNEL.fullmatch(name):
        raise PolicyRefused(f"unexpected channel name {name[:80]!r} in the state file")
    return True


def _seen(fields: Fields) -> Seen:
    seen = Seen(
        sequence=fields.integer("sequence", minimum=1),
        id=fields.text("id", pattern=ID),
        statement=fields.digest("statement"),
        time=fields.text("time", maximum=40),
    )
    fields.done()
    return seen


def _out(seen: Seen) -> dict[str, Any]:
    return {"sequence": seen.sequence, "id": seen.id, "statement": str(seen.statement), "time": seen.time}
