"""The draft: the next version of a host's trust, while it waits for the signatures of the root.

    <home>/trust.draft.toml         without a signature yet
    <home>/trust.draft.dsse.json    with some; this file is what is carried to the other root signers

Both at once are what a crash between two writes leaves: the one without signatures is the newer edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from signing.envelope import Envelope, add_signature, decode, encode, sign
from signing.errors import MalformedTrust, TrustConflict
from signing.files import read_bounded, write_atomic
from signing.keys import Signer
from signing.limits import MAX_ENVELOPE_BYTES
from signing.succession import parse
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, encode_document
from signing.trustfile import load_trust, save_trust


@dataclass(frozen=True, slots=True)
class Draft:
    """The files of one home."""

    home: Path

    @property
    def path(self) -> Path:
        return self.home / "trust.draft.dsse.json"

    @property
    def _unsigned(self) -> Path:
        return self.home / "trust.draft.toml"

    def load(self) -> TrustStore | None:
        if self._unsigned.exists():
            return load_trust(self._unsigned)
        return parse(self._read()).store if self.path.exists() else None

    def after(self, base: TrustStore) -> TrustStore | None:
        """The draft, or None; TrustConflict for one that another version has overtaken."""
        draft = self.load()
        if draft is not None and draft.version != base.version + 1:
            raise TrustConflict(
                f"the draft is of version {draft.version}, and version {base.version} counts already",
                hint="see trust show --draft, then sealift trust discard, and make the change again",
            )
        return draft

    def write(self, store: TrustStore) -> None:
        """An edit: signatures that were there were not for this."""
        save_trust(store, self._unsigned)
        self.path.unlink(missing_ok=True)

    def keep(self, envelope: bytes) -> None:
        """With the signatures it has now."""
        write_atomic(self.path, envelope, mode=0o644, replace=True)
        self._unsigned.unlink(missing_ok=True)

    def drop(self) -> bool:
        there = [path for path in (self.path, self._unsigned) if path.exists()]
        for path in there:
            path.unlink(missing_ok=True)
        return bool(there)

    def signed_by(self, signers: Sequence[Signer]) -> bytes:
        """The envelope with these signers' signatures beside those it has. TrustConflict where there is no draft."""
        store = self.load()
        if store is None:
            raise TrustConflict(
                "there is no draft to sign", hint="change something first: sealift trust init, add, revoke, …"
            )
        if not self._unsigned.exists():
            return add_signers(decode(self._read()), signers)
        return encode(sign(TRUST_TYPE, encode_document(store), signers))

    def joined(self, line: bytes) -> bytes | None:
        """The draft with the signatures of both, if `line` carries this very draft; else None."""
        store, back = self.load(), decode(line)
        if store is None or back.payload_type != TRUST_TYPE or back.payload != encode_document(store):
            return None
        made = {signature.keyid: signature for signature in back.signatures}
        if not self._unsigned.exists():
            made |= {signature.keyid: signature for signature in decode(self._read()).signatures}
        return encode(replace(back, signatures=tuple(made[keyid] for keyid in sorted(made))))

    def _read(self) -> bytes:
        return read_bounded(self.path, MAX_ENVELOPE_BYTES, MalformedTrust)


def add_signers(envelope: Envelope, signers: Sequence[Signer]) -> bytes:
    for signer in signers:
        envelope = add_signature(envelope, signer)
    return encode(envelope)
