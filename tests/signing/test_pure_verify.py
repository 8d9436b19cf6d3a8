"""The slow twin against RFC 8032, FIPS 204 and the library that signing uses."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from signing import envelope, pure
from signing.errors import MalformedKey
from signing.keys import PublicKey, generate
from tests.peers.signers import fixed_signer
from tests.peers.vectors import read_vectors

ROOT = Path(__file__).parents[2]
CASES = read_vectors(Path(__file__).parent / "vectors" / "signatures.txt")
SCHEMES = ("ed25519", "ecdsa-p384", "ml-dsa-65", "ml-dsa-87")


def library_verdict(scheme: str, public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        return PublicKey(scheme, public).verify(signature, message)
    except MalformedKey:
        return False


def test_the_vectors_hold_both_outcomes_of_every_scheme() -> None:
    found = {(case["scheme"], case["expect"]) for case in CASES}
    assert found == {(scheme, outcome) for scheme in SCHEMES for outcome in ("valid", "invalid")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"][:60])
def test_vector(case: dict[str, str]) -> None:
    public, signature, message = (bytes.fromhex(case[name]) for name in ("public", "signature", "message"))
    expected = case["expect"] == "valid"
    assert pure.verify(case["scheme"], public, signature, message) is expected
    assert library_verdict(case["scheme"], public, signature, message) is expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_agrees_with_the_library_on_new_keys(scheme: str) -> None:
    for size in (0, 1, 63, 64, 200, 5000):
        signer = generate("new", [scheme])
        message = random.Random(size).randbytes(size)
        ((key, signature),) = signer.sign(message)
        assert pure.verify(scheme, key.raw, signature, message) is True
        assert pure.verify(scheme, key.raw, signature, message + b"\0") is False


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_changed_bit_passes(scheme: str) -> None:
    """Every byte would take 30 s for ML-DSA; 150 places over all parts of the signature (40 of a short one), and all of
    the hint's tail."""
    message = b"mangle me"
    ((key, signature),) = fixed_signer("mangle", (scheme,)).sign(message)
    generator = random.Random(scheme)
    places = {
        *generator.sample(range(len(signature)), min(150 if len(signature) > 200 else 40, len(signature))),
        *range(len(signature) - 8, len(signature)),
    }
    for place in sorted(places):
        changed = bytearray(signature)
        changed[place] ^= 1 << generator.randrange(8)
        assert pure.verify(scheme, key.raw, bytes(changed), message) is False
        assert key.verify(bytes(changed), message) is False


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_other_length_is_invalid_and_nothing_raises(scheme: str) -> None:
    ((key, signature),) = fixed_signer("mangle", (scheme,)).sign(b"")
    for cut in (0, 1, 31, len(signature) - 1):
        assert pure.verify(scheme, key.raw, signature[:cut], b"") is False
    assert pure.verify(scheme, key.raw[:-1], signature, b"") is False
    assert pure.verify(scheme, key.raw + b"\0", signature, b"") is False
    assert pure.verify(scheme, b"\xff" * len(key.raw), b"\xff" * len(signature), b"") is False


def test_a_public_key_has_one_spelling() -> None:
    """RFC 8032 section 5.1.3 step 1: y at or above p is refused. y = p + 1 is the neutral point's second spelling, and
    under it R = [S]B would verify for every message."""
    forged = pure._compress(pure._BASE) + (1).to_bytes(32, "little")
    second = (2**255 - 19 + 1).to_bytes(32, "little")
    assert pure.ed25519_verify(second, forged, b"any message") is False


def test_a_p384_signature_has_one_spelling() -> None:
    """OpenSSL decodes and encodes again (ecdsa_ossl.c): other DER of the same numbers is no signature. Ours as well."""
    ((key, good),) = fixed_signer("mangle", ("ecdsa-p384",)).sign(b"m")
    size = good[3]
    r, s = good[4 : 4 + size], good[6 + size :]

    def spelt(r: bytes, s: bytes, tail: bytes = b"", head: bytes | None = None) -> bytes:
        body = bytes([2, len(r)]) + r + bytes([2, len(s)]) + s + tail
        return (head or bytes([0x30, len(body)])) + body

    assert spelt(r, s) == good and pure.p384_verify(key.raw, good, b"m")
    n = pure._N384
    high = (int.from_bytes(s, "big") + n).to_bytes(49, "big")
    others = [
        spelt(b"\0" + r, s), spelt(r, b"\0" + s), spelt(r, s, b"\0"), spelt(r, high), spelt(b"\0", s), spelt(r, b"\0"),
        spelt(b"", s), spelt(b"\xff" * 48, s), spelt(r, s, head=bytes([0x30, 0x81, len(good) - 2])),
    ]  # fmt: skip
    for other in others:
        assert pure.p384_verify(key.raw, other, b"m") is False
        assert key.verify(other, b"m") is False


def test_p384_adds_points_in_every_case() -> None:
    point = pure._decompress_384(b"\3" + pure._X384.to_bytes(48, "big"))
    assert point is not None
    negative = (point[0], pure._P384 - point[1])
    assert pure._add_384(point, negative) is None and pure._add_384(None, point) == point
    assert pure._multiply_384(pure._N384, point) is None
    assert pure._multiply_384(pure._N384 - 1, point) == negative
    assert pure._decompress_384(b"\3" + pure._P384.to_bytes(48, "big")) is None, "a second spelling of x = 0"


def test_an_unknown_scheme_is_neither_true_nor_false() -> None:
    assert pure.verify("ecdsa-p256", b"", b"", b"") is None


def test_key_id_and_pae_are_those_of_the_room() -> None:
    for key in fixed_signer("alice", ("ed25519", "ecdsa-p384", "ml-dsa-65", "ml-dsa-87")).public.keys:
        assert pure.key_id(key.scheme, key.raw) == key.id
    for payload in (b"", b"hello world", b"\0\xff" * 40):
        assert pure.pae("application/x", payload) == envelope.pae("application/x", payload)


def test_runs_on_the_oldest_python_that_it_promises() -> None:
    """Python 3.8 where one is installed; the grammar alone otherwise."""
    source = ROOT / "signing" / "pure.py"
    compile(source.read_text(), str(source), "exec", flags=0x400, _feature_version=8)  # 0x400: ast.PyCF_ONLY_AST
    found = shutil.which("python3.8")
    if found and subprocess.run([found, "-c", ""], check=False).returncode == 0:
        code = (
            f"import sys; sys.path.insert(0, {str(source.parent)!r}); import pure; "
            f"sys.exit(0 if pure.verify({CASES[0]['scheme']!r}, bytes.fromhex({CASES[0]['public']!r}), "
            f"bytes.fromhex({CASES[0]['signature']!r}), b'') else 1)"
        )
        assert subprocess.run([found, "-I", "-c", code], check=False).returncode == 0


def test_high_bits_at_every_border() -> None:
    """FIPS 204 algorithms 36 and 40: r = high * 2 * gamma2 + low (mod q) with low in (-gamma2, gamma2]; only where high
    wraps to 0 may low be -gamma2. The hint moves high by one, away from zero's side of low. No random signature hits
    these borders often enough to tell."""
    q, gamma2 = pure._Q, pure._GAMMA2
    for border in range(0, q + gamma2, gamma2):
        for r in range(max(0, border - 2), min(q, border + 3)):
            high = pure._high_bits(r, False)
            low = (r - high * 2 * gamma2 + q // 2) % q - q // 2
            assert 0 <= high < 16
            assert -gamma2 < low <= gamma2 or (high == 0 and low == -gamma2)
            assert pure._high_bits(r, True) == (high + (1 if low > 0 else -1)) % 16


def test_the_bound_on_z_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIPS 204 algorithm 8, line 13: ||z|| < gamma1 - beta. A bound moved to the largest coefficient of a valid
    signature refuses it, a bound one higher does not."""
    ((key, signature),) = fixed_signer("bound", ("ml-dsa-65",)).sign(b"message")
    rows = [pure._unpack(signature[at : at + 640], 20) for at in range(48, 48 + 5 * 640, 640)]
    largest = max(abs(pure._GAMMA1 - value) for row in rows for value in row)
    for bound, expected in ((largest, False), (largest + 1, True)):
        monkeypatch.setitem(pure._SETS, 65, pure._SETS[65]._replace(beta=pure._GAMMA1 - bound))
        assert pure.mldsa_verify(65, key.raw, signature, b"message") is expected
