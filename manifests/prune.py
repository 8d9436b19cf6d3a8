"""Prune: frees what no model needs: blobs that no manifest names, packs of such blobs, and parts of transfers that
nobody works on.

What is younger than an hour is left alone: a pull, an upload or a create may be about to name it (Ollama waits as
long). Refuses to remove anything while a manifest cannot be read, for nobody knows what it needs. Files that are not
named like a blob, and staged imports, are left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from manifests.digest import Digest
from manifests.errors import DigestError
from manifests.store import Store, disk_errors

AGE = 3600.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    files: int
    bytes: int  # on disk


def prune(store: Store, *, now: float | None = None) -> Pruned:
    """Raises StoreError, and removes nothing, where a manifest cannot be read. `now` is in seconds since 1970."""
    before = (time.time() if now is None else now) - AGE
    count = size = 0
    with store.locked(), disk_errors(store.root):
        used = store.referenced()
        for path in chain(_blobs_but(store.blobs, used), _packs_but(store.packs, used), _parts(store.private)):
            found = path.lstat()
            if found.st_mtime >= before or not _remove(path):
                continue
            count, size = count + 1, size + found.st_blocks * 512  # st_blocks counts 512 bytes everywhere
    return Pruned(files=count, bytes=size)


def _blobs_but(folder: Path, used: set[Digest]) -> Iterator[Path]:
    for path in _listed(folder):
        try:
            digest = Digest.parse(path.name.replace("-", ":", 1))
        except DigestError:
            continue
        if digest not in used and not path.is_dir():
            yield path


def _packs_but(folder: Path, used: set[Digest]) -> Iterator[Path]:
    hexes = {digest.hex for digest in used}
    for path in _listed(folder):
        if path.name.partition(".")[0] not in hexes and not path.is_dir():
            yield path


def _parts(private: Path) -> Iterator[Path]:
    for folder in ("partial", "uploads"):
        for path in _listed(private / folder):
            if path.suffix == ".journal" and path.with_suffix("").exists():
                continue  # it lives and goes with its part, whose lock says whether a pull is at work
            yield path


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path) -> bool:
    """False where another process works on the file: a pull holds the lock of the part it fetches."""
    file = -1
    with contextlib.suppress(FileNotFoundError):
        try:
            if path.is_file() and not path.is_symlink():
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
        except BlockingIOError:
            return False
        finally:
            if file >= 0:
                os.close(file)
    return False
