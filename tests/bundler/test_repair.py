"""Repair: what is lost, up to the number of parity volumes, comes back byte for byte; beyond, it is a list."""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler import gf256, layout, parity
from bundler.draft import Options
from bundler.errors import BundleRefused, BundlerError, RepairImpossible, VolumeMissing, VolumeMixed
from bundler.expected import of_statement
from bundler.medium import open_medium
from bundler.repair import RepairReport, repair
from manifests import canonical
from signing.errors import SigningError
from tests.peers.bundles import LEAF, Gap, tree, volumes
from tests.peers.forgery import flip, statement_of

SIZE = 112 << 10
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("repair")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=640)
        gap.export(options=Options(volume_size=SIZE, leaf_size=LEAF, parity="2"))
    assert len(volumes(gap.medium)) >= 5
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


def tars(folder: Path) -> list[Path]:
    """Volumes, then parity volumes."""
    return [*volumes(folder), *sorted(folder.glob("*.p*.tar"))]


def whole(made: Gap, gap: Gap) -> bool:
    """All data volumes have the bytes they were exported with."""
    return all((gap.medium / path.name).read_bytes() == path.read_bytes() for path in volumes(made.medium))


def mend(gap: Gap) -> RepairReport:
    return repair(gap.medium, gap.medium)


def ahead(gap: Gap, index: int = 0) -> int:
    """Bytes before a payload."""
    return len(layout.head(statement_of(gap.medium), open_medium(gap.medium).envelope, index))


def test_nothing_to_do(made: Gap, gap: Gap) -> None:
    before = tree(gap.medium)
    report = mend(gap)
    assert not report.damaged and not report.written and not report.parity and tree(gap.medium) == before


def test_any_two_volumes_may_be_lost(made: Gap, gap: Gap) -> None:
    """Every choice of one and of two among volumes and parity volumes."""
    names = [path.name for path in tars(made.medium)]
    n_data = len(volumes(made.medium))
    for lost in [*itertools.combinations(names, 1), *itertools.combinations(names, 2)]:
        for name in lost:
            (gap.medium / name).unlink()
        if set(lost) == set(names[n_data:]):
            assert not mend(gap).damaged, "all volumes are here: nothing needs the parity"
            for name in lost:
                shutil.copy(made.medium / name, gap.medium / name)
            continue
        report = mend(gap)
        assert [damage.name for damage in report.damaged] == [name for name in lost if name in names[:n_data]]
        assert all(damage.missing for damage in report.damaged)
        assert list(report.parity) == [name for name in lost if name in names[n_data:]]
        assert whole(made, gap)
        for name in lost:
            shutil.copy(made.medium / name, gap.medium / name)
    assert gap.verify().complete


def zero(path: Path, numbers: random.Random) -> None:
    data = bytearray(path.read_bytes())
    first = numbers.randrange(len(data))
    end = min(len(data), first + numbers.randrange(1, 20_000))
    data[first:end] = bytes(end - first)
    path.write_bytes(data)


def cut(path: Path, numbers: random.Random) -> None:
    os.truncate(path, numbers.randrange(path.stat().st_size))


def lengthen(path: Path, numbers: random.Random) -> None:
    with path.open("ab") as file:
        file.write(numbers.randbytes(numbers.randrange(1, 5000)))


def drop(path: Path, numbers: random.Random) -> None:
    """Bytes taken from the middle: everything behind them lies elsewhere."""
    data, at = path.read_bytes(), numbers.randrange(path.stat().st_size)
    path.write_bytes(data[:at] + data[at + numbers.randrange(1, 2000) :])


def sprinkle(path: Path, numbers: random.Random) -> None:
    for _ in range(numbers.randrange(1, 40)):
        flip(path, numbers.randrange(path.stat().st_size), 1 << numbers.randrange(8))


def swap_for_folder(path: Path, numbers: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (zero, cut, lengthen, drop, sprinkle, swap_for_folder)


@pytest.mark.parametrize("seed", range(30))
def test_two_volumes_damaged_anywhere_are_restored(made: Gap, gap: Gap, seed: int) -> None:
    numbers = random.Random(seed)
    for path in numbers.sample(tars(gap.medium), 2):
        for damage in numbers.sample(DAMAGES[:5], numbers.randrange(1, 3)):
            damage(path, numbers)
    mend(gap)
    assert whole(made, gap)
    assert gap.verify().complete


def test_something_else_under_a_volumes_name(made: Gap, gap: Gap) -> None:
    swap_for_folder(volumes(gap.medium)[1], random.Random())
    assert [damage.missing for damage in mend(gap).damaged] == [True]
    assert whole(made, gap)


def test_every_volume_may_be_damaged_if_not_at_one_place(made: Gap, gap: Gap) -> None:
    """Rows are restored one by one, so many more volumes than two may have lost something."""
    block = parity.open_parity(tars(gap.medium)[-1]).header.block
    start = ahead(gap)
    found = tars(gap.medium)
    for number, path in enumerate(found[:-2]):
        flip(path, start + (number * block if number else 100))
    report = mend(gap)
    assert len(report.damaged) == len(found) - 2
    assert whole(made, gap)


def test_ranges_say_where(gap: Gap) -> None:
    block, start = parity.open_parity(tars(gap.medium)[-1]).header.block, ahead(gap, 2)
    path = volumes(gap.medium)[2]
    for offset in (3, start + 2 * block, start + 3 * block + 5, start + 6 * block):
        flip(path, offset)
    report = repair(gap.medium)
    (damage,) = report.damaged
    assert damage.ranges == (
        (0, start), (start + 2 * block, start + 4 * block), (start + 6 * block, start + 7 * block),
    )  # fmt: skip
    assert not report.written and json.dumps(report.as_dict())
    assert f"{start + 2 * block:,} to {start + 4 * block - 1:,}" in damage.sentence()


# -- too much


def test_more_than_the_parity_is_refused_with_a_list(gap: Gap) -> None:
    names = [path.name for path in tars(gap.medium)]
    for lost in ((0, 1, 2), (0, 1, -1), (1, -1, -2)):
        folder = gap.root / f"lost{lost[2]}{lost[1]}"
        shutil.copytree(gap.medium, folder)
        for index in lost:
            (folder / names[index]).unlink()
        before = tree(folder)
        with pytest.raises(BundlerError) as caught:
            repair(folder, folder)
        assert tree(folder) == before and caught.value.exit_code == 1
        if lost == (1, -1, -2):
            assert "no parity volumes here" in str(caught.value)
        assert isinstance(caught.value, RepairImpossible)
        assert [item.name for item in caught.value.missing] == [names[i] for i in lost if i >= 0]
        asked = lost if lost != (1, -1, -2) else (1,)
        assert caught.value.hint and all(names[i] in caught.value.hint for i in asked)


def test_only_the_places_that_are_beyond_are_listed(gap: Gap) -> None:
    block, start = parity.open_parity(tars(gap.medium)[-1]).header.block, ahead(gap)
    for path in volumes(gap.medium)[1:4]:
        flip(path, start + 4 * block + 9)
    flip(volumes(gap.medium)[1], start + 1)
    before = tree(gap.medium)
    with pytest.raises(RepairImpossible, match=r"in 1 of \d+ rows") as caught:
        mend(gap)
    assert tree(gap.medium) == before
    assert [item.ranges for item in caught.value.missing] == [((start + 4 * block, start + 5 * block),)] * 3
    assert caught.value.hint and caught.value.hint.startswith("get 1 of these again")


# -- parity that is wrong


def test_damaged_parity_is_found_and_not_used(made: Gap, gap: Gap) -> None:
    opened = parity.open_parity(tars(gap.medium)[-1])
    flip(opened.path, parity.place(opened.first, 0) + 10)
    report = mend(gap)
    assert report.parity == (opened.path.name,) and not report.damaged
    volumes(gap.medium)[1].unlink()
    assert mend(gap).written and whole(made, gap)
    for path in volumes(gap.medium)[1:3]:
        path.unlink()
    with pytest.raises(RepairImpossible, match="in 1 of"):
        mend(gap)
    flip(tars(gap.medium)[-2], 5)  # the other one's head
    with pytest.raises(RepairImpossible):
        mend(gap)


def altered(path: Path, change: Callable[[bytearray, parity.ParityVolume], None]) -> None:
    """A parity volume that is sound in itself and says something else: parity is not signed."""
    import hashlib
    from dataclasses import replace

    opened, data = parity.open_parity(path), bytearray(path.read_bytes())
    change(data, opened)
    size = opened.header.table_size
    begin = opened.first - size - (-size % 512)
    header = replace(opened.header, table=hashlib.sha256(data[begin : begin + size]).hexdigest())
    raw = data.replace(opened.header.encode(), header.encode())
    path.write_bytes(raw)


def test_lying_parity_restores_nothing(gap: Gap) -> None:
    """Its table accepts other parity bytes, so wrong data comes out: the statement's hash tells."""
    import hashlib

    def lie(data: bytearray, opened: parity.ParityVolume) -> None:
        at = parity.place(opened.first, 0)
        data[at] ^= 1
        size = opened.header.table_size
        begin = opened.first - size - (-size % 512)
        entry = begin + (opened.header.data + opened.index) * 32
        data[entry : entry + 32] = hashlib.sha256(data[at : at + opened.header.block]).digest()

    altered(tars(gap.medium)[-2], lie)
    tars(gap.medium)[-1].unlink()
    volumes(gap.medium)[1].unlink()
    before = tree(gap.medium)
    with pytest.raises(BundleRefused, match="not what the statement says"):
        mend(gap)
    assert tree(gap.medium) == before


def test_parity_of_another_bundle(made: Gap, gap: Gap) -> None:
    other = Gap(gap.root / "other")
    other.model(rows=640, seed=9)
    other.export(options=Options(volume_size=SIZE, leaf_size=LEAF, parity="2"))
    for theirs, ours in zip(tars(other.medium)[-2:], tars(gap.medium)[-2:], strict=True):
        shutil.copy(theirs, ours)
    volumes(gap.medium)[1].unlink()
    with pytest.raises(VolumeMixed, match="another bundle"):
        mend(gap)
    shutil.copy(tars(made.medium)[-1], gap.medium)
    shutil.copy(tars(made.medium)[-2], gap.medium)
    shutil.copy(volumes(other.medium)[0], gap.medium)
    with pytest.raises(VolumeMixed, match="2 bundles"):
        mend(gap)
    named = next(path for path in volumes(gap.medium) if open_medium(made.medium).stem in path.name)
    assert [damage.name for damage in repair(named, gap.medium).damaged] == [volumes(made.medium)[1].name]


def test_without_parity_there_is_nothing_to_repair_with(gap: Gap) -> None:
    for path in tars(gap.medium)[-2:]:
        path.unlink()
    volumes(gap.medium)[1].unlink()
    with pytest.raises(RepairImpossible, match="no parity volumes"):
        mend(gap)
    with pytest.raises(VolumeMissing):
        repair(gap.root)


# -- the medium, and interruptions


def test_unreadable_sectors_are_lost_blocks(made: Gap, gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, real = {volumes(gap.medium)[i].stat().st_ino for i in (1, 3)}, os.pread

    def pread(handle: int, length: int, offset: int) -> bytes:
        if os.fstat(handle).st_ino in bad and offset <= 50_000 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    report = mend(gap)
    monkeypatch.undo()
    assert [damage.name for damage in report.damaged] == [volumes(made.medium)[i].name for i in (1, 3)]
    assert whole(made, gap)


def test_another_folder_gets_only_what_was_damaged(made: Gap, gap: Gap) -> None:
    lost, hurt = volumes(gap.medium)[1], volumes(gap.medium)[2]
    lost.unlink()
    flip(hurt, 70_000)
    before, out = tree(gap.medium), gap.root / "restored"
    report = repair(gap.medium, out)
    assert tree(gap.medium) == before, "the medium is only read"
    assert sorted(path.name for path in out.iterdir()) == sorted([lost.name, hurt.name])
    assert all((out / path.name).read_bytes() == (made.medium / path.name).read_bytes() for path in (lost, hurt))
    assert set(report.written) == {out / lost.name, out / hurt.name}


KILLED = """
import os, signal, sys
from pathlib import Path
from bundler import repair
stop, count = int(sys.argv[2]), 0
def counted(real):
    def call(*words, **more):
        global count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **more)
    return call
repair.write_all = counted(repair.write_all)
Path.replace = counted(Path.replace)
repair.repair(Path(sys.argv[1]), Path(sys.argv[1]))
"""


def killed_at(stop: int, folder: Path) -> int:
    """A repair of the folder in place, killed at its write or renaming number `stop`; its exit code."""
    words = [sys.executable, "-c", KILLED, str(folder), str(stop)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_kill_9_at_any_moment(made: Gap, gap: Gap) -> None:
    """Between any two writes and between the renames: what was whole stays whole, and running it again finishes."""
    good = {path.name: path.read_bytes() for path in volumes(made.medium)}
    killed = 0
    for stop in (1, 2, 9, 20, 33, 34, 35, 36, 37, 1000):
        flip(volumes(gap.medium)[1], 70_000)
        (gap.medium / volumes(made.medium)[2].name).unlink()
        done = killed_at(stop, gap.medium)
        killed += done != 0
        for name in (volumes(made.medium)[0].name, volumes(made.medium)[3].name):
            assert (gap.medium / name).read_bytes() == good[name]
        mend(gap)
        assert whole(made, gap)
    assert killed >= 5 and done == 0


def with_other_signatures(gap: Gap) -> None:
    """All parity volumes carry the statement with a signature that is none, and are sound in themselves."""
    for path in gap.medium.glob("*.p*.tar"):
        opened, raw = parity.open_parity(path), path.read_bytes()
        made = json.loads(opened.told)
        wrong = bytes(len(base64.b64decode(made["signatures"][0]["sig"])))
        made["signatures"][0]["sig"] = base64.b64encode(wrong).decode()
        told = canonical.encode(made)
        sums = [hashlib.sha256(some).hexdigest().encode() for some in (opened.told, told)]
        assert len(told) == len(opened.told) and raw.count(sums[0]) == 1
        path.write_bytes(raw.replace(opened.told, told).replace(sums[0], sums[1]))


def test_parity_with_other_signatures_is_outvoted(made: Gap, gap: Gap) -> None:
    """It is not signed, so whoever can write one parity volume would make all signatures go."""
    with_other_signatures(gap)
    assert repair(gap.medium).damaged == ()
    flip(volumes(gap.medium)[1], 300)
    volumes(gap.medium)[2].unlink()
    mend(gap)
    assert whole(made, gap)


def test_a_head_that_is_sound_and_differs_is_kept(made: Gap, gap: Gap) -> None:
    """Of as many copies, those that parity volumes carry count; which are right is said by who judges signatures."""
    with_other_signatures(gap)
    good = {path.name: path.read_bytes() for path in volumes(gap.medium)}
    for path in volumes(gap.medium)[2:]:
        flip(path, 10)
    report = repair(gap.medium, gap.medium)
    assert [path.name for path in report.kept] == [f"{name}.before" for name in sorted(good)[:2]]
    with pytest.raises(SigningError):
        gap.verify()
    for path in report.kept:
        assert path.read_bytes() == good[path.name.removesuffix(".before")]


def test_a_full_medium_leaves_what_was_there(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    from bundler import repair as module

    volumes(gap.medium)[1].unlink()
    before = tree(gap.medium)

    def full(file: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_all", full)
    with pytest.raises(BundlerError, match="No space"):
        mend(gap)
    assert tree(gap.medium) == before


def test_links_on_the_medium_are_not_followed(made: Gap, gap: Gap) -> None:
    precious, lost = gap.root / "precious", volumes(gap.medium)[1]
    precious.write_bytes(b"mine")
    lost.unlink()
    lost.symlink_to(precious)
    lost.with_name(lost.name + ".tmp").symlink_to(precious)
    mend(gap)
    assert whole(made, gap) and not lost.is_symlink() and precious.read_bytes() == b"mine"
    for path in tars(gap.medium)[-2:]:
        path.unlink()
        path.with_name(path.name + ".tmp").symlink_to(precious)
    parity.write(gap.medium, of_statement(statement_of(gap.medium), open_medium(gap.medium).envelope), 2)
    assert precious.read_bytes() == b"mine"


def test_shards_in_several_members(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind 4 GiB the parity goes on in a further member; here behind 16 KiB."""
    monkeypatch.setattr(parity, "MAX_SEGMENT", 16 << 10)
    good = {path.name: path.read_bytes() for path in volumes(gap.medium)}
    for path in tars(gap.medium)[-2:]:
        path.unlink()
    parity.write(gap.medium, of_statement(statement_of(gap.medium), open_medium(gap.medium).envelope), 2)
    with tarfile.open(tars(gap.medium)[-1]) as archive:
        names = [name for name in archive.getnames() if name.startswith("parity/")]
    assert names == [f"parity/{offset:016x}" for offset in range(0, 16384 * len(names), 16384)] and len(names) > 2
    for path in volumes(gap.medium)[1:3]:
        path.unlink()
    mend(gap)
    assert {path.name: path.read_bytes() for path in volumes(gap.medium)} == good


# -- the command line


def test_the_verb(made: Gap, gap: Gap, capsys: pytest.CaptureFixture[str]) -> None:
    import sealift

    def run(*words: str) -> tuple[int, str, str]:
        code = sealift.run(["bundle", "repair", str(gap.medium), *words])
        out, err = capsys.readouterr()
        return code, out, err

    assert "all volumes are whole" in run()[1]
    lost = volumes(gap.medium)[1]
    lost.unlink()
    code, out, _ = run()
    assert code == 0 and f"{lost.name} (not here)" in out and "--in-place" in out and not lost.exists()
    assert run("--in-place", "-o", "x")[0] == 2
    code, out, _ = run("--in-place", "--json")
    assert code == 0 and json.loads(out)["written"] == [str(lost)] and whole(made, gap)
    for path in volumes(gap.medium)[:3]:
        path.unlink()
    code, out, err = run("--in-place")
    assert code == 1 and out.startswith("SEALIFT SLIP 1 ") and lost.name in err
    assert gf256.MAX_SHARDS == 255


def test_a_damaged_signature_is_not_spread_over_sound_heads(made: Gap, gap: Gap) -> None:
    """Found by `scripts/attack mutate`: one head's flipped bit became the head of all."""
    for path in gap.medium.glob("*.p*.tar"):
        path.unlink()
    first = volumes(gap.medium)[0]
    at = first.read_bytes().index(b'"sig":"') + 20
    flip(first, at)
    assert [item.name for item in repair(gap.medium, gap.medium).damaged] == [first.name]
    assert whole(made, gap)
