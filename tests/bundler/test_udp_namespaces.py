"""A diode of the kernel: two network namespaces, a virtual cable, and loss in between; both verbs as processes.

Needs the right to make network namespaces, and veth. Packets are lost in a relay at the sending end, since few kernels
have netem. The receiving end sends nothing: the kernel would count its packets, and there are none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundler import seal
from manifests.store import Store
from tests.bundler.test_receive import OPTIONS
from tests.peers.bundles import Gap, signer, trusting

ROOT = Path(__file__).parents[2]
NEAR, FAR = "192.0.2.1", "192.0.2.2"
TIMEOUT = 120  # seconds


class Cable:
    """`near` and `far` are namespaces, joined by one veth pair."""

    def __init__(self) -> None:
        tag = f"sl{os.getpid() % 100_000}"
        self.near, self.far, self._near_end, self._far_end = f"{tag}n", f"{tag}f", f"{tag}a", f"{tag}b"

    def __enter__(self) -> Cable:
        for name in (self.near, self.far):
            ip("netns", "add", name)
        ip("link", "add", self._near_end, "netns", self.near, "type", "veth", "peer", "name", self._far_end,
           "netns", self.far)  # fmt: skip
        for name, end, address in ((self.near, self._near_end, NEAR), (self.far, self._far_end, FAR)):
            ip("-n", name, "addr", "add", f"{address}/30", "dev", end)
            ip("-n", name, "link", "set", end, "arp", "off", "up")
            ip("-n", name, "link", "set", "lo", "up")
        # a diode has no answers, so neighbours are fixed; each end takes what comes, whoever it is for
        for name, end, other in ((self.near, self._near_end, self.far), (self.far, self._far_end, self.near)):
            peer = self._far_end if end == self._near_end else self._near_end
            address = FAR if end == self._near_end else NEAR
            ip("-n", name, "neigh", "add", address, "lladdr", mac(other, peer), "dev", end)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def back(self) -> int:
        """IPv4 packets that the far end has sent, by the kernel's count."""
        words = ["ip", "netns", "exec", self.far, "cat", "/proc/net/snmp"]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Ip:"))
        return int(dict(zip(names, values, strict=True))["OutRequests"])


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def mac(name: str, end: str) -> str:
    found = subprocess.run(["ip", "-n", name, "-j", "link", "show", end], check=True, capture_output=True).stdout
    return str(json.loads(found)[0]["address"])


def refusal() -> str:
    """Why this test cannot run here; empty if it can."""
    if not shutil.which("ip"):
        return "needs the program ip (iproute2)"
    try:
        with Cable():
            return ""
    except subprocess.CalledProcessError as error:
        return f"needs the right to make network namespaces: {error.stderr.decode().strip()[:200]}"


@pytest.fixture
def cable() -> Iterator[Cable]:
    why = refusal()
    if why:
        pytest.skip(why)
    with Cable() as cable:
        yield cable


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=6000)
    gap.export(options=OPTIONS)
    (tmp_path / "trust.toml").write_bytes(trusting(signer()).encode())
    return gap


RELAY = """
import random, socket, sys
port, host, kind, share, length = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
numbers, burst = random.Random(3), 0
taking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taking.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: what is lost is lost on purpose
taking.bind(("127.0.0.1", port))
giving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while True:
    data = taking.recv(65535)
    if burst == 0 and numbers.random() < share / length:
        burst = length if kind == "fixed" else numbers.randrange(1, 2 * length)
    if burst:
        burst -= 1
    else:
        giving.sendto(data, (host, 5000))
"""


@pytest.mark.parametrize(
    ("share", "length", "fec"), [(0.01, 1, "10%"), (0.05, 1, "25%"), (0.04, 60, "20%")], ids=["1 %", "5 %", "bursts"]
)
def test_across_two_namespaces(cable: Cable, gap: Gap, share: float, length: int, fec: str) -> None:
    """`share` of all packets is lost, on average `length` in a row."""
    cross(cable, gap, share, length, fec)


def test_an_encrypted_bundle_across_two_namespaces(
    cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 5 % of all packets lost; the sender cannot read it."""
    pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=6000)
    identity = tmp_path / "enclave.identity"
    sealing = seal.Sealing(recipients=(seal.generate(identity),))
    gap.export(options=replace(OPTIONS, sealing=sealing))
    (tmp_path / "trust.toml").write_bytes(trusting(signer()).encode())
    cross(cable, gap, 0.05, 1, "25%", "--limit", "64MB", "--identity", str(identity))


def cross(cable: Cable, gap: Gap, share: float, length: int, fec: str, *options: str) -> None:
    """From one verb to the other, which is given `options`."""
    environment = {**os.environ, "SEALIFT_MODELS": str(gap.far.root), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, str(ROOT / "sealift.py"), "bundle"]
    near, far = ["ip", "netns", "exec", cable.near], ["ip", "netns", "exec", cable.far]
    trust = str(gap.root / "trust.toml")
    receiver = subprocess.Popen(
        [*far, *program, "receive", "--udp", f"{FAR}:5000", "--once", "--json", "--trust", trust, *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    relay = subprocess.Popen(
        [*near, sys.executable, "-c", RELAY, "4000", FAR, "random", str(share), str(length)], stdout=subprocess.PIPE
    )
    try:
        assert receiver.stderr is not None and "listening" in receiver.stderr.readline()
        assert relay.stdout is not None and relay.stdout.readline()
        words = ["--udp", "127.0.0.1:4000", "--rate", "20M", "--fec", fec, "--repeat", "2", "--json"]
        sent = subprocess.run(
            [*near, *program, "send", str(gap.medium), *words],
            env=environment, capture_output=True, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        out, err = receiver.communicate(timeout=TIMEOUT)
    finally:
        for process in (receiver, relay):
            process.kill()
            process.wait()
        assert relay.stdout is not None
        relay.stdout.close()
    events = [json.loads(line) for line in out.splitlines()]
    assert receiver.returncode == 0, err + out
    assert [event["event"] for event in events].count("imported") == 1
    assert [name.short for name in Store(gap.far.root).names()] == ["mine:latest"]
    assert cable.back() == 0, "nothing was sent back"
    (ended,) = (event for event in events if event["event"] == "ended")
    assert ended["lost"] > share / 3, "packets were lost at all"
