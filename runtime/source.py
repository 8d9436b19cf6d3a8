"""What to load, and how: of a model that was found in the store, of the server's settings, of the request's options.

Imports little: a server tells its first worker what to load before it imports what answers requests (runtime.starting).
"""

from __future__ import annotations

import re
from pathlib import Path

from manifests.name import ModelName
from manifests.store import Store
from native.record import record
from runtime.card import ModelCard
from runtime.engine.protocol import Load
from runtime.errors import RequestRefused
from runtime.options import Options
from runtime.told import Settings

OLLAMA_API = "0.33.0"  # the level of Ollama's API we answer as; clients parse it and want at least 0.6.4
DEFAULT_CONTEXT = 4096  # tokens, where nobody says
MAX_SEQS = 16  # sequences one worker computes together


@record(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What to load and how. `weights` names the content of `path` (its blob digest), `adapters` are (digest, path) of
    the LoRAs added to it: sources of equal `content` and compatible options share a worker, whatever their names.

    `digest` is the manifest's; `size` the bytes of all its blobs. `n_ctx` 0: the server's default, and then a running
    worker with a larger one will do as well; it is cut to what the model was trained for. `threads` 0: one a core.
    `parallel`: full contexts that the key/value pool holds; 0: as many as fit well. `max_rows`: of one step. `kv_type`:
    how keys and values are kept. Those two are the server's, the same for
    all its models. `packs`: as in Load.
    """

    name: str
    digest: str
    weights: str
    path: Path
    size: int
    adapters: tuple[tuple[str, Path], ...] = ()
    n_ctx: int = 0
    threads: int = 0
    parallel: int = 0
    max_rows: int = 512
    kv_type: str = "f16"
    packs: str = ""

    @property
    def content(self) -> str:
        """What a worker computes with: the digests of the weights and of the adapters, in order."""
        return " ".join((self.weights, *(digest for digest, _ in self.adapters)))


def source_of(store: Store, settings: Settings, name: ModelName, card: ModelCard, options: Options) -> ModelSource:
    """Refuses a model that asks for a later Ollama (its REQUIRES) than this server answers as."""
    _refuse_newer(card, name)
    weights = card.weights
    return ModelSource(
        name=name.short,
        digest=card.manifest.digest.hex,
        weights=str(weights.digest),
        path=store.blob_path(weights.digest),
        size=card.manifest.size,
        adapters=tuple((str(layer.digest), store.blob_path(layer.digest)) for layer in card.adapters),
        n_ctx=options.num_ctx or settings.context_length,
        threads=options.num_thread or settings.threads,
        parallel=settings.parallel,
        max_rows=settings.batch_rows,
        kv_type=settings.kv_type,
        packs=str(store.packs / weights.digest.hex),
    )


def load_of(source: ModelSource) -> Load:
    """As its worker is told it."""
    return Load(
        path=str(source.path.resolve()),
        adapters=tuple(str(path.resolve()) for _, path in source.adapters),
        n_ctx=source.n_ctx or DEFAULT_CONTEXT,
        threads=source.threads,
        parallel=source.parallel,
        max_seqs=MAX_SEQS,
        max_rows=source.max_rows,
        kv_type=source.kv_type,
        packs=source.packs,
        blob=source.weights,
    )


def _refuse_newer(card: ModelCard, name: ModelName) -> None:
    asked = str(card.config.get("requires") or "")
    found = _RELEASE.match(asked)
    if found and tuple(map(int, found.groups())) > tuple(map(int, OLLAMA_API.split("."))):
        raise RequestRefused(
            f"{name.short} requires Ollama {asked[:40]} or later; this server answers as {OLLAMA_API}",
            hint="its Modelfile says so: REQUIRES",
        )


_RELEASE = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})", re.ASCII)
