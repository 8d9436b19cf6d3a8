"""Sums of products in GF(2^8): every body says what the slow twin says, of every shape, length and factor."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler import gf256 as twin
from native import gf256
from native.errors import InputError, LibraryError
from native.library import ISAS, isa_names, library

PAGE = Path(__file__).parents[2] / "docs/formats/parity.md"
SIZES = [0, 1, 15, 16, 31, 32, 33, 63, 64, 2047, 2048, 2049, 4096 + 7, 3 * 2048 + 33]
PRODUCTS = np.array([[twin.multiply(a, b) for b in range(256)] for a in range(256)], np.uint8)
bodies = pytest.mark.parametrize("isa", isa_names())


def wanted(rows: np.ndarray, shards: list[np.ndarray | None]) -> list[bytes]:
    """Product by product, from the field's table."""
    size = next(len(shard) for shard in shards if shard is not None)
    sums = []
    for row in rows:
        total = np.zeros(size, np.uint8)
        for factor, shard in zip(row, shards, strict=True):
            if shard is not None:
                total ^= PRODUCTS[factor][shard]
        sums.append(total.tobytes())
    return sums


def made(rows: np.ndarray, shards: list[np.ndarray | None], isa: str) -> list[bytes]:
    """Outputs that held other bytes before, and one byte behind each that must stay."""
    size = next(len(shard) for shard in shards if shard is not None)
    outputs = [np.full(size + 1, 0xA5, np.uint8) for _ in rows]
    gf256.combine(rows.tolist(), shards, [output[:size] for output in outputs], isa=isa)
    assert all(output[size] == 0xA5 for output in outputs)
    return [output[:size].tobytes() for output in outputs]


@bodies
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_sums_are_those_of_the_slow_twin(isa: str, data: st.DataObject) -> None:
    n_out, n_in = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    size, shift = data.draw(st.sampled_from(SIZES)), data.draw(st.integers(0, 33))
    numbers = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    rows = numbers.integers(0, 256, (n_out, n_in), dtype=np.uint8)
    rows[numbers.random(rows.shape) < 0.2] = data.draw(st.sampled_from([0, 1, 255]))
    shards: list[np.ndarray | None] = [
        numbers.integers(0, 256, size + shift, dtype=np.uint8)[shift:] for _ in range(n_in)
    ]
    for absent in data.draw(st.sets(st.integers(0, n_in - 1), max_size=n_in - 1)):
        rows[:, absent], shards[absent] = 0, None
    found = made(rows, shards, isa)
    assert found == wanted(rows, shards)
    if size and size % 8 == 0 and shift % 8 == 0:
        outputs = [np.empty(size, np.uint8) for _ in rows]
        twin._combine(rows.tolist(), shards, outputs)
        assert found == [output.tobytes() for output in outputs]


@bodies
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 255), (255, 1), (255, 255), (23, 230), (25, 50)])
def test_the_largest_shapes(isa: str, n_out: int, n_in: int) -> None:
    numbers = np.random.default_rng(n_out)
    rows = numbers.integers(0, 256, (n_out, n_in), dtype=np.uint8)
    shards: list[np.ndarray | None] = [numbers.integers(0, 256, 37, dtype=np.uint8) for _ in range(n_in)]
    assert made(rows, shards, isa) == wanted(rows, shards)


@bodies
def test_every_factor_times_every_byte(isa: str) -> None:
    every = np.arange(256, dtype=np.uint8)
    for first in (0, 128):
        rows = np.arange(first, first + 128, dtype=np.uint8)[:, None]
        assert made(rows, [every], isa) == [PRODUCTS[factor].tobytes() for factor in range(first, first + 128)]
        assert made(rows, [every[:31]], isa) == [
            PRODUCTS[factor][:31].tobytes() for factor in range(first, first + 128)
        ]


@bodies
def test_the_vectors_of_the_page(isa: str) -> None:
    def lines(kind: str) -> list[bytes]:
        found = re.findall(rf"^{kind} +\d+ +((?:[0-9a-f]{{2}} ?)+)$", PAGE.read_text(), re.MULTILINE)
        return [bytes.fromhex(line) for line in found]

    outputs = [bytearray(16), bytearray(16)]
    assert len(lines("data")) == 3
    gf256.combine(lines("factors"), lines("data"), outputs, isa=isa)
    assert outputs == lines("parity")


@bodies
def test_nothing_beyond_a_shard_is_read_or_written(isa: str) -> None:
    """The last byte of each is the last of a page, and behind it is nothing that may be touched."""
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as source, mmap.mmap(-1, 2 * page) as target:
        ends = []
        for mapped in (source, target):
            first = ctypes.c_char.from_buffer(mapped)
            ends.append(ctypes.addressof(first) + page)
            del first
        source[:page] = data = bytes(i * i % 251 for i in range(page))
        for end in ends:
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
        for size in (1, 7, 31, 32, 33, 65, 2048, 2049, page):
            shards = (ctypes.c_void_p * 1)(ends[0] - size)
            outputs = (ctypes.c_void_p * 1)(ends[1] - size)
            assert library().sl_gf256_combine(b"\x8e", 1, 1, shards, outputs, size, ISAS[isa]) == 0
            found = ctypes.string_at(ends[1] - size, size)
            assert found == PRODUCTS[0x8E][np.frombuffer(data[page - size :], np.uint8)].tobytes()


def test_refused_at_the_boundary() -> None:
    data, out = ctypes.create_string_buffer(b"ab"), ctypes.create_string_buffer(b"??")
    one = (ctypes.c_void_p * 1)(ctypes.addressof(data))
    to = (ctypes.c_void_p * 1)(ctypes.addressof(out))
    null = (ctypes.c_void_p * 1)(None)
    combine = library().sl_gf256_combine
    for arguments, sentence in (
        ((b"\x01", -1, 1, one, to, 2, 0), b"n_out from 0"),
        ((b"\x01", 256, 1, one, to, 2, 0), b"n_out from 0"),
        ((b"\x01", 1, 0, one, to, 2, 0), b"n_in from 1"),
        ((b"\x01", 1, 256, one, to, 2, 0), b"n_in from 1"),
        ((b"\x01", 1, 1, one, to, -1, 0), b"size must not be negative"),
        ((None, 1, 1, one, to, 2, 0), b"must not be null"),
        ((b"\x01", 1, 1, None, to, 2, 0), b"must not be null"),
        ((b"\x01", 1, 1, one, None, 2, 0), b"must not be null"),
        ((b"\x01", 1, 1, one, null, 2, 0), b"an output must not be null"),
        ((b"\x01", 1, 1, null, to, 2, 0), b"an input is null"),
    ):
        assert combine(*arguments) == 1 and sentence in library().sl_last_error()
    assert combine(b"\x01", 1, 1, one, to, 2, 99) == 2 and b"instruction set" in library().sl_last_error()
    assert out.value == b"??"
    assert combine(None, 0, 1, None, None, 2, 0) == 0
    assert combine(b"\x00", 1, 1, null, to, 2, 0) == 0 and out.raw[:2] == b"\0\0"


def test_refused_by_the_wrapper() -> None:
    data, out = b"abcd", bytearray(b"????")
    for rows, shards, outputs in (
        ([[1]], [data, data], [out]),
        ([[1], [1]], [data], [out]),
        ([[1]], [data[:3]], [out]),
        ([[1]], [data], [bytes(4)]),
        ([[]], [], [out]),
    ):
        with pytest.raises(InputError):
            gf256.combine(rows, shards, outputs)
    with pytest.raises(BufferError):
        gf256.combine([[1]], [np.arange(8, dtype=np.uint8)[::2]], [out])
    with pytest.raises(ValueError, match="256"):
        gf256.combine([[256]], [data], [out])
    assert out == b"????"


def test_without_a_library_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LibraryError("the native engine is not there")

    assert gf256.find() is gf256.combine
    monkeypatch.setattr(gf256, "library", absent)
    assert gf256.find.__wrapped__() is None
