"""Keys in a PKCS#11 token: the private half never leaves it. Needs the optional package python-pkcs11 (extra `pkcs11`).

A signer of this machine may have its classical key, ECDSA P-384 or Ed25519, in a token, beside its ML-DSA key in a file
(few tokens know ML-DSA). `<home>/keys/NAME.token` says where:

    sealift_token = 1
    module = "/usr/lib/softhsm/libsofthsm2.so"      the token's own library, loaded into this process
    token = "office"                                 label of the token
    key = "alice"                                    label of the key in it
    scheme = "ecdsa-p384"
    public = "<base64 of the raw public key>"        what a signature is checked with before it is used

* The PIN comes from SEALIFT_PIN_FILE, SEALIFT_PIN or a prompt; it is in no file of ours, no argument and no message.
* Only mechanisms that every token has are used: CKM_ECDSA over a SHA-384 that is computed here, and CKM_EDDSA.
* Every signature is verified here with the public key; a token that signs with another key is refused.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from signing.errors import MalformedKey, PassphraseNeeded, TokenUnavailable, UnknownSigner, WrongPassphrase
from signing.keys import PublicKey, decode_base64
from signing.passphrase import find_passphrase
from signing.schemes import load_public, scheme_named

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
SCHEMES = ("ed25519", "ecdsa-p384")
MAX_TEXT = 1024  # characters of one field
_FIELDS = ("module", "token", "key", "scheme", "public")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPlace:
    """Where a key is, and which it is."""

    module: str
    token: str
    key: str
    public: PublicKey

    def encode(self) -> bytes:
        fields = {"module": self.module, "token": self.token, "key": self.key, "scheme": self.public.scheme}
        public = base64.b64encode(self.public.raw).decode()
        return tomli_w.dumps({"sealift_token": FORMAT, **fields, "public": public}).encode()

    @classmethod
    def parse(cls, data: bytes) -> TokenPlace:
        """Raises MalformedKey."""
        try:
            found: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
        except ValueError as error:
            raise MalformedKey("a .token file is TOML text") from error
        if set(found) != {"sealift_token", *_FIELDS} or found["sealift_token"] != FORMAT:
            raise MalformedKey(f"a .token file has sealift_token = {FORMAT} and {', '.join(_FIELDS)}")
        for name in _FIELDS:
            if type(found[name]) is not str or not 0 < len(found[name]) <= MAX_TEXT:
                raise MalformedKey(f"{name}: expected text")
        if found["scheme"] not in SCHEMES:
            raise MalformedKey(f"scheme: a token's key is one of {', '.join(SCHEMES)}")
        public = PublicKey(found["scheme"], decode_base64(found["public"], "public"))
        return cls(module=found["module"], token=found["token"], key=found["key"], public=public)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenKey:
    """A private key that signs in its token. Printing one shows no secret."""

    place: TokenPlace
    pin: bytes = field(repr=False)

    @property
    def scheme(self) -> str:
        return self.place.public.scheme

    def sign(self, message: bytes) -> bytes:
        """Raises TokenUnavailable, WrongPassphrase for the PIN, UnknownSigner for a key that is not there."""
        pkcs11, place = _pkcs11(), self.place
        with _session(place.module, place.token, self.pin) as session:
            found = _one(session, pkcs11.ObjectClass.PRIVATE_KEY, place.key, place.token)
            if self.scheme == "ed25519":
                signature = bytes(found.sign(message, mechanism=pkcs11.Mechanism.EDDSA))
            else:
                raw = bytes(found.sign(hashlib.sha384(message).digest(), mechanism=pkcs11.Mechanism.ECDSA))
                half = len(raw) // 2
                signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
        if not place.public.verify(signature, message):
            raise MalformedKey(
                f"the key {place.key!r} in the token {place.token!r} is not the one that was added",
                hint="sealift key add-token NAME --force takes the one that is there now",
            )
        return signature


def find_pin(token: str, *, file: Path | None = None, ask: Callable[[str], str] | None = None) -> bytes:
    """From `file`, SEALIFT_PIN_FILE, SEALIFT_PIN, or a prompt."""
    named = os.environ.get("SEALIFT_PIN_FILE", "").strip()
    try:
        return find_passphrase(
            f"the token {token}", file=file or (Path(named) if named else None), ask=ask, variable="SEALIFT_PIN"
        )
    except PassphraseNeeded:
        raise PassphraseNeeded(
            f"the token {token} needs its PIN and there is no terminal to ask on",
            hint="set SEALIFT_PIN_FILE, the name of a one-line file, or SEALIFT_PIN",
        ) from None


def read_public(module: str, token: str, label: str, pin: bytes) -> PublicKey:
    """The public half of a key in a token: Ed25519 or P-384. Raises what `TokenKey.sign` raises, and MalformedKey."""
    pkcs11 = _pkcs11()
    with _session(module, token, pin) as session:
        found = _one(session, pkcs11.ObjectClass.PUBLIC_KEY, label, token)
        kind = found.key_type
        is_curve = kind in (pkcs11.KeyType.EC, pkcs11.KeyType.EC_EDWARDS)
        point = bytes(found[pkcs11.Attribute.EC_POINT]) if is_curve else b""
    if kind == pkcs11.KeyType.EC_EDWARDS:
        return PublicKey("ed25519", _unwrapped(point, 32))
    if kind != pkcs11.KeyType.EC:
        raise MalformedKey(f"the key {label!r} is neither Ed25519 nor ECDSA", hint=f"usable: {', '.join(SCHEMES)}")
    row = scheme_named("ecdsa-p384")
    raw = _unwrapped(point, 97)
    compressed = bytes([2 + (raw[-1] & 1)]) + raw[1:49]
    load_public(row, compressed)  # refuses other curves: their points have other lengths or lie elsewhere
    return PublicKey("ecdsa-p384", compressed)


def _unwrapped(point: bytes, size: int) -> bytes:
    """CKA_EC_POINT is a DER octet string around the point (PKCS#11 3.0, 6.3.3); some tokens leave it bare."""
    if len(point) == size + 2 and point[:2] == bytes([4, size]):
        return point[2:]
    if len(point) != size:
        raise MalformedKey(f"a public key of {len(point)} bytes in the token", hint=f"usable: {', '.join(SCHEMES)}")
    return point


def _pkcs11() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise TokenUnavailable("keys in tokens need python-pkcs11", hint="pip install 'sealift[pkcs11]'") from error
    return pkcs11


@contextmanager
def _session(module: str, token: str, pin: bytes) -> Iterator[Any]:
    """The library's errors become ours; no message of theirs is passed on that could hold a secret."""
    pkcs11 = _pkcs11()
    try:
        library = pkcs11.lib(module)
    except pkcs11.exceptions.PKCS11Error:
        raise TokenUnavailable(
            f"{module} cannot be loaded as a PKCS#11 library",
            hint="install the token's software; sealift key add-token NAME --force takes another --module",
        ) from None
    try:
        with library.get_token(token_label=token).open(user_pin=pin.decode("utf-8", "replace")) as session:
            yield session
    except (pkcs11.exceptions.PinIncorrect, pkcs11.exceptions.PinLenRange, pkcs11.exceptions.PinInvalid):
        raise WrongPassphrase(
            f"the PIN does not open the token {token!r}", hint="tokens lock after a few wrong ones"
        ) from None
    except pkcs11.exceptions.PinLocked:
        raise TokenUnavailable(f"the token {token!r} is locked", hint="its officer can unlock it") from None
    except pkcs11.exceptions.NoSuchToken:
        raise TokenUnavailable(f"no token {token!r} is in place", hint="insert it; its label must be this") from None
    except pkcs11.exceptions.PKCS11Error as error:
        raise TokenUnavailable(f"the token {token!r} by {module}: {type(error).__name__}") from None


def _one(session: Any, kind: Any, label: str, token: str) -> Any:
    pkcs11 = _pkcs11()
    try:
        return session.get_key(object_class=kind, label=label)
    except pkcs11.exceptions.NoSuchKey:
        raise UnknownSigner(f"the token {token!r} has no {kind.name.lower()} labelled {label!r}") from None
    except pkcs11.exceptions.MultipleObjectsReturned:
        raise UnknownSigner(f"the token {token!r} has several keys labelled {label!r}") from None
