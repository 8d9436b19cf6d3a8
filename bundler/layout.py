"""Layout: which member lies in which volume, in which order. Derived from the statement, never read from a volume.

    every volume  SEALIFT, statement.dsse.json | payload
    payload       v000 only: oci-layout, index.json
                  blobs/sha256/<hex> ascending | seg/<hex>/<offset16> ascending | two zero blocks

`pack` decides for the writer; `payload` derives the same members again for every reader from what the statement pins.
`check` refuses a statement whose volume sizes are not the sum of their members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler import oci, tar
from bundler.errors import BadRequest, BundleRefused
from manifests.digest import Digest
from manifests.statement import MAX_SEGMENT, MAX_VOLUMES, Blob, Segment, Statement

MARK = "SEALIFT"
ENVELOPE = "statement.dsse.json"
FORMAT = "sealift-bundle/1"
SHEET_SUFFIX = ".txt"
VERIFIER = "verify_sealift.py"
# Room left in each volume for signatures added later; six hybrid signers need 30 KiB.
SIGNATURE_ROOM = 32 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """`size` bytes from `offset` of `blob`; or, without a blob, exactly `data`."""

    name: str
    size: int
    blob: Blob | None = None
    offset: int = 0
    data: bytes = field(default=b"", repr=False)


def verifier() -> bytes:
    """The text of the one-file verifier that travels beside the volumes."""
    return Path(__file__).with_name(VERIFIER).read_bytes()


def stem(statement: Statement) -> str:
    return f"{statement.label}-{statement.id[:8]}"


def volume_name(statement: Statement, index: int) -> str:
    return f"{stem(statement)}.v{_number(index, len(statement.volumes))}.tar"


def volume_names(statement: Statement) -> list[str]:
    return [volume_name(statement, index) for index in range(len(statement.volumes))]


def _number(index: int, n_volumes: int) -> str:
    return f"{index:0{max(3, len(str(n_volumes)))}d}"


def mark(statement: Statement, index: int) -> bytes:
    """The SEALIFT line. Volumes are numbered from 0, so `v001/007` is the second of seven."""
    n = len(statement.volumes)
    return f"{FORMAT} {statement.id} v{_number(index, n)}/{_number(n, n)}\n".encode()


def head(statement: Statement, envelope: bytes, index: int) -> bytes:
    """Everything before the payload: fixed by the statement and the envelope that carries it."""
    line = mark(statement, index)
    parts = [tar.header(MARK, len(line)), line, tar.padding(len(line))]
    parts += [tar.header(ENVELOPE, len(envelope)), envelope, tar.padding(len(envelope))]
    return b"".join(parts)


def payloads(statement: Statement) -> list[list[Member]]:
    """The members of every volume's payload."""
    wholes: list[list[Member]] = [[] for _ in statement.volumes]
    parts: list[list[Member]] = [[] for _ in statement.volumes]
    for blob in statement.blobs:  # ascending, and segments ascending within: so the members come out sorted
        for segment in blob.layout:
            if blob.leaves is None:
                name = f"blobs/sha256/{blob.digest.hex}"
                wholes[segment.volume].append(Member(name=name, size=segment.size, blob=blob))
            else:
                name = f"seg/{blob.digest.hex}/{segment.offset:016x}"
                parts[segment.volume].append(Member(name=name, size=segment.size, blob=blob, offset=segment.offset))
    wholes[0] = [
        *(Member(name=name, size=len(data), data=data) for name, data in oci.layout_files(statement)),
        *wholes[0],
    ]
    return [whole + part for whole, part in zip(wholes, parts, strict=True)]


def payload_size(members: Sequence[Member]) -> int:
    return sum(tar.member_size(member.size) for member in members) + len(tar.END)


def check(statement: Statement) -> list[list[Member]]:
    """The payloads, if they have the sizes that the statement gives its volumes."""
    found = payloads(statement)
    for index, (members, volume) in enumerate(zip(found, statement.volumes, strict=True)):
        if payload_size(members) != volume.size:
            raise BundleRefused(
                f"statement: predicate.volumes[{index}].size: its members make {payload_size(members)} bytes, "
                f"not {volume.size}"
            )
        if index and not members:
            raise BundleRefused(f"statement: predicate.volumes[{index}]: an empty volume")
    return found


@dataclass(slots=True)
class Packer:
    """Fills volumes in order. `room` is what members may take in one volume, in bytes; None means no limit."""

    room: int | None
    used: list[int] = field(default_factory=lambda: [0])

    def _fits(self, index: int, size: int) -> bool:
        return self.room is None or self.used[index] + size <= self.room

    def put_head(self, size: int) -> Segment:
        """What must be in the index volume."""
        self._require(0, tar.member_size(size), "the index volume (manifests and leaf lists)")
        return Segment(volume=0, offset=0, size=size)

    def put_whole(self, size: int) -> Segment:
        """A small blob: the index volume while it has room, then the last one."""
        index = 0 if self._fits(0, tar.member_size(size)) else self._last(tar.member_size(size))
        self._require(index, tar.member_size(size), f"a blob of {size:,} bytes")
        return Segment(volume=index, offset=0, size=size)

    def put_leaves(self, lengths: Sequence[int]) -> tuple[Segment, ...]:
        """A large blob, from the last data volume on, in segments that end at leaf borders."""
        segments: list[Segment] = []
        offset = next_leaf = 0
        while next_leaf < len(lengths):
            index = self._last(tar.member_size(lengths[next_leaf]))
            size = 0
            while next_leaf < len(lengths):
                longer = size + lengths[next_leaf]
                if size and (longer > MAX_SEGMENT or not self._fits(index, tar.member_size(longer))):
                    break
                size, next_leaf = longer, next_leaf + 1
            self._require(index, tar.member_size(size), f"one leaf of {size:,} bytes")
            segments.append(Segment(volume=index, offset=offset, size=size))
            offset += size
        return tuple(segments)

    def _last(self, size: int) -> int:
        """The last data volume if `size` bytes fit, else a new one."""
        if len(self.used) == 1 or not self._fits(len(self.used) - 1, size):
            self.used.append(0)
        if len(self.used) > MAX_VOLUMES:
            raise BadRequest(f"more than {MAX_VOLUMES} volumes", hint="choose a larger --volume-size")
        return len(self.used) - 1

    def _require(self, index: int, size: int, what: str) -> None:
        if not self._fits(index, size):
            raise BadRequest(
                f"{what} does not fit into a volume: {self.used[index] + size:,} bytes needed, {self.room:,} left",
                hint=f"choose a --volume-size that is larger by {self.used[index] + size - (self.room or 0):,} bytes",
            )
        self.used[index] += size


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """What is to be packed, before anything is hashed: sizes and leaf lengths are known from manifests and headers.

    `heads` (manifests, evidence) and `fixed` (sizes of the layout files, and of leaf lists, whose digests do not exist
    yet) must be in the index volume.
    """

    heads: Mapping[Digest, int]
    fixed: Sequence[int]
    wholes: Mapping[Digest, int]
    larges: Mapping[Digest, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    layout: dict[Digest, tuple[Segment, ...]]
    n_volumes: int


def pack(cargo: Cargo, *, volume_size: int | None, overhead: int) -> Packing:
    """`overhead`: bytes of every volume that are not payload members (statement, end), with room for signatures."""
    room = None if volume_size is None else volume_size - overhead - len(tar.END)
    if room is not None and room <= 0:
        raise BadRequest(
            f"volumes of {volume_size:,} bytes are too small: {overhead + len(tar.END):,} are taken by the statement",
            hint="choose a larger --volume-size",
        )
    packer = Packer(room)
    layout: dict[Digest, tuple[Segment, ...]] = {}
    for digest, size in sorted(cargo.heads.items()):
        layout[digest] = (packer.put_head(size),)
    for size in cargo.fixed:
        packer.put_head(size)
    for digest, size in sorted(cargo.wholes.items()):
        layout[digest] = (packer.put_whole(size),)
    for digest, lengths in sorted(cargo.larges.items()):
        layout[digest] = packer.put_leaves(lengths)
    return Packing(layout=layout, n_volumes=len(packer.used))
