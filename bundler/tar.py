"""Tar as this house writes it: ustar headers of regular members, and nothing that could be said in two ways.

    member    512-byte header, data, zeros up to the next multiple of 512
    end       two blocks of zeros; nothing after them

Law: a header is accepted only if it is, byte for byte, the one that `header(name, size)` writes. So every other kind of
member (links, folders, devices, sparse files, pax and GNU extensions, base-256 or negative sizes) is refused, by its
name.
Mode 0644, owner 0, no owner names, and one fixed time, since GNU tar warns about times at or before 1970.
"""

from __future__ import annotations

import re

BLOCK = 512
END = bytes(2 * BLOCK)
MTIME = 315_532_800  # 1980-01-01T00:00:00Z, the oldest time that every archive format can hold
MAX_MEMBER = 0o77777777777  # bytes; eleven octal digits

_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe",
    b"7": "a contiguous file", b"S": "a sparse file", b"x": "a pax header", b"g": "a global pax header",
    b"L": "a GNU long name", b"K": "a GNU long link", b"V": "a volume header", b"M": "a continued file",
    b"\0": "an old-style file",
}  # fmt: skip
_SIZE = re.compile(rb"[0-7]{11}\0")


def header(name: str, size: int) -> bytes:
    """The one header of a member. `name` has at most 100 characters of ASCII, `size` at most MAX_MEMBER bytes."""
    raw_name = name.encode("ascii")
    assert 0 < len(raw_name) <= 100 and 0 <= size <= MAX_MEMBER
    block = bytearray(BLOCK)
    block[0 : len(raw_name)] = raw_name
    block[100:108] = b"0000644\0"
    block[108:124] = b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % MTIME
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\00000"
    block[329:345] = b"0000000\0" * 2
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of data."""
    return bytes(-size % BLOCK)


def member_size(size: int) -> int:
    """Bytes of a whole member with `size` bytes of data."""
    return BLOCK + size + (-size % BLOCK)


def size_of(block: bytes, name: str) -> int | None:
    """The size in a header of the member `name`; None if it is not exactly the header we write."""
    field = block[124:136]
    if len(block) != BLOCK or not _SIZE.fullmatch(field):
        return None
    size = int(field[:11], 8)
    return size if header(name, size) == block else None


def explain(block: bytes, name: str, size: int | None = None) -> str:
    """Why `block` is not the header of `name`, in words for a person."""
    if len(block) < BLOCK:
        return "the volume ends here" if not block else "the volume ends inside a member's header"
    if not any(block):
        return f"the archive ends where {name!r} should begin"
    kind = _KINDS.get(block[156:157])
    if kind:
        return f"{kind} where {name!r} should be; only regular members are accepted"
    found = block[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    if found != name:
        return f"member {found[:100]!r} where {name!r} should be"
    if size is not None and block[124:136] != b"%011o\0" % size:
        return f"the header of {name!r} does not say {size} bytes"
    return f"the header of {name!r} is not the one sealift writes"
