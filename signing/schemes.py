"""The signature schemes, one row each; nothing outside this file names an algorithm's parameters.

* Raw public keys only, of one exact length. ECDSA points are compressed, so that a key has one spelling.
* ML-DSA is the pure variant with an empty context (FIPS 204, algorithm 2), so any other implementation can check it.
* An unknown scheme is refused by name; there is no default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from signing.errors import MalformedKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """`public_bytes` and `signature_bytes` are exact lengths; ECDSA's DER signature is at most that long."""

    name: str
    post_quantum: bool
    public_bytes: int
    signature_bytes: int
    generate: Callable[[], Any]
    private_type: type
    load_public: Callable[[bytes], Any]
    raw_public: Callable[[Any], bytes]
    sign: Callable[[Any, bytes], bytes]
    check: Callable[[Any, bytes, bytes], None]


def _raw(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes_raw())


def _sign(key: Any, message: bytes) -> bytes:
    return bytes(key.sign(message))


def _check(key: Any, signature: bytes, message: bytes) -> None:
    key.verify(signature, message)


_ECDSA = ec.ECDSA(hashes.SHA384())


def _ec_raw(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def _ec_load(raw: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw)


# This is the order of keys in files and of schemes in text. Lengths: RFC 8032 5.1, FIPS 204 table 2, SEC 1 2.3.3.
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="ed25519", post_quantum=False, public_bytes=32, signature_bytes=64,
            generate=ed25519.Ed25519PrivateKey.generate, private_type=ed25519.Ed25519PrivateKey,
            load_public=ed25519.Ed25519PublicKey.from_public_bytes, raw_public=_raw, sign=_sign, check=_check,
        ),
        Scheme(
            name="ecdsa-p384", post_quantum=False, public_bytes=49, signature_bytes=104,
            generate=lambda: ec.generate_private_key(ec.SECP384R1()), private_type=ec.EllipticCurvePrivateKey,
            load_public=_ec_load, raw_public=_ec_raw,
            sign=lambda key, message: bytes(key.sign(message, _ECDSA)),
            check=lambda key, signature, message: key.verify(signature, message, _ECDSA),
        ),
        Scheme(
            name="ml-dsa-65", post_quantum=True, public_bytes=1952, signature_bytes=3309,
            generate=mldsa.MLDSA65PrivateKey.generate, private_type=mldsa.MLDSA65PrivateKey,
            load_public=mldsa.MLDSA65PublicKey.from_public_bytes, raw_public=_raw, sign=_sign, check=_check,
        ),
        Scheme(
            name="ml-dsa-87", post_quantum=True, public_bytes=2592, signature_bytes=4627,
            generate=mldsa.MLDSA87PrivateKey.generate, private_type=mldsa.MLDSA87PrivateKey,
            load_public=mldsa.MLDSA87PublicKey.from_public_bytes, raw_public=_raw, sign=_sign, check=_check,
        ),
    )
}  # fmt: skip
ORDER: dict[str, int] = {name: index for index, name in enumerate(SCHEMES)}
CNSA2: tuple[str, ...] = ("ecdsa-p384", "ml-dsa-87")  # counts under hybrid too
HYBRID: tuple[str, ...] = ("ed25519", "ml-dsa-65")


def scheme_named(name: str) -> Scheme:
    """Raises MalformedKey for a scheme outside the table."""
    found = SCHEMES.get(name)
    if found is None:
        raise MalformedKey(f"unknown signature scheme {name[:40]!r}", hint=f"known schemes: {', '.join(SCHEMES)}")
    return found


def scheme_of(private: object) -> Scheme:
    """The row that a loaded private key belongs to; MalformedKey for any other algorithm or curve. A key that says its
    scheme itself (token.TokenKey) signs and names its public half by its own means."""
    if isinstance(named := getattr(private, "scheme", None), str):
        return replace(
            scheme_named(named),
            sign=lambda key, message: bytes(key.sign(message)),
            raw_public=lambda key: bytes(key.place.public.raw),
        )
    for scheme in SCHEMES.values():
        if isinstance(private, scheme.private_type):
            if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name != "secp384r1":
                break
            return scheme
    raise MalformedKey("the file holds a private key of an algorithm that sealift does not sign with")


def load_public(scheme: Scheme, raw: bytes) -> Any:
    """The library's key object for raw bytes; MalformedKey when they are no key of this scheme."""
    if len(raw) != scheme.public_bytes:
        raise MalformedKey(f"a public key of {scheme.name} has {scheme.public_bytes} bytes, found {len(raw)}")
    try:
        return scheme.load_public(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedKey(f"these {len(raw)} bytes are no public key of {scheme.name}") from error


def verifies(scheme: Scheme, public: Any, signature: bytes, message: bytes) -> bool:
    """Whether the signature is valid; any malformed signature is simply not."""
    if len(signature) > scheme.signature_bytes:
        return False
    try:
        scheme.check(public, signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
