"""Receive from a drop folder: files come in any order, twice, half-written, renamed late, among others not ours.

A file is looked at when name, size and time were the same in two looks, and again whenever they change. That only saves
work: what a file is, is said by its content, and whether it is right by the hashes of a signed statement (rooms.py).
Volumes, parity volumes and parts are known by their first bytes, whatever they are named; approvals and carried trust
by their names, in letters of either case. Carried trust is taken first; what it renews, all files are looked at again.
What did not fit on this side's disk is taken when there is room for it.
Nothing in the folder is ever written, moved or removed. Links and everything that is no regular file are passed over.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from bundler import agefile, approvals, carried, conceal, layout, parity, parts, tar
from bundler.conceal import LOCKED, SEALED
from bundler.errors import (
    BundleRefused,
    BundlerError,
    CannotDecrypt,
    MediumFull,
    MediumUnavailable,
    VolumeMixed,
    medium_errors,
)
from bundler.medium import MAX_FILES, PARITY, VolumeReader, read_start
from bundler.packing import PackingList
from bundler.room import Room
from bundler.rooms import Rooms
from bundler.seal import MAX_KEY_FILE
from signing.errors import SigningError

INTERVAL = 2.0  # seconds between two looks
_NUMBER = re.compile(rb"sealift-bundle/1 [0-9a-f]{32} v(?P<number>[0-9]{3,4})/[0-9]{3,4}\n")

Mark = tuple[int, int, int]  # size, time, inode


class Watch:
    """One folder. `look` returns whether something was taken or may be growing."""

    def __init__(self, folder: Path, rooms: Rooms, *, patient: bool = True) -> None:
        """`patient`: wait until a file does not change any more."""
        self._folder, self._rooms, self._patient = folder, rooms, patient
        self._seen: dict[str, Mark] = {}
        self._handled: dict[str, Mark] = {}
        self._unfit: set[str] = set()  # there was no space for them

    @property
    def full(self) -> bool:
        """Whether something that lies there did not fit on this side's disk: it is not lost."""
        return bool(self._unfit)

    def look(self) -> bool:
        marks = self._marks()
        active = False
        for name, mark in sorted(
            marks.items(), key=lambda item: (not carried.NAME.fullmatch(item[0].lower()), item[0])
        ):
            if self._handled.get(name) == mark:
                continue
            if self._patient and self._seen.get(name) != mark:
                active = True
                continue
            if name in self._unfit and self._rooms.free() <= mark[0]:
                continue
            if self._take(self._folder / name):
                self._handled[name] = mark
                active = True
        self._seen = marks
        self._handled = {name: mark for name, mark in self._handled.items() if name in marks}
        self._unfit &= marks.keys() - self._handled.keys()
        return active

    def _marks(self) -> dict[str, Mark]:
        marks: dict[str, Mark] = {}
        with medium_errors(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp") or entry.name.startswith("."):
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:  # gone since
                    continue
                if stat.S_ISREG(found.st_mode):
                    marks[entry.name] = (found.st_size, found.st_mtime_ns, found.st_ino)
                if len(marks) > MAX_FILES:
                    raise MediumUnavailable(f"{self._folder}: more than {MAX_FILES} files", hint="empty the folder")
        return marks

    def _take(self, path: Path) -> bool:
        """Whether the file was dealt with, for as long as it does not change."""
        self._rooms.unread.discard(path.name)
        try:
            return self._sort(path)
        except CannotDecrypt as error:
            self._rooms.unopened.add(path.name)
            self._rooms.hurt[path.name] = path
            self._rooms.say({"event": "encrypted", "bundle": "", "name": path.name, "why": f"{error}: {error.hint}"})
        except MediumFull as error:
            if path.name not in self._unfit:
                self._rooms.say({"event": "failed", "bundle": "", "name": path.name, "why": str(error)})
            self._unfit.add(path.name)
            return False
        except MediumUnavailable as error:
            self._rooms.unread.add(path.name)
            self._rooms.say({"event": "unreadable", "bundle": "", "name": path.name, "why": str(error)})
        except (BundlerError, SigningError) as error:
            if path.name.endswith(SEALED):
                self._rooms.hurt[path.name] = path
            self._rooms.say({"event": "damaged", "bundle": "", "name": path.name, "why": str(error)})
        return True

    def _sort(self, path: Path) -> bool:
        name = path.name.lower()  # as other file systems may have it
        if carried.NAME.fullmatch(name):
            if self._rooms.take_trust(path):
                self._handled = {}  # strangers may have become publishers
            return True
        approval = approvals.NAME.fullmatch(name)
        if approval:
            named = [room for room in self._rooms if conceal.alike(room.stem, approval["stem"])]
            rooms = [room for room in named if room.envelope and not room.closed]
            for room in rooms:
                approvals.check(path, room.envelope)
                room.take_beside(path, name)
            return bool(rooms)  # its bundle may come later
        with medium_errors(path), path.open("rb") as stream:
            first = stream.read(2 * tar.BLOCK)
        is_age = first.startswith(agefile.MAGIC)
        if name.endswith(LOCKED):
            return self._locked(path, name)
        if is_age and b"\n-> scrypt " in first:
            return True
        if name.endswith(SEALED) or is_age:
            self._sealed(path)
            return True
        kind = first[:100].rstrip(b"\0").decode("ascii", "replace")
        if kind == layout.MARK:
            self._volume(path, first[tar.BLOCK :])
        elif kind == parts.MARK:
            return self._part(path)
        elif kind == parity.MARK:
            own = PARITY.fullmatch(path.name)
            sealed = first[tar.BLOCK :].startswith(parity.OF_SEALED.encode())
            if sealed and not (self._of(own["stem"]) if own else list(self._rooms)):
                return False
            found = parity.open_parity(path)
            if found.sealed:
                listed = PackingList.decode(found.told)
                homes, seen = self._homes(listed)
                for room in homes:
                    room.take_beside(path, parity.volume_name(listed.stem, found.index))
                return seen
            home = self._room(found.told, found.id)
            if home:
                home.take_beside(path, parity.volume_name(home.stem, found.index))
        return True

    def _part(self, path: Path) -> bool:
        part, told = parts.open_part(path)
        if part.sealed:
            homes, seen = self._homes(PackingList.decode(told))
        else:
            whose = self._room(told, part.id)
            homes, seen = [whose] if whose else [], True
        if homes:
            part.check()
        for room in homes:
            room.take_part(path, part)
        return seen

    def _homes(self, listed: PackingList) -> tuple[list[Room], bool]:
        """Where what belongs to a packing list may be of use; and whether a volume came that could be read here, since
        before it cannot be told."""
        mine = self._of(listed.stem)
        return [room for room in mine if not room.closed and room.fits(listed)], bool(mine)

    def _of(self, stem: str) -> list[Room]:
        return [room for room in self._rooms if room.id[:8] == stem[-8:]]

    def _locked(self, path: Path, name: str) -> bool:
        """The identity that a passphrase opens: kept with bundles that are only collected, for the next reader. Its
        bundle may come later."""
        if not self._rooms.collects or path.stat().st_size > MAX_KEY_FILE:
            return True
        rooms = [room for room in self._rooms if conceal.alike(room.stem, name.removesuffix(LOCKED))]
        for room in rooms:
            if room.folder.is_dir():
                room.take_beside(path, name)
        return bool(rooms)

    def _sealed(self, path: Path) -> None:
        """A volume that is encrypted. Raises CannotDecrypt."""
        with VolumeReader(path, self._rooms.keys, sealed=True) as volume:
            first = volume.read(2 * tar.BLOCK, "the SEALIFT line")
        self._volume(path, first[tar.BLOCK :], sealed=True)

    def _volume(self, path: Path, line: bytes, *, sealed: bool = False) -> None:
        identity, envelope = read_start(path, self._rooms.keys, sealed=sealed)
        room, match = self._room(envelope, identity), _NUMBER.match(line)
        if room:
            index = int(match["number"]) if match else len(room.names)
            if index >= len(room.names):
                raise VolumeMixed(f"{path.name} says that it is volume {index} of {len(room.names)}")
            room.take_volume(path, index, sealed=sealed)

    def _room(self, envelope: bytes, identity: str) -> Room | None:
        """None for strangers, and for bundles that are in already."""
        room = self._rooms.admit(envelope)
        if room is not None and room.id != identity:
            raise BundleRefused(f"it says bundle {identity}, its statement {room.id}")
        return None if room is None or room.closed else room


def watch(
    folder: Path, rooms: Rooms, *, once: bool = False, interval: float = INTERVAL,
    sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """Until interrupted; or `once`: until everything that lies there now was dealt with."""
    watcher = Watch(folder, rooms, patient=not once)
    while True:
        active = watcher.look()
        rooms.advance(settled=not active and not watcher.full)
        if once and not active:
            return
        if not once:
            sleep(interval)
