"""Trust that a bundle carries: the chain of documents that a root signed, in a file beside the volumes.

    <stem>.trust.jsonl    one signed document a line, as `sealift trust export` writes them

It is taken before the bundle is judged, and whatever becomes of the bundle: a new publisher counts for the very bundle
that brings him, and a revocation arrives even when every model is refused. It proves itself by the root's signatures
alone (signing.succession), so no statement names it; without a root of this host it is not looked at.
A file that this host's root did not sign refuses the bundle: it is damaged, forged, or of another root.
Normative text: docs/formats/trust.md, section 6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import BundleRefused, medium_errors
from bundler.medium import VOLUME, VolumeReader, file_names
from signing.changes import changes
from signing.errors import NotTrusted, SigningError
from signing.hosttrust import HostTrust
from signing.limits import MAX_CHAIN_BYTES
from signing.trust import TrustStore

SUFFIX = ".trust.jsonl"
MAX_FILES = 32
NAME = re.compile(r"(?P<stem>[a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8})\.trust\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """`trust` is what to judge by now. `notes` say which versions were taken and what each changed."""

    trust: TrustStore
    notes: tuple[str, ...] = ()


def write(folder: Path, stem: str, chain: bytes) -> Path:
    from bundler.writing import sync_medium, write_file

    path = folder / (stem + SUFFIX)
    with medium_errors(path):
        write_file(path, chain)
    sync_medium(folder)
    return path


def renew(path: Path, host: HostTrust, profile: str, *, keep: bool) -> Renewed:
    """`path`: as of a bundle, a folder or one volume. `keep` false: nothing is written, for a look. Raises NotTrusted
    or BundleRefused for a file that the root of this host did not sign."""
    return _renew(_files(path), host, profile, keep=keep)


def renew_from(file: Path, host: HostTrust, profile: str) -> Renewed:
    """From one file, for those that arrive alone: what counts is kept. Raises what `renew` raises."""
    return _renew([file], host, profile, keep=True)


def _renew(files: Sequence[Path], host: HostTrust, profile: str, *, keep: bool) -> Renewed:
    trust, notes = host.load(), list[str]()
    for file in files:
        if trust.role("root") is None:
            notes.append(f"not checked: {file.name}: this host has no root that could have signed it")
            continue
        for store in _update(file, host, profile, keep):
            said = "; ".join(changes(trust, store))
            notes.append(f"trust version {store.version} {'counts from now on' if keep else 'would count'}: {said}")
            trust = store
    return Renewed(trust=trust, notes=tuple(notes))


def _files(path: Path) -> list[Path]:
    with medium_errors(path):
        folder = path.parent if path.is_file() else path
    wanted = VOLUME.fullmatch(path.name) if folder != path else None
    found = [match for match in map(NAME.fullmatch, file_names(folder)) if match]
    files = [folder / match.group() for match in found if wanted is None or match["stem"] == wanted["stem"]]
    if len(files) > MAX_FILES:
        raise BundleRefused(f"{folder}: {len(files)} files of carried trust; at most {MAX_FILES} are read")
    return files


def _update(file: Path, host: HostTrust, profile: str, keep: bool) -> list[TrustStore]:
    with VolumeReader(file) as reader:
        if reader.size > MAX_CHAIN_BYTES:
            raise BundleRefused(f"{file.name}: {reader.size:,} bytes; at most {MAX_CHAIN_BYTES:,} are read")
        data = reader.read(reader.size, "carried trust")
    away = f"take {file.name} away to judge the bundle by the trust that is here"
    try:
        return host.update(data, profile, keep=keep)
    except NotTrusted as error:
        raise NotTrusted(f"{file.name}: {error}", verdict=error.verdict, hint=away) from error
    except SigningError as error:
        raise BundleRefused(f"{file.name}: {error}", hint=away) from error
