"""The datagrams of a network diode: one header, one symbol of a file. Every one can be understood alone.

A reader checks length, magic, CRC and every field, in this order, before anything is looked up or allocated. The CRC
finds damage and no forgery: what is put together has the hashes of a signed statement, or is not taken.
Normative text, with a vector: docs/formats/udp.md.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bundler.fec import Geometry
from bundler.gf256 import Bytes
from manifests.statement import MAX_VOLUMES

MAGIC = b"SLU1"
HEADER = struct.Struct(">4sBBH16sQIBBBBHHQI")
_CRC = struct.Struct(">I")
_UNSUMMED = HEADER.size - _CRC.size
FIELDS = np.dtype(
    [
        ("magic", "S4"), ("kind", "u1"), ("what", "u1"), ("number", ">u2"), ("id", "V16"), ("size", ">u8"),
        ("block", ">u4"), ("index", "u1"), ("k", "u1"), ("m", "u1"), ("zero", "u1"), ("symbol", ">u2"),
        ("round", ">u2"), ("sequence", ">u8"), ("crc", ">u4"),
    ]
)  # fmt: skip
assert FIELDS.itemsize == HEADER.size == 56
MAX_APPROVALS = 32
OVERHEAD = HEADER.size + 28  # bytes of a packet that are not a symbol: this header, UDP's and IPv4's


class Kind(IntEnum):
    DATA = 0
    HEARTBEAT = 1


class What(IntEnum):
    VOLUME = 0
    PARITY = 1
    APPROVAL = 2
    TRUST = 3
    LIST = 4  # the packing list of encrypted volumes; the id of all that belongs to it is that of the list
    SEALED = 5  # an encrypted volume


_WHATS = tuple(What)
_LIMITS = (MAX_VOLUMES, 255, MAX_APPROVALS, 1, 1, MAX_VOLUMES)


class Symbol(NamedTuple):
    """Of file `number` of its kind in bundle `id`; symbol `at`, from k on parity."""

    id: bytes
    what: What
    number: int
    geometry: Geometry
    block: int
    at: int
    sequence: int
    payload: bytes

    @property
    def file(self) -> tuple[What, int]:
        return self.what, self.number


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender lives: `round` of `rounds`; `total` bytes in all files; `last`: nothing follows."""

    id: bytes
    round: int
    rounds: int
    total: int
    last: bool
    sequence: int


def parse(data: bytes) -> Symbol | Heartbeat | None:
    """None for anything that we would not send."""
    if len(data) < HEADER.size or data[:4] != MAGIC:
        return None
    payload, fields = data[HEADER.size :], HEADER.unpack_from(data)
    _, kind, what, number, identity, size, block, index, k, m, zero, symbol, turn, sequence, crc = fields
    if zlib.crc32(payload, zlib.crc32(data[:_UNSUMMED])) != crc or zero:
        return None
    if kind == Kind.HEARTBEAT:
        sound = not payload and number <= 1 and not (what or index or k or m or symbol) and turn <= block
        return Heartbeat(identity, turn, block, size, bool(number), sequence) if sound else None
    if kind != Kind.DATA or what >= len(_WHATS) or number >= _LIMITS[what] or len(payload) != symbol:
        return None
    geometry = _geometry(size, k, m, symbol)
    if geometry is None or block >= geometry.blocks or index >= k + m:
        return None
    if index < k and geometry.sent(block) <= index:  # a symbol behind the end of the file
        return None
    return Symbol(identity, _WHATS[what], number, geometry, block, index, sequence, payload)


@lru_cache(maxsize=1024)
def _geometry(size: int, k: int, m: int, symbol: int) -> Geometry | None:
    """Each is checked once; a receiver sees few of them, again and again."""
    geometry = Geometry(size, k, m, symbol)
    return geometry if geometry.check() else None


def heartbeat(beat: Heartbeat) -> bytes:
    head = HEADER.pack(
        MAGIC, Kind.HEARTBEAT, 0, beat.last, beat.id, beat.total, beat.rounds, 0, 0, 0, 0, 0, beat.round,
        beat.sequence, 0,
    )[:_UNSUMMED]  # fmt: skip
    return head + _CRC.pack(zlib.crc32(head))


def group(
    identity: bytes, file: tuple[What, int], geometry: Geometry, first: int, symbols: Bytes, turn: int, sequence: int
) -> Bytes:
    """The datagrams of a group of blocks from `first` on, in sending order. symbols (k + m, blocks, symbol), as
    `fec.encode` made them -> (packets, header + symbol)."""
    shards, blocks, symbol = symbols.shape
    index, block = np.divmod(np.arange(shards * blocks), blocks)
    sent = np.array([geometry.sent(first + b) for b in range(blocks)])
    travels = (index >= geometry.k) | (index < sent[block])
    index, block = index[travels], block[travels]
    head = np.zeros(len(index), FIELDS)
    head["magic"], head["what"], head["number"], head["size"] = MAGIC, *file, geometry.size
    head["id"] = np.void(identity)
    head["k"], head["m"], head["symbol"], head["round"] = geometry.k, geometry.m, symbol, turn
    head["block"], head["index"] = first + block, index
    head["sequence"] = sequence + np.arange(len(index))
    packets = np.empty((len(index), HEADER.size + symbol), np.uint8)
    packets[:, : HEADER.size] = head.view(np.uint8).reshape(len(index), HEADER.size)
    packets[:, HEADER.size :] = symbols.reshape(shards * blocks, symbol)[travels]
    crcs = np.empty(len(index), ">u4")
    for n, packet in enumerate(packets):
        view = memoryview(packet)
        crcs[n] = zlib.crc32(view[HEADER.size :], zlib.crc32(view[:_UNSUMMED]))
    packets[:, _UNSUMMED : HEADER.size] = crcs.view(np.uint8).reshape(len(index), _CRC.size)
    return packets
