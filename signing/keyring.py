"""The keys on this machine: `<home>/keys/NAME.key` (private) and `NAME.pub` (public), and for a key that lies in a
PKCS#11 token `NAME.token`, which says where (token).

* The private file is written before the public one, and neither is replaced unless asked.
* Opening a signer proves that the two belong together: a private key whose public half is not in `.pub` is refused.
* A private file that others may read is refused, as ssh does.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from signing import pkcs8
from signing.errors import KeyFileUnavailable, MalformedKey, UnknownSigner, WrongPassphrase
from signing.files import already_there, keys_dir, read_bounded, trust_path, write_atomic
from signing.keys import PublicSigner, Signer, check_name
from signing.limits import MAX_PRIVATE_FILE_BYTES, MAX_PUBLIC_FILE_BYTES
from signing.passphrase import find_passphrase
from signing.token import TokenKey, TokenPlace, find_pin

__all__ = ["Keyring", "keys_dir", "open_signer", "trust_path"]


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key files of one directory."""

    directory: Path

    def private_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}.key"

    def public_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}.pub"

    def token_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}.token"

    def names(self) -> list[str]:
        """The signers that have a private key here or in a token, sorted; other files are not ours and not listed."""
        try:
            files = {path.stem for kind in ("*.key", "*.token") for path in self.directory.glob(kind)}
        except OSError as error:
            raise KeyFileUnavailable(f"cannot list {self.directory}: {error.strerror or error}") from error
        return sorted(name for name in files if _is_name(name))

    def public(self, name: str) -> PublicSigner:
        """From `NAME.pub`, no passphrase needed."""
        path = self.public_path(name)
        try:
            found = PublicSigner.parse(read_bounded(path, MAX_PUBLIC_FILE_BYTES))
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        if found.name != name:
            raise MalformedKey(f"{path} names the signer {found.name!r}")
        return found

    def is_encrypted(self, name: str) -> bool:
        return self._has_file(name) and pkcs8.is_encrypted(self._read_private(name))

    def token(self, name: str) -> TokenPlace | None:
        """Where the signer's key in a token is, if it has one."""
        path = self.token_path(name)
        if not path.exists():
            return None
        try:
            return TokenPlace.parse(_read_own(path))
        except MalformedKey as error:
            raise MalformedKey(f"{path}: {error}", hint=error.hint or "sealift key add-token NAME --force") from None

    def _has_file(self, name: str) -> bool:
        """A signer whose only key is in a token has none; without either, its absence is what is told."""
        return self.private_path(name).exists() or not self.token_path(name).exists()

    def load(self, name: str, passphrase: bytes | None, pin: bytes | None = None) -> Signer:
        """Raises UnknownSigner, WrongPassphrase or MalformedKey. A token is first touched when something is signed."""
        try:
            private = pkcs8.read_private(self._read_private(name), passphrase) if self._has_file(name) else ()
            if (place := self.token(name)) is not None:
                private = (TokenKey(place=place, pin=pin or b""), *private)
            signer = Signer(name, private)
        except WrongPassphrase as error:  # an export with several signers must say which
            raise WrongPassphrase(f"key {name}: {error}", hint=error.hint) from error
        if not self.public_path(name).exists():
            raise MalformedKey(
                f"{self.public_path(name)} is missing beside the private key",
                hint=f"put it back, or make a new key: sealift key generate {name} --force",
            )
        if signer.public != self.public(name):
            raise MalformedKey(
                f"{self.private_path(name)} and {self.public_path(name)} do not belong together",
                hint="put back the .pub file that was written with the key",
            )
        return signer

    def write(
        self, signer: Signer, passphrase: bytes | None, *, force: bool = False, cost: pkcs8.Cost = pkcs8.DEFAULT_COST
    ) -> None:
        """Raises KeyExists when a file is there and `force` is false; then nothing has changed."""
        if not force:
            self.refuse_existing(signer.name)
        token, private, public = (f(signer.name) for f in (self.token_path, self.private_path, self.public_path))
        in_files = [key for key in signer.private if not isinstance(key, TokenKey)]
        in_token = [key.place for key in signer.private if isinstance(key, TokenKey)]
        for path, data in (
            (private, pkcs8.write_private(in_files, passphrase, cost) if in_files else None),
            (token, in_token[0].encode() if in_token else None),
        ):
            if data is not None:
                write_atomic(path, data, mode=0o600, replace=force)
            else:
                path.unlink(missing_ok=True)
        write_atomic(public, signer.public.encode(), mode=0o644, replace=force)

    def refuse_existing(self, name: str) -> None:
        for path in (self.private_path(name), self.token_path(name), self.public_path(name)):
            if path.exists():
                raise already_there(path)

    def change_passphrase(
        self, name: str, old: bytes | None, new: bytes | None, *, cost: pkcs8.Cost = pkcs8.DEFAULT_COST
    ) -> None:
        signer = self.load(name, old)
        in_files = [key for key in signer.private if not isinstance(key, TokenKey)]
        if not in_files:
            raise MalformedKey(f"the key {name} is in a token", hint="its PIN is changed with the token's own program")
        data = pkcs8.write_private(in_files, new, cost)
        write_atomic(self.private_path(name), data, mode=0o600, replace=True)

    def _read_private(self, name: str) -> bytes:
        try:
            return _read_own(self.private_path(name))
        except FileNotFoundError as error:
            raise self._unknown(name) from error

    def _unknown(self, name: str) -> UnknownSigner:
        known = ", ".join(self.names()[:10]) or "none"
        return UnknownSigner(
            f"no key named {name!r} in {self.directory} (found: {known})", hint=f"sealift key generate {name}"
        )


def open_signer(
    name: str,
    *,
    passphrase_file: Path | None = None,
    directory: Path | None = None,
    ask: Callable[[str], str] | None = None,
) -> Signer:
    """The named signer of this machine, asking for a passphrase only when its file is encrypted."""
    ring = Keyring(directory or keys_dir())
    passphrase = None
    if ring.is_encrypted(name):
        passphrase = find_passphrase(f"the key {name}", file=passphrase_file, ask=ask)
    place = ring.token(name)
    return ring.load(name, passphrase, find_pin(place.token, ask=ask) if place else None)


def _read_own(path: Path) -> bytes:
    """A file that nobody else may read or change: it holds a key, or names a library to load."""
    try:
        mode = path.stat().st_mode
        data = read_bounded(path, MAX_PRIVATE_FILE_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileUnavailable(f"cannot read {path}: {error.strerror or error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MalformedKey(f"{path} can be read by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    return data


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except MalformedKey:
        return False
    return True
