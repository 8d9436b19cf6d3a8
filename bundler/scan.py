"""`sealift scan`: the content gate on demand, for a model of the store, a file, or the folder of a model."""

from __future__ import annotations

from pathlib import Path

from bundler import contents
from bundler.errors import BadRequest
from manifests import gate
from manifests.name import ModelName
from manifests.store import Store

MAX_FILES = 10_000  # of one folder


def scan(target: str, store: Store, rules: gate.Rules | None = None) -> gate.Report:
    """`target` is a path if it has a slash or ends like a file of a model, else a name. Blobs are not hashed here:
    `sealift verify` does that. Raises BadRequest, the store's errors, and the gate's where it could not run."""
    path = Path(target)
    if "/" not in target and path.suffix not in (".gguf", ".safetensors"):
        manifest = store.manifest(store.resolve(ModelName.parse(target)))
        return gate.run([contents.gate_items(manifest, store.blob_path)], rules)
    return gate.run([_items(path)], rules)


def _items(path: Path) -> list[gate.Item]:
    if path.is_file():
        return [gate.Item(media_type=gate.FILE, path=path, name=path.name)]
    if not path.is_dir():
        raise BadRequest(f"{path}: no such file or folder", hint="a model of the store is named without a slash")
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and ".git" not in file.relative_to(path).parts]
    if len(found) > MAX_FILES:
        raise BadRequest(f"{path}: {len(found)} files, at most {MAX_FILES} are looked at")
    return [gate.Item(media_type=gate.FILE, path=file, name=str(file.relative_to(path))) for file in found]
