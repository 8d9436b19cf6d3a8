"""A drop folder over weeks: any order, twice, half-written, renamed, cut for a guard, killed; and sending into one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bundler import layout, parts
from bundler.approve import approve, examine
from bundler.channels import Channels
from bundler.draft import Options
from bundler.errors import BadRequest, BundlerBusy, MediumUnavailable, VolumeDamaged
from bundler.heads import find_statement
from bundler.outgoing import outgoing
from bundler.pace import Pace
from bundler.packing import PackingList
from bundler.policy import Policy
from bundler.receipts_keep import Keeper
from bundler.receipts_read import judge, read_file
from bundler.receive import Watch, watch
from bundler.room import DONE
from bundler.rooms import Rooms
from bundler.send import send
from manifests import canonical
from manifests.store import Store
from signing.keyring import Keyring
from signing.trust import TrustStore
from tests.bundler.test_import_interrupted import check_store, live
from tests.peers.bundles import LEAF, Gap, noise, signer, tree, trusting, volumes
from tests.peers.forgery import flip, split, write

ROOT = Path(__file__).parents[2]
SIZE = 256 << 10
OPTIONS = Options(volume_size=SIZE, leaf_size=LEAF, parity="1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("receive")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=2400)
        gap.export(options=OPTIONS)
        gap.model("other", rows=1500, seed=4)
        gap.export("other", options=OPTIONS, out=root / "other")
    return gap


class Side:
    """A receiving side with a drop folder, and what it said."""

    def __init__(self, root: Path, made: Gap) -> None:
        self.root, self.drop, self.store = root, root / "drop", Store(root / "far" / "models")
        self.drop.mkdir()
        self.events: list[dict[str, Any]] = []
        self.trust = trusting(signer())
        self.stick = made.medium

    def rooms(self, *, repair: bool = False, collect: Path | None = None, trust: TrustStore | None = None) -> Rooms:
        base = collect or self.store.private / "receiving"
        return Rooms(
            base, trust or self.trust, self.events.append, store=None if collect else self.store,
            seen=Channels(self.root / "channels.json"), repair=repair,
        )  # fmt: skip

    def once(self, **options: Any) -> int:
        with self.rooms(**options) as rooms:
            watch(self.drop, rooms, once=True)
            return rooms.exit_code()

    def said(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]

    def models(self) -> list[str]:
        return sorted(name.short for name in self.store.names())


@pytest.fixture
def side(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Side(tmp_path, made)


def test_one_after_another_in_any_order(side: Side) -> None:
    """Each run sees one file more; another process each time."""
    names = [path.name for path in volumes(side.stick)]
    random.Random(3).shuffle(names)
    for name in names[:-1]:
        shutil.copy(side.stick / name, side.drop)
        assert side.once() == 4 and not side.models()
    before = tree(side.drop)
    assert not live(side.store), "nothing is visible before all is here"
    shutil.copy(side.stick / names[-1], side.drop)
    assert side.once() == 0 and side.models() == ["mine:latest"]
    check_store(side.store)
    assert {name: value for name, value in tree(side.drop).items() if name in before} == before, "only read"
    assert sorted(event["name"] for event in side.said("taken")) == sorted(names), "each once"
    (room,) = (path for path in (side.store.private / "receiving").iterdir() if path.is_dir())
    assert [path.name for path in room.iterdir()] == [DONE]
    side.events.clear()
    assert side.once() == 0 and [event["event"] for event in side.events] == ["passed"], "told, and not taken again"
    assert "brings removed models back" in side.events[0]["why"]


def test_files_may_be_taken_away_after_they_were_seen(side: Side) -> None:
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
        side.once()
        (side.drop / path.name).unlink()
    assert side.models() == ["mine:latest"]


def test_half_written_and_renamed_late(side: Side) -> None:
    """A file that grows is left alone until it is whole; a wrong name does not matter, `*.tmp` is not looked at."""
    index, first, *rest = volumes(side.stick)
    data = first.read_bytes()
    with side.rooms() as rooms:
        watcher = Watch(side.drop, rooms)
        growing = side.drop / "upload-0001"
        for end in (100, 40_000, 90_000):
            growing.write_bytes(data[:end])
            watcher.look()
        for _ in range(3):
            watcher.look()
        assert [event["event"] for event in side.events] == ["seen", "damaged"] and not side.said("taken")
        growing.write_bytes(data)
        assert watcher.look() and not side.said("taken"), "it has just changed"
        watcher.look()
        assert [event["name"] for event in side.said("taken")] == [first.name]
        late = side.drop / (index.name + ".tmp")
        shutil.copy(index, late)
        watcher.look(), watcher.look()
        assert len(side.said("taken")) == 1
        late.rename(side.drop / index.name)
        for path in rest:
            shutil.copy(path, side.drop / f"guard-{path.stat().st_ino}.bin")
        watcher.look(), watcher.look()
        rooms.advance(settled=True)
    assert side.models() == ["mine:latest"]


def test_a_file_that_is_there_and_not_yet_right(side: Side) -> None:
    """Full size from the start, bytes later: the hash decides, and what changes is looked at again."""
    for path in volumes(side.stick):
        (side.drop / path.name).write_bytes(path.read_bytes()[:60_000].ljust(path.stat().st_size, b"\0"))
    with side.rooms() as rooms:
        watcher = Watch(side.drop, rooms)
        for _ in range(3):
            watcher.look()
        right = {event["name"] for event in side.said("taken")}
        for path in volumes(side.stick):
            if path.name not in right:
                (side.drop / path.name).write_bytes(path.read_bytes())
        for _ in range(3):
            rooms.advance(settled=not watcher.look())
    assert side.models() == ["mine:latest"]


def test_several_bundles_and_junk_in_one_folder(side: Side, made: Gap) -> None:
    (side.drop / "notes.txt").write_text("not ours")
    (side.drop / "archive.tar").write_bytes(noise(5000))
    (side.drop / "SEALIFT").mkdir()
    os.mkfifo(side.drop / "pipe.tar")
    (side.drop / "link.tar").symlink_to(volumes(side.stick)[0])
    (side.drop / "mine-00000000.v000.tar").write_bytes(b"SEALIFT" + bytes(600))
    junk = tree(side.drop / "SEALIFT")
    pairs = zip(volumes(made.medium), volumes(made.root / "other"), strict=False)
    for path in [path for pair in pairs for path in pair]:
        shutil.copy(path, side.drop)
    for path in [*volumes(made.medium), *volumes(made.root / "other")]:
        shutil.copy(path, side.drop)
    shutil.copy(volumes(made.medium)[1], side.drop / "a-copy.tar")
    assert side.once() == 0
    assert side.models() == ["mine:latest", "other:latest"]
    assert tree(side.drop / "SEALIFT") == junk and (side.drop / "link.tar").is_symlink()


@pytest.mark.parametrize("lost", [False, True], ids=["whole", "a volume lost"])
def test_a_channel_arrives_in_the_order_of_its_numbers(side: Side, tmp_path: Path, lost: bool) -> None:
    """Whatever files are named: imported the other way round, the first bundle would be refused as older."""
    gap = Gap(tmp_path / "series")
    for number, label in enumerate(("zz", "aa")):
        gap.model(label, rows=1500, seed=number)
        gap.export(label, options=replace(OPTIONS, label=label, channel="series"), out=tmp_path / label)
        for path in [*volumes(tmp_path / label), *(tmp_path / label).glob("*.p*.tar")]:
            shutil.copy(path, side.drop)
    if lost:
        volumes_of_first = sorted(side.drop.glob("zz-*.v*.tar"))
        volumes_of_first[1].unlink()
    assert side.once(repair=True) == 0 and side.models() == ["aa:latest", "zz:latest"]
    assert bool(side.said("repaired")) == lost and not side.said("refused")


@pytest.mark.parametrize("renamed", [str.upper, lambda name: f"SEALED~{name[-8:-4].upper()}.TAR"], ids=["upper", "8.3"])
def test_a_guard_that_renames(side: Side, renamed: Callable[[str], str]) -> None:
    """Volumes and parity volumes are known by what is in them; one volume is lost as well."""
    for path in [*volumes(side.stick), *side.stick.glob("*.p*.tar")]:
        shutil.copy(path, side.drop / renamed(path.name))
    (side.drop / renamed(volumes(side.stick)[1].name)).unlink()
    assert side.once(repair=True) == 0 and side.said("repaired") and side.models() == ["mine:latest"]


def test_strangers_get_no_room(side: Side) -> None:
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    assert side.once(trust=trusting(signer("mallory"))) == 3
    assert len(side.said("untrusted")) == 1 and not side.models()
    assert [path.name for path in (side.store.private / "receiving").iterdir()] == ["lock"]


def test_an_approval_may_come_last(side: Side, made: Gap) -> None:
    trust = trusting(signer()).add(signer("officer").public, ["approver"])
    trust = replace(
        trust, roles=tuple(role if role.name == "publisher" else replace(role, threshold=1) for role in trust.roles)
    )
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    code = side.once(trust=trust)
    if "approver" not in trust.required_roles:
        pytest.fail("the trust of this test needs an approver")
    assert code == 3 and side.said("waiting") and not side.models()
    report = approve(examine(side.stick, trust, seen=made.seen), [signer("officer")], side.drop)
    assert report.file is not None
    assert side.once(trust=trust) == 0 and side.models() == ["mine:latest"]


def test_one_statement_with_two_sets_of_signatures(side: Side) -> None:
    """Both count, so both get a room, and it is the same folder: a mixed set is no bundle, and either whole one is."""
    other = side.root / "other"
    shutil.copytree(side.stick, other)
    document, payloads = split(other)
    write(other, canonical.encode(document), payloads, [signer(), signer("bob")])
    for number, path in enumerate(volumes(side.stick)):
        shutil.copy(volumes(other)[1] if number == 1 else path, side.drop)
    assert side.once() == 4 and side.said("damaged") and side.models() == []
    shutil.copy(volumes(side.stick)[1], side.drop / "again.tar")
    assert side.once() == 0 and side.models() == ["mine:latest"]


@pytest.mark.parametrize("lie", ["encrypted", "another id", "another name", "another size"])
def test_parts_that_lie_of_what_they_are(side: Side, lie: str) -> None:
    """Each is sound in itself and covers the whole of a file; none becomes one, and none stops the receiver."""
    found = outgoing(side.stick)
    statement, envelope = found.statement, found.envelope
    paths, stem = volumes(side.stick), layout.stem(statement)
    files = tuple((path.stat().st_size, "ab" * 32) for path in paths)
    listed = PackingList(stem=stem, clear=0, files=files)
    name, told, size = paths[2].name, envelope, files[2][0]
    identity, sealed = statement.id, lie in ("encrypted", "another id")
    if sealed:
        name, told = listed.names[2], listed.encode()
    if lie == "encrypted":
        identity = listed.id
    if lie == "another name":
        name = "other-00000000.v000.tar"
    if lie == "another size":
        size -= 1
    source = side.root / "source"
    source.write_bytes(noise(size))
    out = side.drop / f"{stem}.cv002-00001.tar"
    parts.cut(source, [(0, size)], out, identity, told, name, sealed=sealed)
    shutil.copy(paths[0], side.drop)
    assert side.once() == 4 and side.models() == []
    for path in paths:
        shutil.copy(path, side.drop)
    assert side.once() == 0 and side.models() == ["mine:latest"]


def test_receipts_are_written_for_what_was_imported_and_refused(side: Side) -> None:
    keeper = Keeper(signer=signer("rita"), folder=side.root / "receipts")
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)

    def once(base: Path, policy: Policy) -> int:
        with Rooms(base, side.trust, side.events.append, store=side.store, policy=policy,
                   seen=Channels(side.root / "channels.json"), keeper=keeper) as rooms:  # fmt: skip
            watch(side.drop, rooms, once=True)
            return rooms.exit_code()

    assert once(side.root / "one", Policy(max_bytes=1000)) == 1 and side.said("refused") and not side.models()
    assert once(side.root / "two", Policy()) == 0
    refused, arrived = (kept.receipt for kept in keeper.kept)
    assert (refused.reason, arrived.reason) == ("policy", "arrived") and refused.id == arrived.id
    assert side.said("imported")[0]["receipt"] == str(keeper.kept[1].paths[0])
    receiving = TrustStore.empty().add(signer("rita").public, ["receiver"])
    for kept in keeper.kept:
        assert judge(read_file(kept.paths[0]), receiving, "hybrid", date(2026, 11, 1)).signer == "rita"


def test_who_tries_again_and_again_says_it_once(side: Side, made: Gap) -> None:
    """A receiver in a cron job writes no receipt for each run, and none while only an approver is waited for."""
    keeper = Keeper(signer=signer("rita"), folder=side.root / "receipts")
    trust = side.trust.add(signer("officer").public, ["approver"])
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)

    def once(policy: Policy, trust: TrustStore) -> int:
        with Rooms(side.store.private / "receiving", trust, side.events.append, store=side.store, policy=policy,
                   seen=Channels(side.root / "channels.json"), keeper=keeper) as rooms:  # fmt: skip
            watch(side.drop, rooms, once=True)
            return rooms.exit_code()

    assert [once(Policy(), trust) for _ in range(2)] == [3, 3] and len(side.said("waiting")) == 2 and not keeper.kept
    assert [once(Policy(max_bytes=1000), side.trust) for _ in range(3)] == [1, 1, 1]
    assert [kept.receipt.reason for kept in keeper.kept] == ["policy"] and len(side.said("refused")) == 3
    assert once(Policy(), side.trust) == 0
    assert [kept.receipt.reason for kept in keeper.kept] == ["policy", "arrived"]


def test_parity_takes_over_when_something_stays_missing(side: Side) -> None:
    everything = [*volumes(side.stick), *side.stick.glob("*.p*.tar")]
    for path in everything:
        if path != volumes(side.stick)[2]:
            shutil.copy(path, side.drop)
    assert side.once(repair=False) == 4
    assert side.once(repair=True) == 0 and side.said("repaired") and side.models() == ["mine:latest"]


def test_a_damaged_volume_lends_what_it_has(side: Side) -> None:
    """Two volumes damaged at different places, one parity volume."""
    for path in [*volumes(side.stick), *side.stick.glob("*.p*.tar")]:
        shutil.copy(path, side.drop)
    flip(side.drop / volumes(side.stick)[1].name, 60_000)
    flip(side.drop / volumes(side.stick)[3].name, 180_000)
    before = tree(side.drop)
    assert side.once(repair=True) == 0 and side.models() == ["mine:latest"]
    assert tree(side.drop) == before and len(side.said("repaired")[0]["names"]) == 2


def test_unreadable_sectors_cost_a_block_and_no_volume(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratched disc in the place of a drop folder: two volumes that cannot be read through, one parity volume."""
    from bundler.medium import VolumeReader

    for path in [*volumes(side.stick), *side.stick.glob("*.p*.tar")]:
        shutil.copy(path, side.drop)
    bad = {(side.drop / volumes(side.stick)[i].name).stat().st_ino: at for i, at in ((1, 60_000), (3, 180_000))}
    real, real_into = os.pread, VolumeReader.read_into

    def pread(handle: int, length: int, offset: int) -> bytes:
        at = bad.get(os.fstat(handle).st_ino)
        if at is not None and offset <= at < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, length, offset)

    def read_into(self: VolumeReader, view: memoryview, what: str) -> None:
        at = bad.get(self.path.stat().st_ino)
        if at is not None and self.position <= at < self.position + len(view):
            from bundler.errors import MediumUnavailable

            raise MediumUnavailable(f"{self.path}: Input/output error")
        real_into(self, view, what)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(VolumeReader, "read_into", read_into)
    before = tree(side.drop)
    assert side.once(repair=False) == 1 and len(side.said("unreadable")) == 2
    assert side.once(repair=True) == 0 and side.models() == ["mine:latest"]
    assert tree(side.drop) == before, "the medium is only read"


def test_what_may_not_be_read_is_not_in(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of others: nothing was seen, and that is no success. In already by another way, it is."""
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    real = Path.open

    def denied(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.parent == side.drop:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *arguments, **more)

    with monkeypatch.context() as others:
        others.setattr(Path, "open", denied)
        assert side.once() == 4 and len(side.said("unreadable")) == len(volumes(side.stick))
    assert side.once() == 0 and side.models() == ["mine:latest"]


def test_a_bundle_of_which_nothing_may_be_read_is_unavailable(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object) -> None:
        raise MediumUnavailable(f"{path}: Permission denied", hint="may this user read?")

    monkeypatch.setattr("bundler.heads.read_start", denied)
    first = volumes(side.stick)[0].name
    with pytest.raises(MediumUnavailable, match="no volume's statement") as found:
        find_statement(side.stick, first.rpartition(".v")[0])
    assert found.value.exit_code == 4 and found.value.hint == "may this user read?"


def test_a_full_disk_is_told_and_survived(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    send(side.stick, side.drop, max_part=120_000)
    real = os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert side.once(repair=True) == 4 and side.said("failed") and not side.models()
    monkeypatch.setattr(os, "fsync", real)
    assert side.once(repair=True) == 0 and side.models() == ["mine:latest"]


def test_what_does_not_fit_here_is_not_asked_for_again(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the drop folder: a slip would have somebody carry it a second time."""
    for path in [*volumes(side.stick)[1:], *side.stick.glob("*.p*.tar")]:
        shutil.copy(path, side.drop)

    def link(*words: Any, **more: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(os, "fsync", full)
        assert side.once(repair=True) == 4 and side.said("failed") and not side.said("missing")
    assert side.once(repair=True) == 0 and side.said("repaired") and side.models() == ["mine:latest"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_receiver_that_runs_goes_on_when_there_is_space_again(
    side: Side, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that did not fit (they are copied), or an import that did not: told once, and tried again unasked."""
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    free, real = [0], os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def link(*words: Any, **more: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    with side.rooms() as rooms, monkeypatch.context() as patch:
        patch.setattr(rooms, "free", lambda: free[0])
        patch.setattr(os, "fsync", full)
        if not linked:
            patch.setattr(os, "link", link)
        watcher = Watch(side.drop, rooms, patient=False)
        for _ in range(3):
            watcher.look()
            rooms.advance(settled=False)
        assert len(side.said("failed")) == (1 if linked else len(volumes(side.stick))) and not side.models()
        patch.setattr(os, "fsync", real)
        watcher.look()
        rooms.advance(settled=False)
        assert not side.models(), "nothing became free"
        free[0] = 1 << 40
        watcher.look()
        rooms.advance(settled=False)
        assert side.models() == ["mine:latest"] and rooms.exit_code() == 0


def test_too_much_missing_is_a_slip_that_helps(side: Side) -> None:
    from bundler import slip
    from bundler.resend import resend

    for path in [*volumes(side.stick)[2:], *side.stick.glob("*.p*.tar")]:
        shutil.copy(path, side.drop)
    flip(side.drop / volumes(side.stick)[3].name, 180_000)
    assert side.once(repair=True) == 1
    asked = slip.parse(side.said("missing")[-1]["slip"])
    for path in resend(asked, side.root / "again", volumes=side.stick).written:
        shutil.copy(path, side.drop)
    assert side.once(repair=True) == 0 and side.models() == ["mine:latest"]


def test_collecting_only(side: Side) -> None:
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    assert side.once(collect=side.root / "in") == 0 and not side.models()
    (folder,) = (path for path in (side.root / "in").iterdir() if path.is_dir())
    assert {path.name for path in volumes(folder)} == {path.name for path in volumes(side.stick)}
    assert side.said("complete")[0]["verified"]


def test_one_receiver_at_a_time(side: Side) -> None:
    with side.rooms(), pytest.raises(BundlerBusy), side.rooms():
        pass


def test_on_another_file_system_bytes_are_copied(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: Any, **more: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    for path in volumes(side.stick):
        shutil.copy(path, side.drop)
    assert side.once() == 0 and side.models() == ["mine:latest"]


def test_a_file_that_changes_after_it_was_linked_is_found_by_the_import(side: Side) -> None:
    """A link shares its bytes with the drop folder: the import believes nothing of what was found before."""
    *most, last = volumes(side.stick)
    for path in most:
        shutil.copy(path, side.drop)
    assert side.once() == 4
    flip(side.drop / most[1].name, 100_000)
    shutil.copy(last, side.drop)
    assert side.once() != 0 and not side.models() and side.said("damaged")
    flip(side.drop / most[1].name, 100_000)
    assert side.once() == 0 and side.models() == ["mine:latest"]


PROGRAM = """
import os, signal, sys
from pathlib import Path
stop, count = int(sys.argv[2]), 0
def counted(real):
    def call(*words, **more):
        global count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **more)
    return call
os.link, os.pwrite, os.fsync = counted(os.link), counted(os.pwrite), counted(os.fsync)
Path.replace, Path.unlink, Path.rename = counted(Path.replace), counted(Path.unlink), counted(Path.rename)
from bundler.channels import Channels
from bundler.receive import watch
from bundler.rooms import Rooms
from manifests import canonical
from manifests.store import Store
from signing.keyring import Keyring
from signing.trust import TrustStore
root = Path(sys.argv[1])
store = Store(root / "far" / "models")
trust = TrustStore.empty().add(Keyring(root / "keys").load("alice", None).public, ["publisher"])
base, seen = store.private / "receiving", Channels(root / "channels.json")
with Rooms(base, trust, print, store=store, seen=seen, repair=True) as rooms:
    watch(root / "drop", rooms, once=True)
    sys.exit(rooms.exit_code())
"""


def test_kill_9_at_any_moment(side: Side) -> None:
    """Between linking, joining, restoring, staging and making visible: the next run goes on, and the store is sound."""
    Keyring(side.root / "keys").write(signer(), None)
    send(side.stick, side.drop, max_part=120_000)
    for path in list(side.drop.glob(f"*.c{volumes(side.stick)[2].name.split('.')[-2]}-*")):
        path.unlink()
    numbers, killed, code = random.Random(11), 0, 0
    for stop in [1, 2, 5, *(numbers.randrange(3, 60) for _ in range(12)), 100_000]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(side.root), str(stop)], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL), done.stderr + done.stdout
        killed += done.returncode != 0
        check_store(side.store)
        code = done.returncode
    assert killed >= 8 and code == 0 and side.models() == ["mine:latest"]


# -- sending


def test_sent_in_order_whole_and_never_over_a_file(side: Side) -> None:
    order: list[str] = []
    real = Path.replace

    def replace(self: Path, target: Any) -> Any:
        assert self.name.endswith(".tmp")
        order.append(Path(target).name)
        return real(self, target)

    (side.drop / volumes(side.stick)[1].name).write_bytes(b"another's")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        report = send(side.stick, side.drop)
    everything = [path.name for path in [*volumes(side.stick), *side.stick.glob("*.p*.tar")]]
    assert report.kept == (everything[1],) and list(report.sent) == order == [everything[0], *everything[2:]]
    assert (side.drop / everything[1]).read_bytes() == b"another's"
    assert not list(side.drop.glob("*.tmp"))


def test_cut_for_a_guard_and_joined(side: Side) -> None:
    limit = 100_000
    report = send(side.stick, side.drop, max_part=limit)
    sizes = [path.stat().st_size for path in side.drop.iterdir()]
    assert max(sizes) <= limit and len(sizes) == len(report.sent) > 2 * len(volumes(side.stick))
    assert all(len(name) <= 64 for name in report.sent)
    for path in list(side.drop.iterdir())[::2]:
        path.rename(path.with_name(f"x{path.stat().st_ino}"))  # parts are known by what they say
    assert side.once(repair=False) == 0 and side.models() == ["mine:latest"]


def test_an_interrupted_send_goes_on(side: Side) -> None:
    """The guard takes files away as they come: what was sent is remembered."""
    taken: list[str] = []

    class Stop(BaseException):
        pass

    def run(after: int) -> None:
        count = 0

        def progress(length: int) -> None:
            nonlocal count
            count += length
            for path in side.drop.glob("*.tar"):
                taken.append(path.name)
                path.unlink()
            if count > after:
                raise Stop

        send(side.stick, side.drop, max_part=120_000, repeat=2, progress=progress)

    for after in (150_000, 400_000, 500_000):
        with pytest.raises(Stop):
            run(after)
    run(1 << 40)
    taken += [path.name for path in side.drop.glob("*.tar")]
    bundle = outgoing(side.stick)
    assert set(taken) >= {name for name in bundle.names if (side.stick / name).stat().st_size < 120_000}
    assert max(taken.count(name) for name in taken) <= 3, "two rounds, and at most one more for the interruption"
    assert min(taken.count(name) for name in set(taken)) == 2
    assert not list((side.root / "home/state/sends").iterdir())


def test_what_is_damaged_or_cannot_be_cut_is_not_sent(side: Side) -> None:
    copy = side.root / "stick"
    shutil.copytree(side.stick, copy)
    flip(volumes(copy)[1], 90_000)
    with pytest.raises(VolumeDamaged):
        send(copy, side.drop)
    assert [path.name for path in side.drop.iterdir()] == [volumes(copy)[0].name]
    for limit in (1, 10_000):
        with pytest.raises(BadRequest, match="too small"):
            send(side.stick, side.drop, max_part=limit)
    with pytest.raises(BadRequest, match="the volumes themselves"):
        send(side.stick, side.stick)
    volumes(copy)[2].unlink()
    flip(volumes(copy)[1], 90_000)
    assert send(copy, side.drop).missing == (volumes(side.stick)[2].name,)


def test_pace_keeps_a_rate() -> None:
    """With a clock of its own: late is late, and not made good by a flood."""
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    pace = Pace(1000, clock=lambda: now, sleep=sleep)
    for _ in range(100):
        pace.spend(10)
    assert now == pytest.approx(1.0)
    now += 50
    for _ in range(100):
        pace.spend(10)
    assert now == pytest.approx(52.0, abs=0.02)
    Pace(None, sleep=lambda seconds: pytest.fail("no rate, no wait")).spend(1e12)


def test_the_verbs(side: Side, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sealift

    monkeypatch.setenv("SEALIFT_MODELS", str(side.root / "models"))
    trust = side.root / "trust.toml"
    trust.write_bytes(side.trust.encode())

    def run(*words: str) -> tuple[int, str]:
        code = sealift.run(["bundle", *words])
        return code, capsys.readouterr().out

    code, out = run("send", str(side.stick), "--to", str(side.drop), "--max-part", "120000", "--json")
    assert code == 0 and json.loads(out)["sent"]
    code, out = run("receive", "--watch", str(side.drop), "--once", "--trust", str(trust), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and events[0]["event"] == "seen" and events[-1]["event"] == "imported"
    code, out = run("send", str(side.stick), "--to", str(side.drop), "--max-part", "120000")
    assert code == 0 and "lay there already" in out
    min(side.drop.glob("*.cv001-*")).unlink()  # of the weights: without one of parity's parts nothing would be lacking
    code, out = run(
        "receive",
        "--watch",
        str(side.drop),
        "--once",
        "--trust",
        str(trust),
        "-o",
        str(side.root / "in"),
        "--no-repair",
    )
    assert code == 4 and "seen mine-" in out
    assert run("receive", "--watch", str(side.root / "none"), "--once", "--trust", str(trust))[0] == 4
    assert parts.MAX_RANGES >= 64
