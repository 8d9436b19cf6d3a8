"""Intake: every byte of every volume, read once, in order, against the statement. Steps 6 and 7 of an import.

* A volume's bytes are compared (marks, headers, layout files, padding, end) or hashed (blobs); no third kind exists.
* A leaf is written to staging only after its hash was right. Without staging this is `verify`.
* A blob is whole only after its size, SHA-256 and SHA-512 were right.
* What staging holds from an interrupted run is hashed again, leaf by leaf, and only the rest is read from the medium.
* After the index volume the manifests must name exactly the blobs that travel, before any large blob is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bundler import contents, layout, tar
from bundler.contents import Contents
from bundler.errors import BundleRefused, VolumeDamaged
from bundler.hashing import Pipeline
from bundler.layout import Member
from bundler.medium import HEAD, Medium, VolumeReader
from bundler.sha256 import Hash, sha256
from bundler.staging import Staging
from manifests.digest import Digest
from manifests.errors import StatementError
from manifests.leaves import LEAF, LEAF_SIZE, LeafList, leaf_hash
from manifests.statement import LEAVES_TYPE, Blob, Statement

Progress = Callable[[int], None]


@dataclass(slots=True)
class _Open:
    """A large blob on its way: `position` bytes and `next_leaf` leaves have been read and hashed."""

    blob: Blob
    leaves: LeafList
    sha256: Any = field(default_factory=sha256)
    sha512: Any = field(default_factory=hashlib.sha512)
    position: int = 0
    next_leaf: int = 0

    def advance(self, length: int) -> int:
        """Counts one leaf; returns its number."""
        self.position += length
        self.next_leaf += 1
        return self.next_leaf - 1


class Intake:
    """One pass over the volumes of a bundle whose statement was verified and whose layout was checked."""

    def __init__(
        self,
        medium: Medium,
        statement: Statement,
        payloads: list[list[Member]],
        *,
        staging: Staging | None = None,
        held: frozenset[Digest] = frozenset(),
        sums: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """`held`: blobs the live store has already, re-hashed by the caller; their bytes are passed over. `sums`: also
        compare the payload's own hash of each volume; not where anything may be passed over."""
        assert not (sums and (staging or held))
        self._medium, self._statement, self._payloads = medium, statement, payloads
        self._staging, self._held, self._sums = staging, held, sums
        self._progress = progress or (lambda count: None)
        self._needed = {blob.leaves.list for blob in statement.blobs if blob.leaves}
        self._needed |= {digest for model in statement.models for digest in (model.manifest, model.oci)}
        self._kept: dict[Digest, bytes] = {}  # leaf lists and manifests
        self._open: dict[Digest, _Open] = {}
        self._volume_hash: Any = None

    def run(self) -> Contents:
        with Pipeline(LEAF_SIZE) as self._pipeline:
            self._volume(0)
            found = contents.check(self._statement, self._kept)
            for index in range(1, len(self._payloads)):
                self._volume(index)
        return found

    def _volume(self, index: int) -> None:
        name = layout.volume_name(self._statement, index)
        # Every byte is covered by the comparisons and the leaf hashes; the payload's own hash says nothing more of it.
        self._volume_hash = sha256() if self._sums else None
        with self._medium.open(name) as volume:
            volume.expect(layout.head(self._statement, self._medium.envelope, index), HEAD)
            self._progress(volume.position)
            for member in self._payloads[index]:
                self._member(volume, member)
            self._known(volume, tar.END, "the end of the archive")
            volume.expect_end()
        if self._volume_hash and self._volume_hash.hexdigest() != self._statement.volumes[index].sha256.hex:
            raise BundleRefused(f"statement: predicate.volumes[{index}].sha256 is not the hash of {name}")

    def _known(self, volume: VolumeReader, data: bytes, what: str) -> None:
        volume.expect(data, what)
        if self._volume_hash:
            self._volume_hash.update(data)
        self._progress(len(data))

    def _member(self, volume: VolumeReader, member: Member) -> None:
        volume.expect_header(member.name, member.size)
        if self._volume_hash:
            self._volume_hash.update(tar.header(member.name, member.size))
        self._progress(tar.BLOCK)
        if member.blob is None:
            self._known(volume, member.data, member.name)
        elif member.blob.leaves is None:
            self._whole(volume, member, member.blob)
        else:
            self._segment(volume, member, member.blob)
        self._known(volume, tar.padding(member.size), f"the padding of {member.name!r}")

    def _whole(self, volume: VolumeReader, member: Member, blob: Blob) -> None:
        start = volume.position
        data = volume.read(member.size, member.name)
        if hashlib.sha256(data).hexdigest() != blob.digest.hex:
            raise VolumeDamaged(volume.name, start, f"blob {blob.digest} is damaged")
        if hashlib.sha512(data).hexdigest() != blob.sha512:
            raise BundleRefused(f"statement: the SHA-512 of blob {blob.digest} is wrong")
        if self._volume_hash:
            self._volume_hash.update(data)
        if blob.digest in self._needed:
            self._kept[blob.digest] = data
        if self._staging and blob.media_type != LEAVES_TYPE:
            self._staging.write_whole(blob.digest, data)
        self._progress(member.size)

    def _segment(self, volume: VolumeReader, member: Member, blob: Blob) -> None:
        if blob.digest in self._held:
            volume.skip(member.size)
            self._progress(member.size)
            return
        state = self._open.get(blob.digest)
        if state is None:
            state = self._open[blob.digest] = self._begin(blob)
        end = member.offset + member.size
        if state.position > member.offset:  # staged by an earlier run and just hashed again
            staged = min(state.position, end) - member.offset
            volume.skip(staged)
            self._progress(staged)
        while state.position < end:
            self._leaf(volume, state, end)
        self._pipeline.flush()
        if state.position == blob.size and end == blob.size:
            self._finish(state)

    def _leaf(self, volume: VolumeReader, state: _Open, end: int) -> None:
        length = state.leaves.lengths[state.next_leaf]
        if state.position + length > end:
            raise BundleRefused(f"statement: a segment of blob {state.blob.digest} ends inside a leaf")
        place, position, leaf = volume.position, state.position, sha256(LEAF)
        hashes: list[Hash] = [state.sha512, leaf, state.sha256]
        if self._volume_hash:
            hashes.append(self._volume_hash)
        what = f"blob {state.blob.digest}"
        piece = self._pipeline.fill(length, lambda part: volume.read_into(part, what), hashes)
        number = state.advance(length)

        def then() -> None:
            if leaf.digest() != state.leaves.hashes[number]:
                raise VolumeDamaged(volume.name, place, f"leaf {number} of blob {state.blob.digest} is damaged")
            if self._staging:
                self._staging.write(state.blob.digest, piece, position)
            self._progress(length)

        self._pipeline.push(then)

    def _begin(self, blob: Blob) -> _Open:
        assert blob.leaves is not None
        raw = self._kept.pop(blob.leaves.list, None)
        if raw is None:
            raise BundleRefused(f"statement: two blobs share the leaf list {blob.leaves.list}")
        try:
            leaves = LeafList.decode(raw, size=blob.size, leaf_size=blob.leaves.size)
        except StatementError as error:
            raise BundleRefused(f"blob {blob.digest}: {error}") from None
        if leaves.root.hex() != blob.leaves.root.hex:
            raise BundleRefused(f"blob {blob.digest}: its leaf list does not have the root that the statement says")
        state = _Open(blob, leaves)
        if self._staging:
            self._resume(state, self._staging)
        return state

    def _resume(self, state: _Open, staging: Staging) -> None:
        """Takes over the leaves that an earlier run staged, as long as their hashes are right."""
        with staging.reader(state.blob.digest) as stream:
            while state.position < state.blob.size:
                length = state.leaves.lengths[state.next_leaf]
                piece = self._pipeline.buffer(length)
                if stream.readinto(piece) != length or leaf_hash(piece) != state.leaves.hashes[state.next_leaf]:
                    break
                self._pipeline.start(piece, [state.sha512, state.sha256])
                self._pipeline.push()
                state.advance(length)
            self._pipeline.flush()

    def _finish(self, state: _Open) -> None:
        """Step 7: the whole blob."""
        blob = state.blob
        del self._open[blob.digest]
        if state.sha256.hexdigest() != blob.digest.hex:
            raise BundleRefused(f"statement: the leaves of blob {blob.digest} are right but its SHA-256 is not")
        if state.sha512.hexdigest() != blob.sha512:
            raise BundleRefused(f"statement: the SHA-512 of blob {blob.digest} is wrong")
        if self._staging:
            self._staging.finish(blob.digest, blob.size)
