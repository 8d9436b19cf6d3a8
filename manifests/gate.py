"""The content gate: what a model's blobs hold, before it may become visible. Findings, not verdicts on behaviour.

Run as `python -m manifests.gate`: a request in JSON on stdin, a report in JSON on stdout. The child has no network,
bounded memory and time, and may not write files; what could not be arranged is listed in the report, never hidden. The
rules are in `manifests/scan/rules.py`; nothing is loaded, rendered or run to find out.

A finding whose action is `refuse` stops an import or an export; the others are shown and kept.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.fields import Fields, parse_json
from manifests.manifest import OLLAMA_PREFIX
from manifests.scan import licences
from manifests.scan.rules import CONFIG, FILE, MAX_TEXT, RULES, Finding

__all__ = ["CONFIG", "FILE", "Finding", "Item", "Report", "Rules", "examine", "run"]

VERSION = 2  # of the report
MAX_REPORT = 16 << 20  # bytes read from the child
MAX_FINDINGS = 1000  # of one model
MEMORY = 2 << 30  # bytes of the child's own data; a mapped file does not count
SECONDS = 300  # of processor time, and of patience
NOT_CHECKED = (
    "tensor values",
    "templates in Go's language: words, blocks and texts only",
    "templates: branches on lengths, turns and roles, and names that loops assemble",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What this site does (policy.toml): `actions` by rule id, and which licences it takes."""

    actions: Mapping[str, str] = field(default_factory=dict)
    licences: licences.Rules = field(default_factory=licences.Rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One blob to look at: its role in the manifest (`config` or a media type) and where its bytes lie. A `file` of a
    tree has no digest, and a name."""

    media_type: str
    path: Path
    digest: Digest | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]

    @property
    def refused(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.action == "refuse")

    def words(self) -> str:
        """The first refusals, in one line."""
        return "; ".join(f"{found.place}: {found.text} [{found.rule}]" for found in self.refused[:4])

    def as_dict(self) -> dict[str, Any]:
        """For records, receipts and --json."""
        return {
            "gate": VERSION,
            "findings": [finding.as_dict() for finding in self.findings],
            "not_checked": list(self.not_checked),
        }


def examine(items: Iterable[Item], rules: Rules | None = None) -> Report:
    """All findings over one model's blobs, in this process. Bytes are expected to have been hashed already."""
    from manifests.scan import layers

    rules = rules or Rules()
    seen, findings, kinds = layers.Examined(), list[Finding](), set[str]()
    for item in items:
        kind = item.media_type.removeprefix(OLLAMA_PREFIX)
        kinds.add(kind)
        place = item.name or f"{'layer ' if kind != CONFIG else ''}{kind[:80]} {item.digest}"
        for hit in layers.look(kind, item.path, item.name, seen):
            findings.append(Finding.of(hit, place, rules.actions))
            if len(findings) >= MAX_FINDINGS:
                break
    whole = list(licences.judge(seen.declared, seen.licences, rules.licences))
    if FILE not in kinds and not kinds & {"model", "tensor"}:
        whole.append(("model.weights", "no layer with weights"))
    findings += [Finding.of(hit, "model", rules.actions) for hit in whole]
    # where findings are cut, those that refuse stay
    findings.sort(key=lambda finding: finding.action != "refuse")
    return Report(findings=tuple(findings[:MAX_FINDINGS]), not_checked=tuple(dict.fromkeys(seen.not_checked)))


# -- the child


def run(models: Sequence[Sequence[Item]], rules: Rules | None = None) -> Report:
    """Examines each model's blobs in a confined child. Raises ManifestsError where the child did not answer."""
    root = str(Path(__file__).resolve().parent.parent)
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-B", "-m", "manifests.gate"],
            input=_request(models, rules or Rules()),
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


def _request(models: Sequence[Sequence[Item]], rules: Rules) -> bytes:
    taken = rules.licences
    document = {
        "models": [
            [[item.media_type, str(item.path.absolute()), str(item.digest or ""), item.name] for item in items]
            for items in models
        ],
        "actions": dict(rules.actions),
        "allow": None if taken.allow is None else sorted(taken.allow),
        "deny": sorted(taken.deny),
    }
    return json.dumps(document).encode()


def _finding(value: Any, path: str) -> Finding:
    fields = Fields.of(value, path)
    return Finding(
        **{key: fields.text(key, maximum=MAX_TEXT + 4096) for key in ("rule", "severity", "place", "text", "action")}
    )


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
    allow = request["allow"]
    taken = licences.Rules(allow=None if allow is None else frozenset(allow), deny=frozenset(request["deny"]))
    rules = Rules(actions=request["actions"], licences=taken)
    findings: list[dict[str, str]] = []
    for model in request["models"]:
        report = examine([_item(*entry) for entry in model], rules)
        findings += [finding.as_dict() for finding in report.findings]
        not_checked += report.not_checked
    json.dump({"findings": findings, "not_checked": list(dict.fromkeys(not_checked))}, sys.stdout)


def _item(media_type: str, path: str, digest: str, name: str) -> Item:
    return Item(media_type=media_type, path=Path(path), digest=Digest.parse(digest) if digest else None, name=name)


def check_actions(actions: Mapping[str, str]) -> str | None:
    """What is wrong with a policy's table, or None."""
    from manifests.scan.rules import ACTIONS

    for rule, action in actions.items():
        if rule not in RULES:
            return f"no rule of the content gate is named {rule[:60]!r}"
        if action not in ACTIONS:
            return f"{rule}: expected one of {', '.join(ACTIONS)}, found {action[:40]!r}"
    return None


if __name__ == "__main__":
    main()
