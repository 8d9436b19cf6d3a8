"""Makes a model: layers and a manifest from a Modelfile or from the fields of /api/create (contract, 5.4).

A model is based on another model of the store (`from_model`) or on GGUF blobs that are in the store already (`files`).
Stored digests equal the files' own: nothing is rewritten. Nothing is pulled: an unknown base is an error.
Refuses weights that are not GGUF, split GGUF files, quantizing, and stubs that name a remote host.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from manifests.digest import Digest
from manifests.errors import CreateError, GgufError, NotFound
from manifests.fields import parse_json
from manifests.gguf import Gguf
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.modelfile import Modelfile
from manifests.name import ModelName
from manifests.parameters import check_parameters
from manifests.store import Progress, Store

MAX_CONFIG = 4 << 20  # bytes of a config, params or messages layer

Status = Callable[[str], None]
Bar = Callable[[str, int], contextlib.AbstractContextManager[Progress]]  # title, bytes in all
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What to make. None and empty mean "as in the base"; licences are added to the base's, parameters merged over."""

    from_model: ModelName | None = None
    files: dict[str, Digest] = field(default_factory=dict)
    adapters: dict[str, Digest] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None


def create(store: Store, name: ModelName, request: CreateRequest, status: Status = lambda line: None) -> Manifest:
    """Writes the model and a record of how it was made. Raises CreateError and the store's errors."""
    if request.from_model is None and not request.files:
        raise CreateError("neither 'from' or 'files' was specified", hint="name a model of this store or a GGUF file")
    config, layers = _base(store, request, status)
    parameters = _merged_parameters(store, layers, request)
    layers = _replace(layers, "adapter", [_weights(store, digest, "adapter") for digest in request.adapters.values()])
    texts = {"template": request.template, "system": request.system}
    for kind, text in texts.items():
        if text is not None:
            layers = _replace(layers, kind, [_put(store, kind, _utf8(kind, text), status)] if text else [], clear=True)
    if request.messages:
        document = [{"role": role, "content": content} for role, content in request.messages]
        layers = _replace(layers, "messages", [_put(store, "messages", _json(document), status)])
    if parameters:
        layers = _replace(layers, "params", [_put(store, "params", _json(parameters), status)])
    layers += [_put(store, "license", _utf8("license", text), status) for text in request.licenses]
    for key in ("renderer", "parser", "requires"):
        if getattr(request, key) is not None:
            config[key] = getattr(request, key)
    raw_config = _json(config)
    config_blob = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(raw_config), size=len(raw_config))
    status("writing manifest")
    base = store.present(request.from_model) if request.from_model else None
    replaced = store.present(name)
    manifest = store.put_manifest(name, Manifest.build(config_blob, tuple(layers)).raw)
    _record(store, manifest, request, base)
    if replaced is not None:
        store.drop_unused(replaced)
    status("success")
    return manifest


def _no_bar(title: str, total: int) -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda step: None)


def request_from_modelfile(
    store: Store, modelfile: Modelfile, folder: Path, status: Status, bar: Bar = _no_bar
) -> CreateRequest:
    """Resolves FROM and ADAPTER: an existing path (relative to `folder`) is copied to the store; else it is a name.

    `bar` shows the copying of one file, such as `display.progress_bar`.
    """
    if modelfile.all("draft"):
        raise CreateError("DRAFT is not supported: there is no speculative decoding yet")
    from_model: ModelName | None = None
    paths: list[tuple[str, Path]] = []
    for source in modelfile.all("from"):
        path = _path(folder, "FROM", source)
        if path.is_file():
            paths.append((source, _checked(path)))
        elif path.exists():
            what = "a folder" if path.is_dir() else "not a plain file"
            raise CreateError(f"FROM {source}: {what}; only GGUF files and model names are taken", hint=CONVERT)
        elif source.lower().endswith(".gguf") or source.startswith((".", "/", "~")):
            raise CreateError(f"FROM {source}: no such file", hint="paths are relative to the Modelfile's folder")
        else:
            from_model = ModelName.parse(source)
    adapters = {source: _checked(_path(folder, "ADAPTER", source)) for source in modelfile.all("adapter")}
    names = [path.name for _, path in paths]
    return CreateRequest(
        from_model=from_model,
        files={
            path.name if names.count(path.name) == 1 else source: _take_file(store, path, status, bar)
            for source, path in paths
        },
        adapters={source: _take_file(store, path, status, bar) for source, path in adapters.items()},
        template=modelfile.last("template"),
        system=modelfile.last("system"),
        licenses=modelfile.all("license"),
        parameters=dict(modelfile.parameters),
        messages=modelfile.messages,
        renderer=modelfile.last("renderer"),
        parser=modelfile.last("parser"),
        requires=modelfile.last("requires"),
    )


CONVERT = "convert the model to one GGUF file first (llama.cpp's convert_hf_to_gguf.py does it)"


def _path(folder: Path, command: str, source: str) -> Path:
    """The path that a FROM or ADAPTER names, if the system can hold such a path at all."""
    try:
        path = folder / Path(source).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, an unknown user after ~
        raise CreateError(f"{command} {source[:120]}: {getattr(error, 'strerror', None) or error}") from None
    return path


def _checked(path: Path) -> Path:
    """What would be refused later is not copied: no model would name the blob, so nothing would remove it."""
    if _SPLIT.search(path.name):
        raise CreateError(
            f"{path.name}: one part of a split GGUF", hint="merge the parts first (llama-gguf-split --merge)"
        )
    _open(path)
    return path


def _take_file(store: Store, path: Path, status: Status, bar: Bar) -> Digest:
    status(f"copying {path.name}")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CreateError(f"{path}: {error.strerror}") from None
    with bar(path.name, size) as progress:
        return store.put_file(path, progress)


def _base(store: Store, request: CreateRequest, status: Status) -> tuple[dict[str, Any], list[Descriptor]]:
    """The config and layers to start from."""
    config: dict[str, Any] = {"model_format": "gguf", "architecture": "amd64", "os": "linux"}
    layers: list[Descriptor] = []
    if request.from_model is not None:
        config, layers = _inherit(store, request.from_model)
    for file_name, digest in request.files.items():
        if _SPLIT.search(file_name):
            raise CreateError(
                f"{file_name}: one part of a split GGUF", hint="merge the parts first (llama-gguf-split --merge)"
            )
        status("parsing GGUF")
        layer = _weights(store, digest, "model")
        if layer.kind == "model":
            if any(earlier.kind == "model" for earlier in layers):
                raise CreateError("more than one model file was given, expected one and at most a projector beside it")
            config |= _describe(store, digest)
        layers.append(layer)
        status(f"using existing layer {digest}")
    if not any(layer.kind == "model" for layer in layers):
        raise CreateError("no model file was given", hint="the first FROM must be a GGUF with the model's weights")
    return config, layers


def _inherit(store: Store, name: ModelName) -> tuple[dict[str, Any], list[Descriptor]]:
    try:
        manifest = store.manifest(name)
    except NotFound as error:
        raise NotFound(str(error), hint=f"pull or import it first: sealift pull {name.short}") from None
    config = read_config(store, manifest)
    if config.get("remote_host") or config.get("remote_model"):
        raise CreateError(f"{name.short} only names a model on another host: it has no weights to build on")
    config.pop("rootfs", None)  # of old configs: a list of the base's layers, which would be wrong for ours
    return config, list(manifest.layers)


def read_config(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The config blob as a JSON object, checked against its digest."""
    return _read_object(store, manifest.config, "config")


def _read_object(store: Store, blob: Descriptor, what: str) -> dict[str, Any]:
    found = parse_json(store.read_blob(blob, limit=MAX_CONFIG), limit=MAX_CONFIG)
    if not isinstance(found, dict):
        raise CreateError(f"the {what} blob {blob.digest.short} of the model is not a JSON object")
    return found


def _weights(store: Store, digest: Digest, kind: str) -> Descriptor:
    """A layer over a GGUF blob of the store; a `clip` model becomes a projector, an adapter says so itself."""
    path = store.blob_path(digest)
    if not path.is_file():
        raise NotFound(f"blob {digest} not found", hint="upload it first: POST /api/blobs/<digest>")
    gguf = _open(path)
    if gguf.metadata.get("general.type") == "adapter":
        found = "adapter"
    elif gguf.architecture == "clip":
        found = "projector"
    else:
        found = "model"
    if kind == "adapter" and found != "adapter":
        raise CreateError("ADAPTER: the file is a GGUF, but not an adapter")
    return Descriptor(media_type=OLLAMA_PREFIX + found, digest=digest, size=gguf.file_size)


def _open(path: Path) -> Gguf:
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise CreateError(f"{path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise CreateError("supplied file was not in GGUF format", hint=CONVERT)
    try:
        return Gguf.open(path)
    except GgufError as error:
        raise CreateError(f"the GGUF is refused: {error}", hint=error.hint) from None


def _describe(store: Store, digest: Digest) -> dict[str, Any]:
    gguf = _open(store.blob_path(digest))
    return {
        "model_format": "gguf",
        "model_family": gguf.architecture,
        "model_families": [gguf.architecture],
        "model_type": size_text(gguf.parameter_count),
        "file_type": gguf.file_type,
    }


def size_text(count: int) -> str:
    """A number of parameters as lists show it: 134.52M, 1.2B (contract, 3.4)."""
    if count >= 10**9:
        return f"{count / 1e9:.1f}B".replace(".0B", "B")
    if count >= 10**6:
        return f"{count / 1e6:.2f}M"
    return f"{count // 1000}K" if count >= 1000 else str(count)


def _merged_parameters(store: Store, layers: list[Descriptor], request: CreateRequest) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.kind == "params":
            merged |= _read_object(store, layer, "params")
    return merged | check_parameters(request.parameters)


def _replace(layers: list[Descriptor], kind: str, new: list[Descriptor], *, clear: bool = False) -> list[Descriptor]:
    """The layers with those of one kind replaced; nothing changes where `new` is empty, unless `clear`."""
    if not new and not clear:
        return layers
    kinds = (kind, "prompt") if kind == "template" else (kind,)
    return [layer for layer in layers if layer.kind not in kinds] + new


def _put(store: Store, kind: str, data: bytes, status: Status) -> Descriptor:
    digest = Digest.of(data)
    status(f"{'using existing' if store.has_blob(digest) else 'creating new'} layer {digest}")
    store.put_bytes(data)
    return Descriptor(media_type=OLLAMA_PREFIX + kind, digest=digest, size=len(data))


def _json(document: Any) -> bytes:
    return _utf8("text", json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def _utf8(kind: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CreateError(f"{kind}: text with a lone surrogate, which UTF-8 cannot hold") from None


def _record(store: Store, manifest: Manifest, request: CreateRequest, base: Manifest | None) -> None:
    facts: dict[str, Any] = {"time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}
    if request.from_model is not None:
        facts["from"] = request.from_model.full
        facts["from_manifest"] = str(base.digest) if base else None
    if request.files:
        facts["files"] = {name: str(digest) for name, digest in request.files.items()}
    store.add_record(manifest.digest, "create", facts)
