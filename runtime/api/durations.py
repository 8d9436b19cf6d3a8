"""Times and durations as Go prints and reads them: `5m`, `1h30m`, `-1m`, `0`; RFC 3339 with nanoseconds.

Durations are integer nanoseconds inside sealift. FOREVER stands for every negative keep_alive.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from runtime.errors import RequestRefused

FOREVER = -1  # keep the model until it is stopped
SECOND = 1_000_000_000
MAX_NS = (1 << 63) - 1  # Go's int64: about 292 years

_MICRO = {"us": 1000, "µs": 1000, "μs": 1000}
_UNITS = {"ns": 1, **_MICRO, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")


def parse_go(text: str) -> int:
    """`time.ParseDuration`, with its error texts."""
    sign = -1 if text[:1] == "-" else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest or len(rest) > 200:
        raise _invalid(text)
    total = 0
    while rest:
        match = _TERM.match(rest)
        if not match or not (match.group(1) or match.group(2)):
            raise _invalid(text)
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        if not unit:
            raise RequestRefused(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise RequestRefused(f'time: unknown unit "{unit}" in duration "{text}"')
        total += int(whole or "0") * _UNITS[unit] + int(fraction or "0") * _UNITS[unit] // 10 ** len(fraction)
        rest = rest[match.end() :]
    if total > MAX_NS:
        raise _invalid(text)
    return sign * total


def _invalid(text: str) -> RequestRefused:
    return RequestRefused(f'time: invalid duration "{text[:80]}"')


def keep_alive(value: Any) -> int | None:
    """The request field: a number of seconds or a Go duration. None: not given. Nanoseconds, or FOREVER."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RequestRefused(f"Unsupported type: '{_GO_TYPES[type(value)]}'")
    if isinstance(value, str):
        nanoseconds = parse_go(value)
    else:
        nanoseconds = MAX_NS if value >= MAX_NS / SECOND else -1 if value < 0 else math.floor(value * SECOND)
    return FOREVER if nanoseconds < 0 else nanoseconds


def keep_alive_setting(text: str) -> int:
    """The environment's form: here a bare number of seconds is fine too (contract, 7.3)."""
    number = re.fullmatch(r"-?[0-9]{1,18}", text)
    value = keep_alive(int(text) if number else text)
    assert value is not None
    return value


def now_utc() -> str:
    """For every token of every stream: only the fraction is written anew within a second."""
    seconds, rest = divmod(time.time_ns(), SECOND)
    return f"{_utc_second(seconds)}{_fraction(rest)}Z"


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return rfc3339(seconds * SECOND, utc=True).removesuffix("Z")


def rfc3339(nanoseconds: int, *, utc: bool = False) -> str:
    """Trailing zeros of the fraction are trimmed, as Go's RFC3339Nano does."""
    seconds, rest = divmod(nanoseconds, SECOND)
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=min(seconds, 253402214400))  # year 9999
    if not utc:
        moment = moment.astimezone()
    zone = "Z" if utc or not moment.utcoffset() else moment.isoformat()[-6:]
    return f"{moment:%Y-%m-%dT%H:%M:%S}{_fraction(rest)}{zone}"


def _fraction(nanoseconds: int) -> str:
    return f".{nanoseconds:09d}".rstrip("0").rstrip(".")


def format_go(nanoseconds: int) -> str:
    """`time.Duration.String`: `1.5s`, `342.546ms`, `5m0s`."""
    if nanoseconds < 0:
        return "-" + format_go(-nanoseconds)
    if nanoseconds < SECOND:
        for unit, size in (("ms", 1_000_000), ("µs", 1000), ("ns", 1)):
            if nanoseconds >= size:
                return _trimmed(nanoseconds, size) + unit
        return "0s"
    minutes, rest = divmod(nanoseconds, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_trimmed(rest, SECOND)}s"


def _trimmed(value: int, unit: int) -> str:
    """value / unit, exactly, without trailing zeros."""
    whole, rest = divmod(value, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)
