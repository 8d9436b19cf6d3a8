"""DSSE envelopes: the pre-authentication encoding, the one canonical form, and everything else refused."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signing.envelope import Envelope, Signature, add_signature, decode, encode, pae, sign
from signing.errors import MalformedEnvelope
from signing.limits import MAX_ENVELOPE_BYTES, MAX_PAYLOAD_BYTES, MAX_SIGNATURE_BYTES, MAX_SIGNATURES
from tests.peers.signers import fixed_signer

TYPE = "application/vnd.sealift.test+json"
SMALL = encode(sign(TYPE, b'{"n":1}', [fixed_signer("alice", ("ed25519",))]))
HYBRID = encode(sign(TYPE, b'{"n":1}', [fixed_signer("alice")]))


def test_pae_of_the_specification() -> None:
    """DSSE protocol.md: `PAE("http://example.com/HelloWorld", "hello world")`."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "


@given(st.text(max_size=9), st.binary(max_size=9), st.text(max_size=9), st.binary(max_size=9))
def test_pae_is_injective(type_a: str, body_a: bytes, type_b: str, body_b: bytes) -> None:
    """Moving bytes between type and body changes what is signed."""
    assert (pae(type_a, body_a) == pae(type_b, body_b)) == ((type_a, body_a) == (type_b, body_b))


SIGNATURES = st.dictionaries(
    st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=70), min_size=1, max_size=5
).map(lambda found: tuple(Signature(keyid=key.hex(), sig=found[key]) for key in sorted(found)))


@given(st.binary(max_size=200), SIGNATURES)
def test_decode_inverts_encode_and_other_json_readers_agree(payload: bytes, signatures: tuple[Signature, ...]) -> None:
    made = Envelope(payload_type=TYPE, payload=payload, signatures=signatures)
    data = encode(made)
    assert decode(data) == made
    read = json.loads(data)
    assert base64.b64decode(read["payload"]) == payload
    assert read["payloadType"] == TYPE
    assert [(s["keyid"], base64.b64decode(s["sig"])) for s in read["signatures"]] == [
        (s.keyid, s.sig) for s in signatures
    ]
    assert json.dumps(read, separators=(",", ":"), sort_keys=True).encode() == data


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_canonical(data: bytes) -> None:
    try:
        found = decode(data)
    except MalformedEnvelope:
        return
    assert encode(found) == data


@given(st.data())
def test_json_shaped_bytes_are_refused_or_canonical(data: st.DataObject) -> None:
    """Any JSON value put in any place of a good envelope."""
    document = json.loads(SMALL)
    place = data.draw(st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "extra"]))
    value = data.draw(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
    )
    (document["signatures"][0] if place in ("keyid", "sig") else document)[place] = value
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    try:
        found = decode(text)
    except MalformedEnvelope:
        return
    assert encode(found) == text


def mangled(data: bytes, place: int) -> set[bytes]:
    """Other bytes for one place: a flipped bit, the next byte, and the characters that mean something in JSON."""
    byte = data[place]
    return {bytes([other]) for other in {byte ^ 1, byte ^ 0x80, (byte + 1) % 256, *b'"\\,]} \n\0'} - {byte}}


@pytest.mark.parametrize("good", [SMALL, HYBRID], ids=["small", "hybrid"])
def test_every_changed_byte_is_refused_or_canonical_and_different(good: bytes) -> None:
    original, accepted = decode(good), 0
    for place in range(len(good)):
        for other in mangled(good, place):
            changed = good[:place] + other + good[place + 1 :]
            try:
                found = decode(changed)
            except MalformedEnvelope:
                continue
            accepted += 1
            assert encode(found) == changed
            assert found != original
    assert accepted > len(good)  # most places are base64 or hex, where the signature is what refuses: test_trust_verify


@pytest.mark.parametrize("good", [SMALL, HYBRID], ids=["small", "hybrid"])
def test_every_missing_byte_and_every_head_and_tail_is_refused(good: bytes) -> None:
    for place in range(len(good)):
        for part in (good[:place], good[place + 1 :]):
            with pytest.raises(MalformedEnvelope):
                decode(part)
        without = good[:place] + good[place + 1 :]
        if good[place] not in TYPE.encode():  # a shorter payload type may still be a media type
            with pytest.raises(MalformedEnvelope):
                decode(without)


def test_every_substring_is_refused() -> None:
    for start in range(len(SMALL)):
        for end in range(start, len(SMALL)):
            with pytest.raises(MalformedEnvelope):
                decode(SMALL[start:end])


B64 = base64.b64encode(b"{}").decode()
SIG = '{"keyid":"' + "a" * 64 + '","sig":"AA=="}'


def text(payload: str = B64, kind: str = TYPE, signatures: str = SIG) -> bytes:
    return f'{{"payload":"{payload}","payloadType":"{kind}","signatures":[{signatures}]}}'.encode()


def test_the_template_of_the_next_test_is_good() -> None:
    assert encode(decode(text())) == text()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (text().replace(b'","payloadType"', b'","payload":"e30=","payloadType"'), "expected"),
        (text().replace(b'"}]}', b'"}],"signatures":[]}'), "expected"),
        (text().replace(b'"}]}', b'","sig":"AA=="}]}'), "expected"),
        (text().replace(b'"}]}', b'","extra":1}]}'), "expected"),
        (text() + b"\n", "1 bytes after the end"),
        (b" " + text(), "byte 0: expected"),
        (b"\xef\xbb\xbf" + text(), "byte 0: expected"),
        (text(payload="e30"), "not base64"),
        (text(payload="e31="), "no encoder writes"),
        (text(payload="e3\\u0030="), "not base64"),
        (text(payload="e30=e30="), "base64"),
        (text(payload="_-8="), "base64"),
        (text(payload="e3 0="), "not base64"),
        (text(kind=""), "not a media type"),
        (text(kind="a\\u0062/c"), "not a media type"),
        (text(kind="application/x" + "y" * 128), "longer than"),
        (text(kind="application/é"), "not ASCII"),
        (text(signatures=""), "expected"),
        (text(signatures=f"{SIG},{SIG}"), "one per key"),
        (text(signatures=f"{SIG},{SIG.replace('aaaa', '0000')}"), "ascending"),
        (text(signatures=SIG + ","), "expected"),
        (text(signatures=SIG.replace("a" * 64, "A" * 64)), "64 hex"),
        (text(signatures=SIG.replace("a" * 64, "")), "64 hex"),
        (text(signatures=SIG.replace("a" * 64, "a" * 65)), "keyid: longer than 64"),
        (text(signatures=SIG.replace("AA==", "")), "sig: expected 1 to"),
        (
            text(signatures=SIG.replace("AA==", base64.b64encode(bytes(MAX_SIGNATURE_BYTES + 3)).decode())),
            "sig: longer",
        ),
        (b"[" * 100_000, "byte 0: expected"),
        (b"", "byte 0: expected"),
        (b"null", "byte 0: expected"),
    ],
)
def test_refused_with_words(data: bytes, words: str) -> None:
    with pytest.raises(MalformedEnvelope, match=words):
        decode(data)


def many(count: int) -> bytes:
    return text(signatures=",".join(SIG.replace("a" * 64, f"{index:064x}") for index in range(count)))


def test_the_number_of_signatures() -> None:
    assert len(decode(many(MAX_SIGNATURES)).signatures) == MAX_SIGNATURES
    with pytest.raises(MalformedEnvelope, match="more than 64"):
        decode(many(MAX_SIGNATURES + 1))


def test_the_largest_envelope_that_can_be_written_can_be_read() -> None:
    signatures = tuple(
        Signature(keyid=f"{index:064x}", sig=bytes(MAX_SIGNATURE_BYTES)) for index in range(MAX_SIGNATURES)
    )
    largest = Envelope(payload_type=TYPE, payload=bytes(MAX_PAYLOAD_BYTES), signatures=signatures)
    data = encode(largest)
    assert len(data) <= MAX_ENVELOPE_BYTES
    assert decode(data) == largest


def test_too_much_is_refused_before_it_is_copied() -> None:
    """Each refusal costs under 1 MiB beside the input itself."""
    over = [
        bytes(MAX_ENVELOPE_BYTES + 1),
        text(payload="A" * ((MAX_PAYLOAD_BYTES + 2) // 3 * 4 + 4)),
        text(signatures=SIG.replace("AA==", "A" * 20_000_000)),
        b'{"payload":"' + b"[" * 20_000_000,
        many(1)[:-2] + b"," * 20_000_000,
    ]
    for data in over:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedEnvelope):
                decode(data)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_signatures_do_not_depend_on_who_signed_first() -> None:
    """Ed25519 signatures are deterministic, so the bytes are equal."""
    alice, bob = fixed_signer("alice", ("ed25519",)), fixed_signer("bob", ("ed25519",))
    both = sign(TYPE, b"x", [alice, bob])
    assert encode(both) == encode(sign(TYPE, b"x", [bob, alice]))
    assert both == add_signature(sign(TYPE, b"x", [alice]), bob) == add_signature(sign(TYPE, b"x", [bob]), alice)
    assert add_signature(both, bob) == both


def test_what_cannot_be_encoded_cannot_be_built() -> None:
    good = Signature(keyid="a" * 64, sig=b"x")
    for build in (
        lambda: Signature(keyid='"' * 64, sig=b"x"),
        lambda: Signature(keyid="a" * 64, sig=b""),
        lambda: Envelope(payload_type='a/"b', payload=b"", signatures=(good,)),
        lambda: Envelope(payload_type=TYPE, payload=b"", signatures=()),
        lambda: Envelope(payload_type=TYPE, payload=bytes(MAX_PAYLOAD_BYTES + 1), signatures=(good,)),
        lambda: Envelope(payload_type=TYPE, payload=b"", signatures=(good, good)),
    ):
        with pytest.raises(MalformedEnvelope):
            build()
