"""The medium: which volumes lie in a folder, and reading them byte by byte. Nothing here ever writes.

Step 1 of an import: the SEALIFT line and the envelope of one volume, with hard size caps, nothing believed yet.
A `VolumeReader` hands out bytes only by exact count, and compares where the bytes are known beforehand.
Volumes may be encrypted (*.tar.age, docs/formats/encryption.md): then `size` and `position` count the bytes inside.
Refused: volumes that are no regular file; two bundles in one folder; volumes missing, renamed, twice, too short or too
long.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from bundler import conceal, layout, seal, tar
from bundler.conceal import SEALED
from bundler.errors import BundleRefused, MediumUnavailable, VolumeDamaged, VolumeMissing, VolumeMixed, medium_errors
from bundler.seal import Decrypted, Keys
from manifests.statement import Statement

HEAD = "the SEALIFT line or the statement"
MAX_MARK = 200  # bytes of the SEALIFT line
MAX_ENVELOPE = 16 << 20  # bytes
MAX_FILES = 100_000  # directory entries looked at
VOLUME = re.compile(r"(?P<stem>[a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8})\.v(?P<number>[0-9]{3,4})\.tar")
PARITY = re.compile(r"(?P<stem>[a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8})\.p(?P<number>[0-9]{3})\.tar")
_MARK = re.compile(rb"sealift-bundle/(?P<version>[0-9]{1,4}) (?P<id>[0-9a-f]{32}) v[0-9]{3,4}/[0-9]{3,4}\n")


class VolumeReader:
    """One volume, read from its start. `position` is the next byte. `keys`: for a volume that is encrypted. `sealed`:
    whether its bytes are to be decrypted; None: its name says it."""

    _file: FileIO | Decrypted

    def __init__(self, path: Path, keys: Keys | None = None, *, sealed: bool | None = None) -> None:
        self.path, self.name, self.position = path, path.name, 0
        with medium_errors(path):
            # O_NONBLOCK: opening a pipe somebody put here must not wait for a writer
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                os.close(handle)
                raise VolumeMixed(f"{self.name} is not a regular file", hint="take it away")
            file = self._file = FileIO(handle, "r")
        self.size = found.st_size
        if self.name.endswith(SEALED) if sealed is None else sealed:
            try:
                with medium_errors(path):
                    self._file, self.size = seal.decrypting(file, self.name, keys)
            except BaseException:
                file.close()
                raise

    def __enter__(self) -> VolumeReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_into(self, view: memoryview, what: str) -> None:
        """Fills `view`, or refuses the volume as truncated."""
        done = 0
        with medium_errors(self.path):
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    raise VolumeDamaged(self.name, self.position + done, f"the volume ends inside {what}")
                done += count
        self.position += done

    def read(self, size: int, what: str) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data), what)
        return bytes(data)

    def expect(self, data: bytes, what: str) -> None:
        """Reads as many bytes as `data` has; they must be the same."""
        start = self.position
        found = self.read(len(data), what)
        if found != data:
            at = next(i for i, (a, b) in enumerate(zip(found, data, strict=True)) if a != b)
            raise VolumeDamaged(self.name, start + at, f"{what} is not what the statement says")

    def expect_header(self, name: str, size: int) -> None:
        start = self.position
        block = self.read(tar.BLOCK, f"the header of {name!r}")
        if block != tar.header(name, size):
            raise VolumeDamaged(self.name, start, tar.explain(block, name, size))

    def skip(self, size: int) -> None:
        with medium_errors(self.path):
            self._file.seek(size, os.SEEK_CUR)
        self.position += size

    def expect_end(self) -> None:
        if self.size != self.position or self._file.read(1):
            raise VolumeDamaged(self.name, self.position, "bytes after the end of the archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A folder that holds volumes of one bundle. `envelope` is what its first volume carries: unverified."""

    folder: Path
    stem: str
    alone: bool  # the caller chose the bundle by a volume's path, so other bundles may lie beside it
    envelope: bytes = field(repr=False)
    id: str  # as the SEALIFT line says
    keys: Keys | None = None
    sealed: bool = False  # that first volume is encrypted

    def find(self, name: str) -> Path:
        """Where a volume lies, under whichever of its names; its own name where it does not lie here."""
        paths = [self.folder / one for one in conceal.names_of(name)]
        return next((path for path in paths if path.exists()), paths[0])

    def open(self, name: str) -> VolumeReader:
        return VolumeReader(self.find(name), self.keys)


def open_medium(path: Path, keys: Keys | None = None) -> Medium:
    """Step 1. `path` is a folder with one bundle, or one volume of the bundle meant."""
    with medium_errors(path):
        is_file = path.is_file()
        folder = path.parent if is_file else path
        names = [path.name] if is_file else file_names(folder)
    found = [(match, name) for name in names if (match := VOLUME.fullmatch(name.removesuffix(SEALED)))]
    stems = _stems({match["stem"] for match, _ in found})
    if not stems:
        raise VolumeMissing(
            f"{path}: no volume of a bundle here",
            hint="volumes are named like acme-llm-7f3c91ab.v000.tar; "
            "where names were changed on the way: sealift bundle receive --watch FOLDER --once",
        )
    if len(stems) > 1:
        raise VolumeMixed(
            f"{path}: volumes of {len(stems)} bundles: {', '.join(stems[:8])}",
            hint=f"name one volume of the bundle you mean, such as {folder / (stems[0] + '.v000.tar')}",
        )
    *_, first = min((len(match["number"]), match["number"], name.endswith(SEALED), name) for match, name in found)
    identity, envelope = read_start(folder / first, keys)
    return Medium(
        folder=folder, stem=stems[0], alone=is_file, envelope=envelope, id=identity, keys=keys,
        sealed=first.endswith(SEALED),
    )  # fmt: skip


def _stems(found: set[str]) -> list[str]:
    """Sorted. A name without a label is no second bundle where the same id stands with one."""
    hidden = {stem for stem in found if stem == f"{conceal.LABEL}-{stem[-8:]}"}
    labelled = {stem[-8:] for stem in found - hidden}
    return sorted(stem for stem in found if stem not in hidden or stem[-8:] not in labelled)


def file_names(folder: Path) -> list[str]:
    """Sorted; a folder with too many entries is refused before it is read to its end."""
    names: list[str] = []
    with medium_errors(folder), os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if len(names) > MAX_FILES:
                raise MediumUnavailable(
                    f"{folder}: more than {MAX_FILES} files", hint="give the folder of the bundle itself"
                )
    return sorted(names)


def parity_names(medium: Medium) -> list[str]:
    """Files that are named like parity volumes of this bundle. Readers pass over them."""
    found = [match for match in map(PARITY.fullmatch, file_names(medium.folder)) if match]
    return [match.group() for match in found if match["stem"] == medium.stem]


def read_start(path: Path, keys: Keys | None = None, *, sealed: bool | None = None) -> tuple[str, bytes]:
    """The id and the envelope bytes of a volume; both members must be exactly as we write them."""
    with VolumeReader(path, keys, sealed=sealed) as volume:
        block = volume.read(tar.BLOCK, f"the header of {layout.MARK!r}")
        size = tar.size_of(block, layout.MARK)
        if size is None or size > MAX_MARK:
            raise VolumeDamaged(volume.name, 0, tar.explain(block, layout.MARK))
        line = volume.read(size, layout.MARK)
        match = _MARK.fullmatch(line)
        if not match:
            raise VolumeDamaged(volume.name, tar.BLOCK, f"not a sealift bundle: {line[:80]!r}")
        if match["version"] != b"1":
            raise BundleRefused(
                f"{volume.name}: bundle format {match['version'].decode()}; this sealift reads format 1",
                hint="update sealift on this side",
            )
        volume.expect(tar.padding(size), f"the padding of {layout.MARK!r}")
        start = volume.position
        block = volume.read(tar.BLOCK, f"the header of {layout.ENVELOPE!r}")
        size = tar.size_of(block, layout.ENVELOPE)
        if size is None:
            raise VolumeDamaged(volume.name, start, tar.explain(block, layout.ENVELOPE))
        if size > MAX_ENVELOPE:
            raise VolumeDamaged(volume.name, start, f"a statement of {size:,} bytes; at most {MAX_ENVELOPE:,} are read")
        return match["id"].decode(), volume.read(size, layout.ENVELOPE)


def plain_size(path: Path) -> int:
    """Bytes of a volume, whether it is encrypted or not; no key is needed."""
    with medium_errors(path):
        if not path.name.endswith(SEALED):
            return path.stat().st_size
        with FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "r") as file:
            return seal.start(file, path.name).plain


def volume_size(statement: Statement, envelope: bytes, index: int) -> int:
    """Bytes of a whole volume file."""
    return len(layout.head(statement, envelope, index)) + statement.volumes[index].size


def check_volumes(medium: Medium, statement: Statement, *, partial: bool = False) -> list[str]:
    """Every volume is there under its name, with its size, its number and this very statement; none is twice or
    foreign. `partial`: volumes may be missing, and their names are returned."""
    names = layout.volume_names(statement)
    _check_strangers(medium, names, statement)
    missing = [name for name in names if not medium.find(name).exists()]
    if missing and not partial:
        more = " ..." if len(missing) > 8 else ""
        raise VolumeMissing(
            f"{len(missing)} of {len(names)} volumes missing: {', '.join(missing[:8])}{more}",
            hint="copy all volumes into one folder, each named as it was exported; if some are lost, "
            "`sealift bundle repair` says what can be restored, and what to ask for again",
        )
    for index, name in enumerate(names):
        if name in missing:
            continue
        expected = volume_size(statement, medium.envelope, index)
        with medium.open(name) as volume:
            name = volume.name
            if volume.size < expected:
                raise VolumeDamaged(name, volume.size, f"truncated: {volume.size:,} of {expected:,} bytes")
            if volume.size > expected:
                raise VolumeDamaged(
                    name, expected, f"bytes after the end of the archive: {volume.size:,}, not {expected:,}"
                )
            volume.expect(layout.head(statement, medium.envelope, index), HEAD)
    return missing


def _check_strangers(medium: Medium, names: Sequence[str], statement: Statement) -> None:
    """Other tar files that begin like a volume: copies, renamed volumes, parts of another bundle."""
    expected = {medium.find(name).name for name in names}
    known = {other for name in names for other in conceal.names_of(name)}
    with medium_errors(medium.folder):
        found = file_names(medium.folder)
    for name in found:
        match = VOLUME.fullmatch(name.removesuffix(SEALED)) if name.endswith(SEALED) else None
        if match and match["stem"][-8:] == medium.stem[-8:] and name not in known:
            raise VolumeMixed(f"{name} is no volume of this bundle", hint="take it away")
    for name in (name for name in found if name.endswith(".tar") and name not in expected):
        match = VOLUME.fullmatch(name)
        if medium.alone and match and match["stem"] != medium.stem:
            continue
        if not (medium.folder / name).is_file():
            continue
        try:
            whose, _ = read_start(medium.folder / name)
        except BundleRefused:
            if match:
                raise
            continue  # some other tar file
        whose = "this bundle: renamed, or there twice" if whose == statement.id else f"another bundle ({whose})"
        raise VolumeMixed(f"{name} is a volume of {whose}", hint="keep exactly the volumes of one bundle in the folder")
