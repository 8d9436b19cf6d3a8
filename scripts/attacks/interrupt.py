"""Interrupted imports: killed, out of space, with unreadable sectors. Each must go on afterwards and end with the same
store; the live store is never seen in between.

A case is a number that seeds everything. An import runs in a process of its own (so that a kill is one), over and over,
with a new interruption each time and without one in the end. A watcher process lists the live store all the while: what
it sees is the store as it was before, or whole models only, and every blob is what its name says.

    kill     SIGKILL at a random moment
    space    the isolated side lies on a small tmpfs, and a file fills it but for a random rest; the look at free space
             before writing is taken away. Needs the right to mount; without it a limit on the size of files stands in
    sector   the medium's reader raises EIO at random bytes (of every volume it reads), as a drive does
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bundler import medium
from bundler.draft import Options
from bundler.errors import BundlerError, medium_errors
from bundler.importer import import_bundle
from bundler.repair import repair
from manifests.errors import ManifestsError
from manifests.store import RESERVE, Store
from tests.peers.bundles import LEAF, Gap, put_model, signer, small_gguf, tree, trusting, volumes
from tests.peers.forgery import flip

Tell = Callable[[str], Any]
OPTIONS = Options(volume_size=256 << 10, leaf_size=LEAF, parity="1")
DISK = RESERVE + (24 << 20)  # bytes of the isolated side's disk
FORK = multiprocessing.get_context("fork")
EXPECTED = (0, 1, 4, -signal.SIGKILL)  # done, damaged, unavailable, killed


def run(folder: Path, cases: Sequence[int], *, tell: Tell) -> list[str]:
    """The findings, each with the seed that repeats it."""
    far = folder / "far"
    far.mkdir(parents=True)
    mounted = _mount(far)
    if not mounted:
        tell("no right to mount a small disk: a limit on the size of files stands in for it")
    try:
        return _run(folder, cases, tell)
    finally:
        if mounted:
            subprocess.run(["umount", far], check=True)


def _mount(far: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(far)]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def _run(folder: Path, cases: Sequence[int], tell: Tell) -> list[str]:
    gap = Gap(folder)
    gap.model(rows=1600)
    gap.export(options=OPTIONS)
    put_model(gap.far, "older", small_gguf(folder / "older.gguf", seed=5).read_bytes())
    shutil.copytree(gap.far.root, folder / "before")
    found: list[str] = []
    for number in cases:
        try:
            told = _case(gap, number)
        except Exception as error:
            found.append(f"case {number}: {type(error).__name__}: {error}")
            told = found[-1]
        tell(f"seed {number}: {told}")
    return found


def _case(gap: Gap, number: int) -> str:
    numbers = random.Random(f"interrupt {number}")
    shutil.rmtree(gap.far.root)
    shutil.copytree(gap.root / "before", gap.far.root)
    gap.seen.path.unlink(missing_ok=True)
    before = live(gap.far)
    ends: list[str] = []
    stop, findings = FORK.Event(), FORK.Queue()
    watcher = FORK.Process(target=_watch, args=(gap.far, before, stop, findings))
    watcher.start()
    try:
        for _ in range(numbers.randint(1, 4)):
            kind = numbers.choice(("kill", "space", "sector", "sector and damage"))
            ends.append(f"{kind} {_attempt(gap, kind, numbers)}")
        damaged = _damage(gap, numbers) if "damage" in ends[-1] else None
        try:
            _finish(gap, damaged)
        finally:
            if damaged:
                shutil.rmtree(damaged, ignore_errors=True)
    finally:
        stop.set()
        watcher.join()
    seen = findings.get()
    assert seen.startswith("ok"), seen
    after = live(gap.far)
    assert after == before | live(gap.near), "the store is not what it was, and the bundle"
    return ", ".join(ends) + f"; the watcher looked {seen[3:]} times"


def _attempt(gap: Gap, kind: str, numbers: random.Random) -> str:
    """One import in a process of its own; how it ended."""
    share, seed = numbers.random(), numbers.random()
    ballast = gap.root / "far" / "ballast"
    if kind == "space" and ballast.parent.is_mount():
        size = max(path.stat().st_size for path in gap.near.blobs.iterdir())
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(ballast.parent).free - int(share * 1.1 * size))
    child = FORK.Process(target=_import, args=(gap, kind, share, seed))
    child.start()
    if kind == "kill":
        time.sleep(share * 0.25)
        if child.is_alive():
            assert child.pid
            os.kill(child.pid, signal.SIGKILL)
    child.join()
    ballast.unlink(missing_ok=True)
    assert child.exitcode in EXPECTED, f"an import ended with {child.exitcode}"
    return f"→ {child.exitcode}"


def _import(gap: Gap, kind: str, share: float, seed: float) -> None:
    if kind == "space":
        Store.require_space = lambda self, size: None  # type: ignore[method-assign]
        if not (gap.root / "far").is_mount():
            size = max(path.stat().st_size for path in gap.near.blobs.iterdir())
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), resource.RLIM_INFINITY))
    if kind.startswith("sector"):
        medium.VolumeReader.read_into = _unreadable(seed)  # type: ignore[method-assign]
    try:
        import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen)
    except (BundlerError, ManifestsError) as error:
        os._exit(error.exit_code)
    except BaseException:
        os._exit(70)
    os._exit(0)


def _unreadable(seed: float) -> Any:
    """A reader to which some 4 KiB sectors are unreadable: the same ones for one seed."""
    real = medium.VolumeReader.read_into

    def read_into(self: Any, view: memoryview, what: str) -> None:
        for sector in range(self.position >> 12, (self.position + len(view) + 4095) >> 12):
            if hashlib.sha256(f"{seed} {self.name} {sector}".encode()).digest()[0] < 3:
                with medium_errors(self.path):
                    raise OSError(errno.EIO, "Input/output error")
        real(self, view, what)

    return read_into


def _damage(gap: Gap, numbers: random.Random) -> Path:
    """A copy of the medium where a volume is damaged for good, within what parity restores."""
    copy = gap.root / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(gap.medium, copy)
    path = numbers.choice(volumes(copy)[1:])
    flip(path, path.stat().st_size - numbers.randrange(4000, 60_000))
    return copy


def _finish(gap: Gap, damaged: Path | None) -> None:
    """The import that must succeed: as it is, or after `bundle repair`."""
    if damaged is None:
        gap.bring_in()
        return
    try:
        gap.bring_in(path=damaged)
    except BundlerError:
        repair(damaged, damaged)
        gap.bring_in(path=damaged)


def live(store: Store) -> dict[str, tuple[int, str]]:
    return {name: value for name, value in tree(store.root).items() if not name.startswith(".sealift")}


def _watch(store: Store, before: dict[str, tuple[int, str]], stop: Any, out: Any) -> None:
    """Lists the live store until told to stop. Manifests first, then what they name: what is visible is whole."""
    old, looks = set(before), 0
    try:
        while not stop.is_set():
            for name in store.names():
                for blob in store.manifest(name).blobs():
                    found = store.blob_path(blob.digest).stat().st_size
                    assert found == blob.size, f"{name.short} is visible with {found} of {blob.size} bytes"
                    if looks % 8 == 0:
                        store.verify_blob(blob.digest, blob.size)
            here = {f"blobs/{path.name}" for path in store.blobs.iterdir()}
            assert {name for name in old if name.startswith("blobs/")} <= here, "a blob is gone"
            for new in here - old:
                path = store.root / new
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name[7:], f"{path.name} is half"
            looks += 1
            time.sleep(0.002)
        out.put(f"ok {looks}")
    except Exception as error:
        out.put(f"the live store was seen in between: {type(error).__name__}: {error}")
