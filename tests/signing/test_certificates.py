"""X.509 chains for a P-384 key: what is a chain, when it holds, and that it only ever takes away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typer.testing import CliRunner

from sealift import build
from signing.certificates import check_chain, read_pem
from signing.envelope import encode, sign
from signing.errors import MalformedTrust, NotTrusted
from signing.keys import Signer
from signing.trust import TrustStore
from signing.trustdocument import decode_document, encode_document
from tests.peers.signers import fixed_signer

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOB = fixed_signer("bob", ("ecdsa-p384", "ml-dsa-65"))
ALICE = fixed_signer("alice", ("ecdsa-p384", "ml-dsa-65"))
CA, MIDDLE, OTHER = (fixed_signer(name, ("ecdsa-p384",)) for name in ("ca", "middle", "other"))
TYPE = "application/x-test"
USAGE = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
)  # fmt: skip


def key_of(signer: Signer) -> Any:
    return signer.private[0]


def made(
    whose: Any,
    by: Any,
    name: str,
    issuer: str,
    *,
    ca: bool = False,
    days: int = 365,
    usage: str | None = None,
    length: int | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    basic: bool = True,
    algorithm: Any = None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(whose.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=days))
    )
    if basic:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
    usage = ("key_cert_sign" if ca else "digital_signature") if usage is None else usage
    if usage:
        builder = builder.add_extension(x509.KeyUsage(**USAGE | {usage: True}), critical=True)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(by, algorithm or hashes.SHA384()).public_bytes(serialization.Encoding.DER)


ANCHOR = made(key_of(CA), key_of(CA), "ca", "ca", ca=True, days=3650)
INNER = made(key_of(MIDDLE), key_of(CA), "middle", "ca", ca=True, length=0)
SHORT = [made(key_of(BOB), key_of(CA), "bob", "ca"), ANCHOR]
LONG = [made(key_of(BOB), key_of(MIDDLE), "bob", "middle", days=30), INNER, ANCHOR]


def leaf(**options: Any) -> list[bytes]:
    return [made(key_of(BOB), key_of(CA), "bob", "ca", **options), ANCHOR]


def issued_by(anchor: bytes) -> list[bytes]:
    return [SHORT[0], anchor]


@pytest.mark.parametrize("chain", [SHORT, LONG])
def test_a_good_chain_survives_both_forms_of_trust(chain: list[bytes]) -> None:
    check_chain(chain, BOB.public)
    store = TrustStore.empty().add(BOB.public, ["publisher"], x509=chain)
    assert TrustStore.parse(store.encode()) == store == decode_document(encode_document(store))


NAMES = x509.NameConstraints([x509.DNSName("example.org")], None)
CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
WEB = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (SHORT[:1], "expected 2 to 3"),
        ([*LONG, ANCHOR], "expected 2 to 3"),
        ([SHORT[0], INNER], "was not issued by"),
        ([LONG[0], ANCHOR], "was not issued by"),
        ([ANCHOR, SHORT[0]], "is not for signatures"),
        ([made(key_of(ALICE), key_of(CA), "bob", "ca"), ANCHOR], "is not for the ECDSA P-384 key of bob"),
        (issued_by(made(key_of(OTHER), key_of(OTHER), "ca", "ca", ca=True)), "was not issued by"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", ca=False)), "is no CA"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", ca=True, usage="")), "is no CA"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", ca=True, usage="crl_sign")), "is no CA"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", basic=False, usage="key_cert_sign")), "is no CA"),
        ([*LONG[:2], made(key_of(CA), key_of(CA), "ca", "ca", ca=True, length=0)], "path length 0 is exceeded"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", ca=True, extra=[(NAMES, True)])), "2.5.29.30 is not"),
        (issued_by(made(key_of(CA), key_of(CA), "ca", "ca", ca=True, extra=[(NAMES, False)])), "2.5.29.30 is not"),
        (leaf(extra=[(UNKNOWN, True)]), "1.2.3.4 is not supported"),
        (leaf(extra=[(WEB, False)]), "does not allow code signing"),
        (leaf(usage="key_agreement"), "is not for signatures"),
        (leaf(usage=""), "is not for signatures"),
        (leaf(algorithm=hashes.SHA256()), "ECDSA with SHA-384"),
        ([SHORT[0] + b"\0", ANCHOR], "x509"),
        ([SHORT[0][:-1], ANCHOR], "no certificate that can be read"),
        ([b"", ANCHOR], "no certificate that can be read"),
        ([b"0" * 9000, ANCHOR], "at most 8192 bytes"),
    ],
)
def test_what_is_no_chain(chain: list[bytes], words: str) -> None:
    with pytest.raises(MalformedTrust, match=words):
        check_chain(chain, BOB.public)


def test_other_keys_are_refused() -> None:
    small, large = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    for key in (small, large):
        anchor = made(key, key, "ca", "ca", ca=True)
        with pytest.raises(MalformedTrust, match=r"P-384|SHA-384"):
            check_chain([made(key_of(BOB), key, "bob", "ca"), anchor], BOB.public)


def test_extensions_that_do_not_matter_may_be_there() -> None:
    check_chain(leaf(extra=[(UNKNOWN, False), (CODE, True)]), BOB.public)


def test_no_flipped_bit_changes_what_the_ca_signed() -> None:
    """What is accepted holds the very bytes that were signed; the encoding of a signature has some play."""
    for at in range(len(SHORT[0])):
        for mask in (0x01, 0x80):
            flipped = SHORT[0][:at] + bytes([SHORT[0][at] ^ mask]) + SHORT[0][at + 1 :]
            try:
                check_chain([flipped, ANCHOR], BOB.public)
            except MalformedTrust:
                continue
            same = [x509.load_der_x509_certificate(der).tbs_certificate_bytes for der in (flipped, SHORT[0])]
            assert same[0] == same[1]


def verdict(now: date | None, signed: datetime | None, chain: list[bytes] = SHORT) -> str:
    store = TrustStore.empty().add(BOB.public, ["publisher"], x509=chain)
    envelope = encode(sign(TYPE, b"x", [BOB]))
    at = None if signed is None else lambda payload: signed
    try:
        store.verify(envelope, payload_type=TYPE, now=now, signed_at=at)
    except NotTrusted as error:
        assert error.verdict.roles[0].rejected[0].reason == "certificate"
        return str(error)
    return "accepted"


def test_the_certificates_must_hold_when_it_was_signed_and_now() -> None:
    inside, before, after = (START + timedelta(days=days) for days in (100, -1, 400))
    assert verdict(inside.date(), inside) == "accepted"
    assert verdict(inside.date(), None) == "accepted"
    assert verdict(None, inside) == "accepted"
    assert verdict(START.date(), START) == "accepted", "the first moment"
    assert "not on 2025-12-31" in verdict(inside.date(), before)
    assert "not on 2027-02-05" in verdict(after.date(), inside)
    assert "not on 2027-02-05" in verdict(inside.date(), after)
    assert "no time is known" in verdict(None, None)
    assert "hold from 2026-01-01 to 2026-01-31" in verdict(inside.date(), inside, LONG), "the shortest one decides"


def test_a_chain_lets_nobody_in() -> None:
    """Another key of the same CA is nobody here."""
    store = TrustStore.empty().add(BOB.public, ["publisher"], x509=SHORT)
    with pytest.raises(NotTrusted):
        store.verify(encode(sign(TYPE, b"x", [ALICE])), payload_type=TYPE, now=START.date())


def test_root_signers_have_no_certificates() -> None:
    with pytest.raises(MalformedTrust, match="bear no time"):
        TrustStore.empty().add(BOB.public, ["root"], x509=SHORT)


def test_renewed_certificates_replace_the_old_ones() -> None:
    store = TrustStore.empty().add(BOB.public, ["publisher"], x509=SHORT)
    assert store.add(BOB.public, ["approver"]).signer("bob").x509 == tuple(SHORT)
    assert store.add(BOB.public, ["publisher"], x509=LONG).signer("bob").x509 == tuple(LONG)


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    (tmp_path / "bob.pub").write_bytes(BOB.public.encode())
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in LONG)
    (tmp_path / "bob.pem").write_bytes(pem)
    assert read_pem(pem) == tuple(LONG)

    def run(*words: str) -> Any:
        return CliRunner().invoke(build(), ["trust", *words])

    pub, role = str(tmp_path / "bob.pub"), ["--role", "publisher"]
    (tmp_path / "bad.pem").write_bytes(b"nothing")
    assert isinstance(run("add", pub, *role, "--certificates", str(tmp_path / "bad.pem")).exception, MalformedTrust)
    assert run("add", pub, *role, "--certificates", str(tmp_path / "bob.pem")).exit_code == 0
    assert "certificate CN=middle until 2027-01-01" in run("show").output
    shown = json.loads(run("show", "--json").output)
    assert [item["subject"] for item in shown["signers"][0]["certificates"]] == ["CN=bob", "CN=middle", "CN=ca"]
