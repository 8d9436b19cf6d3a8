"""Private keys at rest: standard PKCS#8 PEM blocks, one per key, readable by openssl.

* Encrypted blocks are PBES2 (RFC 8018): scrypt (RFC 7914) makes an AES-256-CBC key; each block has its own salt and IV.
  The library's own writer offers PBKDF2 with 2048 rounds only, so the few DER lines are here; reading is the library's.
* A block that needs more scrypt memory than `_MAX_SCRYPT_BYTES` is never written; openssl's own limit is 32 MiB.
* CBC is not authenticated: the caller compares the public half with the `.pub` file.
"""

from __future__ import annotations

import base64
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from signing.errors import MalformedKey, WrongPassphrase
from signing.limits import MAX_PRIVATE_FILE_BYTES

_PLAIN, _ENCRYPTED = "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
_BLOCK = re.compile(rb"-----BEGIN ((?:ENCRYPTED )?PRIVATE KEY)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n")
_MAX_SCRYPT_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """scrypt's parameters; memory is 128 * n * r bytes."""

    n: int
    r: int
    p: int

    def __post_init__(self) -> None:
        assert 128 * self.n * self.r < _MAX_SCRYPT_BYTES, "openssl would refuse to read the key"


# OWASP's password storage sheet lists (2^14, 8, 5) beside (2^17, 8, 1) and 600,000 rounds of PBKDF2-SHA256 as equally
# costly; of these it is the memory-hard one that openssl reads. About 0.2 s per key.
DEFAULT_COST = Cost(n=1 << 14, r=8, p=5)

# Object identifiers, DER content bytes: PBES2, scrypt (RFC 7914 section 7), AES-256-CBC.
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES256_CBC = bytes.fromhex("60864801650304012a")


def write_private(keys: Sequence[Any], passphrase: bytes | None, cost: Cost = DEFAULT_COST) -> bytes:
    """The text of a private key file; not encrypted when the passphrase is None."""
    blocks = []
    for key in keys:
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        blocks.append(_pem(_PLAIN, der) if passphrase is None else _pem(_ENCRYPTED, _encrypt(der, passphrase, cost)))
    return b"".join(blocks)


def is_encrypted(data: bytes) -> bool:
    return f"BEGIN {_ENCRYPTED}".encode() in data


def read_private(data: bytes, passphrase: bytes | None) -> tuple[Any, ...]:
    """The library's key objects in file order. Raises MalformedKey or WrongPassphrase; a passphrase that is not needed
    is ignored."""
    if len(data) > MAX_PRIVATE_FILE_BYTES:
        raise MalformedKey(f"a private key file has at most {MAX_PRIVATE_FILE_BYTES} bytes, found {len(data)}")
    keys, at = [], 0
    while at < len(data):
        block = _BLOCK.match(data, at)
        if block is None:
            raise MalformedKey(
                f"byte {at}: expected a PKCS#8 PEM block (BEGIN PRIVATE KEY or BEGIN ENCRYPTED PRIVATE KEY)"
            )
        encrypted = block[1].decode() == _ENCRYPTED
        keys.append(_read_block(block[0], passphrase if encrypted else None, encrypted))
        at = block.end()
    if not keys:
        raise MalformedKey("the private key file is empty")
    return tuple(keys)


def _read_block(pem: bytes, passphrase: bytes | None, encrypted: bool) -> Any:
    if encrypted and not passphrase:
        raise WrongPassphrase("the key is encrypted and no passphrase was given")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns of algorithms that scheme_of refuses by name
            return serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, MemoryError) as error:
        if encrypted:
            raise WrongPassphrase("the passphrase does not open the key", hint="or the key file is damaged") from error
        raise MalformedKey("a PEM block that holds no private key") from error


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]  # RFC 7468 section 2
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _encrypt(der: bytes, passphrase: bytes, cost: Cost) -> bytes:
    """EncryptedPrivateKeyInfo, RFC 5958 section 3."""
    salt, iv = os.urandom(16), os.urandom(16)
    key = Scrypt(salt=salt, length=32, n=cost.n, r=cost.r, p=cost.p).derive(passphrase)
    padder = padding.PKCS7(128).padder()
    padded = padder.update(der) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    kdf = _seq(_oid(_SCRYPT), _seq(_octets(salt), _int(cost.n), _int(cost.r), _int(cost.p), _int(32)))
    scheme = _seq(_oid(_AES256_CBC), _octets(iv))
    return _seq(_seq(_oid(_PBES2), _seq(kdf, scheme)), _octets(ciphertext))


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element, X.690 section 8.1."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _seq(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _oid(content: bytes) -> bytes:
    return _tlv(0x06, content)


def _octets(content: bytes) -> bytes:
    return _tlv(0x04, content)


def _int(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
