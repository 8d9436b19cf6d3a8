"""Manifest: which blobs make a model, in Docker's v2 form (Ollama's) or OCI's.

Invariants: `manifest.digest == Digest.of(manifest.raw)`, and raw is never re-serialised: a pulled manifest keeps its
bytes. Unknown keys are ignored (the format is not ours) but stay in `raw`. Refuses image indexes, foreign digests and
huge lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from manifests.digest import Digest
from manifests.errors import FieldError, ManifestError
from manifests.fields import Fields, parse_json

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OLLAMA_PREFIX = "application/vnd.ollama.image."

MAX_MANIFEST = 4 << 20  # bytes; what registries accept (distribution spec, "Pushing Manifests")
MAX_LAYERS = 16_384
MAX_BLOB = 1 << 44  # bytes; 16 TiB
_MEDIA_TYPE = re.compile(r"[ -~]{0,255}")  # printable, for it is shown to people


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob as a manifest names it; `size` in bytes."""

    media_type: str
    digest: Digest
    size: int

    @classmethod
    def parse(cls, value: Any, path: str) -> Descriptor:
        fields = Fields.of(value, path)
        return cls(
            media_type=fields.text("mediaType", pattern=_MEDIA_TYPE),
            digest=fields.digest("digest"),
            size=fields.integer("size", maximum=MAX_BLOB),
        )

    @property
    def kind(self) -> str:
        """`model`, `template`, ... for Ollama's layer types; else the media type itself."""
        return self.media_type.removeprefix(OLLAMA_PREFIX)

    def as_dict(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Parsed from `raw`; make one with `parse` or `build`."""

    raw: bytes = field(repr=False)
    digest: Digest
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        try:
            fields = Fields.of(parse_json(raw, limit=MAX_MANIFEST))
            if fields.integer("schemaVersion") != 2:
                raise FieldError("schemaVersion", "expected 2")
            media_type = fields.optional("mediaType", fields.text) or OCI_MANIFEST
            if media_type not in (DOCKER_MANIFEST, OCI_MANIFEST):
                raise FieldError("mediaType", f"expected an image manifest, found {media_type[:120]!r}")
            config = Descriptor.parse(fields.raw("config"), "config")
            layers = fields.array("layers", Descriptor.parse, maximum=MAX_LAYERS)
        except FieldError as error:
            raise ManifestError(f"manifest: {error}") from None
        return cls(raw=raw, digest=Digest.of(raw), media_type=media_type, config=config, layers=layers)

    @classmethod
    def build(cls, config: Descriptor, layers: tuple[Descriptor, ...], media_type: str = DOCKER_MANIFEST) -> Manifest:
        """A new manifest of our own, in the form Ollama writes: compact, ending in a newline."""
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.as_dict(),
            "layers": [layer.as_dict() for layer in layers],
        }
        return cls.parse(json.dumps(document, separators=(",", ":")).encode() + b"\n")

    def blobs(self) -> Iterator[Descriptor]:
        """Every blob once: layers in order, then the config."""
        seen: set[Digest] = set()
        for descriptor in (*self.layers, self.config):
            if descriptor.digest not in seen:
                seen.add(descriptor.digest)
                yield descriptor

    def of_kind(self, kind: str) -> tuple[Descriptor, ...]:
        """The layers of one Ollama type, such as `license`."""
        return tuple(layer for layer in self.layers if layer.kind == kind)

    @property
    def size(self) -> int:
        """Bytes of all layers and the config, as lists show it."""
        return sum(layer.size for layer in self.layers) + self.config.size
