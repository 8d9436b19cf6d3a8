"""Text for people: times, statistics and facts in the forms of the contract, section 8.

What a model says of itself is a stranger's text: it is shown without control characters.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from typing import Any

from manifests.display import printable, time_text
from runtime.api.durations import SECOND, format_go

_FOREVER = timedelta(days=365 * 21)  # as far as Ollama's command counts years
MAX_SHOWN = 200  # characters of one value

Rows = list[tuple[str, ...]]


def distance(moment: datetime) -> str:
    """`4 minutes from now`, `2 days ago`, `Forever`."""
    now = datetime.now(timezone.utc)
    return "Forever" if moment - now > _FOREVER else time_text(moment, now)


def statistics(last: dict[str, Any]) -> str:
    """The lines of --verbose, from an answer's last chunk."""
    lines = []
    for name in ("total", "load"):
        if last.get(f"{name}_duration"):
            lines.append((f"{name} duration", format_go(last[f"{name}_duration"])))
    for name in ("prompt_eval", "eval"):
        count, duration, shown = last.get(f"{name}_count", 0), last.get(f"{name}_duration", 0), name.replace("_", " ")
        if count:
            lines.append((f"{shown} count", f"{count} token(s)"))
        if duration:
            lines.append((f"{shown} duration", format_go(duration)))
            lines.append((f"{shown} rate", f"{count * SECOND / duration:.2f} tokens/s"))
    return "".join(f"{name + ':':<22}{value}\n" for name, value in lines)


def facts(shown: dict[str, Any], *, verbose: bool = False) -> str:
    """`show`'s sections, from an answer of /api/show. `verbose`: also every key of the metadata, and the tensors."""
    details, info = shown.get("details") or {}, shown.get("model_info") or {}
    architecture = str(info.get("general.architecture") or details.get("family", ""))
    sections: list[tuple[str, Rows]] = [("Model", _model(shown, architecture, details, info))]
    sections.append(("Capabilities", [(str(name),) for name in shown.get("capabilities") or []]))
    lines = [line.split() for line in str(shown.get("parameters", "")).splitlines()]
    sections.append(("Parameters", [(words[0], " ".join(words[1:])) for words in lines if words]))
    if verbose:
        sections.append(("Metadata", [(key, _short(value)) for key, value in sorted(info.items())]))
        tensors = shown.get("tensors") or []
        sections.append(("Tensors", [(t["name"], t["type"], f"[{' '.join(map(str, t['shape']))}]") for t in tensors]))
    sections.append(("System", _head(str(shown.get("system", "")))))
    sections.append(("License", _head(str(shown.get("license", "")))))
    return "".join(f"  {title}\n{_columns(rows)}\n" for title, rows in sections if rows)


def _model(shown: dict[str, Any], architecture: str, details: dict[str, Any], info: dict[str, Any]) -> Rows:
    rows = (
        ("architecture", architecture),
        ("parameters", details.get("parameter_size", "")),
        ("context length", info.get(f"{architecture}.context_length", "")),
        ("embedding length", info.get(f"{architecture}.embedding_length", "")),
        ("quantization", details.get("quantization_level", "")),
        ("requires", shown.get("requires", "")),
    )
    return [(name, str(value)) for name, value in rows if value != ""]


def _columns(rows: Rows) -> str:
    """Left-aligned, indented by four and four apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"    {printable(line).rstrip()}\n" for line in lines)


def _head(text: str, lines: int = 2) -> Rows:
    """The first lines that are not blank, and three dots where more follow."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line,) for line in found[:lines] + ["..."] * (len(found) > lines)]


def _short(value: Any) -> str:
    """A value of the metadata: of an array what fits into ten columns, at least one, and how many more there are."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list):
        return str(value)[:MAX_SHOWN]
    shown = [_short(item) for item in value[:10]]
    fits = sum(used + 2 * place < 10 for place, used in enumerate(accumulate(map(len, shown))))
    fits = max(fits, min(1, len(value)))
    more = f" ...+{len(value) - fits} more" if len(value) > fits else ""
    return f"[{', '.join(shown[:fits])}{more}]"
