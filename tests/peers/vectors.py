"""Reads vector files: blocks of `name: value` lines with blank lines between the blocks; `#` begins a comment."""

from __future__ import annotations

from pathlib import Path


def read_vectors(path: Path) -> list[dict[str, str]]:
    cases: list[dict[str, str]] = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if lines:
            cases.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return cases
