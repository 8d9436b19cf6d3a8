"""A line plot as SVG, without any dependency. Grey text and saturated lines read on a light page and on a dark one.

The horizontal axis is logarithmic (each tick is one of the measured values); the vertical one is linear from 0, or
logarithmic. A series is drawn with the range of its turns; a limit is dashed and has no points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 58, 48  # margins; names stand right of the lines' ends
INK, FAINT = "#7d8590", "#7d859040"
COLOURS = {"sealift": "#2f81f7", "llama.cpp": "#db6d28"}
OTHERS = ("#3fb950", "#a371f7", "#bf8700")
LINE_HEIGHT = 14  # of text


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """points: (x, median, least, most). `limit`: drawn dashed."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    limit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """Where a value lies in the picture."""

    xs: tuple[float, ...]
    low: float
    high: float
    log: bool

    def x(self, value: float) -> float:
        first, last = math.log(self.xs[0]), math.log(self.xs[-1])
        part = (math.log(value) - first) / (last - first) if last > first else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = value / self.high
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)


def svg(title: str, *, across: str, up: str, series: Sequence[Series], log: bool = False) -> str:
    """The whole document. Raises ValueError where there is no point to draw."""
    axes = _axes(series, log=log)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" '
        f'font-family="system-ui, sans-serif" fill="{INK}" role="img">',
        f"<title>{escape(title)}</title>",
        _text(LEFT, 20, title, size=14, weight=600),
        *_grid(axes, across, up),
    ]
    others = iter(OTHERS * len(series))
    ends = []
    for one in series:
        colour = INK if one.limit else COLOURS.get(one.name) or next(others)
        parts += _line(one, axes, colour)
        ends.append((axes.y(one.points[-1][1]), axes.x(one.points[-1][0]), one.name, colour))
    parts += _names(ends)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(series: Sequence[Series], *, log: bool) -> Axes:
    points = [point for one in series for point in one.points]
    if not points or any(value <= 0 for point in points for value in point):
        raise ValueError("a plot needs points above zero")
    xs = tuple(sorted({point[0] for one in series if not one.limit for point in one.points}))
    highest, lowest = max(point[3] for point in points), min(point[2] for point in points)
    if log:
        return Axes(
            xs=xs, low=10 ** math.floor(math.log10(lowest)), high=10 ** math.ceil(math.log10(highest)), log=True
        )
    return Axes(xs=xs, low=0, high=highest * 1.05, log=False)


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round values: decades, and their halves where there are few; else four to eight steps of 1, 2 or 5."""
    if log:
        decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
        between = (1, 2, 5) if len(decades) <= 3 else (1,)
        return [tick for n in decades for part in between if (tick := part * 10.0**n) <= high]
    rough = high / 6
    scale = 10 ** math.floor(math.log10(rough))
    step = next(scale * part for part in (1, 2, 5, 10) if scale * part >= rough)
    return [step * n for n in range(int(high / step) + 1)]


def _grid(axes: Axes, across: str, up: str) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in ticks(axes.low, axes.high, log=axes.log):
        y = axes.y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{FAINT}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tick:,.0f}" if tick >= 1 or not tick else f"{tick:g}", anchor="end"))
    parts += [_text(axes.x(x), bottom + 18, f"{x:g}", anchor="middle") for x in axes.xs]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 10, across, anchor="middle"))
    return [*parts, _text(LEFT, TOP - 20, up)]


def _line(one: Series, axes: Axes, colour: str) -> list[str]:
    path = "M" + "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y, _, _ in one.points)
    if one.limit:
        return [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="6 4"/>']
    parts = [f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>']
    for x, y, least, most in one.points:
        parts.append(f'<path d="M{axes.x(x):.1f} {axes.y(least):.1f}V{axes.y(most):.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3.5" fill="{colour}"/>')
    return parts


def _names(ends: Sequence[tuple[float, float, str, str]]) -> list[str]:
    """Each beside its line's end, pushed down where two would overlap."""
    parts, free = [], 0.0
    for y, x, name, colour in sorted(ends):
        y = max(y + 4, free)
        free = y + LINE_HEIGHT
        parts.append(_text(x + 10, y, name, colour=colour))
    return parts


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, weight: int = 400, colour: str = INK
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
