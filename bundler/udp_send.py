"""Send through a network diode: datagrams at a steady rate, with parity symbols, and never a look back.

    each round     carried trust and the head of the index volume (so that the receiver knows whose files these are),
                   index volume, data volumes, parity volumes, approvals; the former again and again in between
    encrypted      the packing list instead of the head; its id stands for the bundle, and no key is needed here
    at the end     heartbeats that say so

Nothing is ever read from the socket. Volumes are hashed before they are sent.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bundler import approvals, carried, datagrams, fec, packing, parts
from bundler.conceal import SEALED
from bundler.datagrams import Heartbeat, What
from bundler.errors import BadRequest, medium_errors
from bundler.fec import Geometry
from bundler.gf256 import MAX_SHARDS, Bytes
from bundler.medium import PARITY, VOLUME, file_names
from bundler.outgoing import Listed, Outgoing, listed, outgoing
from bundler.pace import Pace

K = 96  # data symbols of a block: coding costs time in proportion to the parity symbols, not to their share
GROUP = 32  # blocks that share a burst: 320 packets in a row may be lost at 10 %
BEAT = 1.0  # seconds between heartbeats
HEAD_EVERY = 2.0  # seconds, and at most a fiftieth of the rate, between two copies of the head
LIST_FIRST = 0.1  # seconds, doubled each time, between the first copies of a packing list: nothing is taken without it
LAST_BEATS = 10
SEGMENTS = 40  # datagrams given to the kernel at once, at most, and at most so many bytes:
SEGMENT_BYTES = 60_000
SMALL = (What.TRUST, What.LIST)  # what is put together in memory, over there
SLICE = 0.001  # seconds of the rate given to the kernel at once
_RATE = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,3})?)(?P<unit>[kMG]?)(?:bit(?:/s)?)?", re.IGNORECASE)

Progress = Callable[[int], None]


class Link(Protocol):
    """Where datagrams go. `packets` (n, length)."""

    def send(self, packets: Bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiated:
    """What was sent; whether it arrived is not known here."""

    id: str
    packets: int
    bytes: int  # of IP packets
    seconds: float
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "packets": self.packets,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "missing": list(self.missing),
        }


def parse_rate(text: str) -> float:
    """Bits for each second: `500M`, `1G`, `800k`, `2.5Gbit`, in powers of 1000 as links are sold. Raises BadRequest."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match["number"]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match["unit"].lower()] if match else 0
    if rate < 1000:
        raise BadRequest(f"--rate {text[:40]!r}: expected bits for each second, such as 500M")
    return rate


def parity_symbols(text: str) -> int:
    """`10%` of K. Raises BadRequest."""
    match = re.fullmatch(r"(?P<number>[0-9]{1,2})%", text.strip())
    count = -(-int(match["number"]) * K // 100) if match else MAX_SHARDS
    if K + count > MAX_SHARDS:
        raise BadRequest(f"--fec {text[:40]!r}: expected a share from 0% to {(MAX_SHARDS - K) * 100 // K}%")
    return count


def symbol_size(mtu: int) -> int:
    """The largest symbol whose datagram fits into an IP packet of `mtu` bytes."""
    return min((mtu - datagrams.OVERHEAD) // 8 * 8, fec.MAX_SYMBOL)


def bundle_of(path: Path, progress: Progress | None = None) -> Outgoing | Listed:
    """What a folder has to send. Encrypted volumes without parity volumes are read for it. Raises BadRequest for parts
    alone."""
    with medium_errors(path):
        names = [name.removesuffix(SEALED) for name in (file_names(path) if path.is_dir() else [path.name])]
    if any(map(parts.NAME.fullmatch, names)) and not any(VOLUME.fullmatch(n) or PARITY.fullmatch(n) for n in names):
        raise BadRequest(
            f"{path} holds parts alone, which a network diode does not carry",
            hint="send whole volumes: those that `bundle resend --whole` writes, or all of the export once more; what "
            "arrived before counts",
        )
    return listed(path, progress) or outgoing(path)


def radiate(
    path: Path | Outgoing | Listed, link: Link, *, rate: float, m: int, symbol: int, repeat: int = 1,
    progress: Progress | None = None, clock: Callable[[], float] = time.monotonic, pace: Pace | None = None,
) -> Radiated:  # fmt: skip
    """`path`: a folder, or what `bundle_of` found in one. `rate` in bits of IP packets for each second; `m` parity
    symbols for K of `symbol` bytes."""
    bundle = bundle_of(path) if isinstance(path, Path) else path
    sender = _Sender(bundle, link, rate, m, symbol, repeat, pace or Pace(rate / 8, clock=clock), clock)
    start = clock()
    for turn in range(1, repeat + 1):
        sender.round(turn, progress or (lambda count: None))
    sender.farewell()
    return Radiated(
        id=bundle.id,
        packets=sender.sequence,
        bytes=sender.bytes,
        seconds=clock() - start,
        missing=bundle.missing,
    )


class _Sender:
    def __init__(
        self, bundle: Outgoing | Listed, link: Link, rate: float, m: int, symbol: int, rounds: int, pace: Pace,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._bundle, self._link, self._rate, self._rounds = bundle, link, rate, rounds
        self._m, self._symbol, self._pace, self._clock = m, symbol, pace, clock
        self._id = bytes.fromhex(bundle.id)
        found = [(name, file) for name in bundle.names if (file := _file(bundle, name)) is not None]
        self._told = [item for item in found if item[1][0] in SMALL]
        self._files = [item for item in found if item[1][0] not in SMALL]
        self._total = sum(self._size(name) for name, _ in found)
        length = symbol + datagrams.OVERHEAD
        self._batch = int(max(1, min(SEGMENTS, SEGMENT_BYTES // length, rate * SLICE / 8 / length)))
        self._turn = self.sequence = self.bytes = 0
        self._beat = self._head = float("-inf")
        self._every = LIST_FIRST if isinstance(bundle, Listed) else HEAD_EVERY
        self._checks: dict[str, Future[None] | None] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def round(self, turn: int, progress: Progress) -> None:
        """While one group is sent, the next is coded on another thread, and the next volume hashed on a third."""
        self._turn = turn
        self._between()
        groups = [(name, file, first, length) for name, file in self._files for first, length in self._groups(name)]
        with ThreadPoolExecutor(2, thread_name_prefix="fec") as pool:
            self._pool = pool
            coming = [pool.submit(self._prepare, *group[:3], GROUP) for group in groups[:1]]
            for number, (*_, length) in enumerate(groups, 1):
                packets = coming.pop().result()
                coming += [pool.submit(self._prepare, *group[:3], GROUP) for group in groups[number : number + 1]]
                self._between()
                self._send(packets)
                progress(length)

    def farewell(self) -> None:
        for _ in range(LAST_BEATS):
            self._heartbeat(last=True)

    def _groups(self, name: str) -> Iterator[tuple[int, int]]:
        geometry = self._geometry(name)
        for first in range(0, geometry.blocks, GROUP):
            end = min(first + GROUP, geometry.blocks)
            yield first, min(geometry.size, end * geometry.block) - first * geometry.block

    def _geometry(self, name: str) -> Geometry:
        return Geometry(self._size(name), K, self._m, self._symbol)

    def _size(self, name: str) -> int:
        return len(self._bundle.told) if name == packing.MEMBER else (self._bundle.folder / name).stat().st_size

    def _between(self) -> None:
        """What is said again and again."""
        now = self._clock()
        if now - self._beat >= BEAT:
            self._beat = now
            self._heartbeat()
        name, file = self._files[0]
        head = self._bundle.head
        size = head + sum(self._size(other) for other, _ in self._told)
        if file[0] in (What.VOLUME, What.SEALED) and now - self._head >= max(self._every, size * 8 * 50 / self._rate):
            self._head, self._every = now, min(2 * self._every, HEAD_EVERY)
            for other, small in self._told:  # first: it may say who counts for this very bundle
                for first, _ in self._groups(other):
                    self._send(self._prepare(other, small, first, GROUP))
            if head:
                self._send(self._prepare(name, file, 0, -(-head // (K * self._symbol))))

    def _prepare(self, name: str, file: tuple[What, int], first: int, group: int) -> Bytes:
        if first == 0 and file[0] not in SMALL:
            self._require_checked(name)
        geometry = self._geometry(name)
        blocks = min(group, geometry.blocks - first)
        path, length = self._bundle.folder / name, min(blocks * geometry.block, geometry.size - first * geometry.block)
        listed = io.BytesIO(self._bundle.told) if name == packing.MEMBER else None
        with medium_errors(path), listed or path.open("rb") as stream:
            stream.seek(first * geometry.block)
            data = stream.read(length)
        symbols = fec.encode(geometry, data, blocks)
        count = sum(geometry.sent(first + block) + geometry.m for block in range(blocks))
        return datagrams.group(self._id, file, geometry, first, symbols, self._turn, self._take(count))

    def _require_checked(self, name: str) -> None:
        """A volume is hashed before a byte of it goes out, and only in the first round. Raises VolumeDamaged."""
        names = [other for other, _ in self._files]
        for other in names[names.index(name) :][:2]:
            if other not in self._checks:
                if self._pool is None:  # the head, before anything else
                    self._bundle.check(other)
                    self._checks[other] = None
                    return
                self._checks[other] = self._pool.submit(self._bundle.check, other)
        check = self._checks[name]
        if check is not None:
            check.result()

    def _take(self, count: int) -> int:
        """The next sequence numbers."""
        with self._lock:
            self.sequence += count
            return self.sequence - count

    def _heartbeat(self, *, last: bool = False) -> None:
        beat = Heartbeat(self._id, self._turn, self._rounds, self._total, last, self._take(1))
        raw = datagrams.heartbeat(beat)
        self._send(np.frombuffer(raw, np.uint8).reshape(1, -1))

    def _send(self, packets: Bytes) -> None:
        for start in range(0, len(packets), self._batch):
            some = packets[start : start + self._batch]
            size = len(some) * (some.shape[1] + datagrams.OVERHEAD - datagrams.HEADER.size)
            self._pace.spend(size)
            self._link.send(some)
            self.bytes += size


def _file(bundle: Outgoing | Listed, name: str) -> tuple[What, int] | None:
    """None for parts, and for an identity under a passphrase, which is in the packing list."""
    sealed = isinstance(bundle, Listed)
    if name in bundle.volumes:
        return What.SEALED if sealed else What.VOLUME, bundle.volumes.index(name)
    if sealed and name == packing.MEMBER:
        return What.LIST, 0
    match = PARITY.fullmatch(name)
    if match:
        return What.PARITY, int(match["number"]) - 1
    if carried.NAME.fullmatch(name):
        return What.TRUST, 0
    if approvals.NAME.fullmatch(name):
        others = [other for other in bundle.names if approvals.NAME.fullmatch(other)]
        return What.APPROVAL, others.index(name)
    return None
