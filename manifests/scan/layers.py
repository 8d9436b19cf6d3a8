"""One blob of a model, by its role in the manifest, or one file of a Hugging Face tree: which checks it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.errors import ManifestsError, ModelfileError
from manifests.fields import parse_json
from manifests.gguf import Gguf
from manifests.parameters import DROPPED, TYPES, check_parameters
from manifests.scan import files, gotemplate, text, weights
from manifests.scan.rules import CONFIG, FILE, Hit

GGUF_LAYERS = ("model", "adapter", "projector", "draft")
TEXT_LAYERS = ("template", "prompt", "system", "license")
MAX_TEXT = 16 << 20  # bytes of a text, params, messages or config blob
TEMPLATE_KEY = "tokenizer.chat_template"

# what makes sense at all; beyond, an engine does something else than the file says
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 10), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1), "top_k": (0, 1_000_000),
    "repeat_penalty": (0, 10), "presence_penalty": (-10, 10), "frequency_penalty": (-10, 10), "num_ctx": (1, 1 << 24),
    "num_predict": (-2, 1 << 24), "repeat_last_n": (-1, 1 << 24), "num_keep": (-1, 1 << 24), "num_batch": (1, 1 << 20),
    "num_thread": (0, 4096),
}  # fmt: skip


@dataclass(slots=True)
class Examined:
    """What the examination of one model leaves for the end: its licences, and what could not be looked at."""

    declared: str | None = None
    licences: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


def look(kind: str, path: Path, name: str, seen: Examined) -> Iterator[Hit]:
    """`kind`: the media type without Ollama's prefix, `config` or `file`; `name`: of a file in a tree."""
    if kind == CONFIG:
        yield from _config(path, seen)
    elif kind in GGUF_LAYERS:
        yield from _gguf(path, seen, adapter=kind == "adapter")
    elif kind in ("params", "messages", "json"):
        yield from _json(kind, path, seen)
    elif kind in TEXT_LAYERS:
        yield from _text(kind, path, seen)
    elif kind in ("tensor", "embed"):
        yield from _tensors(path)
    elif kind == FILE:
        yield from _file(path, name, seen)
    else:
        yield "layer.unknown", f"unknown layer type {kind[:120]!r}"


def _gguf(path: Path, seen: Examined, *, adapter: bool = False) -> Iterator[Hit]:
    try:
        gguf = Gguf.open(path)
    except ManifestsError as error:
        yield "gguf.structure", str(error).replace(str(path), "file")
        yield from files.magic(files.head(path))
        return
    try:
        architecture = gguf.architecture
    except ManifestsError as error:
        yield "gguf.architecture", str(error)
        return
    yield from weights.scan(gguf, architecture, adapter=adapter)
    licence = gguf.metadata.get("general.license")
    if isinstance(licence, str) and seen.declared is None:
        seen.declared = licence
    for key, value in gguf.metadata.items():
        if key == TEMPLATE_KEY or key.startswith(TEMPLATE_KEY + "."):
            if isinstance(value, str):
                yield from _at(key, jinja_template(value, seen))
            else:
                yield "template.syntax", f"{key}: found {type(value).__name__}, expected text"


def _at(place: str, hits: list[Hit]) -> Iterator[Hit]:
    yield from ((rule, f"{place}: {words}") for rule, words in hits)


def jinja_template(source: str, seen: Examined) -> list[Hit]:
    try:
        from manifests.scan import jinja
    except ImportError:
        seen.not_checked.append("chat templates in Jinja: jinja2 is not installed")
        return list(text.invisible(source))
    return jinja.scan(source)


def _read(path: Path) -> bytes | None:
    with path.open("rb") as stream:
        raw = stream.read(MAX_TEXT + 1)
    return raw if len(raw) <= MAX_TEXT else None


def _text(kind: str, path: Path, seen: Examined) -> Iterator[Hit]:
    raw = _read(path)
    if raw is None:
        yield "layer.text", f"more than {MAX_TEXT} bytes"
        return
    if found := list(files.magic(raw)):
        yield from found
        return
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        yield "layer.text", f"not UTF-8: {error.reason} at byte {error.start}"
        return
    if kind == "license":
        seen.licences.append(content)
        if found_hostile := text.HOSTILE.search(content):
            yield "text.invisible", f"U+{ord(found_hostile.group()):04X}"
    elif kind in ("template", "prompt"):
        yield from gotemplate.scan(content)
    else:
        yield from _said(content)


def _said(content: str) -> Iterator[Hit]:
    yield from text.invisible(content, prose=True)
    yield from text.markup(content)


def _json(kind: str, path: Path, seen: Examined) -> Iterator[Hit]:
    wanted = {"params": dict, "messages": list}.get(kind, (dict, list))
    try:
        value = _parse(path)
    except ManifestsError as error:
        yield "layer.json", str(error)
        yield from files.magic(files.head(path))
        return
    if not isinstance(value, (dict, list)) or not isinstance(value, wanted):
        yield "layer.json", f"{kind}: unexpected {type(value).__name__}"
    elif kind == "messages" and isinstance(value, list):
        yield from _messages(value)
    elif isinstance(value, dict):
        yield from _params(value) if kind == "params" else _settings(value, seen)


def _params(value: dict[str, Any]) -> Iterator[Hit]:
    for name, given in value.items():
        if name not in TYPES and name not in DROPPED:
            yield "params.unknown", repr(name)[:80]
            continue
        try:
            typed = check_parameters({name: given}).get(name)
        except ModelfileError as error:
            yield "params.value", str(error)[:200]
            continue
        low, high = RANGES.get(name, (None, None))
        if low is not None and high is not None and isinstance(typed, (int, float)) and not low <= typed <= high:
            yield "params.value", f"{name}: {typed!r:.40}, expected {low} to {high}"


def _messages(value: list[Any]) -> Iterator[Hit]:
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            yield "layer.json", f"messages[{i}]: expected an object with a role"
            return
        content = message.get("content")
        yield from _at(f"messages[{i}]", list(_said(content)) if isinstance(content, str) else [])


def _settings(value: dict[str, Any], seen: Examined) -> Iterator[Hit]:
    """config.json, tokenizer_config.json and the like: templates, and code that loading would fetch."""
    if value.get("auto_map"):
        yield "file.auto-map", repr(value["auto_map"])[:120]
    template = value.get("chat_template")
    named = template if isinstance(template, list) else [{"name": "chat_template", "template": template}]
    for one in named[:100]:
        if isinstance(one, dict) and isinstance(one.get("template"), str):
            yield from _at(str(one.get("name"))[:60], jinja_template(one["template"], seen))


def _parse(path: Path) -> Any:
    raw = _read(path)
    return parse_json(raw if raw is not None else b"", limit=MAX_TEXT)


def _config(path: Path, seen: Examined) -> Iterator[Hit]:
    try:
        value = _parse(path)
    except ManifestsError as error:
        yield "config.json", str(error)
        return
    if not isinstance(value, dict):
        yield "config.json", f"expected an object, found {type(value).__name__}"
        return
    for key, content in value.items():
        # Go's decoder, which Ollama uses, takes a key in any letter case
        if key.lower() in ("remote_host", "remote_model") and content:
            yield "config.remote", f"{key}: prompts would leave this host"
    inner = value.get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    licence = labels.get("org.opencontainers.image.licenses") if isinstance(labels, dict) else None
    if isinstance(licence, str):
        seen.declared = licence


def _tensors(path: Path) -> Iterator[Hit]:
    raw, size = files.head(path), path.stat().st_size
    if files.looks_like_safetensors(raw, size):
        yield from files.safetensors(path)
    else:
        yield from files.magic(raw)
        yield "layer.unexamined", "not safetensors; this version does not look into other forms"


def _file(path: Path, name: str, seen: Examined) -> Iterator[Hit]:
    """By name, then by first bytes; what neither says is a text or a table that nobody runs."""
    low = name.lower()
    if low.endswith(".gguf"):
        yield from _gguf(path, seen)
        return
    if low.endswith(".safetensors"):
        yield from files.safetensors(path)
        return
    found = [*files.named(name), *files.magic(files.head(path))]
    yield from dict.fromkeys(found)
    if found:
        return
    if low.endswith(".json"):
        yield from _json("json", path, seen)
    elif low.endswith(".jinja"):
        raw = _read(path)
        yield from jinja_template((raw or b"").decode("utf-8", "replace"), seen)
    elif low.rsplit("/", 1)[-1].split(".")[0] in ("license", "licence", "copying"):
        yield from _text("license", path, seen)
