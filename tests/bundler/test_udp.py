"""The network diode: loss, bursts, repetition, forgery, in a channel inside the process; the wire against its page."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler import datagrams, fec, udp_link, udp_receive, udp_send
from bundler.approve import approve, examine
from bundler.arriving import Arriving, Ranges
from bundler.channels import Channels
from bundler.datagrams import HEADER, Heartbeat, Symbol, What
from bundler.errors import BadRequest
from bundler.fec import Geometry
from bundler.gf256 import Bytes
from bundler.pace import Pace
from bundler.rooms import Rooms
from bundler.udp_receive import Receiver
from bundler.udp_send import radiate
from manifests.store import Store
from signing.trust import TrustStore
from tests.bundler.test_import_interrupted import check_store
from tests.bundler.test_receive import OPTIONS
from tests.peers.bundles import Gap, noise, signer, trusting, volumes

PAGE = Path(__file__).parents[2] / "docs/formats/udp.md"
SYMBOL = 256


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("udp")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=2400)
        gap.export(options=OPTIONS)
    return gap


class Far:
    """The isolated end of a diode, and the channel to it: `lose(n)` says whether packet n is lost."""

    def __init__(self, root: Path, lose: Callable[[int], bool] = lambda n: False) -> None:
        self.root, self.lose, self.count = root, lose, 0
        self.store = Store(root / "far" / "models")
        self.events: list[dict[str, Any]] = []
        self.before: Callable[[bytes], list[bytes]] = lambda packet: [packet]

    def rooms(self, trust: TrustStore | None = None) -> Rooms:
        seen = Channels(self.root / "channels.json")
        base = self.store.private / "receiving"
        trust = trust or trusting(signer())
        return Rooms(base, trust, self.events.append, store=self.store, seen=seen, repair=True)

    def send(self, packets: Bytes) -> None:
        for packet in packets:
            self.count += 1
            if not self.lose(self.count):
                for some in self.before(packet.tobytes()):
                    self.receiver.take(some)

    def run(self, stick: Path, *, m: int = 10, repeat: int = 1, trust: TrustStore | None = None) -> int:
        with self.rooms(trust) as rooms, Receiver(rooms) as self.receiver:
            radiate(stick, self, rate=1e9, m=m, symbol=SYMBOL, repeat=repeat, pace=Pace(None))
            self.receiver.finish()
            return rooms.exit_code()

    def said(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]

    def models(self) -> list[str]:
        return sorted(name.short for name in self.store.names())


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Far(tmp_path)


def at_random(share: float, seed: int = 1) -> Callable[[int], bool]:
    numbers = random.Random(seed)
    return lambda n: numbers.random() < share


def in_bursts(length: int, every: int) -> Callable[[int], bool]:
    return lambda n: n % every < length and n > every


def outside(low: int, high: int) -> Callable[[int], bool]:
    return lambda n: n > 250 and not low < n < high


# -- the code and the wire


@given(st.integers(1, 5000), st.integers(1, 12), st.integers(0, 6), st.randoms())
def test_any_k_of_the_symbols_give_the_block(size: int, k: int, m: int, numbers: random.Random) -> None:
    geometry = Geometry(size, k, m, 64)
    data = numbers.randbytes(size)
    symbols = fec.encode(geometry, data, geometry.blocks)
    for block in range(geometry.blocks):
        sent = [*range(geometry.sent(block)), *range(k, k + m)]
        found = {i: symbols[i, block].tobytes() for i in numbers.sample(sent, geometry.sent(block))}
        whole = data[block * geometry.block :][: geometry.length(block)]
        assert fec.decode(geometry, block, found) == whole
        if found:
            found.popitem()
            assert fec.decode(geometry, block, found) is None


@given(st.integers(1, 60_000), st.integers(1, 200), st.integers(0, 55), st.integers(1, 20))
def test_every_datagram_reads_back(size: int, k: int, m: int, eighths: int) -> None:
    geometry = Geometry(size, k, m, 8 * eighths)
    blocks = min(3, geometry.blocks)
    symbols = fec.encode(geometry, noise(min(size, blocks * geometry.block)), blocks)
    packets = datagrams.group(b"\x07" * 16, (What.PARITY, 3), geometry, 0, symbols, 2, 1000)
    for n, packet in enumerate(packets):
        found = datagrams.parse(packet.tobytes())
        assert isinstance(found, Symbol)
        assert (found.file, found.geometry, found.sequence) == ((What.PARITY, 3), geometry, 1000 + n)
        assert found.payload == symbols[found.at, found.block].tobytes()
    assert len(packets) == sum(geometry.sent(b) + m for b in range(blocks))


def test_the_vector_of_the_page() -> None:
    """Twenty bytes in two data symbols and one parity symbol, and a heartbeat."""
    text = PAGE.read_text()
    geometry = Geometry(20, 2, 1, 16)
    packets = datagrams.group(
        bytes.fromhex("7f3c91ab" * 4), (What.VOLUME, 1), geometry, 0, fec.encode(geometry, bytes(range(1, 21)), 1), 1, 7
    )
    told = [re.sub(r"\s", "", block) for block in re.findall(r"```\n([0-9a-f\s]+)```", text)]
    beat = Heartbeat(bytes.fromhex("7f3c91ab" * 4), 1, 2, 20, True, 10)
    assert told == [*(packet.tobytes().hex() for packet in packets), datagrams.heartbeat(beat).hex()]
    assert datagrams.parse(datagrams.heartbeat(beat)) == beat


def test_every_field_is_checked() -> None:
    """Each impossible value with a right CRC; each flipped bit without."""
    geometry = Geometry(1000, 4, 2, 64)
    packets = datagrams.group(b"i" * 16, (What.VOLUME, 0), geometry, 0, fec.encode(geometry, noise(1000), 4), 1, 0)
    good = packets[0].tobytes()
    assert datagrams.parse(good) is not None

    def with_fields(**changes: int) -> bytes:
        names = [
            "magic",
            "kind",
            "what",
            "number",
            "id",
            "size",
            "block",
            "index",
            "k",
            "m",
            "zero",
            "symbol",
            "round",
            "sequence",
        ]
        values = dict(zip(names, HEADER.unpack(good[:56]), strict=False)) | changes
        head = HEADER.pack(*values.values(), 0)[:52]
        raw: bytes = head + struct.pack(">I", zlib.crc32(good[56:], zlib.crc32(head))) + good[56:]
        return raw

    assert datagrams.parse(with_fields()) == datagrams.parse(good)
    for change in (
        {"kind": 2}, {"kind": 1}, {"what": 6}, {"number": 9999}, {"size": 0}, {"size": 1 << 47}, {"block": 4},
        {"index": 6}, {"k": 0}, {"k": 254}, {"m": 252}, {"zero": 1}, {"symbol": 0}, {"symbol": 60}, {"symbol": 72},
        {"block": 3, "index": 3, "size": 800}, {"what": 2, "number": 32}, {"what": 3, "number": 1},
        {"what": 4, "number": 1}, {"what": 5, "number": 9999},
    ):  # fmt: skip
        assert datagrams.parse(with_fields(**change)) is None, change
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert datagrams.parse(bytes(bad)) is None
    for length in range(len(good)):
        assert datagrams.parse(good[:length]) is None
    assert datagrams.parse(good + b"\0") is None


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40))))
def test_ranges_are_a_set_of_bytes(pieces: list[tuple[int, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for first, length in pieces:
        ranges.add(first, first + length)
        model |= set(range(first, first + length))
    assert ranges.total == len(model)
    for first in range(0, 340, 7):
        for length in (1, 9, 60):
            assert ranges.has(first, first + length) == (set(range(first, first + length)) <= model)


# -- a bundle through the channel


@pytest.mark.parametrize(
    ("lose", "m"),
    [
        (lambda n: False, 0),
        (at_random(0.01), 10),
        (at_random(0.05), 24),
        (in_bursts(80, 1200), 10),
        (lambda n: n % 13 == 0, 10),
    ],
    ids=["none", "1 %", "5 %", "bursts", "every 13th"],
)
def test_one_transmission_is_enough(made: Gap, far: Far, lose: Callable[[int], bool], m: int) -> None:
    far.lose = lose
    assert far.run(made.medium, m=m) == 0, far.events[-5:]
    assert far.models() == ["mine:latest"] and not far.said("damaged")
    check_store(far.store)


def test_what_is_lost_beyond_the_code_comes_with_the_next_round(made: Gap, far: Far) -> None:
    """Half of everything, no parity symbols to speak of: each round brings what is missing."""
    far.lose = at_random(0.5, seed=4)
    assert far.run(made.medium, m=1, repeat=12) == 0 and far.models() == ["mine:latest"]
    assert 0.4 < far.said("ended")[0]["lost"] < 0.6 if far.said("ended") else True


def test_whole_volumes_that_are_lost_come_from_parity_volumes(made: Gap, far: Far) -> None:
    def forget(packet: bytes) -> list[bytes]:
        found = datagrams.parse(packet)
        return [] if isinstance(found, Symbol) and found.file == (What.VOLUME, 2) else [packet]

    far.before = forget
    assert far.run(made.medium) == 0 and far.said("repaired") and far.models() == ["mine:latest"]


def test_another_run_of_both_ends_goes_on(made: Gap, far: Far) -> None:
    """Killed receivers: what was written is noted, and only the rest is needed."""
    written: list[int] = []
    real = Arriving.write

    def write(self: Arriving, offset: int, data: bytes) -> None:
        written.append(len(data))
        real(self, offset, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arriving, "write", write)
        for low in (0, 1500, 3000, 4500):
            far.count, far.lose = 0, outside(low, low + 1700)
            with far.rooms() as rooms, Receiver(rooms) as far.receiver:
                radiate(made.medium, far, rate=1e9, m=10, symbol=SYMBOL, pace=Pace(None))
                # no `finish`: as after a kill
        far.lose = lambda n: False
        assert far.run(made.medium) == 0 and far.models() == ["mine:latest"]
    total = sum(path.stat().st_size for path in [*volumes(made.medium), *made.medium.glob("*.p*.tar")])
    assert sum(written) < 1.1 * total


def test_notes_outlive_a_kill(made: Gap, far: Far) -> None:
    """Also half an entry at their end, and entries that cannot be."""
    from bundler.medium import open_medium

    with far.rooms() as rooms:
        room = rooms.admit(open_medium(made.medium).envelope)
        assert room is not None
        name = room.names[1]
        first = Arriving(room, name, room.sizes[name])
        first.write(5000, noise(300))
        first.close()
        with (room.folder / f"{name}.map.tmp").open("ab") as notes:
            notes.write(struct.pack(">QQ", 0, 1 << 50) + struct.pack(">QQ", 9, 3) + b"half")
        again = Arriving(room, name, room.sizes[name])
        again.close()
        assert again.have.has(5000, 5300) and again.have.total == 300


def test_an_approval_travels_too(made: Gap, far: Far, tmp_path: Path) -> None:
    import shutil
    from dataclasses import replace

    trust = trusting(signer()).add(signer("officer").public, ["approver"])
    roles = (role if role.name == "publisher" else replace(role, threshold=1) for role in trust.roles)
    trust = replace(trust, roles=tuple(roles))
    stick = tmp_path / "stick"
    shutil.copytree(made.medium, stick)
    assert far.run(stick, trust=trust) == 3 and not far.models()
    approve(examine(stick, trust, seen=Channels(tmp_path / "none.json")), [signer("officer")])
    assert far.run(stick, trust=trust) == 0 and far.models() == ["mine:latest"]


# -- strangers and forgers


def test_a_stranger_gets_memory_within_limits_and_no_disk(made: Gap, far: Far) -> None:
    assert far.run(made.medium, trust=trusting(signer("mallory"))) == 3
    assert [path.name for path in (far.store.private / "receiving").iterdir()] == ["lock"]
    with far.rooms() as rooms, Receiver(rooms, clock=lambda: 0.0) as receiver:
        for n in range(3000):
            receiver.take(forged(id=random.Random(n).randbytes(16), payload=noise(8000, n), size=1 << 40, k=200, m=55))
        assert len(receiver._strangers) <= udp_receive.MAX_STRANGERS
        for n in range(12_000):
            receiver.take(
                forged(id=b"s" * 16, payload=noise(1, n) * 8000, size=1 << 40, k=200, block=n % 10, index=n % 199)
            )
        held = sum(len(data) for block in receiver._blocks.values() for data in block.values())
        held += sum(len(data) for stranger in receiver._strangers.values() for _, data in stranger.kept)
        assert held <= udp_receive.MAX_BLOCKS + udp_receive.MAX_STRANGERS * udp_receive.MAX_STRANGE


def forged(**fields: Any) -> bytes:
    """A datagram with a right CRC."""
    names = {"kind": 0, "what": 0, "number": 0, "id": b"i" * 16, "size": 1000, "block": 0, "index": 0, "k": 4, "m": 2}
    payload = fields.pop("payload")
    value = names | fields
    head: bytes = HEADER.pack(
        b"SLU1", value["kind"], value["what"], value["number"], value["id"], value["size"], value["block"],
        value["index"], value["k"], value["m"], 0, len(payload), 1, 0, 0,
    )[:52]  # fmt: skip
    raw: bytes = head + struct.pack(">I", zlib.crc32(payload, zlib.crc32(head))) + payload
    return raw


def test_forged_symbols_cannot_make_anything_accepted(made: Gap, far: Far) -> None:
    """One in forty comes first with other bytes and a right CRC: volumes are found wrong; an honest round mends it."""
    numbers = random.Random(9)

    def forge(packet: bytes) -> list[bytes]:
        found = datagrams.parse(packet)
        if not isinstance(found, Symbol) or numbers.random() > 1 / 40 or far.count < 300:
            return [packet]
        head = packet[:52]
        other = noise(len(found.payload), far.count)
        return [head + struct.pack(">I", zlib.crc32(other, zlib.crc32(head))) + other, packet]

    far.before = forge
    assert far.run(made.medium) != 0 and not far.models() and far.said("damaged")
    far.before = lambda packet: [packet]
    assert far.run(made.medium) == 0 and far.models() == ["mine:latest"]
    check_store(far.store)


def test_files_that_the_statement_does_not_have(made: Gap, far: Far) -> None:
    """Other sizes, other numbers, other ways of cutting under a known id: no file comes of them."""
    with far.rooms() as rooms, Receiver(rooms) as far.receiver:
        far.lose = lambda n: n > 400
        radiate(made.medium, far, rate=1e9, m=10, symbol=SYMBOL, pace=Pace(None))
        (room,) = rooms
        identity = bytes.fromhex(room.statement.id)
        before = sorted(path.name for path in room.folder.iterdir())
        for fields in (
            {"number": 4, "size": 1 << 40}, {"number": 9000, "size": 1000}, {"what": 1, "number": 7, "size": 1 << 40},
            {"what": 2, "number": 1, "size": 1 << 30}, {"number": 0, "size": 5},
        ):  # fmt: skip
            far.receiver.take(forged(id=identity, payload=noise(64), **fields))
        assert sorted(path.name for path in room.folder.iterdir()) == before
        payload, size = noise(8) * 1000, room.sizes[room.names[1]]
        for n in range(11_000):  # each another way of cutting: 88 MB, were they all kept
            cut = {"k": 3 + n % 25, "m": n // 25 % 220, "index": n // 5500}
            far.receiver.take(forged(id=identity, payload=payload, size=size, number=1, **cut))
        assert far.receiver._waiting <= udp_receive.MAX_BLOCKS + 8000


@given(st.binary(max_size=200))
def test_noise_is_not_ours(data: bytes) -> None:
    assert datagrams.parse(data) is None and datagrams.parse(b"SLU1" + data) is None


# -- options, and a real socket


def test_options() -> None:
    assert udp_send.parse_rate("500M") == 500e6 and udp_send.parse_rate("2.5Gbit/s") == 2.5e9
    assert udp_send.parity_symbols("10%") == 10 and udp_send.parity_symbols("0%") == 0
    assert udp_send.symbol_size(1500) % 8 == 0 and udp_send.symbol_size(1500) + datagrams.OVERHEAD <= 1500
    assert udp_link.parse_address("[::1]:5000", "--udp") == ("::1", 5000)
    for wrong in ("", "0", "-5M", "500 parsecs", "999"):
        with pytest.raises(BadRequest):
            udp_send.parse_rate(wrong)
    for wrong in ("100%", "10", "-1%"):
        with pytest.raises(BadRequest):
            udp_send.parity_symbols(wrong)
    for wrong in ("host", "host:0", "host:99999", "a b:5", "::1:5000"):
        with pytest.raises(BadRequest):
            udp_link.parse_address(wrong, "--udp")
    with pytest.raises(BadRequest):
        udp_link.open_socket("example.org", 5000)


def test_the_verbs_over_loopback(
    made: Gap, far: Far, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends as a user has them; the receiving socket is never written to, the sending one never read."""
    import sealift

    trust = far.root / "trust.toml"
    trust.write_bytes(trusting(signer()).encode())
    monkeypatch.setenv("SEALIFT_MODELS", str(far.store.root))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    codes: list[int] = []
    address = f"127.0.0.1:{port}"
    words = ["bundle", "receive", "--udp", address, "--once", "--trust", str(trust), "--json"]
    thread = threading.Thread(target=lambda: codes.append(sealift.run(words)))
    thread.start()
    deadline = time.monotonic() + 60
    while f":{port:04X} " not in Path("/proc/net/udp").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sealift.run(["bundle", "send", str(made.medium), "--udp", address, "--rate", "40M", "--repeat", "3"]) == 0
    thread.join(60)
    assert codes == [0] and far.models() == ["mine:latest"]
    out = capsys.readouterr().out
    assert "datagrams" in out and any(
        json.loads(line)["event"] == "imported" for line in out.splitlines() if line[0] == "{"
    )
    assert sealift.run(["bundle", "send", str(made.medium)]) == 2
    assert sealift.run(["bundle", "receive"]) == 2


def test_the_kernel_cuts_or_we_do(made: Gap) -> None:
    packets = np.frombuffer(noise(5 * 72), np.uint8).reshape(5, 72)
    for segments in (True, False):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far_end:
            far_end.bind(("127.0.0.1", 0))
            far_end.settimeout(60)
            with udp_link.UdpLink("127.0.0.1", far_end.getsockname()[1]) as link:
                link._segments = segments
                link.send(packets)
            assert [far_end.recv(1000) for _ in range(5)] == [packet.tobytes() for packet in packets]
    assert sys.platform == "linux"
