"""Send into a drop folder: a bundle, file after file, for a diode or a guard that takes files from there.

    order    carried trust, parts that answer a slip, index volume, data volumes, parity volumes, approvals
    each     volumes are hashed before they go; written as `*.tmp`, synced, renamed; a file that is there is left alone
    large    what is larger than `max_part` goes in parts (parts.py), which the receiver joins
    sealed   encrypted volumes and their parity volumes go as they are; parts of them carry the packing list, and the
             index volume goes whole, since it tells the receiver whose parts these are
    again    `repeat` rounds, for a link that loses files; what was taken away meanwhile is sent once more

<home>/state/sends/<hash>   what was sent already, so that the same command goes on after an interruption even if the
                            guard has taken the files away; removed at the end
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bundler import approvals, carried, heads, layout, locks, packing, parity, parts, shards
from bundler.conceal import LOCKED, SEALED
from bundler.errors import BadRequest, BundleRefused, MediumUnavailable, VolumeMixed, medium_errors
from bundler.medium import PARITY, VOLUME, file_names, plain_size
from bundler.pace import Pace
from bundler.packing import PackingList
from bundler.shards import require_clear, stem_of
from bundler.volumes import check_volume
from bundler.writing import copy_file, sync_medium
from manifests import canonical
from manifests.digest import Digest
from manifests.home import home
from manifests.statement import Statement

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What a folder has of one bundle, in sending order. `missing` volumes are elsewhere."""

    folder: Path
    statement: Statement
    envelope: bytes
    names: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.statement.id

    @property
    def told(self) -> bytes:
        return self.envelope

    @property
    def whose(self) -> str:
        """The id that parts carry."""
        return self.id

    @property
    def head(self) -> int:
        """Bytes of the index volume that say whose files these are."""
        return len(layout.head(self.statement, self.envelope, 0))

    @property
    def volumes(self) -> Sequence[str]:
        return layout.volume_names(self.statement)

    def is_whole(self, name: str) -> bool:
        """Whether the file is never cut."""
        return _is_whole(name)

    def check(self, name: str) -> None:
        """Raises VolumeDamaged for a volume that is not what the statement says."""
        if name in self.volumes:
            check_volume(self.folder / name, self.statement, self.envelope, self.volumes.index(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """An encrypted bundle, which this host need not be able to read. `id`: the eight digits that its names show.
    `packing`: where files are to be cut; `fresh`: it was made just now, from the files themselves."""

    folder: Path
    stem: str
    id: str
    names: tuple[str, ...]
    missing: tuple[str, ...] = ()  # numbers between others; how many there are is not shown
    packing: PackingList | None = None
    fresh: bool = False

    @property
    def told(self) -> bytes:
        return self.packing.encode() if self.packing else b""

    @property
    def whose(self) -> str:
        return self.packing.id if self.packing else ""

    def check(self, name: str) -> None:
        """Raises VolumeDamaged for what is not as the packing list says; where there is none for what is no whole age
        file, as far as its outer form says."""
        if self.packing and not self.fresh and name in self.packing.names:
            self.packing.check(self.folder / name, self.packing.names.index(name))
        elif VOLUME.fullmatch(name.removesuffix(SEALED)):
            plain_size(self.folder / name)

    def is_whole(self, name: str) -> bool:
        """Whether the file is never cut."""
        volume = VOLUME.fullmatch(name.removesuffix(SEALED))
        return int(volume["number"]) == 0 if volume else _is_whole(name) or not PARITY.fullmatch(name)

    def listed(self, progress: Progress | None) -> Encrypted:
        """With its packing list: that of its parity volumes, or made from the files, of which then all must be here.
        Raises VolumeMissing, VolumeMixed, BundleRefused."""
        known = shards.packing_list(self.folder, self.stem)
        found = known or packing.of_folder(self.folder, self.stem, progress)
        return replace(self, packing=found, fresh=known is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An encrypted bundle by its packing list. `fresh`: that was made just now, from the files themselves."""

    folder: Path
    packing: PackingList
    fresh: bool
    names: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def head(self) -> int:
        """None of the index volume: the packing list says it."""
        return 0

    @property
    def id(self) -> str:
        return self.packing.id

    @property
    def told(self) -> bytes:
        return self.packing.encode()

    @property
    def volumes(self) -> Sequence[str]:
        return self.packing.names

    def check(self, name: str) -> None:
        """Raises VolumeDamaged for a volume that is not what the packing list says."""
        if name in self.volumes and not self.fresh:
            self.packing.check(self.folder / name, self.volumes.index(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """`kept`: files that were there already."""

    id: str
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sent": list(self.sent),
            "kept": list(self.kept),
            "missing": list(self.missing),
            "bytes": self.bytes,
        }


def outgoing(path: Path) -> Outgoing:
    """Raises VolumeMissing, VolumeMixed, CannotDecrypt and BundleRefused. Who signed is not asked."""
    folder = path if path.is_dir() else path.parent
    require_clear(path, folder)  # what encrypted volumes it has was asked before
    stem = stem_of(path, folder)
    statement, envelope = heads.find_statement(folder, stem)
    here = file_names(folder)
    volumes = layout.volume_names(statement)
    groups = (
        [name for name in here if (match := carried.NAME.fullmatch(name)) and match["stem"] == stem],
        [name for name in here if (match := parts.NAME.fullmatch(name)) and match["stem"] == stem],
        [name for name in volumes if name in set(here)],
        [name for name in here if (match := PARITY.fullmatch(name)) and match["stem"] == stem],
        [name for name in here if (match := approvals.NAME.fullmatch(name)) and match["stem"] == stem],
    )
    return Outgoing(
        folder=folder,
        statement=statement,
        envelope=envelope,
        names=tuple(name for group in groups for name in group),
        missing=tuple(name for name in volumes if name not in set(here)),
    )


def encrypted(path: Path) -> Encrypted | None:
    """None where volumes are in clear. Raises VolumeMixed."""
    folder = path if path.is_dir() else path.parent
    here = file_names(folder)
    found = {name: match for name in here if (match := VOLUME.fullmatch(name.removesuffix(SEALED)))}
    closed = {name for name in found if name.endswith(SEALED) and name.removesuffix(SEALED) not in found}
    stems = {found[name]["stem"] for name in closed if path.is_dir() or name == path.name}
    if not stems:
        return None
    if len(stems) > 1:
        raise VolumeMixed(f"{path}: volumes of {len(stems)} bundles", hint="name one volume of the bundle you mean")
    (stem,) = stems
    volumes = {int(match["number"]): name for name, match in found.items() if match["stem"] == stem}
    missing = [f"{stem}.v{number:03d}.tar{SEALED}" for number in range(max(volumes)) if number not in volumes]
    trust, approved = ([name for name in here if (match := kind.fullmatch(name)) and match["stem"] == stem]
                       for kind in (carried.NAME, approvals.NAME))  # fmt: skip
    trust += [name for name in here if name == stem + LOCKED]
    again, spare = ([name for name in here if (match := kind.fullmatch(name)) and match["stem"] == stem]
                    for kind in (parts.NAME, PARITY))  # fmt: skip
    names = (*trust, *again, *(volumes[number] for number in sorted(volumes)), *spare, *approved)
    return Encrypted(folder=folder, stem=stem, id=stem[-8:], names=names, missing=tuple(missing))


def listed(path: Path, progress: Progress | None = None) -> Listed | None:
    """None where volumes are in clear. The packing list is that of the parity volumes; without any it is made from the
    files, which reads all of them, so all must be here. Raises VolumeMissing, VolumeMixed and BundleRefused."""
    bundle = encrypted(path)
    if bundle is None:
        return None
    bundle = bundle.listed(progress)
    assert bundle.packing
    found, fresh = bundle.packing, bundle.fresh
    told, spare, approved = ([name for name in bundle.names if kind.fullmatch(name)]
                             for kind in (carried.NAME, PARITY, approvals.NAME))  # fmt: skip
    volumes = [name for name in found.names if name in bundle.names]
    spare = [name for name in spare if not fresh and _is_parity_of(bundle.folder / name, found.id)]
    names = (packing.MEMBER, *told, *volumes, *spare, *approved)
    missing = tuple(name for name in found.names if name not in volumes)
    return Listed(folder=bundle.folder, packing=found, fresh=fresh, names=names, missing=missing)


def _is_parity_of(path: Path, identity: str) -> bool:
    try:
        return parity.open_parity(path).id == identity
    except (BundleRefused, MediumUnavailable):
        return False


def send(
    path: Path,
    to: Path,
    *,
    max_part: int | None = None,
    pace: Pace | None = None,
    repeat: int = 1,
    progress: Progress | None = None,
) -> SendReport:
    """`pace` in bytes. Raises what `outgoing` raises, BadRequest, VolumeDamaged, MediumUnavailable."""
    bundle = encrypted(path) or outgoing(path)
    if to.resolve() == bundle.folder.resolve():
        raise BadRequest(f"--to {to} is the folder of the volumes themselves")
    large = [name for name in bundle.names if max_part and (bundle.folder / name).stat().st_size > max_part]
    if isinstance(bundle, Encrypted) and not all(map(bundle.is_whole, large)):
        bundle = bundle.listed(progress)
    _require_room(bundle, large, max_part)
    sender = _Sender(bundle, to, max_part, pace or Pace(None), progress or (lambda count: None))
    with sender.alone(), medium_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        for number in range(1, repeat + 1):
            sender.round(number)
        sender.journal.unlink(missing_ok=True)
    return SendReport(
        id=bundle.id,
        sent=tuple(sender.sent),
        kept=tuple(sender.kept),
        missing=bundle.missing,
        bytes=sender.bytes,
    )


def _is_whole(name: str) -> bool:
    """What is small, or a part already."""
    return any(kind.fullmatch(name) for kind in (parts.NAME, approvals.NAME, carried.NAME))


def _require_room(bundle: Outgoing | Encrypted, large: Sequence[str], max_part: int | None) -> None:
    """Before anything is sent: what is not cut must fit, and parts must have room for their data. `large`: files."""
    if max_part is None:
        return
    if max_part <= parts.overhead(bundle.told) + 4096:
        raise BadRequest(
            f"parts of {max_part:,} bytes are too small: each carries {len(bundle.told):,} bytes that say whose it is",
            hint="choose a larger --max-part",
        )
    for name in filter(bundle.is_whole, large):
        index = isinstance(bundle, Encrypted) and VOLUME.fullmatch(name.removesuffix(SEALED))
        why = ", which tells the receiver whose the other volumes are, goes first and whole" if index else ""
        size = (bundle.folder / name).stat().st_size
        raise BadRequest(f"{name}{why}: its {size:,} bytes cannot be cut", hint="choose a larger --max-part")


class _Sender:
    def __init__(
        self, bundle: Outgoing | Encrypted, to: Path, max_part: int | None, pace: Pace, progress: Progress
    ) -> None:
        self._bundle, self._to, self._max, self._pace, self._progress = bundle, to, max_part, pace, progress
        self.sent: list[str] = []
        self.kept: list[str] = []
        self.bytes = 0
        request = [bundle.id, str(to.resolve()), str(max_part)]
        self.journal = home() / "state" / "sends" / Digest.of(canonical.encode(request)).hex[:32]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two that send the same would take each other's `*.tmp` for their own."""
        with medium_errors(self.journal):
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.take(self.journal, f"bundle {self._bundle.id} is being sent to {self._to} already")
        try:
            yield
        finally:
            os.close(lock)

    def round(self, number: int) -> None:
        done = self._journal(number)
        if done is None:  # an interrupted run had finished this round
            return
        for name in self._bundle.names:
            pieces = list(self._pieces(name))
            if all(piece in done for piece, _ in pieces):
                continue
            self._bundle.check(name)
            for piece, ranges in pieces:
                if piece not in done:
                    self._one(name, piece, ranges)
                    self._note(piece)

    def _pieces(self, name: str) -> Iterator[tuple[str, parts.Range | None]]:
        """Under which names a file goes, and which range of it each is; None for the whole file."""
        size = (self._bundle.folder / name).stat().st_size
        if self._max is None or size <= self._max:
            yield name, None
            return
        step = (self._max - parts.overhead(self._bundle.told)) // 4096 * 4096
        for number, first in enumerate(range(0, size, step), 1):
            yield parts.file_name(name, "c", number), (first, min(first + step, size))

    def _one(self, name: str, piece: str, ranges: parts.Range | None) -> None:
        source, target = self._bundle.folder / name, self._to / piece
        if os.path.lexists(target):
            self.kept.append(piece)
            return
        if ranges is None:
            copy_file(source, target, self._spend)
        else:
            sealed = isinstance(self._bundle, Encrypted)
            whose, told = self._bundle.whose, self._bundle.told
            parts.cut(source, [ranges], target, whose, told, meter=self._spend, sealed=sealed)
        sync_medium(self._to)
        self.sent.append(piece)

    def _spend(self, count: int) -> None:
        self.bytes += count
        self._progress(count)
        self._pace.spend(count)

    # -- the memory of an interrupted run

    def _journal(self, number: int) -> set[str] | None:
        """What this round has sent; None where a later round was begun."""
        lines = self.journal.read_text().splitlines()
        begun = [line for line in lines if line.startswith("round ")]
        if len(begun) > number:
            return None
        if len(begun) < number:
            self._note(f"round {number}")
            return set()
        return set(lines[lines.index(f"round {number}") + 1 :])

    def _note(self, line: str) -> None:
        with medium_errors(self.journal), self.journal.open("a") as out:
            out.write(line + "\n")
