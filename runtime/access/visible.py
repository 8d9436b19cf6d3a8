"""The store as a key with a list of models sees it: a model that is not on the list is not there.

It is not listed, not found (in the words for a model that does not exist), and its name cannot be taken. What the store
itself must know of all models, which blobs are still needed, it asks the whole store. Blobs have no names, so a key of
scope `admin` uses any blob whose digest it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from manifests.digest import Digest
from manifests.errors import NotFound
from manifests.manifest import Manifest
from manifests.name import ModelName
from manifests.store import Store
from runtime.errors import Forbidden


class VisibleStore(Store):
    """`allows`: whether the list has a name. `refused` is called when one is asked for that it has not."""

    def __init__(self, whole: Store, allows: Callable[[ModelName], bool], refused: Callable[[], None]) -> None:
        super().__init__(whole.root)
        self.allows = allows
        self._whole, self._refused = whole, refused

    def names(self) -> list[ModelName]:
        return [name for name in self._whole.names() if self.allows(name)]

    def resolve(self, name: ModelName) -> ModelName:
        return self._whole.resolve(name) if self.allows(name) else name

    def has(self, name: ModelName) -> bool:
        if not self.allows(name):
            self._refused()
            return False
        return self._whole.has(name)

    def manifest(self, name: ModelName) -> Manifest:
        self._require(name)
        return self._whole.manifest(name)

    def modified(self, name: ModelName) -> datetime:
        self._require(name)
        return self._whole.modified(name)

    def put_manifest(self, name: ModelName, raw: bytes) -> Manifest:
        self.require_allowed(name)
        return self._whole.put_manifest(name, raw)

    def copy(self, source: ModelName, target: ModelName) -> None:
        self._require(source)
        self.require_allowed(target)
        self._whole.copy(source, target)

    def remove(self, name: ModelName) -> list[Digest]:
        self._require(name)
        return self._whole.remove(name)

    def drop_unused(self, manifest: Manifest) -> list[Digest]:
        return self._whole.drop_unused(manifest)

    def referenced(self) -> set[Digest]:
        return self._whole.referenced()

    def require_allowed(self, name: ModelName) -> None:
        """Raises Forbidden: a name to be written, which says nothing about what is there."""
        if not self.allows(name):
            self._refused()
            raise Forbidden(f"this key may not use the model name {name.short!r}")

    def _require(self, name: ModelName) -> None:
        if not self.allows(name):
            self._refused()
            raise NotFound(f"model '{name.short}' not found", hint="sealift list shows the models of this store")


@dataclass(frozen=True, slots=True)
class VisibleTransfers:
    """Registries for a key with a list of models. `whole` is a state.Transfers."""

    whole: Any
    store: VisibleStore

    def pull(self, name: ModelName, **options: Any) -> None:
        self.store.require_allowed(name)
        self.whole.pull(name, **options)

    def push(self, name: ModelName, **options: Any) -> None:
        self.store.require_allowed(name)
        self.whole.push(name, **options)
