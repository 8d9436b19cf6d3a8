"""The way of a slip: damage here, a slip, just those bytes from there, and the bundle is whole again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from bundler import parts, slip
from bundler.draft import Options
from bundler.errors import BadRequest, PartRefused, RepairImpossible, SlipRefused, VolumeDamaged, VolumeMissing
from bundler.repair import repair, survey
from bundler.resend import resend
from bundler.slip import Slip, Want
from tests.bundler.test_repair import ahead, tars
from tests.peers.bundles import LEAF, Gap, noise, signer, tree, trusting, volumes
from tests.peers.forgery import flip, statement_of

SIZE = 256 << 10


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=2400)
    gap.export(options=Options(volume_size=SIZE, leaf_size=LEAF))
    shutil.copytree(gap.medium, tmp_path / "kept")
    assert len(volumes(gap.medium)) >= 5
    return gap


def slip_of(gap: Gap) -> Slip:
    with pytest.raises(RepairImpossible) as caught:
        repair(gap.medium, gap.medium)
    assert slip.parse(caught.value.slip.text(caught.value.stem)) == caught.value.slip
    return caught.value.slip


def whole(gap: Gap) -> bool:
    return all((gap.medium / path.name).read_bytes() == path.read_bytes() for path in volumes(gap.root / "kept"))


@pytest.mark.parametrize("source", ["volumes", "store"])
def test_damage_without_parity_comes_back_by_a_slip(gap: Gap, source: str) -> None:
    lost, hurt, index = volumes(gap.medium)[1], volumes(gap.medium)[2], volumes(gap.medium)[0]
    lost.unlink()
    flip(hurt, ahead(gap, 2) + 10_000)
    flip(index, 7)
    before = tree(gap.medium)
    asked = slip_of(gap)
    assert tree(gap.medium) == before, "the medium is only read"
    assert [want.volume for want in asked.wants] == [1, 2] and not asked.wants[0].ranges, "a head needs no bytes"
    assert sum(end - first for first, end in asked.wants[1].ranges) <= 3, "a leaf, and what its borders share"
    out = gap.root / "again"
    report = resend(asked, out, volumes=gap.root / "kept" if source == "volumes" else None, store=gap.near)
    assert report.source == source and json.dumps(report.as_dict())
    small, large = sorted((path.stat().st_size, path.name) for path in out.iterdir())
    assert large == (lost.stat().st_size if lost.exists() else large[0], lost.name) and small[0] < 80_000
    for path in out.iterdir():
        shutil.copy(path, gap.medium)
    assert len(repair(gap.medium).damaged) == 2
    assert len(repair(gap.medium, gap.medium).written) == 2
    assert whole(gap) and gap.verify().complete
    assert gap.bring_in().complete, "parts that stay behind disturb nobody"


def test_a_lost_index_volume_is_a_slip_too(gap: Gap) -> None:
    volumes(gap.medium)[0].unlink()
    flip(volumes(gap.medium)[0], ahead(gap, 1) + 30_000)
    asked = slip_of(gap)
    assert asked.wants == (Want(volume=0), Want(volume=1)), "without leaf lists a volume is judged as a whole"
    resend(asked, gap.root / "again", store=gap.near)
    for path in (gap.root / "again").iterdir():
        shutil.copy(path, gap.medium)
    assert not repair(gap.medium, gap.medium).damaged and whole(gap)


def test_parity_and_parts_together(gap: Gap, tmp_path: Path) -> None:
    """Three volumes lost, one parity volume: two are asked for; of a bad row, as many blocks as are beyond."""
    for path in tars(gap.medium):
        path.unlink()
    options = Options(volume_size=SIZE, leaf_size=LEAF, parity="1")
    gap.export(options=options)
    shutil.rmtree(gap.root / "kept")
    shutil.copytree(gap.medium, gap.root / "kept")
    for path in volumes(gap.medium)[1:4]:
        flip(path, ahead(gap) + 20_000)
    asked = slip_of(gap)
    assert [want.volume for want in asked.wants] == [1, 2]
    for path in resend(asked, tmp_path / "again", volumes=gap.root / "kept").written:
        assert path.stat().st_size < SIZE / 2
        shutil.copy(path, gap.medium)
    assert len(repair(gap.medium, gap.medium).written) == 3 and whole(gap)
    for path in volumes(gap.medium)[1:4]:
        path.unlink()
    assert [(want.volume, want.ranges) for want in slip_of(gap).wants] == [(1, ()), (2, ())]


def test_unreadable_sectors_without_parity(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, real = volumes(gap.medium)[2].stat().st_ino, os.pread

    def pread(handle: int, length: int, offset: int) -> bytes:
        if os.fstat(handle).st_ino == bad and offset <= 80_000 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    asked = slip_of(gap)
    (want,) = asked.wants
    assert want.volume == 2 and sum(end - first for first, end in want.ranges) <= 3
    for path in resend(asked, gap.root / "again", store=gap.near).written:
        shutil.copy(path, gap.medium)
    out = gap.root / "mended"
    before = tree(gap.medium)
    repair(gap.medium, out)
    assert tree(gap.medium) == before
    assert [path.read_bytes() for path in out.iterdir()] == [volumes(gap.root / "kept")[2].read_bytes()]


def test_hostile_parts_spoil_nothing(gap: Gap) -> None:
    """Over sound bytes they are not used; over damaged ones they do not help."""
    statement, good = statement_of(gap.medium), volumes(gap.root / "kept")[2]
    bad = gap.root / good.name
    bad.write_bytes(noise(good.stat().st_size, 5))
    from bundler.medium import open_medium

    envelope = open_medium(gap.medium).envelope
    part = gap.medium / parts.file_name(good.name, "r", 1)
    parts.cut(bad, [(0, bad.stat().st_size)], part, statement.id, envelope)
    before = tree(gap.medium)
    assert not repair(gap.medium, gap.medium).damaged and tree(gap.medium) == before
    flip(volumes(gap.medium)[2], 100_000)
    assert slip_of(gap).wants[0].volume == 2
    assert gap.medium / good.name in volumes(gap.medium)


def test_every_byte_of_a_part_is_pinned(gap: Gap) -> None:
    """Its head is refused, or its data are found wrong: never taken as they are."""
    from bundler.medium import open_medium

    source, envelope = volumes(gap.medium)[1], open_medium(gap.medium).envelope
    path = gap.root / parts.file_name(source.name, "c", 1)
    parts.cut(source, [(0, 700), (5000, 9000)], path, statement_of(gap.medium).id, envelope)
    good = path.read_bytes()
    part, carried = parts.open_part(path)
    part.check()
    assert carried == envelope and part.ranges == ((0, 700), (5000, 9000))
    assert list(part.read(600, 5002)) == [(600, source.read_bytes()[600:700]), (5000, source.read_bytes()[5000:5002])]
    skipped = range(1024 + 512, 1024 + 512 + len(envelope))  # the envelope is compared with the bundle's by its reader
    for offset in [*range(0, 1536, 7), *range(skipped.stop, len(good), 5)]:
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :])
        if offset in range(512, 1024):  # the line: another id, name or size, all of which its reader compares
            continue
        with pytest.raises((PartRefused, VolumeDamaged)):
            parts.open_part(path)[0].check()
    for length in (0, 100, 600, 2000, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises((PartRefused, VolumeDamaged)):
            parts.open_part(path)
    path.write_bytes(good + bytes(512))
    with pytest.raises(VolumeDamaged):
        parts.open_part(path)


def test_what_a_slip_may_not_ask(gap: Gap) -> None:
    statement = statement_of(gap.medium)
    out, kept = gap.root / "again", gap.root / "kept"
    with pytest.raises(SlipRefused, match="asks for number 77"):
        resend(Slip(id=statement.id, wants=(Want(volume=77),)), out, volumes=kept)
    with pytest.raises(SlipRefused, match="behind its end"):
        resend(Slip(id=statement.id, wants=(Want(volume=1, ranges=((1 << 30, (1 << 30) + 1),)),)), out, volumes=kept)
    with pytest.raises(VolumeMissing):
        resend(Slip(id="0" * 32, wants=(Want(volume=0),)), out, volumes=kept)
    with pytest.raises(VolumeMissing, match="not exported by this host"):
        resend(Slip(id="0" * 32, wants=(Want(volume=0),)), out, store=gap.near)
    with pytest.raises(BadRequest, match="the volumes themselves"):
        resend(Slip(id=statement.id, wants=(Want(volume=0),)), kept, volumes=kept)
    asked = Slip(id=statement.id, wants=(Want(volume=1),))
    resend(asked, out, volumes=kept)
    with pytest.raises(BadRequest, match="stays as it is"):
        resend(asked, out, volumes=kept)
    flip(volumes(kept)[1], 70_000)
    with pytest.raises(VolumeDamaged):
        resend(asked, gap.root / "other", volumes=kept)
    assert not list((gap.root / "other").iterdir())


def test_the_verbs(gap: Gap, capsys: pytest.CaptureFixture[str]) -> None:
    import sealift

    def run(*words: str) -> tuple[int, str, str]:
        code = sealift.run(["bundle", *words])
        out, err = capsys.readouterr()
        return code, out, err

    flip(volumes(gap.medium)[2], ahead(gap, 2) + 10_000)
    file, svg = gap.root / "slip.txt", gap.root / "slip.svg"
    code, out, err = run("repair", str(gap.medium), "--slip", str(file), "--qr", str(svg))
    assert code == 1 and out.startswith("SEALIFT SLIP 1 mine-") and out == file.read_text() and svg.exists()
    assert all(line.startswith("sealift: ") for line in err.splitlines())
    code, out, _ = run("repair", str(gap.medium), "--json")
    assert code == 1 and slip.parse(json.loads(out)["slip"]) == slip.parse(file.read_text())
    code, out, _ = run("resend", str(file), "-o", str(gap.root / "again"), "--from", str(gap.root / "kept"))
    assert code == 0 and "written: " in out
    code, out, _ = run("send", str(gap.root / "again"), "--udp", "127.0.0.1:9")
    assert code == 2 and not out
    trust = gap.root / "trust.toml"
    trust.write_bytes(trusting(signer()).encode())
    code, out, err = run("verify", str(gap.medium), "--trust", str(trust), "--slip", str(gap.root / "verify.txt"))
    assert code == 1 and slip.parse((gap.root / "verify.txt").read_text()) == slip.parse(file.read_text())
    for verb in ("verify", "import"):
        assert "sealift bundle repair" in run(verb, str(gap.medium), "--trust", str(trust))[2]
    assert run("resend", str(gap.root / "none.txt"), "-o", str(gap.root / "x"))[0] == 4
    file.write_text("SEALIFT SLIP 1\n001 AAAAA AA\n")
    code, out, err = run("resend", str(file), "-o", str(gap.root / "x"))
    assert code == 1 and "the slip: line 1 has a mistake" in err and not out
    with pytest.raises(RepairImpossible):
        survey(gap.medium)
