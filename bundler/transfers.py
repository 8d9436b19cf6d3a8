"""Registries for the server's /api/pull and /api/push: the door hands this over, for the runtime may not import us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bundler.registry.client import Registry
from bundler.registry.pull import Report, pull
from bundler.registry.push import push
from manifests.name import ModelName
from manifests.store import Store


class Transfers:
    """Runs in a thread. `report` takes Ollama's progress objects (contract, 4.3) and may raise to end the transfer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pull(self, name: ModelName, *, insecure: bool, report: Callable[[dict[str, Any]], None]) -> None:
        with Registry(name, insecure=insecure) as registry:
            pull(self._store, registry, lambda step: report(as_json(step)))

    def push(self, name: ModelName, *, insecure: bool, report: Callable[[dict[str, Any]], None]) -> None:
        with Registry(name, insecure=insecure) as registry:
            push(self._store, name, registry, lambda step: report(as_json(step)))


def as_json(report: Report) -> dict[str, Any]:
    """One line of the progress stream."""
    if report.digest is None:
        return {"status": report.status}
    return {"status": report.status, "digest": str(report.digest), "total": report.total, "completed": report.completed}
