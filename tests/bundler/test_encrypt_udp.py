"""Encrypted bundles through the network diode: loss, limits, strangers, nobody who can read them; nothing in clear."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler import datagrams, packing, seal, slip
from bundler.datagrams import Symbol, What
from bundler.errors import BundleRefused, VolumeMissing
from bundler.outgoing import Listed
from bundler.pace import Pace
from bundler.packing import PackingList
from bundler.repair import repair
from bundler.resend import resend
from bundler.room_sealed import SealedRoom
from bundler.rooms import Rooms
from bundler.seal import Keys, Sealing
from bundler.udp_receive import MAX_OPEN, Receiver
from bundler.udp_send import bundle_of, radiate
from bundler.verify import verify
from signing.trust import TrustStore
from tests.bundler.test_receive import OPTIONS
from tests.bundler.test_udp import SYMBOL, Far, at_random, forged, in_bursts
from tests.peers.bundles import Gap, noise, signer, trusting
from tests.peers.forgery import flip

pyrage = pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
ENOUGH = 64 << 20  # bytes
SECRET = b"age-encryption.org/v1\n-> scrypt, of an identity"


def exported(root: Path, sealing: Sealing, parity: str | None = "1") -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=1200)
        gap.export(options=replace(OPTIONS, sealing=sealing, parity=parity))
    return gap


@pytest.fixture(scope="module", params=[True, False], ids=["hidden", "readable"])
def made(request: pytest.FixtureRequest, identity: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Gap:
    sealing = Sealing(recipients=seal.recipients([identity[1]]), hidden=request.param)
    return exported(tmp_path_factory.mktemp("sealed"), sealing)


class Closed(Far):
    """An isolated end that takes encrypted bundles."""

    limit: int | None = ENOUGH
    keys: Keys | None = None
    collect = False

    def rooms(self, trust: TrustStore | None = None) -> Rooms:
        store = None if self.collect else self.store
        base = self.root / "kept" if self.collect else self.store.private / "receiving"
        trust = trust or trusting(signer())
        return Rooms(base, trust, self.events.append, store=store, seen=self.channels, repair=True, keys=self.keys,
                     limit=self.limit)  # fmt: skip

    @property
    def channels(self) -> Any:
        from bundler.channels import Channels

        return Channels(self.root / "channels.json")

    def folders(self) -> list[Path]:
        base = self.root / "kept" if self.collect else self.store.private / "receiving"
        return sorted(path for path in base.iterdir() if path.is_dir())


@pytest.fixture
def far(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Closed:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    found = Closed(tmp_path)
    found.keys = keys
    return found


def without(*files: tuple[What, int]) -> Callable[[bytes], list[bytes]]:
    def drop(packet: bytes) -> list[bytes]:
        found = datagrams.parse(packet)
        return [] if isinstance(found, Symbol) and found.file in files else [packet]

    return drop


# -- what it is for


@pytest.mark.parametrize(
    ("lose", "m"), [(lambda n: False, 0), (at_random(0.05), 24), (in_bursts(80, 1200), 10)],
    ids=["none", "5 %", "bursts"],
)  # fmt: skip
def test_one_transmission_is_enough(made: Gap, far: Closed, lose: Callable[[int], bool], m: int) -> None:
    """Imported with the identity; nothing of what is inside was in a room."""
    far.lose = lose
    assert far.run(made.medium, m=m) == 0, far.events[-5:]
    assert far.models() == ["mine:latest"] and not far.said("damaged")
    (folder,) = far.folders()
    assert sorted(path.name for path in folder.iterdir()) == ["done", "packing.json"], "the files went with the import"
    assert far.run(made.medium) == 0 and len(far.said("imported")) == 1, "a repetition is passed over"


def test_without_an_identity_it_is_collected_as_it_is(made: Gap, far: Closed, keys: Keys) -> None:
    """Neither end can read it; every volume has the bytes that were sent."""
    far.collect, far.keys = True, None
    assert far.run(made.medium) == 0, far.events[-3:]
    (told,) = far.said("complete")
    folder = Path(told["folder"])
    assert not told["verified"] and "no identity" in told["why"]
    for path in made.medium.glob("*.v*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert verify(folder, trusting(signer()), seen=far.channels, keys=keys).complete


def test_collected_with_an_identity_it_is_verified(made: Gap, far: Closed) -> None:
    far.collect = True
    assert far.run(made.medium) == 0 and far.said("complete")[0]["verified"]


def test_without_an_identity_it_waits_for_one(identity: tuple[Path, str], far: Closed, keys: Keys,
                                              tmp_path: Path) -> None:  # fmt: skip
    gap = exported(tmp_path / "made", Sealing(recipients=(identity[1],)), parity=None)
    far.keys = None
    assert far.run(gap.medium) == 4 and far.said("encrypted") and not far.models()
    far.keys = Keys((pyrage.x25519.Identity.generate(),))
    with far.rooms() as rooms:
        rooms.advance(settled=True)
        assert rooms.exit_code() == 4 and not far.models()
    far.keys = keys
    with far.rooms() as rooms:
        rooms.advance(settled=True)
        assert rooms.exit_code() == 0
    assert far.models() == ["mine:latest"]


def test_a_volume_that_is_lost_comes_from_parity(made: Gap, far: Closed, keys: Keys) -> None:
    for keyed in (None, keys):
        far.keys, far.collect = keyed, keyed is None
        far.before = without((What.SEALED, 1))
        assert far.run(made.medium) == 0 and far.said("repaired"), far.events[-3:]
    assert far.models() == ["mine:latest"]


def test_beyond_parity_a_slip_asks(made: Gap, far: Closed, tmp_path: Path) -> None:
    far.collect, far.keys = True, None
    far.before = without((What.SEALED, 1), (What.SEALED, 2))
    assert far.run(made.medium) == 4
    told = far.said("missing")[-1]
    (folder,) = far.folders()
    for path in resend(slip.parse(told["slip"]), tmp_path / "again", volumes=made.medium).written:
        shutil.copy(path, folder)
    repair(folder, folder)
    for path in made.medium.glob("*.v*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_another_run_of_both_ends_goes_on(made: Gap, far: Closed) -> None:
    """Killed receivers: the packing list lies in the room, what was written is noted, and a limit counts it."""
    for low in (0, 600, 1200, 1800, 2400):
        far.count, far.lose = 0, lambda n, low=low: n > 120 and not low < n < low + 700  # type: ignore[misc]
        with far.rooms() as rooms, Receiver(rooms) as far.receiver:
            radiate(made.medium, far, rate=1e9, m=10, symbol=SYMBOL, pace=Pace(None))
            # no `finish`: as after a kill
            assert rooms.claimed() >= sum(path.stat().st_size for path in made.medium.glob("*.v*"))
    far.lose = lambda n: False
    assert far.run(made.medium) == 0 and far.models() == ["mine:latest"]


def test_what_is_under_a_passphrase_travels_with_the_list(tmp_path: Path, far: Closed, identity: tuple[Path, str],
                                                          keys: Keys) -> None:  # fmt: skip
    sealing = Sealing(recipients=(identity[1],), locked=(identity[1], SECRET))
    gap = exported(tmp_path / "made", sealing, parity=None)
    far.collect, far.keys = True, None
    assert far.run(gap.medium) == 0
    (folder,) = far.folders()
    (path,) = folder.glob("*.identity.age")
    assert path.read_bytes() == SECRET


def test_a_damaged_volume_is_not_sent(made: Gap, far: Closed) -> None:
    """By the list that the parity volumes have; without parity the list is of the files as they are, all of them."""
    stick = far.root / "stick"
    shutil.copytree(made.medium, stick)
    path = sorted(stick.glob("*.age"))[1]
    flip(path, 9000)
    with pytest.raises(BundleRefused, match="not the file that its packing list says"):
        far.run(stick)
    path.unlink()
    bundle = bundle_of(stick)
    assert isinstance(bundle, Listed) and bundle.missing == (path.name,)
    assert far.run(stick) == 0 and far.said("repaired"), "one disc is lost already: the parity goes with the others"
    for parity in stick.glob("*.p*.tar"):
        parity.unlink()
    with pytest.raises(VolumeMissing):
        bundle_of(stick)


def test_the_last_volume_is_missed_too(identity: tuple[Path, str], tmp_path: Path) -> None:
    """The sheet knows how many there are. And nothing but what is encrypted is ever given away."""
    gap = exported(tmp_path / "made", Sealing(recipients=(identity[1],)), parity=None)
    last = sorted(gap.medium.glob("*.age"))[-1]
    last.unlink()
    with pytest.raises(VolumeMissing, match=last.name):
        bundle_of(gap.medium)
    (tmp_path / "private").write_bytes(b"of this host")
    last.symlink_to(tmp_path / "private")
    with pytest.raises(BundleRefused, match="not an age file"):
        bundle_of(gap.medium)
    shutil.copy(sorted(gap.medium.glob("*.age"))[0], tmp_path / "other")
    last.unlink()
    shutil.copy(tmp_path / "other", last)
    (gap.medium / f"{last.name.partition('.')[0]}.identity.age").symlink_to(tmp_path / "private")
    with pytest.raises(BundleRefused, match="no identity under a passphrase"):
        bundle_of(gap.medium)


# -- strangers and limits


def test_without_a_limit_nothing_encrypted_is_taken(made: Gap, far: Closed) -> None:
    far.limit = None
    far.run(made.medium)
    (told,) = far.said("passed")
    assert "--limit" in told["why"] and not far.folders() and not far.models()


def test_what_is_announced_counts_before_it_comes(made: Gap, far: Closed) -> None:
    size = sum(path.stat().st_size for path in made.medium.glob("*.v*"))
    far.limit = size - 1
    far.run(made.medium)
    assert far.said("passed") and not far.folders()
    far.limit = size + 3000  # parity does not fit
    far.before = without((What.SEALED, 1))
    assert far.run(made.medium) == 4 and not list(far.folders()[0].glob("*.p*")) and far.said("missing")


def announced(found: PackingList) -> list[bytes]:
    raw = found.encode()
    step = 8000
    size, k = len(raw), -(-len(raw) // step)
    padded = raw.ljust(k * step, b"\0")
    return [forged(what=What.LIST, number=0, id=hashlib.sha256(raw).digest()[:16], size=size, k=k, m=0, index=i,
                   payload=padded[i * step :][:step]) for i in range(k)]  # fmt: skip


def test_hostile_lists_take_neither_memory_nor_disk(far: Closed, keys: Keys) -> None:
    """Thousands of them, each within the limit by itself, lists of the largest size, a list under another id."""
    far.collect, far.keys = True, None
    with far.rooms() as rooms, Receiver(rooms) as receiver:
        for number in range(3000):
            one = PackingList(stem=f"sealed-{number:08x}", clear=0, files=((ENOUGH // 1000, "ab" * 32),))
            for packet in announced(one):
                receiver.take(packet)
        assert len(far.folders()) <= 64 and rooms.claimed() <= ENOUGH
        many = PackingList(stem="sealed-7f3c91ab", clear=0, files=((1, "ab" * 32),) * 9_999)
        for packet in announced(many):
            receiver.take(packet)
        assert receiver._waiting <= 2 << 20
        (packet,) = announced(replace(many, files=((9, "cd" * 32),)))
        found = datagrams.parse(packet)
        assert isinstance(found, Symbol)
        receiver.take(forged(what=What.LIST, id=b"x" * 16, size=found.geometry.size, k=1, m=0, payload=found.payload))
        assert b"x" * 16 not in receiver._known
    assert sum(path.stat().st_size for path in (far.root / "kept").rglob("*")) < 4 << 20


def test_a_forger_opens_no_more_files_than_are_allowed(far: Closed) -> None:
    far.collect, far.keys = True, None
    many = PackingList(stem="sealed-7f3c91ab", clear=0, files=((5000, "ab" * 32),) * 600)
    identity = bytes.fromhex(many.id)
    with far.rooms() as rooms, Receiver(rooms) as receiver:
        for packet in announced(many):
            receiver.take(packet)
        for number in range(600):
            for fields in ({"k": 10, "m": 0, "number": number}, {"k": 9, "m": 0, "number": number}):
                receiver.take(forged(what=What.SEALED, id=identity, size=5000, payload=noise(504), **fields))
        assert sum(file is not None and file.is_open for file in receiver._files.values()) <= MAX_OPEN
        usual = {"what": What.SEALED, "id": identity, "size": 5000, "payload": noise(504)}
        wrong: tuple[dict[str, Any], ...] = (
            {"what": What.VOLUME, "number": 1}, {"number": 601}, {"size": 5001}, {"what": What.APPROVAL}
        )  # fmt: skip
        for more in wrong:
            receiver.take(forged(**(usual | more)))
        (folder,) = far.folders()
        assert len(list(folder.iterdir())) <= 1 + 2 * 600


def test_scattered_pieces_have_a_bound(far: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs memory and a note on the disk; what would be one too many has to come again."""
    monkeypatch.setattr("bundler.arriving.MAX_RANGES", 50)
    far.collect, far.keys = True, None
    one = PackingList(stem="sealed-7f3c91ab", clear=0, files=((ENOUGH // 2, "ab" * 32),))
    with far.rooms() as rooms, Receiver(rooms) as receiver:
        for packet in announced(one):
            receiver.take(packet)
        shape = {"what": What.SEALED, "id": bytes.fromhex(one.id), "size": ENOUGH // 2, "k": 1, "m": 0}
        for number in range(200):
            receiver.take(forged(**shape, block=2 * number, payload=noise(256)))
            receiver.take(forged(**shape, block=3 * number, payload=noise(8)))
        (file,) = receiver._files.values()
        assert file is not None and len(file.have) == 50
        receiver.take(forged(**shape, block=1, payload=noise(256)))
        assert len(file.have) == 49, "what joins others is taken"
        (notes,) = far.folders()[0].glob("*.map.tmp")
        assert notes.stat().st_size == 51 * 16


def test_who_is_not_trusted_is_dropped_as_soon_as_he_is_known(made: Gap, far: Closed) -> None:
    """With the first whole volume, so that others have the space; later datagrams of it are passed over."""
    assert far.run(made.medium, trust=trusting(signer("mallory"))) == 3
    assert far.said("untrusted") and not far.folders() and not far.models()
    assert len(far.said("dropped")) == 1 and len(far.said("taken")) == 1
    assert far.run(made.medium) == 0 and far.models() == ["mine:latest"], "who is trusted later may send it again"


def test_junk_for_the_right_recipient_is_dropped(far: Closed, identity: tuple[Path, str], tmp_path: Path) -> None:
    """Anybody can encrypt for a recipient; what opens and is no volume goes at once."""
    recipient = pyrage.x25519.Recipient.from_str(identity[1])
    stick = tmp_path / "stick"
    stick.mkdir()
    for number in range(2):
        (stick / f"sealed-7f3c91ab.v{number:03d}.tar.age").write_bytes(pyrage.encrypt(noise(20_000), [recipient]))
    assert far.run(stick) == 1 and len(far.said("dropped")) == 1 and not far.folders()


def test_volumes_of_two_bundles_under_one_list_are_refused(far: Closed, identity: tuple[Path, str],
                                                           tmp_path: Path) -> None:  # fmt: skip
    """The list is of the files as they are; the statement inside says that they do not belong together."""
    sealing = Sealing(recipients=(identity[1],))
    one, two = (exported(tmp_path / name, sealing, parity=None) for name in ("one", "two"))
    mine = sorted(one.medium.glob("*.age"))[1]
    shutil.copy(sorted(two.medium.glob("*.age"))[1], mine)
    assert far.run(one.medium) == 1 and not far.models() and far.said("dropped") and not far.folders()


def test_forged_symbols_cannot_make_anything_accepted(made: Gap, far: Closed) -> None:
    import random

    numbers = random.Random(9)

    def forge(packet: bytes) -> list[bytes]:
        found = datagrams.parse(packet)
        if not isinstance(found, Symbol) or numbers.random() > 1 / 40 or far.count < 300:
            return [packet]
        return [forged(what=found.what, number=found.number, id=found.id, size=found.geometry.size, block=found.block,
                       index=found.at, k=found.geometry.k, m=found.geometry.m,
                       payload=noise(len(found.payload), far.count)), packet]  # fmt: skip

    far.before = forge
    assert far.run(made.medium) != 0 and not far.models() and far.said("damaged")
    far.before = lambda packet: [packet]
    assert far.run(made.medium) == 0 and far.models() == ["mine:latest"]


def test_a_list_is_what_its_id_says(made: Gap) -> None:
    """So no other one can take its place, and a room takes nothing for another."""
    bundle = bundle_of(made.medium)
    assert isinstance(bundle, Listed) and bundle.names[0] == packing.MEMBER
    assert hashlib.sha256(bundle.told).hexdigest()[:32] == bundle.id
    assert PackingList.decode(bundle.told) == bundle.packing
    assert isinstance(SealedRoom.claims, property)
