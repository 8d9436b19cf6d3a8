"""SHA-256 of streams side by side says what hashlib says, whatever the pieces and wherever each stream stands."""

from __future__ import annotations

import ctypes
import hashlib
import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import sha256
from native.errors import InputError, LibraryError
from native.library import library
from native.sha256 import MAX_TOGETHER, Sha256, side_by_side

# FIPS 180-2, appendix B, and NIST's "SHA-256 example values": message, digest
VECTORS = [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
]
HAVE = bool(library().sl_sha256_supported())
needs = pytest.mark.skipif(not HAVE, reason="this processor has no SHA extensions")


def test_a_processor_has_it_or_hashlib_does_it() -> None:
    with open("/proc/cpuinfo") as stream:
        flags = next((line.split() for line in stream if line.startswith("flags")), [])
    assert ({"sha_ni", "ssse3", "sse4_1"} <= set(flags)) == HAVE
    assert side_by_side() is (Sha256 if HAVE else None)


@needs
@pytest.mark.parametrize(("message", "digest"), VECTORS, ids=[str(len(message)) for message, _ in VECTORS])
def test_published_vectors(message: bytes, digest: str) -> None:
    assert Sha256(message).hexdigest() == digest


@needs
def test_every_length_to_the_third_block_and_every_place_in_a_block() -> None:
    data = bytes(number * 7 % 256 for number in range(400))
    for begun in range(65):
        for size in range(200):
            one = Sha256(data[:begun])
            one.update(data[begun : begun + size])
            assert one.digest() == hashlib.sha256(data[: begun + size]).digest(), (begun, size)


@needs
@settings(max_examples=300, deadline=None)
@given(
    prefixes=st.lists(st.binary(max_size=130), min_size=1, max_size=5),
    pieces=st.lists(
        st.one_of(st.binary(max_size=70), st.integers(0, 700).map(lambda n: bytes(i * n % 251 for i in range(n)))),
        max_size=8,
    ),
    restart=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), max_size=6),
)
def test_streams_side_by_side_are_streams_alone(
    prefixes: list[bytes], pieces: list[bytes], restart: list[tuple[int, int]]
) -> None:
    """Any number of streams, each at a place of its own; some begin anew between two pieces, as leaves do."""
    ours = [Sha256(prefix) for prefix in prefixes]
    theirs = [hashlib.sha256(prefix) for prefix in prefixes]
    for number, piece in enumerate(pieces):
        for at, which in restart:
            if at == number and which < len(ours):
                ours[which], theirs[which] = Sha256(b"\x00"), hashlib.sha256(b"\x00")
        Sha256.together(ours, bytearray(piece))
        for one in theirs:
            one.update(piece)
        assert [one.digest() for one in ours] == [one.digest() for one in theirs]  # and go on


@needs
def test_large_pieces_of_every_kind_of_buffer() -> None:
    data = bytes(range(256)) * 4096
    with mmap.mmap(-1, len(data)) as mapped:
        mapped[:] = data
        for piece in (data, bytearray(data), memoryview(data)[63:], memoryview(bytearray(data))[1:-1], mapped[:]):
            hashes = [Sha256(b"x" * number) for number in range(4)]
            Sha256.together(hashes, piece)
            wanted = [hashlib.sha256(b"x" * number + bytes(piece)).digest() for number in range(4)]
            assert [one.digest() for one in hashes] == wanted


@needs
def test_nothing_beyond_a_piece_is_read() -> None:
    """The last byte of each piece is the last of a page, and behind it is nothing that may be read."""
    page, data = mmap.PAGESIZE, b"z" * mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as mapped:
        mapped[:page] = data
        first = ctypes.c_char.from_buffer(mapped)
        end = ctypes.addressof(first) + page
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
        for size in (1, 63, 64, 65, 129, 200, page):
            hashes = [Sha256(b"y" * number) for number in range(4)]
            streams = (ctypes.c_void_p * 4)(*(ctypes.addressof(one._stream) for one in hashes))
            assert library().sl_sha256_update(streams, 4, end - size, size) == 0
            wanted = [hashlib.sha256(b"y" * number + data[:size]).digest() for number in range(4)]
            assert [one.digest() for one in hashes] == wanted
        del first


@pytest.mark.parametrize("processor", ["as it is", "without the instructions"])
@pytest.mark.parametrize("piece", [1, 2, 55, 56, 63, 64, 65, 127, 128, 1000, 4096])
def test_pieces_are_hashed_as_if_each_were_alone(piece: int, processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, several, more than are hashed side by side, with a last one of every kind of length."""
    if processor != "as it is":
        monkeypatch.setattr(sha256, "side_by_side", lambda: None)
    data = bytes(index * index % 251 for index in range(7 * piece))
    for size in {*range(0, 7 * piece, max(1, piece // 3)), piece, 3 * piece, 3 * piece + 1, 7 * piece}:
        wanted = b"".join(hashlib.sha256(data[at : min(at + piece, size)]).digest() for at in range(0, size, piece))
        assert sha256.pieces(memoryview(data)[:size], piece) == wanted


@needs
def test_nothing_beyond_pieces_is_read() -> None:
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 2 * page) as mapped:
        mapped[:page] = data = b"z" * page
        first = ctypes.c_char.from_buffer(mapped)
        end = ctypes.addressof(first) + page
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
        for size, piece in ((1, 64), (63, 21), (200, 64), (200, 100), (page, 1000), (page, page), (page, 2 * page)):
            found = ctypes.create_string_buffer(32 * -(-size // piece))
            assert library().sl_sha256_pieces(end - size, size, piece, found) == 0
            pieces = (data[at : min(at + piece, size)] for at in range(0, size, piece))
            assert found.raw == b"".join(hashlib.sha256(one).digest() for one in pieces)
        del first


@needs
def test_pieces_refused() -> None:
    found = ctypes.create_string_buffer(64)
    for data, size, piece, digests in (
        (None, 1, 1, found),
        (b"a", 1, 1, None),
        (b"a", -1, 1, found),
        (b"a", 1, 0, found),
    ):
        assert library().sl_sha256_pieces(data, size, piece, digests) == 1 and library().sl_last_error()
    assert sha256.pieces(b"", 64) == b""


@needs
def test_a_length_of_more_than_32_bits() -> None:
    """512 MiB are 2^32 bits."""
    ours, theirs, piece = Sha256(b"1"), hashlib.sha256(b"1"), bytearray(1 << 20)
    for _ in range(512):
        ours.update(piece)
        theirs.update(piece)
    assert ours.digest() == theirs.digest()


@needs
def test_refused() -> None:
    one, view = Sha256(b"begun"), memoryview(b"abcdef")
    with pytest.raises(InputError, match="comes twice"):
        Sha256.together([one, Sha256(), one], b"abc")
    with pytest.raises(InputError, match="SL_MAX_STREAMS"):
        Sha256.together([Sha256() for _ in range(MAX_TOGETHER + 1)], b"abc")
    with pytest.raises(TypeError):
        one.update("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        one.update(view[::2])
    for streams, n, data, size in ((None, 1, b"", 0), ((ctypes.c_void_p * 1)(None), 1, b"a", 1), (None, 0, b"a", 1)):
        assert library().sl_sha256_update(streams, n, data, size) == 1 and library().sl_last_error()
    address = (ctypes.c_void_p * 1)(ctypes.addressof(one._stream))
    assert library().sl_sha256_update(address, 1, b"a", -1) == 1
    assert library().sl_sha256_update(address, 1, None, 1) == 1
    assert library().sl_sha256_digest(ctypes.byref(one._stream), None) == 1
    assert library().sl_sha256_begin(None) == 1
    assert one.digest() == hashlib.sha256(b"begun").digest()  # nothing of all that changed it


class Lacking:
    """A library for a processor without the instructions."""

    def sl_sha256_supported(self) -> int:
        return 0


def test_without_library_or_instructions_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise LibraryError("the native engine is not there")

    find = sha256.side_by_side.__wrapped__
    monkeypatch.setattr(sha256, "library", absent)
    assert find() is None
    monkeypatch.setattr(sha256, "library", Lacking)
    assert find() is None


@needs
def test_a_library_that_hashes_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    find = sha256.side_by_side.__wrapped__
    assert find() is Sha256
    monkeypatch.setattr(Sha256, "digest", lambda self: hashlib.sha256(b"another").digest())
    assert find() is None
