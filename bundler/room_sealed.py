"""The room of a bundle that comes encrypted and in pieces, through a network diode: known by its packing list alone.

    <base>/<list id>/packing.json, volumes, parity volumes, and where there is one the identity under a passphrase

Nobody can be judged by a packing list. So it takes no more than the operator allows (`Rooms.limit`), counted from the
sizes that it announces, before anything is written. A volume gets its name here when it has the list's hash.
As soon as one volume is whole that somebody here can read, the bundle is judged by its signatures; if they do not
count, all of it goes. Where nobody here can read it, it is kept as it is; with an identity it is imported, or verified,
from the first step on.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from bundler import approvals, slip
from bundler.errors import BundleRefused, BundlerError, CannotDecrypt, RepairImpossible, medium_errors
from bundler.medium import PARITY, file_names, read_start
from bundler.packing import MEMBER, PackingList
from bundler.repair import repair
from bundler.room import DONE, Room
from bundler.writing import write_file

if TYPE_CHECKING:
    from bundler.rooms import Rooms


class SealedRoom(Room):
    """`state` may also be `unopened`: whole, and nobody here can read it. `statement` is not known here."""

    def __init__(self, rooms: Rooms, folder: Path, found: PackingList) -> None:
        """Raises BundleRefused, MediumUnavailable."""
        self.packing, self.id, self.stem, self.envelope = found, found.id, found.stem, b""
        self.names = list(found.names)
        self.sizes = dict(zip(self.names, (size for size, _ in found.files), strict=True))
        self._start(rooms, folder)
        self._dropped = self._gone = False
        self._announced = found.size + len(found.encode()) + len(found.identity)
        self._parity = {name.removesuffix(".udp.tmp"): (folder / name).stat().st_size for name in file_names(folder)
                        if PARITY.fullmatch(name.removesuffix(".udp.tmp"))}  # fmt: skip
        if self.state == "open":
            self._write_list()

    def _write_list(self) -> None:
        place = self.folder / MEMBER
        with medium_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            if not place.exists():
                write_file(place, self.packing.encode())
            elif PackingList.read(place) != self.packing:
                raise BundleRefused(f"{self.folder}: another encrypted bundle lies here", hint="take it away")
            if self.packing.identity:
                write_file(self.folder / self.packing.locked_name, self.packing.identity)

    @property
    def closed(self) -> bool:
        return self._dropped or super().closed

    @property
    def claims(self) -> int:
        """Bytes that it takes, or is still to take."""
        gone = self._gone or self._dropped or (self.state == "done" and not self._rooms.collects)
        return 0 if gone else self._announced + sum(self._parity.values())

    def look(self) -> None:
        """Whether its files are still here: imported, they went; collected, somebody may have taken them away."""
        self._gone = (self.folder / DONE).exists() or not self.folder.exists()

    def missing(self) -> list[str]:
        here = set(self.files())
        return [name for name in self.names if name not in here]

    def admits_parity(self, name: str, size: int) -> bool:
        more = size - self._parity.get(name, 0)
        if not super().admits_parity(name, size) or self._rooms.claimed() + more > (self._rooms.limit or 0):
            return False
        self._parity[name] = size
        return True

    def fits(self, found: PackingList) -> bool:
        return found == self.packing

    # -- taking in

    def settle(self, temp: Path, name: str) -> None:
        super().settle(temp, name)
        if name in self.names:
            self._judge(name)

    def _settle(self, temp: Path, name: str) -> None:
        if name in self.names:
            self.packing.check(temp, self.names.index(name))
            temp.replace(self.folder / name)
        elif not approvals.NAME.fullmatch(name):
            self._settle_parity(temp, name)
        elif self.envelope:
            approvals.check(temp, self.envelope)
            temp.replace(self.folder / name)
        else:
            raise BundleRefused(f"{name}: no volume that it belongs to can be read here yet")

    def _judge(self, name: str) -> None:
        """By a volume that is whole, if somebody here can read it."""
        if self.envelope:
            return
        try:
            envelope = read_start(self.folder / name, self._rooms.keys)[1]
        except CannotDecrypt:
            return
        except BundleRefused as error:
            self._drop("refused", str(error))
            return
        if self._rooms.believed(envelope) is None:
            self._drop("untrusted", "who signed it is not trusted here")
        else:
            self.envelope = envelope

    def _drop(self, state: str, why: str) -> None:
        """All of it goes, so that others have the space."""
        self.state, self._dropped = state, True
        self._sweep()
        self._parity.clear()
        self.say("dropped", why=why)

    def _sweep(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def reconsider(self) -> None:
        if self._dropped and self.state == "untrusted":
            self.state, self._dropped = "open", False
            self._write_list()
        super().reconsider()

    # -- getting whole

    def advance(self, *, settled: bool) -> None:
        if self._dropped:
            self._sweep()  # what the receiving thread had begun meanwhile
        elif self.state != "unopened":
            super().advance(settled=settled)

    def _restore(self) -> None:
        """From parity, without an identity: it is bound to this packing list, and all files here have its hashes."""
        if not any(map(PARITY.fullmatch, self.files())):
            wanted = [(self.names.index(name), self.sizes[name], [(0, self.sizes[name])]) for name in self.missing()]
            self.slip = slip.gather(self.id, wanted).text(self.stem)
            self.say("missing", names=self.missing()[:40], why="no parity volumes came", slip=self.slip)
            return
        try:
            report = repair(self.folder, self.folder)
            self.say("repaired", names=[path.name for path in report.written])
        except BundlerError as error:
            if isinstance(error, RepairImpossible):
                self.slip = error.slip.text(error.stem)
            self.say("missing", names=self.missing()[:40], why=str(error), slip=self.slip)

    def _finish(self) -> None:
        self._judge(self.names[0])
        if self._dropped:
            return
        if self._opens():
            super()._finish()
            if self.state == "refused" and not self._dropped:
                self._drop("refused", "its files are taken away")
        elif self._rooms.collects and self._rooms.keys is None:
            self.state, why = "done", "it is encrypted, and no identity was given"
            self.say("complete", folder=str(self.folder), verified=False, why=why)
        else:
            self.state = "unopened"
            self.say("encrypted", folder=str(self.folder), why="no identity of this host opens it: --identity FILE")

    def _opens(self) -> bool:
        """Whether somebody here can read an encrypted volume of it."""
        with contextlib.suppress(BundleRefused):  # what is wrong inside is told by who looks at all of it
            try:
                read_start(self.folder / self.names[-1], self._rooms.keys)
            except CannotDecrypt:
                return False
        return True

    def _came_damaged(self, error: BundleRefused) -> None:
        """Its files have the hashes of its list, so nothing better can come."""
        self._drop("refused", str(error))
