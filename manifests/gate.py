"""The content gate: a first look into a model's blobs before it may become visible. Findings, not verdicts on
behaviour.

Run as `python -m manifests.gate`: a request in JSON on stdin, a report in JSON on stdout. The child has no network,
bounded memory and time, and may not write files; what could not be arranged is listed in the report, never hidden.

    rule                severity  what it says
    gguf.structure      error     a weights, adapter, projector or draft layer is not a sound GGUF file
    gguf.architecture   error     a GGUF names no architecture
    layer.unknown       error     a manifest carries a layer type that Ollama does not have
    layer.unexamined    note      a layer type that this version does not look into
    layer.json          error     params, messages or json layers are not JSON of the right kind
    layer.text          error     a text layer is not UTF-8 or is too large
    config.json         error     the config is not a JSON object
    config.remote       error     the config sends prompts to another host (remote_host, remote_model)
    model.weights       error     a model without a weights layer

Absent: templates are not parsed here yet; the report says so.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.fields import Fields, parse_json
from manifests.gguf import Gguf
from manifests.manifest import OLLAMA_PREFIX

GGUF_LAYERS = ("model", "adapter", "projector", "draft")
TEXT_LAYERS = ("template", "prompt", "system", "license")
UNEXAMINED = ("tensor", "embed")
MAX_TEXT = 16 << 20  # bytes of a text, params, messages or config blob
MAX_REPORT = 16 << 20  # bytes read from the child
MAX_FINDINGS = 1000
MEMORY = 2 << 30  # bytes of the child's own data; a mapped file does not count
SECONDS = 300  # of processor time, and of patience
NOT_CHECKED = ("chat templates: looked at as text only", "tensor values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`rule` from the table above, `severity` error or note, `place` such as `layer model sha256:…`."""

    rule: str
    severity: str
    place: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One blob to look at: its role in the manifest (`config` or a media type) and where its bytes lie."""

    media_type: str
    digest: Digest
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")


CONFIG = "config"


def examine(items: Iterable[Item]) -> list[Finding]:
    """All findings over one model's blobs, in this process. Bytes are expected to have been hashed already."""
    findings: list[Finding] = []
    kinds = []
    for item in items:
        kind = item.media_type.removeprefix(OLLAMA_PREFIX)
        kinds.append(kind)
        place = f"{'layer ' if kind != CONFIG else ''}{kind[:80]} {item.digest}"
        findings += [
            Finding(rule=rule, severity=severity, place=place, text=text) for rule, severity, text in _look(kind, item)
        ]
    if not {"model", "tensor"} & set(kinds):
        findings.append(Finding(rule="model.weights", severity="error", place="manifest", text="no layer with weights"))
    return findings[:MAX_FINDINGS]


def _look(kind: str, item: Item) -> list[tuple[str, str, str]]:
    if kind == CONFIG:
        return _config(item)
    if kind in GGUF_LAYERS:
        return _gguf(item)
    if kind in ("params", "messages", "json"):
        return _json(kind, item)
    if kind in TEXT_LAYERS:
        return _text(item)
    if kind in UNEXAMINED:
        return [("layer.unexamined", "note", "this version does not look into such layers")]
    return [("layer.unknown", "error", f"unknown layer type {item.media_type[:120]!r}")]


def _gguf(item: Item) -> list[tuple[str, str, str]]:
    try:
        gguf = Gguf.open(item.path)
    except ManifestsError as error:
        return [("gguf.structure", "error", str(error).replace(str(item.path), "file"))]
    try:
        architecture = gguf.architecture
    except ManifestsError as error:
        return [("gguf.architecture", "error", str(error))]
    assert architecture
    return []


def _read(item: Item) -> bytes | None:
    with item.path.open("rb") as stream:
        raw = stream.read(MAX_TEXT + 1)
    return raw if len(raw) <= MAX_TEXT else None


def _text(item: Item) -> list[tuple[str, str, str]]:
    raw = _read(item)
    if raw is None:
        return [("layer.text", "error", f"more than {MAX_TEXT} bytes")]
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return [("layer.text", "error", f"not UTF-8: {error.reason} at byte {error.start}")]
    return []


def _json(kind: str, item: Item) -> list[tuple[str, str, str]]:
    wanted = {"params": dict, "messages": list}.get(kind, (dict, list))
    try:
        value = _parse(item)
    except ManifestsError as error:
        return [("layer.json", "error", str(error))]
    if not isinstance(value, wanted):
        return [("layer.json", "error", f"{kind}: unexpected {type(value).__name__}")]
    if kind == "messages":
        for i, message in enumerate(value):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                return [("layer.json", "error", f"messages[{i}]: expected an object with a role")]
    return []


def _parse(item: Item) -> Any:
    raw = _read(item)
    return parse_json(raw if raw is not None else b"", limit=MAX_TEXT)


def _config(item: Item) -> list[tuple[str, str, str]]:
    try:
        value = _parse(item)
    except ManifestsError as error:
        return [("config.json", "error", str(error))]
    if not isinstance(value, dict):
        return [("config.json", "error", f"expected an object, found {type(value).__name__}")]
    # Go's decoder, which Ollama uses, takes a key in any letter case
    remote = [key for key, content in value.items() if key.lower() in ("remote_host", "remote_model") and content]
    return [("config.remote", "error", f"{key}: prompts would leave this host") for key in remote]


# -- the child


def run(models: Sequence[Sequence[Item]]) -> Report:
    """Examines each model's blobs in a confined child. Raises ManifestsError where the child did not answer."""
    request = [[[item.media_type, str(item.digest), str(item.path)] for item in items] for items in models]
    root = str(Path(__file__).resolve().parent.parent)
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-B", "-m", "manifests.gate"],
            input=json.dumps(request).encode(),
            capture_output=True,
            env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd=root,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ManifestsError(f"the content gate did not answer: {type(error).__name__}") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ManifestsError(f"the content gate ended with status {done.returncode}: {' '.join(last)[:300]}")
    fields = Fields.of(parse_json(done.stdout, limit=MAX_REPORT))
    findings = fields.array("findings", _finding, maximum=MAX_FINDINGS * max(1, len(models)))
    unchecked = fields.array("not_checked", lambda value, path: str(value)[:300], maximum=100)
    return Report(findings=findings, not_checked=unchecked)


def _finding(value: Any, path: str) -> Finding:
    fields = Fields.of(value, path)
    return Finding(**{key: fields.text(key, maximum=2000) for key in ("rule", "severity", "place", "text")})


def _confine() -> list[str]:
    """Limits and no network, before any byte of a model is read; returns what could not be done."""
    from manifests import confine

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return list(confine.without_network())


def main() -> None:
    request = json.load(sys.stdin)
    not_checked = [*NOT_CHECKED, *(f"confinement of the gate: {problem}" for problem in _confine())]
    findings: list[Finding] = []
    for model in request:
        findings += examine(
            Item(media_type=kind, digest=Digest.parse(digest), path=Path(path)) for kind, digest, path in model
        )
    out = [{"rule": f.rule, "severity": f.severity, "place": f.place, "text": f.text[:2000]} for f in findings]
    json.dump({"findings": out, "not_checked": not_checked}, sys.stdout)


if __name__ == "__main__":
    main()
