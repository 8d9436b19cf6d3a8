"""Large files go to the disk in steps: one sync at a time, and an error that only a step is told is told to all."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler import writeback
from bundler.draft import Options
from bundler.errors import MediumUnavailable
from bundler.resend import resend
from bundler.send import send
from bundler.slip import Slip, Want
from bundler.writeback import Writeback
from manifests.errors import StoreError
from tests.peers.bundles import LEAF, Gap, tree, volumes

SMALL = Options(volume_size=256 << 10, leaf_size=LEAF)


class Disk:
    """`os.fdatasync` that waits until it is let go, and may fail once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.entered = threading.Semaphore(0), threading.Semaphore(0)
        self.synced: list[int] = []
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)
        monkeypatch.setattr(writeback, "STEP", 100)

    def fdatasync(self, handle: int) -> None:
        self.synced.append(handle)
        self.entered.release()
        assert self.go.acquire(timeout=60)
        error, self.error = self.error, None
        if error:
            raise error


def test_steps_by_bytes_one_at_a_time_beside_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with Writeback() as steps:
        for _ in range(3):
            steps.wrote(7, 33)
        assert not disk.synced
        steps.wrote(7, 1)  # does not wait
        assert disk.entered.acquire(timeout=60)
        for _ in range(5):
            steps.wrote(7, 100)
        assert disk.synced == [7]
        disk.go.release()
        steps.settle()
        steps.wrote(8, 1)  # what the disk was too slow for is due
        assert disk.entered.acquire(timeout=60) and disk.synced == [7, 8]
        disk.go.release()


@pytest.mark.parametrize("told", ["settle", "wrote"])
def test_an_error_is_told_once(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    disk = Disk(monkeypatch)
    disk.error = OSError(errno.EIO, "Input/output error")
    disk.go.release()
    with Writeback() as steps:
        steps.wrote(7, 100)
        while told == "wrote" and not (steps._under_way and steps._under_way.done()):
            pass
        with pytest.raises(OSError, match="Input/output error"):
            steps.settle() if told == "settle" else steps.wrote(7, 100)
        steps.settle()


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Gap(tmp_path)


def failing_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first step of all fails, as a disk does that has lost a page; every later sync finds nothing amiss."""
    handles: list[int] = []

    def fdatasync(handle: int) -> None:
        handles.append(handle)
        if len(handles) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(writeback, "STEP", LEAF)
    return handles


def test_an_export_whose_bytes_were_lost_on_the_way_leaves_no_volume(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.model(rows=1280)
    with monkeypatch.context() as patch:
        handles = failing_once(patch)
        with pytest.raises(MediumUnavailable, match="Input/output error"):
            gap.export(options=SMALL)
    assert handles and not volumes(gap.medium)
    gap.export(options=SMALL)
    assert gap.verify().complete


def test_an_import_whose_bytes_were_lost_on_the_way_shows_nothing(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.model(rows=1280)
    gap.export(options=SMALL)
    before = {name for name in tree(gap.far.root) if not name.startswith(".sealift")}
    with monkeypatch.context() as patch:
        handles = failing_once(patch)
        with pytest.raises(StoreError, match="Input/output error"):
            gap.bring_in()
    assert handles and {name for name in tree(gap.far.root) if not name.startswith(".sealift")} == before
    assert gap.bring_in().complete


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The write that crosses the border is a short one without an error, as on a disk that gets full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("way", ["resend", "send"])
def test_a_copy_that_does_not_fit_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A volume that is sent is there whole or not at all, to its last piece."""
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap, out = Gap(tmp_path), tmp_path / "out"
    gap.model()
    statement = gap.export(options=SMALL).statement
    size = min(path.stat().st_size for path in volumes(gap.medium))
    with files_of_at_most(size - 1), pytest.raises(MediumUnavailable, match="too large"):
        if way == "send":
            send(gap.medium, out)
        else:
            resend(Slip(id=statement.id, wants=(Want(volume=0, ranges=()),)), out, volumes=gap.medium)
    assert list(out.iterdir()) == []
