"""Keys of a named signer, public and private, and the `.pub` text that travels.

A signer is a name with one key per scheme. The default is hybrid: one Ed25519 and one ML-DSA-65 key, and a signature
by that signer is a signature by each of its keys.

    sealift-key-1 alice ed25519 <base64 of the raw public key> <check>
    sealift-key-1 alice ml-dsa-65 <base64 of the raw public key> <check>

One key a line, LF, schemes in the order of `schemes.SCHEMES`, the same name on every line. `check` is the first 16 hex
digits of the key id; the key id is the SHA-256 of the scheme's name, one zero byte and the raw public key.

Laws: `PublicSigner.parse(s.encode()) == s`, and `parse(b).encode() == b` for every b that is not refused.
Refused: unknown schemes, two keys of one scheme, any other spelling, and names that are unsafe as a file's name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from signing.errors import MalformedKey
from signing.limits import MAX_NAME_CHARS, MAX_PUBLIC_FILE_BYTES
from signing.schemes import HYBRID, ORDER, Scheme, load_public, scheme_named, scheme_of, verifies

MAGIC = "sealift-key-1"
# Lower case only, so that two names never differ by case alone on a file system that folds it.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@-]*[a-z0-9])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def check_name(name: str) -> str:
    """The name itself, or MalformedKey."""
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name) or _DEVICE.fullmatch(name):
        raise MalformedKey(
            f"{name[:80]!r} is not a signer's name",
            hint="use lower case letters, digits and . _ @ - inside, such as alice or alice@example.org",
        )
    return name


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode_base64(text: str, what: str) -> bytes:
    """Standard base64 with padding, in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise MalformedKey(f"{what}: not base64") from problem
    if base64.b64encode(data).decode() != text:
        raise MalformedKey(f"{what}: base64 in a form that no encoder writes")
    return data


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One scheme's raw public key. Building one proves that the bytes are a key of that scheme."""

    scheme: str
    raw: bytes = field(repr=False)
    _loaded: Any = field(init=False, repr=False, compare=False)
    _row: Scheme = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        row = scheme_named(self.scheme)
        object.__setattr__(self, "_row", row)
        object.__setattr__(self, "_loaded", load_public(row, self.raw))

    @property
    def id(self) -> str:
        """64 hex digits; identifies the key, in envelopes only as a hint."""
        return hashlib.sha256(self.scheme.encode() + b"\0" + self.raw).hexdigest()

    @property
    def post_quantum(self) -> bool:
        return self._row.post_quantum

    def verify(self, signature: bytes, message: bytes) -> bool:
        return verifies(self._row, self._loaded, signature, message)


@dataclass(frozen=True, slots=True)
class PublicSigner:
    """A name and its public keys, one per scheme, in the schemes' order."""

    name: str
    keys: tuple[PublicKey, ...]

    def __post_init__(self) -> None:
        check_name(self.name)
        check_order([key.scheme for key in self.keys], self.name)

    @property
    def fingerprint(self) -> str:
        """160 bits over every key, as ten groups of four hex digits, to compare by eye or by telephone."""
        digest = hashlib.sha256("\n".join(key.id for key in self.keys).encode()).hexdigest()
        return " ".join(digest[at : at + 4] for at in range(0, 40, 4))

    def encode(self) -> bytes:
        """The `.pub` text."""
        lines = (f"{MAGIC} {self.name} {key.scheme} {_base64(key.raw)} {key.id[:16]}\n" for key in self.keys)
        return "".join(lines).encode()

    @classmethod
    def parse(cls, data: bytes) -> PublicSigner:
        """Raises MalformedKey for anything that `encode` does not write."""
        if len(data) > MAX_PUBLIC_FILE_BYTES:
            raise MalformedKey(f"a public key file has at most {MAX_PUBLIC_FILE_BYTES} bytes, found {len(data)}")
        if b"PRIVATE KEY-----" in data:
            raise MalformedKey("this is a private key file", hint="give the .pub file; the .key file never travels")
        try:
            lines = data.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise MalformedKey("a public key file is plain ASCII text") from error
        if lines.pop() != "" or not lines:
            raise MalformedKey("a public key file is one or more whole lines", hint="was the file cut short?")
        parsed = [_parse_line(line, f"line {number}") for number, line in enumerate(lines, 1)]
        names = sorted({name for name, _ in parsed})
        if len(names) > 1:
            raise MalformedKey(f"one file, one signer: found {', '.join(names)}")
        return cls(names[0], tuple(key for _, key in parsed))


def _parse_line(line: str, where: str) -> tuple[str, PublicKey]:
    words = line.split(" ")
    if len(words) != 5 or words[0] != MAGIC:
        raise MalformedKey(f"{where}: expected '{MAGIC} NAME SCHEME KEY CHECK', found {line[:40]!r}")
    _, name, scheme, encoded, check = words
    check_name(name)
    scheme_named(scheme)
    key = PublicKey(scheme, decode_base64(encoded, where))
    if key.id[:16] != check:
        raise MalformedKey(f"{where}: the key does not match its check digits", hint="copy the .pub file again")
    return name, key


def check_order(schemes: Sequence[str], name: str) -> None:
    """One key per scheme at least once, in the one order we write."""
    ranks = [ORDER[scheme] for scheme in schemes]
    if not ranks:
        raise MalformedKey(f"{name}: a signer has at least one key")
    if any(a >= b for a, b in pairwise(ranks)):
        raise MalformedKey(f"{name}: keys are listed once per scheme, in the order {', '.join(ORDER)}")


@dataclass(frozen=True, slots=True)
class Signer:
    """A name and its private keys. Printing one shows no secret."""

    name: str
    private: tuple[Any, ...] = field(repr=False)
    public: PublicSigner = field(init=False)

    def __post_init__(self) -> None:
        rows = [scheme_of(key) for key in self.private]
        keys = tuple(PublicKey(row.name, row.raw_public(key)) for row, key in zip(rows, self.private, strict=True))
        object.__setattr__(self, "public", PublicSigner(self.name, keys))

    def sign(self, message: bytes) -> tuple[tuple[PublicKey, bytes], ...]:
        """One signature per key, in the order of the keys."""
        return tuple(
            (public, scheme_of(key).sign(key, message))
            for public, key in zip(self.public.keys, self.private, strict=True)
        )


def generate(name: str, schemes: Sequence[str] = HYBRID) -> Signer:
    """New keys, in memory only; `keyring.Keyring.write` puts them on disk."""
    check_name(name)
    rows = [scheme_named(scheme) for scheme in schemes]
    rows.sort(key=lambda row: ORDER[row.name])
    check_order([row.name for row in rows], name)
    return Signer(name, tuple(row.generate() for row in rows))
