"""Bytes that are carried on paper: printed, read aloud, typed again, or read by a camera.

    SEALIFT RECEIPT 1
    001 041ZS 7J2QK 8XM0R T5C3E 9D      number, at most twenty characters of five bits in groups, two check characters
    # lines that begin so are for people

Receipts, tree heads and resend slips are written so. One wrong character, two swapped ones, a lost or a doubled line
are told with the line's number; four bytes of a hash at the end catch what several mistakes could hide. Neither is a
proof of origin: that is the signature among the bytes.
Law: `parse(title, text(title, raw)) == raw`, and so for what `symbols` give, one after another in any order.
Refused: characters outside the alphabet, lines that are missing or twice with different characters, another title.
"""

from __future__ import annotations

import hashlib
import re

from bundler.errors import PaperRefused

MAX_LINES = 999
SYMBOL_LINES = 11  # where a text takes several symbols: version 10, which any camera reads from a screen
MAX_TEXT = 1 << 16  # characters, the lines for people included
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: without I, L, O and U
_VALUES = {character: value for value, character in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_LINE = 20  # characters
_GROUP = 5
_PRIME = 1021  # the largest below 32^2; so one wrong character, or two swapped ones, always change the remainder
_TAIL = 4  # bytes of the hash over all
_HINT = "compare it with the paper, line by line; each line ends in two check characters"


def text(title: str, raw: bytes, name: str = "") -> str:
    """For paper and for files. `name`: a word after the title, for people."""
    return "\n".join([f"{title} {name}".rstrip(), *_lines(raw, " ")]) + "\n"


def symbol(title: str, raw: bytes) -> str:
    """For one QR symbol, in the alphabet of its alphanumeric mode."""
    return "/".join([title, *_lines(raw, "")])


def symbols(title: str, raw: bytes) -> list[str]:
    """For as many QR symbols as it takes. Each says what it is; their order is free."""
    lines = _lines(raw, "")
    return ["/".join([title, *lines[i : i + SYMBOL_LINES]]) for i in range(0, len(lines), SYMBOL_LINES)]


def is_titled(title: str, found: str) -> bool:
    """Whether the first line that is not for people is this title."""
    first = next((part for part in _parts(found[:MAX_TEXT])), "")
    return _squeezed(first) == title


def parse(title: str, found: str, *, several: bool = False) -> bytes:
    """Small letters, O for 0 and I or L for 1 are taken; spaces, `-` and the order of lines do not matter. `several`:
    the title may be there once for each symbol, and a word may follow it. Raises PaperRefused, which names the line."""
    if len(found) > MAX_TEXT:
        raise PaperRefused(f"a text of {len(found):,} characters; at most {MAX_TEXT:,} are read")
    lines: dict[int, str] = {}
    titles = 0
    for part in _parts(found):
        words = _squeezed(part)
        if words == title or (several and words.rpartition(" ")[0] == title):
            titles += 1
            continue
        number, piece = _parse_line(part)
        if lines.setdefault(number, piece) != piece:
            raise PaperRefused(f"line {number} is there twice, with different characters", hint=_HINT)
    if titles != 1 and not (several and titles):
        raise PaperRefused(f"expected one text that begins with {title}, found {titles}")
    missing = [number for number in range(1, max(lines, default=1)) if number not in lines]
    if missing or not lines:
        raise PaperRefused(f"line {missing[0] if missing else 1} is missing", hint=_HINT)
    whole = _from_characters([lines[number] for number in sorted(lines)])
    raw, tail = whole[:-_TAIL], whole[-_TAIL:]
    if not raw or hashlib.sha256(raw).digest()[:_TAIL] != tail:
        raise PaperRefused("the text is not whole: lines are missing at its end, or wrong", hint=_HINT)
    return raw


def _lines(raw: bytes, space: str) -> list[str]:
    characters = _to_characters(raw + hashlib.sha256(raw).digest()[:_TAIL])
    pieces = [characters[i : i + _LINE] for i in range(0, len(characters), _LINE)]
    assert len(pieces) <= MAX_LINES, f"{len(raw)} bytes are too many for paper"
    return [_line(number, piece, space) for number, piece in enumerate(pieces, 1)]


def _line(number: int, piece: str, space: str) -> str:
    groups = [piece[i : i + _GROUP] for i in range(0, len(piece), _GROUP)]
    return space.join([f"{number:03d}", *groups, _check(number, piece)])


def _check(number: int, piece: str) -> str:
    value = number
    for character in piece:
        value = (value * 32 + _VALUES[character]) % _PRIME
    return _ALPHABET[value >> 5] + _ALPHABET[value & 31]


def _parts(found: str) -> list[str]:
    lines = [line for line in found.upper().splitlines() if not line.lstrip().startswith("#")]
    return [part.strip() for line in lines for part in line.split("/") if part.strip()]


def _squeezed(part: str) -> str:
    return " ".join(part.upper().split())


def _parse_line(part: str) -> tuple[int, str]:
    plain = re.sub(r"[ \t-]", "", part)
    digits, piece, check = plain[:3], plain[3:-2], plain[-2:]
    if not re.fullmatch(r"[0-9]{3}", digits) or not 1 <= int(digits) <= MAX_LINES:
        raise PaperRefused(f"a line does not begin with its number: {part[:16]!r}", hint=_HINT)
    number = int(digits)
    sound = 1 <= len(piece) <= _LINE and all(character in _VALUES for character in piece + check)
    if not sound or [_VALUES[c] for c in check] != [_VALUES[c] for c in _check(number, piece)]:
        raise PaperRefused(f"line {number} has a mistake", hint=_HINT)
    return number, piece


def _to_characters(raw: bytes) -> str:
    """Five bits each, the highest first; the last one is filled up with zero bits."""
    count = -(-len(raw) * 8 // 5)
    value = int.from_bytes(raw, "big") << (count * 5 - len(raw) * 8)
    return "".join(_ALPHABET[value >> 5 * i & 31] for i in range(count - 1, -1, -1))


def _from_characters(pieces: list[str]) -> bytes:
    if any(len(piece) != _LINE for piece in pieces[:-1]):
        raise PaperRefused(f"a line has fewer than {_LINE} characters and is not the last", hint=_HINT)
    values = [_VALUES[character] for piece in pieces for character in piece]
    size = len(values) * 5 // 8
    spare = len(values) * 5 - size * 8
    number = 0
    for value in values:
        number = number << 5 | value
    if spare >= 5 or number & ((1 << spare) - 1):
        raise PaperRefused("the last line is not as it was printed", hint=_HINT)
    return (number >> spare).to_bytes(size, "big")
