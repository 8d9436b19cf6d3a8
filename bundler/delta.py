"""A delta, on the sending side: which blobs of an export need not travel, because the other side has them.

    held     a blob that the other side has as it is: the statement names it, an import demands and hashes it
    built    a large blob most of whose leaves are in one that the other side has: only the rest travels, as a patch

Nothing here is trusted by the other side: what it lacks, or has damaged, makes it refuse the bundle.
Invariants: a base is held, never built. Manifests, evidence made here and leaf lists always travel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from bundler.cargo import Load
from bundler.errors import ExportRefused
from bundler.hashing import Pipeline
from bundler.inventory import Known, measured
from bundler.patch import MAX_HEAD, literals, match, with_head
from manifests.digest import Digest
from manifests.errors import DigestMismatch, ManifestsError
from manifests.leaves import LEAF_SIZE, LeafList, content_cuts, leaf_lengths
from manifests.statement import MAX_PIECES, PATCH_TYPE, Built, Piece, Since
from manifests.store import Store

MAX_BASES = 8  # candidates that are looked at for one blob, nearest in size first
WORTH = 0.9  # of a blob: a patch that is larger is not made


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSide:
    """What the other side is supposed to have, and who says so."""

    since: Since
    blobs: dict[Digest, Known]


def leave_out(load: Load, other: OtherSide) -> None:
    """Takes from `load` what need not travel, and adds patches and their bases."""
    for digest in sorted({*load.wholes, *load.larges}):
        known = other.blobs.get(digest)
        if known is not None and known.size == load.sizes[digest]:
            load.larges.pop(digest, None)
            load.absent[digest] = known.sha512
    with Pipeline(LEAF_SIZE) as pipeline:
        for digest in sorted(load.larges):
            _Patching(load, other, pipeline).patch(digest)


class _Patching:
    def __init__(self, load: Load, other: OtherSide, pipeline: Pipeline) -> None:
        self._load, self._store, self._other, self._pipeline = load, load.store, other, pipeline

    def patch(self, digest: Digest) -> None:
        """Says the blob as built, if that is worth it."""
        size = self._load.sizes[digest]
        candidates = sorted(self._candidates(size), key=lambda base: abs(self._other.blobs[base].size - size))
        if size <= LEAF_SIZE or not candidates:
            return
        try:
            new = measured(self._store, digest, self._pipeline)
        except DigestMismatch as error:
            raise ExportRefused(f"{error}", hint="pull the model again, or import its bundle again") from None
        best: tuple[int, Digest, list[Piece]] | None = None
        for base in candidates[:MAX_BASES]:
            leaves = self._leaves(base)
            if new.leaves is None or leaves is None:
                continue
            pieces = match(new.leaves, leaves)
            cost = sum(length for _, length in literals(pieces))
            if best is None or cost < best[0]:
                best = cost, base, pieces
        if best is not None:
            self._say(digest, new, best[1], self._refined(digest, best[1], best[2]))

    def _candidates(self, size: int) -> Iterator[Digest]:
        for digest, known in self._other.blobs.items():
            if known.size > LEAF_SIZE and size // 2 <= known.size <= size * 2:
                yield digest

    def _leaves(self, base: Digest) -> LeafList | None:
        known = self._other.blobs[base]
        if known.leaves is not None or not self._store.has_blob(base):
            return known.leaves
        try:
            return measured(self._store, base, self._pipeline).leaves
        except ManifestsError:
            return None  # damaged here: it serves for nothing

    def _refined(self, digest: Digest, base: Digest, pieces: list[Piece]) -> list[Piece]:
        """With the head compared byte by byte, where both blobs are GGUF files and lie here."""
        if not self._store.has_blob(base):
            return pieces
        new, old = _head(self._store, digest), _head(self._store, base)
        return with_head(pieces, new, old) if new and old else pieces

    def _say(self, digest: Digest, new: Known, base: Digest, pieces: list[Piece]) -> None:
        load, ranges = self._load, literals(pieces)
        size = sum(length for _, length in ranges)
        if not ranges or size > WORTH * new.size or len(pieces) > MAX_PIECES:
            return
        hasher = hashlib.sha256()
        with self._store.open_blob(digest) as stream:
            for offset, length in ranges:
                stream.seek(offset)
                while length:
                    data = stream.read(min(length, LEAF_SIZE))
                    hasher.update(data)
                    length -= len(data)
                    if not data:
                        raise ExportRefused(f"blob {digest} became shorter while it was read")
        patch = Digest(hasher.hexdigest())
        if patch in load.sizes:  # the same bytes travel already, under another type
            return
        load.built[digest] = Built(base=base, patch=patch, pieces=tuple(pieces))
        load.larges.pop(digest)
        load.absent[digest], load.absent[base] = new.sha512, self._other.blobs[base].sha512
        load.sizes[base], load.sizes[patch] = self._other.blobs[base].size, size
        load.media_types.setdefault(base, load.media_types[digest])
        load.media_types[patch] = PATCH_TYPE
        if size > load.leaf_size:
            load.larges[patch] = leaf_lengths(size, (), load.leaf_size)


def _head(store: Store, digest: Digest) -> bytes:
    """What comes before the tensors of a GGUF file; empty for another file, and for a head that is too long."""
    try:
        cuts = content_cuts(store.blob_path(digest))
    except ManifestsError:
        return b""
    if not cuts or cuts[0] > MAX_HEAD:
        return b""
    with store.open_blob(digest) as stream:
        return stream.read(cuts[0])
