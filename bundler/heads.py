"""Statements as the heads of volumes carry them, before who signed them is asked.

A statement is bound to its own id by a hash, and the id is in the names of the files; its signatures are bound to
nothing here. So where copies differ the most common one counts, and `verify` and `import` judge it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bundler import layout, parts
from bundler.errors import BundleRefused, BundlerError, MediumUnavailable, VolumeMissing, VolumeMixed
from bundler.medium import VOLUME, file_names, read_start
from manifests.errors import ManifestsError
from manifests.statement import Statement
from signing import envelope as dsse
from signing.errors import SigningError


def find_statement(folder: Path, stem: str, known: Sequence[bytes] = ()) -> tuple[Statement, bytes]:
    """A well-formed one and its envelope: the one that most volumes carry, for what is repaired gets it, and a damaged
    or forged signature in one head must not be spread over sound ones. `known`: envelopes that parity volumes carry;
    of as many copies these are taken. Parts are asked where there is none else. Raises BundleRefused, and
    MediumUnavailable where all that is here cannot be read."""
    names = file_names(folder)
    problems: list[BundlerError] = []
    for pattern, others in ((VOLUME, known), (parts.NAME, ())):
        mine = [name for name in names if (match := pattern.fullmatch(name)) and match["stem"] == stem]
        found = _most(folder, mine, stem, others, problems)
        if found:
            return found
    if not problems:
        raise VolumeMissing(f"{folder}: no volume of {stem} here")
    text = f"{stem}: no volume's statement can be read: {'; '.join(map(str, problems[:4]))}"
    if all(isinstance(problem, MediumUnavailable) for problem in problems):
        raise MediumUnavailable(text, hint=problems[0].hint)
    raise BundleRefused(text)


def _most(
    folder: Path, names: Sequence[str], stem: str, known: Sequence[bytes], problems: list[BundlerError]
) -> tuple[Statement, bytes] | None:
    """Of the sound statements, `known` and in these files, the one with the most copies; of as many, the first."""
    copies: dict[bytes, int] = {}
    best: tuple[Statement, bytes] | None = None
    most = 0
    sources: list[bytes | Path] = [*known, *(folder / name for name in names)]
    for source in sources:
        try:
            envelope = source if isinstance(source, bytes) else _envelope(source)
            key = hashlib.sha256(envelope).digest()
            copies[key] = copies.get(key, 0) + 1
            if copies[key] > most:
                if best is None or best[1] != envelope:
                    best = decode_statement(envelope, stem), envelope
                most = copies[key]
        except (BundleRefused, MediumUnavailable) as error:
            problems.append(error)
    return best


def _envelope(path: Path) -> bytes:
    return read_start(path)[1] if VOLUME.fullmatch(path.name) else parts.open_part(path)[1]


def decode_statement(envelope: bytes, stem: str | None = None) -> Statement:
    """Bound to its own id by a hash; who signed it is not asked. Raises BundleRefused."""
    try:
        statement = Statement.decode(dsse.decode(envelope).payload)
    except (ManifestsError, SigningError) as error:
        raise BundleRefused(f"the statement is not sound: {error}") from None
    layout.check(statement)
    if stem is not None and layout.stem(statement) != stem:
        raise VolumeMixed(f"volumes named {stem} carry the statement of {layout.stem(statement)}: renamed")
    return statement
