"""Statement: what a bundle contains, as one in-toto Statement v1 in canonical JSON. Who says so is the envelope's
matter.

Law: `Statement.decode(raw).encode() == raw`, or `decode` refuses: unknown fields, other key orders, floats, white
space, subjects that differ from the models, an id that is not the hash of the rest. Everything is an integer or a
string.
A decoded statement is consistent in itself (`_check`): every digest it refers to is among its blobs, every blob is laid
out once and whole, segments follow each other without gap or overlap. Its sizes bound every later read.
Normative text: docs/formats/bundle.md, section 3.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from manifests import canonical
from manifests.digest import Digest
from manifests.errors import FieldError, ManifestsError, StatementError
from manifests.fields import Fields
from manifests.leaves import ENTRY, LEAF_SIZE, MAX_LEAVES, MIN_LEAF_SIZE
from manifests.manifest import DOCKER_MANIFEST, MAX_BLOB, MAX_MANIFEST, OCI_MANIFEST
from manifests.name import ModelName

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://sealift.dev/bundle/v1"
DELTA_TYPE = "https://sealift.dev/delta/v1"  # of a bundle that leaves out what the other side has
LEAVES_TYPE = "application/vnd.sealift.leaves.v1"
SCAN_TYPE = "application/vnd.sealift.scan.v1+json"
PATCH_TYPE = "application/vnd.sealift.patch.v1"

MAX_STATEMENT = 11 << 20  # bytes of payload; about 16 MiB as an envelope
MAX_MODELS = 1024
MAX_BLOBS = 65_536
MAX_VOLUMES = 9_999
MAX_WHOLE = MAX_LEAVES * ENTRY.size  # bytes of a blob without a tree: a leaf list, a manifest, a blob of one leaf
MAX_PREVIOUS = 16
MAX_PIECES = 8192  # of one built blob
MAX_SOURCE_TEXT = 2048  # characters of one value
MAX_SEGMENT = 4 << 30  # bytes; ustar's octal size ends at 8 GiB

ID = re.compile(r"[0-9a-f]{32}")
LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,38}")
CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")
_HEX512 = re.compile(r"[0-9a-f]{128}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*")
SOURCE_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*")  # nothing that moves a terminal's cursor
_SINCE = re.compile("bundle|inventory")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    """The tree of a large blob: `size` is the leaf size in bytes, `list` the blob with lengths and hashes."""

    size: int
    count: int
    list: Digest
    root: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """`size` bytes of a blob from `offset`, carried by volume number `volume`."""

    volume: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`size` bytes of a built blob: from offset `base` of its base, or, where that is None, the next of its patch."""

    size: int
    base: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """How the other side makes a blob from `base`, which it has, and `patch`, which travels: `pieces` in order."""

    base: Digest
    patch: Digest
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """What a delta supposes on the other side: a `bundle` by its id, or an `inventory`, by the first 32 hex digits of
    the SHA-256 of its payload."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Without `leaves` a blob travels whole, as one member; with them, in segments that end at leaf borders. Without a
    `layout` it does not travel: the other side has it, or builds it as `built` says."""

    digest: Digest
    sha512: str
    size: int
    media_type: str
    leaves: Leaves | None = None
    built: Built | None = None
    layout: tuple[Segment, ...]

    @property
    def travels(self) -> bool:
        return bool(self.layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`manifest` is the model's identity; `oci` the OCI manifest over the same blobs (the same one if it is OCI
    already)."""

    name: ModelName
    manifest: Digest
    oci: Digest
    source: dict[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The payload of a volume: everything after its copy of the statement. `size` in bytes."""

    size: int
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    kind: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A bundle that came before, of the same channel."""

    sequence: int
    id: str

    def out(self) -> dict[str, Any]:
        return {"sequence": self.sequence, "id": self.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Make one with `sealed` (computes the id) or `decode`."""

    id: str
    label: str
    channel: str
    sequence: int
    predecessor: Digest | None = None  # digest of the previous statement of the channel
    previous: tuple[Earlier, ...] = ()  # the newest ones before it, ascending, so that a gap can be named
    created: str
    expires: str | None = None
    tool: str
    models: tuple[Model, ...]
    blobs: tuple[Blob, ...]
    volumes: tuple[Volume, ...]
    evidence: tuple[Evidence, ...] = ()
    verifier: Digest  # of verify_sealift.py
    since: Since | None = None  # of a delta

    @property
    def held(self) -> tuple[Blob, ...]:
        """What the other side must have already."""
        return tuple(blob for blob in self.blobs if not blob.travels and blob.built is None)

    @property
    def built(self) -> tuple[Blob, ...]:
        return tuple(blob for blob in self.blobs if blob.built is not None)

    def sealed(self) -> Statement:
        """The same with its right id."""
        return replace(self, id=self._compute_id())

    def _compute_id(self) -> str:
        return hashlib.sha256(canonical.encode(replace(self, id="")._predicate())).hexdigest()[:32]

    def encode(self) -> bytes:
        subjects = [{"name": model.name.full, "digest": {"sha256": model.manifest.hex}} for model in self.models]
        return canonical.encode(
            {
                "_type": STATEMENT_TYPE,
                "subject": subjects,
                "predicateType": DELTA_TYPE if self.since else PREDICATE_TYPE,
                "predicate": self._predicate(),
            }
        )

    def _predicate(self) -> dict[str, Any]:
        bundle: dict[str, Any] = {
            "id": self.id,
            "label": self.label,
            "channel": self.channel,
            "sequence": self.sequence,
            "created": self.created,
            "tool": self.tool,
        }
        if self.predecessor is not None:
            bundle["predecessor"] = str(self.predecessor)
        if self.previous:
            bundle["previous"] = [item.out() for item in self.previous]
        if self.expires is not None:
            bundle["expires"] = self.expires
        if self.since is not None:
            bundle["since"] = {"kind": self.since.kind, "id": self.since.id}
        return {
            "bundle": bundle,
            "models": [_model_out(model) for model in self.models],
            "blobs": [_blob_out(blob) for blob in self.blobs],
            "volumes": [{"size": volume.size, "sha256": volume.sha256.hex} for volume in self.volumes],
            "evidence": [{"kind": item.kind, "digest": str(item.digest)} for item in self.evidence],
            "verifier": {"sha256": self.verifier.hex},
        }

    @classmethod
    def decode(cls, raw: bytes) -> Statement:
        try:
            top = Fields.of(canonical.decode(raw, limit=MAX_STATEMENT))
            for key, known in (("_type", (STATEMENT_TYPE,)), ("predicateType", (PREDICATE_TYPE, DELTA_TYPE))):
                if (found := top.text(key)) not in known:
                    raise FieldError(
                        top.at(key), f"expected {' or '.join(known)}, found {found[:80]!r}: made by a newer sealift?"
                    )
            top.raw("subject")
            statement = _predicate_in(top.object("predicate"))
            top.done()
            _check(statement)
            if statement.encode() != raw:
                raise FieldError("subject", "does not list exactly the models, or the predicate is of another type")
        except ManifestsError as error:
            raise StatementError(f"statement: {error}") from None
        return statement


def _model_out(model: Model) -> dict[str, Any]:
    return {
        "name": model.name.full,
        "manifest": str(model.manifest),
        "oci": str(model.oci),
        "source": dict(model.source),
    }


def _blob_out(blob: Blob) -> dict[str, Any]:
    out: dict[str, Any] = {
        "digest": str(blob.digest),
        "sha512": blob.sha512,
        "size": blob.size,
        "media_type": blob.media_type,
        "layout": [{"volume": part.volume, "offset": part.offset, "size": part.size} for part in blob.layout],
    }
    if blob.leaves is not None:
        tree = blob.leaves
        out["leaves"] = {"size": tree.size, "count": tree.count, "list": str(tree.list), "root": tree.root.hex}
    if blob.built is not None:
        pieces = [
            {"size": piece.size} if piece.base is None else {"size": piece.size, "base": piece.base}
            for piece in blob.built.pieces
        ]
        out["built"] = {"base": str(blob.built.base), "patch": str(blob.built.patch), "pieces": pieces}
    return out


def _predicate_in(fields: Fields) -> Statement:
    bundle = fields.object("bundle")
    statement = Statement(
        id=bundle.text("id", pattern=ID),
        label=bundle.text("label", pattern=LABEL),
        channel=bundle.text("channel", pattern=CHANNEL, maximum=128),
        sequence=bundle.integer("sequence", minimum=1, maximum=1 << 40),
        predecessor=bundle.optional("predecessor", bundle.digest),
        previous=bundle.optional("previous", lambda key: bundle.array(key, earlier_in, maximum=MAX_PREVIOUS)) or (),
        created=_time(bundle, "created"),
        expires=bundle.optional("expires", lambda key: _time(bundle, key)),
        tool=bundle.text("tool", pattern=PLAIN, maximum=80),
        models=fields.array("models", _model_in, maximum=MAX_MODELS),
        blobs=fields.array("blobs", _blob_in, maximum=MAX_BLOBS),
        volumes=fields.array("volumes", _volume_in, maximum=MAX_VOLUMES),
        evidence=fields.array("evidence", _evidence_in, maximum=MAX_BLOBS),
        verifier=_hex(_done(fields.object("verifier"), "sha256"), "sha256"),
        since=bundle.optional("since", lambda key: _since_in(bundle.object(key))),
    )
    bundle.done()
    fields.done()
    return statement


def earlier_in(value: Any, path: str) -> Earlier:
    fields = Fields.of(value, path)
    earlier = Earlier(sequence=fields.integer("sequence", minimum=1, maximum=1 << 40), id=fields.text("id", pattern=ID))
    fields.done()
    return earlier


def _done(fields: Fields, *keys: str) -> Fields:
    """`fields`, if it has exactly these keys."""
    for key in keys:
        fields.raw(key)
    fields.done()
    return fields


def _hex(fields: Fields, key: str) -> Digest:
    text = fields.text(key, maximum=64)
    try:
        return Digest(text)
    except ManifestsError as error:
        raise FieldError(fields.at(key), str(error)) from None


def _time(fields: Fields, key: str) -> str:
    text = fields.text(key, pattern=_TIME)
    try:
        parse_time(text)
    except ValueError:
        raise FieldError(fields.at(key), f"no such time: {text}") from None
    return text


def parse_time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def format_time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _model_in(value: Any, path: str) -> Model:
    fields = Fields.of(value, path)
    text = fields.text("name", maximum=700)
    try:
        name = ModelName.parse(text)
    except ManifestsError as error:
        raise FieldError(fields.at("name"), str(error)) from None
    if name.full != text:
        raise FieldError(fields.at("name"), f"expected the full form {name.full!r}, found {text!r}")
    source = _done(fields.object("source"), *Fields.of(fields.raw("source"), fields.at("source")).texts())
    for key, item in source.texts().items():
        if not SOURCE_KEY.fullmatch(key) or not PLAIN.fullmatch(item) or len(item) > MAX_SOURCE_TEXT:
            raise FieldError(fields.at("source"), f"unexpected entry {key[:40]!r}")
    model = Model(name=name, manifest=fields.digest("manifest"), oci=fields.digest("oci"), source=source.texts())
    fields.done()
    return model


def _blob_in(value: Any, path: str) -> Blob:
    fields = Fields.of(value, path)
    blob = Blob(
        digest=fields.digest("digest"),
        sha512=fields.text("sha512", pattern=_HEX512),
        size=fields.integer("size", maximum=MAX_BLOB),
        media_type=fields.text("media_type", pattern=_MEDIA_TYPE, maximum=255),
        leaves=fields.optional("leaves", lambda key: _leaves_in(fields.object(key))),
        built=fields.optional("built", lambda key: _built_in(fields.object(key))),
        layout=fields.array("layout", _segment_in, maximum=MAX_LEAVES),
    )
    fields.done()
    return blob


def _leaves_in(fields: Fields) -> Leaves:
    size = fields.integer("size", minimum=MIN_LEAF_SIZE, maximum=LEAF_SIZE)
    if size & (size - 1):
        raise FieldError(fields.at("size"), f"expected a power of two, found {size}")
    count = fields.integer("count", minimum=1, maximum=MAX_LEAVES)
    leaves = Leaves(size=size, count=count, list=fields.digest("list"), root=_hex(fields, "root"))
    fields.done()
    return leaves


def _since_in(fields: Fields) -> Since:
    since = Since(kind=fields.text("kind", pattern=_SINCE), id=fields.text("id", pattern=ID))
    fields.done()
    return since


def _built_in(fields: Fields) -> Built:
    built = Built(
        base=fields.digest("base"),
        patch=fields.digest("patch"),
        pieces=fields.array("pieces", _piece_in, maximum=MAX_PIECES),
    )
    fields.done()
    return built


def _piece_in(value: Any, path: str) -> Piece:
    fields = Fields.of(value, path)
    base = fields.optional("base", fields.integer, maximum=MAX_BLOB)
    piece = Piece(size=fields.integer("size", minimum=1, maximum=MAX_BLOB), base=base)
    fields.done()
    return piece


def _segment_in(value: Any, path: str) -> Segment:
    fields = Fields.of(value, path)
    segment = Segment(
        volume=fields.integer("volume", maximum=MAX_VOLUMES),
        offset=fields.integer("offset", maximum=MAX_BLOB),
        size=fields.integer("size", maximum=MAX_SEGMENT),
    )
    fields.done()
    return segment


def _volume_in(value: Any, path: str) -> Volume:
    fields = _done(Fields.of(value, path), "size", "sha256")
    return Volume(size=fields.integer("size", maximum=MAX_BLOB), sha256=_hex(fields, "sha256"))


def _evidence_in(value: Any, path: str) -> Evidence:
    fields = _done(Fields.of(value, path), "kind", "digest")
    return Evidence(kind=fields.text("kind", pattern=SOURCE_KEY), digest=fields.digest("digest"))


def _check(statement: Statement) -> None:
    """What the fields must mean together; see docs/formats/bundle.md, 3.3."""
    if statement.id != statement._compute_id():
        raise FieldError("predicate.bundle.id", "is not the hash of the statement")
    numbers = [item.sequence for item in statement.previous]
    if any(first >= second for first, second in pairwise([*numbers, statement.sequence])):
        raise FieldError("predicate.bundle.previous", "not ascending to the bundle's own number")
    if not statement.models or not statement.volumes:
        raise FieldError("predicate", "a bundle has at least one model and one volume")
    digests = [blob.digest for blob in statement.blobs]
    if any(first >= second for first, second in pairwise(digests)):
        raise FieldError("predicate.blobs", "not in ascending order of digest, or one twice")
    names = [model.name.key for model in statement.models]
    if len(set(names)) != len(names):
        raise FieldError("predicate.models", "two names are equal when letter case is ignored")
    blobs = {blob.digest: blob for blob in statement.blobs}
    for i, blob in enumerate(statement.blobs):
        path = f"predicate.blobs[{i}]"
        if blob.travels:
            _check_blob(blob, blobs, len(statement.volumes), path)
        elif statement.since is None:
            raise FieldError(f"{path}.layout", "only a delta leaves a blob out")
        elif blob.leaves:
            raise FieldError(f"{path}.leaves", "a blob that does not travel has no leaves here")
        if blob.built:
            _check_built(blob, blob.built, blobs, f"{path}.built")
    patches = [blob.built.patch for blob in statement.built if blob.built]
    if len(set(patches)) != len(patches):
        raise FieldError("predicate.blobs", "two blobs share a patch")
    for i, model in enumerate(statement.models):
        path = f"predicate.models[{i}]"
        found = _head_blob(blobs, model.manifest, (DOCKER_MANIFEST, OCI_MANIFEST), f"{path}.manifest")
        _head_blob(blobs, model.oci, (OCI_MANIFEST,), f"{path}.oci")
        if (found.media_type == OCI_MANIFEST) != (model.oci == model.manifest):
            raise FieldError(f"{path}.oci", "must be the manifest itself exactly when that is an OCI manifest")
    for i, item in enumerate(statement.evidence):
        if item.digest not in blobs:
            raise FieldError(f"predicate.evidence[{i}].digest", f"{item.digest} is not among the blobs")


def _head_blob(blobs: dict[Digest, Blob], digest: Digest, types: tuple[str, ...], path: str) -> Blob:
    """A manifest: whole, in the index volume, so that it can be read before any large blob."""
    blob = blobs.get(digest)
    if blob is None:
        raise FieldError(path, f"{digest} is not among the blobs")
    if (
        blob.media_type not in types
        or blob.leaves
        or [p.volume for p in blob.layout] != [0]
        or blob.size > MAX_MANIFEST
    ):
        raise FieldError(path, f"{digest} is not a manifest carried whole in the index volume")
    return blob


def _check_blob(blob: Blob, blobs: dict[Digest, Blob], n_volumes: int, path: str) -> None:
    if any(part.volume >= n_volumes for part in blob.layout):
        raise FieldError(f"{path}.layout", f"expected segments in volumes 0 to {n_volumes - 1}")
    if blob.leaves is None:
        if len(blob.layout) != 1 or blob.layout[0].offset or blob.layout[0].size != blob.size or blob.size > MAX_WHOLE:
            raise FieldError(f"{path}.layout", f"a blob without leaves is one segment of at most {MAX_WHOLE} bytes")
        return
    if blob.size <= blob.leaves.size:
        raise FieldError(f"{path}.leaves", "a blob of one leaf travels whole")
    end, volume = 0, 1
    for part in blob.layout:
        if part.offset != end or part.size < 1 or part.volume < volume:
            raise FieldError(f"{path}.layout", f"expected a segment at {end} in volume {volume} or later, found {part}")
        end, volume = part.offset + part.size, part.volume
    if end != blob.size:
        raise FieldError(f"{path}.layout", f"segments end at {end}, the blob at {blob.size}")
    listed = blobs.get(blob.leaves.list)
    if listed is None or listed.leaves or [p.volume for p in listed.layout] != [0] or listed.media_type != LEAVES_TYPE:
        raise FieldError(f"{path}.leaves.list", "is not a leaf list carried whole in the index volume")
    if listed.size != blob.leaves.count * ENTRY.size:
        raise FieldError(
            f"{path}.leaves.count", f"{blob.leaves.count} leaves do not make a list of {listed.size} bytes"
        )


def _check_built(blob: Blob, built: Built, blobs: dict[Digest, Blob], path: str) -> None:
    """Its base is what the other side has as it is, so nothing is built from something built; the pieces are the blob,
    exactly."""
    base, patch = blobs.get(built.base), blobs.get(built.patch)
    if blob.travels:
        raise FieldError(path, "a blob that travels is not built")
    if base is None or base.travels or base.built:
        raise FieldError(f"{path}.base", f"{built.base} is not among the blobs that the other side has")
    if patch is None or not patch.travels or patch.media_type != PATCH_TYPE:
        raise FieldError(f"{path}.patch", f"{built.patch} is not a patch that travels")
    for i, piece in enumerate(built.pieces):
        if piece.base is not None and piece.base + piece.size > base.size:
            raise FieldError(f"{path}.pieces[{i}]", f"ends at {piece.base + piece.size}, its base at {base.size}")
    sizes = sum(piece.size for piece in built.pieces)
    literal = sum(piece.size for piece in built.pieces if piece.base is None)
    if (sizes, literal) != (blob.size, patch.size):
        raise FieldError(
            f"{path}.pieces",
            f"make {sizes} bytes with {literal} of the patch; expected {blob.size} with {patch.size}",
        )
