"""The resend slip: what is still missing of a bundle, small enough to be carried on paper and typed by hand.

    SEALIFT SLIP 1 acme-llm-7f3c91ab
    001 041ZS 7J2QK 8XM0R T5C3E 9D      lines as paper.py writes them

Its bytes: version, bundle id, wants (which volume, which ranges, in units of 4 KiB).
A slip asks; it proves nothing and is not signed.
Refused: what is not the one spelling of its bytes, more than the limits below, ranges without order.
Normative text: docs/formats/slip.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bundler import paper
from bundler.errors import PaperRefused, SlipRefused
from manifests.statement import MAX_VOLUMES

VERSION = 1
UNIT = 4096  # bytes
MAX_RANGES = 64  # a writer joins the nearest ranges until there are no more; readers take as many
MAX_WANTS = 1000  # volumes; a writer asks for the first ones
MAX_OFFSET = 1 << 36  # units; more than any volume has
TITLE = "SEALIFT SLIP 1"

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
        return bytes([VERSION]) + bytes.fromhex(self.id) + b"".join(map(_varint, numbers))

    @classmethod
    def decode(cls, raw: bytes) -> Slip:
        if len(raw) < 17 or raw[0] != VERSION:
            raise SlipRefused(f"no slip of version {VERSION}, which this sealift reads")
        slip = cls(id=raw[1:17].hex(), wants=tuple(_wants(_numbers(raw[17:]))))
        if not slip.wants or slip.encode() != raw:
            raise SlipRefused("the slip's bytes are not in their one spelling")
        return slip

    def text(self, stem: str = "") -> str:
        """For paper and for files: a header and its lines."""
        return paper.text(TITLE, self.encode(), stem)

    def symbols(self) -> list[str]:
        return paper.symbols(TITLE, self.encode())


def parse(text: str) -> Slip:
    """A slip as printed, or the texts of its symbols one after another. Raises SlipRefused, with the number of a line
    that has a mistake."""
    try:
        raw = paper.parse(TITLE, text, several=True)
    except PaperRefused as error:
        raise SlipRefused(f"the slip: {error}", hint=error.hint) from None
    return Slip.decode(raw)


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
