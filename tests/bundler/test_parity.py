"""The code over GF(2^8), and parity volumes: against a slow twin, against the vectors of the page, and mangled."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler import gf256, layout, parity
from bundler.draft import Options
from bundler.errors import BadRequest, BundlerError, ExportRefused, VolumeDamaged
from bundler.parity import Header
from bundler.repair import repair
from manifests.errors import ManifestsError
from tests.peers.bundles import LEAF, Gap, signer, trusting, volumes
from tests.peers.forgery import flip, statement_of

PAGE = Path(__file__).parents[2] / "docs/formats/parity.md"
SIZE = 112 << 10  # bytes of a volume: the statement with room for signatures takes about 50 KiB of it


def slow(a: int, b: int) -> int:
    """Multiply as polynomials, then divide by 0x11D and keep the rest."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) if b >> bit & 1 else 0
    for bit in range(14, 7, -1):
        product ^= (0x11D << (bit - 8)) if product >> bit & 1 else 0
    return product


# -- the field and the code


def test_products_are_those_of_the_slow_twin() -> None:
    assert all(gf256.multiply(a, b) == slow(a, b) for a in range(256) for b in range(256))
    assert all(slow(a, gf256.inverse(a)) == 1 for a in range(1, 256))


def test_coefficients_are_a_cauchy_matrix() -> None:
    """1 / (x + y) with all x and all y different, for every shape with k + m <= 255."""
    for j, i in itertools.product(range(64), range(191)):
        assert slow(gf256.coefficient(j, i), (255 - j) ^ i) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_k_of_all_shards_give_the_others(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 40))
    m = data.draw(st.integers(1, 12))
    lost = data.draw(st.lists(st.integers(0, k - 1), unique=True, min_size=1, max_size=min(k, m)))
    left = data.draw(st.permutations(range(m)))[: len(lost)]
    numbers = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    shards = [numbers.integers(0, 256, 64, dtype=np.uint8) for _ in range(k)]
    made = parity.encode_row(m, shards)
    known = [None if i in lost else shards[i] for i in range(k)] + [made[j] for j in left]
    found = gf256.combine(gf256.restoration(lost, left, k), known)
    assert [array.tobytes() for array in found] == [shards[i].tobytes() for i in lost]


@pytest.mark.parametrize("length", [8, 4096, (16 << 10) - 8, (16 << 10) + 8, 100_000])
def test_sums_of_products_are_those_of_the_slow_twin(length: int) -> None:
    numbers = random.Random(length)
    rows = [[numbers.randrange(256) for _ in range(5)] for _ in range(3)]
    shards = [np.frombuffer(numbers.randbytes(length), np.uint8) for _ in range(5)]
    for row, made in zip(rows, gf256.combine(rows, shards), strict=True):
        for at in (0, 7, length // 2, length - 8, length - 1):
            wanted = 0
            for factor, shard in zip(row, shards, strict=True):
                wanted ^= slow(factor, int(shard[at]))
            assert made[at] == wanted


def test_the_vectors_of_the_page() -> None:
    """`data i: bytes` and `parity j: bytes`, of k = 3 and m = 2; and the coefficients."""
    text = PAGE.read_text()
    shards = [bytes.fromhex(found) for found in re.findall(r"^data +\d+ +((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)]
    made = [bytes.fromhex(found) for found in re.findall(r"^parity +\d+ +((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)]
    factors = [
        bytes.fromhex(found) for found in re.findall(r"^factors +\d+ +((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)
    ]
    assert (len(shards), len(made), len(factors)) == (3, 2, 2)
    assert [list(row) for row in factors] == [[gf256.coefficient(j, i) for i in range(3)] for j in range(2)]
    found = parity.encode_row(2, [np.frombuffer(shard, np.uint8) for shard in shards])
    assert [array.tobytes() for array in found] == made
    for row, line in zip(factors, made, strict=True):
        for at, byte in enumerate(line):
            total = 0
            for factor, shard in zip(row, shards, strict=True):
                total ^= slow(factor, shard[at])
            assert total == byte


# -- how much


def test_shares_and_numbers() -> None:
    assert [parity.wanted(text, 20) for text in ("10%", "1%", "3", "100%", " 12% ")] == [2, 1, 3, 20, 3]
    for text in ("0", "0%", "-1", "ten", "1.5%", "10%%", "", "1000"):
        with pytest.raises(BadRequest):
            parity.wanted(text, 20)
    assert parity.wanted("1", 254) == 1
    with pytest.raises(BadRequest, match="255 together"):
        parity.wanted("2", 254)


@given(st.integers(1, 254), st.integers(1, 1 << 42))
def test_a_plan_is_readable_and_its_table_bounded(data: int, length: int) -> None:
    header = parity.plan([length], 1)
    header = Header(block=header.block, data=data, parity=1, length=length, envelope="0" * 64, table="0" * 64)
    if header.table_size <= parity.MAX_TABLE:
        assert Header.decode(header.encode()) == header
    else:
        with pytest.raises(ManifestsError):
            Header.decode(header.encode())
    try:
        planned = parity.plan([length] * data, 1)
    except BadRequest:
        assert (data + 1) * length // parity.MAX_BLOCK * 32 > parity.MAX_TABLE - 32 * 256
        return
    assert planned.table_size <= parity.MAX_TABLE and Header.decode(planned.encode()) == planned


@pytest.mark.parametrize(
    ("field", "value"),
    [("block", 4097), ("block", 2048), ("block", 8 << 20), ("block", True), ("data", 0), ("data", 255), ("parity", 0),
     ("length", 0), ("length", 1 << 50), ("length", -1), ("length", 1.5), ("table", "0" * 63), ("envelope", "G" * 64),
     ("more", 1)],
)  # fmt: skip
def test_headers_that_are_refused(field: str, value: object) -> None:
    good = json.loads(parity.plan([1 << 20, 5], 2).encode())
    raw = json.dumps(good | {field: value}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestsError):
        Header.decode(raw)


# -- parity volumes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("parity")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=640)
        report = gap.export(options=Options(volume_size=SIZE, leaf_size=LEAF, parity="2"))
        assert len(report.parity) == 2 and report.as_dict()["parity"] == list(report.parity)
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


def parities(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.p*.tar"))


def test_every_file_is_within_the_size_and_a_plain_tar(gap: Gap) -> None:
    assert len(volumes(gap.medium)) > 3
    assert all(path.stat().st_size <= SIZE for path in gap.medium.glob("*.tar"))
    for path in parities(gap.medium):
        with tarfile.open(path) as archive:
            names = archive.getnames()
        assert names == ["SEALIFT-PARITY", "statement.dsse.json", "parity.json", "table", "parity/" + "0" * 16]


@pytest.mark.parametrize("share", ["1", "2", "25%", "100%"])
def test_every_share_is_within_the_size(gap: Gap, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no room that is kept for signatures hides the table."""
    monkeypatch.setattr(layout, "SIGNATURE_ROOM", 6 << 10)
    gap.model(rows=640)
    report = gap.export(options=Options(volume_size=SIZE, leaf_size=LEAF, parity=share), out=tmp_path / "out")
    assert len(report.parity) == parity.wanted(share, len(report.statement.volumes))
    assert all(path.stat().st_size <= SIZE for path in (tmp_path / "out").glob("*.tar"))


def test_the_parity_of_the_first_bytes_by_hand(gap: Gap) -> None:
    """The data members of the parity volumes are the code over the payloads, and the table is right."""
    statement = statement_of(gap.medium)
    payloads = [path.read_bytes()[-v.size :] for path, v in zip(volumes(gap.medium), statement.volumes, strict=True)]
    length = max(map(len, payloads))
    found = []
    for path in parities(gap.medium):
        with tarfile.open(path) as archive:
            members = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
        found.append(members)
    header = json.loads(found[0]["parity.json"])
    assert (header["data"], header["parity"], header["length"]) == (len(payloads), 2, length)
    for j, members in enumerate(found):
        data = members["parity/" + "0" * 16]
        assert len(data) == length and members["table"] == found[0]["table"]
        for at in (0, 1, 4095, 4096, 30_000, length - 1):
            total = 0
            for i, payload in enumerate(payloads):
                total ^= slow(gf256.coefficient(j, i), payload[at] if at < len(payload) else 0)
            assert data[at] == total
    shards = [*payloads, *(members["parity/" + "0" * 16] for members in found)]
    hashes = b""
    for start in range(0, length, header["block"]):
        for shard in shards:
            block = shard[start : start + header["block"]]
            hashes += hashlib.sha256(block).digest() if block else bytes(32)
    assert hashes == found[0]["table"]


def test_the_same_input_makes_the_same_parity(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763700000")
    gap.model()
    options = Options(volume_size=SIZE, leaf_size=LEAF, sequence=1, parity="2")
    ends = []
    for out in (gap.root / "a", gap.root / "b"):
        gap.export(options=options, out=out)
        ends.append([path.read_bytes()[-60_000:] for path in parities(out)])
    assert ends[0] == ends[1]


def test_readers_pass_over_parity_volumes(gap: Gap) -> None:
    report = gap.verify()
    assert report.complete and any("parity volumes" in item for item in report.not_checked)
    flip(parities(gap.medium)[0], 60_000)
    assert gap.bring_in().complete
    assert gap.verify(trust=trusting(signer())).complete
    (gap.root / "alice.pub").write_bytes(signer().public.encode())
    program = Path(layout.__file__).with_name(layout.VERIFIER)
    words = [sys.executable, "-I", "-S", str(program), str(gap.medium), "--pub", str(gap.root / "alice.pub")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_read_back_wrongly_gets_no_parity(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick that does not keep what it was given is told while it can be helped."""
    flip(volumes(gap.medium)[2], 60_000)
    for path in parities(gap.medium):
        path.unlink()
    statement = statement_of(gap.medium)
    from bundler.expected import of_statement
    from bundler.medium import open_medium

    with pytest.raises(VolumeDamaged, match="read back"):
        parity.write(gap.medium, of_statement(statement, open_medium(gap.medium).envelope), 2)
    assert not parities(gap.medium) and not list(gap.medium.glob("*.tmp"))


def test_a_mangled_head_is_refused(gap: Gap) -> None:
    """By itself or, where it is sound in itself with another id or length, because no statement goes with it."""
    path, other = parities(gap.medium)
    other.unlink()
    good, opened = path.read_bytes(), parity.open_parity(path)
    for at in range(0, opened.first, 7 if opened.first > 40_000 else 3):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises(BundlerError):
            found = parity.open_parity(path)
            assert (found.id, found.header) != (opened.id, opened.header), f"byte {at}"
            repair(gap.medium)
    for at in range(0, opened.first, 1009):
        path.write_bytes(good[:at])
        with pytest.raises(BundlerError):
            parity.open_parity(path)
    path.write_bytes(good)
    assert parity.open_parity(path) == opened


def test_unlimited_volumes_may_have_parity_too(gap: Gap, tmp_path: Path) -> None:
    gap.model(rows=300)
    report = gap.export(options=Options(leaf_size=LEAF, parity="1"), out=tmp_path / "out")
    assert (len(report.statement.volumes), len(report.parity)) == (2, 1)
    with pytest.raises((BadRequest, ExportRefused)):
        gap.export(options=Options(leaf_size=LEAF, parity="nothing"), out=tmp_path / "other")
    assert layout.volume_names(report.statement)
