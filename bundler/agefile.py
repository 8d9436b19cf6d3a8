"""The outer form of an age file (C2SP age, v1): its header's bounds, and sizes. No cryptography is done here.

    age-encryption.org/v1
    -> X25519 <share>            a stanza for each recipient; unknown kinds are passed over, as the format demands
    <wrapped key>
    --- <MAC>
    <16 bytes> <chunks: 64 KiB and a tag of 16 bytes each; the last one may be shorter>

Refused before any key is computed: a header of more than 32 KiB or 64 stanzas, armor, and passphrases: the work that
a passphrase stanza asks for is chosen by whoever wrote the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bundler.errors import CannotDecrypt, VolumeDamaged

MAX_HEADER = 32 << 10  # bytes
MAX_STANZAS = 64
CHUNK = 64 << 10  # bytes
TAG = 16
NONCE = 16
# What our own headers take: a stanza of X25519 has 97 bytes, one of grease at most a few hundred.
ROOM = 2048
ROOM_EACH = 128

MAGIC = b"age-encryption.org/v1\n"
_STANZA = rb"-> [!-~]+(?: [!-~]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n"
_HEADER = re.compile(rb"age-encryption\.org/v1\n(?:" + _STANZA + rb")+--- [A-Za-z0-9+/]{43}\n")
_KIND = re.compile(rb"^-> ([!-~]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`raw`: what was read of the file; its first `header` bytes are the header."""

    raw: bytes = field(repr=False)
    header: int
    plain: int  # bytes of what is inside


def parse(name: str, raw: bytes, size: int) -> Start:
    """`raw`: the first bytes of the file `name`, at most MAX_HEADER of them; `size`: of the whole file."""
    match = _HEADER.match(raw)
    if not match:
        raise VolumeDamaged(name, 0, "not an age file, or its header is damaged or larger than is read")
    kinds = _KIND.findall(match.group())
    if len(kinds) > MAX_STANZAS:
        raise VolumeDamaged(name, 0, f"encrypted for {len(kinds)} recipients; at most {MAX_STANZAS} are read")
    if b"scrypt" in kinds:
        raise CannotDecrypt(
            f"{name} is encrypted with a passphrase; sealift opens what was encrypted for an identity",
            hint="open it with: age -d -o VOLUME.tar VOLUME.tar.age",
        )
    return Start(raw=raw, header=match.end(), plain=_plain_size(name, size - match.end() - NONCE))


def _plain_size(name: str, rest: int) -> int:
    full, last = divmod(rest, CHUNK + TAG)
    if rest < TAG or 0 < last < TAG:
        raise VolumeDamaged(name, max(0, rest), "the encrypted file is cut off")
    return rest - TAG * (full + (last > 0))


def most_overhead(plain: int) -> int:
    """At most so many bytes more than `plain` has a file that is read."""
    return MAX_HEADER + NONCE + TAG * (plain // CHUNK + 1)


def overhead(plain: int, recipients: int) -> int:
    """At most so many bytes more than `plain` has the file that we write."""
    return ROOM + ROOM_EACH * recipients + NONCE + TAG * (plain // CHUNK + 1)
