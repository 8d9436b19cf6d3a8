"""Go's times and durations (contract, 1.1, 2.3, 7.3)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.api.durations import FOREVER, MAX_NS, SECOND, format_go, keep_alive, keep_alive_setting, parse_go, rfc3339
from runtime.chat.commands import short_fraction
from runtime.chat.printing import distance
from runtime.errors import RequestRefused

VALID = [
    ("0", 0),
    ("5m", 300 * SECOND),
    ("1h30m", 5400 * SECOND),
    ("-1m", -60 * SECOND),
    ("1.5s", 1_500_000_000),
    (".5s", SECOND // 2),
    ("1h1m1s1ms1us1ns", 3_661_001_001_001),
    ("+2s", 2 * SECOND),
    ("100µs", 100_000),
]


@pytest.mark.parametrize(("text", "nanoseconds"), VALID)
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert parse_go(text) == nanoseconds


INVALID = [
    ("-1", 'time: missing unit in duration "-1"'),
    ("300", 'time: missing unit in duration "300"'),
    ("", 'time: invalid duration ""'),
    ("abc", 'time: invalid duration "abc"'),
    ("1x", 'time: unknown unit "x" in duration "1x"'),
    (".s", 'time: invalid duration ".s"'),
    ("9999999h", 'time: invalid duration "9999999h"'),
]


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_bad_durations_are_refused_in_gos_words(text: str, message: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        parse_go(text)
    assert str(caught.value) == message


@given(st.integers(-MAX_NS, MAX_NS))
def test_what_is_printed_is_read_again(nanoseconds: int) -> None:
    assert parse_go(format_go(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        (300, 300 * SECOND),
        (1.5, 1_500_000_000),
        (-1, FOREVER),
        ("-1m", FOREVER),
        (1e300, MAX_NS),
    ],
)
def test_keep_alive_of_a_request(value: Any, nanoseconds: int | None) -> None:
    assert keep_alive(value) == nanoseconds


def test_keep_alive_of_the_environment_takes_bare_numbers() -> None:
    assert (keep_alive_setting("-1"), keep_alive_setting("90"), keep_alive_setting("2h")) == (
        FOREVER,
        90 * SECOND,
        7200 * SECOND,
    )


def test_times_have_nanoseconds_without_trailing_zeros() -> None:
    assert rfc3339(1_500_000_000_120_000_000, utc=True) == "2017-07-14T02:40:00.12Z"
    assert rfc3339(1_500_000_000_000_000_001, utc=True) == "2017-07-14T02:40:00.000000001Z"
    assert rfc3339(0, utc=True) == "1970-01-01T00:00:00Z"


@given(st.integers(0, 250_000_000_000), st.integers(0, SECOND - 1))
def test_every_time_is_read_by_pythons_oldest_parser(seconds: int, rest: int) -> None:
    text = rfc3339(seconds * SECOND + rest)
    moment = datetime.fromisoformat(short_fraction(text))
    assert abs(moment.timestamp() - (seconds + rest / SECOND)) < 1e-4  # 250e9 s leaves 3e-5 s in a double


def test_distances() -> None:
    now = datetime.now(timezone.utc)
    assert distance(now + timedelta(days=365 * 200)) == "Forever"
    assert distance(now + timedelta(minutes=4, seconds=30)) == "4 minutes from now"
    assert distance(now - timedelta(days=3, seconds=5)) == "3 days ago"
