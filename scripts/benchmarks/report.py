"""Results as Markdown, which also reads well on a terminal, and into the pages of docs/benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.turns import Comparison, Spread

CPU = ("line", "engine", "lengths", "batches", "memory", "busy", "http", "cached", "stalls", "start")
PAGES = {**dict.fromkeys(CPU, "cpu.md"), "load": "server.md", "crossing": "crossing.md"}


def markdown(section: str, result: dict[str, Any]) -> str:
    """One section: {machine, limits, load, comparisons: {model: [Comparison]}}."""
    lines = [conditions(result), ""]
    lines += TABLES[section]([(model, one) for model, many in result["comparisons"].items() for one in many])
    return "\n".join(lines) + "\n"


def conditions(result: dict[str, Any]) -> str:
    """One paragraph: machine, limits, load. What it says decides whether the figures mean anything."""
    machine, load = result["machine"], result["load"]
    text = (
        f"{machine['date']}, {machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores. "
        f"During the run: load average {load['min']:.1f}–{load['max']:.1f}; other processes took "
        f"{result['others']:.0%} of the processors, the host withheld {result['stolen']:.0%}"
    )
    readings = result["limits"]
    if readings:
        reads = [reading["read_bytes"] for reading in readings]
        text += f". Limits measured in the same run: read {min(reads) / 1e9:.0f}–{max(reads) / 1e9:.0f} GB/s"
        dots = [reading["integer_ops"] for reading in readings if reading["integer_ops"]]
        if dots:
            text += f", integer dot products {min(dots) / 1e12:.2f}–{max(dots) / 1e12:.2f} TOP/s"
            text += f" ({readings[0]['instruction']})"
    names = sorted({name for name in result["players"].values()})
    return text + (f". Peer: {', '.join(names)}." if names else ".")


def engine(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("model", "work", "sealift t/s", "llama.cpp t/s", "ratio", "sealift's speed", "llama.cpp's speed")]
    for model, one in found:
        extra = one["extra"]
        cells = []
        for name in ("sealift", "llama.cpp"):
            if name not in extra.get("speeds", {}):
                cells.append("–")
                continue
            speed, share = extra["speeds"][name], extra["shares"].get(name)
            unit, scale = ("TOP/s", 1e12) if extra["speed_unit"] == "operations/s" else ("GB/s", 1e9)
            cells.append(f"{speed / scale:.3g} {unit}" + (f", {share:.0%}" if share is not None else ""))
        ours, theirs = (range_of(one["rates"].get(name)) for name in ("sealift", "llama.cpp"))
        rows.append((model, one["work"], ours, theirs, ratio(one["ratios"].get("sealift")), cells[0], cells[1]))
    return table(rows)


def memory(found: list[tuple[str, Comparison]]) -> list[str]:
    """A sample's `seconds` are bytes here."""
    rows: list[tuple[str, ...]] = [("model", "work", "sealift", "llama.cpp", "ours by theirs")]
    for model, one in found:
        sizes = {name: held["median"] for name, held in one["seconds"].items()}
        cells = [f"{sizes[name] / 1e6:.0f} MB" if name in sizes else "–" for name in ("sealift", "llama.cpp")]
        both = len(sizes) == 2
        rows.append((model, one["work"], *cells, f"{sizes['sealift'] / sizes['llama.cpp']:.2f} ×" if both else "–"))
    return table(rows)


def busy(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("model", "work", "sealift t/s", "llama.cpp t/s", "ratio", "sealift: of quiet", "llama.cpp: of quiet")]
    for model, one in found:
        kept = one["extra"].get("of_quiet", {})
        shares = [f"{kept[name]:.0%}" if name in kept else "–" for name in ("sealift", "llama.cpp")]
        ours, theirs = (range_of(one["rates"].get(name)) for name in ("sealift", "llama.cpp"))
        rows.append((model, one["work"], ours, theirs, ratio(one["ratios"].get("sealift")), shares[0], shares[1]))
    return table(rows)


def http(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("model", "clients", "through HTTP, t/s", "engine alone, t/s", "ratio")]
    for model, one in found:
        ours, alone = (range_of(one["rates"][name]) for name in ("HTTP API", "engine alone"))
        rows.append((model, one["work"], ours, alone, ratio(one["ratios"]["HTTP API"])))
    return table(rows)


def cached(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("model", "work", "cold, s", "cached, s", "part of cold")]
    for model, one in found:
        cold, warm = (range_of(one["seconds"][name]) for name in ("cold", "cached"))
        rows.append((model, one["work"], cold, warm, f"{one['extra']['part_of_cold']:.1%}"))
    return table(rows)


def stalls(found: list[tuple[str, Comparison]]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("model", "work", "prompt t/s", "ms between tokens", "median", "99 of 100 below", "longest")
    ]
    for model, one in found:
        for when, name in (("quiet", "quiet_ms"), ("while a prompt is read", "during_ms")):
            spans = one["extra"][name]
            speed = range_of(one["rates"]["sealift"]) if name == "during_ms" else "–"
            rows.append((model, one["work"], speed, when, *(short(spans[key]) for key in ("median", "p99", "max"))))
    return table(rows)


def load(found: list[tuple[str, Comparison]]) -> list[str]:
    rows: list[tuple[str, ...]] = [("model", "work", "ends", "measured", "how often", "ms, median", "p99", "longest")]
    for model, one in found:
        spans, ends = one["extra"]["ms"], one["extra"]["ends"]
        told = ", ".join(f"{count:,} {name}" for name, count in ends.items()) or "–"
        times = tuple(short(spans[key]) for key in ("median", "p99", "max"))
        rows.append((model, one["work"], told, one["extra"]["what"], f"{spans['count']:,}", *times))
    return table(rows)


def start(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("model", "what", "seconds")]
    for model, one in found:
        extra = one["extra"]
        rows.append((model, "process start to listening", range_of(extra["listening_s"])))
        rows.append((model, "listening to first token", range_of(extra["first_token_after_s"])))
        rows += [(model, f"{name}: {one['work']}", range_of(times)) for name, times in one["seconds"].items()]
    return table(rows)


def crossing(found: list[tuple[str, Comparison]]) -> list[str]:
    rows = [("file", "command", "GB/s", "against sha256sum", "time over the plain way", "memory")]
    for model, one in found:
        what = f"{model}, {one['amount']:.2f} GB"
        over, peak = one["extra"]["time_over"], one["extra"]["peak_bytes"]
        for name, rate in one["rates"].items():
            memory = f"{peak[name] / 1e6:.0f} MB" if name in peak else "–"
            rows.append((what, name, range_of(rate), ratio(one["ratios"].get(name)), ratio(over.get(name)), memory))
    return table(rows)


TABLES = {
    "engine": engine,
    "lengths": engine,
    "batches": engine,
    "memory": memory,
    "busy": busy,
    "http": http,
    "cached": cached,
    "stalls": stalls,
    "start": start,
    "load": load,
    "crossing": crossing,
}


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Markdown with columns in line; the first row is the head."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def range_of(values: Spread | None) -> str:
    """Median (least–most), three digits."""
    return f"{short(values['median'])} ({short(values['min'])}–{short(values['max'])})" if values else "–"


def ratio(values: Spread | None) -> str:
    return f"{values['median']:.2f} × ({values['min']:.2f}–{values['max']:.2f})" if values else "–"


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def into_page(text: str, section: str, content: str) -> str:
    """`text` with what lies between the section's two markers replaced. Raises SystemExit where they are not."""
    begin, end = f"<!-- bench {section} -->", f"<!-- end {section} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"bench: docs/benchmarks/{PAGES[section]} has no {begin} … {end}")
    return f"{head}{begin}\n{content}{end}{tail}"


def write_page(folder: Path, section: str, content: str) -> None:
    page = folder / PAGES[section]
    page.write_text(into_page(page.read_text(encoding="utf-8"), section, content), encoding="utf-8")
