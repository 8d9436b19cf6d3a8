"""Rooms: bundles on their way in, one folder each, outside of what the store shows, until they are whole.

    <base>/lock                    held by the one receiver that works here
    <base>/<bundle id>/            volumes, parity volumes, parts and approvals, each under its own name
    <base>/<bundle id>/done        this bundle was imported; what comes of it later is passed over
    <base>/<list id>/packing.json  a bundle that comes encrypted through a network diode (room_sealed.py)

A bundle gets a room when a publisher that this host trusts has signed its statement: so strangers take no space, and
what trusted statements may take is known. Of an encrypted bundle nothing can be judged before a volume is whole, and
without an identity not then: all such rooms together take at most what the operator allows.

A volume is read twice, when it comes and by the import, and written once: linked into the room, then its leaves into
staging. Leaves are not staged at once, since a volume may come weeks before the index volume that has its leaf lists,
and since a file that still lies in a drop folder may change: what the import stages, it has hashed itself. On another
file system a volume is copied into the room, which is a second write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bundler import approve, carried, conceal, heads, layout, locks, packing, parts, verify
from bundler.channels import Channels
from bundler.conceal import SEALED
from bundler.errors import BundleRefused, BundlerError, medium_errors
from bundler.importer import ImportReport, import_bundle
from bundler.medium import file_names, read_start
from bundler.packing import PackingList
from bundler.policy import Policy
from bundler.receipts_keep import Keeper, Kept
from bundler.room import Room
from bundler.room_sealed import SealedRoom
from bundler.seal import Keys
from bundler.writing import write_file
from manifests.errors import ManifestsError
from manifests.statement import Statement
from manifests.store import Store
from signing.errors import SigningError
from signing.hosttrust import HostTrust
from signing.trust import TrustStore

Say = Callable[[dict[str, Any]], None]
MAX_KNOWN = 4096  # statements whose verdict is remembered
MAX_SEALED = 64  # rooms of encrypted bundles


class Rooms:
    """All bundles that come in at one place. Use as a context: it holds the lock."""

    def __init__(
        self, base: Path, trust: TrustStore, say: Say, *, policy: Policy | None = None, store: Store | None = None,
        seen: Channels | None = None, repair: bool = False, host: HostTrust | None = None, keeper: Keeper | None = None,
        keys: Keys | None = None, limit: int | None = None,
    ) -> None:  # fmt: skip
        """`keys`: for volumes that are encrypted, and stay so. `limit`: bytes that encrypted bundles may take together,
        where they come in pieces and cannot be judged before they are whole; None: no such is taken. `store`: where
        whole bundles go; None: they are verified and stay here, in folders named like them. `host`: what carried trust
        renews; None: `trust` stays as it is. `keeper` writes the receipts of imports."""
        self.base, self.trust, self.say, self.repair, self._host = base, trust, say, repair, host
        self._policy, self._store, self._seen, self._keeper = policy or Policy(), store, seen, keeper
        self.keys, self.limit, self.collects = keys, limit, store is None
        self.unopened: set[str] = set()  # encrypted volumes that `keys` do not open
        self.unread = set[str]()  # files that could not be read
        self.hurt: dict[str, Path] = {}  # encrypted volumes that were not taken, and may lend what is sound
        self._carried: dict[str, Path] = {}  # by the eight digits of the id; of those that only collect
        self._lent: list[Path] = []  # files of this run alone
        self._passed, self._looked = 0, float("-inf")  # encrypted bundles that got no space; when rooms were looked at
        self._known: dict[str, Room | None] = {}
        self._lock = -1

    def __enter__(self) -> Rooms:
        with medium_errors(self.base):
            self.base.mkdir(parents=True, exist_ok=True)
            self._lock = locks.take(self.base / "lock", f"another receiver works in {self.base}", "stop it first")
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
        names = file_names(folder)
        if packing.MEMBER in names:
            with contextlib.suppress(BundlerError):
                self._add_sealed(PackingList.read(folder / packing.MEMBER), folder)
            return
        stems = {name.rpartition(".v")[0] for name in names if name.endswith(".tar") and ".v" in name}
        stems |= {match["stem"] for name in names if (match := parts.NAME.fullmatch(name))}
        for stem in stems:
            with contextlib.suppress(BundlerError):
                self.admit(heads.find_statement(folder, stem)[1])
        sealed = [name for name in names if name.endswith(SEALED) and not name.endswith(conceal.LOCKED)]
        if sealed and not stems:
            with contextlib.suppress(BundlerError):
                self.admit(read_start(folder / sealed[0], self.keys)[1])

    def admit(self, envelope: bytes) -> Room | None:
        """The room of a bundle whose statement a trusted publisher signed; None, and told once, for any other."""
        key = hashlib.sha256(envelope).hexdigest()
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                return None
            self._known[key] = self._open(envelope)
        return self._known[key]

    def believed(self, envelope: bytes) -> Statement | None:
        """If a publisher that this host trusts has signed it."""
        roles = sorted({"publisher", *self._policy.roles} - {"approver"})
        try:
            now = (self._seen or Channels.imported()).moment(datetime.now(timezone.utc))
            verify.judge(envelope, approve.one_publisher(self.trust), self._policy, now, roles)
            return heads.decode_statement(envelope)
        except (SigningError, ManifestsError, BundleRefused) as error:
            self.say({"event": "untrusted", "bundle": "", "why": str(error)})
            return None

    def _open(self, envelope: bytes) -> Room | None:
        statement = self.believed(envelope)
        if statement is None:
            return None
        folder = self.base / (statement.id if self._store is not None else layout.stem(statement))
        with medium_errors(folder):
            folder.mkdir(exist_ok=True)
        room = Room(self, folder, statement, envelope)
        self._keep_trust(room)
        if room.state == "open":
            room.say("seen", volumes=len(room.names), bytes=sum(room.sizes.values()), missing=len(room.missing()))
        elif self._store is not None:
            room.say("passed", why="it was imported here already; sealift bundle import brings removed models back")
        return room

    # -- encrypted bundles, in pieces

    def admit_sealed(self, raw: bytes) -> SealedRoom | None:
        """The room of a bundle that comes encrypted, by its packing list; None, and told, where there is no space that
        was allowed. Raises BundleRefused, MediumUnavailable."""
        found = PackingList.decode(raw)
        known = self._known.get(found.id)
        if isinstance(known, SealedRoom):
            return known
        why = self._no_space_for(found)
        if why:
            self._passed += 1
            if self._passed <= MAX_SEALED:  # a flood is told by its beginning
                self.say({"event": "passed", "bundle": found.stem, "bytes": found.size, "why": why})
            return None
        name = found.id if self._store is not None else f"{found.stem}.{found.id[:8]}"
        with medium_errors(self.base / name):
            (self.base / name).mkdir(exist_ok=True)
        room = self._add_sealed(found, self.base / name)
        room.say("seen", volumes=len(room.names), bytes=found.size, missing=len(room.missing()))
        return room

    def _no_space_for(self, found: PackingList) -> str:
        if self.limit is None:
            return "it is encrypted, so nobody can be judged before it is whole: --limit SIZE allows it so much"
        now = time.monotonic()
        if now - self._looked > 1:
            self._looked = now
            for room in self._sealed():
                room.look()
        claims = [room.claims for room in self._sealed() if room.claims]
        if sum(claims) + found.size > self.limit:
            return f"{sum(claims):,} of the {self.limit:,} bytes that encrypted bundles may take are taken"
        if len(claims) >= MAX_SEALED or len(self._known) >= MAX_KNOWN:
            return f"{len(claims)} encrypted bundles are here already"
        return ""

    def _add_sealed(self, found: PackingList, folder: Path) -> SealedRoom:
        room = SealedRoom(self, folder, found)
        self._known[found.id] = room
        return room

    def _sealed(self) -> list[SealedRoom]:
        return [room for room in self if isinstance(room, SealedRoom)]

    def claimed(self) -> int:
        """Bytes that encrypted bundles take here, or are still to take."""
        return sum(room.claims for room in self._sealed())

    # -- trust

    def take_trust(self, path: Path) -> bool:
        """Carried trust, before what it came with is judged; whether this host now believes something else. Raises
        NotTrusted or BundleRefused for a file that this host's root did not sign."""
        if self._host is None:
            self.say({"event": "passed", "bundle": "", "name": path.name, "why": "a trust file was named"})
            return False
        renewed = carried.renew_from(path, self._host, self._policy.profile)
        if self._store is None:
            self._carried[path.name.lower().removesuffix(carried.SUFFIX)[-8:]] = path
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
        in_already = tuple(room.id[:8] for room in self if room.closed)
        unread = any(not any(identity in name for identity in in_already) for name in self.unread)
        return 4 if states & {"open", "unopened"} or self.unopened or unread else 0

    def advance(self, *, settled: bool) -> None:
        """In the order of each channel, since a later bundle shuts out an earlier one: it waits for one that has begun
        to arrive, until nothing more comes."""
        begun: set[str] = set()
        for room in sorted(self, key=_place):
            channel, _ = _place(room)
            if settled or channel not in begun:
                room.advance(settled=settled)
            if channel and room.state == "open":
                begun.add(channel)

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
            return self._keeper.attest(run, folder, store, again, self.keys, once=True)
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


def _place(room: Room) -> tuple[str, int]:
    """Channel and number; of what cannot be read yet none."""
    return ("", 0) if isinstance(room, SealedRoom) else (room.statement.channel, room.statement.sequence)
