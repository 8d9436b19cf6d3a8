"""Killed, out of space, or told twice: an import and an export go on where they stopped, and nobody sees the middle."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.draft import Options
from bundler.errors import BundlerBusy, ExportRefused, GateRefused, MediumUnavailable
from bundler.export import export
from bundler.importer import import_bundle
from bundler.send import send
from bundler.staging import Staging
from bundler.verify import verify
from manifests.errors import NoSpace
from manifests.name import ModelName
from manifests.store import Store
from signing.keys import Signer
from tests.peers.bundles import LEAF, Gap, put_model, signer, small_gguf, tree, trusting, volumes

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(volume_size=256 << 10, leaf_size=LEAF)


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Gap(tmp_path)


def live(store: Store) -> dict[str, tuple[int, str]]:
    return {name: value for name, value in tree(store.root).items() if not name.startswith(".sealift")}


def check_store(store: Store) -> None:
    """Every visible model is whole, and every blob is what its name says."""
    for name in store.names():
        for blob in store.manifest(name).blobs():
            store.verify_blob(blob.digest, blob.size)
    for path in store.blobs.glob("*"):
        assert path.name.startswith("sha256-")


class Stop(BaseException):
    """Stands for a kill in the same process: nothing catches it."""


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.97])
def test_an_import_that_stops_resumes_without_reading_again(gap: Gap, share: float) -> None:
    gap.model(rows=1280)
    gap.export(options=OPTIONS)
    total, done = sum(path.stat().st_size for path in volumes(gap.medium)), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done > share * total:
            raise Stop

    with pytest.raises(Stop):
        import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, progress=progress)
    assert not live(gap.far), "nothing is visible before the end"
    (folder,) = (gap.far.private / "staging").iterdir()
    staged = sum(path.stat().st_size for path in folder.glob("sha256-*"))
    assert staged > (share - 0.35) * total, "what was checked is kept"
    read: list[int] = []
    from bundler import medium as medium_room

    real = medium_room.VolumeReader.read_into

    def counted(self: medium_room.VolumeReader, view: memoryview, what: str) -> None:
        read.append(len(view))
        real(self, view, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medium_room.VolumeReader, "read_into", counted)
        gap.bring_in()
    assert sum(read) < total - staged + total // 3, "staged leaves are not read from the medium again"
    assert live(gap.far) == live(gap.near)


def test_staged_bytes_are_hashed_again(gap: Gap) -> None:
    """What an earlier run left may have been damaged since: the damaged leaf and what follows is read again."""
    gap.model(rows=640)
    gap.export(options=OPTIONS)
    done: list[int] = []

    def progress(count: int) -> None:
        done.append(count)
        if sum(done) > 150_000:
            raise Stop

    with pytest.raises(Stop):
        import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, progress=progress)
    largest = max((gap.far.private / "staging").rglob("sha256-*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data) + b"trailing")
    gap.bring_in()
    assert live(gap.far) == live(gap.near)


PROGRAM = """
import sys
from pathlib import Path
from bundler.channels import Channels
from bundler.draft import Options
from bundler.export import export
from bundler.importer import import_bundle
from manifests.name import ModelName
from manifests.store import Store
from signing.keyring import Keyring
from signing.trust import TrustStore
verb, root = sys.argv[1], Path(sys.argv[2])
alice = Keyring(root / "keys").load("alice", None)
print("ready", flush=True)
if verb == "export":
    export(Store(root / "near" / "models"), [ModelName.parse("mine")], root / "usb", [alice],
           Options(volume_size=256 << 10, leaf_size=4096), seen=Channels(root / "near" / "exports.json"))
else:
    trust = TrustStore.empty().add(alice.public, ["publisher"])
    import_bundle(root / "usb", Store(root / "far" / "models"), trust, seen=Channels(root / "far" / "channels.json"))
"""


def keep_key(root: Path, alice: Signer) -> None:
    from signing.keyring import Keyring

    Keyring(root / "keys").write(alice, None)


def run_killed(verb: str, root: Path, delay: float) -> bool:
    """Starts the verb in a process of its own and kills it after `delay` seconds; whether it ended by itself."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, verb, str(root)],
        cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
        deadline = time.monotonic() + delay
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait() == 0


def test_kill_9_at_any_moment_of_an_export(gap: Gap) -> None:
    gap.model(rows=2560)
    keep_key(gap.root, signer())
    numbers, ended = random.Random(5), False
    for _ in range(4):
        ended = run_killed("export", gap.root, numbers.uniform(0.05, 0.6)) or is_finished(gap)
        for path in volumes(gap.medium):
            assert path.stat().st_size <= 256 << 10, "a volume under its final name is finished"
        if ended:
            break
    if not ended:
        gap.export(options=OPTIONS)
    assert gap.verify().complete
    assert not list(gap.medium.glob("*.tmp")), "what a killed run left was taken up"
    assert not list((gap.root / "home" / "state" / "exports").glob("*/statement.dsse.json"))


def is_finished(gap: Gap) -> bool:
    """A process may be killed after its export has ended and before it ends itself."""
    journals = list((gap.root / "home" / "state" / "exports").glob("*/statement.dsse.json"))
    return bool(list(gap.medium.glob("*.v000.tar"))) and not journals


def test_an_export_that_stops_after_signing_is_the_same_bundle(gap: Gap) -> None:
    gap.model(rows=1280)

    def progress(done: int, total: int) -> None:
        if done > 0.8 * total:
            raise Stop

    with pytest.raises(Stop):
        export(
            gap.near, [ModelName.parse("mine")], gap.medium, [signer()], OPTIONS, seen=gap.exported, progress=progress
        )
    finished = {path.name: path.stat().st_mtime_ns for path in volumes(gap.medium)}
    assert finished
    report = gap.export(options=OPTIONS)
    assert report.resumed and gap.verify().complete
    kept = {path.name: path.stat().st_mtime_ns for path in volumes(gap.medium)}
    assert {name: kept[name] for name in finished} == finished, "finished volumes are checked and kept"


def test_a_finished_volume_that_was_damaged_since_is_written_again(gap: Gap) -> None:
    from tests.peers.forgery import flip

    gap.model(rows=1280)

    def progress(done: int, total: int) -> None:
        if done > 0.8 * total:
            raise Stop

    with pytest.raises(Stop):
        export(
            gap.near, [ModelName.parse("mine")], gap.medium, [signer()], OPTIONS, seen=gap.exported, progress=progress
        )
    flip(volumes(gap.medium)[0], 100_000)
    gap.export(options=OPTIONS)
    assert gap.verify().complete


def test_kill_9_at_any_moment_of_an_import(gap: Gap) -> None:
    gap.model(rows=2560)
    gap.export(options=OPTIONS)
    keep_key(gap.root, signer())
    medium = tree(gap.medium)
    numbers = random.Random(7)
    for _ in range(4):
        if run_killed("import", gap.root, numbers.uniform(0.02, 0.5)):
            break
        check_store(gap.far)
    gap.bring_in()
    check_store(gap.far)
    assert live(gap.far) == live(gap.near)
    assert tree(gap.medium) == medium


@pytest.mark.parametrize("written", [0, 5, 40])
def test_a_full_disk_in_the_middle_is_survived(gap: Gap, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    gap.model(rows=640)
    gap.export(options=OPTIONS)
    real, calls = os.pwrite, [0]

    def full(handle: int, data: memoryview, offset: int) -> int:
        calls[0] += 1
        if calls[0] > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace) as caught:
        gap.bring_in()
    assert caught.value.exit_code == 4 and caught.value.hint
    assert not live(gap.far)
    monkeypatch.setattr(os, "pwrite", real)
    gap.bring_in()
    assert live(gap.far) == live(gap.near)


def test_a_disk_that_is_too_small_is_noticed_before_writing(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    gap.model(rows=640)
    usage = shutil.disk_usage(gap.root)
    small = type(usage)(usage.total, usage.used, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    with pytest.raises(MediumUnavailable, match="free"):
        gap.export(options=OPTIONS)
    assert not volumes(gap.medium)
    monkeypatch.undo()
    monkeypatch.setenv("SEALIFT_HOME", str(gap.root / "home"))
    gap.export(options=OPTIONS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    with pytest.raises(NoSpace):
        gap.bring_in()
    assert not live(gap.far) and not list((gap.far.private / "staging").rglob("sha256-*"))


def test_a_full_medium_during_an_export_is_survived(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    from bundler import writing

    gap.model(rows=640)
    real, calls = writing.write_all, [0]

    def full(file: object, data: bytes) -> None:
        calls[0] += 1
        if calls[0] > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    monkeypatch.setattr(writing, "write_all", full)
    with pytest.raises(MediumUnavailable, match="No space"):
        gap.export(options=OPTIONS)
    monkeypatch.setattr(writing, "write_all", real)
    assert gap.export(options=OPTIONS).resumed
    assert gap.verify().complete


def test_only_one_import_of_a_bundle_at_a_time(gap: Gap) -> None:
    gap.model()
    statement = gap.export(options=OPTIONS).statement
    with Staging(gap.far, statement.id), pytest.raises(BundlerBusy):
        gap.bring_in()
    assert gap.bring_in().complete


def test_names_that_are_here_with_other_content(gap: Gap) -> None:
    name = gap.model()
    gap.export(options=OPTIONS)
    put_model(gap.far, "mine", small_gguf(gap.root / "x.gguf", seed=9).read_bytes())
    before = gap.far.manifest(name).digest
    kept = gap.bring_in(keep=True)
    assert [item.action for item in kept.models] == ["kept"] and gap.far.manifest(name).digest == before
    report = gap.bring_in()
    assert [(item.action, item.previous) for item in report.models] == [("replaced", before)]
    assert gap.far.manifest(name).digest == gap.near.manifest(name).digest
    again = gap.bring_in()
    assert [item.action for item in again.models] == ["same"] and again.reused > 0


def test_a_dry_run_changes_nothing(gap: Gap) -> None:
    gap.model()
    gap.export(options=OPTIONS)
    report = import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, dry_run=True)
    assert not report.complete and not gap.far.root.exists() and not gap.seen.path.exists()
    assert any("dry run" in item for item in report.not_checked)


def test_what_the_gate_refuses_stays_outside(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connected side that checks nothing sends a model that would forward prompts: the isolated side refuses it."""
    from bundler import cargo

    weights = small_gguf(gap.root / "w.gguf").read_bytes()
    put_model(gap.near, "stub", weights, config={"Remote_Host": "https://ollama.example"})
    put_model(gap.near, "broken", weights[: len(weights) - 64])
    monkeypatch.setattr(cargo, "_scan", lambda store, manifests, rules: b'{"findings":[],"gate":1}')
    monkeypatch.setattr(cargo, "content_cuts", lambda path: [])
    for name, rule in (("stub", "config.remote"), ("broken", "gguf.structure")):
        out = gap.root / name
        gap.export(name, options=OPTIONS, out=out)
        assert verify(out, trusting(signer()), seen=gap.seen).complete, "sealed and signed all the same"
        with pytest.raises(GateRefused, match=rule) as caught:
            gap.bring_in(path=out)
        assert caught.value.findings and not live(gap.far) and not gap.seen.path.exists()


def test_only_one_export_at_a_time_goes_into_a_folder_or_a_channel(gap: Gap) -> None:
    """Two would take each other's temporary files for their own, or give one number to two bundles."""
    gap.model("mine")
    gap.model("other", seed=2)
    tries: list[str] = []

    def second(out: Path, channel: str) -> None:
        with pytest.raises(BundlerBusy) as caught:
            gap.export("other", options=replace(OPTIONS, channel=channel), out=out)
        tries.append(str(caught.value))

    def progress(done: int, total: int) -> None:
        if not tries:
            second(gap.medium, "b")
            second(gap.root / "elsewhere", "a")

    options = replace(OPTIONS, channel="a")
    names = [ModelName.parse("mine")]
    export(gap.near, names, gap.medium, [signer()], options, seen=gap.exported, progress=progress)
    assert "another sealift writes there" in tries[0] and "another export in channel a" in tries[1]
    assert gap.export("other", options=options, out=gap.root / "elsewhere").statement.sequence == 2
    assert gap.verify().complete


def test_an_export_whose_number_was_given_away_meanwhile_is_made_anew(gap: Gap) -> None:
    gap.model("mine", rows=1280)
    gap.model("other", seed=2)
    stopped, options = gap.root / "stopped", replace(OPTIONS, channel="a")

    def progress(done: int, total: int) -> None:
        if done > 0.8 * total:
            raise Stop

    names = [ModelName.parse("mine")]
    with pytest.raises(Stop):
        export(gap.near, names, stopped, [signer()], options, seen=gap.exported, progress=progress)
    assert gap.export("other", options=options).statement.sequence == 1
    with pytest.raises(ExportRefused, match="another bundle"):
        gap.export(options=options, out=stopped)
    for path in stopped.iterdir():
        path.unlink()
    report = gap.export(options=options, out=stopped)
    assert not report.resumed and report.statement.sequence == 2


def test_only_one_sends_a_bundle_to_a_folder(gap: Gap) -> None:
    gap.model()
    gap.export(options=OPTIONS)
    tries: list[str] = []

    def progress(count: int) -> None:
        if not tries:
            with pytest.raises(BundlerBusy, match="is being sent"):
                send(gap.medium, gap.root / "drop")
            tries.append("")

    report = send(gap.medium, gap.root / "drop", progress=progress)
    assert tries and not report.kept and len(report.sent) == len(volumes(gap.medium))
    assert send(gap.medium, gap.root / "drop").sent == ()
