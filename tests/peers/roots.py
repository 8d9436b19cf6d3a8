"""Roots and the chains of trust documents that they sign, for tests. Keys are Ed25519 only, so that many are quick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from signing.envelope import encode, sign
from signing.keys import Signer
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, encode_document
from tests.peers.signers import fixed_signer

ED = ("ed25519",)


def one(name: str) -> Signer:
    return fixed_signer(name, ED)


def rooted(names: Iterable[str], threshold: int = 1, *, version: int = 1, publishers: Iterable[str] = ()) -> TrustStore:
    store = TrustStore.empty()
    for name in names:
        store = store.add(one(name).public, ["root"])
    for name in publishers:
        store = store.add(one(name).public, ["publisher"])
    # as text, so that thresholds nobody can meet are possible
    text = store.encode().decode().replace("[roles.root]\nthreshold = 1", f"[roles.root]\nthreshold = {threshold}")
    return replace(TrustStore.parse(text.encode()), version=version)


def signed(store: TrustStore, by: Sequence[str]) -> bytes:
    return encode(sign(TRUST_TYPE, encode_document(store), [one(name) for name in by]))
