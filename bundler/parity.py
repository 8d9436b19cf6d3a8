"""Parity volumes: what they hold, writing them, and opening them again. The code itself is in gf256.

    <stem>.p001.tar     SEALIFT-PARITY, statement.dsse.json, parity.json, table, parity/<offset16> ...
    of encrypted volumes packing.json stands in the place of the statement

A shard is the payload of a volume, or the whole file of an encrypted one, filled up with zeros to the longest. It is
cut into rows of `block` bytes; the table has the SHA-256 of every block of every shard, so damage is found by row.
Parity is not signed and need not be: what it restores is compared with the signed statement's hashes, of encrypted
volumes by who can read inside. So a parity volume can make a repair fail and can never make anything accepted, and
readers of bundles pass over it.
Refused, or counted as lost: what is not byte for byte the form of docs/formats/parity.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bundler import gf256, layout, packing, tar
from bundler.errors import BadRequest, VolumeDamaged, medium_errors
from bundler.expected import Expected
from bundler.gf256 import MAX_SHARDS, Bytes
from bundler.medium import MAX_ENVELOPE, MAX_MARK, PARITY, VolumeReader
from bundler.writing import create, sync_medium, write_all
from manifests import canonical
from manifests.errors import ManifestsError
from manifests.fields import Fields
from manifests.statement import ID, MAX_SEGMENT

MARK, HEADER, TABLE = "SEALIFT-PARITY", "parity.json", "table"
FORMAT, OF_SEALED = "sealift-parity/1", "sealift-parity/2"
MIN_BLOCK, MAX_BLOCK = 4096, 4 << 20  # bytes
USUAL_BLOCK = 256 << 10  # bytes; then the table is 0.012 % of the bundle
USUAL_ROWS = 64  # at least, where blocks can be small enough, so that little is lost with one bad sector
MAX_HEADER = 1024  # bytes
MAX_TABLE = 256 << 20  # bytes; at the usual block a bundle of 2 TB
MAX_LENGTH = 1 << 46  # bytes of one shard
HASH = 32  # bytes
NAME = PARITY
_MARK = re.compile(
    rb"sealift-parity/(?P<version>[12]) (?P<id>[0-9a-f]{32}) p(?P<number>[0-9]{3})/(?P<count>[0-9]{3})\n"
)
_WANTED = re.compile(r"(?P<number>[0-9]{1,3})(?P<percent>%?)")
_HEX = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The same in every parity volume of a set: `data` + `parity` shards of `length` bytes in rows of `block`."""

    block: int
    data: int
    parity: int
    length: int
    envelope: str  # SHA-256, hex; of encrypted volumes that of the packing list
    table: str

    @property
    def shards(self) -> int:
        return self.data + self.parity

    @property
    def rows(self) -> int:
        return -(-self.length // self.block)

    @property
    def table_size(self) -> int:
        return HASH * self.shards * self.rows

    def encode(self) -> bytes:
        return canonical.encode({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, raw: bytes) -> Header:
        fields = Fields.of(canonical.decode(raw, limit=MAX_HEADER))
        header = cls(
            block=fields.integer("block", minimum=MIN_BLOCK, maximum=MAX_BLOCK),
            data=fields.integer("data", minimum=1, maximum=MAX_SHARDS),
            parity=fields.integer("parity", minimum=1, maximum=MAX_SHARDS),
            length=fields.integer("length", minimum=1, maximum=MAX_LENGTH),
            envelope=fields.text("envelope", pattern=_HEX),
            table=fields.text("table", pattern=_HEX),
        )
        fields.done()
        power = header.block & (header.block - 1) == 0
        if not power or header.shards > MAX_SHARDS or header.table_size > MAX_TABLE:
            raise ManifestsError("parity.json: numbers that cannot be together")
        return header


def wanted(text: str, n_data: int) -> int:
    """`10%` of the volumes, at least one, or `3` parity volumes. Raises BadRequest."""
    match = _WANTED.fullmatch(text.strip())
    if not match or int(match["number"]) == 0:
        raise BadRequest(f"--parity {text[:40]!r}: expected a share such as 10%, or a number of volumes such as 2")
    count = -(-int(match["number"]) * n_data // 100) if match["percent"] else int(match["number"])
    if n_data + count > MAX_SHARDS:
        raise BadRequest(
            f"{n_data} volumes and {count} parity volumes; at most {MAX_SHARDS} together",
            hint="choose a larger --volume-size, or less --parity",
        )
    return count


def plan(sizes: Sequence[int], n_parity: int) -> Header:
    """The numbers of a set for payloads of these sizes, its hashes still zero."""
    length, block = max(sizes), MIN_BLOCK
    while block < USUAL_BLOCK and 2 * block * USUAL_ROWS <= length:
        block *= 2
    while block <= MAX_BLOCK:
        header = Header(block=block, data=len(sizes), parity=n_parity, length=length, envelope="0" * 64, table="0" * 64)
        if header.table_size <= MAX_TABLE:
            return header
        block *= 2
    raise BadRequest(f"{len(sizes)} volumes of up to {length:,} bytes are too much for parity")


def volume_name(stem: str, index: int) -> str:
    """Parity volumes are numbered from 1; `index` from 0."""
    return f"{stem}.p{index + 1:03d}.tar"


def extra_size(header: Header, told: int = 0) -> int:
    """What a parity volume takes beyond the longest data volume, at most, in bytes. `told`: of its packing list; a
    statement is in the data volumes too."""
    members = -(-header.length // MAX_SEGMENT)
    size = tar.member_size(MAX_HEADER) + tar.member_size(header.table_size) + (members + 3) * tar.BLOCK
    return size + (tar.member_size(MAX_MARK) + tar.member_size(told) if told else 0)


def start(expected: Expected, header: Header, index: int) -> bytes:
    """Everything before the table's data."""
    form = OF_SEALED if expected.packing else FORMAT
    line = f"{form} {expected.id} p{index + 1:03d}/{header.parity:03d}\n".encode()
    parts = [member for name, data in ((MARK, line), (expected.member, expected.told), (HEADER, header.encode()))
             for member in (tar.header(name, len(data)), data, tar.padding(len(data)))]  # fmt: skip
    return b"".join([*parts, tar.header(TABLE, header.table_size)])


def place(first: int, offset: int) -> int:
    """Where byte `offset` of the parity lies in a file whose first `parity/` header is at `first`. A row never crosses
    two members, and only the last one has padding: 2^32 is a multiple of both."""
    return first + tar.BLOCK * (offset // MAX_SEGMENT + 1) + offset


def row_sizes(header: Header, sizes: Sequence[int], row: int) -> list[int]:
    """Bytes that each shard has in the row: less than a block where it ends, 0 behind its end."""
    lengths = [*sizes, *[header.length] * header.parity]
    return [max(0, min(header.block, length - row * header.block)) for length in lengths]


def padded(data: bytes, block: int) -> Bytes:
    """As an array of `block` bytes, filled up with zeros; no copy where it is full."""
    if len(data) == block:
        return np.frombuffer(data, np.uint8)
    array = np.zeros(block, np.uint8)
    array[: len(data)] = np.frombuffer(data, np.uint8)
    return array


def encode_row(n_parity: int, blocks: Sequence[Bytes]) -> list[Bytes]:
    """blocks (k,) of one length -> parity blocks (n_parity,)."""
    rows = [[gf256.coefficient(j, i) for i in range(len(blocks))] for j in range(n_parity)]
    return gf256.combine(rows, blocks)


# -- writing


def write(folder: Path, expected: Expected, n_parity: int, *, progress: Progress | None = None) -> list[Path]:
    """Reads all volumes in `folder`, which must be right, and writes the parity volumes beside them."""
    draft = plan(expected.sizes, n_parity)
    paths = [folder / volume_name(expected.stem, index) for index in range(n_parity)]
    temps = [path.with_name(path.name + ".tmp") for path in paths]
    with medium_errors(folder), contextlib.ExitStack() as stack:
        for temp in temps:
            stack.callback(temp.unlink, missing_ok=True)
        files = [stack.enter_context(create(temp)) for temp in temps]
        first = len(start(expected, draft, 0)) + draft.table_size + len(tar.padding(draft.table_size))
        table = _write_rows(folder, expected, draft, files, first, progress or (lambda count: None))
        told = hashlib.sha256(expected.told).hexdigest()
        header = replace(draft, envelope=told, table=hashlib.sha256(table).hexdigest())
        for index, file in enumerate(files):
            _finish(file, start(expected, header, index) + table + tar.padding(len(table)), header, first)
        for temp, path in zip(temps, paths, strict=True):
            temp.replace(path)
    sync_medium(folder)
    return paths


def _write_rows(
    folder: Path, expected: Expected, header: Header, files: Sequence[BinaryIO], first: int, progress: Progress
) -> bytes:
    """Writes the parity blocks; returns the table. What is read back is compared with what is expected."""
    table, whole = bytearray(), [hashlib.sha256() for _ in expected.names]
    with contextlib.ExitStack() as stack:
        volumes = []
        for name, head in zip(expected.names, expected.heads, strict=True):
            volumes.append(stack.enter_context(VolumeReader(folder / name, sealed=False)))
            volumes[-1].expect(head, "the SEALIFT line or the statement")
        for row in range(header.rows):
            lengths = row_sizes(header, expected.sizes, row)
            found = [volume.read(length, "the payload") for volume, length in zip(volumes, lengths, strict=False)]
            for hasher, data in zip(whole, found, strict=True):
                hasher.update(data)
            made = encode_row(header.parity, [padded(data, header.block) for data in found])
            for file, array, length in zip(files, made, lengths[header.data :], strict=True):
                found.append(array[:length].tobytes())
                _write_at(file, place(first, row * header.block), found[-1])
            table += b"".join(hashlib.sha256(data).digest() if data else bytes(HASH) for data in found)
            progress(sum(lengths[: header.data]))
    for name, hasher, sha256 in zip(expected.names, whole, expected.hashes, strict=True):
        if hasher.hexdigest() != sha256:
            raise VolumeDamaged(name, 0, "what is read back is not what was written", hint="try another medium")
    return bytes(table)


def _finish(file: BinaryIO, head: bytes, header: Header, first: int) -> None:
    assert len(head) == first
    _write_at(file, 0, head)
    for offset in range(0, header.length, MAX_SEGMENT):
        size = min(MAX_SEGMENT, header.length - offset)
        _write_at(file, place(first, offset) - tar.BLOCK, tar.header(f"parity/{offset:016x}", size))
    _write_at(file, place(first, header.length - 1) + 1, tar.padding(header.length) + tar.END)
    os.fsync(file.fileno())


def _write_at(file: BinaryIO, position: int, data: bytes) -> None:
    file.seek(position)
    write_all(file, data)


# -- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityVolume:
    """One whose head and table are sound in themselves. `first` is where its first `parity/` header must be. `told`: an
    envelope, or, `sealed`, a packing list."""

    path: Path
    index: int
    id: str
    header: Header
    first: int
    sealed: bool
    told: bytes = field(repr=False)
    table: bytes = field(repr=False)


def open_parity(path: Path) -> ParityVolume:
    """Raises BundleRefused or MediumUnavailable where the head is not sound; the parity itself is not read."""
    match = NAME.fullmatch(path.name)
    with VolumeReader(path) as volume:
        line = _MARK.fullmatch(_member(volume, MARK, MAX_MARK))
        sealed = line is not None and line["version"] == b"2"
        told = _member(volume, *((packing.MEMBER, packing.MAX_PACKING) if sealed else (layout.ENVELOPE, MAX_ENVELOPE)))
        try:
            header = Header.decode(_member(volume, HEADER, MAX_HEADER))
        except ManifestsError as error:
            raise VolumeDamaged(path.name, volume.position, f"{HEADER}: {error}") from None
        if not line or int(line["count"]) != header.parity or not 1 <= int(line["number"]) <= header.parity:
            raise VolumeDamaged(path.name, tar.BLOCK, "not the line of a parity volume")
        if match and line["number"].decode() != match["number"]:
            raise VolumeDamaged(path.name, tar.BLOCK, f"it was named p{line['number'].decode()}")
        if volume.size < volume.position + header.table_size:
            raise VolumeDamaged(path.name, volume.size, "truncated")
        table = _member(volume, TABLE, MAX_TABLE)
        if hashlib.sha256(table).hexdigest() != header.table or len(table) != header.table_size:
            raise VolumeDamaged(path.name, volume.position, "the table is damaged")
        if hashlib.sha256(told).hexdigest() != header.envelope:
            raise VolumeDamaged(path.name, tar.BLOCK, "the statement or the packing list is damaged")
        identity = line["id"].decode()
        assert ID.fullmatch(identity)
        return ParityVolume(
            path=path, index=int(line["number"]) - 1, id=identity, header=header, first=volume.position,
            sealed=sealed, told=told, table=table,
        )  # fmt: skip


def _member(volume: VolumeReader, name: str, limit: int) -> bytes:
    begin = volume.position
    block = volume.read(tar.BLOCK, f"the header of {name!r}")
    size = tar.size_of(block, name)
    if size is None or size > limit:
        raise VolumeDamaged(volume.name, begin, tar.explain(block, name))
    if volume.size < volume.position + size:
        raise VolumeDamaged(volume.name, volume.size, f"truncated inside {name!r}")
    data = volume.read(size, name)
    volume.expect(tar.padding(size), f"the padding of {name!r}")
    return data
