"""Signers with keys that are the same in every run: made from a name, so never to be trusted outside the tests."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from signing.keys import Signer
from signing.schemes import HYBRID


@functools.cache
def fixed_signer(name: str, schemes: tuple[str, ...] = HYBRID) -> Signer:
    """The keys depend on the name and the scheme alone."""
    return Signer(name, tuple(_private(scheme, f"sealift test key {name} {scheme}") for scheme in schemes))


def _private(scheme: str, label: str) -> Any:
    seed = hashlib.sha256(label.encode()).digest()
    if scheme == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    if scheme == "ecdsa-p384":
        return ec.derive_private_key(int.from_bytes(seed, "big"), ec.SECP384R1())
    if scheme == "ml-dsa-65":
        return mldsa.MLDSA65PrivateKey.from_seed_bytes(seed)
    assert scheme == "ml-dsa-87", scheme
    return mldsa.MLDSA87PrivateKey.from_seed_bytes(seed)
