"""Which trust document may follow which: the rules, python-tuf as an oracle for them, and mangled documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timezone
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signing.envelope import decode
from signing.errors import (
    MalformedEnvelope,
    MalformedTrust,
    NotTrusted,
    SigningError,
    TrustConflict,
    WrongPayloadType,
)
from signing.succession import Document, advance, first, join_chain, parse, root_fingerprint, split_chain, successor
from signing.trust import TrustStore
from signing.trustdocument import decode_document, encode_document
from tests.peers.roots import one, rooted, signed
from tests.peers.signers import fixed_signer
from tests.peers.vectors import read_vectors

NAMES = ("r0", "r1", "r2", "r3")
ONE = first(signed(rooted(["r0", "r1"], 2), ["r0", "r1"]), "any")


def accepts(old: TrustStore, new: TrustStore, by: list[str]) -> bool:
    try:
        return successor(old, signed(new, by), "any").store == new
    except (NotTrusted, TrustConflict):
        return False


def test_old_and_new_root_must_sign() -> None:
    """TUF 5.3.4: "a threshold of keys specified in the trusted root metadata file [...] and a threshold of keys
    specified in the new root metadata file being validated"."""
    old, new = rooted(["r0"], 1), rooted(["r1"], 1, version=2)
    assert accepts(old, new, ["r0", "r1"])
    assert not accepts(old, new, ["r0"])
    assert not accepts(old, new, ["r1"])


def test_a_root_cannot_be_left_behind() -> None:
    assert not accepts(rooted(["r0"]), TrustStore.empty().add(one("p").public, ["publisher"]), ["r0"])


def test_a_revoked_root_signer_no_longer_counts_and_stays_revoked() -> None:
    old = rooted(["r0", "r1"], 1)
    gone = replace(old.revoke("r0", "stolen", date(2026, 1, 1)), version=2)
    assert accepts(old, gone, ["r1"])
    assert not accepts(old, gone, ["r0"]), "the new document revokes its only signer"
    assert not accepts(gone, replace(gone, version=3), ["r0"])
    back = rooted(["r0", "r1"], 1, version=3)
    with pytest.raises(TrustConflict, match="no later version takes that back"):
        successor(gone, signed(back, ["r1"]), "any")


def test_a_weak_root_does_not_meet_the_profile() -> None:
    with pytest.raises(NotTrusted, match="profile hybrid needs"):
        first(signed(rooted(["r0"]), ["r0"]), "hybrid")
    with pytest.raises(NotTrusted):
        successor(rooted(["r0"]), signed(rooted(["r0"], version=2), ["r0"]), "hybrid")


def test_a_publisher_or_a_bundle_signature_is_no_root() -> None:
    from signing.envelope import encode, sign

    old = rooted(["r0"], publishers=["p"])
    assert not accepts(old, replace(old, version=2), ["p"])
    with pytest.raises(WrongPayloadType):
        successor(old, encode(sign("application/x", encode_document(replace(old, version=2)), [one("r0")])), "any")


def test_the_fingerprint_is_of_keys_and_threshold_alone() -> None:
    base = root_fingerprint(rooted(["r0", "r1"], 1))
    assert base == root_fingerprint(rooted(["r1", "r0"], 1, version=9, publishers=["p"]))
    assert len({base, root_fingerprint(rooted(["r0", "r1"], 2)), root_fingerprint(rooted(["r0"], 1))}) == 3


# -- chains


def chain(*stores: tuple[TrustStore, list[str]]) -> list[bytes]:
    return [signed(store, by) for store, by in stores]


LINES = chain(*((rooted(["r0"], version=version), ["r0"]) for version in range(1, 6)))


def start(at: int) -> Document:
    return first(LINES[at - 1], "any")


def test_a_chain_is_followed_step_by_step() -> None:
    assert [d.store.version for d in advance(start(2), {}, split_chain(join_chain(LINES)), "any")] == [3, 4, 5]
    assert advance(start(5), {}, LINES, "any") == []
    assert advance(start(5), {}, LINES[:2], "any") == [], "an old chain is no rollback: nothing happens"
    with pytest.raises(TrustConflict, match="missing 3"):
        advance(start(2), {}, LINES[3:], "any")
    for wrong in ([LINES[2], LINES[4]], [LINES[3], LINES[2]], [LINES[2], LINES[2]]):
        with pytest.raises((MalformedTrust, TrustConflict)):
            advance(start(2), {}, wrong, "any")


def test_two_documents_with_one_version_are_told() -> None:
    other = signed(rooted(["r0"], version=2, publishers=["p"]), ["r0"])
    with pytest.raises(TrustConflict, match="another one than was accepted here"):
        advance(start(3), {2: LINES[1]}, [other, LINES[2]], "any")


@pytest.mark.parametrize("data", [b"", b"\n", b"\n\n", LINES[0] + b"\n\n" + LINES[1]])
def test_a_chain_has_no_empty_lines(data: bytes) -> None:
    with pytest.raises(MalformedTrust):
        split_chain(data)


# -- vectors


@pytest.mark.parametrize(
    "case", read_vectors(Path(__file__).parent / "vectors" / "succession.txt"), ids=lambda case: case["case"]
)
def test_vector(case: dict[str, str]) -> None:
    kind, _, words = case["expect"].partition(": ")
    try:
        new = case["new"].encode()
        old = None if case["old"] == "none" else first(case["old"].encode(), "any").store
        found = successor(old, new, "any") if old else first(new, "any")
    except NotTrusted as error:
        assert kind == "not trusted" and words in str(error)
    except SigningError as error:
        assert kind == "refused" and words in str(error)
    else:
        assert case["expect"] == f"version {found.store.version}"
        assert encode_document(found.store) == decode(new).payload


# -- python-tuf as an oracle


def tuf_root(store: TrustStore, by: list[str]) -> bytes:
    """The same root role as TUF root metadata, signed by the same keys."""
    from securesystemslib.signer import CryptoSigner, SSlibKey
    from tuf.api.metadata import Metadata, Root
    from tuf.api.metadata import Role as TufRole

    role = store.role("root")
    assert role is not None
    made = Root(version=max(store.version, 1), expires=datetime(2099, 1, 1, tzinfo=timezone.utc))
    keys = {name: SSlibKey.from_crypto(one(name).private[0].public_key()) for name in NAMES}
    made.roles["root"] = TufRole([], role.threshold)
    for member in role.members:
        made.add_key(keys[member.signer], "root")
    metadata = Metadata(made)
    for name in by:
        metadata.sign(CryptoSigner(one(name).private[0], keys[name]), append=True)
    return metadata.to_bytes()


roots = st.tuples(st.sets(st.sampled_from(NAMES), min_size=1), st.integers(1, 4))
signatures = st.sets(st.sampled_from(NAMES), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    start=roots,
    steps=st.lists(st.tuples(roots, st.integers(-1, 2), signatures), min_size=1, max_size=4),
)
def test_python_tuf_agrees(
    start: tuple[set[str], int], steps: list[tuple[tuple[set[str], int], int, set[str]]]
) -> None:
    """Random chains of roots: members, thresholds, version steps from -1 to +2, subsets of signatures. After each one
    ours and TUF's TrustedMetadataSet accept the same, and stand at the same version."""
    from tuf.api.exceptions import RepositoryError
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
    from tuf.ngclient.config import EnvelopeType

    members, threshold = start[0], min(start[1], len(start[0]))
    ours = rooted(sorted(members), threshold)
    theirs = TrustedMetadataSet(tuf_root(ours, sorted(members)), EnvelopeType.METADATA)
    assert first(signed(ours, sorted(members)), "any").store == ours
    for (names, needed), step, by in steps:
        version = max(ours.version + step, 1)
        new = rooted(sorted(names), needed, version=version)
        try:
            theirs.update_root(tuf_root(new, sorted(by)))
            agreed = True
        except RepositoryError:
            agreed = False
        assert accepts(ours, new, sorted(by)) == agreed
        ours = new if agreed else ours
        assert theirs.root.version == ours.version


# -- mangled


@cache
def good() -> tuple[TrustStore, bytes]:
    store = replace(
        rooted(["r0", "r1"], 2, version=2, publishers=["p"]).revoke("p", "lost – why", date(2026, 1, 1)), version=2
    )
    return store, signed(store, ["r0", "r1"])


def meaning(data: bytes) -> TrustStore | None:
    try:
        return successor(ONE.store, data, "any").store
    except SigningError:
        return None


def test_the_good_one_is_accepted() -> None:
    store, data = good()
    assert meaning(data) == store


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_no_mangled_byte_is_accepted(mask: int) -> None:
    _, data = good()
    for at in range(len(data)):
        assert meaning(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]) is None, at


def test_no_substring_taken_away_or_doubled_is_accepted() -> None:
    _, data = good()
    lengths = [1, 2, 3, 4, 5, 8, 16, 33, 64, 128, 500]
    for size in lengths:
        for at in range(0, len(data) - size + 1):
            assert meaning(data[:at] + data[at + size :]) is None
            assert meaning(data[: at + size] + data[at:]) is None


def test_a_mangled_payload_that_its_root_signs_is_read_in_one_way_or_not() -> None:
    """A root that signs garbage: every spelling that is read encodes to itself again."""
    payload = encode_document(good()[0])
    read = 0
    for at in range(len(payload)):
        for new in (b"", b"0", b'"', b"\\", b"{", b"\xff", payload[at : at + 1] * 2):
            mangled = payload[:at] + new + payload[at + 1 :]
            try:
                assert encode_document(decode_document(mangled)) == mangled
                read += 1
            except MalformedTrust:
                continue
    assert read, "some digits may be others"


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"[]", b"null", b"{", b"[" * 100_000, b'{"a":1.5}', b'{"a":NaN}', b'{"version":' + b"9" * 5000 + b"}",
        b"\xff", b'{"sealift_trust":2}', b'{"sealift_trust":1}',
    ],
)  # fmt: skip
def test_strange_payloads_are_refused_by_name(payload: bytes) -> None:
    with pytest.raises(MalformedTrust):
        decode_document(payload)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_our_error(data: bytes) -> None:
    for reader in (decode_document, parse, split_chain):
        try:
            reader(data)  # type: ignore[operator]
        except (MalformedTrust, MalformedEnvelope):
            continue


def test_the_document_says_what_trust_toml_says() -> None:
    hybrid = TrustStore.empty().add(fixed_signer("alice").public, ["root", "publisher"], ["acme/*"])
    for store in (TrustStore.empty(), hybrid, hybrid.with_expiry(date(2030, 1, 1)), good()[0]):
        assert decode_document(encode_document(store)) == store == TrustStore.parse(store.encode())
    assert encode_document(TrustStore.empty()) == (
        b'{"expires":"never","roles":{},"sealift_trust":1,"signers":{},"version":0}'
    )
