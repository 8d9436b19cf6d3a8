"""Trust that a bundle carries: taken before the bundle is judged, kept whatever becomes of it, and only if it is
signed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import sealift
from bundler import carried, datagrams, fec, udp_receive
from bundler.approve import approve, examine
from bundler.carried import renew
from bundler.datagrams import What
from bundler.errors import BundleRefused, MediumUnavailable
from bundler.fec import Geometry
from bundler.gf256 import Bytes
from bundler.importer import import_bundle
from bundler.medium import open_medium
from bundler.pace import Pace
from bundler.receive import watch
from bundler.rooms import Rooms
from bundler.send import send
from bundler.udp_receive import Receiver
from bundler.udp_send import radiate
from signing.envelope import encode, sign
from signing.errors import NotTrusted
from signing.hosttrust import HostTrust
from signing.keyring import Keyring
from signing.keys import Signer
from signing.limits import MAX_CHAIN_BYTES
from signing.succession import root_fingerprint
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, encode_document
from tests.peers.bundles import Gap, signer
from tests.peers.signers import fixed_signer

ROOT, BOB = fixed_signer("root"), fixed_signer("bob")


def signed(store: TrustStore, version: int, by: Signer = ROOT) -> bytes:
    document = encode_document(replace(store, version=version))
    return encode(sign(TRUST_TYPE, document, [by])) + b"\n"


BASE = TrustStore.empty().add(ROOT.public, ["root"]).add(signer().public, ["publisher"])
GONE = BASE.revoke("alice", "stolen", date(2026, 1, 1)).add(BOB.public, ["publisher"])


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Gap(tmp_path)


@pytest.fixture
def host(gap: Gap) -> HostTrust:
    made = HostTrust(gap.root / "home")
    made.adopt(signed(BASE, 1), root_fingerprint(BASE), "hybrid")
    return made


def carry(gap: Gap, chain: bytes) -> Path:
    return carried.write(gap.medium, open_medium(gap.medium).stem, chain)


def test_a_revocation_arrives_although_the_bundle_is_refused(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()  # by alice
    carry(gap, signed(BASE, 1) + signed(GONE, 2))
    renewed = renew(gap.medium, host, "hybrid", keep=True)
    assert "alice is revoked: stolen" in renewed.notes[0]
    with pytest.raises(NotTrusted, match="revoked on 2026-01-01"):
        import_bundle(gap.medium, gap.far, renewed.trust, seen=gap.seen)
    assert host.load().version == 2 and host.load().signer("alice").revoked
    assert not gap.far.root.exists()


def test_a_new_publisher_counts_for_the_bundle_that_brings_him(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export(by=[BOB])
    with pytest.raises(NotTrusted):
        import_bundle(gap.medium, gap.far, host.load(), seen=gap.seen)
    carry(gap, signed(GONE, 2))
    assert import_bundle(
        gap.medium, gap.far, renew(gap.medium, host, "hybrid", keep=True).trust, seen=gap.seen
    ).complete


def test_a_look_keeps_nothing(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    carry(gap, signed(GONE, 2))
    looked = renew(gap.medium, host, "hybrid", keep=False)
    assert looked.trust.version == 2 and "would count" in looked.notes[0]
    assert host.load().version == 1


def test_forged_damaged_and_foreign_trust_refuses_the_bundle(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    good = signed(GONE, 2)
    other = TrustStore.empty().add(BOB.public, ["root"])
    cases = [
        signed(GONE, 2, BOB), signed(GONE, 3), good[:-40], b"", b"\n", b"{}", b"\xff" * 100, good + good,
        signed(other, 1, BOB), good.replace(b"application/vnd.sealift.trust", b"application/vnd.sealift.other"),
    ]  # fmt: skip
    for data in cases:
        path = carry(gap, data)
        with pytest.raises((NotTrusted, BundleRefused), match=path.name.replace(".", r"\.")) as caught:
            renew(gap.medium, host, "hybrid", keep=True)
        assert "take" in (getattr(caught.value, "hint", None) or "")
        assert host.load().version == 1
    path.unlink()
    path.mkdir()
    with pytest.raises((BundleRefused, MediumUnavailable)):
        renew(gap.medium, host, "hybrid", keep=True)


def test_every_flipped_byte_of_carried_trust_changes_nothing(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    data = signed(GONE, 2)
    for at in range(0, len(data), 97):
        carry(gap, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((NotTrusted, BundleRefused)):
            renew(gap.medium, host, "hybrid", keep=True)
    assert host.load().version == 1


def test_a_host_without_a_root_does_not_look(gap: Gap) -> None:
    gap.model()
    gap.export()
    carry(gap, b"anything")
    host = HostTrust(gap.root / "home")
    host.change(lambda old: old.add(signer().public, ["publisher"]))
    renewed = renew(gap.medium, host, "hybrid", keep=True)
    assert renewed.trust == host.load() and "no root" in renewed.notes[0]


def test_a_weak_root_does_not_meet_this_sites_profile(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    carry(gap, signed(GONE, 2))
    with pytest.raises(NotTrusted, match="profile cnsa2 needs"):
        renew(gap.medium, host, "cnsa2", keep=True)


def test_the_verbs_carry_trust_across(
    gap: Gap, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From `trust init` to an import that brings both a model and a revocation, by the command line alone."""
    near, far = gap.root / "near", gap.root / "home"
    for name in ("root", "alice", "bob"):
        Keyring(near / "keys").write(fixed_signer(name), None)
    monkeypatch.setenv("SEALIFT_HOME", str(near))
    monkeypatch.setenv("SEALIFT_MODELS", str(gap.near.root))
    gap.model()

    def run(*words: object) -> int:
        return sealift.run([str(word) for word in words])

    usb = [gap.root / "usb1", gap.root / "usb2"]
    assert run("bundle", "export", "mine", "-o", usb[0], "--sign", "alice", "--with-trust") == 1
    assert "trust init" in capsys.readouterr().err and not usb[0].exists()
    assert run("trust", "add", near / "keys/alice.pub", "--role", "publisher") == 0
    assert run("trust", "init", "--root", near / "keys/root.pub", "--sign", "root") == 0
    assert run("bundle", "export", "mine", "-o", usb[0], "--sign", "alice", "--with-trust") == 0
    monkeypatch.setenv("SEALIFT_HOME", str(far))
    monkeypatch.setenv("SEALIFT_MODELS", str(gap.far.root))
    first = next(usb[0].glob("*.trust.jsonl"))
    fingerprint = root_fingerprint(HostTrust(near).load())
    assert run("trust", "import", first, "--root", fingerprint) == 0
    assert run("bundle", "import", usb[0]) == 0
    monkeypatch.setenv("SEALIFT_HOME", str(near))
    monkeypatch.setenv("SEALIFT_MODELS", str(gap.near.root))
    assert run("trust", "add", near / "keys/bob.pub", "--role", "publisher") == 0
    assert run("trust", "revoke", "alice", "--reason", "stolen") == 0
    assert run("trust", "sign", "--sign", "root") == 0
    capsys.readouterr()
    assert run("bundle", "export", "mine", "-o", gap.root / "usb3", "--sign", "alice", "--channel", "other") == 0
    assert "alice is revoked in the trust of this host" in capsys.readouterr().err
    assert run("bundle", "export", "mine", "-o", usb[1], "--sign", "bob", "--with-trust") == 0
    assert "is revoked in the trust" not in capsys.readouterr().err
    monkeypatch.setenv("SEALIFT_HOME", str(far))
    monkeypatch.setenv("SEALIFT_MODELS", str(gap.far.root))
    capsys.readouterr()
    assert run("bundle", "verify", usb[1]) == 0
    assert "would count" in capsys.readouterr().err
    assert run("bundle", "import", usb[1]) == 0
    assert "alice is revoked: stolen" in capsys.readouterr().err
    assert run("bundle", "import", usb[0]) == 3, "alice counts no longer"
    assert run("bundle", "import", usb[1]) == 0, "again is welcome"


@pytest.mark.parametrize("late", [False, True])
def test_a_drop_folder_brings_trust_and_approvals_as_a_medium_does(gap: Gap, host: HostTrust, late: bool) -> None:
    """Sent by `send`, taken by `receive`: a publisher and an approver whom only the carried trust makes known."""
    gap.model()
    gap.export(by=[BOB])
    trust = replace(GONE, roles=GONE.roles).add(signer("officer").public, ["approver"])
    approve(examine(gap.medium, trust, seen=gap.exported), [signer("officer")])
    path = carry(gap, signed(trust, 2))
    drop, events = gap.root / "drop", list[dict[str, Any]]()
    report = send(gap.medium, drop)
    assert report.sent[0] == path.name and report.sent[-1].endswith(".dsse.json")
    if late:
        shutil.move(drop / path.name, gap.root / "late")

    def once() -> int:
        with Rooms(
            gap.far.private / "receiving", host.load(), events.append, store=gap.far, seen=gap.seen, host=host
        ) as rooms:
            watch(drop, rooms, once=True)
            if late and (gap.root / "late").exists():
                assert rooms.exit_code() == 3 and not gap.far.names()
                shutil.move(gap.root / "late", drop / path.name)
                watch(drop, rooms, once=True)
            return rooms.exit_code()

    assert once() == 0, events
    assert [name.short for name in gap.far.names()] == ["mine:latest"] and host.load().version == 2
    assert any("alice is revoked" in event.get("why", "") for event in events if event["event"] == "trust")


def test_what_is_only_collected_keeps_its_trust(gap: Gap, host: HostTrust) -> None:
    """The folder is carried on, and the next host wants it too."""
    gap.model()
    gap.export(by=[BOB])
    path = carry(gap, signed(GONE, 2))
    send(gap.medium, gap.root / "drop")
    events = list[dict[str, Any]]()
    for _ in range(2):
        with Rooms(gap.root / "kept", host.load(), events.append, seen=gap.seen, host=host) as rooms:
            watch(gap.root / "drop", rooms, once=True)
            assert rooms.exit_code() == 0, events
    (room,) = (folder for folder in (gap.root / "kept").iterdir() if folder.is_dir())
    assert (room / path.name).read_bytes() == path.read_bytes() and not gap.far.names()
    assert [event["name"] for event in events if event["event"] == "taken"].count(path.name) == 1


def test_forged_trust_in_a_drop_folder_is_told_and_changes_nothing(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    carry(gap, signed(GONE, 2, BOB))
    events = list[dict[str, Any]]()
    with Rooms(
        gap.far.private / "receiving", host.load(), events.append, store=gap.far, seen=gap.seen, host=host
    ) as it:
        watch(gap.medium, it, once=True)
        assert it.exit_code() == 0
    assert [event["event"] for event in events][:1] == ["damaged"] and host.load().version == 1
    assert gap.far.names(), "what was trusted before still is"


class Diode:
    """Carries every packet that `passes` lets through, at once."""

    def __init__(self, receiver: Receiver, passes: Callable[[datagrams.Symbol], bool]) -> None:
        self._receiver, self._passes = receiver, passes

    def send(self, packets: Bytes) -> None:
        for packet in packets:
            found = datagrams.parse(packet.tobytes())
            if not isinstance(found, datagrams.Symbol) or self._passes(found):
                self._receiver.take(packet.tobytes())


def cross(
    gap: Gap, rooms: Rooms, passes: Callable[[datagrams.Symbol], bool] = lambda found: True, repeat: int = 1
) -> int:
    with Receiver(rooms) as receiver:
        radiate(gap.medium, Diode(receiver, passes), rate=1e9, m=10, symbol=256, repeat=repeat, pace=Pace(None))
        receiver.finish()
        return rooms.exit_code()


def rooms_of(gap: Gap, host: HostTrust, events: list[dict[str, Any]]) -> Rooms:
    return Rooms(gap.far.private / "receiving", host.load(), events.append, store=gap.far, seen=gap.seen, host=host)


def test_a_network_diode_brings_trust_before_the_bundle_it_counts_for(gap: Gap, host: HostTrust) -> None:
    """A publisher whom nobody here knew, in one transmission; a twelfth of the trust lost."""
    gap.model()
    gap.export(by=[BOB])
    carry(gap, signed(GONE, 2))
    events = list[dict[str, Any]]()
    with rooms_of(gap, host, events) as rooms:
        assert cross(gap, rooms, lambda found: found.what != What.TRUST or found.at % 12 > 0) == 0, events
        assert cross(gap, rooms, repeat=2) == 0
    assert [name.short for name in gap.far.names()] == ["mine:latest"] and host.load().version == 2
    assert [event["why"] for event in events if event["event"] == "trust" and "alice is revoked" in event["why"]]
    assert not list((gap.far.private / "receiving").glob("*.jsonl"))


def test_trust_that_comes_late_through_a_diode_lets_the_refused_come_again(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export(by=[BOB])
    carry(gap, signed(GONE, 2))
    events, rounds = list[dict[str, Any]](), [0]
    with rooms_of(gap, host, events) as rooms, Receiver(rooms) as receiver:
        for turn in range(2):
            link = Diode(receiver, lambda found, turn=turn: turn > 0 or found.what != What.TRUST)  # type: ignore[misc]
            radiate(gap.medium, link, rate=1e9, m=10, symbol=256, pace=Pace(None))
            receiver.finish()
            rounds.append(len(gap.far.names()))
    assert rounds == [0, 0, 1] and "untrusted" in [event["event"] for event in events]


def test_what_a_diode_brings_is_kept_where_it_is_only_collected(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export(by=[BOB])
    path = carry(gap, signed(GONE, 2))
    with Rooms(gap.root / "kept", host.load(), lambda event: None, seen=gap.seen, host=host) as rooms:
        assert cross(gap, rooms) == 0
    assert not list((gap.root / "kept").glob("*.jsonl"))
    (room,) = (folder for folder in (gap.root / "kept").iterdir() if folder.is_dir())
    assert (room / path.name).read_bytes() == path.read_bytes() and not gap.far.names()


def test_forged_trust_through_a_diode_is_told_once_and_changes_nothing(gap: Gap, host: HostTrust) -> None:
    gap.model()
    gap.export()
    carry(gap, signed(GONE, 2, BOB))
    events = list[dict[str, Any]]()
    with rooms_of(gap, host, events) as rooms:
        assert cross(gap, rooms, repeat=3) == 0
    assert host.load().version == 1 and gap.far.names(), "what was trusted before still is"
    assert [event["event"] for event in events].count("damaged") == 1


def test_chains_of_strangers_have_a_cap(gap: Gap, host: HostTrust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_receive, "MAX_CHAINS", 100_000)
    with rooms_of(gap, host, []) as rooms, Receiver(rooms) as receiver:
        for size in (1 << 20, MAX_CHAIN_BYTES + 1):
            geometry = Geometry(size, 2, 1, 1024)
            symbols = fec.encode(geometry, bytes(geometry.block * 4), 4)
            for number in range(200):
                identity = number.to_bytes(16, "big")
                for packet in datagrams.group(identity, (What.TRUST, 0), geometry, 0, symbols, 1, 0):
                    receiver.take(packet.tobytes())
            held = sum(len(block) for chain in receiver._chains.values() for block in chain.values())
            assert 0 < held <= 100_000 and len(receiver._blocks) <= 800
