"""Parts: ranges of a volume's file, each a small tar of its own: what a slip asked for, or a volume cut for a guard.

    <stem>.<c or r><v001 or p001: the file>-<5 hex>.tar
    members    SEALIFT-PART, statement.dsse.json, range/<offset16> ..., hash

`c` parts are a whole file, cut; an `r` part answers a slip. A part says which file it is of, and carries the statement,
or of encrypted volumes the packing list, so that one found alone can be told and judged. Parts are not signed and need
not be: what is put together from them has the hashes of these or is not taken. Readers of bundles pass over them;
`repair` and `receive` take them.
Refused: what is not byte for byte the form of docs/formats/parity.md, section 6.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler import layout, packing, tar
from bundler.conceal import SEALED
from bundler.errors import BundleRefused, MediumUnavailable, PartRefused, medium_errors
from bundler.medium import MAX_ENVELOPE, MAX_MARK, PARITY, VOLUME, VolumeReader, file_names
from bundler.packing import PackingList
from bundler.writing import create, write_all
from manifests.statement import MAX_SEGMENT

MARK, HASH = "SEALIFT-PART", "hash"
FORMAT, OF_SEALED = "sealift-part/1", "sealift-part/2"
NAME = re.compile(r"(?P<stem>[a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8})\.(?P<kind>[cr])[vp][0-9]{3,4}-[0-9a-f]{5}\.tar")
MAX_RANGES = 256
MAX_SIZE = 1 << 46  # bytes of the file that a part is of
PIECE = 1 << 20  # bytes read at a time
_LINE = re.compile(
    rb"sealift-part/(?P<version>[12]) (?P<id>[0-9a-f]{32}) (?P<name>[a-z0-9._-]{1,64}) (?P<size>[0-9]{1,14})\n"
)
_RANGE = re.compile(r"range/(?P<offset>[0-9a-f]{16})")

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of the file `name`, which has `size` bytes in all. `ranges` ascend; `places[i]` is where range i begins here."""

    path: Path
    id: str
    name: str
    size: int
    sealed: bool  # of encrypted volumes
    told: str  # SHA-256, hex, of the statement's envelope, or of the packing list
    ranges: tuple[Range, ...]
    places: tuple[int, ...]

    def read(self, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offset in the file and bytes, of all that lies in a range; less where the medium does not give it."""
        for (start, stop), place in zip(self.ranges, self.places, strict=True):
            offset, length = max(first, start), min(end, stop) - max(first, start)
            if length > 0:
                with contextlib.suppress(OSError), self.path.open("rb") as stream:
                    stream.seek(place + offset - start)
                    yield offset, stream.read(length)

    def check(self) -> None:
        """Reads all of it. Raises PartRefused where it is not what its writer wrote."""
        hasher = hashlib.sha256()
        with medium_errors(self.path), self.path.open("rb") as stream:
            for (start, stop), place in zip(self.ranges, self.places, strict=True):
                stream.seek(place)
                left = stop - start
                while left and (data := stream.read(min(left, PIECE))):
                    hasher.update(data)
                    left -= len(data)
            stream.seek(self.places[-1] + tar.member_size(self.ranges[-1][1] - self.ranges[-1][0]))
            written = stream.read(65)
        if written != hasher.hexdigest().encode() + b"\n":
            raise PartRefused(f"{self.path.name}: damaged on its way", hint="send this part again")


def file_name(of: str, kind: str, number: int) -> str:
    stem, _, volume = of.removesuffix(SEALED).removesuffix(".tar").rpartition(".")
    return f"{stem}.{kind}{volume}-{number & 0xFFFFF:05x}.tar"


def overhead(told: bytes) -> int:
    """Bytes of a part with one range that are not the range."""
    return tar.member_size(MAX_MARK) + tar.member_size(len(told)) + 2 * tar.BLOCK + tar.member_size(65) + len(tar.END)


def cut(
    source: Path, ranges: Sequence[Range], out: Path, identity: str, told: bytes, name: str = "",
    meter: Callable[[int], None] | None = None, *, sealed: bool = False,
) -> None:  # fmt: skip
    """Writes `ranges` of `source`, the file `name`, as the part `out`, by way of `*.tmp`. `told`: the envelope; where
    volumes are `sealed` the packing list, and `identity` is its id."""
    size = source.stat().st_size
    line = f"{OF_SEALED if sealed else FORMAT} {identity} {name or source.name} {size}\n".encode()
    pieces = [piece for start, end in ranges for piece in _pieces(start, end)]
    temp = out.with_name(out.name + ".tmp")
    hasher = hashlib.sha256()
    with medium_errors(out), source.open("rb") as stream:
        try:
            with create(temp) as file:
                write_all(file, _member(MARK, line) + _member(packing.MEMBER if sealed else layout.ENVELOPE, told))
                for start, end in pieces:
                    write_all(file, tar.header(f"range/{start:016x}", end - start))
                    stream.seek(start)
                    left = end - start
                    while left:
                        data = stream.read(min(left, PIECE))
                        if not data:
                            raise MediumUnavailable(f"{source}: became shorter while it was read")
                        hasher.update(data)
                        write_all(file, data)
                        left -= len(data)
                        if meter:
                            meter(len(data))
                    write_all(file, tar.padding(end - start))
                write_all(file, _member(HASH, hasher.hexdigest().encode() + b"\n") + tar.END)
                os.fsync(file.fileno())
            temp.replace(out)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise


def _pieces(start: int, end: int) -> Iterator[Range]:
    """A member has at most MAX_SEGMENT bytes."""
    for first in range(start, end, MAX_SEGMENT):
        yield first, min(first + MAX_SEGMENT, end)


def _member(name: str, data: bytes) -> bytes:
    return tar.header(name, len(data)) + data + tar.padding(len(data))


# -- reading


def open_part(path: Path) -> tuple[Part, bytes]:
    """A part, and its envelope or packing list. Its data are not read: `Part.check`. Raises BundleRefused,
    MediumUnavailable."""
    with VolumeReader(path) as volume:
        line = _LINE.fullmatch(_read_member(volume, MARK, MAX_MARK))
        if not line:
            raise PartRefused(f"{path.name}: not a part of a volume")
        sealed = line["version"] == b"2"
        member = (packing.MEMBER, packing.MAX_PACKING) if sealed else (layout.ENVELOPE, MAX_ENVELOPE)
        told = _read_member(volume, *member)
        name, size = line["name"].decode(), int(line["size"])
        if sealed:
            _check_listed(path, PackingList.decode(told), line["id"].decode(), name, size)
        elif not (VOLUME.fullmatch(name) or PARITY.fullmatch(name)) or size > MAX_SIZE:
            raise PartRefused(f"{path.name}: a part of {name[:60]!r}, which is no volume")
        ranges, places = _read_ranges(volume, size)
        volume.expect_end()
    return Part(
        path=path, id=line["id"].decode(), name=name, size=size, sealed=sealed,
        told=hashlib.sha256(told).hexdigest(), ranges=tuple(ranges), places=tuple(places),
    ), told  # fmt: skip


def _check_listed(path: Path, found: PackingList, identity: str, name: str, size: int) -> None:
    """The line of a part of encrypted volumes, by the packing list that the part carries."""
    spare = PARITY.fullmatch(name)
    known = (size, name) in [(size, name) for (size, _), name in zip(found.files, found.names, strict=True)]
    if found.id != identity or not (known or (spare and spare["stem"] == found.stem and size <= MAX_SIZE)):
        raise PartRefused(f"{path.name}: a part of {name[:60]!r}, which is not in its packing list")


def _read_ranges(volume: VolumeReader, size: int) -> tuple[list[Range], list[int]]:
    """The headers, passing over the data, up to the end of the archive."""
    ranges: list[Range] = []
    places: list[int] = []
    while True:
        block = volume.read(tar.BLOCK, "the header of a range")
        text = block[:100].rstrip(b"\0").decode("ascii", "replace")
        match = _RANGE.fullmatch(text)
        length = tar.size_of(block, text) if match or text == HASH else None
        if length is None:
            raise PartRefused(f"{volume.name}: {tar.explain(block, HASH)}")
        if not match:
            if not ranges or length != 65:
                raise PartRefused(f"{volume.name}: it holds no range")
            volume.read(length, HASH)
            volume.expect(tar.padding(length) + tar.END, "the end of the archive")
            return ranges, places
        start = int(match["offset"], 16)
        if length < 1 or start + length > size or (ranges and start < ranges[-1][1]) or len(ranges) == MAX_RANGES:
            raise PartRefused(f"{volume.name}: a range that cannot be: {length} bytes at {start}")
        if volume.size < volume.position + length:
            raise PartRefused(f"{volume.name}: it ends inside a range")
        ranges.append((start, start + length))
        places.append(volume.position)
        volume.skip(length)
        volume.expect(tar.padding(length), "the padding of a range")


def _read_member(volume: VolumeReader, name: str, limit: int) -> bytes:
    block = volume.read(tar.BLOCK, f"the header of {name!r}")
    size = tar.size_of(block, name)
    if size is None or size > limit or volume.size < volume.position + size:
        raise PartRefused(f"{volume.name}: {tar.explain(block, name)}")
    data = volume.read(size, name)
    volume.expect(tar.padding(size), f"the padding of {name!r}")
    return data


def beside(folder: Path, stem: str, identity: str) -> dict[str, list[Part]]:
    """All sound parts of a bundle in a folder, by the file that they are of. Others are passed over."""
    found: dict[str, list[Part]] = {}
    for name in file_names(folder):
        match = NAME.fullmatch(name)
        if match and match["stem"] == stem:
            with contextlib.suppress(BundleRefused, MediumUnavailable):
                part, _ = open_part(folder / name)
                if part.id == identity:
                    found.setdefault(part.name, []).append(part)
    return found
