"""Digest: one strict form."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.digest import Digest
from manifests.errors import DigestError

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
