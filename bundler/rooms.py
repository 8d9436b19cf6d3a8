"""Rooms: bundles on their way in, one folder each, outside of what the store shows, until they are whole.

    <base>/lock                    held by the one receiver that works here
    <base>/<bundle id>/            volumes, parity volumes, parts and approvals, each under its own name
    <base>/<bundle id>/done        this bundle was imported; what comes of it later is passed over

A bundle gets a room when a publisher that this host trusts has signed its statement: so strangers take no space, and
what trusted statements may take is known. A volume gets its name in the room when its payload has the statement's hash.
Nothing of this is believed at the end: `import` (or `verify`, where files are only collected) does all of its steps.
The folder is the memory: after a kill, the next run finds what is there.

A volume is read twice, when it comes and by the import, and written once: linked into the room, then its leaves into
staging. Leaves are not staged at once, since a volume may come weeks before the index volume that has its leaf lists,
and since a file that still lies in a drop folder may change: what the import stages, it has hashed itself. On another
file system a volume is copied into the room, which is a second write.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bundler import approvals, approve, carried, layout, mend, parity, parts, slip, verify
from bundler.channels import Channels
from bundler.conceal import SEALED
from bundler.errors import (
    BundlerBusy,
    BundleRefused,
    BundlerError,
    MediumUnavailable,
    RepairImpossible,
    VolumeDamaged,
    VolumeMissing,
    medium_errors,
)
from bundler.importer import ImportReport, import_bundle
from bundler.medium import file_names, read_start, volume_size
from bundler.parts import Part
from bundler.policy import Policy
from bundler.receipts_keep import Keeper, Kept
from bundler.repair import repair
from bundler.seal import Keys
from bundler.volumes import check_volume
from bundler.writing import create, sync_medium, write_file
from manifests.errors import ManifestsError
from manifests.statement import Statement
from manifests.store import Store
from signing.errors import NotTrusted, SigningError
from signing.hosttrust import HostTrust
from signing.trust import TrustStore

Say = Callable[[dict[str, Any]], None]
READ = 4 << 20  # bytes
MAX_KNOWN = 4096  # statements whose verdict is remembered
EASED = 64 << 20  # bytes that must have become free before what failed is tried again unasked
SPARE = 64 << 20  # bytes that a room may take beyond three times its bundle
DONE = "done"


class Room:
    """One bundle. `state` is `open`, `done`, `refused`, or `untrusted` (an approval is missing)."""

    def __init__(self, rooms: Rooms, folder: Path, statement: Statement, envelope: bytes) -> None:
        self._rooms, self.folder, self.statement, self.envelope = rooms, folder, statement, envelope
        self.stem = layout.stem(statement)
        self.names = layout.volume_names(statement)
        self.sizes = {name: volume_size(statement, envelope, index) for index, name in enumerate(self.names)}
        self.state = "done" if (folder / DONE).exists() else "open"
        for path in folder.iterdir():
            if path.is_symlink():  # what a killed run had lent for a repair
                path.unlink()
        self.damaged: dict[str, Path] = {}  # volumes that came damaged, and where they lie
        self.slip = ""
        self._tried: frozenset[str] = frozenset()
        self._free: int | None = None  # bytes there were when something failed that more of them may mend
        self._unjoined: dict[str, list[Part]] = {}  # parts that did not make a right file

    def say(self, event: str, **more: Any) -> None:
        self._rooms.say({"event": event, "bundle": self.stem, **more})

    def files(self) -> list[str]:
        return [name for name in file_names(self.folder) if not name.endswith(".tmp")]

    def missing(self) -> list[str]:
        here = {name.removesuffix(SEALED) for name in self.files()}
        return [name for name in self.names if name not in here]

    # -- taking in

    def take_volume(self, path: Path, index: int) -> None:
        """Raises VolumeDamaged where it is not, byte for byte, what the statement says."""
        name = self.names[index]
        if name not in self.missing():
            return
        sealed = SEALED if path.name.endswith(SEALED) else ""
        try:
            check_volume(path, self.statement, self.envelope, index, keys=self._rooms.keys)
        except (VolumeDamaged, MediumUnavailable):
            if not sealed:
                self.damaged[name] = path
            raise
        self._bring(path, name + sealed)
        self.damaged.pop(name, None)
        self.say("taken", name=name, bytes=self.sizes[name])

    def take_beside(self, path: Path, name: str) -> None:
        """A parity volume, a part or an approval, whose form was checked."""
        if not (self.folder / name).exists():
            self._bring(path, name)
            self.say("taken", name=name, bytes=(self.folder / name).stat().st_size)

    def take_part(self, path: Path, part: Part) -> None:
        expected = self.sizes.get(part.name)
        if expected is not None and part.size != expected:
            raise BundleRefused(f"{path.name}: {part.name} has {expected:,} bytes, not {part.size:,}")
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
            temp = target.with_name(name + ".tmp")
            with path.open("rb") as source, create(temp) as file:
                shutil.copyfileobj(source, file, READ)
                os.fsync(file.fileno())
            temp.replace(target)
            sync_medium(self.folder)

    def reconsider(self) -> None:
        """This host believes others now than when the bundle was judged."""
        self._tried = frozenset()
        if self.state == "untrusted":
            self.state = "open"

    # -- getting whole

    def advance(self, *, settled: bool) -> None:
        """Joins parts, imports what is whole; `settled`: nothing more is coming, so parity may be used."""
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
        for name in self._joinable():
            self._join(name)
        missing = self.missing()
        if missing and settled and self._rooms.repair:
            self._restore()
        elif missing:
            return
        self._tried = frozenset(self.files())
        if not self.missing():
            self._finish()

    def _joinable(self) -> list[str]:
        found = parts.beside(self.folder, self.stem, self.statement.id)
        return [
            name
            for name, some in found.items()
            if not (self.folder / name).exists() and _covered(some) and self._unjoined.get(name) != some
        ]

    def _join(self, name: str) -> None:
        """A file from its parts, the later ones over the earlier ones by name; they go when it is right."""
        some = parts.beside(self.folder, self.stem, self.statement.id)[name]
        temp = self.folder / (name + ".tmp")
        with medium_errors(temp), create(temp) as file:
            for part in some:
                for first, end in part.ranges:
                    for at in range(first, end, READ):
                        for offset, data in part.read(at, min(end, at + READ)):
                            file.seek(offset)
                            file.write(data)
            os.fsync(file.fileno())
        try:
            self.settle(temp, name)
        except (BundleRefused, MediumUnavailable) as error:
            self.say("damaged", name=name, why=f"put together from its parts: {error}")
            temp.unlink(missing_ok=True)
            self._unjoined[name] = some
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
        if name in self.names:
            check_volume(temp, self.statement, self.envelope, self.names.index(name))
            temp.replace(self.folder / name)
        elif approvals.NAME.fullmatch(name):
            approvals.check(temp, self.envelope)
            temp.replace(self.folder / name)
        else:
            temp.replace(self.folder / name)
            try:
                if parity.open_parity(self.folder / name).id != self.statement.id:
                    raise BundleRefused(f"{name}: parity of another bundle")
            except BundleRefused:
                (self.folder / name).unlink()
                raise

    def _restore(self) -> None:
        """From parity and parts. Damaged volumes lend what they still have. Encrypted ones are asked for whole."""
        if any(name.endswith(SEALED) for name in self.files()):
            wanted = [(self.names.index(name), self.sizes[name], [(0, self.sizes[name])]) for name in self.missing()]
            self.slip = slip.gather(self.statement.id, wanted).text(self.stem)
            self.say("missing", names=self.missing()[:40], why="encrypted volumes have no parity", slip=self.slip)
            return
        lent = []
        for name, path in self.damaged.items():
            if not (self.folder / name).exists() and path.exists():
                (self.folder / name).symlink_to(path.absolute())
                lent.append(self.folder / name)
        try:
            report = repair(self.folder, self.folder)
            self.say("repaired", names=[path.name for path in report.written])
        except BundlerError as error:
            for path in lent:
                path.unlink(missing_ok=True)
            if isinstance(error, RepairImpossible):
                self.slip = error.slip.text(error.stem)
            self.say("missing", names=self.missing()[:40], why=str(error), slip=self.slip)

    def _finish(self) -> None:
        """The law's order, from its first step on. What is wrong is told; what was only damaged may come again."""
        try:
            self._rooms.complete(self)
        except NotTrusted as error:
            self.state = "untrusted"
            self.say("waiting", why=str(error))
        except (VolumeDamaged, VolumeMissing) as error:
            if isinstance(error, VolumeDamaged) and error.volume.removesuffix(SEALED) in self.names:
                (self.folder / error.volume).unlink(missing_ok=True)
            self.say("damaged", why=str(error))
        except (BundlerError, ManifestsError) as error:
            again = error.exit_code == 4  # no space, a gate that could not run: the next change tries again
            self.state, self._free = ("open", self._rooms.free()) if again else ("refused", None)
            self.say("failed" if again else "refused", why=str(error))

    def close(self) -> None:
        """Imported: only the mark stays."""
        write_file(self.folder / DONE, f"{self.statement.id}\n".encode())
        for name in file_names(self.folder):
            if name != DONE:
                (self.folder / name).unlink(missing_ok=True)
        self.state = "done"


def _covered(some: list[Part]) -> bool:
    end = 0
    for first, last in sorted(piece for part in some for piece in part.ranges):
        if first > end:
            return False
        end = max(end, last)
    return end == some[0].size


class Rooms:
    """All bundles that come in at one place. Use as a context: it holds the lock."""

    def __init__(
        self, base: Path, trust: TrustStore, say: Say, *, policy: Policy | None = None, store: Store | None = None,
        seen: Channels | None = None, repair: bool = False, host: HostTrust | None = None, keeper: Keeper | None = None,
        keys: Keys | None = None,
    ) -> None:  # fmt: skip
        """`keys`: for volumes that are encrypted, and stay so. `store`: where whole bundles go; None: they are
        verified and stay here, in folders named like them. `host`: what carried trust renews; None: `trust`
        stays as it is. `keeper` writes the receipts of imports."""
        self.base, self.trust, self.say, self.repair, self._host = base, trust, say, repair, host
        self._policy, self._store, self._seen, self._keeper = policy or Policy(), store, seen, keeper
        self.keys = keys
        self.unopened: set[str] = set()  # encrypted volumes that `keys` do not open
        self._carried: dict[str, Path] = {}  # by the eight digits of the id; of those that only collect
        self._lent: list[Path] = []  # files of this run alone
        self._known: dict[str, Room | None] = {}
        self._lock = -1

    def __enter__(self) -> Rooms:
        with medium_errors(self.base):
            self.base.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BundlerBusy(f"another receiver works in {self.base}", hint="stop it first") from None
        for name in file_names(self.base):
            if (self.base / name).is_dir():
                self._reopen(self.base / name)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._lent:
            path.unlink(missing_ok=True)
        os.close(self._lock)

    def __iter__(self) -> Iterator[Room]:
        return iter([room for room in self._known.values() if room is not None])

    def _reopen(self, folder: Path) -> None:
        """What an earlier run had; judged again like everything that comes in."""
        with contextlib.suppress(BundlerError):
            stems = {name.rpartition(".v")[0] for name in file_names(folder) if name.endswith(".tar") and ".v" in name}
            stems |= {match["stem"] for name in file_names(folder) if (match := parts.NAME.fullmatch(name))}
            for stem in stems:
                self.admit(mend.find_statement(folder, stem)[1])
            sealed = [name for name in file_names(folder) if name.endswith(SEALED)]
            if sealed and not stems:
                self.admit(read_start(folder / sealed[0], self.keys)[1])

    def admit(self, envelope: bytes) -> Room | None:
        """The room of a bundle whose statement a trusted publisher signed; None, and told once, for any other."""
        key = hashlib.sha256(envelope).hexdigest()
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                return None
            self._known[key] = self._open(envelope)
        return self._known[key]

    def _open(self, envelope: bytes) -> Room | None:
        roles = sorted({"publisher", *self._policy.roles} - {"approver"})
        try:
            now = (self._seen or Channels.imported()).moment(datetime.now(timezone.utc))
            verify.judge(envelope, approve.one_publisher(self.trust), self._policy, now, roles)
            statement = mend.decode_statement(envelope)
        except (SigningError, ManifestsError, BundleRefused) as error:
            self.say({"event": "untrusted", "bundle": "", "why": str(error)})
            return None
        folder = self.base / (statement.id if self._store is not None else layout.stem(statement))
        with medium_errors(folder):
            folder.mkdir(exist_ok=True)
        room = Room(self, folder, statement, envelope)
        self._keep_trust(room)
        if room.state == "open":
            room.say("seen", volumes=len(room.names), bytes=sum(room.sizes.values()), missing=len(room.missing()))
        return room

    def take_trust(self, path: Path) -> bool:
        """Carried trust, before what it came with is judged; whether this host now believes something else. Raises
        NotTrusted or BundleRefused for a file that this host's root did not sign."""
        if self._host is None:
            self.say({"event": "passed", "bundle": "", "name": path.name, "why": "a trust file was named"})
            return False
        renewed = carried.renew_from(path, self._host, self._policy.profile)
        if self._store is None:
            self._carried[path.name.removesuffix(carried.SUFFIX)[-8:]] = path
            for room in self:
                self._keep_trust(room)
        for note in renewed.notes:
            self.say({"event": "trust", "bundle": "", "name": path.name, "why": note})
        if renewed.trust == self.trust:
            return False
        self.trust = renewed.trust
        self._known = {key: room for key, room in self._known.items() if room is not None}
        for room in self:
            room.reconsider()
        return True

    def take_chain(self, identity: str, chain: bytes) -> bool:
        """As `take_trust`, for carried trust that came without a file, with the bundle of this id."""
        path = self.base / f"arrived-{identity[:8]}{carried.SUFFIX}"
        with medium_errors(path):
            write_file(path, chain)
        self._lent.append(path)
        return self.take_trust(path)

    def _keep_trust(self, room: Room) -> None:
        """Where bundles are only collected, the next one who reads the folder wants it too."""
        path = self._carried.get(room.stem[-8:])
        if path is not None and path.exists() and room.folder.is_dir():
            room.take_beside(path, room.stem + carried.SUFFIX)

    def exit_code(self) -> int:
        """0 where all that was seen is in; else what is worst: 3 not trusted, 1 refused or damaged, 4 not whole."""
        states = {room.state for room in self}
        if "untrusted" in states or any(room is None for room in self._known.values()):
            return 3
        if "refused" in states or any(room.damaged for room in self if room.state == "open"):
            return 1
        return 4 if "open" in states or self.unopened else 0

    def advance(self, *, settled: bool) -> None:
        for room in self:
            room.advance(settled=settled)

    def complete(self, room: Room) -> None:
        if self._store is None:
            done = verify.verify(room.folder, self.trust, policy=self._policy, seen=self._seen, keys=self.keys)
            room.state = "done"
            room.say("complete", folder=str(room.folder), verified=done.complete)
            return
        report, kept = self._import(room.folder, self._store)
        room.close()
        models, receipt = [item.name.short for item in report.models], str(kept.paths[0]) if kept else ""
        room.say("imported", models=models, notes=list(report.notes), receipt=receipt)

    def _import(self, folder: Path, store: Store) -> tuple[ImportReport, Kept | None]:
        def run() -> ImportReport:
            return import_bundle(folder, store, self.trust, policy=self._policy, seen=self._seen, keys=self.keys)

        if self._keeper is None:
            return run(), None
        now = (self._seen or Channels.imported()).moment(datetime.now(timezone.utc))
        again = partial(verify.authenticate, folder, self.trust, self._policy, now, keys=self.keys)
        try:
            return self._keeper.attest(run, folder, store, again, self.keys)
        finally:
            for note in self._keeper.notes:
                self.say({"event": "note", "bundle": "", "why": note})
            self._keeper.notes.clear()

    def free(self) -> int:
        with medium_errors(self.base):
            return shutil.disk_usage(self.base).free

    def clear(self) -> None:
        """Takes away rooms that hold nothing."""
        for room in self:
            with contextlib.suppress(OSError):
                room.folder.rmdir()
