"""A room: one bundle on its way in, one folder, until it is whole. rooms.py says who gets one, and why.

A volume gets its name here when its payload has the statement's hash. Nothing of this is believed at the end: `import`
(or `verify`, where files are only collected) does all of its steps. The folder is the memory: after a kill, the next
run finds what is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler import approvals, conceal, layout, packing, parity, parts, slip
from bundler.agefile import most_overhead
from bundler.conceal import SEALED
from bundler.errors import (
    BundleRefused,
    BundlerError,
    CannotDecrypt,
    MediumUnavailable,
    RepairImpossible,
    VolumeDamaged,
    VolumeMissing,
    medium_errors,
)
from bundler.medium import PARITY, VOLUME, file_names, volume_size
from bundler.packing import PackingList
from bundler.parts import Part
from bundler.repair import repair
from bundler.volumes import check_volume
from bundler.writing import copy_file, create, sync_medium, write_all, write_file
from manifests.errors import ManifestsError
from manifests.statement import Statement
from signing.errors import NotTrusted

if TYPE_CHECKING:
    from bundler.rooms import Rooms

READ = 4 << 20  # bytes
EASED = 64 << 20  # bytes that must have become free before what failed is tried again unasked
SPARE = 64 << 20  # bytes that a room may take beyond three times its bundle
DONE, SCRATCH = "done", "restored.tmp"


class Room:
    """One bundle. `state` is `open`, `done`, `refused`, or `untrusted` (an approval is missing)."""

    def __init__(self, rooms: Rooms, folder: Path, statement: Statement, envelope: bytes) -> None:
        self.id, self.stem, self.envelope = statement.id, layout.stem(statement), envelope
        self.statement = statement
        self.names = layout.volume_names(statement)
        self.sizes = {name: volume_size(statement, envelope, index) for index, name in enumerate(self.names)}
        self._start(rooms, folder)

    def _start(self, rooms: Rooms, folder: Path) -> None:
        self._rooms, self.folder = rooms, folder
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        self.state = "done" if (folder / DONE).exists() else "open"
        for path in folder.iterdir():
            if path.is_symlink():  # what a killed run had lent for a repair
                path.unlink()
        self.damaged: dict[str, Path] = {}  # volumes that came damaged, and where they lie
        self.slip = ""
        self._tried: frozenset[str] = frozenset()
        self._free: int | None = None  # bytes there were when something failed that more of them may mend
        self._unjoined: dict[tuple[str, str], list[Part]] = {}  # parts that did not make a right file

    @property
    def closed(self) -> bool:
        """Nothing of it is taken any more."""
        return self.state == "done"

    def say(self, event: str, **more: Any) -> None:
        self._rooms.say({"event": event, "bundle": self.stem, **more})

    def files(self) -> list[str]:
        return [name for name in file_names(self.folder) if not name.endswith(".tmp")]

    def missing(self) -> list[str]:
        here = set(self.files())
        return [name for name in self.names if here.isdisjoint(conceal.names_of(name))]

    def admits_parity(self, name: str, size: int) -> bool:
        """Whether a parity volume of this bundle may be so large."""
        return size <= max(self.sizes.values()) + parity.MAX_TABLE + (1 << 20)

    # -- taking in

    def take_volume(self, path: Path, index: int, *, sealed: bool) -> None:
        """Raises VolumeDamaged where it is not, byte for byte, what the statement says."""
        name = self.names[index]
        if name not in self.missing():
            return
        try:
            check_volume(path, self.statement, self.envelope, index, keys=self._rooms.keys, sealed=sealed)
        except (VolumeDamaged, MediumUnavailable):
            self.damaged[name] = path
            raise
        if sealed:  # under its own name, which is that of its packing list
            own = path.name if path.name in conceal.names_of(name) else name + SEALED
        self._bring(path, own if sealed else name)
        self.damaged.pop(name, None)
        self.say("taken", name=name, bytes=self.sizes[name])

    def take_beside(self, path: Path, name: str) -> None:
        """A parity volume, a part or an approval, whose form was checked. Raises BundleRefused, MediumUnavailable."""
        if not (self.folder / name).exists():
            self._bring(path, name)
            self.say("taken", name=name, bytes=(self.folder / name).stat().st_size)

    def take_part(self, path: Path, part: Part) -> None:
        spare = PARITY.fullmatch(part.name)
        if not part.sealed and self.sizes.get(part.name) != part.size and not (spare and spare["stem"] == self.stem):
            raise BundleRefused(f"{path.name}: this bundle has no {part.name} of {part.size:,} bytes")
        if not (self.folder / part.name).exists():
            number = part.ranges[0][0] >> 12
            given = parts.NAME.fullmatch(path.name)
            self.take_beside(path, path.name if given else parts.file_name(part.name, "c", number))

    def _bring(self, path: Path, name: str) -> None:
        target = self.folder / name
        with medium_errors(target):
            with contextlib.suppress(OSError):  # another file system, or not allowed
                os.link(path, target, follow_symlinks=False)
                return
            used = sum((self.folder / other).stat().st_size for other in self.files())
            if used + path.stat().st_size > 3 * sum(self.sizes.values()) + SPARE:
                raise BundleRefused(f"{path.name}: there is more here than this bundle can need")
            copy_file(path, target)
            sync_medium(self.folder)

    def reconsider(self) -> None:
        """This host believes others now than when the bundle was judged."""
        self._tried = frozenset()
        if self.state == "untrusted":
            self.state = "open"

    # -- getting whole

    def advance(self, *, settled: bool) -> None:
        """Joins parts, imports what is whole; `settled`: nothing more is coming, so parity may be used."""
        if (self.folder / DONE).exists():  # maybe by way of the same statement with other signatures
            self.state = "done"
        if self.state in ("done", "refused"):
            return
        if frozenset(self.files()) == self._tried and not self._eased():
            return
        self._free = None
        try:
            self._advance(settled)
        except MediumUnavailable as error:  # no space, or a folder that went away: the next change tries again
            self._tried, self._free = frozenset(self.files()), self._rooms.free()
            self.say("failed", why=str(error))

    def _eased(self) -> bool:
        return self._free is not None and self._rooms.free() >= self._free + EASED

    def _advance(self, settled: bool) -> None:
        for key, some in self._joinable():
            self._join(key, some)
        missing = self.missing()
        if missing and settled and self._rooms.repair:
            self._restore()
        elif missing:
            return
        self._tried = frozenset(self.files())
        if not self.missing():
            self._finish()

    def _joinable(self) -> list[tuple[tuple[str, str], list[Part]]]:
        """Parts that are all of a file that is not here; by the id that they carry, and its name."""
        wanted = {other for name in self.missing() for other in conceal.names_of(name)}
        found: dict[tuple[str, str], list[Part]] = {}
        for name in filter(parts.NAME.fullmatch, self.files()):
            with contextlib.suppress(BundleRefused, MediumUnavailable):
                part, told = parts.open_part(self.folder / name)
                mine = self.fits(PackingList.decode(told)) if part.sealed else part.id == self.id
                spare = PARITY.fullmatch(part.name) and not (self.folder / part.name).exists()
                if mine and (spare or part.name in wanted):
                    found.setdefault((part.id, part.name), []).append(part)
        return [(key, some) for key, some in found.items() if _covered(some) and self._unjoined.get(key) != some]

    def _join(self, key: tuple[str, str], some: list[Part]) -> None:
        """A file from its parts, the later ones over the earlier ones by name; they go when it is right."""
        name = key[1]
        if (self.folder / name).exists():  # from the parts of another packing list
            return
        temp = self.folder / (name + ".tmp")
        with medium_errors(temp), create(temp) as file:
            for part in some:
                for first, end in part.ranges:
                    for at in range(first, end, READ):
                        for offset, data in part.read(at, min(end, at + READ)):
                            file.seek(offset)
                            write_all(file, data)
            os.fsync(file.fileno())
        try:
            self.settle(temp, name)
        except (BundleRefused, CannotDecrypt, MediumUnavailable) as error:
            self.say("damaged", name=name, why=f"put together from its parts: {error}")
            temp.unlink(missing_ok=True)
            self._unjoined[key] = some
            return
        for part in some:
            part.path.unlink(missing_ok=True)

    def settle(self, temp: Path, name: str) -> None:
        """Gives a file that was written here its name, once it was checked. Raises BundleRefused, MediumUnavailable."""
        with medium_errors(temp):
            self._settle(temp, name)
        sync_medium(self.folder)
        self.say("taken", name=name, bytes=self.sizes.get(name) or (self.folder / name).stat().st_size)

    def _settle(self, temp: Path, name: str) -> None:
        volume = VOLUME.fullmatch(name.removesuffix(SEALED))
        if volume:
            index, sealed = int(volume["number"]), name.endswith(SEALED)
            if index >= len(self.names) or name not in conceal.names_of(self.names[index]):
                raise BundleRefused(f"{name}: no volume of this bundle")
            check_volume(temp, self.statement, self.envelope, index, keys=self._rooms.keys, sealed=sealed)
            temp.replace(self.folder / name)
        elif approvals.NAME.fullmatch(name):
            approvals.check(temp, self.envelope)
            temp.replace(self.folder / name)
        else:
            self._settle_parity(temp, name)

    def _settle_parity(self, temp: Path, name: str) -> None:
        if not PARITY.fullmatch(name):
            raise BundleRefused(f"{name}: no file of this bundle")
        temp.replace(self.folder / name)
        try:
            opened = parity.open_parity(self.folder / name)
            if not (self.fits(PackingList.decode(opened.told)) if opened.sealed else opened.id == self.id):
                raise BundleRefused(f"{name}: parity of another bundle")
        except BundleRefused:
            (self.folder / name).unlink()
            raise

    def _restore(self) -> None:
        """From parity and parts. Damaged volumes lend what they still have."""
        lists = self._lists()
        if any(name.endswith(SEALED) for name in self.files()) and not lists:
            wanted = [(self.names.index(name), self.sizes[name], [(0, self.sizes[name])]) for name in self.missing()]
            self.slip = slip.gather(self.id, wanted).text(self.stem)
            why = "encrypted volumes without parity are sent again whole"
            self.say("missing", names=self.missing()[:40], why=why, slip=self.slip)
            return
        lent = [self.folder / name for name, path in self._lendable() if _lend(path, self.folder / name)]
        try:
            if lists:
                self._restore_sealed(self.folder / lists[0], lent)
            else:
                report = repair(self.folder, self.folder)
                self.say("repaired", names=[path.name for path in report.written])
        except BundlerError as error:
            for path in lent:
                path.unlink(missing_ok=True)
            if isinstance(error, RepairImpossible):
                self.slip = error.slip.text(error.stem)
            self.say("missing", names=self.missing()[:40], why=str(error), slip=self.slip)

    def _lendable(self) -> list[tuple[str, Path]]:
        """Files that came damaged, and the names that they have here."""
        damaged = [(path.name if path.name.endswith(SEALED) else name, path) for name, path in self.damaged.items()]
        missing = {other for name in self.missing() for other in conceal.names_of(name)}
        return [*damaged, *((name, path) for name, path in self._rooms.hurt.items() if name in missing)]

    def _lists(self) -> list[str]:
        """Parity volumes here that can restore encrypted volumes of this bundle, as far as its sizes tell."""
        found = []
        for name in self.files():
            if PARITY.fullmatch(name):
                with contextlib.suppress(BundleRefused, MediumUnavailable):
                    opened = parity.open_parity(self.folder / name)
                    if opened.sealed and self.fits(PackingList.decode(opened.told)):
                        found.append(name)
        return found

    def fits(self, found: PackingList) -> bool:
        """Whether a packing list can be one of this bundle: it is not signed, so what it may take is bounded here."""
        sizes = [(size, self.sizes[name]) for (size, _), name in zip(found.files, self.names, strict=False)]
        return len(found.files) == len(self.names) and all(
            plain <= size <= plain + most_overhead(plain) for size, plain in sizes
        )

    def _restore_sealed(self, leader: Path, lent: Sequence[Path]) -> None:
        """Beside first: each restored volume is compared with the statement, inside, before it takes a place here."""
        scratch, came = self.folder / SCRATCH, dict(self.damaged)
        self._rename(PackingList.decode(parity.open_parity(leader).told))
        try:
            report = repair(leader, scratch)
            for path in lent:
                path.unlink()
            found = [(path, VOLUME.fullmatch(path.name.removesuffix(SEALED))) for path in report.written]
            wrong = [error for path, match in found if match and (error := self._try(path, int(match["number"])))]
            if wrong:
                raise wrong[0]
            self.say("repaired", names=[path.name for path in report.written])
        finally:
            self.damaged = {name: path for name, path in came.items() if name in self.missing()}
            shutil.rmtree(scratch, ignore_errors=True)

    def _rename(self, found: PackingList) -> None:
        """Volumes that came renamed, and may have got the other of their names here."""
        for name, wanted in zip(self.names, found.names, strict=True):
            for other in conceal.names_of(name):
                paths = self.folder / other, self.folder / wanted
                if other.endswith(SEALED) and paths[0].exists() and not paths[1].exists() and wanted.endswith(SEALED):
                    paths[0].rename(paths[1])

    def _try(self, path: Path, index: int) -> BundlerError | None:
        try:
            self.take_volume(path, index, sealed=path.name.endswith(SEALED))
        except BundlerError as error:
            return error
        return None

    def _finish(self) -> None:
        """The law's order, from its first step on. What is wrong is told; what was only damaged may come again."""
        try:
            self._rooms.complete(self)
        except NotTrusted as error:
            self.state = "untrusted"
            self.say("waiting", why=str(error))
        except (VolumeDamaged, VolumeMissing) as error:
            self._came_damaged(error)
        except (BundlerError, ManifestsError) as error:
            again = error.exit_code == 4  # no space, a gate that could not run: the next change tries again
            self.state, self._free = ("open", self._rooms.free()) if again else ("refused", None)
            self.say("failed" if again else "refused", why=str(error))

    def _came_damaged(self, error: BundleRefused) -> None:
        own = {other for name in self.names for other in conceal.names_of(name)}
        if isinstance(error, VolumeDamaged) and error.volume in own:
            (self.folder / error.volume).unlink(missing_ok=True)
        self.say("damaged", why=str(error))

    def close(self) -> None:
        """Imported: only the mark stays."""
        write_file(self.folder / DONE, f"{self.id}\n".encode())
        for name in file_names(self.folder):
            if name not in (DONE, packing.MEMBER):
                (self.folder / name).unlink(missing_ok=True)
        self.state = "done"
        self._rooms.unopened.difference_update(*map(conceal.names_of, self.names))


def _lend(path: Path, place: Path) -> bool:
    """By a link, for the time of a repair."""
    if place.exists() or not path.exists():
        return False
    place.symlink_to(path.absolute())
    return True


def _covered(some: list[Part]) -> bool:
    end = 0
    for first, last in sorted(piece for part in some for piece in part.ranges):
        if first > end:
            return False
        end = max(end, last)
    return end == some[0].size
