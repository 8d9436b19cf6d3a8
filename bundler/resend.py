"""Resend: from a slip to just the bytes that it asks for. On the connected side; needs no key.

    find    the volumes in a folder (`--from`), or else a bundle that was exported here, written again from the store
    check   each volume that is asked for is read whole, and its payload has the hash that the statement says
    sealed  encrypted volumes that a slip asks for by the bundle's id are known by their names and sent again whole,
            whatever ranges are asked for; by the id of their packing list, after each was compared with it
    write   a volume that is asked for whole, as it is; else a part with the ranges (parts.py); never over a file

Put beside the others on the isolated side, `bundle repair`, `bundle receive` and, for whole volumes, `bundle import`
take what is written here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from bundler import heads, journal, layout, locks, packing, parts, shards
from bundler.conceal import SEALED
from bundler.errors import BadRequest, BundleRefused, SlipRefused, VolumeMissing, medium_errors
from bundler.hashing import Pipeline
from bundler.medium import VOLUME, file_names, plain_size, read_start
from bundler.packing import PackingList
from bundler.slip import Slip, Want
from bundler.volumes import check_volume
from bundler.writing import copy_file, sync_medium, write_volume
from manifests.statement import Statement
from manifests.store import Store

Progress = Callable[[int], None]
Source: TypeAlias = "_Folder | _Listed | _Encrypted | _Again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendReport:
    id: str
    statement: Statement | None  # None: of encrypted volumes
    source: str  # `volumes`, `encrypted` or `store`
    written: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "written": [{"path": str(path), "bytes": path.stat().st_size} for path in self.written],
        }


def resend(
    slip: Slip, out: Path, *, volumes: Path | None = None, store: Store | None = None, whole: bool = False,
    progress: Progress | None = None,
) -> ResendReport:  # fmt: skip
    """`volumes`: the folder that the bundle was exported into. `whole`: no parts. Raises SlipRefused, VolumeMissing,
    VolumeDamaged, ExportRefused, MediumUnavailable."""
    progress = progress or (lambda count: None)
    source = _source(slip, volumes, store, progress)
    if volumes is not None and out.resolve() == source.folder.resolve():
        raise BadRequest(f"-o {out} is the folder of the volumes themselves", hint="give an empty folder")
    number = int(hashlib.sha256(slip.encode()).hexdigest()[:5], 16)
    with locks.alone(out):
        wants = [replace(want, ranges=()) if whole else want for want in slip.wants]
        written = [_write(source, want, out, source.name(want.volume), number, progress) for want in wants]
        sync_medium(out)
    return ResendReport(id=slip.id, statement=source.statement, source=source.kind, written=tuple(written))


def _source(slip: Slip, volumes: Path | None, store: Store | None, progress: Progress) -> Source:
    if volumes is None:
        return _Again(store or Store(), slip.id)
    sealed = _Encrypted(volumes, slip.id)
    if sealed.names:
        return sealed
    try:
        return _Folder(volumes, slip.id)
    except VolumeMissing:
        if not packing.sealed_stems(sealed.folder):
            raise
    return _Listed.find(sealed.folder, slip.id, progress)


def _write(source: Source, want: Want, out: Path, name: str, number: int, progress: Progress) -> Path:
    ranged = bool(want.ranges) and not isinstance(source, _Encrypted)
    path = out / (parts.file_name(name, "r", number) if ranged else name)
    if path.exists() or path.is_symlink():
        raise BadRequest(f"{path} exists and stays as it is", hint="give an empty folder with -o")
    with source.volume(want.volume, out, progress) as whole:
        if want.ranges and not isinstance(source, _Encrypted):
            ranges = want.bytes_of(whole.stat().st_size)
            sealed = isinstance(source, _Listed)
            parts.cut(whole, ranges, path, source.id, source.told, name, sealed=sealed)
        else:
            with medium_errors(path):
                copy_file(whole, path)
    return path


def _name(statement: Statement, index: int) -> str:
    names = layout.volume_names(statement)
    if index >= len(names):
        raise SlipRefused(f"the bundle has {len(names)} volumes; the slip asks for number {index}")
    return names[index]


class _Folder:
    """The volumes as they were exported."""

    kind = "volumes"

    def __init__(self, path: Path, identity: str) -> None:
        self.folder = path if path.is_dir() else path.parent
        found = [match for match in map(VOLUME.fullmatch, file_names(self.folder)) if match]
        stems = {match["stem"] for match in found if match["stem"].endswith(f"-{identity[:8]}")}
        for match in found:
            if match["stem"] in stems and read_start(self.folder / match.group())[0] == identity:
                self.statement, self.told = heads.find_statement(self.folder, match["stem"])
                self.id = self.statement.id
                return
        raise VolumeMissing(f"{path}: no volume of the bundle {identity} that the slip names")

    def name(self, index: int) -> str:
        return _name(self.statement, index)

    @contextlib.contextmanager
    def volume(self, index: int, out: Path, progress: Progress) -> Iterator[Path]:
        """Its file, after every byte of it was checked."""
        path = self.folder / layout.volume_name(self.statement, index)
        check_volume(path, self.statement, self.told, index, progress)
        yield path


class _Listed:
    """The files of one encryption, each compared with its packing list before it is sent."""

    kind = "encrypted"
    statement = None

    def __init__(self, folder: Path, found: PackingList) -> None:
        self.folder, self.id, self.told, self._packing = folder, found.id, found.encode(), found

    @classmethod
    def find(cls, folder: Path, identity: str, progress: Progress) -> _Listed:
        """The one whose packing list has this id. Raises VolumeMissing."""
        for stem in packing.sealed_stems(folder):
            with contextlib.suppress(BundleRefused):  # not all of them here: then it cannot be this one
                found = shards.packing_list(folder, stem) or packing.of_folder(folder, stem, progress)
                if found.id == identity:
                    return cls(folder, found)
        raise VolumeMissing(
            f"{folder}: not the encrypted volumes that the slip asks for",
            hint="encrypted again, a bundle is other bytes: name the folder of that very export",
        )

    def name(self, index: int) -> str:
        if index >= len(self._packing.names):
            raise SlipRefused(f"the bundle has {len(self._packing.names)} volumes; the slip asks for number {index}")
        return self._packing.names[index]

    @contextlib.contextmanager
    def volume(self, index: int, out: Path, progress: Progress) -> Iterator[Path]:
        path = self.folder / self.name(index)
        self._packing.check(path, index, progress)
        yield path


class _Encrypted:
    """Encrypted volumes as they were exported: known by their names, and sent again whole."""

    kind = "encrypted"
    statement = None

    def __init__(self, path: Path, identity: str) -> None:
        self.folder = path if path.is_dir() else path.parent
        found = [(name, VOLUME.fullmatch(name.removesuffix(SEALED))) for name in file_names(self.folder)]
        mine = [(name, match) for name, match in found if match and match["stem"].endswith(f"-{identity[:8]}")]
        self.names = {int(match["number"]): name for name, match in mine}
        if not any(name.endswith(SEALED) for name in self.names.values()):
            self.names = {}

    def name(self, index: int) -> str:
        if index not in self.names:
            raise VolumeMissing(f"{self.folder}: volume {index}, which the slip asks for, is not here")
        return self.names[index]

    @contextlib.contextmanager
    def volume(self, index: int, out: Path, progress: Progress) -> Iterator[Path]:
        """Its file, of the outer form of an age file."""
        path = self.folder / self.name(index)
        plain_size(path)
        yield path


class _Again:
    """A bundle that this host exported, from its store; each volume exists only while it is needed."""

    kind = "store"

    def __init__(self, store: Store, identity: str) -> None:
        found = journal.exported(store, identity)
        if found is None:
            raise VolumeMissing(
                f"the bundle {identity} was not exported by this host, or encrypted, or that was forgotten",
                hint="name the folder of its volumes: --from FOLDER",
            )
        self._load, self.statement, self.told = found
        self.id, self.folder = self.statement.id, store.root
        self._payloads = layout.payloads(self.statement)

    def name(self, index: int) -> str:
        return _name(self.statement, index)

    @contextlib.contextmanager
    def volume(self, index: int, out: Path, progress: Progress) -> Iterator[Path]:
        path = out / (layout.volume_name(self.statement, index) + ".whole.tmp")
        head = layout.head(self.statement, self.told, index)
        try:
            with Pipeline(self._load.leaf_size) as pipeline, medium_errors(out):
                content = (head, self._payloads[index])
                write_volume(self._load, self.statement, index, content, path, pipeline, progress)
            yield path
        finally:
            path.unlink(missing_ok=True)
