"""The verbs pull and push. Arguments and printing only."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from bundler.registry.pull import Report

INSECURE = typer.Option(False, "--insecure", help="Permit plain http and unchecked certificates.")
CA = typer.Option(None, "--ca", help="A file of PEM certificates to trust instead of the system's.")
JSON = typer.Option(False, "--json", help="Print one JSON object a line, for scripts.")


def register(app: typer.Typer) -> None:
    app.command("pull")(pull_)
    app.command("push")(push_)


def pull_(
    name: str = typer.Argument(help="Such as llama3.2:1b, hf.co/user/repo:Q4_K_M or registry.example/team/model:tag."),
    insecure: bool = INSECURE,
    ca: Path = CA,
    digest: str = typer.Option(None, "--digest", help="Refuse the model unless its manifest has this sha256: digest."),
    as_json: bool = JSON,
) -> None:
    """Fetch a model from a registry: Ollama's, Hugging Face's, or any OCI registry.

    Resumes where an earlier attempt stopped. Every byte is hashed; blobs that are there already are hashed again.
    Proxies come from HTTPS_PROXY; credentials from SEALIFT_REGISTRY_HOST, _USER and
    _PASSWORD, or from where docker login writes them without a credential helper.
    """
    from bundler.registry.client import Registry
    from bundler.registry.pull import pull
    from manifests.digest import Digest
    from manifests.name import ModelName
    from manifests.store import Store

    wanted = Digest.parse(digest) if digest else None
    with Registry(ModelName.parse(name), insecure=insecure, ca=ca) as registry, _observer(as_json) as observer:
        manifest = pull(Store(), registry, observer, expect=wanted)
    if not as_json:
        print(f"pulled '{registry.name.short}' {manifest.digest}")


def push_(
    name: str = typer.Argument(help="A model of the store, named with the registry it goes to: host/user/model:tag."),
    source: str = typer.Option(None, "--from", help="The model to push, where it is stored under another name."),
    insecure: bool = INSECURE,
    ca: Path = CA,
    as_json: bool = JSON,
) -> None:
    """Upload a model to a registry. Every blob is hashed first; blobs the registry has are not sent again."""
    from bundler.registry.client import Registry
    from bundler.registry.push import push
    from manifests.name import ModelName
    from manifests.store import Store

    target = ModelName.parse(name)
    store = Store()
    stored = ModelName.parse(source) if source else target
    store.manifest(stored)
    with Registry(target, insecure=insecure, ca=ca) as registry, _observer(as_json) as observer:
        manifest = push(store, stored, registry, observer)
    if not as_json:
        print(f"pushed '{target.short}' {manifest.digest}")


@contextlib.contextmanager
def _observer(as_json: bool) -> Iterator[Callable[[Report], None]]:
    """JSON lines on stdout; else bars on a terminal, and nothing where stderr is piped."""
    if as_json:
        from bundler.transfers import as_json as encode

        yield lambda report: print(json.dumps(encode(report)), flush=True)
    elif sys.stderr.isatty():
        with _bars() as observer:
            yield observer
    else:
        yield lambda report: None


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[Report], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def observe(report: Report) -> None:
            if report.digest is None:
                progress.console.print(report.status)
                return
            if report.status not in tasks:
                tasks[report.status] = progress.add_task(report.status, total=report.total)
            progress.update(tasks[report.status], completed=report.completed)

        yield observe
