"""Store: models on disk in Ollama's own layout, so that a store can be shared with, copied from or handed to Ollama.

    blobs/sha256-<hex>                         a whole, verified blob
    manifests/<host>/<namespace>/<model>/<tag> a manifest's bytes
    .sealift/tmp/                              files being written; what a killed writer left goes with the next write
    .sealift/records/<manifest hex>/*.json     where a model came from: one canonical JSON file for each event
    .sealift/packs/<blob hex>.*                caches made of a blob; they go with it and are never believed
    .sealift/lock                              taken while manifests change

Invariants: a blob appears by rename only, after its bytes were hashed and synced; blobs first, manifest last; a
manifest is written only when all its blobs are there; the identity of a model is the digest of its manifest's bytes.
A blob is never trusted by size or presence: who needs certainty calls `verify_blob`.
Refuses links out of the store, and manifests whose path is not a model name (they are left alone and not listed).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from manifests import canonical
from manifests.digest import Digest, chunks
from manifests.errors import DigestMismatch, ManifestsError, NoSpace, NotFound, StoreError
from manifests.home import models_dir
from manifests.manifest import MAX_MANIFEST, Descriptor, Manifest
from manifests.name import ModelName

MAX_RECORD = 16 << 20  # bytes of one record file
PARSED, PARSED_SIZE = 4096, 16 << 10  # manifests kept parsed, and bytes of the largest of them
RESERVE = 64 << 20  # bytes left free on the disk by a write whose size is known

Progress = Callable[[int], None]


class Store:
    """One models folder. Opening one touches nothing; folders are made by the first write."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else models_dir()
        self.blobs = self.root / "blobs"
        self.manifests = self.root / "manifests"
        self.private = self.root / ".sealift"
        self.packs = self.private / "packs"

    # -- blobs

    def blob_path(self, digest: Digest) -> Path:
        return self.blobs / digest.file_name

    def has_blob(self, digest: Digest) -> bool:
        """Whether a file of that name is there. Says nothing of its bytes."""
        return self.blob_path(digest).is_file()

    def open_blob(self, digest: Digest) -> BinaryIO:
        try:
            return self._open(self.blob_path(digest))
        except FileNotFoundError:
            raise NotFound(f"blob {digest} not found", hint=REPAIR) from None
        except OSError as error:
            raise StoreError(f"blob {digest}: {error.strerror}", hint=REPAIR) from None

    def _open(self, path: Path) -> BinaryIO:
        """A plain file of this store. A pipe or device would hang the reader, and a link may lead anywhere."""
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise OSError(errno.ELOOP, "a link out of the store", str(path))
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer opens at once
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return os.fdopen(file, "rb")

    def read_blob(self, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small blob, checked against its digest. Refuses one larger than `limit` bytes."""
        with self.open_blob(descriptor.digest) as stream, disk_errors(self.root):
            data = _read(stream, limit + 1)
        if len(data) > limit:
            raise StoreError(f"blob {descriptor.digest} ({descriptor.kind}) is larger than {limit} bytes")
        if Digest.of(data) != descriptor.digest:
            raise DigestMismatch(f"blob {descriptor.digest} does not match its name", hint=REPAIR)
        return data

    def verify_blob(self, digest: Digest, size: int | None = None, progress: Progress | None = None) -> None:
        """Hashes the blob's bytes; raises NotFound or DigestMismatch."""
        with self.open_blob(digest) as stream, disk_errors(self.root):
            found_size = os.fstat(stream.fileno()).st_size
            if size is not None and found_size != size:
                raise DigestMismatch(f"blob {digest}: expected {size} bytes, found {found_size}", hint=REPAIR)
            found = Digest.of_stream(stream, progress)
        if found != digest:
            raise DigestMismatch(f"blob {digest}: its bytes hash to {found}", hint=REPAIR)

    def put_bytes(self, data: bytes) -> Digest:
        return self.put_stream([data], size=len(data))

    def put_stream(
        self,
        data: Iterable[bytes],
        *,
        size: int | None = None,
        digest: Digest | None = None,
        progress: Progress | None = None,
    ) -> Digest:
        """Writes a blob from pieces. Where `size` or `digest` is given, other bytes are refused and nothing is kept."""
        self.require_space(size or 0)
        with self.temporary() as path:
            hasher, written = hashlib.sha256(), 0
            with disk_errors(self.root), path.open("xb") as out:  # closing writes too, and the disk may be full
                for piece in data:
                    written += len(piece)
                    if size is not None and written > size:
                        raise DigestMismatch(f"more than the expected {size} bytes")
                    hasher.update(piece)
                    out.write(piece)
                    if progress:
                        progress(len(piece))
                sync_file(out)
            found = Digest(hasher.hexdigest())
            if size is not None and written != size:
                raise DigestMismatch(f"expected {size} bytes, found {written}")
            if digest is not None and found != digest:
                raise DigestMismatch(f"expected {digest}, found {found}")
            self.adopt(path, found)
        return found

    def put_file(self, source: Path, progress: Progress | None = None) -> Digest:
        """Copies a file into the store."""
        try:
            with source.open("rb") as stream:
                return self.put_stream(chunks(stream), size=os.fstat(stream.fileno()).st_size, progress=progress)
        except OSError as error:
            raise StoreError(_said(error), path=source) from None

    def adopt(self, path: Path, digest: Digest) -> None:
        """Makes a file that the caller has hashed and synced appear as a blob. A blob of that name is replaced."""
        with disk_errors(self.root):
            self.blobs.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)
            path.rename(self.blob_path(digest))
            sync_folder(self.blobs)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A path in the store's own tmp folder that does not exist yet; removed at the end if it was not adopted.

        Every writer shares a lock on the folder. Who finds it free removes what killed writers left there.
        """
        folder = self.private / "tmp"
        with disk_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = folder / secrets.token_hex(16)
        try:
            with disk_errors(self.root):
                _remove_left_over(folder, lock)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield path
        finally:
            with disk_errors(self.root):
                path.unlink(missing_ok=True)
            os.close(lock)

    def require_space(self, size: int) -> None:
        """Raises NoSpace, with both numbers, if `size` more bytes would not leave RESERVE free."""
        folder = self.root
        with disk_errors(self.root):
            while not folder.exists():
                folder = folder.parent
            free = shutil.disk_usage(folder).free
        if size and free < size + RESERVE:
            raise NoSpace(
                f"{size:,} bytes are needed and {RESERVE:,} kept free, but only {free:,} are free",
                hint="free some space (sealift rm MODEL, sealift rm --unused) or set SEALIFT_MODELS to a larger disk",
                path=self.root,
            )

    # -- models

    def names(self) -> list[ModelName]:
        """Every model, sorted. What is not named like one is passed over; a folder that cannot be read is an error."""
        found = []
        for path in _files_at(self.manifests, depth=4):
            try:
                found.append(ModelName.from_path(PurePosixPath(path.relative_to(self.manifests).as_posix())))
            except ManifestsError:
                continue
        return sorted(found, key=lambda name: name.key)

    def resolve(self, name: ModelName) -> ModelName:
        """The stored spelling of a name given in any letter case; the name itself where none is stored."""
        if self.manifest_path(name).is_file():
            return name
        return next((stored for stored in self.names() if stored == name), name)

    def manifest_path(self, name: ModelName) -> Path:
        return self.manifests / f"{name.host}/{name.namespace}/{name.model}/{name.tag}"

    def has(self, name: ModelName) -> bool:
        return self.manifest_path(self.resolve(name)).is_file()

    def manifest(self, name: ModelName) -> Manifest:
        path = self.manifest_path(self.resolve(name))
        try:
            with self._open(path) as stream:
                raw = _read(stream, MAX_MANIFEST + 1)
        except FileNotFoundError:
            raise NotFound(
                f"model '{name.short}' not found", hint="sealift list shows the models of this store"
            ) from None
        except OSError as error:
            raise StoreError(f"the manifest of {name.short}: {error.strerror}") from None
        return _parsed(raw) if len(raw) <= PARSED_SIZE else Manifest.parse(raw)

    def modified(self, name: ModelName) -> datetime:
        """When the manifest was written, in UTC."""
        path = self.manifest_path(self.resolve(name))
        try:
            return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        except FileNotFoundError:
            raise NotFound(f"model '{name.short}' not found") from None
        except OSError as error:
            raise StoreError(f"the manifest of {name.short}: {error.strerror}") from None

    def put_manifest(self, name: ModelName, raw: bytes) -> Manifest:
        """Makes a model visible. Every blob must be there, with the size the manifest says."""
        manifest = Manifest.parse(raw)
        with self.locked():
            for blob in manifest.blobs():
                self._require_blob(blob)
            path = self.manifest_path(self.resolve(name))
            with self.temporary() as temp, disk_errors(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                with temp.open("xb") as out:
                    out.write(raw)
                    sync_file(out)
                temp.chmod(0o644)
                temp.rename(path)
                sync_folder(path.parent)
        return manifest

    def _require_blob(self, blob: Descriptor) -> None:
        try:
            with self.open_blob(blob.digest) as stream:
                found = os.fstat(stream.fileno()).st_size
        except NotFound:
            raise NotFound(
                f"blob {blob.digest} ({blob.kind}) is missing, so the model cannot be stored",
                hint="a model that shared it may have been removed meanwhile: run the command again",
            ) from None
        if found != blob.size:
            raise DigestMismatch(
                f"blob {blob.digest}: the manifest says {blob.size} bytes, the file has {found}", hint=REPAIR
            )

    def present(self, name: ModelName) -> Manifest | None:
        """The stored manifest; None where there is none that can be read."""
        try:
            return self.manifest(name)
        except ManifestsError:
            return None

    def copy(self, source: ModelName, target: ModelName) -> None:
        """Gives a model a second name. Blobs that only a replaced model named are removed."""
        manifest, replaced = self.manifest(source), self.present(target)
        self.put_manifest(target, manifest.raw)
        if replaced is not None:
            self.drop_unused(replaced)

    def remove(self, name: ModelName) -> list[Digest]:
        """Removes a model, then those of its blobs that no other model names; returns these.

        A manifest that cannot be read is removed too: nobody can use it, and until it goes no blob can be dropped.
        """
        with self.locked():
            name = self.resolve(name)
            try:
                manifest = self.manifest(name)
            except NotFound:
                raise
            except ManifestsError:
                manifest = None
            path = self.manifest_path(name)
            with disk_errors(self.root):
                path.unlink()
            self._remove_empty_folders(path.parent)
            return self._drop_unused(blob.digest for blob in manifest.blobs()) if manifest else []

    def drop_unused(self, manifest: Manifest) -> list[Digest]:
        """Removes those blobs of a manifest that no model names (any more); returns them."""
        return self.drop_blobs(blob.digest for blob in manifest.blobs())

    def drop_blobs(self, digests: Iterable[Digest]) -> list[Digest]:
        """Removes those of some blobs that no model names; returns them."""
        with self.locked():
            return self._drop_unused(digests)

    def _drop_unused(self, digests: Iterable[Digest]) -> list[Digest]:
        try:
            used = self.referenced()
        except ManifestsError:
            return []  # a manifest cannot be read: what it needs is unknown, so nothing is removed
        gone = [digest for digest in dict.fromkeys(digests) if digest not in used]
        with disk_errors(self.root):
            for digest in gone:
                self.blob_path(digest).unlink(missing_ok=True)
                for pack in self.packs.glob(f"{digest.hex}.*"):
                    pack.unlink(missing_ok=True)
        return gone

    def referenced(self) -> set[Digest]:
        """The digests of every blob that some model names. Raises if any manifest cannot be read."""
        return {blob.digest for name in self.names() for blob in self.manifest(name).blobs()}

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.manifests and folder.is_relative_to(self.manifests):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time changes which models there are. Waits for the other."""
        with disk_errors(self.root):
            self.private.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.private / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    # -- records: where a model came from

    def add_record(self, manifest: Digest, kind: str, facts: dict[str, Any]) -> None:
        """Appends one event (`pull`, `create`, `import`) in the life of a model. `facts` must have a canonical form."""
        assert kind.isalpha()
        raw = canonical.encode({"kind": kind, "manifest": str(manifest), **facts})
        folder = self.private / "records" / manifest.hex
        with self.temporary() as temp, disk_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            with temp.open("xb") as out:
                out.write(raw)
                sync_file(out)
            stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
            temp.rename(folder / f"{stamp}-{kind}-{Digest.of(raw).short}.json")
            sync_folder(folder)

    def records(self, manifest: Digest) -> list[dict[str, Any]]:
        """The events of a model, oldest first. One that cannot be read is an error that names its file."""
        found = []
        for path in sorted((self.private / "records" / manifest.hex).glob("*.json")):
            try:
                with self._open(path) as stream:
                    record = canonical.decode(stream.read(MAX_RECORD + 1), limit=MAX_RECORD)
            except OSError as error:
                raise StoreError(_said(error), path=path) from None
            except ManifestsError as error:
                raise StoreError(str(error), path=path) from None
            if not isinstance(record, dict):
                raise StoreError("expected a JSON object", path=path)
            found.append(record)
        return found


REPAIR = "pull the model again, or import its bundle again: damaged blobs are replaced"


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turns the system's errors while writing into this room's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("the disk is full", hint="free some space and run the command again", path=root) from None
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        hint = "may this user write here?" if denied else None
        raise StoreError(_said(error), hint=hint, path=error.filename or root) from None


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _read(stream: BinaryIO, most: int) -> bytes:
    """At most `most` bytes of a file that is likely far smaller: memory for all of them would first have to be had."""
    return stream.read(min(most, os.fstat(stream.fileno()).st_size + 1))


@functools.lru_cache(PARSED)
def _parsed(raw: bytes) -> Manifest:
    """The same bytes say the same: a list of many models reads each file, and parses what is new."""
    return Manifest.parse(raw)


def _files_at(folder: Path, depth: int) -> Iterator[Path]:
    """The files `depth` levels down, links followed. Unlike a glob, it does not pass over what it may not read."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            if depth > 1 and entry.is_dir():
                yield from _files_at(folder / entry.name, depth - 1)
            elif depth == 1 and entry.is_file():
                yield folder / entry.name
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(_said(error), path=error.filename or folder) from None


def _remove_left_over(folder: Path, lock: int) -> None:
    """Empties the tmp folder if no writer holds a share of its lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for left in folder.iterdir():
        if not left.is_dir():
            left.unlink(missing_ok=True)


def sync_file(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
