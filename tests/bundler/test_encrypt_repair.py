"""Encrypted discs that get lost: parity over encrypted bytes, repaired with no key, asked for again, never in clear."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler import conceal, layout, packing, parity, parts, seal, slip
from bundler.approve import approve, examine
from bundler.draft import Options
from bundler.errors import (
    BadRequest,
    BundleRefused,
    BundlerError,
    CannotDecrypt,
    MediumUnavailable,
    PackingRefused,
    RepairImpossible,
    VolumeDamaged,
    VolumeMissing,
    VolumeMixed,
)
from bundler.expected import of_packing
from bundler.importer import import_bundle
from bundler.packing import PackingList
from bundler.receive import watch
from bundler.repair import repair, survey
from bundler.resend import resend
from bundler.rooms import Rooms
from bundler.seal import Keys, Sealing
from bundler.send import send
from bundler.udp_send import bundle_of
from bundler.verify import verify
from signing.trust import TrustStore
from tests.bundler.test_encrypt import SECRETS
from tests.bundler.test_repair import cut, drop, killed_at, lengthen, sprinkle, swap_for_folder, zero
from tests.peers.bundles import LEAF, Gap, signer, tree, trusting
from tests.peers.forgery import flip

pyrage = pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
SIZE = 112 << 10
SECRET = b"age-encryption.org/v1\n-> scrypt, of an identity"
ROOT = Path(__file__).parents[2]


def options(sealing: Sealing | None, parity: str = "2") -> Options:
    return Options(volume_size=SIZE, leaf_size=LEAF, label="unheard-of-label", channel="unseen/channel", parity=parity,
                   sealing=sealing)  # fmt: skip


def export(root: Path, recipient: str, *, hidden: bool, seed: int = 1, locked: bytes = b"") -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=640, seed=seed)
        under = (recipient, locked) if locked else None
        gap.export(options=options(Sealing(recipients=seal.recipients([recipient]), hidden=hidden, locked=under)))
    return gap


@pytest.fixture(scope="module", params=[True, False], ids=["hidden", "readable"])
def made(request: pytest.FixtureRequest, identity: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Gap:
    return export(tmp_path_factory.mktemp("sealed"), identity[1], hidden=request.param)


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    return copied(made, tmp_path, monkeypatch)


def copied(made: Gap, root: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(root / "home"))
    fresh = Gap(root)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


@pytest.fixture
def hidden(identity: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path,
           monkeypatch: pytest.MonkeyPatch) -> Gap:  # fmt: skip
    """One with a hidden index, where the way of hiding makes no difference to what is tested."""
    return copied(export(tmp_path_factory.mktemp("hidden"), identity[1], hidden=True), tmp_path, monkeypatch)


def files(folder: Path) -> list[Path]:
    """Volumes, encrypted or not, then parity volumes."""
    return [*sorted(folder.glob("*.v*.tar*")), *parities(folder)]


def parities(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.p*.tar"))


def whole(made: Gap, gap: Gap) -> bool:
    return all((gap.medium / path.name).read_bytes() == path.read_bytes() for path in made.medium.glob("*.v*"))


def bring_in(gap: Gap, keys: Keys) -> None:
    import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, keys=keys)


def check(gap: Gap, keys: Keys) -> bool:
    return verify(gap.medium, trusting(signer()), seen=gap.seen, keys=keys).complete


# -- what is made


def test_parity_shows_no_more_than_the_volumes_do(made: Gap, keys: Keys) -> None:
    """No name, no statement, no hash of what is inside; all files are within the size that was asked for; and whoever
    has the volumes makes the same packing list without a key."""
    assert len(files(made.medium)) >= 7 and check(made, keys)
    assert max(path.stat().st_size for path in files(made.medium)) <= SIZE
    (stem,) = packing.sealed_stems(made.medium)
    if stem.startswith("sealed-"):
        data = b"".join(path.read_bytes() for path in parities(made.medium))
        assert not [secret for secret in SECRETS if secret in data]
        inside = [hashlib.sha256(pyrage.decrypt(path.read_bytes(), list(keys.identities))).hexdigest().encode()
                  for path in made.medium.glob("*.age")]  # fmt: skip
        assert not [digest for digest in inside if digest in data or bytes.fromhex(digest.decode()) in data]
    opened = [parity.open_parity(path) for path in parities(made.medium)]
    assert all(one.sealed for one in opened) and {one.id for one in opened} == {packing.of_folder(made.medium, stem).id}


def test_the_page_says_how_a_packing_list_is_written() -> None:
    text = (ROOT / "docs/formats/parity.md").read_text()
    found = PackingList(stem="sealed-7f3c91ab", clear=0, files=((4096, "ab" * 32), (100, "cd" * 32)), identity=b"x" * 3)
    raw = found.encode().decode()
    assert raw in text and found.id in text
    assert found.names == ("sealed-7f3c91ab.v000.tar.age", "sealed-7f3c91ab.v001.tar.age")


@given(
    st.lists(st.tuples(st.integers(1, packing.MAX_SIZE), st.binary(min_size=32, max_size=32)), min_size=1, max_size=9),
    st.integers(0, 1), st.binary(max_size=300),
)  # fmt: skip
def test_a_packing_list_reads_back(some: list[tuple[int, bytes]], clear: int, identity: bytes) -> None:
    files = tuple((size, sha.hex()) for size, sha in some)
    found = PackingList(stem="acme.v1-7f3c91ab", clear=clear, files=files, identity=identity)
    assert PackingList.decode(found.encode()) == found
    assert len(found.encode()) <= packing.most_bytes(len(files), identity)


@pytest.mark.parametrize(
    "change",
    [
        {"stem": "../../etc/x-7f3c91ab"}, {"stem": "sealed"}, {"clear": 2}, {"files": []}, {"more": 1},
        {"files": [{"sha256": "ab" * 32, "size": 0}]}, {"files": [{"sha256": "ab" * 32, "size": 1 << 47}]},
        {"files": [{"sha256": "AB" * 32, "size": 9}]}, {"files": [{"sha256": "ab" * 32, "size": 9, "name": "x"}]},
        {"files": [{"sha256": "ab" * 32, "size": 9}] * 10_000}, {"identity": "eA"}, {"identity": "eA==\n"},
        {"identity": "eB=="}, {"identity": ""}, {"identity": "eHh4" * 22_000},
    ],
    ids=range(15),
)  # fmt: skip
def test_packing_lists_that_are_none(change: dict[str, Any]) -> None:
    good = {"clear": 0, "files": [{"sha256": "ab" * 32, "size": 9}], "stem": "sealed-7f3c91ab"}
    PackingList.decode(json.dumps(good, separators=(",", ":")).encode())
    with pytest.raises(PackingRefused):
        PackingList.decode(json.dumps(dict(sorted((good | change).items())), separators=(",", ":")).encode())


# -- what comes back


def test_any_two_volumes_may_be_lost(made: Gap, gap: Gap, keys: Keys) -> None:
    """Every choice of one, and every one of two among the first four and the parity; no identity is here."""
    names = [path.name for path in files(made.medium)]
    count = len(names) - 2
    for lost in [*itertools.combinations(names, 1), *itertools.combinations([*names[:4], *names[-2:]], 2)]:
        if set(lost) == set(names[count:]):
            continue
        for name in lost:
            (gap.medium / name).unlink()
        report = repair(gap.medium, gap.medium)
        assert [damage.name for damage in report.damaged] == [name for name in lost if name in names[:count]]
        assert report.sealed and "what is inside" in report.as_dict()["not_checked"][0]
        assert whole(made, gap)
        for name in lost:
            shutil.copy(made.medium / name, gap.medium)
    assert check(gap, keys)


DAMAGES = (zero, cut, lengthen, drop, sprinkle)


@pytest.mark.parametrize("seed", range(4))
def test_two_volumes_damaged_anywhere_are_restored(made: Gap, gap: Gap, keys: Keys, seed: int) -> None:
    """Header, chunks, the last one, cut off, longer: the same bytes are back."""
    numbers = random.Random(seed)
    for path in numbers.sample(files(gap.medium), 2):
        for damage in numbers.sample(DAMAGES, numbers.randrange(1, 3)):
            damage(path, numbers)
    repair(gap.medium, gap.medium, keys=keys)
    assert whole(made, gap) and check(gap, keys)


@pytest.mark.parametrize("place", [30, 190, 260, 5000, -1], ids=["stanza", "MAC", "nonce", "chunk", "last chunk"])
def test_one_flipped_bit_costs_a_block(made: Gap, gap: Gap, place: int) -> None:
    """A destroyed header would cost the whole volume, were parity over what is inside."""
    path = sorted(gap.medium.glob("*.age"))[1]
    size = path.stat().st_size
    flip(path, place % size)
    (damage,) = repair(gap.medium, gap.medium).damaged
    ((first, end),) = damage.ranges
    assert first <= place % size < end and end - first <= 4096 and whole(made, gap)


def test_something_else_under_a_volumes_name(made: Gap, gap: Gap) -> None:
    swap_for_folder(files(gap.medium)[1], random.Random())
    assert [damage.missing for damage in repair(gap.medium, gap.medium).damaged] == [True] and whole(made, gap)


def test_volumes_of_others_under_ours(made: Gap, gap: Gap, identity: tuple[Path, str], keys: Keys) -> None:
    """Of another bundle for the same recipient, and of this very one encrypted again: neither is what was lost."""
    other = export(gap.root / "other", identity[1], hidden=True, seed=9)
    path = sorted(gap.medium.glob("*.age"))[2]
    plain = pyrage.decrypt(path.read_bytes(), list(keys.identities))
    shutil.copy(sorted(other.medium.glob("*.age"))[2], path)
    again = sorted(gap.medium.glob("*.age"))[1]
    again.write_bytes(pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(identity[1])]))
    assert len(repair(gap.medium, gap.medium, keys=keys).damaged) == 2 and whole(made, gap)


def test_an_identity_under_a_passphrase_is_kept_too(identity: tuple[Path, str], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = export(tmp_path, identity[1], hidden=True, locked=SECRET)
    (path,) = gap.medium.glob("*.identity.age")
    path.write_bytes(SECRET + b", another")
    report = repair(gap.medium, gap.medium)
    assert path.read_bytes() == SECRET
    assert [one.read_bytes() for one in report.kept] == [SECRET + b", another"]


def test_another_folder_gets_only_what_was_damaged(made: Gap, gap: Gap, keys: Keys) -> None:
    lost, hurt = files(gap.medium)[1], files(gap.medium)[2]
    lost.unlink()
    flip(hurt, 7000)
    before, out = tree(gap.medium), gap.root / "restored"
    report = repair(gap.medium, out, keys=keys)
    assert tree(gap.medium) == before and report.inside
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: (made.medium / path.name).read_bytes() for path in (lost, hurt)
    }
    for path in (*gap.medium.iterdir(), *out.iterdir()):
        assert path.name == "verify_sealift.py" or b"blk.0" not in path.read_bytes(), "plaintext"


def test_kill_9_and_again(hidden: Gap, keys: Keys) -> None:
    names = [path.name for path in files(hidden.medium)]
    good = {path.name: path.read_bytes() for path in hidden.medium.glob("*.age")}
    ends: list[int] = []
    for stop in (20, 37, 1000):
        flip(hidden.medium / names[1], 7000)
        damaged = (hidden.medium / names[1]).read_bytes()
        (hidden.medium / names[2]).unlink()
        ends.append(killed_at(stop, hidden.medium))
        assert (hidden.medium / names[3]).read_bytes() == good[names[3]]
        repair(hidden.medium, hidden.medium)
        assert {path.name: path.read_bytes() for path in hidden.medium.glob("*.age")} == good
        (kept,) = hidden.medium.glob("*.before")
        assert kept.name == f"{names[1]}.before" and kept.read_bytes() == damaged
        kept.unlink()
    assert ends[-1] == 0 and -signal.SIGKILL in ends and check(hidden, keys)


def test_an_interrupted_export_makes_parity_of_what_it_wrote(identity: tuple[Path, str], keys: Keys, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Encrypted volumes are written again, with other bytes."""
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=640)
    wanted = options(Sealing(recipients=(identity[1],)))
    with monkeypatch.context() as patch:
        patch.setattr(parity, "encode_row", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            gap.export(options=wanted)
    assert not parities(gap.medium) and not list(gap.medium.glob("*.tmp"))
    first = tree(gap.medium)
    assert gap.export(options=wanted).resumed and len(parities(gap.medium)) == 2
    assert first.items() - tree(gap.medium).items(), "other bytes"
    files(gap.medium)[1].unlink()
    assert repair(gap.medium, gap.medium, keys=keys).written and check(gap, keys)


def test_a_medium_that_changes_bytes_gets_no_parity(identity: tuple[Path, str], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=640)
    real = parity.write

    def write(folder: Path, *words: Any, **more: Any) -> list[Path]:
        flip(sorted(folder.glob("*.age"))[1], 9000)
        return real(folder, *words, **more)

    monkeypatch.setattr(parity, "write", write)
    with pytest.raises(BundleRefused, match="read back is not what was written"):
        gap.export(options=options(Sealing(recipients=(identity[1],))))
    assert not parities(gap.medium)


def test_a_lost_identity_under_a_passphrase_comes_back(identity: tuple[Path, str], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Whoever loses it loses all; so each parity volume has it, and it is no secret that the medium did not have."""
    gap = copied(export(tmp_path / "made", identity[1], hidden=True, locked=SECRET), tmp_path, monkeypatch)
    (path,) = gap.medium.glob("*.identity.age")
    for spoil in (path.unlink, lambda: path.write_bytes(b"under another one.")):
        spoil()
        (damage,) = repair(gap.medium).damaged
        assert damage.name == path.name
        assert repair(gap.medium, gap.medium).written == (path,) and path.read_bytes() == SECRET
    path.unlink()
    files(gap.medium)[0].unlink()
    assert len(repair(gap.medium, gap.root / "out").written) == 2


# -- parity that lies


def forged(gap: Gap, index: int, data: bytes) -> None:
    """A set that is sound in itself and restores other bytes as the volume `index`."""
    (stem,) = packing.sealed_stems(gap.medium)
    found = packing.of_folder(gap.medium, stem)
    path = gap.medium / found.names[index]
    good = path.read_bytes()
    path.write_bytes(data)
    lie = (len(data), hashlib.sha256(data).hexdigest())
    parity.write(
        gap.medium, of_packing(replace(found, files=(*found.files[:index], lie, *found.files[index + 1 :]))), 2
    )
    path.write_bytes(good)


def test_lying_parity_is_found_by_who_can_read_inside(hidden: Gap, identity: tuple[Path, str], keys: Keys) -> None:
    """It is not signed. Without an identity it restores what it says; nothing of that is ever accepted."""
    path = sorted(hidden.medium.glob("*.age"))[1]
    other = pyrage.encrypt(b"something else", [pyrage.x25519.Recipient.from_str(identity[1])])
    for lie in (other, b"nothing of the kind" * 100):
        forged(hidden, 1, lie)
        before = tree(hidden.medium)
        with pytest.raises((BundleRefused, CannotDecrypt)):
            repair(hidden.medium, hidden.medium, keys=keys)
        assert tree(hidden.medium) == before, "nothing was written"
        repair(hidden.medium, hidden.root / "out")
        assert (hidden.root / "out" / path.name).read_bytes() == lie
        shutil.rmtree(hidden.root / "out")


def test_nothing_goes_that_a_list_without_a_signature_says_is_damaged(hidden: Gap, keys: Keys) -> None:
    """Parity and its list may be anybody's: what they replace in place is kept, import refuses what they made, and with
    an identity they replace nothing."""
    path = sorted(hidden.medium.glob("*.age"))[2]
    good = path.read_bytes()
    forged(hidden, 2, good[:7000] + b"?" + good[7001:])
    before = tree(hidden.medium)
    with pytest.raises(BundlerError):
        repair(hidden.medium, hidden.medium, keys=keys)
    assert tree(hidden.medium) == before
    report = repair(hidden.medium, hidden.medium)
    (kept,) = report.kept
    assert report.written == (path,) and report.listed and path.read_bytes() != good == kept.read_bytes()
    with pytest.raises((BundleRefused, CannotDecrypt)):
        bring_in(hidden, keys)
    report = repair(hidden.medium, keys=keys)
    assert not report.damaged and not report.inside, "nothing was written, so nothing was looked at inside"
    kept.replace(path)
    assert check(hidden, keys)


def test_where_nothing_can_be_kept_nothing_is_replaced(hidden: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sorted(hidden.medium.glob("*.age"))[2]
    forged(hidden, 2, b"nothing of the kind" * 100)
    before = tree(hidden.medium)
    with monkeypatch.context() as patch:
        patch.setattr("os.link", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
        with pytest.raises(MediumUnavailable, match=r"cannot be kept beside it: Operation not permitted"):
            repair(hidden.medium, hidden.medium)
    assert tree(hidden.medium) == before
    path.with_name(path.name + ".before").write_bytes(b"of an earlier repair")
    with pytest.raises(MediumUnavailable, match="from an earlier repair"):
        repair(hidden.medium, hidden.medium)
    assert path.with_name(path.name + ".before").read_bytes() == b"of an earlier repair"
    path.with_name(path.name + ".before").unlink()
    assert tree(hidden.medium) == before


def test_a_sound_bundle_of_others_is_not_put_in_its_place(hidden: Gap, identity: tuple[Path, str], keys: Keys) -> None:
    other = export(hidden.root / "other", identity[1], hidden=True, seed=9)
    forged(hidden, 1, sorted(other.medium.glob("*.age"))[1].read_bytes())
    before = tree(hidden.medium)
    with pytest.raises(VolumeMixed, match="volumes of 2 bundles"):
        repair(hidden.medium, hidden.medium, keys=keys)
    assert tree(hidden.medium) == before


def test_parity_of_another_bundle_and_mangled(hidden: Gap, identity: tuple[Path, str]) -> None:
    other = export(hidden.root / "other", identity[1], hidden=True, seed=9)
    files(hidden.medium)[1].unlink()
    good = [path.read_bytes() for path in parities(hidden.medium)]
    for theirs, ours in zip(parities(other.medium), parities(hidden.medium), strict=True):
        shutil.copy(theirs, ours)
    before = tree(hidden.medium)
    with pytest.raises(BundlerError):
        repair(hidden.medium, hidden.medium)
    assert tree(hidden.medium) == before
    path = parities(hidden.medium)[0]
    parities(hidden.medium)[1].unlink()
    end = good[0].index(b"parity/0000000000000000")
    for place in range(0, end, 211):
        path.write_bytes(good[0][:place] + bytes([good[0][place] ^ 4]) + good[0][place + 1 :])
        try:
            found = parity.open_parity(path)
        except BundleRefused:
            continue
        assert found == parity.open_parity(path) and place > end - 512, "only the padding of its last header"


# -- too much: slips


def test_beyond_the_parity_a_slip_asks_for_ranges(made: Gap, gap: Gap, keys: Keys) -> None:
    """And the connected side, which needs no key either, sends only these."""
    paths = sorted(gap.medium.glob("*.age"))[1:4]
    for path in paths:
        flip(path, 9000)
    before = tree(gap.medium)
    with pytest.raises(RepairImpossible) as caught:
        repair(gap.medium, gap.medium)
    assert tree(gap.medium) == before
    asked = slip.parse(caught.value.slip.text(caught.value.stem))
    assert sum(len(want.ranges) for want in asked.wants) == 1
    for source in (made.medium, without_parity(made, gap.root / "source")):
        report = resend(asked, gap.root / f"again-{source.parent.name}-{source.name}", volumes=source)
        (part,) = report.written
        assert part.stat().st_size < 10_000 and parts.open_part(part)[0].sealed
    shutil.copy(part, gap.medium)
    repair(gap.medium, gap.medium, keys=keys)
    assert whole(made, gap) and check(gap, keys)


def without_parity(made: Gap, folder: Path) -> Path:
    shutil.copytree(made.medium, folder)
    for path in parities(folder):
        path.unlink()
    return folder


def test_whole_volumes_beyond_the_parity(made: Gap, gap: Gap) -> None:
    for path in sorted(gap.medium.glob("*.age"))[1:4]:
        path.unlink()
    with pytest.raises(RepairImpossible) as caught:
        repair(gap.medium, gap.medium)
    report = resend(caught.value.slip, gap.root / "again", volumes=made.medium)
    for path in report.written:
        shutil.copy(path, gap.medium)
    repair(gap.medium, gap.medium)
    assert whole(made, gap)


def test_another_encryption_is_no_source(made: Gap, gap: Gap, identity: tuple[Path, str]) -> None:
    for path in sorted(gap.medium.glob("*.age"))[1:4]:
        flip(path, 9000)
    with pytest.raises(RepairImpossible) as caught:
        repair(gap.medium)
    other = export(gap.root / "other", identity[1], hidden=True)
    with pytest.raises(VolumeMissing, match="not the encrypted volumes"):
        resend(caught.value.slip, gap.root / "again", volumes=other.medium)


def test_what_is_sent_again_was_compared_first(made: Gap, gap: Gap) -> None:
    for path in sorted(gap.medium.glob("*.age"))[1:4]:
        flip(path, 9000)
    with pytest.raises(RepairImpossible) as caught:
        repair(gap.medium)
    with pytest.raises(BundleRefused, match="packing list"):
        resend(caught.value.slip, gap.root / "again", volumes=gap.medium)
    assert not list((gap.root / "again").iterdir())


def test_without_parity_the_identity_finds_what_is_damaged(made: Gap, gap: Gap, keys: Keys) -> None:
    for path in parities(gap.medium):
        path.unlink()
    assert not repair(gap.medium, keys=keys).damaged
    hurt, lost = sorted(gap.medium.glob("*.age"))[:2]
    flip(hurt, 30)
    lost.unlink()
    for look in (survey, repair):
        with pytest.raises(RepairImpossible) as caught:
            look(gap.medium, keys=keys)
        assert {item.name.partition(".v")[2] for item in caught.value.missing} == {
            path.name.partition(".v")[2].removesuffix("" if path == hurt else ".age") for path in (hurt, lost)
        }
    for path in resend(caught.value.slip, gap.root / "again", volumes=made.medium).written:
        shutil.copy(path, gap.medium)
    assert whole(made, gap) and check(gap, keys)


# -- a drop folder


def receive(gap: Gap, keys: Keys | None, trust: TrustStore | None = None) -> tuple[int, list[dict[str, Any]]]:
    trust = trust or trusting(signer())
    events: list[dict[str, Any]] = []
    base = gap.far.private / "receiving"
    with Rooms(base, trust, events.append, store=gap.far, seen=gap.seen, repair=True, keys=keys) as rooms:
        watch(gap.root / "drop", rooms, once=True)
        return rooms.exit_code(), events


def sizes(made: Gap) -> tuple[int, int]:
    """Of the index volume, and of the largest."""
    (index,) = made.medium.glob("*.v000.tar*")
    return index.stat().st_size, max(path.stat().st_size for path in made.medium.glob("*.age"))


@pytest.mark.parametrize("spare", [True, False], ids=["parity", "no parity"])
def test_cut_for_a_guard_and_joined(made: Gap, gap: Gap, keys: Keys, spare: bool) -> None:
    """The sender has no identity. Parts come renamed, and with parity not all of them."""
    index, largest = sizes(made)
    if not spare:
        for path in parities(gap.medium):
            path.unlink()
    limit, drop = max(index, largest * 2 // 3), gap.root / "drop"
    report = send(gap.medium, drop, max_part=limit)
    assert max(path.stat().st_size for path in drop.iterdir()) <= limit and not report.missing
    some = sorted(drop.glob("*.cv002-*"))
    assert len(some) == 2 and (not spare or list(drop.glob("*.cp001-*")))
    some[0].replace(drop / "renamed by the guard")
    if spare:
        some[1].unlink()
    assert receive(gap, None)[0] == 4, "nothing of it can be read without an identity"
    assert receive(gap, keys)[0] == 0
    assert [name.short for name in gap.far.names()] == ["mine:latest"]


def test_parts_of_a_list_that_lies_become_nothing(made: Gap, gap: Gap, keys: Keys) -> None:
    """They are all of a volume, by a list that fits, and are compared with the statement inside before it is one."""
    (stem,) = packing.sealed_stems(gap.medium)
    found, drop = packing.of_folder(gap.medium, stem), gap.root / "drop"
    size = found.files[2][0]
    lie = replace(found, files=(*found.files[:2], (size, "ab" * 32), *found.files[3:]))
    drop.mkdir()
    shutil.copy(gap.medium / found.names[0], drop)
    (gap.root / "source").write_bytes(bytes(size))
    out = drop / f"{stem}.cv002-00001.tar"
    parts.cut(gap.root / "source", [(0, size)], out, lie.id, lie.encode(), lie.names[2], sealed=True)
    code, events = receive(gap, keys)
    assert code == 4 and any("put together from its parts" in event["why"] for event in events if "why" in event)
    for path in gap.medium.glob("*.v*"):
        shutil.copy(path, drop)
    assert receive(gap, keys)[0] == 0


def test_what_is_damaged_is_not_cut(hidden: Gap) -> None:
    """The packing list of the parity volumes is what parts are held against over there."""
    flip(sorted(hidden.medium.glob("*.age"))[2], 7000)
    index, largest = sizes(hidden)
    with pytest.raises(VolumeDamaged, match="not the file that its packing list says"):
        send(hidden.medium, hidden.root / "drop", max_part=max(index, largest * 2 // 3))


def spoil_header(path: Path) -> None:
    flip(path, 60)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip(path, 9000), spoil_header],
                         ids=["lost", "chunk", "header"])  # fmt: skip
def test_a_receiver_restores_from_parity(gap: Gap, keys: Keys, damage: Callable[[Path], None]) -> None:
    """Two volumes, of which damaged ones lend what is sound; then it is imported."""
    drop = gap.root / "drop"
    report = send(gap.medium, drop)
    assert [name for name in report.sent if ".p0" in name]
    for path in sorted(drop.glob("*.age"))[:2]:
        damage(path)
    code, events = receive(gap, keys)
    assert [name.short for name in gap.far.names()] == ["mine:latest"], events
    assert code == 0 and [event for event in events if event["event"] == "repaired"]


@pytest.mark.parametrize("index", [1, 2], ids=["of what is lost", "of another one"])
def test_a_receiver_takes_nothing_from_parity_that_lies(
    hidden: Gap, identity: tuple[Path, str], keys: Keys, index: int
) -> None:
    """What is restored is compared inside, and what came and was compared is never replaced."""
    paths = sorted(hidden.medium.glob("*.age"))
    lie = pyrage.encrypt(b"something else", [pyrage.x25519.Recipient.from_str(identity[1])])
    forged(hidden, 1, lie.ljust(paths[1].stat().st_size, b"\0"))
    drop = hidden.root / "drop"
    send(hidden.medium, drop)
    (drop / paths[index].name).unlink()
    code, events = receive(hidden, keys)
    if index == 2:  # the volume that came is wrong by that list, restored beside, and left there
        assert code == 0 and hidden.far.names()
        return
    (told,) = (event for event in events if event["event"] == "missing")
    assert code == 4 and told["names"] == [told["names"][0]] and not hidden.far.names()
    (room,) = (path for path in (hidden.far.private / "receiving").iterdir() if path.is_dir())
    assert {path.name: path.read_bytes() for path in room.glob("*.age")} == {
        path.name: path.read_bytes() for path in paths if path != paths[1]
    }


def test_loss_beyond_parity_goes_by_slip(made: Gap, gap: Gap, keys: Keys) -> None:
    drop = gap.root / "drop"
    send(gap.medium, drop)
    for path in sorted(drop.glob("*.age"))[1:4]:
        path.unlink()
    code, events = receive(gap, keys)
    (told,) = (event for event in events if event["event"] == "missing")
    assert code == 4 and told["slip"]
    for path in resend(slip.parse(told["slip"]), gap.root / "again", volumes=made.medium).written:
        shutil.copy(path, drop)
    assert receive(gap, keys)[0] == 0 and gap.far.names()


def slip_of_damage(gap: Gap, keys: Keys) -> slip.Slip:
    """Sends all, damages more than parity restores on the way, and returns what the other side asks for."""
    drop = gap.root / "drop"
    send(gap.medium, drop)
    for path in sorted(drop.glob("*.age"))[1:4]:
        flip(path, 9000)
    (told,) = (event for event in receive(gap, keys)[1] if event["event"] == "missing")
    return slip.parse(told["slip"])


def test_parts_of_encrypted_volumes_are_taken_by_a_receiver(made: Gap, gap: Gap, keys: Keys) -> None:
    drop = gap.root / "drop"
    asked = slip_of_damage(gap, keys)
    (part,) = resend(asked, gap.root / "again", volumes=made.medium).written
    assert ".r" in part.name
    shutil.copy(part, drop)
    assert receive(gap, keys)[0] == 0 and gap.far.names()


def test_the_answer_to_a_slip_goes_through_the_drop_folder(made: Gap, gap: Gap, keys: Keys) -> None:
    """The folder of a resend has parts alone, and nothing else says that they are of encrypted volumes."""
    drop, again = gap.root / "drop", gap.root / "again"
    asked = slip_of_damage(gap, keys)
    (part,) = resend(asked, again, volumes=made.medium).written
    with pytest.raises(BadRequest, match="cannot be cut") as caught:
        send(again, drop, max_part=part.stat().st_size - 1)
    assert caught.value.hint and "--whole" in caught.value.hint
    assert send(again, drop).sent == (part.name,)
    assert receive(gap, keys)[0] == 0 and gap.far.names()


def test_whole_volumes_instead_of_parts(made: Gap, gap: Gap, keys: Keys) -> None:
    drop, again = gap.root / "drop", gap.root / "again"
    asked = slip_of_damage(gap, keys)
    (written,) = resend(asked, again, volumes=made.medium, whole=True).written
    assert written.read_bytes() == (made.medium / written.name).read_bytes()
    with pytest.raises(BadRequest, match="parts alone, which a network diode does not carry"):
        bundle_of(resend(asked, gap.root / "parts", volumes=made.medium).written[0].parent)
    shutil.copy(written, drop / "0-of-a-guard.tar.age")
    assert receive(gap, keys)[0] == 0 and gap.far.names()


def test_a_guard_that_renames(gap: Gap, keys: Keys) -> None:
    """To 8.3: nothing is left of stem, number and `.age`, and one volume is lost as well."""
    drop = gap.root / "drop"
    drop.mkdir()
    for number, path in enumerate(files(gap.medium)):
        if number != 2:
            shutil.copy(path, drop / f"SEALED~{number}.DAT")
    code, events = receive(gap, keys)
    assert code == 0 and any(event["event"] == "repaired" for event in events) and gap.far.names()


@pytest.mark.parametrize("named", ["as the sheet", "as the statement"])
def test_an_approval_of_a_hidden_bundle_may_come_through_the_drop_folder(hidden: Gap, keys: Keys, named: str) -> None:
    """Volumes are named without their label; whoever adds the approval may know it, or not."""
    trust = trusting(signer()).add(signer("officer").public, ["approver"])
    with pytest.raises(BadRequest, match="does not belong beside"):
        examine(hidden.medium, trust, seen=hidden.seen, keys=keys, beside=True)
    drop = hidden.root / "drop"
    send(hidden.medium, drop)
    candidate = examine(hidden.medium, trust, seen=hidden.seen, keys=keys)
    statement = candidate.found.bundle.statement
    stem = conceal.stem(statement) if named == "as the sheet" else layout.stem(statement)
    code, events = receive(hidden, keys, trust)
    assert code == 3 and events[-1]["event"] == "waiting"
    file = f"{stem}.approval-01234567.dsse.json"
    approve(candidate, [signer("officer")], hidden.medium / file)
    assert send(hidden.medium, drop).sent == (file,)
    assert receive(hidden, keys, trust)[0] == 0 and hidden.far.names()


# -- the command line


def test_the_verbs(gap: Gap, identity: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    import sealift

    def run(*words: str) -> tuple[int, str, str]:
        code = sealift.run(["bundle", *words])
        out, err = capsys.readouterr()
        return code, out, err

    usb = str(gap.medium)
    code, out, err = run("repair", usb)
    assert code == 0 and "all volumes are whole" in out and "--identity" in err
    lost = files(gap.medium)[1]
    lost.unlink()
    code, out, err = run("repair", usb, "--in-place", "--identity", str(identity[0]))
    assert code == 0 and f"restored: {lost}" in out and "--identity" not in err
    for path in parities(gap.medium):
        path.unlink()
    code, _, err = run("repair", usb)
    assert code == 4 and "--identity FILE looks inside" in err
    lost.unlink()
    code, out, _ = run("repair", usb, "--identity", str(identity[0]))
    assert code == 1 and out.startswith("SEALIFT SLIP 1")
    (gap.root / "trust.toml").write_bytes(trusting(signer()).encode())
    words = ("--identity", str(identity[0]), "--trust", str(gap.root / "trust.toml"), "--slip", str(gap.root / "slip"))
    assert run("verify", usb, *words)[0] == 1
    assert slip.parse((gap.root / "slip").read_text()).wants[0].ranges == ()
