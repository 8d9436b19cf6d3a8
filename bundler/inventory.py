"""Inventory: what a store holds, signed there and carried back, so that the next bundle sends only what changed.

    take     every blob that a model of the store names is read once: SHA-256 (compared with its name), SHA-512, and the
             leaf list of large ones, by which tensors are matched. A damaged blob is not listed
    encode   canonical JSON; signed, in a DSSE envelope of its own payload type
    read     the reverse, strictly, from a file that anybody may have written

An inventory says nothing of trust and lets nothing in. A false one makes a bundle that its import refuses.
Normative text: docs/formats/inventory.md.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

from bundler.channels import Channels
from bundler.errors import BadRequest, InventoryRefused
from bundler.hashing import Pipeline
from bundler.measure import fill, note
from bundler.sha256 import sha256
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import DigestMismatch, FieldError, ManifestsError, NotFound
from manifests.fields import Fields
from manifests.home import VERSION
from manifests.leaves import ENTRY, LEAF, LEAF_SIZE, MAX_LEAVES, LeafList, content_cuts, leaf_lengths
from manifests.manifest import MAX_BLOB
from manifests.name import ModelName
from manifests.statement import CHANNEL, ID, MAX_BLOBS, PLAIN, format_time, parse_time
from manifests.store import Store

TYPE = "https://sealift.dev/inventory/v1"
PAYLOAD_TYPE = "application/vnd.sealift.inventory.v1+json"
MAX_INVENTORY = 11 << 20  # bytes of payload
MAX_MODELS, MAX_CHANNELS = 16_384, 4096

_HEX512 = re.compile(r"[0-9a-f]{128}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A blob that the other side has. `leaves` of a large one, cut as `cuts` says with leaves of LEAF_SIZE."""

    size: int
    sha512: str
    leaves: LeafList | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The newest bundle of a channel that was imported."""

    channel: str
    sequence: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    time: str
    tool: str
    models: tuple[tuple[ModelName, Digest], ...]  # ascending by name
    blobs: dict[Digest, Known]  # ascending
    channels: tuple[Reached, ...]  # ascending

    @property
    def id(self) -> str:
        return Digest.of(self.encode()).hex[:32]

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "_type": TYPE,
                "time": self.time,
                "tool": self.tool,
                "models": [{"name": name.full, "manifest": str(digest)} for name, digest in self.models],
                "blobs": [_blob_out(digest, known) for digest, known in self.blobs.items()],
                "channels": [{"channel": c.channel, "sequence": c.sequence, "id": c.id} for c in self.channels],
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> Inventory:
        """Raises InventoryRefused for anything that `encode` does not write."""
        try:
            found = _inventory_in(Fields.of(canonical.decode(raw, limit=MAX_INVENTORY)))
        except ManifestsError as error:
            raise InventoryRefused(f"inventory: {error}") from None
        return found


def measured(store: Store, digest: Digest, pipeline: Pipeline, progress: Progress | None = None) -> Known:
    """One read of a blob. Raises NotFound, and DigestMismatch where its bytes are not what its name says."""
    path = store.blob_path(digest)
    whole, sha512 = sha256(), hashlib.sha512()
    hashes: list[bytes] = []
    with store.open_blob(digest) as stream:
        size = path.stat().st_size
        cuts: list[int] = []
        with contextlib.suppress(ManifestsError):  # what only begins like a GGUF is cut like any other file
            cuts = content_cuts(path) if size > LEAF_SIZE else []
        lengths = leaf_lengths(size, cuts)
        for length in lengths:
            leaf = sha256(LEAF)
            pipeline.fill(length, partial(fill, stream, digest=digest), [sha512, leaf, whole])
            pipeline.push(partial(note, hashes, leaf))
            if progress:
                progress(length)
        pipeline.flush()
    if whole.hexdigest() != digest.hex:
        raise DigestMismatch(f"blob {digest}: its bytes hash to sha256:{whole.hexdigest()}")
    leaves = LeafList(lengths=tuple(lengths), hashes=tuple(hashes)) if size > LEAF_SIZE else None
    return Known(size=size, sha512=sha512.hexdigest(), leaves=leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """`notes`: what could not be listed, and why."""

    inventory: Inventory
    notes: tuple[str, ...]


def take(store: Store, seen: Channels, now: datetime, progress: Progress | None = None) -> Taken:
    """Raises BadRequest where the list would be longer than readers take."""
    models, notes = [], []
    wanted: set[Digest] = set()
    for name in store.names():
        try:
            manifest = store.manifest(name)
        except ManifestsError as error:
            notes.append(f"{name.short} is not listed: {error}")
            continue
        models.append((name, manifest.digest))
        wanted |= {blob.digest for blob in manifest.blobs()}
    blobs = {}
    with Pipeline(LEAF_SIZE) as pipeline:
        for digest in sorted(wanted):
            try:
                blobs[digest] = measured(store, digest, pipeline, progress)
            except (DigestMismatch, NotFound) as error:
                notes.append(f"not listed: {error}")
    reached = [Reached(channel=name, sequence=last.sequence, id=last.id) for name, last in sorted(seen.load().items())]
    inventory = Inventory(
        time=format_time(now),
        tool=f"sealift {VERSION}",
        models=tuple(sorted(models, key=lambda item: item[0].full)),
        blobs=blobs,
        channels=tuple(reached),
    )
    size = len(inventory.encode())
    if size > MAX_INVENTORY:
        raise BadRequest(f"an inventory of {size:,} bytes; readers take at most {MAX_INVENTORY:,}")
    return Taken(inventory=inventory, notes=tuple(notes))


def _blob_out(digest: Digest, known: Known) -> dict[str, Any]:
    out = {"digest": str(digest), "size": known.size, "sha512": known.sha512}
    if known.leaves is not None:
        out["leaves"] = base64.b64encode(known.leaves.encode()).decode()
    return out


def _inventory_in(top: Fields) -> Inventory:
    if (kind := top.text("_type")) != TYPE:
        raise FieldError("_type", f"expected {TYPE}, found {kind[:80]!r}")
    time = top.text("time", pattern=_TIME)
    try:
        parse_time(time)
    except ValueError:
        raise FieldError("time", f"no such time: {time}") from None
    tool = top.text("tool", pattern=PLAIN, maximum=80)
    models = top.array("models", _model_in, maximum=MAX_MODELS)
    blobs = top.array("blobs", _blob_in, maximum=MAX_BLOBS)
    channels = top.array("channels", _channel_in, maximum=MAX_CHANNELS)
    top.done()
    for key, order in (
        ("models", [name.full for name, _ in models]),
        ("blobs", [str(digest) for digest, _ in blobs]),
        ("channels", [item.channel for item in channels]),
    ):
        if any(first >= second for first, second in pairwise(order)):
            raise FieldError(key, "not in ascending order, or one twice")
    return Inventory(time=time, tool=tool, models=models, blobs=dict(blobs), channels=channels)


def _model_in(value: Any, path: str) -> tuple[ModelName, Digest]:
    fields = Fields.of(value, path)
    text = fields.text("name", maximum=700)
    name = ModelName.parse(text)
    if name.full != text:
        raise FieldError(fields.at("name"), f"expected the full form {name.full!r}")
    digest = fields.digest("manifest")
    fields.done()
    return name, digest


def _blob_in(value: Any, path: str) -> tuple[Digest, Known]:
    fields = Fields.of(value, path)
    digest, size = fields.digest("digest"), fields.integer("size", maximum=MAX_BLOB)
    sha512 = fields.text("sha512", pattern=_HEX512)
    leaves = None
    if (text := fields.optional("leaves", fields.text, maximum=MAX_LEAVES * ENTRY.size * 4 // 3 + 4)) is not None:
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise FieldError(fields.at("leaves"), "not base64") from None
        leaves = LeafList.decode(raw, size=size, leaf_size=LEAF_SIZE)
        if base64.b64encode(raw).decode() != text:
            raise FieldError(fields.at("leaves"), "not in canonical base64")
    fields.done()
    return digest, Known(size=size, sha512=sha512, leaves=leaves)


def _channel_in(value: Any, path: str) -> Reached:
    fields = Fields.of(value, path)
    found = Reached(
        channel=fields.text("channel", pattern=CHANNEL, maximum=128),
        sequence=fields.integer("sequence", minimum=1, maximum=1 << 40),
        id=fields.text("id", pattern=ID),
    )
    fields.done()
    return found
