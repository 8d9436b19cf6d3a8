"""The model that is measured: one of the store, or a GGUF file by its path.

A text that ends in `.gguf` is a path; everything else is a name. Both need no server and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.digest import Digest
from manifests.errors import NotFound
from manifests.gguf import Gguf
from manifests.store import Store
from native import engine as native
from native.plan import Plan
from native.weight import Weight
from runtime.engine import resources
from runtime.engine.blocks import blocks_for
from runtime.engine.native_runner import PROCESS, plan_memory, refusals
from runtime.errors import CapabilityMissing, ModelNotFound, RequestRefused
from runtime.models.adapters import adapt
from runtime.models.load import load
from runtime.models.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """`name`: as people know it, without a path. `stored`: the store knows its digest."""

    name: str
    path: Path
    stored: Digest | None
    file: Gguf
    spec: ModelSpec
    plan: Plan
    weights: dict[str, Weight]

    def digest(self) -> Digest:
        """Of the whole GGUF file; one that is not of the store is read for it."""
        if self.stored is not None:
            return self.stored
        with self.path.open("rb") as file:
            return Digest.of_stream(file)

    def engine(self, *, threads: int, tokens: int, **most: Any) -> native.Engine:
        """With room for `tokens` tokens of keys and values. `most`: max_rows, max_seqs, max_outputs; kv_type.

        Raises OutOfMemory before anything is taken, with the numbers.
        """
        most["threads"] = threads or resources.cores()
        with refusals():
            sizes = native.measure(self.plan, self.weights, n_blocks=1, **most)
            blocks = blocks_for(tokens)
            plan_memory(
                sizes.weight_bytes, sizes.scratch_bytes + PROCESS, blocks * sizes.bytes_per_block, 1,
                resources.memory_available(),
            )  # fmt: skip
            engine = native.Engine(self.plan, self.weights, n_blocks=blocks, **most)
            self.file.release()  # as a worker does
            return engine


def find(text: str) -> Subject:
    """Raises ModelNotFound, RequestRefused (also of an embedding model), ModelRefused and GgufError, by name."""
    path, name, stored, adapters = _file(text) if text.endswith(".gguf") else _stored(text)
    gguf = Gguf.open(path)
    spec, plan, weights = load(gguf)
    if spec.pooling:
        raise CapabilityMissing(f"{name} gives vectors: bench and eval measure models that answer with text")
    adapted, added = adapt(gguf, spec, plan, weights, [Gguf.open(path) for path in adapters])
    return Subject(
        name=name, path=path, stored=stored, file=gguf, spec=spec, plan=adapted, weights={**weights, **added}
    )


def _file(text: str) -> tuple[Path, str, None, list[Path]]:
    path = Path(text)
    if not path.is_file():
        hint = "sealift list shows the models of the store; a path must end in .gguf"
        raise ModelNotFound(f"{text}: no such file", hint=hint)
    return path, path.name.removesuffix(".gguf"), None, []


def _stored(text: str) -> tuple[Path, str, Digest, list[Path]]:
    from runtime.api import names
    from runtime.card import CardBox

    store = Store()
    name = names.parse(text, store)
    if name is None:
        raise RequestRefused(f"{text!r:.80} is no model's name", hint="sealift list shows the models of the store")
    try:
        card = CardBox(store).card(name)
    except NotFound:
        hint = "sealift list shows the models of the store; a file is named by a path that ends in .gguf"
        raise ModelNotFound(f"model '{name.short}' not found", hint=hint) from None
    names.refuse_remote(card)
    digest = card.weights.digest
    adapters = [store.blob_path(layer.digest) for layer in card.adapters]
    return store.blob_path(digest), name.short, digest, adapters
