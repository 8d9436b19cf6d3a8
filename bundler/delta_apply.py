"""A delta, on the receiving side: what it supposes must be here, hashed again; what it builds must come out right.

    demand   every blob that does not travel, unless it is built: present, size and SHA-256 right (SHA-512 too, where
             the profile asks for it). Otherwise the bundle is refused, with all digests that are wanting
    build    base and patch into staging, in the order of the statement; size, SHA-256 and SHA-512 must be right

Law: nothing is read from a base beyond the size the statement gives it (`Statement.decode` saw to that), and nothing
that was built is believed before its whole digests were right. A base need not be here once its blob is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Protocol

from bundler import tar
from bundler.errors import BaseWanting, BundleRefused
from bundler.layout import Member
from bundler.medium import Medium, VolumeReader
from bundler.staging import Staging
from manifests.digest import Digest
from manifests.errors import DigestMismatch
from manifests.statement import Blob, Piece, Statement
from manifests.store import Store

Progress = Callable[[int], None]
PIECE = 1 << 20  # bytes at a time


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def present(store: Store, statement: Statement) -> None:
    """The cheap half of `demand`, for a dry run: nothing is hashed."""
    here = {blob.digest for blob in statement.built if store.has_blob(blob.digest)}
    _refuse(statement, [blob for blob in _wanted(statement, here) if not store.has_blob(blob.digest)], [])


def demand(
    store: Store, statement: Statement, progress: Progress | None = None, *, sha512: bool = False
) -> frozenset[Digest]:
    """The blobs that do not travel and are here with the right bytes. Raises BaseWanting."""
    here = {blob.digest for blob in statement.built if _state(store, blob, progress, sha512) == "right"}
    missing: list[Blob] = []
    damaged: list[Blob] = []
    for blob in _wanted(statement, here):
        state = _state(store, blob, progress, sha512)
        if state == "right":
            here.add(blob.digest)
        else:
            (missing if state == "missing" else damaged).append(blob)
    _refuse(statement, missing, damaged)
    return frozenset(here)


def _wanted(statement: Statement, here: set[Digest]) -> list[Blob]:
    """All that is held, without the bases of blobs that are here already."""
    done = {blob.built.base for blob in statement.built if blob.built and blob.digest in here}
    needed = {blob.built.base for blob in statement.built if blob.built and blob.digest not in here}
    return [blob for blob in statement.held if blob.digest in needed or blob.digest not in done]


def _state(store: Store, blob: Blob, progress: Progress | None, sha512: bool) -> str:
    if not store.has_blob(blob.digest):
        return "missing"
    try:
        store.verify_blob(blob.digest, blob.size, progress)
    except DigestMismatch:
        return "damaged"
    with store.open_blob(blob.digest) as stream:
        return "right" if not sha512 or _sha512(stream) == blob.sha512 else "damaged"


def _sha512(stream: BinaryIO) -> str:
    found = hashlib.sha512()
    while data := stream.read(PIECE):
        found.update(data)
    return found.hexdigest()


def _refuse(statement: Statement, missing: list[Blob], damaged: list[Blob]) -> None:
    if not missing and not damaged:
        return
    said = [f"{blob.digest} is missing" for blob in missing] + [f"{blob.digest} is damaged" for blob in damaged]
    more = f" and {len(said) - 8} more" if len(said) > 8 else ""
    since = statement.since
    source = "take a new inventory"
    if since and since.kind == "bundle":
        source = f"import bundle {since.id} first, if no newer one of its channel was imported here"
    raise BaseWanting(
        f"this bundle sends only what changed since {since}, and the store does not have the rest: "
        f"{'; '.join(said[:8])}{more}",
        tuple(blob.digest for blob in [*missing, *damaged]),
        hint=f"{source}, or ask for a full export (bundle export without --since)",
    )


def build(
    store: Store,
    staging: Staging,
    statement: Statement,
    held: frozenset[Digest],
    progress: Progress | None = None,
) -> None:
    """All built blobs that the store has not, into staging. `held`: what the store has, hashed. Raises BundleRefused
    where the statement lied: base and patch were right, and the result is not."""
    for blob in statement.built:
        if blob.digest in held or blob.built is None:
            continue
        patch = store.blob_path(blob.built.patch) if blob.built.patch in held else staging.path(blob.built.patch)
        at = 0
        with patch.open("rb") as literal:
            for data in _rebuilt(store, literal, blob):
                staging.write(blob.digest, memoryview(data), at)
                at += len(data)
                if progress:
                    progress(len(data))
        staging.finish(blob.digest, blob.size)


def try_out(
    store: Store, medium: Medium, heads: Sequence[int], payloads: Sequence[Sequence[Member]], names: Sequence[str],
    statement: Statement, held: frozenset[Digest],
) -> None:  # fmt: skip
    """Builds all that `build` would, and keeps nothing. `heads`: bytes before the payload of each volume. The patches
    are read from the volumes, which were checked."""
    for blob in statement.built:
        if blob.digest in held or blob.built is None:
            continue
        places = []
        for head, members, name in zip(heads, payloads, names, strict=True):
            at = head
            for member in members:
                if member.blob and member.blob.digest == blob.built.patch:
                    places.append((name, at + tar.BLOCK, member.size))
                at += tar.member_size(member.size)
        with _Carried(medium, places) as carried:
            for _ in _rebuilt(store, carried, blob):
                pass


class _Carried:
    """A blob where it lies in the volumes, read in order. `places`: for each segment its volume, offset and size."""

    def __init__(self, medium: Medium, places: Sequence[tuple[str, int, int]]) -> None:
        self._medium, self._places = medium, list(places)
        self._volume: VolumeReader | None = None
        self._left = 0

    def __enter__(self) -> _Carried:
        return self

    def __exit__(self, *_: object) -> None:
        if self._volume is not None:
            self._volume.__exit__()

    def read(self, size: int, /) -> bytes:
        if not self._left:
            if not self._places:
                return b""
            self.__exit__()
            name, offset, self._left = self._places.pop(0)
            self._volume = self._medium.open(name)
            self._volume.skip(offset)
        assert self._volume is not None
        data = self._volume.read(min(size, self._left), "a patch")
        self._left -= len(data)
        return data


def _rebuilt(store: Store, literal: Readable, blob: Blob) -> Iterator[bytes]:
    """The bytes of a built blob, in order. After the last, raises BundleRefused if they are not the right ones."""
    assert blob.built
    sha256, sha512 = hashlib.sha256(), hashlib.sha512()
    with store.open_blob(blob.built.base) as base:
        for piece in blob.built.pieces:
            if piece.base is not None:
                base.seek(piece.base)
            for data in _take(base if piece.base is not None else literal, piece, blob):
                sha256.update(data)
                sha512.update(data)
                yield data
    if sha256.hexdigest() != blob.digest.hex or sha512.hexdigest() != blob.sha512:
        raise BundleRefused(f"statement: what blob {blob.digest} is built from does not make it")


def _take(stream: Readable, piece: Piece, blob: Blob) -> Iterator[bytes]:
    left = piece.size
    while left:
        data = stream.read(min(left, PIECE))
        if not data:
            raise BundleRefused(f"blob {blob.digest}: what it is built from became shorter", hint="run it again")
        left -= len(data)
        yield data
