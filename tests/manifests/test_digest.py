"""Digest and the verifying reader: one strict form, and no unverified end of file."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.digest import Digest, VerifyingReader
from manifests.errors import DigestError, DigestMismatch

HELLO = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of "hello", FIPS 180-4


@given(st.binary(max_size=200))
def test_parse_is_the_inverse_of_str(data: bytes) -> None:
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest == Digest.of_stream(io.BytesIO(data))


def test_known_value() -> None:
    assert str(Digest.of(b"hello")) == HELLO
    assert Digest.parse(HELLO).file_name == "sha256-" + HELLO[7:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HELLO[7:],
        HELLO.upper(),
        HELLO[:-1],
        HELLO + "0",
        HELLO + "\n",
        " " + HELLO,
        HELLO.replace(":", "-"),
        HELLO.replace("sha256", "sha512"),
        "sha256:" + "../" * 21 + "x",
        "sha256:" + "g" * 64,
        "sha256:" + "٣" * 64,
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(DigestError):
        Digest.parse(text)


def test_every_changed_character_is_refused_or_another_digest() -> None:
    digest = Digest.parse(HELLO)
    for i, character in enumerate(HELLO):
        changed = HELLO[:i] + chr(ord(character) ^ 1) + HELLO[i + 1 :]
        with contextlib.suppress(DigestError):
            assert Digest.parse(changed) != digest


@given(st.binary(max_size=300), st.integers(1, 64))
def test_reader_passes_the_right_bytes(data: bytes, step: int) -> None:
    reader = VerifyingReader(io.BytesIO(data), Digest.of(data), len(data))
    found = b""
    while piece := reader.read(step):
        found += piece
    assert found == data


@given(st.binary(min_size=1, max_size=300), st.data())
def test_reader_refuses_a_flipped_bit_a_cut_and_a_tail(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) * 8 - 1))
    flipped = bytearray(data)
    flipped[at // 8] ^= 1 << at % 8
    for other in (bytes(flipped), data[:-1], data + b"x"):
        with pytest.raises(DigestMismatch):
            VerifyingReader(io.BytesIO(other), Digest.of(data), len(data)).read()


def test_empty_blob_is_still_checked() -> None:
    assert VerifyingReader(io.BytesIO(b""), Digest.of(b""), 0).read() == b""
    with pytest.raises(DigestMismatch):
        VerifyingReader(io.BytesIO(b""), Digest.of(b"x"), 0).read()
