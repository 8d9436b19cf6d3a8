"""What a folder still has of a bundle with parity: which blocks are sound, which are lost, and where that is in files.

Opened from a sound parity volume: its statement, or the packing list of encrypted volumes, says how the volumes must
be, its table what each block hashes to. The medium is only read, and encrypted volumes stay so: their bytes are
restored, not what is inside. A block that cannot be read, is not there, or differs is lost, unless parts that were sent
again have it; nothing here fails because of it.
Refused: no sound parity volume; parity of another bundle, or whose numbers are not those of the statement.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bundler import expected, parity, parts
from bundler.conceal import LOCKED, SEALED
from bundler.errors import (
    BundleRefused,
    CannotDecrypt,
    MediumUnavailable,
    NoParity,
    VolumeDamaged,
    VolumeMissing,
    VolumeMixed,
    medium_errors,
)
from bundler.expected import Expected
from bundler.heads import find_statement
from bundler.medium import VOLUME, file_names
from bundler.packing import PackingList
from bundler.parity import HASH, Header, ParityVolume
from bundler.parts import NAME as PART
from bundler.sources import Source

Progress = Callable[[int], None]
Lost = npt.NDArray[np.bool_]  # (shards, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """`ranges`: first byte and byte after the last, in the file as it should be."""

    name: str
    size: int
    missing: bool
    ranges: tuple[tuple[int, int], ...]

    def sentence(self) -> str:
        where = ", ".join(f"{first:,} to {end - 1:,}" for first, end in self.ranges)
        return f"{self.name}{' (not here)' if self.missing else ''}: bytes {where}"

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "missing": self.missing, "ranges": [list(r) for r in self.ranges]}


class Shards:
    """All shards: the data volumes in order, then the parity volumes. `bad` arrays are (shards, rows) of bool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder if folder.is_dir() else folder.parent
        stem = self.stem = stem_of(folder, self.folder)
        leader, self._sound = _leader(self.folder, stem)
        self.header: Header = leader.header
        self._table = leader.table
        self.expected = _expected(self.folder, leader, stem, len(self._sound))
        parities = [parity.volume_name(stem, index) for index in range(self.header.parity)]
        self.names = [*self.expected.names, *parities]
        self.parts = parts.beside(self.folder, stem, self.expected.id)

    def __enter__(self) -> Shards:
        self.shards = [self._open_data(index) for index in range(self.header.data)]
        self.shards += [self._open_parity(index) for index in range(self.header.parity)]
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self.shards:
            shard.close()

    def _open_data(self, index: int) -> Source:
        ahead, name, size = len(self.expected.heads[index]), self.names[index], self.expected.sizes[index]
        return Source(self.folder / name, size, lambda offset: ahead + offset, self.parts.get(name, ()))

    def _open_parity(self, index: int) -> Source:
        path = self.folder / self.names[self.header.data + index]
        first = self._sound.get(index)
        shard = Source(path, self.header.length, lambda offset: parity.place(first or 0, offset))
        if first is None:
            shard.close()
        return shard

    def read(self, index: int, row: int) -> bytes | None:
        """The block, or None where it is not what the table says. b"" behind the end of a shard."""
        offset = row * self.header.block
        shard = self.shards[index]
        length = max(0, min(self.header.block, shard.size - offset))
        if not length:
            return b""
        at = (row * self.header.shards + index) * HASH
        expected = self._table[at : at + HASH]
        return shard.sound(offset, length, lambda data: hashlib.sha256(data).digest() == expected)

    def scan(self, progress: Progress) -> Lost:
        bad = np.zeros((self.header.shards, self.header.rows), np.bool_)
        for row in range(self.header.rows):
            for index in range(self.header.shards):
                data = self.read(index, row)
                bad[index, row] = data is None
                progress(len(data or b""))
        return bad

    def damage(self, bad: Lost, *, heads: bool = True) -> tuple[Damage, ...]:
        """Of data volumes: bad blocks, and with `heads` also what is damaged in the file and can be had without parity:
        a head that differs, what parts have, bytes behind the end."""
        found = []
        for index in range(self.header.data):
            shard, head, whole = self.shards[index], self.expected.heads[index], self.expected.whole(index)
            ranges = [(0, len(head))] if heads and shard.read(-len(head), len(head)) != head else []
            for row in np.flatnonzero(bad[index]):
                first = len(head) + int(row) * self.header.block
                ranges.append((first, min(first + self.header.block, whole)))
            ranges = sorted({*ranges, *(shard.overlaid if heads else ())})
            if heads and not shard.missing and shard.read(shard.size, 1):
                ranges.append((whole, (self.folder / self.names[index]).stat().st_size))
            if ranges:
                joined = tuple(joined_ranges(ranges))
                found.append(Damage(name=self.names[index], size=whole, missing=shard.missing, ranges=joined))
        return tuple(found)

    @property
    def identity(self) -> bytes:
        """The file beside encrypted volumes that a passphrase opens; b"" where there is none."""
        return self.expected.packing.identity if self.expected.packing else b""

    def lost_identity(self) -> Damage | None:
        """Where that file is not as the packing list has it."""
        size, path = len(self.identity), self.folder / (self.stem + LOCKED)
        source = Source(path, size, lambda offset: offset)
        wrong = size and source.read(0, size + 1) != self.identity
        missing = source.missing
        source.close()
        return Damage(name=path.name, size=size, missing=missing, ranges=((0, size),)) if wrong else None


def joined_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending ranges, those that touch or overlap as one."""
    joined: list[tuple[int, int]] = []
    for first, end in ranges:
        if joined and joined[-1][1] >= first:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


def stem_of(path: Path, folder: Path) -> str:
    """Of the one bundle in the folder, or of the volume that was named."""
    with medium_errors(path):
        names = file_names(folder) if folder == path else [path.name]
    found = [
        VOLUME.fullmatch(name.removesuffix(SEALED)) or parity.NAME.fullmatch(name) or PART.fullmatch(name)
        for name in names
    ]
    stems = {match["stem"] for match in found if match}
    if len(stems) > 1:
        raise VolumeMixed(
            f"{path}: volumes of {len(stems)} bundles: {', '.join(sorted(stems)[:8])}",
            hint="name one volume of the bundle you mean",
        )
    if not stems:
        raise VolumeMissing(f"{path}: no volume of a bundle here")
    return stems.pop()


def packing_list(folder: Path, stem: str) -> PackingList | None:
    """As sound parity volumes of encrypted volumes have it; None where there are none. Raises BundleRefused."""
    try:
        leader, sound = _leader(folder, stem)
    except NoParity:
        return None
    return _expected(folder, leader, stem, len(sound)).packing


def require_clear(path: Path, folder: Path) -> None:
    """For what needs the bytes inside. Raises CannotDecrypt where a volume is here encrypted alone."""
    names = file_names(folder) if folder == path else [path.name]
    closed = [name for name in names if name.endswith(SEALED) and VOLUME.fullmatch(name.removesuffix(SEALED))]
    if any(name.removesuffix(SEALED) not in names for name in closed):
        raise CannotDecrypt(
            f"{closed[0]} is encrypted; without parity volumes this works on volumes in clear",
            hint="--identity FILE looks inside, and says which volumes to send again",
        )


def _leader(folder: Path, stem: str) -> tuple[ParityVolume, dict[int, int]]:
    """A parity volume of the set that most belong to, and for each sound one of that set where its parity begins."""
    sound: list[ParityVolume] = []
    problems = []
    for name in file_names(folder):
        match = parity.NAME.fullmatch(name)
        if match and match["stem"] == stem:
            try:
                # without the bytes that all have in common: only one set of them is held at a time
                sound.append(replace(parity.open_parity(folder / name), told=b"", table=b""))
            except (BundleRefused, MediumUnavailable) as error:
                problems.append(str(error))
    if not sound:
        why = "; ".join(problems[:4]) if problems else "no parity volumes here"
        raise NoParity(
            f"{stem}: {why}", hint="parity volumes are named like acme-llm-7f3c91ab.p001.tar; export makes them"
        )
    common, _ = Counter((volume.id, volume.header) for volume in sound).most_common(1)[0]
    members = [volume for volume in sound if (volume.id, volume.header) == common]
    return parity.open_parity(members[0].path), {volume.index: volume.first for volume in members}


def _expected(folder: Path, leader: ParityVolume, stem: str, copies: int) -> Expected:
    """Bound to its own id by a hash; who signed it is not asked. Parity may carry any signatures, so it is outvoted by
    the volumes."""
    if leader.sealed:
        found = expected.of_packing(PackingList.decode(leader.told))
    else:
        found = expected.of_statement(*find_statement(folder, stem, [leader.told] * copies))
    if found.id != leader.id or found.stem != stem:
        raise VolumeMixed(f"{leader.path.name}: parity of another bundle")
    if leader.header.data != len(found.sizes) or leader.header.length != max(found.sizes):
        raise VolumeDamaged(leader.path.name, 0, "its numbers are not those of its volumes")
    return found
