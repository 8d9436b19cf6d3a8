"""What each channel has seen: the memory that refuses an older bundle without needing a clock.

    <home>/state/channels.json   imported: channel -> newest sequence number, bundle id, statement digest, time, and the
                                 ids of the last bundles
    <home>/state/exports.json    exported: the same, so that sequence numbers follow each other
    <home>/state/channels.time.json   the newest time that a trusted statement gave as its making

Rules: a lower sequence number is refused · the same number with another id is a fork and refused · the same bundle
again is welcome · a jump is reported with the numbers that were not seen, and with the ids that the statement gives
them · a predecessor, or an earlier bundle, other than the one seen is reported. `allow_gap` false refuses what is
reported here.
The newest signed time stands in for the clock where the clock is behind it: setting a clock back revives nothing.
A state file that cannot be read stops the import: forgetting is what an attacker wants.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bundler import locks
from bundler.errors import PolicyRefused
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import FieldError, ManifestsError
from manifests.fields import Fields
from manifests.home import home
from manifests.statement import CHANNEL, ID, Earlier, Statement, earlier_in, format_time, parse_time
from manifests.store import disk_errors, sync_file, sync_folder

MAX_STATE = 16 << 20  # bytes
MAX_IDS = 256  # bundles remembered of each channel
TOLERANCE = timedelta(days=1)  # of two clocks, before a difference is worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    sequence: int
    id: str
    statement: Digest
    time: str
    ids: tuple[Earlier, ...] = ()  # this bundle and those before it, ascending


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
        value = _read(self.path) or {}
        with _readable(self.path):
            document = Fields.of(value)
            return {name: _seen(document.object(name)) for name in value if _channel(name)}

    def last(self, channel: str) -> Seen | None:
        return self.load().get(channel)

    def remember(self, statement: Statement, digest: Digest, time: str) -> None:
        with self._locked(), disk_errors(self.path):
            known = self.load()
            last = known.get(statement.channel)
            if last is not None and last.sequence > statement.sequence:
                return
            this = Earlier(sequence=statement.sequence, id=statement.id)
            before = [item for item in (last.ids if last else ()) if item.sequence < statement.sequence]
            known[statement.channel] = Seen(
                sequence=statement.sequence,
                id=statement.id,
                statement=digest,
                time=time,
                ids=(*before, this)[-MAX_IDS:],
            )
            _write(self.path, {name: _out(seen) for name, seen in known.items()})

    # -- time

    @property
    def _time_path(self) -> Path:
        return self.path.with_suffix(".time.json")

    def newest_time(self) -> datetime | None:
        """The newest time that a trusted statement ever gave as its making, or None."""
        value = _read(self._time_path)
        if value is None:
            return None
        with _readable(self._time_path):
            fields = Fields.of(value)
            text, _ = fields.text("newest", maximum=40), fields.text("bundle", pattern=ID)
            fields.done()
            return _moment(text)

    def moment(self, now: datetime) -> datetime:
        """What counts as now: the clock, or the newest signed time if the clock is behind it."""
        return max(now, self.newest_time() or now)

    def witness(self, statement: Statement) -> None:
        """The statement is trusted, whatever becomes of its bundle: time is at least as late as it says."""
        with self._locked(), disk_errors(self._time_path):
            newest = self.newest_time()
            if newest is None or newest < parse_time(statement.created):
                _write(self._time_path, {"newest": statement.created, "bundle": statement.id})

    @contextlib.contextmanager
    def alone(self, channel: str) -> Iterator[None]:
        """As the only one who gives numbers in a channel: two at once would give the same to two bundles, and the other
        side takes one of these. Raises BundlerBusy."""
        name = f"{self.path.stem}.{Digest.of(channel.encode()).hex[:16]}.lock"
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.take(self.path.with_name(name), f"another export in channel {channel} is running")
        try:
            yield
        finally:
            os.close(lock)

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


def check(
    last: Seen | None, statement: Statement, *, allow_rollback: bool = False, allow_gap: bool = True
) -> list[str]:
    """Raises PolicyRefused for the past; returns what should be told to a person."""
    if last is not None and statement.sequence == last.sequence and statement.id != last.id:
        raise PolicyRefused(
            f"channel {statement.channel}: number {last.sequence} was already seen as bundle {last.id}, "
            f"this is {statement.id}",
            hint="two bundles with one number: ask the publisher which is right",
        )
    if last is not None and statement.sequence < last.sequence:
        text = f"channel {statement.channel}: number {statement.sequence} is older than {last.sequence}, already seen"
        if not allow_rollback:
            raise PolicyRefused(
                text, hint="carry the newest bundle of the channel, or export it again with a higher --seq"
            )
        return [text + " (taken: policy.toml allows rollback)"]
    notes = [*_gap(last, statement), *_forks(last, statement)]
    if notes and not allow_gap:
        raise PolicyRefused(
            notes[0] + " (policy.toml: allow_gap)", hint="import the missing bundles first, or once with --allow-gap"
        )
    return notes


def clock_notes(newest: datetime | None, made: datetime, now: datetime) -> list[str]:
    """What the clock and the signed times say of each other."""
    if newest is not None and newest > now + TOLERANCE:
        return [f"the clock of this host is behind {format_time(newest)}, the newest signed time seen, which counts"]
    if made > now + TOLERANCE:
        return [f"made on {format_time(made)}, after the clock of this host: one of two clocks is wrong"]
    return []


def _gap(last: Seen | None, statement: Statement) -> list[str]:
    first, end = (last.sequence + 1 if last else 1), statement.sequence - 1
    if first > end:
        return []
    numbers = f"number {first} was" if first == end else f"numbers {first} to {end} were"
    named = [f"{item.sequence} is {item.id}" for item in statement.previous if item.sequence >= first]
    return [f"channel {statement.channel}: {numbers} never seen here" + (f": {', '.join(named)}" if named else "")]


def _forks(last: Seen | None, statement: Statement) -> list[str]:
    """Bundles before this one that are others here than the publisher says."""
    if last is None or statement.sequence == last.sequence:
        return []
    known = {item.sequence: item.id for item in last.ids}
    notes = [
        f"channel {statement.channel}: number {item.sequence} was {known[item.sequence]} here and is {item.id} there"
        for item in statement.previous
        if known.get(item.sequence, item.id) != item.id
    ]
    if statement.sequence == last.sequence + 1 and statement.predecessor not in (None, last.statement):
        notes.append(f"channel {statement.channel}: its predecessor is not the bundle seen as number {last.sequence}")
    return notes


# -- the files


def _read(path: Path) -> dict[str, Any] | None:
    """The document, or None where there is no file."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_STATE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyRefused(f"{path}: {error.strerror}") from None
    with _readable(path):
        value = canonical.decode(raw, limit=MAX_STATE)
        if not isinstance(value, dict):
            raise FieldError("", "expected an object")
        return value


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ManifestsError as error:
        raise PolicyRefused(
            f"{path}: {error}", hint="restore the file from a backup: without it an old bundle could return"
        ) from None


def _write(path: Path, value: dict[str, Any]) -> None:
    temp = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with temp.open("xb") as out:
        out.write(canonical.encode(value))
        sync_file(out)
    temp.replace(path)
    sync_folder(path.parent)


def _moment(text: str) -> datetime:
    try:
        found = parse_time(text)
    except ValueError:
        raise FieldError("newest", f"no such time: {text}") from None
    if format_time(found) != text:
        raise FieldError("newest", f"no such time: {text}")
    return found


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
        ids=fields.optional("ids", lambda key: fields.array(key, earlier_in, maximum=MAX_IDS)) or (),
    )
    fields.done()
    return seen


def _out(seen: Seen) -> dict[str, Any]:
    return {
        "sequence": seen.sequence,
        "id": seen.id,
        "statement": str(seen.statement),
        "time": seen.time,
        "ids": [item.out() for item in seen.ids],
    }
