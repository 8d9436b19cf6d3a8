"""Sizes, times and tables in the words of the contract, section 8."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from manifests.display import duration_text, size_text, table, time_text

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1_300_000_000, "1.3 GB"),
        (637_500_000, "637 MB"),
        (2_000_000_000, "2 GB"),
        (2_019_393_189, "2.0 GB"),
        (9_999_999_999, "10.0 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (3 * MINUTE, "3 minutes"),
        (HOUR, "About an hour"),
        (89 * MINUTE, "About an hour"),
        (90 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (47 * HOUR + 30 * MINUTE, "2 days"),
        (13 * DAY, "13 days"),
        (59 * DAY, "8 weeks"),
        (700 * DAY, "23 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_times_and_tables() -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert time_text(now - timedelta(minutes=5), now) == "5 minutes ago"
    assert time_text(now + timedelta(minutes=5), now) == "5 minutes from now"
    assert table(("A", "LONG"), [("xyz", "1")]) == "A      LONG\nxyz    1"
