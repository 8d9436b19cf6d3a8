"""How this project shows sizes, times, tables and progress to people (contract, 8: formats)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
MINUTE, HOUR, DAY, WEEK, MONTH, YEAR = 60, 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400


def size_text(size: int) -> str:
    """Bytes in decimal units, as Ollama shows them: `1.3 GB`, `637 MB`, `2.0 GB`, and `2 GB` where it is just that."""
    for unit, factor in _UNITS:
        if size >= factor:
            value = size / factor
            if value >= 10:
                return f"{int(value)} {unit}"
            return f"{value:.1f} {unit}" if size % factor else f"{size // factor} {unit}"
    return f"{size} B"


def duration_text(seconds: float) -> str:
    """`3 minutes`, `About an hour`, ...: the words Ollama uses. Hours are rounded, everything else is cut."""
    whole = int(abs(seconds))
    hours = int(abs(seconds) / HOUR + 0.5) * HOUR if whole >= HOUR else whole
    steps: tuple[tuple[int, Callable[[int], str]], ...] = (
        (1, lambda s: "Less than a second"),
        (2, lambda s: "1 second"),
        (MINUTE, lambda s: f"{s} seconds"),
        (2 * MINUTE, lambda s: "About a minute"),
        (HOUR, lambda s: f"{s // MINUTE} minutes"),
        (2 * HOUR, lambda s: "About an hour"),
        (2 * DAY, lambda s: f"{s // HOUR} hours"),
        (2 * WEEK, lambda s: f"{s // DAY} days"),
        (2 * MONTH, lambda s: f"{s // WEEK} weeks"),
        (2 * YEAR, lambda s: f"{s // MONTH} months"),
    )
    return next((words(hours) for limit, words in steps if hours < limit), f"{hours // YEAR} years")


def time_text(when: datetime, now: datetime | None = None) -> str:
    """`2 hours ago`, `4 minutes from now`."""
    seconds = ((now or datetime.now(timezone.utc)) - when).total_seconds()
    return duration_text(seconds) + (" ago" if seconds >= 0 else " from now")


def printable(text: str) -> str:
    """Text from a file or a network, safe to show: no control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, four spaces apart, header in capitals."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the bytes of each step. Draws on a terminal's stderr; silent when piped."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda step: progress.advance(task, step)
