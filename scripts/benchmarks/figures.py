"""The plots of docs/benchmarks: prefill against the prompt's length, decode against the number of sequences, each with
the machine's limit, from the results of the sections `lengths` and `batches`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.benchmarks.plot import Series, svg
from scripts.benchmarks.turns import Comparison

SECTIONS = ("lengths", "batches")


def file_name(section: str, model: str) -> str:
    return f"{section}-{model}.svg"


def write(folder: Path, section: str, result: dict[str, Any]) -> list[str]:
    """Draws each model's figure into `folder`; Markdown that shows them."""
    lines = []
    for model, found in result["comparisons"].items():
        name = file_name(section, model)
        (folder / name).write_text(draw(section, model, found), encoding="utf-8")
        what = (
            "Prefill against the length of the prompt" if section == "lengths" else "Decode against sequences at once"
        )
        lines.append(f"![{what}: {model}]({name})")
    return lines


def draw(section: str, model: str, found: list[Comparison]) -> str:
    places = [float(one["extra"]["place"]) for one in found]
    series = [
        Series(name=name, points=tuple(_point(place, one, name) for place, one in zip(places, found, strict=True)))
        for name in found[0]["rates"]
    ]
    tops = [float(one["extra"]["top"] or 0) for one in found]
    if all(tops):
        points = tuple((place, top, top, top) for place, top in zip(places, tops, strict=True))
        series.append(Series(name="limit", points=points, limit=True))
    if section == "lengths":
        return svg(f"Prefill, {model}", across="tokens of the prompt", up="tokens/s", series=series)
    return svg(f"Decode, {model}", across="sequences at once", up="tokens/s, all together", series=series, log=True)


def _point(place: float, one: Comparison, name: str) -> tuple[float, float, float, float]:
    rate = one["rates"][name]
    return place, rate["median"], rate["min"], rate["max"]
