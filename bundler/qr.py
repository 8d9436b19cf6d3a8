"""A slip as QR symbols: on a terminal, and as SVG or PNG files. Drawn by segno; the texts are the slip's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundler.errors import BadRequest, medium_errors
from bundler.writing import write_file

KINDS = ("svg", "png")


def _symbol(text: str) -> Any:
    import segno  # only where a symbol is drawn

    return segno.make_qr(text, error="m")


def terminal(texts: Sequence[str]) -> str:
    """Half blocks, for dark and light terminals alike."""
    shown = []
    for number, text in enumerate(texts, 1):
        out = io.StringIO()
        _symbol(text).terminal(out, compact=True, border=2)
        shown.append(out.getvalue() + (f"{number} of {len(texts)}\n" if len(texts) > 1 else ""))
    return "".join(shown)


def write(texts: Sequence[str], path: Path) -> list[Path]:
    """One file, or `NAME-1.svg`, `NAME-2.svg` ... for several symbols. Raises BadRequest for another kind of file."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise BadRequest(f"{path}: a QR symbol is written as .svg or .png")
    many = len(texts) > 1
    paths = [path.with_stem(f"{path.stem}-{number}") if many else path for number in range(1, len(texts) + 1)]
    for text, place in zip(texts, paths, strict=True):
        out = io.BytesIO()
        _symbol(text).save(out, kind=kind, scale=6, border=4)
        with medium_errors(place):
            write_file(place, out.getvalue())
    return paths
