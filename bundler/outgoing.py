"""What a folder has of one bundle, in sending order: in clear, encrypted, or encrypted and known by its packing list.

order    carried trust, parts that answer a slip, index volume, data volumes, parity volumes, approvals
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bundler import approvals, carried, heads, layout, packing, parity, parts, shards
from bundler.conceal import LOCKED, SEALED, alike
from bundler.errors import BundleRefused, MediumUnavailable, VolumeMixed
from bundler.medium import PARITY, VOLUME, file_names, plain_size
from bundler.packing import PackingList
from bundler.shards import require_clear, stem_of
from bundler.volumes import check_volume
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
    if not found:
        stems = _of_sealed(folder, here if path.is_dir() else [path.name])
    if not stems:
        return None
    if len(stems) > 1:
        raise VolumeMixed(f"{path}: volumes of {len(stems)} bundles", hint="name one volume of the bundle you mean")
    (stem,) = stems
    volumes = {int(match["number"]): name for name, match in found.items() if match["stem"] == stem}
    gaps = sorted(set(range(max(volumes, default=0))) - set(volumes))
    missing = [f"{stem}.v{number:03d}.tar{SEALED}" for number in gaps]
    trust, again, spare = ([name for name in here if (match := kind.fullmatch(name)) and match["stem"] == stem]
                           for kind in (carried.NAME, parts.NAME, PARITY))  # fmt: skip
    trust += [name for name in here if name == stem + LOCKED]
    approved = [name for name in here if (match := approvals.NAME.fullmatch(name)) and alike(match["stem"], stem)]
    names = (*trust, *again, *(volumes[number] for number in sorted(volumes)), *spare, *approved)
    return Encrypted(folder=folder, stem=stem, id=stem[-8:], names=names, missing=tuple(missing))


def _of_sealed(folder: Path, names: Sequence[str]) -> set[str]:
    """Stems of parts and parity volumes of encrypted bundles: the answer to a slip may have no volume."""
    stems = set()
    for name in names:
        match = parts.NAME.fullmatch(name) or PARITY.fullmatch(name)
        if match:
            with contextlib.suppress(BundleRefused, MediumUnavailable):
                path, spare = folder / name, match.re is PARITY
                if parity.open_parity(path).sealed if spare else parts.open_part(path)[0].sealed:
                    stems.add(match["stem"])
    return stems


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


def _is_whole(name: str) -> bool:
    """What is small, or a part already."""
    return any(kind.fullmatch(name) for kind in (parts.NAME, approvals.NAME, carried.NAME))
