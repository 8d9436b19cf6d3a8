"""The statement before anything is hashed: all sizes right, all hashes still zero. It decides where every byte will
lie.

The statement names every segment, so it grows with their number, and it lies in every volume: pack until it fits.
Signatures get room of their own (layout.SIGNATURE_ROOM), so the number of signers moves no border.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from bundler import layout, oci, tar
from bundler.cargo import Load
from bundler.channels import Channels
from bundler.errors import BadRequest
from bundler.seal import Sealing
from manifests.digest import Digest
from manifests.home import VERSION
from manifests.leaves import ENTRY, LEAF_SIZE
from manifests.statement import (
    LEAVES_TYPE,
    MAX_PREVIOUS,
    MAX_STATEMENT,
    Blob,
    Leaves,
    Segment,
    Since,
    Statement,
    Volume,
    format_time,
)

_NO_DIGEST = Digest("0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`volume_size` in bytes, None for volumes without a limit; `sequence` None for one more than the last export;
    `parity` such as `10%` or `2`; `since` of a delta; `sealing` None for volumes in clear."""

    volume_size: int | None = None
    channel: str | None = None
    sequence: int | None = None
    label: str | None = None
    expires: str | None = None
    leaf_size: int = LEAF_SIZE
    parity: str | None = None
    since: Since | None = None
    sealing: Sealing | None = None


def draft(load: Load, options: Options, seen: Channels, now: datetime) -> Statement:
    """Laid out, with the sizes of its volumes. `options` has a label and a channel."""
    return _pack(load, _empty(load, options, seen, now), options)


def _empty(load: Load, options: Options, seen: Channels, now: datetime) -> Statement:
    assert options.label and options.channel
    last = seen.last(options.channel)
    sequence = options.sequence or (last.sequence + 1 if last else 1)
    follows = last is not None and last.sequence + 1 == sequence
    return Statement(
        id="0" * 32,
        label=options.label,
        channel=options.channel,
        sequence=sequence,
        predecessor=last.statement if last is not None and follows else None,
        previous=tuple(item for item in last.ids if item.sequence < sequence)[-MAX_PREVIOUS:] if last else (),
        created=format_time(now),
        expires=options.expires,
        tool=f"sealift {VERSION}",
        models=load.models,
        blobs=(),
        volumes=(),
        evidence=load.evidence,
        verifier=Digest.of(layout.verifier()),
        since=options.since,
    )


def _pack(load: Load, empty: Statement, options: Options) -> Statement:
    """The statement with blobs and volumes laid out. The statement grows with the number of segments, so pack until it
    fits."""
    overhead, files = 0, [len(data) for _, data in oci.layout_files(_with_blobs(load, empty, {}, 1))]
    limit = None
    while True:
        packing = layout.pack(load.cargo(files), volume_size=limit, overhead=overhead)
        packed = _with_blobs(load, empty, packing.layout, packing.n_volumes)
        needed = overhead_of(packed)
        if limit is not None and needed <= overhead:
            break
        overhead, limit = max(needed, overhead), options.volume_size
        if limit is None:
            break
    sizes = [Volume(size=layout.payload_size(members), sha256=_NO_DIGEST) for members in layout.payloads(packed)]
    return replace(packed, volumes=tuple(sizes))


def overhead_of(statement: Statement) -> int:
    """Bytes before a payload, rounded up so that small changes of the text do not move borders."""
    size = len(statement.encode())
    if size > MAX_STATEMENT:
        raise BadRequest(
            f"a statement of {size:,} bytes; at most {MAX_STATEMENT:,}", hint="export fewer models at once"
        )
    return -(-(tar.member_size(200) + tar.member_size(size * 4 // 3) + layout.SIGNATURE_ROOM) // 4096) * 4096


def _with_blobs(
    load: Load, empty: Statement, places: Mapping[Digest, tuple[Segment, ...]], n_volumes: int
) -> Statement:
    """Blobs in order. Leaf lists do not exist yet and get stand-ins of the right size."""
    blobs = []
    for digest, size in load.sizes.items():
        leaves = None
        if digest in load.larges:
            count = len(load.larges[digest])
            leaves = Leaves(size=load.leaf_size, count=count, list=_stand_in(digest), root=_NO_DIGEST)
            blobs.append(leaf_list_blob(_stand_in(digest), b"", count))
        blobs.append(
            Blob(
                digest=digest,
                sha512="0" * 128,
                size=size,
                media_type=load.media_types[digest],
                leaves=leaves,
                built=load.built.get(digest),
                layout=places.get(digest, ()),
            )
        )
    volumes = tuple(Volume(size=0, sha256=_NO_DIGEST) for _ in range(n_volumes))
    return replace(empty, blobs=tuple(sorted(blobs, key=lambda blob: blob.digest)), volumes=volumes)


def _stand_in(digest: Digest) -> Digest:
    return Digest.of(b"leaves of " + digest.hex.encode())


def leaf_list_blob(digest: Digest, data: bytes, count: int) -> Blob:
    size = count * ENTRY.size
    sha512 = hashlib.sha512(data).hexdigest()
    place = (Segment(volume=0, offset=0, size=size),)
    return Blob(digest=digest, sha512=sha512, size=size, media_type=LEAVES_TYPE, layout=place)
