"""Text for people: times, statistics and facts in the forms of the contract, section 8, and words that wrap.

Invariant of `Wrapper`: what was fed and what was written differ in line ends only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from manifests.display import time_text
from runtime.api.durations import SECOND, format_go

_FOREVER = timedelta(days=365 * 100)


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


def facts(shown: dict[str, Any]) -> str:
    """`show`'s sections, from an answer of /api/show."""
    details, info = shown.get("details", {}), shown.get("model_info", {})
    architecture = str(info.get("general.architecture") or details.get("family", ""))
    model = [
        ("architecture", architecture),
        ("parameters", str(details.get("parameter_size", ""))),
        ("context length", str(info.get(f"{architecture}.context_length", ""))),
        ("embedding length", str(info.get(f"{architecture}.embedding_length", ""))),
        ("quantization", str(details.get("quantization_level", ""))),
    ]
    sections = [("Model", [f"{name:<20}{value}" for name, value in model if value])]
    sections.append(("Capabilities", [str(name) for name in shown.get("capabilities", [])]))
    parameters = [line.split(None, 1) for line in str(shown.get("parameters", "")).splitlines()]
    sections.append(("Parameters", [f"{pair[0]:<20}{pair[-1]}" for pair in parameters if pair]))
    sections.append(("System", str(shown.get("system", "")).splitlines()[:2]))
    sections.append(("License", str(shown.get("license", "")).strip().splitlines()[:2]))
    return "\n".join(f"  {title}\n" + "".join(f"    {line}\n" for line in lines) for title, lines in sections if lines)


def metadata(shown: dict[str, Any]) -> str:
    """Every key of the GGUF's metadata; a long array is shown by its length."""
    info = shown.get("model_info", {})
    lines = [f"    {key:<40}{_short(value)}\n" for key, value in info.items()]
    return "\n  Metadata\n" + "".join(lines)


def _short(value: Any) -> str:
    return f"[{len(value)} values]" if isinstance(value, list) and len(value) > 8 else str(value)[:200]


class Wrapper:
    """Breaks lines between words at `width` columns; 0 leaves the text alone. A word is written when it is complete."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write, self._width = write, width
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> None:
        if not self._width:
            self._write(text)
            return
        for part in re.findall(r"\n|[ \t]+|[^ \t\n]+", text):
            if part[0] in " \t\n":
                self._flush_word()
                self._space(part)
            else:
                self._word += part
                if _columns(self._word) >= self._width:
                    self._flush_word()

    def end(self) -> None:
        self._flush_word()

    def _space(self, part: str) -> None:
        self._column = 0 if part == "\n" else self._column + len(part)
        self._write(part)

    def _flush_word(self) -> None:
        if self._word:
            columns = _columns(self._word)
            if self._column and self._column + columns > self._width:
                self._write("\n")
                self._column = 0
            self._write(self._word)
            self._column += columns
            self._word = ""


def _columns(text: str) -> int:
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(text)
