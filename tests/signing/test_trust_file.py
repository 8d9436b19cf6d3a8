"""trust.toml: the schema, the law of its text, and changes that never weaken by accident."""

from __future__ import annotations

import threading
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signing.errors import KeyFileUnavailable, MalformedTrust, TrustConflict, UnknownSigner
from signing.hosttrust import HostTrust
from signing.keys import PublicSigner
from signing.limits import MAX_TRUST_FILE_BYTES
from signing.trust import Member, TrustStore
from tests.peers.signers import fixed_signer

ED = ("ed25519",)
ALICE, BOB, CAROL = (fixed_signer(name, ED).public for name in ("alice", "bob", "carol"))
STORE = (
    TrustStore.empty()
    .add(ALICE, ["publisher", "root"])
    .add(BOB, ["publisher"], ["acme/*", "lab"])
    .add(CAROL, ["approver"])
    .with_threshold("publisher", 2)
    .revoke("carol", "lost the token", date(2026, 6, 1))
    .with_expiry(date(2030, 1, 1))
)
TEXT = STORE.encode().decode()


def test_parse_inverts_encode() -> None:
    assert TrustStore.parse(STORE.encode()) == STORE
    assert TrustStore.parse(TrustStore.empty().encode()) == TrustStore.empty()
    hybrid = TrustStore.empty().add(fixed_signer("alice").public, ["publisher"])
    assert TrustStore.parse(hybrid.encode()) == hybrid


def test_a_person_may_reorder_and_comment() -> None:
    head, signers, roles = TEXT.partition("[signers.alice]")
    tables, _, last = (signers + roles).partition("[roles.approver]")
    text = f"{head}\n# ours\n[roles.approver]{last}\n{tables}"
    assert TrustStore.parse(text.encode()) == STORE


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sealift_trust = 1", "sealift_trust = 2", "sealift_trust: expected 1, found int 2"),
        ("sealift_trust = 1", "sealift_trust = true", "sealift_trust: expected 1, found bool True"),
        ("sealift_trust = 1", "", "sealift_trust: expected 1, found nothing"),
        ("version = 6", "version = -1", "version: expected 0 to"),
        ("version = 6", 'version = "6"', "version: expected an integer, found str"),
        ("version = 6", "version = true", "version: expected an integer, found bool"),
        ("version = 6", "version = 6\nother = 1", "other: unknown field"),
        ("version = 6", "version = 6\nversion = 6", "not TOML"),
        ("version = 6", "version = " + "9" * 5000, "not TOML"),
        ("expires = 2030-01-01", "", "expires: expected a date"),
        ("expires = 2030-01-01", 'expires = "Never"', "expires: expected a date"),
        ("expires = 2030-01-01", "expires = 2030-01-01T00:00:00Z", "expires: expected a date"),
        ("expires = 2030-01-01", "expires = 2030-02-30", "not TOML"),
        ("[signers.alice]", "[signers.Alice]", "not a signer's name"),
        ("[signers.alice]", "[signers.alicia]", "roles.publisher.members.alice: no such signer"),
        ("[signers.alice]", "[signers.alice]\nrsa = 'x'", "signers.alice.rsa: unknown field"),
        ("ed25519 = ", "ml-dsa-65 = ", "ml-dsa-65 has 1952 bytes"),
        ('ed25519 = "', 'ed25519 = "=', "signers.alice: ed25519: not base64"),
        ('reason = "lost the token"', 'reason = ""', "reason: expected one line"),
        ('reason = "lost the token"', 'reason = "\\u001b[2J"', "reason: expected one line"),
        ('reason = "lost the token"', "", "signers.carol.revoked.reason: expected text"),
        ("date = 2026-06-01", "", "signers.carol.revoked.date: expected a date"),
        ("date = 2026-06-01", "date = 2026-06-01\nuntil = 1", "signers.carol.revoked.until: unknown field"),
        ("threshold = 2", "threshold = 0", "threshold: expected 1 to"),
        ("threshold = 2", "threshold = 2.0", "threshold: expected an integer, found float"),
        ("threshold = 2", "", "roles.publisher.threshold: expected an integer, found nothing"),
        ("[roles.root]", "[roles.king]\nthreshold = 1\nmembers.bob = ['*']\n[roles.root]", "unknown role 'king'"),
        ("[roles.root.members]", "[roles.root.people]", "roles.root.people: unknown field"),
        ('"lab"', "7", r"roles.publisher.members.bob\[1\]: expected text, found int 7"),
        ('"lab"', '"l*b"', "no channel pattern"),
        ('"lab"', '"**"', "no channel pattern"),
        ('"lab"', '""', "no channel pattern"),
    ],
)
def test_refused_with_its_path(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(MalformedTrust, match=words):
        TrustStore.parse(TEXT.replace(old, new, 1).encode())


@pytest.mark.parametrize("data", [b"\xff", b"x" * (MAX_TRUST_FILE_BYTES + 1), b"a=" + b"[" * 100_000, b"[[signers]]\n"])
def test_refused_bytes(data: bytes) -> None:
    with pytest.raises(MalformedTrust):
        TrustStore.parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(data: bytes) -> None:
    for text in (data, b"sealift_trust = 1\nversion = 1\nexpires = 'never'\n[roles]\n[signers]\n" + data):
        try:
            store = TrustStore.parse(text)
        except MalformedTrust:
            continue
        assert TrustStore.parse(store.encode()) == store


def test_a_key_has_one_name() -> None:
    alias = PublicSigner("alias", ALICE.keys)
    with pytest.raises(TrustConflict, match="known already under the name alice"):
        STORE.add(alias, ["publisher"])
    with pytest.raises(TrustConflict, match="revoked under the name carol"):
        STORE.add(PublicSigner("caroline", CAROL.keys), ["publisher"])
    shared = TEXT.replace(
        "[signers.alice]",
        TEXT[TEXT.index("[signers.alice]") :].split("\n\n")[0].replace("alice", "zoe") + "\n\n[signers.alice]",
    )
    with pytest.raises(MalformedTrust, match="signers alice and zoe have the same ed25519 key"):
        TrustStore.parse(shared.encode())


def test_half_a_signer_under_another_name_is_refused_too() -> None:
    """Otherwise one person's Ed25519 key could count once beside each of two ML-DSA keys."""
    alice, mallory = fixed_signer("alice").public, fixed_signer("mallory").public
    mixed = PublicSigner("mallory", (alice.keys[0], mallory.keys[1]))
    with pytest.raises(TrustConflict, match="known already under the name alice"):
        TrustStore.empty().add(alice, ["publisher"]).add(mixed, ["publisher"])


def test_a_name_has_one_set_of_keys() -> None:
    with pytest.raises(TrustConflict, match="trusted with other keys"):
        STORE.add(PublicSigner("alice", fixed_signer("eve", ED).public.keys), ["publisher"])


def test_the_revoked_do_not_return() -> None:
    with pytest.raises(TrustConflict, match="carol was revoked on 2026-06-01"):
        STORE.add(CAROL, ["publisher"])
    with pytest.raises(TrustConflict, match="cannot return"):
        STORE.remove("carol")
    with pytest.raises(TrustConflict, match="revoked on 2026-06-01 already"):
        STORE.revoke("carol", "again", date(2027, 1, 1))


def test_changes_count_versions_and_leave_the_old_store_alone() -> None:
    before = STORE.encode()
    after = STORE.add(fixed_signer("dave", ED).public, ["approver"])
    assert after.version == STORE.version + 1
    assert STORE.encode() == before
    assert STORE.with_threshold("publisher", 1).version == STORE.version + 1


def test_remove_forgets_and_an_empty_role_disappears() -> None:
    store = TrustStore.empty().add(ALICE, ["publisher", "approver"]).add(BOB, ["publisher"])
    assert store.required_roles == ("approver", "publisher")
    gone = store.remove("alice")
    assert gone.required_roles == ("publisher",)
    assert [signer.name for signer in gone.signers] == ["bob"]
    less = store.remove_from("alice", ["approver"])
    assert less.role("approver") is None
    assert less.signer("alice") == store.signer("alice")
    with pytest.raises(TrustConflict, match="does not hold the role approver"):
        store.remove_from("bob", ["approver"])
    with pytest.raises(UnknownSigner, match="known: bob"):
        gone.remove("alice")


def test_a_revoked_approver_still_demands_approval_until_the_role_is_taken() -> None:
    assert STORE.required_roles == ("approver", "publisher")
    after = STORE.remove_from("carol", ["approver"])
    assert after.required_roles == ("publisher",)
    assert after.signer("carol").revoked is not None


def test_thresholds_that_nobody_could_meet() -> None:
    for role, count in (("publisher", 3), ("approver", 1), ("root", 2)):
        with pytest.raises(TrustConflict, match="never be met"):
            STORE.with_threshold(role, count)
    with pytest.raises(TrustConflict, match="unknown role 'king'"):
        STORE.with_threshold("king", 1)


@pytest.mark.parametrize(
    ("patterns", "channel", "expected"),
    [
        (("*",), None, True),
        (("*",), "x", True),
        (("acme/*",), None, False),
        (("acme/*",), "acme/llm", True),
        (("acme/*",), "acme/llm/small", True),
        (("acme/*",), "acme/", True),
        (("acme/*",), "acme", False),
        (("acme/*",), "acmexllm", False),
        (("lab",), "lab", True),
        (("lab",), "lab2", False),
        (("lab",), "Lab", False),
        (("a", "b*"), "bcd", True),
        (("a.b",), "axb", False),
    ],
)
def test_channels(patterns: tuple[str, ...], channel: str | None, expected: bool) -> None:
    assert Member(signer="alice", channels=patterns).covers(channel) is expected


def test_load_and_save(tmp_path: Path) -> None:
    path = tmp_path / "home" / "trust.toml"
    assert TrustStore.load(path) == TrustStore.empty()
    STORE.save(path)
    assert TrustStore.load(path) == STORE
    path.write_text(TEXT.replace("threshold = 2", "threshold = 0"))
    with pytest.raises(MalformedTrust, match=r"trust\.toml: roles\.publisher\.threshold"):
        TrustStore.load(path)
    with pytest.raises(KeyFileUnavailable):
        TrustStore.load(tmp_path)


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    signers = [fixed_signer(f"signer{index}", ED).public for index in range(12)]

    def add(public: PublicSigner) -> None:
        HostTrust(path.parent).change(lambda store: store.add(public, ["publisher"]))

    threads = [threading.Thread(target=add, args=(public,)) for public in signers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = TrustStore.load(path)
    assert store.version == len(signers)
    assert {signer.name for signer in store.signers} == {public.name for public in signers}
