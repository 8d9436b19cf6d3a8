"""Where a passphrase comes from, in this order: --passphrase-file, SEALIFT_PASSPHRASE, a prompt on a terminal.

A file's first line without its line end is the passphrase; later lines are refused rather than ignored. When nobody can
be asked, that is an error with the three ways out, never an empty passphrase.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from signing.errors import KeyFileUnavailable, MalformedKey, PassphraseNeeded
from signing.limits import MAX_PASSPHRASE_BYTES

VARIABLE = "SEALIFT_PASSPHRASE"


def find_passphrase(
    what: str,
    *,
    file: Path | None = None,
    confirm: bool = False,
    ask: Callable[[str], str] | None = None,
    variable: str = VARIABLE,
) -> bytes:
    """The passphrase for `what` (words for the prompt). `confirm` asks twice, for a new key. `ask` replaces the
    terminal. Raises PassphraseNeeded when there is no source, MalformedKey for an empty or oversized passphrase."""
    if file is not None:
        return _checked(_from_file(file), f"the passphrase in {file}", variable)
    given = os.environ.get(variable)
    if given is not None:
        return _checked(given.encode(), variable, variable)
    if ask is None:
        if not sys.stdin.isatty():
            raise PassphraseNeeded(
                f"{what} needs a passphrase and there is no terminal to ask on",
                hint=f"give a passphrase file or set {variable}; run with --help for the options",
            )
        ask = getpass.getpass
    first = ask(f"Passphrase for {what}: ")
    if confirm and ask("Again, to be sure: ") != first:
        raise MalformedKey("the two passphrases differ", hint="nothing was written; try again")
    return _checked(first.encode(), "the passphrase", variable)


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PASSPHRASE_BYTES + 3)
    except OSError as error:
        raise KeyFileUnavailable(f"cannot read the passphrase file {path}: {error.strerror or error}") from error
    line = data[:-2] if data.endswith(b"\r\n") else data[:-1] if data.endswith(b"\n") else data
    if b"\n" in line:
        raise MalformedKey(f"{path} has more than one line", hint="a passphrase file is one line")
    return line


def _checked(passphrase: bytes, what: str, variable: str) -> bytes:
    if not passphrase:
        hint = "use --no-passphrase for a key without one" if variable == VARIABLE else None
        raise MalformedKey(f"{what} is empty", hint=hint)
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise MalformedKey(f"{what} is longer than {MAX_PASSPHRASE_BYTES} bytes")
    return passphrase
