"""Sizes as people write them: `32M`, `4GB`, `1500000`, or the name of a medium."""

from __future__ import annotations

import re

from bundler.errors import BadRequest

# Bytes that fit on the medium with its file system. FAT32 files end at 4 GiB - 1; a disc's last megabytes hold its
# folders.
PRESETS: dict[str, int | None] = {
    "none": None,
    "diode": 1_000_000_000,
    "av2g": 2_000_000_000,  # scanners that refuse larger files
    "fat32": 4_000_000_000,
    "dvd": 4_600_000_000,
    "bd25": 24_900_000_000,
    "bd100": 99_500_000_000,
}
_UNITS = {
    "": 1,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?B?|[KMGT]iB)", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Bytes; None for `none`. M is 2^20 and MB is 10^6, as in coreutils. Raises BadRequest."""
    if text.lower() in PRESETS:
        return PRESETS[text.lower()]
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise BadRequest(f"{text[:40]!r} is not a size", hint=f"such as 32M, 4GB, or one of {', '.join(PRESETS)}")
    unit = match["unit"].upper().replace("IB", "")
    size = int(match["number"]) * _UNITS["" if unit == "B" else unit]
    if not 0 < size < 1 << 62:
        raise BadRequest(f"{text[:40]!r} is not a possible size")
    return size


def show_size(size: float) -> str:
    """For people: `3.2 GB`, in powers of 1000 as media are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
