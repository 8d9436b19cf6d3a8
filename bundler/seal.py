"""Encrypt volumes as they are written, decrypt them as they are read: age, through the optional package pyrage.

* Only X25519: recipients `age1…`, identities `AGE-SECRET-KEY-1…`. No plugin is ever run.
* A passphrase opens an identity, in a small age file beside the volumes, and no volume itself: its work is done once.
* Streams, through a pipe from or to a thread: memory does not grow with the volume, and what was decrypted is never
  in a file, so that nothing is left behind however a run ends.
* age authenticates each chunk of 64 KiB before it gives it out. What it gives out is then held against the statement
  like any volume's bytes: encryption hides, it proves nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from bundler import agefile
from bundler.agefile import MAX_HEADER, Start
from bundler.errors import BadRequest, CannotDecrypt, VolumeDamaged, medium_errors

MAX_KEY_FILE = 64 << 10  # bytes
MAX_KEYS = 64  # in one file, and recipients of one bundle
MAX_WORK = 22  # binary logarithm of scrypt's N: 4 GiB of memory; age reads as much. Writers take about a second
_SCRYPT = re.compile(rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n")
_ASKED = (
    "give the identity: --identity FILE, or SEALIFT_IDENTITY=FILE; where a passphrase opens it, it lies beside the "
    "volumes, *.identity.age"
)
_AGAIN = "copy the file again from its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How an export is encrypted. `hidden`: the index volume and the files' names too. `locked`: what
    `lock` made, to lie beside the volumes; its recipient is among the others."""

    recipients: tuple[str, ...]
    hidden: bool = True
    locked: tuple[str, bytes] | None = field(default=None, repr=False)

    @property
    def asked(self) -> list[str]:
        """What a user asks for: the same in each run, where an identity under a passphrase is made anew."""
        given = [one for one in self.recipients if not self.locked or one != self.locked[0]]
        return [*given, *(["passphrase"] if self.locked else []), str(self.hidden)]

    def overhead(self, plain: int) -> int:
        return agefile.overhead(plain, len(self.recipients))


@dataclass(frozen=True, slots=True)
class Keys:
    """Identities to decrypt with. They are never shown."""

    identities: tuple[Any, ...] = field(repr=False)


def _pyrage() -> Any:
    try:
        return importlib.import_module("pyrage")
    except ImportError:
        raise CannotDecrypt(
            "encryption needs the package pyrage, which is not installed", hint="pip install 'sealift[encrypt]'"
        ) from None


# -- keys


def recipients(values: Sequence[str]) -> tuple[str, ...]:
    """`values`: recipients, or files with one on each line. In one order, each once. Raises BadRequest."""
    pyrage, found = _pyrage(), set[str]()
    for value in values:
        for text in [value] if value.startswith("age1") else _lines(Path(value), "recipients"):
            try:
                found.add(str(pyrage.x25519.Recipient.from_str(text)))
            except pyrage.RecipientError:
                # never a line of a file: it may be an identity, which opens what is encrypted for it
                shown = repr(text[:80]) if text == value else f"{value}: a line"
                raise BadRequest(
                    f"{shown} is no age recipient that sealift encrypts for",
                    hint="expected age1 and 58 characters, as `sealift bundle identity` or age-keygen print it",
                ) from None
    if not 0 < len(found) <= MAX_KEYS:
        raise BadRequest(f"{len(found)} recipients; a bundle is encrypted for 1 to {MAX_KEYS}")
    return tuple(sorted(found))


def load_keys(path: Path) -> Keys:
    """An age identity file. Raises BadRequest; no message says what is in the file."""
    return _keys(path, _lines(path, "identities"))


def is_locked(path: Path) -> bool:
    """Whether an identity file is under a passphrase: then `unlock` reads it."""
    return _raw(path, "identities").startswith(b"age-encryption.org/")


def lock(passphrase: bytes) -> tuple[str, bytes]:
    """A new identity: its recipient, and the identity as an age file that the passphrase opens (age reads it too)."""
    pyrage = _pyrage()
    made = pyrage.x25519.Identity.generate()
    return str(made.to_public()), pyrage.passphrase.encrypt(f"{made}\n".encode(), _text(passphrase))


def unlock(path: Path, passphrase: bytes) -> Keys:
    """Raises BadRequest for a file of another form or with too much work in it; CannotDecrypt."""
    pyrage, raw = _pyrage(), _raw(path, "identities")
    work = _SCRYPT.match(raw)
    if not work or int(work[1]) > MAX_WORK:
        raise BadRequest(f"{path}: no identity under a passphrase, or with more work in it than 2^{MAX_WORK}")
    try:
        lines = pyrage.passphrase.decrypt(raw, _text(passphrase)).decode("ascii", "replace").splitlines()
    except pyrage.DecryptError:
        raise CannotDecrypt(
            f"{path}: the passphrase is wrong, or the file is damaged",
            hint="passphrases are compared letter for letter; if it is right, copy the file again from its source",
        ) from None
    return _keys(path, [line for line in lines if line and not line.startswith("#")])


def _text(passphrase: bytes) -> str:
    try:
        return passphrase.decode()
    except UnicodeDecodeError:
        raise BadRequest("the passphrase of the bundle is not UTF-8") from None


def _keys(path: Path, lines: Sequence[str]) -> Keys:
    pyrage, found = _pyrage(), []
    for text in lines:
        try:
            found.append(pyrage.x25519.Identity.from_str(text))
        except pyrage.IdentityError:
            raise BadRequest(
                f"{path}: a line is no age identity that sealift can use",
                hint="expected AGE-SECRET-KEY-1…, as age-keygen writes it; no plugins, no SSH keys",
            ) from None
    if not 0 < len(found) <= MAX_KEYS:
        raise BadRequest(f"{path}: {len(found) or 'no'} identities in it; 1 to {MAX_KEYS} are read")
    return Keys(tuple(found))


def _raw(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise BadRequest(f"cannot read {what} from {path}: {error.strerror}") from None


def _lines(path: Path, what: str) -> list[str]:
    raw = _raw(path, what)
    try:
        lines = [line.strip() for line in raw.decode("ascii").splitlines()]
    except UnicodeDecodeError:
        raise BadRequest(f"cannot read {what} from {path}: not text") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if len(raw) > MAX_KEY_FILE or len(found) > MAX_KEYS:
        raise BadRequest(f"{path}: too large; at most {MAX_KEYS} {what} are read")
    return found


def generate(path: Path) -> str:
    """A new identity in a new file that only its owner can read. Returns the recipient. Raises BadRequest."""
    made = _pyrage().x25519.Identity.generate()
    text = f"# public key: {made.to_public()}\n{made}\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise BadRequest(f"{path} exists and stays as it is", hint="give another file with -o") from None
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from None
    with medium_errors(path), os.fdopen(handle, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(handle)
    return str(made.to_public())


# -- writing


@contextlib.contextmanager
def encrypting(file: FileIO, sealing: Sealing, hasher: Hasher | None = None) -> Iterator[FileIO]:
    """What is written inside arrives encrypted in `file`: all of it, when the context has ended without an error.
    `hasher` gets the encrypted bytes."""
    pyrage, side = _pyrage(), _Side(file, hasher=hasher)
    keys = [pyrage.x25519.Recipient.from_str(text) for text in sealing.recipients]
    reading, writing = os.pipe()
    work = _Work(lambda: _closing(FileIO(reading, "r"), lambda plain: pyrage.encrypt_io(plain, side, keys)))
    try:
        with FileIO(writing, "w") as plain:
            yield plain
    except BrokenPipeError:
        if not work.wait():
            raise
    finally:
        error = work.wait()
    if failed := side.error or error:  # then a broken pipe was only its consequence
        raise failed


# -- reading


class Decrypted:
    """The bytes inside an age file, in order. Raises CannotDecrypt, VolumeDamaged, and OSError of the file below."""

    def __init__(self, file: FileIO, name: str, start: Start, keys: Keys) -> None:
        self._name, self._given, self._file = name, 0, file
        side = self._side = _Side(file, start.raw)
        decrypt = _pyrage().decrypt_io
        reading, writing = os.pipe()
        self._plain = FileIO(reading, "r")
        self._work = _Work(lambda: _closing(FileIO(writing, "w"), lambda out: decrypt(side, out, keys.identities)))

    def readinto(self, view: memoryview) -> int:
        count = self._plain.readinto(view) or 0
        self._given += count
        if not count and len(view):
            self._check()
        return count

    def read(self, size: int) -> bytes:
        view = bytearray(size)
        return bytes(view[: self.readinto(memoryview(view))])

    def seek(self, offset: int, whence: int = os.SEEK_CUR) -> None:
        """Forward only, by reading: chunks that are passed over are authenticated too."""
        assert whence == os.SEEK_CUR and offset >= 0
        buffer = memoryview(bytearray(1 << 20))
        while offset:
            count = self.readinto(buffer[: min(len(buffer), offset)])
            if not count:
                return  # the caller's next read says where
            offset -= count

    def close(self) -> None:
        self._plain.close()  # a decryption that goes on ends at the closed pipe
        self._work.wait()
        self._file.close()

    def _check(self) -> None:
        """The thread has ended: well, or why not."""
        error = self._work.wait()
        if self._side.error:
            raise self._side.error
        if error and not self._given:
            raise CannotDecrypt(
                f"{self._name}: no given identity opens it: it is encrypted for others, or damaged at its beginning",
                hint="--identity FILE: the one whose recipient was given to `bundle export --encrypt`",
            )
        if error:
            raise VolumeDamaged(self._name, self._given, "the encrypted bytes are damaged or cut off", hint=_AGAIN)


def start(file: FileIO, name: str) -> Start:
    """The bounded header. `file` is read from its beginning."""
    raw = bytearray()
    while len(raw) < MAX_HEADER and (piece := file.read(MAX_HEADER - len(raw))):
        raw += piece
    return agefile.parse(name, bytes(raw), os.fstat(file.fileno()).st_size)


def decrypting(file: FileIO, name: str, keys: Keys | None) -> tuple[Decrypted, int]:
    """What is inside, and its size as the size of the file implies it."""
    found = start(file, name)
    if keys is None:
        raise CannotDecrypt(f"{name} is encrypted", hint=_ASKED)
    return Decrypted(file, name, found, keys), found.plain


class Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Side(io.RawIOBase):
    """The encrypted file as pyrage sees it; `first`: what was read of it already. Keeps an error of the system."""

    def __init__(self, file: FileIO, first: bytes = b"", hasher: Hasher | None = None) -> None:
        self._below, self._first, self._hasher, self.error = file, first, hasher, None

    error: OSError | None

    def read(self, size: int = -1) -> bytes:
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        try:
            return self._below.read(size) or b""
        except OSError as error:
            self.error = error
            raise

    def write(self, data: Any) -> int:
        try:
            count = self._below.write(data)
            if self._hasher:
                self._hasher.update(data[:count])
            return count
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        pass  # the file below is unbuffered, and stays open when this goes


def _closing(end: FileIO, then: Callable[[FileIO], object]) -> None:
    with end:
        then(end)


class _Work:
    """A function in a thread. What it raises, pyrage's panics included, is kept for `wait`."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run, self._error = run, list[BaseException]()
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._error.append(error)

    def wait(self) -> BaseException | None:
        self._thread.join()
        return self._error[0] if self._error else None
