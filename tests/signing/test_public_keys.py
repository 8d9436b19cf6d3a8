"""Laws of the `.pub` text: parse and encode are inverse, and nothing else is read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signing.errors import MalformedKey
from signing.keys import PublicKey, PublicSigner, Signer, check_name, generate
from signing.limits import MAX_PUBLIC_FILE_BYTES
from signing.schemes import HYBRID, SCHEMES
from tests.peers.signers import fixed_signer

ALICE = fixed_signer("alice")
SMALL = fixed_signer("alice", ("ed25519",)).public
GOOD = ALICE.public.encode()


@pytest.mark.parametrize("schemes", [("ed25519",), HYBRID, tuple(SCHEMES)], ids="+".join)
def test_parse_inverts_encode(schemes: tuple[str, ...]) -> None:
    public = fixed_signer("alice", schemes).public
    assert PublicSigner.parse(public.encode()) == public
    assert len(public.encode()) <= MAX_PUBLIC_FILE_BYTES


def test_every_changed_byte_is_refused() -> None:
    """A hybrid file names its signer twice and each key has check digits, so no single byte is free."""
    for place in range(len(GOOD)):
        for byte in {GOOD[place] ^ 1, (GOOD[place] + 1) % 256, ord(" "), ord("\n"), ord("A")} - {GOOD[place]}:
            changed = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
            with pytest.raises(MalformedKey):
                PublicSigner.parse(changed)


def test_every_substring_is_refused() -> None:
    """Of the one-line file all of them; of the hybrid file every head and tail, where a whole line is a lesser signer
    with another fingerprint, never the same one."""
    text = SMALL.encode()
    for start in range(len(text)):
        for end in range(start, len(text) + 1):
            if (start, end) != (0, len(text)):
                with pytest.raises(MalformedKey):
                    PublicSigner.parse(text[start:end])
    for cut in range(1, len(GOOD)):
        for part in (GOOD[:cut], GOOD[cut:]):
            try:
                lesser = PublicSigner.parse(part)
            except MalformedKey:
                continue
            assert part.count(b"\n") == 1 and part.endswith(b"\n")
            assert lesser.fingerprint != ALICE.public.fingerprint


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_canonical(data: bytes) -> None:
    try:
        public = PublicSigner.parse(data)
    except MalformedKey:
        return
    assert public.encode() == data


def line(name: str, key: PublicKey) -> bytes:
    return PublicSigner(name, (key,)).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "whole lines"),
        (b"\n", "expected 'sealift-key-1"),
        (SMALL.encode()[:-1], "whole lines"),
        (SMALL.encode() * 2, "once per scheme"),
        (b"".join(reversed(GOOD.splitlines(keepends=True))), "in the order"),
        (GOOD.replace(b"key-1 alice ml", b"key-1 malice ml"), "one signer"),
        (SMALL.encode().replace(b"ed25519", b"ed448"), "unknown signature scheme"),
        (SMALL.encode().replace(b"ed25519", b"ml-dsa-65"), "1952 bytes, found 32"),
        (SMALL.encode().replace(b"key-1", b"key-2"), "expected 'sealift-key-1"),
        (SMALL.encode().replace(b" alice", b"  alice"), "expected 'sealift-key-1"),
        (SMALL.encode().replace(b"\n", b"\r\n"), "does not match"),
        (SMALL.encode().replace(b"alice", "алиса".encode()), "ASCII"),
        (SMALL.encode().replace(b"alice", b"../al"), "not a signer's name"),
        (b"-----BEGIN PRIVATE KEY-----\n", "private key file"),
        (b"x" * (MAX_PUBLIC_FILE_BYTES + 1), "at most"),
    ],
)
def test_refused_with_words(data: bytes, words: str) -> None:
    with pytest.raises(MalformedKey, match=words.replace("(", r"\(")):
        PublicSigner.parse(data)


def test_base64_has_one_spelling() -> None:
    """The last digit of 32 bytes in base64 carries two padding bits; setting one decodes to the same key."""
    encoded = base64.b64encode(SMALL.keys[0].raw).decode()
    other = encoded[:-2] + chr(ord(encoded[-2]) + 1) + "="
    assert base64.b64decode(other) == SMALL.keys[0].raw
    with pytest.raises(MalformedKey, match="no encoder writes"):
        PublicSigner.parse(SMALL.encode().replace(encoded.encode(), other.encode()))


def test_a_point_off_the_curve_is_no_key() -> None:
    with pytest.raises(MalformedKey, match="no public key of ecdsa-p384"):
        PublicKey("ecdsa-p384", b"\x02" + b"\xff" * 48)


GOOD_NAMES = ["a", "alice", "alice@example.org", "team-7", "x" * 64, "console", "comma"]
BAD_NAMES = [
    "",
    "Alice",
    "a/b",
    "..",
    ".a",
    "a.",
    "-a",
    "a b",
    "a\n",
    "x" * 65,
    "con",
    "nul.txt",
    "com1",
    "lpt9.x",
    "é",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name(name: str) -> None:
    with pytest.raises(MalformedKey):
        generate(name)


def test_key_ids_bind_the_scheme() -> None:
    """The same bytes under two schemes are two keys, so a signature cannot move between algorithms."""
    assert len({key.id for key in fixed_signer("alice", tuple(SCHEMES)).public.keys}) == len(SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sign_and_verify(scheme: str) -> None:
    ((key, signature),) = fixed_signer("alice", (scheme,)).sign(b"message")
    assert key.verify(signature, b"message")
    assert not key.verify(signature, b"massage")
    assert not key.verify(b"", b"message")
    assert not key.verify(signature + b"\0", b"message")


def test_printing_a_signer_shows_no_secret() -> None:
    assert "private" not in repr(ALICE).lower()
    assert "object at" not in repr(ALICE)


def test_generate_sorts_and_refuses() -> None:
    assert [key.scheme for key in generate("a", ["ml-dsa-65", "ed25519"]).public.keys] == ["ed25519", "ml-dsa-65"]
    with pytest.raises(MalformedKey, match="once per scheme"):
        generate("a", ["ed25519", "ed25519"])
    with pytest.raises(MalformedKey, match="unknown signature scheme"):
        generate("a", ["rsa"])
    with pytest.raises(MalformedKey, match="at least one key"):
        generate("a", [])


def test_two_signers_never_share_a_key_by_chance() -> None:
    made: list[Signer] = [generate("a") for _ in range(4)]
    assert len({signer.public.fingerprint for signer in made}) == 4
