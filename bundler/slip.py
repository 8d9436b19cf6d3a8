"""The resend slip: what is still missing of a bundle, small enough to be carried on paper and typed by hand.

    SEALIFT SLIP 1 acme-llm-7f3c91ab
    001 041ZS 7J2QK 8XM0R T5C3E 9D      number, twenty characters of five bits in groups, two check characters
    # lines that begin so are for people

Its bytes: version, bundle id, wants (which volume, which ranges, in units of 4 KiB), and four bytes of a hash over all.
A wrong, lost or swapped character of a line is named with its line. A slip asks; it proves nothing and is not signed.
Refused: what is not the one spelling of its bytes, more than the limits below, ranges without order.
Normative text: docs/formats/slip.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bundler.errors import SlipRefused
from manifests.statement import MAX_VOLUMES

VERSION = 1
UNIT = 4096  # bytes
MAX_RANGES = 64  # a writer joins the nearest ranges until there are no more; readers take as many
MAX_WANTS = 1000  # volumes; a writer asks for the first ones
MAX_TEXT = 1 << 16  # characters
MAX_OFFSET = 1 << 36  # units; more than any volume has
SYMBOL_LINES = 11  # of a slip in one QR symbol: version 10, which any camera reads from a screen

_HEADER = re.compile(r"SEALIFT +SLIP +1( +\S{1,64})?")
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: without I, L, O and U
_VALUES = {character: value for value, character in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_LINE = 20  # characters
_GROUP = 5
_PRIME = 1021  # the largest below 32^2; so one wrong character, or two swapped ones, always change the remainder
_TAIL = 4  # bytes of the hash over all
_HINT = "compare it with the slip, line by line; each line ends in two check characters"

Range = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """`ranges` of a volume's file, in units, first and after last; none means the whole volume."""

    volume: int
    ranges: tuple[Range, ...] = ()

    def bytes_of(self, size: int) -> list[Range]:
        """Of a file of `size` bytes. Raises SlipRefused for what lies behind its end."""
        if self.ranges and self.ranges[-1][0] * UNIT >= size:
            raise SlipRefused(f"volume {self.volume} has {size:,} bytes; the slip asks for bytes behind its end")
        return [(first * UNIT, min(end * UNIT, size)) for first, end in self.ranges] or [(0, size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slip:
    """`wants` ascending by volume. `decode(encode()) == self`."""

    id: str  # of the bundle, 32 hex digits
    wants: tuple[Want, ...]

    def encode(self) -> bytes:
        numbers: list[int] = []
        before = -1
        for want in self.wants:
            numbers += [want.volume - before - 1, len(want.ranges)]
            before, at = want.volume, 0
            for first, end in want.ranges:
                numbers += [first - at, end - first - 1]
                at = end
        body = bytes([VERSION]) + bytes.fromhex(self.id) + b"".join(map(_varint, numbers))
        return body + hashlib.sha256(body).digest()[:_TAIL]

    @classmethod
    def decode(cls, raw: bytes) -> Slip:
        body, tail = raw[:-_TAIL], raw[-_TAIL:]
        if len(body) < 17 or hashlib.sha256(body).digest()[:_TAIL] != tail:
            raise SlipRefused("the slip is not whole: lines are missing or wrong", hint=_HINT)
        if body[0] != VERSION:
            raise SlipRefused(f"a slip of version {body[0]}; this sealift reads version {VERSION}")
        slip = cls(id=body[1:17].hex(), wants=tuple(_wants(_numbers(body[17:]))))
        if not slip.wants or slip.encode() != raw:
            raise SlipRefused("the slip's bytes are not in their one spelling")
        return slip

    def text(self, stem: str = "") -> str:
        """For paper and for files: a header and its lines."""
        return "\n".join([f"SEALIFT SLIP 1 {stem}".rstrip(), *self._lines(" ")]) + "\n"

    def symbols(self) -> list[str]:
        """For QR symbols, in the alphabet of their alphanumeric mode. Each says what it is; their order is free."""
        lines = self._lines("")
        parts = [lines[i : i + SYMBOL_LINES] for i in range(0, len(lines), SYMBOL_LINES)]
        return ["/".join(["SEALIFT SLIP 1", *part]) for part in parts]

    def _lines(self, space: str) -> list[str]:
        characters = _to_characters(self.encode())
        pieces = [characters[i : i + _LINE] for i in range(0, len(characters), _LINE)]
        return [_line(number, piece, space) for number, piece in enumerate(pieces, 1)]


def parse(text: str) -> Slip:
    """A slip as printed, or the texts of its symbols one after another; small letters, O for 0 and I or L for 1 are
    taken. Raises SlipRefused, with the number of a line that has a mistake."""
    if len(text) > MAX_TEXT:
        raise SlipRefused(f"a slip of {len(text):,} characters; at most {MAX_TEXT:,} are read")
    found: dict[int, str] = {}
    headers = 0
    for line in _text_lines(text):
        if _HEADER.fullmatch(line):
            headers += 1
            continue
        number, piece = _parse_line(line)
        if found.setdefault(number, piece) != piece:
            raise SlipRefused(f"line {number} is there twice, with different characters", hint=_HINT)
    if not headers:
        raise SlipRefused("not a resend slip: it begins with SEALIFT SLIP 1")
    missing = [number for number in range(1, max(found, default=1)) if number not in found]
    if missing or not found:
        raise SlipRefused(f"line {missing[0] if missing else 1} of the slip is missing", hint=_HINT)
    return Slip.decode(_from_characters("".join(found[number] for number in sorted(found))))


def gather(bundle_id: str, wanted: Iterable[tuple[int, int, Sequence[Range]]]) -> Slip:
    """From volume, size of its file and ranges in bytes: rounded to units, and joined until a slip may hold them. A
    volume of which more than half is wanted is asked for whole."""
    units: dict[int, list[Range]] = {}
    sizes: dict[int, int] = {}
    for volume, size, ranges in wanted:
        sizes[volume] = size
        units[volume] = _joined(sorted((first // UNIT, -(-end // UNIT)) for first, end in ranges), 0)
    gap = 1
    while sum(map(len, units.values())) > MAX_RANGES:
        units = {volume: _joined(ranges, gap) for volume, ranges in units.items()}
        gap *= 2
        if gap > MAX_OFFSET:  # more volumes than ranges
            units = {volume: [] for volume in units}
    wants = [
        Want(volume=volume, ranges=tuple(ranges) if 2 * _length(ranges) * UNIT <= sizes[volume] else ())
        for volume, ranges in sorted(units.items())
    ]
    return Slip(id=bundle_id, wants=tuple(wants[:MAX_WANTS]))


def _length(ranges: Sequence[Range]) -> int:
    return sum(end - first for first, end in ranges)


def _joined(ranges: Sequence[Range], gap: int) -> list[Range]:
    """Ascending ranges; two that are at most `gap` units apart become one."""
    joined: list[Range] = []
    for first, end in ranges:
        if joined and first - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


# -- bytes


def _varint(number: int) -> bytes:
    """Seven bits in each byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _numbers(raw: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 42:
            raise SlipRefused("the slip holds a number that is too large")
        if not byte & 0x80:
            yield value
            value = shift = 0
    if shift:
        raise SlipRefused("the slip ends inside a number")


def _wants(numbers: Iterator[int]) -> Iterator[Want]:
    volume, left = -1, MAX_RANGES
    for number, skip in enumerate(numbers):
        volume += skip + 1
        if number == MAX_WANTS:
            raise SlipRefused(f"the slip asks for more than {MAX_WANTS} volumes")
        count = next(numbers, None)
        if volume >= MAX_VOLUMES or count is None or count > left:
            raise SlipRefused(f"the slip asks for volume {volume}, or for more than {MAX_RANGES} ranges")
        left -= count
        ranges, at = [], 0
        for _ in range(count):
            first = at + next(numbers, MAX_OFFSET)
            at = first + next(numbers, MAX_OFFSET) + 1
            if at > MAX_OFFSET:
                raise SlipRefused("the slip asks for a range that no volume has")
            ranges.append((first, at))
        yield Want(volume=volume, ranges=tuple(ranges))


# -- characters


def _to_characters(raw: bytes) -> str:
    """Five bits each, the highest first; the last one is filled up with zero bits."""
    count = -(-len(raw) * 8 // 5)
    value = int.from_bytes(raw, "big") << (count * 5 - len(raw) * 8)
    return "".join(_ALPHABET[value >> 5 * i & 31] for i in range(count - 1, -1, -1))


def _from_characters(characters: str) -> bytes:
    size = len(characters) * 5 // 8
    spare = len(characters) * 5 - size * 8
    value = 0
    for character in characters:
        value = value << 5 | _VALUES[character]
    if spare >= 5 or value & ((1 << spare) - 1):
        raise SlipRefused("the slip's last line is not as it was printed", hint=_HINT)
    return (value >> spare).to_bytes(size, "big")


def _check(number: int, piece: str) -> str:
    value = number
    for character in piece:
        value = (value * 32 + _VALUES[character]) % _PRIME
    return _ALPHABET[value >> 5] + _ALPHABET[value & 31]


def _line(number: int, piece: str, space: str) -> str:
    groups = [piece[i : i + _GROUP] for i in range(0, len(piece), _GROUP)]
    return space.join([f"{number:03d}", *groups, _check(number, piece)])


def _text_lines(text: str) -> Iterator[str]:
    for line in text.upper().splitlines():
        if not line.lstrip().startswith("#"):
            yield from (part.strip() for part in line.split("/") if part.strip())


def _parse_line(line: str) -> tuple[int, str]:
    plain = re.sub(r"[ \t-]", "", line)
    digits, piece, check = plain[:3], plain[3:-2], plain[-2:]
    if not re.fullmatch(r"[0-9]{3}", digits) or digits == "000":
        raise SlipRefused(f"a line of the slip does not begin with its number: {line[:40]!r}", hint=_HINT)
    sound = 1 <= len(piece) <= _LINE and all(character in _VALUES for character in piece + check)
    if not sound or [_VALUES[c] for c in check] != [_VALUES[c] for c in _check(int(digits), piece)]:
        raise SlipRefused(f"line {int(digits)} of the slip has a mistake", hint=_HINT)
    return int(digits), "".join(_ALPHABET[_VALUES[character]] for character in piece)
