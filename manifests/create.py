"""Makes a model: layers and a manifest from a Modelfile or from the fields of /api/create (contract, 5.4).

A model is based on another model of the store (`from_model`) or on `files`: GGUFs, or a Hugging Face tree that is
converted to one. Plain floats are quantized where asked. Of a GGUF that is not, the stored digest is the file's own.
A family that `turns` recognises by the file's Jinja gives its stop strings, unless the request has a template or stops.
Nothing is pulled: an unknown base is an error. Killed half-way, the store is as it was but for files that `rm --unused`
removes. Refuses stubs that name a remote host; `create_layers` says what it refuses of weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from manifests.create_layers import ONE_ADAPTER, Bar, Source, Status, Workshop, fits, no_bar, open_gguf, workshop
from manifests.digest import Digest
from manifests.errors import CreateError, NotFound
from manifests.fields import parse_json
from manifests.gguf import count_text
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.modelfile import NO_SEMVER, ONE_OF_ROLES, ROLES, SEMVER
from manifests.name import ModelName
from manifests.parameters import check_parameters
from manifests.quantize import recipe
from manifests.scan.gotemplate import scan
from manifests.store import Store
from manifests.turns import recognised

MAX_CONFIG = 4 << 20  # bytes of a config, params or messages layer

_NAMED = ("renderer", "parser", "requires")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What to make. None and empty mean "as in the base"; licences are added to the base's, parameters merged over."""

    from_model: ModelName | None = None
    files: Mapping[str, Source] = field(default_factory=dict)
    adapters: Mapping[str, Source] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    quantize: str | None = None


def create(
    store: Store, name: ModelName, request: CreateRequest, status: Status = lambda line: None, bar: Bar = no_bar
) -> Manifest:
    """Writes the model and a record of how it was made. Raises CreateError and the store's errors.

    `status` gets Ollama's lines, in order; `bar` shows one long step, such as `display.progress_bar`.
    """
    if request.from_model is None and not request.files:
        raise CreateError("neither 'from' or 'files' was specified", hint="name a model of this store or a GGUF file")
    if request.requires and not SEMVER.fullmatch(request.requires):
        raise CreateError(NO_SEMVER)
    for place, (role, _) in enumerate(request.messages):
        if role not in ROLES:  # such a model would not open
            raise CreateError(f"messages[{place}]: message role must be {ONE_OF_ROLES}, found {role[:40]!r}")
    with workshop(store, status, bar) as shop:
        config, layers = _base(shop, request)
        layers = _with_texts(store, request, layers, status)
        config |= {key: value for key in _NAMED if (value := getattr(request, key)) is not None}
        raw_config = _json(config)
        config_blob = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(raw_config), size=len(raw_config))
        status("writing manifest")
        base = store.present(request.from_model) if request.from_model else None
        replaced = store.present(name)
        manifest = store.put_manifest(name, Manifest.build(config_blob, tuple(layers)).raw)
        _record(shop, manifest, request, base)
        if replaced is not None:
            store.drop_unused(replaced)
    status("success")
    return manifest


def _with_texts(store: Store, request: CreateRequest, layers: list[Descriptor], status: Status) -> list[Descriptor]:
    """The layers that are no weights: new texts replace old ones, licences are added, parameters merged over."""
    parameters = _family_stops(store, layers, request, status) | _merged_parameters(store, layers, request)
    bad = next((what for rule, what in scan(request.template or "") if rule == "template.syntax"), None)
    if bad:
        raise CreateError(f"template error: {bad}")
    for kind, text in (("template", request.template), ("system", request.system)):
        if text is not None:
            layers = _replace(layers, kind, [_put(store, kind, _utf8(kind, text), status)] if text else [], clear=True)
    if request.messages:
        document = [{"role": role, "content": content} for role, content in request.messages]
        layers = _replace(layers, "messages", [_put(store, "messages", _json(document), status)])
    if parameters:
        layers = _replace(layers, "params", [_put(store, "params", _json(parameters), status)])
    return layers + [_put(store, "license", _utf8("license", text), status) for text in request.licenses]


def _base(shop: Workshop, request: CreateRequest) -> tuple[dict[str, Any], list[Descriptor]]:
    """The config and layers to start from."""
    store, quantization = shop.store, request.quantize and recipe.target(request.quantize)
    config: dict[str, Any] = {"model_format": "gguf", "architecture": "amd64", "os": "linux"}
    layers: list[Descriptor] = []
    if request.from_model is not None:
        config, layers = _inherit(store, request.from_model)
        if quantization:
            layers = [shop.quantized(one.digest, quantization) if one.kind == "model" else one for one in layers]
    if request.files:
        layers += shop.model_layers(request.files, quantization)
    models = [layer for layer in layers if layer.kind == "model"]
    if not models:
        raise CreateError("no model file was given", hint="the first FROM must be a GGUF with the model's weights")
    if len(models) > 1 and request.files:
        raise CreateError("more than one model file was given, expected one and at most a projector beside it")
    if request.files or quantization:
        config |= _describe(store, models[-1].digest)
    for layer in layers:
        if layer.kind == "adapter" and request.files:
            fits(open_gguf(store.blob_path(layer.digest)), open_gguf(store.blob_path(models[-1].digest)))
    if request.adapters:
        if any(layer.kind == "adapter" for layer in layers):
            raise CreateError(ONE_ADAPTER, hint="the base has an adapter already: begin with the base's own base")
        layers.append(shop.adapter_layer(request.adapters, models[-1].digest))
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


def _describe(store: Store, digest: Digest) -> dict[str, Any]:
    gguf = open_gguf(store.blob_path(digest))
    return {
        "model_format": "gguf",
        "model_family": gguf.architecture,
        "model_families": [gguf.architecture],
        "model_type": count_text(gguf.parameter_count),
        "file_type": gguf.file_type,
    }


def _family_stops(store: Store, layers: list[Descriptor], request: CreateRequest, status: Status) -> dict[str, Any]:
    """Of a new file alone: a base has its own parameters, and a TEMPLATE may mark turns otherwise."""
    if request.from_model is not None or request.template or request.parameters.get("stop") is not None:
        return {}
    models = [layer for layer in layers if layer.kind == "model"]
    family = recognised(open_gguf(store.blob_path(models[-1].digest)).metadata.get("tokenizer.chat_template"))
    if family is None:
        return {}
    status(f"using the stop strings of {family.name}")
    return {"stop": list(family.stops)}


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


def _record(shop: Workshop, manifest: Manifest, request: CreateRequest, base: Manifest | None) -> None:
    facts: dict[str, Any] = {"time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}
    if request.from_model is not None:
        facts["from"] = request.from_model.full
        facts["from_manifest"] = str(base.digest) if base else None
    if shop.sources:
        facts["files"] = dict(sorted(shop.sources.items()))
    if request.quantize:
        facts["quantize"] = recipe.target(request.quantize)
    shop.store.add_record(manifest.digest, "create", facts)
