"""The files of this room: where they are, bounded reading, atomic writing.

* <home> is SEALIFT_HOME or ~/.sealift. In it: keys/ (0700) with NAME.key (0600) and NAME.pub (0644); trust.toml (0644).
* A file appears whole or not at all: a temporary file in the same directory (created exclusively, with its final mode),
  fsync, then a link that fails if the name exists, or a rename when replacing was asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from signing.errors import KeyExists, KeyFileUnavailable, MalformedKey, RefusedInput


def home() -> Path:
    """The same answer as `manifests.home.home`, which a leaf cannot import; a test compares the two."""
    own = os.environ.get("SEALIFT_HOME", "").strip()
    return Path(own).expanduser() if own else Path.home() / ".sealift"


def keys_dir() -> Path:
    return home() / "keys"


def trust_path() -> Path:
    return home() / "trust.toml"


def read_bounded(path: Path, limit: int, too_big: type[RefusedInput] = MalformedKey) -> bytes:
    """The whole file, never more than `limit` bytes of it. A missing file is FileNotFoundError for the caller to
    name; any other failure is KeyFileUnavailable."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileUnavailable(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise too_big(f"{path} has more than {limit} bytes")
    return data


def write_atomic(path: Path, data: bytes, *, mode: int, replace: bool) -> None:
    """Raises KeyExists when the file is there and `replace` is false, KeyFileUnavailable when the system refuses."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write_new(temporary, data, mode)
            if replace:
                os.replace(temporary, path)
            else:
                _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileUnavailable(f"cannot write {path}: {error.strerror or error}") from error


def _link(temporary: Path, path: Path) -> None:
    """The name appears only if it was free, which no look beforehand could promise."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise already_there(path) from error


def already_there(path: Path) -> KeyExists:
    return KeyExists(f"{path} exists and stays as it is", hint="choose another name, or --force to replace it")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock beside the file; waits for whoever holds it. The lock file stays, empty."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeyFileUnavailable(f"cannot write in {path.parent}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask may only have narrowed it; state the mode exactly
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
