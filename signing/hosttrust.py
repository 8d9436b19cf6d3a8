"""The trust of this host, on disk.

    <home>/trust.toml               what counts now; a person may read it
    <home>/trust/0000000007.dsse.json   every signed version that was accepted here; only where a root was set
    <home>/trust.draft.*            the next version, waiting for signatures (draft)

Without a root trust.toml is simply edited. Once a root was set, a change makes a draft, and the draft counts when the
root has signed it (succession). Then trust.toml is a copy for people, and these hold at every load:
* the newest accepted document is signed by the root it names, and trust.toml says the same as it, or as an earlier
  accepted one (a crash between two writes): the newest counts. Anything else was edited by hand and is refused;
* trust.toml without a root beside accepted documents, or with a root and without them, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from signing.draft import Draft
from signing.errors import KeyFileUnavailable, MalformedTrust, NotTrusted, SigningError, TrustConflict
from signing.files import home, locked, read_bounded, write_atomic
from signing.keys import Signer
from signing.limits import MAX_CHAIN_BYTES, MAX_ENVELOPE_BYTES
from signing.succession import (
    ROOT,
    Document,
    advance,
    first,
    join_chain,
    parse,
    refuse_lost_revocations,
    root_fingerprint,
    split_chain,
    successor,
)
from signing.trust import TrustStore
from signing.trustfile import encode_trust, load_trust, save_trust

_VERSION = re.compile(r"([0-9]{10})\.dsse\.json")
ANY = "any"  # what was accepted once is not judged by a stricter profile later


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """After a change or a signature. `pending`: it is a draft that the root must sign."""

    store: TrustStore
    pending: bool
    verdict: NotTrusted | None = None  # what a draft still lacks


@dataclass(frozen=True, slots=True)
class HostTrust:
    """The files of one home."""

    home: Path

    @classmethod
    def here(cls) -> HostTrust:
        return cls(home())

    @property
    def path(self) -> Path:
        return self.home / "trust.toml"

    @property
    def draft(self) -> Draft:
        return Draft(self.home)

    # -- reading

    def load(self) -> TrustStore:
        """What this host believes. Raises MalformedTrust for anything that does not agree with itself."""
        document = self._newest()
        return document.store if document else self._load_unsigned()

    def accepted(self) -> dict[int, Path]:
        """The signed versions that are kept here, ascending."""
        try:
            found = sorted(path.name for path in (self.home / "trust").iterdir())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise KeyFileUnavailable(f"cannot list {self.home / 'trust'}: {error.strerror or error}") from error
        matches = [match for match in map(_VERSION.fullmatch, found) if match]
        return {int(match[1]): self.home / "trust" / match[0] for match in matches}

    def _load_unsigned(self) -> TrustStore:
        store = load_trust(self.path)
        if store.role(ROOT) is not None:
            raise MalformedTrust(
                f"{self.path} names a root, but no document that it signed was accepted here",
                hint="sealift trust import FILE takes a signed one; sealift trust init sets a root",
            )
        return store

    def _newest(self) -> Document | None:
        """The newest accepted document, after trust.toml was found to agree; None without a root."""
        paths = self.accepted()
        if not paths:
            return None
        version, path = max(paths.items())
        try:
            newest = first(_read(path), ANY)
        except SigningError as error:
            raise MalformedTrust(
                f"{path}: {error}", hint="restore it from a backup, or take the chain of another host"
            ) from error
        if newest.store.version != version:
            raise MalformedTrust(f"{path} holds version {newest.store.version}")
        copy = load_trust(self.path)
        if copy != newest.store and not self._is_earlier(copy, paths):
            raise MalformedTrust(
                f"{self.path} is not what its root signed as version {version}: edited by hand?",
                hint=f"move {self.path} away to return to the signed version; change it with sealift trust",
            )
        return newest

    def _is_earlier(self, copy: TrustStore, paths: dict[int, Path]) -> bool:
        """An absent copy too: then the signed document is all there is."""
        if copy == TrustStore.empty() and not self.path.exists():
            return True
        if copy.role(ROOT) is None and copy.version < min(paths):
            return True  # the unsigned file from before the root was set
        return copy.version in paths and parse(_read(paths[copy.version])).store == copy

    def chain(self, since: int = 0) -> bytes:
        """The accepted documents after version `since`, for another host. Raises TrustConflict without any."""
        paths = {version: path for version, path in self.accepted().items() if version > since}
        if not paths:
            raise TrustConflict(
                "there is no signed trust document to export",
                hint="sealift trust init sets a root, whose signed documents can travel",
            )
        return join_chain([_read(path) for _, path in sorted(paths.items())])

    # -- changing

    def change(self, change: Callable[[TrustStore], TrustStore]) -> Changed:
        """One edit: of trust.toml, or with a root of the draft, whose signatures it then loses."""
        with locked(self.path):
            current = self._newest()
            draft = self.draft.after(current.store if current else self._load_unsigned())
            if current is None and draft is None:
                store = change(self._load_unsigned())
                if store.role(ROOT) is not None:
                    raise TrustConflict(
                        "a root is set by documents that it signs", hint="sealift trust init --root NAME.pub"
                    )
                save_trust(store, self.path)
                return Changed(store=store, pending=False)
            base = current.store if current else self._load_unsigned()
            store = replace(change(draft or base), version=base.version + 1)
            if store.role(ROOT) is None:
                raise TrustConflict("nobody would be root", hint="sealift trust discard gives the draft up")
            self.draft.write(store)
        return Changed(store=store, pending=True)

    def begin(self, change: Callable[[TrustStore], TrustStore]) -> Changed:
        """A draft that sets the first root. TrustConflict where there is one."""
        with locked(self.path):
            if self._newest() is not None:
                raise TrustConflict("a root is set already", hint="sealift trust add, threshold, … change it")
            base = self._load_unsigned()
            store = replace(change(base), version=base.version + 1)
            self.draft.write(store)
        return Changed(store=store, pending=True)

    def discard(self) -> bool:
        with locked(self.path):
            return self.draft.drop()

    def sign(self, signers: Sequence[Signer], profile: str) -> Changed:
        """Adds signatures to the draft; when that is enough, it is the trust of this host from then on."""
        with locked(self.path):
            self.draft.after(self.load())
            return self._settle(self.draft.signed_by(signers), profile)

    def _settle(self, envelope: bytes, profile: str) -> Changed:
        """The draft with these signatures: accepted, or kept until it has enough."""
        try:
            document = self._judge(self._newest(), envelope, profile)
        except NotTrusted as error:
            if any(finding.status == "bad" for finding in error.verdict.signatures):
                raise  # a wrong signature is never kept: it would spoil the draft for good
            self.draft.keep(envelope)
            return Changed(store=parse(envelope).store, pending=True, verdict=error)
        self._accept([document])
        self.draft.drop()
        return Changed(store=document.store, pending=False)

    def update(self, data: bytes, profile: str, *, keep: bool = True, own_draft: bool = False) -> list[TrustStore]:
        """The versions of a chain that are new here, in order; they count from now on, or with `keep` false would.
        `own_draft`: the draft of this host, come back with signatures from elsewhere, joins those it has; NotTrusted
        if that is still not enough. A medium must not add signatures to it unasked.
        Raises what `succession.advance` raises, and TrustConflict where no root was set."""
        with locked(self.path) if keep else nullcontext():
            lines = split_chain(data)
            if own_draft and len(lines) == 1 and (returned := self.draft.joined(lines[0])):
                made = self._settle(returned, profile)
                if made.verdict is not None:
                    raise made.verdict
                return [made.store]
            current = self._newest()
            if current is None:
                raise TrustConflict(
                    "this host has no root that could have signed a trust document",
                    hint="sealift trust import FILE --root FINGERPRINT takes its root over",
                )
            known = {version: _read(path) for version, path in self.accepted().items()}
            found = advance(current, known, lines, profile)
            if keep and found:
                self._accept(found)
        return [document.store for document in found]

    def adopt(self, data: bytes, fingerprint: str, profile: str) -> TrustStore:
        """The newest document of a chain becomes the trust of a host that had no root. Its root is the one that a
        person compared, or TrustConflict says which it is."""
        with locked(self.path):
            if self._newest() is not None:
                raise TrustConflict("a root is set already", hint="leave --root away: an update is signed by that root")
            document = first(split_chain(data)[-1], profile)
            found = root_fingerprint(document.store)
            if fingerprint.replace(" ", "").lower() != found.replace(" ", ""):
                raise TrustConflict(
                    f"the root of this document has the fingerprint {found}",
                    hint=f"compare it with its owners by another way, then: --root '{found}'",
                )
            refuse_lost_revocations(self._load_unsigned(), document.store)
            self._accept([document])
            self.draft.drop()
        return document.store

    def _judge(self, current: Document | None, envelope: bytes, profile: str) -> Document:
        if current is not None:
            return successor(current.store, envelope, profile)
        found = first(envelope, profile)
        base = self._load_unsigned()
        if found.store.version != base.version + 1:
            raise TrustConflict("trust.toml changed since the draft was made", hint="sealift trust discard, then init")
        refuse_lost_revocations(base, found.store)
        return found

    def _accept(self, documents: Sequence[Document]) -> None:
        """The signed documents first: what is written there counts, whatever trust.toml says after a crash."""
        for document in documents:
            path = self.home / "trust" / f"{document.store.version:010d}.dsse.json"
            write_atomic(path, document.envelope, mode=0o644, replace=True)
        write_atomic(self.path, encode_trust(documents[-1].store), mode=0o644, replace=True)


def read_chain_file(path: Path) -> bytes:
    """A file from anywhere, such as a stick. A missing one is FileNotFoundError."""
    return read_bounded(path, MAX_CHAIN_BYTES, MalformedTrust)


def _read(path: Path) -> bytes:
    return read_bounded(path, MAX_ENVELOPE_BYTES, MalformedTrust)
