"""A connected side and an isolated side in a temporary folder: stores, a signer, trust, small models.

Leaves are 4 KiB here instead of 4 MiB, so that a bundle of a few hundred kilobytes has segments, trees and several
volumes.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gguf
import numpy as np

from bundler.channels import Channels
from bundler.draft import Options
from bundler.export import ExportReport, export
from bundler.importer import ImportReport, import_bundle
from bundler.verify import Verification, verify
from manifests.digest import Digest
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store
from signing.keys import Signer, generate
from signing.trust import TrustStore

LEAF = 4096
VOLUME = 128 << 10  # bytes; the statement with room for signatures takes about 50 KiB of it


_signer = cache(generate)


def signer(name: str = "alice") -> Signer:
    """The same keys for the same name, in one test run."""
    return _signer(name)


def trusting(*signers: Signer) -> TrustStore:
    store = TrustStore.empty()
    for one in signers:
        store = store.add(one.public, ["publisher"])
    return store


def small_gguf(path: Path, *, seed: int = 0, tensors: int = 3, rows: int = 64) -> Path:
    """A sound GGUF of random weights: `tensors` x 32 x `rows` floats."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", tensors)
    numbers = np.random.default_rng(seed)
    for i in range(tensors):
        writer.add_tensor(f"blk.{i}.weight", numbers.standard_normal((rows, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def put(store: Store, kind: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=OLLAMA_PREFIX + kind, digest=store.put_bytes(data), size=len(data))


def put_model(
    store: Store,
    name: str,
    weights: bytes,
    *,
    config: dict[str, object] | None = None,
    layers: Sequence[tuple[str, bytes]] = (("template", b"{{ .Prompt }}"), ("license", b"MIT License\n")),
) -> ModelName:
    raw_config = json.dumps({"model_format": "gguf", "model_family": "llama", **(config or {})}).encode()
    descriptors = [put(store, "model", weights), *(put(store, kind, data) for kind, data in layers)]
    head = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(raw_config), size=len(raw_config))
    parsed = ModelName.parse(name)
    store.put_manifest(parsed, Manifest.build(head, tuple(descriptors)).raw)
    return parsed


@dataclass(slots=True)
class Gap:
    """Both sides. `medium` is the stick between them."""

    root: Path
    near: Store = field(init=False)
    far: Store = field(init=False)
    medium: Path = field(init=False)

    def __post_init__(self) -> None:
        self.near, self.far = Store(self.root / "near" / "models"), Store(self.root / "far" / "models")
        self.medium = self.root / "usb"
        self.medium.mkdir(parents=True)

    def model(self, name: str = "mine", *, seed: int = 1, rows: int = 640) -> ModelName:
        weights = small_gguf(self.root / "weights.gguf", seed=seed, rows=rows).read_bytes()
        return put_model(self.near, name, weights)

    def export(
        self, *names: str, options: Options | None = None, by: Sequence[Signer] = (), out: Path | None = None
    ) -> ExportReport:
        options = options or Options(volume_size=VOLUME, leaf_size=LEAF)
        parsed = [ModelName.parse(name) for name in names or ("mine",)]
        return export(self.near, parsed, out or self.medium, by or [signer()], options, seen=self.exported)

    @property
    def exported(self) -> Channels:
        return Channels(self.root / "near" / "exports.json")

    @property
    def seen(self) -> Channels:
        return Channels(self.root / "far" / "channels.json")

    def verify(
        self, *, trust: TrustStore | None = None, dry_run: bool = False, sums: bool = False, path: Path | None = None
    ) -> Verification:
        return verify(path or self.medium, trust or trusting(signer()), seen=self.seen, dry_run=dry_run, sums=sums)

    def bring_in(
        self, *, trust: TrustStore | None = None, path: Path | None = None, keep: bool = False
    ) -> ImportReport:
        return import_bundle(path or self.medium, self.far, trust or trusting(signer()), seen=self.seen, keep=keep)


def volumes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.v*.tar"))


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below `folder`, with size and digest: two equal trees are the same files with the same bytes."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            data = (Path(path) / name).read_bytes()
            found[str((Path(path) / name).relative_to(folder))] = (len(data), Digest.of(data).hex)
    return found


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
