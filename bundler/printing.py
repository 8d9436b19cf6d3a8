"""What the verbs of bundles print: reports for people, JSON for scripts, progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bundler.importer import ImportReport
    from bundler.inspect import Inspection
    from bundler.verify import Verification, VerifiedBundle
    from manifests.gate import Finding
    from manifests.statement import Statement


def say(text: str) -> None:
    print(f"sealift: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_bundle(bundle: VerifiedBundle) -> None:
    from bundler.sizes import show_size

    statement = bundle.statement
    for line in bundle.verdict.sentences():
        print(line)
    print(
        f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}, created {statement.created}"
    )
    print(f"{len(statement.volumes)} volume(s), {show_size(bundle.size)}")
    print_since(statement)
    for model in statement.models:
        origin = model.source.get("source") or model.source.get("kind", "unknown")
        print(f"  {model.name.short}  {model.manifest.short}  from {origin}")


def print_since(statement: Statement) -> None:
    """Of a delta: what must be on the other side."""
    from bundler.sizes import show_size

    if statement.since is None:
        return
    print(f"only what changed since {statement.since}; the other side must have:")
    for blob in statement.held:
        print(f"  {blob.digest}  {show_size(blob.size)}")
    for blob in statement.built:
        if blob.built:
            size = sum(piece.size for piece in blob.built.pieces if piece.base is None)
            print(
                f"  {blob.digest.short} is built there from {blob.built.base.short} and {show_size(size)} that travel"
            )


def print_verification(report: Verification) -> None:
    for note in report.notes:
        print(f"note: {note}")
    for item in report.not_checked:
        if item not in report.bundle.verdict.not_checked:  # printed with the verdict already
            print(f"not checked: {item}")
    print(
        "verified: every byte of every volume is as signed" if report.complete else "the statement is trusted (dry run)"
    )


def print_import(report: ImportReport) -> None:
    for finding in report.findings:
        print_finding(finding)
    for note in report.notes:
        print(f"note: {note}")
    for item in report.not_checked:
        if item not in report.bundle.verdict.not_checked:
            print(f"not checked: {item}")
    words = {"new": "new", "same": "was here already", "replaced": "replaced", "kept": "kept as it was here"}
    for model in report.models:
        before = f" (before: {model.previous.short})" if model.action in ("replaced", "kept") and model.previous else ""
        print(f"{'imported' if report.complete else 'would import'} {model.name.short}: {words[model.action]}{before}")


def print_finding(finding: Finding) -> None:
    word = "ignored" if finding.action == "ignore" else finding.severity
    print(f"{word}: {finding.place}: {finding.text} [{finding.rule}]")


def print_inspection(found: Inspection) -> None:
    from bundler.sizes import show_size

    statement = found.statement
    print("unverified: this is what the medium says of itself" if not found.trusted else "the statement is trusted")
    print(
        f"bundle {statement.id}: channel {statement.channel}, number {statement.sequence}, created {statement.created}"
    )
    for model in statement.models:
        print(f"  {model.name.short}  {model.manifest.short}")
    print(f"  {len(statement.blobs)} blobs, {show_size(sum(blob.size for blob in statement.blobs))}")
    print_since(statement)
    for line in found.verdict.sentences() if found.verdict else [f"signature by key {keyid}" for keyid in found.keyids]:
        print(line)
    for item in found.approvals:
        print(f"  {item.name}  an approval, signed by {len(item.keyids)} key(s)")
    words = {"here": "here, not read", "missing": "MISSING", "size": "WRONG SIZE"}
    for volume in found.volumes:
        print(f"  {volume.name}  {show_size(volume.size)}  {words[volume.state]}")


# -- progress

Bar = Callable[[int, int], None]


@contextlib.contextmanager
def bar(title: str) -> Iterator[Bar | None]:
    """Bytes, rate and time left on a terminal; nothing when piped."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def counted(bar: Bar | None, folder: Path) -> Callable[[int], None] | None:
    """From pieces to a running sum, against the size of the volumes that lie there."""
    if bar is None:
        return None
    place = folder if folder.is_dir() else folder.parent
    paths = [*place.glob("*.v*.tar"), *place.glob("*.v*.tar.age")]
    total, done = sum(path.stat().st_size for path in paths), 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        bar(min(done, total), total)

    return add
