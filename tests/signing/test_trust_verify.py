"""The trust core: vectors, thresholds, revocation, downgrade, confusion of keys and types, and mangled input."""

from __future__ import annotations

import copy
import json
from datetime import date, datetime, timezone
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signing.envelope import Envelope, Signature, decode, encode, sign
from signing.errors import MalformedEnvelope, MalformedTrust, NotTrusted, RefusedInput, WrongPayloadType
from signing.trust import TrustStore
from signing.verified import VerifiedPayload
from tests.peers.signers import fixed_signer
from tests.peers.vectors import read_vectors

VECTORS = Path(__file__).parent / "vectors"
TYPE = "application/vnd.sealift.test+json"
PAYLOAD = b'{"made":"for the tests of signing"}'
CASES = read_vectors(VECTORS / "envelopes.txt")
ED = ("ed25519",)
ALICE, BOB, CAROL, EVE = (fixed_signer(name) for name in ("alice", "bob", "carol", "eve"))
PAIR = TrustStore.empty().add(ALICE.public, ["publisher"]).add(BOB.public, ["publisher"])


def outcome(case: dict[str, str], store: TrustStore) -> str:
    try:
        found = store.verify(
            case["envelope"].encode(),
            payload_type=TYPE,
            channel=lambda payload: case["channel"],
            required_profile=case["profile"],
        )
    except NotTrusted as error:
        assert not error.verdict.accepted
        return f"not trusted: {error}; {'; '.join(error.verdict.sentences())}"
    except MalformedEnvelope as error:
        return f"refused: {error}"
    assert found.payload == PAYLOAD
    return f"accepted by {', '.join(found.verdict.signers)}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_vector(case: dict[str, str]) -> None:
    kind, _, words = case["expect"].partition(": ")
    found = outcome(case, TrustStore.parse((VECTORS / "trust.toml").read_bytes()))
    if words:
        assert found.startswith(f"{kind}: ") and words in found
    else:
        assert found == case["expect"]


def verify(store: TrustStore, envelope: Envelope, **options: object) -> VerifiedPayload:
    return store.verify(encode(envelope), payload_type=TYPE, **options)  # type: ignore[arg-type]


def refused(store: TrustStore, envelope: Envelope, **options: object) -> NotTrusted:
    with pytest.raises(NotTrusted) as caught:
        verify(store, envelope, **options)
    assert not caught.value.verdict.accepted
    return caught.value


def kept(envelope: Envelope, ids: set[str]) -> Envelope:
    some = tuple(s for s in envelope.signatures if s.keyid in ids)
    return Envelope(payload_type=envelope.payload_type, payload=envelope.payload, signatures=some)


NAMES = ("s0", "s1", "s2", "s3")
SIGNERS = {name: fixed_signer(name) for name in NAMES}
EVERYBODY = sign(TYPE, PAYLOAD, list(SIGNERS.values()))
KEYS = {(name, key.scheme): key.id for name in NAMES for key in SIGNERS[name].public.keys}


@settings(max_examples=150, deadline=None)
@given(
    members=st.sets(st.sampled_from(NAMES), min_size=1),
    revoked=st.sets(st.sampled_from(NAMES)),
    signed=st.sets(st.sampled_from(sorted(KEYS)), min_size=1),
    threshold=st.integers(1, 4),
)
def test_threshold_law(members: set[str], revoked: set[str], signed: set[tuple[str, str]], threshold: int) -> None:
    """Accepted exactly when enough different members, not revoked, signed with each of their keys.

    DSSE: "an envelope is verified if at least t of the n keys signed", with people in place of keys.
    """
    store = TrustStore.empty()
    for name in sorted(members):
        store = store.add(SIGNERS[name].public, ["publisher"])
    text = store.encode().decode().replace("threshold = 1", f"threshold = {threshold}")
    store = TrustStore.parse(text.encode())
    for name in sorted(revoked & members):
        store = store.revoke(name, "test", date(2026, 1, 1))
    counting = {n for n in members - revoked if {(n, "ed25519"), (n, "ml-dsa-65")} <= signed}
    envelope = kept(EVERYBODY, {KEYS[item] for item in signed})
    if len(counting) >= threshold:
        assert set(verify(store, envelope).verdict.signers) == counting
    else:
        verdict = refused(store, envelope).verdict
        assert set(verdict.signers) == counting
        assert verdict.roles[0].threshold == threshold


def test_two_signatures_of_one_signer_are_one() -> None:
    store = PAIR.with_threshold("publisher", 2)
    error = refused(store, sign(TYPE, PAYLOAD, [ALICE]))
    assert error.verdict.roles[0].counted == ("alice",)
    assert "1 of 2 needed: alice" in str(error)
    assert verify(store, sign(TYPE, PAYLOAD, [ALICE, BOB])).verdict.signers == ("alice", "bob")


def test_downgrade_says_why() -> None:
    both = sign(TYPE, PAYLOAD, [ALICE])
    for key in ALICE.public.keys:
        error = refused(PAIR, kept(both, {key.id}))
        other = next(k.scheme for k in ALICE.public.keys if k != key)
        assert error.verdict.roles[0].rejected[0].reason == "incomplete"
        assert f"its {other} signature is missing" in str(error)


def test_profile_any_does_not_excuse_a_stripped_signature() -> None:
    stripped = kept(sign(TYPE, PAYLOAD, [ALICE]), {ALICE.public.keys[0].id})
    assert "ml-dsa-65 signature is missing" in str(refused(PAIR, stripped, required_profile="any"))


@pytest.mark.parametrize(
    ("schemes", "profiles"),
    [
        (("ed25519",), {"any"}),
        (("ml-dsa-65",), {"any"}),
        (("ml-dsa-87",), {"any", "cnsa2"}),
        (("ed25519", "ecdsa-p384"), {"any"}),
        (("ed25519", "ml-dsa-65"), {"any", "hybrid"}),
        (("ecdsa-p384", "ml-dsa-87"), {"any", "hybrid", "cnsa2"}),
        (("ml-dsa-65", "ml-dsa-87"), {"any", "cnsa2"}),
    ],
)
def test_profiles(schemes: tuple[str, ...], profiles: set[str]) -> None:
    signer = fixed_signer("p", schemes)
    store, envelope = TrustStore.empty().add(signer.public, ["publisher"]), sign(TYPE, PAYLOAD, [signer])
    for profile in ("any", "hybrid", "cnsa2"):
        if profile in profiles:
            assert verify(store, envelope, required_profile=profile).verdict.profile == profile
        else:
            assert refused(store, envelope, required_profile=profile).verdict.roles[0].rejected[0].reason == "profile"


def test_every_role_needs_its_own_signers() -> None:
    store = PAIR.add(CAROL.public, ["approver"])
    assert "approver: 0 of 1 needed" in str(refused(store, sign(TYPE, PAYLOAD, [ALICE, BOB])))
    assert "publisher: 0 of 1 needed" in str(refused(store, sign(TYPE, PAYLOAD, [CAROL])))
    assert verify(store, sign(TYPE, PAYLOAD, [ALICE, CAROL])).verdict.signers == ("alice", "carol")
    assert verify(store, sign(TYPE, PAYLOAD, [ALICE]), roles=("publisher",)).verdict.signers == ("alice",)


def test_root_does_not_count_for_content() -> None:
    store = TrustStore.empty().add(ALICE.public, ["root"])
    assert "nobody is trusted for this role" in str(refused(store, sign(TYPE, PAYLOAD, [ALICE])))


def test_nobody_is_trusted_by_default() -> None:
    error = refused(TrustStore.empty(), sign(TYPE, PAYLOAD, [EVE]))
    assert error.hint == "if you know who signed: sealift trust add NAME.pub --role publisher"
    assert [finding.status for finding in error.verdict.signatures] == ["unknown", "unknown"]


def test_one_wrong_signature_of_a_known_key_is_fatal() -> None:
    """Even beside enough good ones, even of a revoked signer, even of one without a role."""
    good = sign(TYPE, PAYLOAD, [ALICE, BOB, CAROL])
    carol = CAROL.public.keys[0].id
    wrong = Envelope(
        payload_type=TYPE,
        payload=PAYLOAD,
        signatures=tuple(Signature(keyid=s.keyid, sig=b"\1" * 64) if s.keyid == carol else s for s in good.signatures),
    )
    without = PAIR.add(CAROL.public, ["root"])
    for store in (without, without.revoke("carol", "lost", date(2026, 1, 1))):
        assert verify(store, good).verdict.signers == ("alice", "bob")
        assert "the signature by carol's ed25519 key is wrong" in str(refused(store, wrong))
    assert verify(PAIR, wrong).verdict.signers == ("alice", "bob")  # to this store it is an unknown key


def test_a_signature_counts_for_one_type_only() -> None:
    """The payload type is part of what is signed, and compared before any signature."""
    envelope = sign("application/vnd.sealift.receipt+json", PAYLOAD, [ALICE])
    with pytest.raises(WrongPayloadType, match=r"expected application/vnd\.sealift\.test"):
        verify(PAIR, envelope)
    renamed = Envelope(payload_type=TYPE, payload=PAYLOAD, signatures=envelope.signatures)
    assert "is wrong" in str(refused(PAIR, renamed))


def test_a_signature_moves_to_no_other_scheme() -> None:
    """Alice's signatures under each other's key ids."""
    envelope = sign(TYPE, PAYLOAD, [ALICE])
    first, second = envelope.signatures
    swapped = (Signature(keyid=first.keyid, sig=second.sig), Signature(keyid=second.keyid, sig=first.sig))
    assert "is wrong" in str(refused(PAIR, Envelope(payload_type=TYPE, payload=PAYLOAD, signatures=swapped)))


def test_channels_are_judged_after_everything_else() -> None:
    store = TrustStore.empty().add(BOB.public, ["publisher"], ["acme/*"])
    envelope = sign(TYPE, PAYLOAD, [BOB])
    asked: list[bytes] = []

    def channel(payload: bytes) -> str:
        asked.append(payload)
        return "acme/llm"

    assert verify(store, envelope, channel=channel).verdict.channel == "acme/llm"
    assert asked == [PAYLOAD]
    refused(PAIR, sign(TYPE, PAYLOAD, [EVE]), channel=channel)
    refused(store.revoke("bob", "lost", date(2026, 1, 1)), envelope, channel=channel)
    assert asked == [PAYLOAD]  # an unverified payload was shown to nobody
    assert "not for the channel 'other'" in str(refused(store, envelope, channel="other"))
    assert "names no channel" in str(refused(store, envelope))

    def fails(payload: bytes) -> str:
        raise LookupError("the caller's own error")

    with pytest.raises(LookupError, match="the caller's own"):
        verify(store, envelope, channel=fails)


def test_expiry_of_the_trust_file() -> None:
    store, envelope = PAIR.with_expiry(date(2027, 1, 1)), sign(TYPE, PAYLOAD, [ALICE])
    assert verify(store, envelope, now=date(2027, 1, 1)).verdict.not_checked == ()
    assert verify(store, envelope, now=datetime(2027, 1, 1, 23, 59, tzinfo=timezone.utc)).verdict.accepted
    assert "trust.toml expired on 2027-01-01" in str(refused(store, envelope, now=date(2027, 1, 2)))
    unchecked = verify(store, envelope).verdict
    assert unchecked.not_checked == ("whether trust.toml has expired (2027-01-01): no time was given",)
    assert any(line.startswith("not checked: ") for line in unchecked.sentences())


def test_a_revocation_has_no_date_limit() -> None:
    store = PAIR.revoke("alice", "lost", date(2999, 1, 1))
    refused(store, sign(TYPE, PAYLOAD, [ALICE]), now=date(2026, 1, 1))


@pytest.mark.parametrize("options", [{"required_profile": "none"}, {"roles": ("king",)}, {"roles": ()}])
def test_unusable_demands_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RefusedInput, match="unknown"):
        verify(PAIR, sign(TYPE, PAYLOAD, [ALICE]), **options)


def test_verified_payloads_come_from_verification_only() -> None:
    found = verify(PAIR, sign(TYPE, PAYLOAD, [ALICE]))
    with pytest.raises(TypeError, match=r"TrustStore\.verify only"):
        VerifiedPayload(object(), TYPE, b"forged", found.verdict)
    for name in ("payload", "_payload", "new"):
        with pytest.raises(AttributeError):
            setattr(found, name, b"forged")
    assert found.payload == PAYLOAD
    assert PAYLOAD.decode() not in repr(found)
    assert PAYLOAD.decode() not in str(refused(PAIR, sign(TYPE, PAYLOAD, [EVE])))


def test_the_verdict_is_json_and_says_the_same_each_time() -> None:
    store = PAIR.add(CAROL.public, ["approver"]).revoke("bob", "lost token", date(2026, 6, 1))
    envelope = sign(TYPE, PAYLOAD, [ALICE, BOB, EVE])
    first = refused(store, envelope).verdict
    assert first == refused(copy.deepcopy(store), envelope).verdict
    read = json.loads(json.dumps(first.as_dict()))
    assert read["accepted"] is False
    assert [role["role"] for role in read["roles"]] == ["approver", "publisher"]
    assert read["sentences"][:4] == [
        "not trusted (profile hybrid)",
        "approver: 0 of 1 needed",
        "approver: alice does not count: it does not hold the role approver",
        "approver: bob does not count: revoked on 2026-06-01 (lost token)",
    ]
    assert "approver: no signature from carol" in read["sentences"]
    assert sum("no signer in trust.toml has this key" in line for line in read["sentences"]) == 2


def mangle(good: bytes) -> chain[bytes]:
    """Every byte changed in three ways, every byte missing, every head, every tail."""
    places = range(len(good))
    return chain(
        (
            good[:at] + bytes([other]) + good[at + 1 :]
            for at in places
            for other in {good[at] ^ 1, (good[at] + 1) % 256, 35}
        ),
        (good[:at] + good[at + 1 :] for at in places),
        (good[:at] for at in places),
        (good[at:] for at in range(1, len(good))),
    )


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a stranger"])
def test_mangled_envelopes(beside: bool) -> None:
    """No mangling of an envelope gives another payload, and none is accepted except where only the stranger's part
    changed, which counts for nothing either way. Nothing but the room's own errors is raised."""
    small = fixed_signer("small", ED)
    store = TrustStore.empty().add(small.public, ["publisher"])
    good = encode(sign(TYPE, PAYLOAD, [small, fixed_signer("eve", ED)] if beside else [small]))
    own = next(s for s in decode(good).signatures if s.keyid == small.public.keys[0].id)
    accepted = 0
    for data in mangle(good):
        if data == good:
            continue
        try:
            found = store.verify(data, payload_type=TYPE, required_profile="any")
        except (MalformedEnvelope, NotTrusted):
            continue
        accepted += 1
        assert found.payload == PAYLOAD
        assert own in decode(data).signatures
    assert (accepted > 0) is beside


def test_mangled_trust_files() -> None:
    """No mangling of trust.toml admits a stranger or brings a revoked signer back. (A changed threshold digit or
    channel is another valid file: that is why the file is the administrator's alone.)"""
    names = ("a", "b", "c", "d")
    keys = {name: fixed_signer(name, ED) for name in names}
    store = (
        TrustStore.empty()
        .add(keys["a"].public, ["publisher"])
        .add(keys["b"].public, ["publisher"])
        .add(keys["c"].public, ["approver"])
        .with_threshold("publisher", 2)
        .revoke("b", "lost token", date(2026, 6, 1))
    )
    strangers = encode(sign(TYPE, PAYLOAD, [keys["b"], keys["c"], keys["d"]]))
    loaded = 0
    for data in mangle(store.encode()):
        try:
            found = TrustStore.parse(data)
        except MalformedTrust:
            continue
        loaded += 1
        with pytest.raises(NotTrusted):
            found.verify(strangers, payload_type=TYPE, required_profile="any")
    assert loaded > 100  # comments, dates and digits leave many readable files, so the loop tested something
