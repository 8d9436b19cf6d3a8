"""What a repair in place would replace, and nobody can judge: it is kept beside, as `*.before`.

Who can write one file of a medium may not make others of it go by having them "repaired".
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bundler.errors import BundleRefused, MediumUnavailable
from bundler.expected import Expected
from bundler.heads import decode_statement
from bundler.medium import read_start
from bundler.seal import Keys

BEFORE = ".before"


def is_doubtful(path: Path, expected: Expected, keys: Keys | None) -> bool:
    """Whether what lies at `path` may be better than what takes its place. Its bytes are then judged by a list that
    nobody signed and nobody here can look behind; or its head is sound, and has other signatures."""
    if path.is_symlink() or not path.is_file():
        return False
    if expected.packing:
        return keys is None
    try:
        told = read_start(path)[1]
        decode_statement(told)
    except (BundleRefused, MediumUnavailable):
        return False
    return told != expected.told


def keep(path: Path, undo: contextlib.ExitStack) -> Path:
    """Under a second name, by a link, so that there is no moment without it. Raises MediumUnavailable."""
    place = path.with_name(path.name + BEFORE)
    elsewhere = "-o FOLDER writes elsewhere; with --identity FILE encrypted volumes are judged by what is inside"
    try:
        os.link(path, place, follow_symlinks=False)
    except FileExistsError:
        if not place.samefile(path):
            raise MediumUnavailable(
                f"{place} is there from an earlier repair", hint=f"take it away; {elsewhere}"
            ) from None
    except OSError as error:
        raise MediumUnavailable(
            f"{path.name} would be replaced by what nobody signed, and cannot be kept beside it: {error.strerror}",
            hint=elsewhere,
        ) from None
    undo.callback(place.unlink, missing_ok=True)
    return place
