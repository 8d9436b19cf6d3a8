"""The keys on this machine: `<home>/keys/NAME.key` (private) and `NAME.pub` (public).

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

__all__ = ["Keyring", "keys_dir", "open_signer", "trust_path"]


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key files of one directory."""

    directory: Path

    def private_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}.key"

    def public_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}.pub"

    def names(self) -> list[str]:
        """The signers that have a private key here, sorted; other files are not ours and not listed."""
        try:
            files = sorted(self.directory.glob("*.key"))
        except OSError as error:
            raise KeyFileUnavailable(f"cannot list {self.directory}: {error.strerror or error}") from error
        return [path.stem for path in files if _is_name(path.stem)]

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
        return pkcs8.is_encrypted(self._read_private(name))

    def load(self, name: str, passphrase: bytes | None) -> Signer:
        """Raises UnknownSigner, WrongPassphrase or MalformedKey."""
        try:
            signer = Signer(name, pkcs8.read_private(self._read_private(name), passphrase))
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
        """Raises KeyExists when either file is there and `force` is false; then nothing has changed."""
        private, public = self.private_path(signer.name), self.public_path(signer.name)
        if not force:
            self.refuse_existing(signer.name)
        write_atomic(private, pkcs8.write_private(signer.private, passphrase, cost), mode=0o600, replace=force)
        write_atomic(public, signer.public.encode(), mode=0o644, replace=force)

    def refuse_existing(self, name: str) -> None:
        for path in (self.private_path(name), self.public_path(name)):
            if path.exists():
                raise already_there(path)

    def change_passphrase(
        self, name: str, old: bytes | None, new: bytes | None, *, cost: pkcs8.Cost = pkcs8.DEFAULT_COST
    ) -> None:
        signer = self.load(name, old)
        data = pkcs8.write_private(signer.private, new, cost)
        write_atomic(self.private_path(name), data, mode=0o600, replace=True)

    def _read_private(self, name: str) -> bytes:
        path = self.private_path(name)
        try:
            mode = path.stat().st_mode
            data = read_bounded(path, MAX_PRIVATE_FILE_BYTES)
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        except OSError as error:
            raise KeyFileUnavailable(f"cannot read {path}: {error.strerror or error}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise MalformedKey(f"{path} can be read by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
        return data

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
    return ring.load(name, passphrase)


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except MalformedKey:
        return False
    return True
