"""Packs beside the store: made by a process of their own, put in place by rename, found again by name.

    <store>/.sealift/packs/<blob hex>.<instruction set>.pack

One maker at a time for each store. It writes to an unfinished file of the store's; what a killed maker left goes with
the next write. Refuses to fill the disk, since a pack can always be made again and a model cannot: KEPT_FREE stays
free, or the pack is SMALL beside what is. Whether it is good is judged by who reads it (runtime.engine.packfile), every
time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import runtime
from manifests.digest import Digest
from manifests.errors import ManifestsError, NoSpace
from manifests.fields import Fields, parse_json
from manifests.name import ModelName
from manifests.store import Store, disk_errors, sync_folder
from native.record import record
from runtime.card import CardBox
from runtime.errors import ModelRefused, RuntimeFailure

log = logging.getLogger("sealift.packs")

KEPT_FREE = 8 << 30  # bytes of the disk, or a tenth of it where that is less
SMALL = 16  # a pack of less than this part of what is free is made in any case
GROWTH = 1.1  # a pack against its weights: padding to whole panels, scales widened
REFUSED, FAILED = 3, 4  # exit codes of the maker: the model itself is at fault, or something else is
MAX_ANSWER = 1 << 16  # bytes read from the maker
COMMAND = (sys.executable, "-m", "runtime.engine.packer")


@record(frozen=True, slots=True, kw_only=True)
class Made:
    """`made` False: a good pack was there. `why`: what was wrong with the one that was there, if there was one."""

    path: Path
    size: int
    made: bool
    why: str


class Packs:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._said: set[str] = set()

    def prefix(self, blob: Digest) -> str:
        """The path of a blob's packs without what distinguishes them."""
        return str(self._store.packs / blob.hex)

    def prepare(self, name: ModelName) -> Made:
        """For the command line: waits for another maker. Raises RuntimeFailure, ManifestsError."""
        weights = CardBox(self._store).card(name).weights
        with self._alone(wait=True):
            return self._make(weights.digest)

    def prepare_quietly(self, blob: Digest) -> None:
        """For the server, in a thread: what goes wrong is logged, once for each reason. Nobody waits for a pack."""
        try:
            with self._alone(wait=False):
                if not self._closed:
                    self._make(blob)
        except BlockingIOError:
            return  # another maker is at work
        except (RuntimeFailure, ManifestsError) as error:
            if not self._closed and str(error) not in self._said:
                self._said.add(str(error))
                log.warning("no packed weights are kept, so each load packs anew: %s", error)

    def close(self) -> None:
        """Ends the maker at work; nothing of its pack stays."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    @contextlib.contextmanager
    def _alone(self, *, wait: bool) -> Iterator[None]:
        folder = self._store.packs
        with disk_errors(self._store.root):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(lock)

    def _make(self, blob: Digest) -> Made:
        source = self._store.blob_path(blob)
        with self._store.open_blob(blob) as stream:
            self._require_space(int(GROWTH * os.fstat(stream.fileno()).st_size))
        with self._store.temporary() as temp, disk_errors(self._store.root):
            with temp.open("xb") as out:
                answer = Fields.of(parse_json(self._run(source, blob, out.fileno()), limit=MAX_ANSWER))
            isa = answer.text("isa", maximum=32)
            made, size = answer.boolean("made"), answer.integer("size", minimum=0, maximum=1 << 53)
            if not isa.replace("-", "").isalnum():
                raise RuntimeFailure(f"the packing process named an instruction set {isa!r:.40}")
            target = self._store.packs / f"{blob.hex}.{isa}.pack"
            if made:
                temp.chmod(0o644)
                temp.rename(target)
                sync_folder(target.parent)
            return Made(path=target, size=size, made=made, why=answer.text("why", maximum=1000))

    def _run(self, source: Path, blob: Digest, fd: int) -> bytes:
        words = ("--fd", str(fd), "--parent", str(os.getpid()), "--weights", str(source.resolve()))
        try:
            self._process = subprocess.Popen(
                [*COMMAND, *words, "--blob", str(blob), "--old", self.prefix(blob)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(fd,), cwd=Path(runtime.__file__).resolve().parents[1],
            )  # fmt: skip
            if self._closed:  # meanwhile
                self._process.kill()
            out, err = self._process.communicate()
        except OSError as error:
            raise RuntimeFailure(f"the packing process could not be started: {error.strerror}") from None
        if self._process.returncode:
            last = " ".join(err.decode("utf-8", "replace").strip().splitlines()[-1:])[:300]
            kind = ModelRefused if self._process.returncode == REFUSED else RuntimeFailure
            raise kind(last or f"the packing process ended with status {self._process.returncode}")
        return out

    def _require_space(self, size: int) -> None:
        with disk_errors(self._store.root):
            usage = shutil.disk_usage(self._store.root)
        kept = min(KEPT_FREE, usage.total // 10)
        if size > max(usage.free - kept, usage.free // SMALL):
            raise NoSpace(
                f"{self._store.root}: a pack of about {size:,} bytes would leave less than {kept:,} bytes free: "
                f"{usage.free:,} are free now",
                hint="free some space; models load without packs too",
            )
