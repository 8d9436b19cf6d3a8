"""The second pass of an export: write the volumes, hashing what is written and comparing it with the signed statement.

Every file is written as `*.tmp`, synced and renamed. Data volumes first, then the sheet and the verifier, the index
volume last: where it is, all is. A volume that an interrupted run finished is read, and kept if it is right; an
encrypted one is written again, since only its recipients can read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from bundler import conceal, layout, seal, sheet, tar
from bundler.cargo import Load
from bundler.errors import ExportRefused, medium_errors
from bundler.hashing import Pipeline
from bundler.layout import Member
from bundler.measure import fill
from bundler.seal import Hasher, Sealing
from bundler.writeback import Writeback
from manifests.digest import Digest
from manifests.statement import Statement
from manifests.store import sync_folder

Meter = Callable[[int], None]
READ = 1 << 20  # bytes of a file that is copied, at a time


def write(
    load: Load, statement: Statement, envelope: bytes, out: Path, meter: Meter, sealing: Sealing | None = None,
    sums: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """`sums` gets the SHA-256 (hex) of each encrypted volume, as it is given to the system."""
    payloads = layout.payloads(statement)
    order = [*range(1, len(payloads)), 0]
    with Pipeline(load.leaf_size) as pipeline, medium_errors(out):
        for index in order:
            name = conceal.file_name(statement, index, sealing)
            secret = sealing if name.endswith(conceal.SEALED) else None
            if index == 0:
                _write_beside(out, statement, envelope, hidden=secret is not None)
                if sealing and sealing.locked:
                    write_file(out / conceal.locked_name(statement, sealing), sealing.locked[1])
            if not secret and _is_finished(out / name, statement, envelope, index):
                meter(statement.volumes[index].size)
                continue
            hasher = hashlib.sha256() if secret and sums is not None else None
            write_volume(load, statement, index, (layout.head(statement, envelope, index), payloads[index]), out / name,
                         pipeline, meter, secret, hasher)  # fmt: skip
            if hasher and sums is not None:
                sums[name] = hasher.hexdigest()
            sync_medium(out)


def _write_beside(out: Path, statement: Statement, envelope: bytes, *, hidden: bool) -> None:
    stem = conceal.stem(statement) if hidden else layout.stem(statement)
    text = conceal.sheet(statement) if hidden else sheet.text(statement, envelope)
    write_file(out / (stem + layout.SHEET_SUFFIX), text.encode())
    write_file(out / layout.VERIFIER, layout.verifier())


def write_volume(
    load: Load, statement: Statement, index: int, content: tuple[bytes, Sequence[Member]], path: Path,
    pipeline: Pipeline, meter: Meter, sealing: Sealing | None = None, hasher: Hasher | None = None,
) -> None:  # fmt: skip
    """`content`: its head, and the members of its payload. `hasher` gets what is encrypted. Raises ExportRefused where
    the statement says otherwise."""
    temp = path.with_name(path.name + ".tmp")
    try:
        found = _Writer(load, pipeline, meter).volume(temp, *content, sealing, hasher)
        if found != statement.volumes[index].sha256:
            raise ExportRefused(
                f"{path.name}: a blob changed between hashing and writing", hint="sealift verify checks the store"
            )
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def sync_medium(folder: Path) -> None:
    """Best effort: network shares and some FUSE file systems cannot sync a folder."""
    with contextlib.suppress(OSError):
        sync_folder(folder)


def create(path: Path) -> FileIO:
    """A new file, to be written and read. What lay there is removed first and never followed: a medium may hold a link
    of that name to any file of this host."""
    path.unlink(missing_ok=True)
    return FileIO(path, "x+")


def write_all(file: Any, data: bytes | memoryview) -> None:
    """An unbuffered file takes less than it is given where a disk gets full, and fails at the next write only."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def copy_file(source: Path, target: Path, meter: Meter | None = None) -> None:
    """Raises OSError."""
    temp = target.with_name(target.name + ".tmp")
    try:
        with source.open("rb") as stream, create(temp) as file:
            while data := stream.read(READ):
                write_all(file, data)
                if meter:
                    meter(len(data))
            os.fsync(file.fileno())
        temp.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    temp = path.with_name(path.name + ".tmp")
    try:
        with create(temp) as out:
            write_all(out, data)
            os.fsync(out.fileno())
        temp.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


class _Writer:
    """One volume, hashed as it is written."""

    def __init__(self, load: Load, pipeline: Pipeline, meter: Meter) -> None:
        self._load, self._pipeline, self._meter = load, pipeline, meter

    def volume(
        self, path: Path, head: bytes, members: Sequence[Member], sealing: Sealing | None, hasher: Hasher | None
    ) -> Digest:
        """The hash is of the payload in clear."""
        self._hasher = hashlib.sha256()
        with create(path) as file, Writeback() as self._writeback:
            self._handle = file.fileno()
            with seal.encrypting(file, sealing, hasher) if sealing else contextlib.nullcontext(file) as self._file:
                self._write(head, members)
            self._writeback.settle()
            os.fsync(file.fileno())
        return Digest(self._hasher.hexdigest())

    def _write(self, head: bytes, members: Sequence[Member]) -> None:
        write_all(self._file, head)
        for member in members:
            self._put(tar.header(member.name, member.size))
            if member.blob is None:
                self._put(member.data)
            elif member.blob.leaves is None:
                self._put(self._load.small(member.blob.digest))
            else:
                self._segment(member, member.blob.digest)
            self._put(tar.padding(member.size))
        self._put(tar.END)

    def _put(self, data: bytes) -> None:
        self._hasher.update(data)
        write_all(self._file, data)
        self._meter(len(data))

    def _segment(self, member: Member, digest: Digest) -> None:
        largest = self._load.leaf_size
        with self._load.open(digest) as stream:
            stream.seek(member.offset)
            for start in range(0, member.size, largest):
                size = min(largest, member.size - start)
                piece = self._pipeline.fill(size, partial(fill, stream, digest=digest), [self._hasher])
                self._pipeline.push(partial(self._piece, piece))
                self._meter(size)
            self._pipeline.flush()

    def _piece(self, piece: memoryview) -> None:
        write_all(self._file, piece)
        self._writeback.wrote(self._handle, len(piece))


def _is_finished(path: Path, statement: Statement, envelope: bytes, index: int) -> bool:
    """A volume that an interrupted run had finished; read whole, since it may have been damaged since."""
    if not path.exists():
        return False
    head = layout.head(statement, envelope, index)
    with path.open("rb") as stream:
        if (
            os.fstat(stream.fileno()).st_size != len(head) + statement.volumes[index].size
            or stream.read(len(head)) != head
        ):
            return False
        return Digest.of_stream(stream) == statement.volumes[index].sha256
