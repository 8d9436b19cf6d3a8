"""Slips: one spelling, every mistake of a typing hand found with its line, nothing unbounded taken from a stranger."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler import qr, slip
from bundler.errors import BadRequest, SlipRefused
from bundler.slip import MAX_RANGES, UNIT, Slip, Want, gather, parse

PAGE = Path(__file__).parents[2] / "docs/formats/slip.md"
ID = "7f3c91ab" * 4
EXAMPLE = gather(
    ID, [(3, 100_000_000, [(0, 100), (5_000_000, 9_000_000), (50_000_001, 50_000_002)]), (1, 4000, [(0, 4000)])]
)


@st.composite
def slips(draw: st.DrawFn) -> Slip:
    wants, left = [], MAX_RANGES
    for volume in sorted(draw(st.sets(st.integers(0, 9998), min_size=1, max_size=20))):
        borders = sorted(draw(st.sets(st.integers(0, 1 << 30), max_size=2 * min(left, 8))))
        ranges = tuple(zip(borders[::2], borders[1::2], strict=False))
        left -= len(ranges)
        wants.append(Want(volume=volume, ranges=ranges))
    return Slip(id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)), wants=tuple(wants))


@given(slips(), st.randoms())
def test_what_is_printed_reads_back(made: Slip, numbers: random.Random) -> None:
    """As text, in small letters, with the letters people take for digits, and as symbols in any order."""
    assert Slip.decode(made.encode()) == made
    text = made.text("acme-llm-7f3c91ab")
    assert parse(text) == made
    assert parse("# for people: 1/2\n\n" + text.lower().replace(" ", "  ")) == made
    body = text.splitlines()[1:]
    assert (
        parse(
            "SEALIFT SLIP 1\n"
            + "\n".join(line.replace("0", "O").replace("1", "l")[3:].join((line[:3], "")) for line in body)
        )
        == made
    )
    symbols = made.symbols()
    numbers.shuffle(symbols)
    assert parse("\n".join([*symbols, symbols[0]])) == made
    assert all(re.fullmatch(r"[0-9A-Z /]{1,311}", symbol) for symbol in symbols), "version 10 at level M"


def test_every_wrong_character_is_found_with_its_line() -> None:
    """Also every swap of two neighbours; in the check characters too."""
    lines = EXAMPLE.text().splitlines()
    for number, line in enumerate(lines[1:], 1):
        for at in range(4, len(line)):
            if line[at] == " ":
                continue
            for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZ":
                if other != line[at]:
                    refused(lines, number, line[:at] + other + line[at + 1 :])
            if at + 1 < len(line) and line[at + 1] not in (" ", line[at]):
                refused(lines, number, line[:at] + line[at + 1] + line[at] + line[at + 2 :])


def refused(lines: list[str], number: int, line: str) -> None:
    with pytest.raises(SlipRefused, match=f"the slip: line {number} has a mistake"):
        parse("\n".join([*lines[:number], line, *lines[number + 1 :]]))


def test_lines_lost_swapped_or_mixed_are_refused() -> None:
    lines = EXAMPLE.text().splitlines()
    assert len(lines) == 4
    for number in (1, 2):
        with pytest.raises(SlipRefused, match=f"the slip: line {number} is missing"):
            parse("\n".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(SlipRefused, match="not whole"):
        parse("\n".join(lines[:-1]))
    with pytest.raises(SlipRefused, match="mistake"):
        parse("\n".join([lines[0], "001" + lines[2][3:], "002" + lines[1][3:], lines[3]]))
    other = Slip(id="0" * 32, wants=EXAMPLE.wants).text().splitlines()
    with pytest.raises(SlipRefused, match="line 1 is there twice"):
        parse("\n".join([*lines, other[1]]))
    with pytest.raises(SlipRefused, match="begins with SEALIFT SLIP 1"):
        parse("\n".join(lines[1:]))


@given(st.binary(max_size=80))
def test_hostile_bytes_are_refused_or_canonical(body: bytes) -> None:
    raw = b"\x01" + body
    try:
        found = Slip.decode(raw)
    except SlipRefused:
        return
    assert found.encode() == raw and len(found.wants) <= slip.MAX_WANTS


@given(st.text(max_size=200))
def test_hostile_texts_are_refused(text: str) -> None:
    with pytest.raises(SlipRefused):
        parse(text)
    with pytest.raises(SlipRefused):
        parse("SEALIFT SLIP 1\n" + text)


def test_limits() -> None:
    with pytest.raises(SlipRefused, match="at most"):
        parse("SEALIFT SLIP 1\n" * 10_000)
    with pytest.raises(SlipRefused, match="behind its end"):
        Want(volume=0, ranges=((10, 11),)).bytes_of(10 * UNIT)
    assert Want(volume=0, ranges=((9, 11),)).bytes_of(10 * UNIT - 5) == [(9 * UNIT, 10 * UNIT - 5)]
    assert Want(volume=0).bytes_of(7) == [(0, 7)]


@given(st.lists(st.tuples(st.integers(0, 1 << 32), st.integers(1, 1 << 22)), min_size=1, max_size=300))
def test_all_that_is_missing_is_asked_for(spots: list[tuple[int, int]]) -> None:
    size = 1 << 33
    ranges = [(first, first + length) for first, length in spots]
    made = gather(ID, [(2, size, ranges)])
    assert parse(made.text()) == made and len(made.wants[0].ranges) <= MAX_RANGES
    asked = made.wants[0].bytes_of(size)
    assert all(any(a <= first and end <= b for a, b in asked) for first, end in ranges)


def test_more_than_half_is_the_whole() -> None:
    assert gather(ID, [(0, 100_000, [(0, 60_000)])]).wants == (Want(volume=0),)
    many = gather(ID, [(volume, 1 << 30, [(0, 10), (1 << 20, 1 << 21)]) for volume in range(3000)])
    assert len(many.wants) == slip.MAX_WANTS and parse(many.text()) == many


def test_the_vector_of_the_page() -> None:
    assert EXAMPLE.text("acme-llm-7f3c91ab") in PAGE.read_text()
    assert EXAMPLE.encode().hex() in PAGE.read_text()


def test_symbols_as_files(tmp_path: Path) -> None:
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        (only,) = qr.write(EXAMPLE.symbols(), tmp_path / f"one.{kind}")
        assert only.read_bytes().startswith(start)
    long = gather(ID, [(volume, 1 << 30, [(volume << 20, (volume << 20) + 9)]) for volume in range(60)])
    assert len(long.symbols()) > 1
    names = [path.name for path in qr.write(long.symbols(), tmp_path / "many.svg")]
    assert names == [f"many-{number}.svg" for number in range(1, len(names) + 1)]
    assert f"{len(names)} of {len(names)}" in qr.terminal(long.symbols())
    with pytest.raises(BadRequest):
        qr.write(EXAMPLE.symbols(), tmp_path / "slip.jpg")
