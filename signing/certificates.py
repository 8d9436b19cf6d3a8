"""X.509 for a signer's ECDSA P-384 key: two or three certificates, from the signer's own to a CA, the anchor.

Trust names signer, key and chain together; a chain lets nobody in, it only takes a key away once it is no longer
vouched for. Strict on purpose, a small part of RFC 5280:

* two or three certificates, each issued by the next (names and signature), the last being the anchor
* version 3, P-384 keys, signatures by ECDSA with SHA-384, throughout
* the signer's: its key is the signer's; keyUsage with digitalSignature; no CA; an extendedKeyUsage allows code signing
* the others: basicConstraints with CA, its path length kept; keyUsage with keyCertSign
* nameConstraints anywhere, and any critical extension but these three, are refused: they would have to be understood

Absent: revocation lists and OCSP, because nothing may be fetched; `trust revoke` does it. Absent: the web's anchors and
names, so `cryptography.x509.verification`, which is made for TLS servers and clients, does not fit.
Time is judged by `judge`: the time that was signed and today both lie in the validity of every certificate.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from signing.errors import MalformedTrust
from signing.keys import PublicSigner
from signing.limits import MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES

_KNOWN = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)


def read_pem(data: bytes) -> tuple[bytes, ...]:
    """The certificates of PEM text, as DER, in the order of the file."""
    with _readable("the certificates"):
        found = x509.load_pem_x509_certificates(data)
    return tuple(one.public_bytes(serialization.Encoding.DER) for one in found)


def check_chain(chain: Sequence[bytes], signer: PublicSigner) -> None:
    """Raises MalformedTrust unless the chain is one as above, for the signer's ECDSA P-384 key. No clock."""
    if not 2 <= len(chain) <= MAX_CERTIFICATES:
        raise MalformedTrust(f"x509: expected 2 to {MAX_CERTIFICATES} certificates, found {len(chain)}")
    certificates = [_load(der, f"x509[{index}]") for index, der in enumerate(chain)]
    for index, found in enumerate(certificates):
        with _readable(f"x509[{index}]"):
            _check_one(found, f"x509[{index}]", below=index - 1)
    for index, (found, issuer) in enumerate(pairwise(certificates)):
        try:
            found.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise MalformedTrust(f"x509[{index}]: was not issued by x509[{index + 1}]") from error
    if _point(certificates[0]) not in [key.raw for key in signer.keys if key.scheme == "ecdsa-p384"]:
        raise MalformedTrust(f"x509[0]: is not for the ECDSA P-384 key of {signer.name}")


def validity(chain: Sequence[bytes]) -> tuple[datetime, datetime]:
    """The time in which every certificate is valid: first and last moment."""
    found = [_load(der, "x509") for der in chain]
    return max(one.not_valid_before_utc for one in found), min(one.not_valid_after_utc for one in found)


def problem(chain: Sequence[bytes], moments: Sequence[date]) -> str | None:
    """Why the chain does not hold at all of these moments (days for dates), in words; None when it does."""
    if not moments:
        return "no time is known to judge its certificates by"
    start, end = validity(chain)
    for moment in moments:
        day = not isinstance(moment, datetime)
        first, last = (start.date(), end.date()) if day else (start, end)
        if not first <= moment <= last:
            return f"its certificates hold from {start.date()} to {end.date()}, not on {moment:%Y-%m-%d}"
    return None


def describe(chain: Sequence[bytes]) -> list[dict[str, str]]:
    """For people: subjects as RFC 4514 writes them, with what a terminal would obey taken out."""
    loaded = [_load(der, "x509") for der in chain]
    return [
        {
            "subject": "".join(c if c.isprintable() else "?" for c in one.subject.rfc4514_string())[:200],
            "until": one.not_valid_after_utc.date().isoformat(),
            "sha256": one.fingerprint(hashes.SHA256()).hex(),
        }
        for one in loaded
    ]


def _load(der: bytes, where: str) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise MalformedTrust(f"{where}: at most {MAX_CERTIFICATE_BYTES} bytes, found {len(der)}")
    with _readable(where):
        found = x509.load_der_x509_certificate(der)
        if found.public_bytes(serialization.Encoding.DER) != der:
            raise MalformedTrust(f"{where}: not in DER")
        return found


def _check_one(found: x509.Certificate, where: str, *, below: int) -> None:
    """`below`: how many CAs lie between this one and the signer's certificate; -1 for that one itself."""
    if found.version != x509.Version.v3 or found.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise MalformedTrust(f"{where}: expected version 3, signed by ECDSA with SHA-384")
    _point(found, where)
    extensions = found.extensions
    for one in extensions:
        if isinstance(one.value, x509.NameConstraints) or (one.critical and not isinstance(one.value, _KNOWN)):
            raise MalformedTrust(f"{where}: the extension {one.oid.dotted_string} is not supported")
    usage = _find(extensions, x509.KeyUsage)
    basic = _find(extensions, x509.BasicConstraints)
    if below >= 0:
        if basic is None or not basic.ca or usage is None or not usage.key_cert_sign:
            raise MalformedTrust(f"{where}: is no CA that may sign certificates")
        if basic.path_length is not None and basic.path_length < below:
            raise MalformedTrust(f"{where}: its path length {basic.path_length} is exceeded")
        return
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if (basic is not None and basic.ca) or usage is None or not usage.digital_signature:
        raise MalformedTrust(f"{where}: is not for signatures: its keyUsage must say digitalSignature, and no CA")
    if purposes is not None and ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise MalformedTrust(f"{where}: its extendedKeyUsage does not allow code signing")


def _find(extensions: x509.Extensions, kind: type[x509.ExtensionType]) -> Any:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _point(found: x509.Certificate, where: str = "x509") -> bytes:
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise MalformedTrust(f"{where}: expected a P-384 key")
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forms that the library will refuse one day
            yield
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise MalformedTrust(f"{where}: no certificate that can be read") from error
