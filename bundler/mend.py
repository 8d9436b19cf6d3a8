"""What a folder has of a bundle without parity: damage found leaf by leaf, and mended from parts that were sent again.

Every volume is looked at in pieces that the statement can judge alone: headers, padding and layout files by comparison,
whole blobs and leaves by hash. Where the index volume's leaf lists are lost, a volume is one piece, judged by the hash
of its payload. Nothing here fails because of damage, and who signed is not asked: `verify` and `import` do that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bundler import expected, layout, parts, tar
from bundler.errors import BundleRefused, VolumeDamaged
from bundler.heads import find_statement
from bundler.layout import Member
from bundler.parts import Part
from bundler.shards import Damage, Progress, joined_ranges, require_clear, stem_of
from bundler.sources import Source
from bundler.writing import write_all
from manifests.digest import Digest
from manifests.errors import StatementError
from manifests.leaves import LeafList, leaf_hash

Piece = tuple[int, int, Callable[[bytes], bool]]  # offset in the payload, length, whether bytes are right
READ = 1 << 20  # bytes at a time, where a payload can only be judged as a whole


class Volumes:
    """The volumes of one bundle in a folder. Use as a context, then `scan`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder if folder.is_dir() else folder.parent
        require_clear(folder, self.folder)
        self.stem = stem_of(folder, self.folder)
        self.statement, envelope = find_statement(self.folder, self.stem)
        self.expected = expected.of_statement(self.statement, envelope)
        self.names, self.sizes, self.heads = self.expected.names, self.expected.sizes, self.expected.heads
        self._members = layout.payloads(self.statement)
        self._lists: dict[Digest, LeafList] = {}

    def __enter__(self) -> Volumes:
        found = parts.beside(self.folder, self.stem, self.statement.id)
        self.sources = [self._open(index, found.get(name, ())) for index, name in enumerate(self.names)]
        return self

    def _open(self, index: int, found: Sequence[Part]) -> Source:
        ahead = len(self.heads[index])
        return Source(self.folder / self.names[index], self.sizes[index], lambda offset: ahead + offset, found)

    def __exit__(self, *_: object) -> None:
        for source in self.sources:
            source.close()

    def scan(self, progress: Progress) -> tuple[Damage, ...]:
        """What can be had neither from the volumes nor from parts. Afterwards `damaged` knows what is to be written."""
        lost = [self._scan(index, progress) for index in range(len(self.names))]
        return tuple(self._damage(index, ranges) for index, ranges in enumerate(lost) if ranges)

    def damaged(self, missing: Sequence[Damage]) -> tuple[Damage, ...]:
        """`missing`, and what parts or the statement can mend."""
        lost = {damage.name: damage.ranges for damage in missing}
        found = []
        for index, source in enumerate(self.sources):
            head, name = self.heads[index], self.names[index]
            ranges = {*source.overlaid, *lost.get(name, ())}
            if source.read(-len(head), len(head)) != head:
                ranges.add((0, len(head)))
            if source.read(self.sizes[index], 1):
                ranges.add((len(head) + self.sizes[index], os.stat(self.folder / name).st_size))
            if ranges:
                found.append(self._damage(index, sorted(ranges)))
        return tuple(found)

    def write(self, index: int, file: BinaryIO, progress: Progress) -> None:
        """The whole volume, as it should be. Raises VolumeDamaged where its bytes cannot be had."""
        hasher = hashlib.sha256()
        write_all(file, self.heads[index])
        for offset, length, good in self._pieces(index) or ():
            data = self.sources[index].sound(offset, length, good)
            if data is None:
                raise VolumeDamaged(self.names[index], 0, "it changed while it was read", hint="run it again")
            hasher.update(data)
            write_all(file, data)
            progress(length)
        if hasher.hexdigest() != self.statement.volumes[index].sha256.hex:
            raise BundleRefused(f"statement: predicate.volumes[{index}].sha256 is not the hash of its members")

    def _damage(self, index: int, ranges: Sequence[tuple[int, int]]) -> Damage:
        size = len(self.heads[index]) + self.sizes[index]
        missing = self.sources[index].missing
        return Damage(name=self.names[index], size=size, missing=missing, ranges=tuple(joined_ranges(ranges)))

    def _scan(self, index: int, progress: Progress) -> list[tuple[int, int]]:
        source, ahead, size = self.sources[index], len(self.heads[index]), self.sizes[index]
        if source.empty:
            return [(0, ahead + size)]
        pieces = self._pieces(index)
        if pieces is None:
            return [] if self._payload_is_right(index, progress) else [(0, ahead + size)]
        lost = []
        for offset, length, good in pieces:
            if source.sound(offset, length, good) is None:
                lost.append((ahead + offset, ahead + offset + length))
            progress(length)
        return lost

    def _payload_is_right(self, index: int, progress: Progress) -> bool:
        hasher, source, size = hashlib.sha256(), self.sources[index], self.sizes[index]
        for offset in range(0, size, READ):
            data = source.read(offset, min(READ, size - offset))
            hasher.update(data)
            progress(len(data))
        return hasher.hexdigest() == self.statement.volumes[index].sha256.hex

    def _pieces(self, index: int) -> list[Piece] | None:
        """All of a payload in order; None where a leaf list that is needed cannot be had."""
        pieces: list[Piece] = []
        at = 0
        for member in self._members[index]:
            header, rest = tar.header(member.name, member.size), tar.padding(member.size)
            pieces.append((at, len(header), header.__eq__))
            inner = self._data(member, at + len(header))
            if inner is None:
                return None
            pieces += inner
            at += len(header) + member.size
            if rest:
                pieces.append((at, len(rest), rest.__eq__))
            at += len(rest)
        pieces.append((at, len(tar.END), tar.END.__eq__))
        return pieces

    def _data(self, member: Member, at: int) -> list[Piece] | None:
        if member.blob is None:
            return [(at, member.size, member.data.__eq__)]
        if member.blob.leaves is None:
            digest = member.blob.digest.hex
            return [(at, member.size, lambda data: hashlib.sha256(data).hexdigest() == digest)] if member.size else []
        leaves = self._leaf_list(member)
        return None if leaves is None else list(_leaf_pieces(leaves, member, at))

    def _leaf_list(self, member: Member) -> LeafList | None:
        """From the index volume, which has been opened; bound to the statement by its digest."""
        assert member.blob and member.blob.leaves
        blob, leaf_size, digest = member.blob, member.blob.leaves.size, member.blob.leaves.list
        if digest not in self._lists:
            at = 0
            for other in self._members[0]:
                if other.blob and other.blob.digest == digest:
                    raw = self.sources[0].sound(
                        at + tar.BLOCK, other.size, lambda data: hashlib.sha256(data).hexdigest() == digest.hex
                    )
                    with contextlib.suppress(StatementError):
                        if raw is not None:
                            self._lists[digest] = LeafList.decode(raw, size=blob.size, leaf_size=leaf_size)
                at += tar.member_size(other.size)
        return self._lists.get(digest)


def _leaf_pieces(leaves: LeafList, member: Member, at: int) -> Iterator[Piece]:
    position = 0
    for length, sha256 in zip(leaves.lengths, leaves.hashes, strict=True):
        if member.offset <= position < member.offset + member.size:
            yield at + position - member.offset, length, _leaf_check(sha256)
        position += length


def _leaf_check(expected: bytes) -> Callable[[bytes], bool]:
    return lambda data: leaf_hash(data) == expected
