"""Receive from a network diode: datagrams in, files of rooms out. Nothing is ever sent, and no name is looked up.

    strangers   of a bundle whose statement is not known yet, only the beginning of volumes is kept, in memory, under a
                cap; when an envelope is whole, rooms.py judges it: a room, or never again a byte of that bundle
    trust       a carried chain is put together in memory, of strangers too, under a cap, and judged by the signatures
                of the root; if it counts, strangers that were refused may come again
    encrypted   a packing list is put together in memory likewise; its hash is the id of all that belongs to it, and
                rooms.py says whether there is space for what it announces
    rooms       symbols wait in blocks until enough came; a whole block is written to its place in a file of the room,
                of which kind, number and size must be those of the signed statement
    whole       a file that is covered is hashed beside the receiving thread, and gets its name if it is right

What was written is noted beside each file, so that a later round, or the next run, only needs what is still missing.
A forged datagram can spoil a block, and so a file, which must then come again; it cannot make anything accepted, and it
cannot take more memory or disk than the limits here.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bundler import datagrams, fec, layout, packing, parity, tar
from bundler.arriving import Arriving
from bundler.datagrams import Heartbeat, Symbol, What
from bundler.errors import BundlerError, MediumUnavailable
from bundler.medium import MAX_ENVELOPE, MAX_MARK
from bundler.room import Room
from bundler.room_sealed import SealedRoom
from bundler.rooms import Rooms
from signing.errors import SigningError
from signing.limits import MAX_CHAIN_BYTES

MAX_BLOCKS = 64 << 20  # bytes of symbols that wait in blocks; the oldest block makes room
MAX_STRANGERS = 8
MAX_STRANGE = 24 << 20  # bytes of one stranger: the largest envelope, and blocks around it
MAX_REFUSED = 4096  # ids, and hashes of carried trust, that are remembered
MAX_CHAINS = 2 * MAX_CHAIN_BYTES  # of carried trust and packing lists that are not whole; the oldest makes room
MAX_OPEN = 64  # files that are not whole and held open, each by two descriptors; the oldest is closed
IDLE = 5.0  # seconds after which a stranger that fell silent makes room for another

File = tuple[What, int]


class _Stranger:
    """A bundle that nobody has vouched for yet."""

    def __init__(self) -> None:
        self.heads: dict[int, bytearray] = {}  # of volumes, from their start
        self.kept: list[tuple[Symbol, bytes]] = []  # whole blocks, for the room that may come
        self.used = 0
        self.last = 0.0


class Receiver:
    """Takes datagrams from anywhere (`take`). Rooms are worked on by one thread beside."""

    def __init__(self, rooms: Rooms, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rooms, self._clock = rooms, clock
        self._blocks: OrderedDict[tuple[Any, ...], dict[int, bytes]] = OrderedDict()
        self._waiting = 0  # bytes of symbols in blocks
        self._known: dict[bytes, Room] = {bytes.fromhex(room.id): room for room in rooms}
        self._strangers: dict[bytes, _Stranger] = {}
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._chains: OrderedDict[tuple[Any, ...], dict[int, bytes]] = OrderedDict()  # of carried trust, packing lists
        self._judged: OrderedDict[bytes, None] = OrderedDict()  # hashes of chains
        self._files: dict[tuple[bytes, File], Arriving | None] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="room")
        self._jobs: list[Future[None]] = []
        self._first: dict[bytes, int] = {}  # sequence numbers
        self._newest: dict[bytes, int] = {}
        self._came: dict[bytes, int] = {}
        self.ended: set[bytes] = set()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        for file in self._files.values():
            if file is not None:
                file.close()

    def take(self, data: bytes) -> bool:
        """Whether it was one of ours."""
        found = datagrams.parse(data)
        if found is None:
            return False
        if found.id in self._known:
            self._count(found)
        if isinstance(found, Heartbeat):
            if found.last and found.id in self._known and found.id not in self.ended:
                self._end(found)
        elif found.what == What.TRUST:
            self._join(found, MAX_CHAIN_BYTES, self._renew)
        elif found.what == What.LIST:
            if found.id not in self._known and found.id not in self._refused:
                self._join(found, packing.MAX_PACKING, self._announced)
        elif found.id in self._known:
            self._place(found)
        elif found.id not in self._refused:
            self._strange(found)
        return True

    def finish(self) -> None:
        """Nothing more is coming: what waits is written, rooms may use parity. Waits until all is done."""
        while self._blocks:
            self._evict()
        self._wait()
        for room in set(self._known.values()):
            self._submit(lambda room=room: room.advance(settled=True))  # type: ignore[misc]
        self._wait()

    # -- files of rooms

    def _place(self, found: Symbol) -> None:
        key = (found.id, found.file)
        file, geometry = self._files.get(key), found.geometry
        room = self._known[found.id]
        if room.closed or (found.what == What.APPROVAL and not room.envelope):
            return
        if key not in self._files or (file is not None and file.failed):
            self._make_way()
            file = self._files[key] = self._arrive(room, found)
        if file is None or not file.takes(geometry):
            return
        offset = found.block * geometry.block
        if file.have.has(offset, offset + geometry.length(found.block)):
            return
        data = self._collect(found)
        if data is not None:
            self._write(file, offset, data)

    def _write(self, file: Arriving, offset: int, data: bytes) -> None:
        try:
            file.write(offset, data)
        except MediumUnavailable as error:  # no space: the others may still get whole
            file.room.say("failed", name=file.name, why=str(error))
            file.settling = True
            return
        if file.have.has(0, file.size):
            file.settling = True
            self._submit(lambda: self._settle(file))

    def _settle(self, file: Arriving) -> None:
        if file.room.closed:  # imported without it, or dropped; its folder is empty now
            file.close()
            return
        try:
            file.settle()
        except BundlerError as error:
            file.room.say("damaged", name=file.name, why=str(error))
            file.failed = True
        file.room.advance(settled=False)
        for other in list(self._files.values()):  # what the import found damaged is gone, and has to come again
            if other is not None and other.room is file.room and other.settling and file.room.state == "open":
                other.failed = other.failed or not (other.path.exists() or (file.room.folder / other.name).exists())

    def _arrive(self, room: Room, found: Symbol) -> Arriving | None:
        """None for what the signed statement does not have, and for what is here already."""
        size = found.geometry.size
        if room.closed:
            return None
        if found.what == (What.SEALED if isinstance(room, SealedRoom) else What.VOLUME):
            if found.number >= len(room.names) or size != room.sizes[room.names[found.number]]:
                return None
            name = room.names[found.number]
        elif found.what == What.PARITY:
            name = parity.volume_name(room.stem, found.number)
            if not room.admits_parity(name, size):
                return None
        else:
            if found.what != What.APPROVAL or size > MAX_ENVELOPE:
                return None
            name = f"{room.stem}.approval-{found.number:08x}.dsse.json"
        try:
            return None if (room.folder / name).exists() else Arriving(room, name, size)
        except MediumUnavailable as error:
            room.say("failed", name=name, why=str(error))
            return None

    def _make_way(self) -> None:
        """A forger may begin as many files as a bundle has."""
        files = [(key, file) for key, file in self._files.items() if file and file.is_open and not file.settling]
        for key, file in files[: max(0, len(files) - MAX_OPEN + 1)]:
            file.close()
            del self._files[key]

    # -- strangers

    def _strange(self, found: Symbol) -> None:
        """Only the beginning of volumes, and only so much."""
        if found.what != What.VOLUME or found.block * found.geometry.block > MAX_ENVELOPE:
            return
        now = self._clock()
        if found.id not in self._strangers and len(self._strangers) >= MAX_STRANGERS:
            silent = [identity for identity, other in self._strangers.items() if now - other.last > IDLE]
            if not silent:
                return
            del self._strangers[silent[0]]
        stranger = self._strangers.setdefault(found.id, _Stranger())
        stranger.last = now
        if stranger.used + len(found.payload) > MAX_STRANGE:
            return
        stranger.used += len(found.payload)
        data = self._collect(found)
        if data is None:
            return
        stranger.kept.append((found, data))
        head = stranger.heads.setdefault(found.number, bytearray())
        for other, whole in sorted(stranger.kept, key=lambda item: item[0].block):
            if other.number == found.number and other.block * other.geometry.block == len(head):
                head += whole
        envelope = envelope_of(bytes(head))
        if envelope is not None:
            self._judge(found.id, envelope)

    def _judge(self, identity: bytes, envelope: bytes) -> None:
        stranger = self._strangers.pop(identity)
        room = self._rooms.admit(envelope) if envelope else None
        if room is None or room.id != identity.hex():
            _remember(self._refused, identity)
            return
        self._known[identity] = room
        for found, data in stranger.kept:
            self._files.setdefault((identity, found.file), self._arrive(room, found))
            file = self._files[identity, found.file]
            if file is not None and file.takes(found.geometry):
                self._write(file, found.block * found.geometry.block, data)

    # -- what is put together in memory

    def _join(self, found: Symbol, limit: int, then: Callable[[bytes, bytes], None]) -> None:
        if found.geometry.size > limit:
            return
        key = (found.id, found.file, found.geometry)
        if found.block in self._chains.get(key, {}):
            return
        data = self._collect(found)
        if data is None:
            return
        chain = self._chains.setdefault(key, {})
        chain[found.block] = data
        if len(chain) == found.geometry.blocks:
            del self._chains[key]
            then(found.id, b"".join(chain[block] for block in sorted(chain)))
        while sum(len(block) for chain in self._chains.values() for block in chain.values()) > MAX_CHAINS:
            self._chains.popitem(last=False)

    def _renew(self, identity: bytes, chain: bytes) -> None:
        """Each chain once; in a repetition it is the same bytes."""
        key = hashlib.sha256(identity + chain).digest()
        if key in self._judged:
            return
        _remember(self._judged, key)
        gone = [identity for identity, room in self._known.items() if room.closed]
        try:
            if not self._rooms.take_chain(identity.hex(), chain):
                return
        except (BundlerError, SigningError) as error:
            self._rooms.say({"event": "damaged", "bundle": "", "name": "carried trust", "why": str(error)})
            return
        self._refused.clear()
        back = {identity for identity in gone if not self._known[identity].closed}  # what was dropped may come again
        self._files = {key: file for key, file in self._files.items() if key[0] not in back}
        for room in set(self._known.values()):
            self._submit(lambda room=room: room.advance(settled=False))  # type: ignore[misc]

    def _announced(self, identity: bytes, raw: bytes) -> None:
        """A packing list, by whose hash it is asked for: no other one can take its place."""
        if hashlib.sha256(raw).digest()[:16] != identity:
            return
        try:
            room = self._rooms.admit_sealed(raw)
        except BundlerError as error:
            self._rooms.say({"event": "damaged", "bundle": "", "name": packing.MEMBER, "why": str(error)})
            room = None
        if room is None:
            _remember(self._refused, identity)
        else:
            self._known[identity] = room

    # -- blocks

    def _collect(self, found: Symbol) -> bytes | None:
        """Keeps the symbol; the block's bytes when enough are here."""
        geometry = found.geometry
        key = (found.id, found.file, geometry, found.block)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = {}
        if found.at in block:
            return None
        block[found.at] = found.payload
        self._waiting += geometry.symbol
        if len(block) < geometry.sent(found.block):
            while self._waiting > MAX_BLOCKS:
                self._evict()
            return None
        del self._blocks[key]
        self._waiting -= len(block) * geometry.symbol
        return fec.decode(geometry, found.block, block)

    def _evict(self) -> None:
        """The oldest block goes; what it has of the file itself is written, for a later round to complete."""
        (identity, file_key, geometry, number), block = self._blocks.popitem(last=False)
        self._waiting -= len(block) * geometry.symbol
        file = self._files.get((identity, file_key))
        for index, payload in sorted(block.items()):
            if index < geometry.k and file is not None and file.takes(geometry):
                offset = number * geometry.block + index * geometry.symbol
                self._write(file, offset, payload[: geometry.size - offset])

    # -- the end

    def _end(self, beat: Heartbeat) -> None:
        self.ended.add(beat.id)
        room = self._known[beat.id]
        room.say("ended", rounds=beat.rounds, lost=self.lost(beat.id))

    def _count(self, found: Symbol | Heartbeat) -> None:
        self._came[found.id] = self._came.get(found.id, 0) + 1
        first = self._first.setdefault(found.id, found.sequence)
        if found.sequence < first:  # a sender that began again
            self._first[found.id], self._came[found.id], self._newest[found.id] = found.sequence, 0, found.sequence
        self._newest[found.id] = max(self._newest.get(found.id, 0), found.sequence)

    def lost(self, identity: bytes) -> float:
        """The share of datagrams that did not come, since the bundle is known."""
        sent = self._newest.get(identity, -1) - self._first.get(identity, 0) + 1
        return round(max(0.0, 1 - self._came.get(identity, 0) / sent), 4) if sent > 0 else 0.0

    def tell(self) -> None:
        """How far each bundle is."""
        for identity, room in self._known.items():
            if room.state == "open":
                arriving = sum(file.have.total for file in list(self._files.values()) if file and file.room is room)
                room.say("status", missing=len(room.missing()), arrived=arriving, lost=self.lost(identity))

    def _submit(self, job: Callable[[], None]) -> None:
        self._jobs = [other for other in self._jobs if not other.done() or other.exception()]
        self._jobs.append(self._pool.submit(job))

    def _wait(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()


def _remember(those: OrderedDict[bytes, None], one: bytes) -> None:
    those[one] = None
    if len(those) > MAX_REFUSED:
        those.popitem(last=False)


def envelope_of(head: bytes) -> bytes | None:
    """The envelope in the beginning of a volume; None while more is needed, b"" where it is no volume."""
    at = begin = size = 0
    for name, limit in ((layout.MARK, MAX_MARK), (layout.ENVELOPE, MAX_ENVELOPE)):
        if len(head) < at + tar.BLOCK:
            return None
        found = tar.size_of(head[at : at + tar.BLOCK], name)
        if found is None or found > limit:
            return b""
        size = found
        begin, at = at + tar.BLOCK, at + tar.member_size(size)
    envelope = head[begin : begin + size]
    return envelope if len(envelope) == size else None
