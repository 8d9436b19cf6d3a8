"""What the words of `sealift run` mean: the piped text, the form of the answer, the level of thinking, images.

Refuses images by name: the models that run here read text, and a path that is sent as text would be answered as if the
picture had been seen.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from runtime.errors import RequestRefused

MAX_STDIN = 32 << 20  # bytes of a piped prompt; what the server accepts in a body
MAX_SCHEMA = 128 << 10  # bytes; the server's own limit
IMAGE = re.compile(r"(?:~|\.{1,2})?/(?:\\ |[^\s\\])+?\.(?:jpe?g|png|webp|wav)\b", re.IGNORECASE)


def piped() -> str:
    """All of standard input; bytes that are no UTF-8 become U+FFFD. Raises RequestRefused beyond MAX_STDIN."""
    raw = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(raw) > MAX_STDIN:
        raise RequestRefused(f"more than {MAX_STDIN} bytes were piped in")
    return raw.decode("utf-8", "replace")


def form_of(text: str) -> Any:
    """--format: `json`, a JSON schema, or the path of a file that holds one. Else RequestRefused."""
    if text in ("", "json"):
        return text or None
    schema, where = text, "--format"
    if not text.lstrip().startswith("{"):
        where = f"--format: {text[:80]}"
        try:
            with Path(text).open("rb") as file:
                raw = file.read(MAX_SCHEMA + 1)
        except (OSError, ValueError):
            hint = "write json, a JSON schema, or the path of a file that holds one"
            raise RequestRefused(f'invalid format: "{text[:80]}" is not json and no file', hint=hint) from None
        if len(raw) > MAX_SCHEMA:
            raise RequestRefused(f"{where}: more than {MAX_SCHEMA} bytes")
        schema = raw.decode("utf-8", "replace")
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RequestRefused(f"{where}: expected a JSON schema, an object, found a {type(found).__name__}")
    return found


def images(text: str) -> list[str]:
    """Paths in `text` that are files here and look like an image or a sound. Blanks may be written as `\\ `."""
    found = [path.replace("\\ ", " ") for path in IMAGE.findall(text)]
    return [path for path in found if _is_file(path)]


def refuse_images(text: str) -> None:
    for path in images(text):
        hint = "say in words what it shows; without a slash before it, the name is sent as text"
        raise RequestRefused(f"{path}: the models here read text, no images and no sound", hint=hint)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False
