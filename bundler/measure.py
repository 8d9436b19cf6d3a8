"""The first pass of an export: every blob is read once, and all hashes of the statement come out of that one read.

SHA-256 (compared with the blob's name), SHA-512, leaf hashes and the payload hashes of the volumes, side by side on
threads.
Small blobs are checked by the store's own reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bundler import layout, tar
from bundler.cargo import Load
from bundler.draft import leaf_list_blob
from bundler.errors import ExportRefused
from bundler.hashing import Pipeline
from bundler.layout import Member
from bundler.sha256 import sha256
from manifests.digest import Digest
from manifests.leaves import LEAF, LeafList
from manifests.statement import LEAVES_TYPE, Blob, Statement

Meter = Callable[[int], None]


def measure(load: Load, draft: Statement, meter: Meter) -> Statement:
    """The draft with all its hashes and its id. Leaf lists become blobs of the load."""
    hashing = _Hashing(load, meter)
    volumes = list(draft.volumes)
    with Pipeline(load.leaf_size) as pipeline:
        payloads = layout.payloads(draft)
        for index in range(1, len(payloads)):
            volumes[index] = replace(volumes[index], sha256=hashing.volume(pipeline, payloads[index]))
        blobs = hashing.blobs(draft)
        statement = replace(draft, blobs=blobs)
        volumes[0] = replace(volumes[0], sha256=hashing.volume(pipeline, layout.payloads(statement)[0]))
    return replace(statement, volumes=tuple(volumes)).sealed()


class _Hashing:
    def __init__(self, load: Load, meter: Meter) -> None:
        self._load, self._meter = load, meter
        self._large = {digest: (sha256(), hashlib.sha512()) for digest in load.larges}
        self._hashes: dict[Digest, list[bytes]] = {digest: [] for digest in load.larges}

    def volume(self, pipeline: Pipeline, members: Sequence[Member]) -> Digest:
        hasher = sha256()
        for member in members:
            hasher.update(tar.header(member.name, member.size))
            if member.blob is None:
                hasher.update(member.data)
            elif member.blob.leaves is None:
                hasher.update(self._load.small(member.blob.digest))
            else:
                self._segment(pipeline, member, hasher)
            hasher.update(tar.padding(member.size))
            self._meter(tar.member_size(member.size) - (member.size if member.blob and member.blob.leaves else 0))
        hasher.update(tar.END)
        self._meter(len(tar.END))
        return Digest(hasher.hexdigest())

    def _segment(self, pipeline: Pipeline, member: Member, hasher: Any) -> None:
        assert member.blob
        digest = member.blob.digest
        whole, sha512 = self._large[digest]
        lengths, hashes = self._load.larges[digest], self._hashes[digest]
        with self._load.open(digest) as stream:
            stream.seek(member.offset)
            done, number = 0, len(hashes)
            while done < member.size:
                length, leaf = lengths[number], sha256(LEAF)
                pipeline.fill(length, partial(fill, stream, digest=digest), [sha512, leaf, whole, hasher])
                pipeline.push(partial(note, hashes, leaf))
                done, number = done + length, number + 1
                self._meter(length)
            pipeline.flush()

    def blobs(self, draft: Statement) -> tuple[Blob, ...]:
        """With all hashes; leaf lists become blobs of the load."""
        found = []
        for blob in draft.blobs:
            if blob.media_type == LEAVES_TYPE and blob.digest not in self._load.sizes:
                continue
            if blob.digest in self._load.absent:
                found.append(replace(blob, sha512=self._load.absent[blob.digest]))
                continue
            if blob.leaves is None:
                found.append(replace(blob, sha512=hashlib.sha512(self._load.small(blob.digest)).hexdigest()))
                continue
            whole, sha512 = self._large[blob.digest]
            if whole.hexdigest() != blob.digest.hex:
                raise ExportRefused(
                    f"blob {blob.digest} of the store is damaged: its bytes hash to sha256:{whole.hexdigest()}",
                    hint="pull the model again, or import its bundle again",
                )
            leaves = LeafList(lengths=tuple(self._load.larges[blob.digest]), hashes=tuple(self._hashes[blob.digest]))
            data = leaves.encode()
            listed = Digest.of(data)
            self._load.made[listed] = data
            found.append(leaf_list_blob(listed, data, len(leaves.lengths)))
            tree = replace(blob.leaves, list=listed, root=Digest(leaves.root.hex()))
            found.append(replace(blob, sha512=sha512.hexdigest(), leaves=tree))
        return tuple(sorted(found, key=lambda blob: blob.digest))


def note(hashes: list[bytes], leaf: Any) -> None:
    """What a leaf's hasher found, once it has seen the whole leaf."""
    hashes.append(leaf.digest())


def fill(stream: Any, piece: memoryview, digest: Digest) -> None:
    done = 0
    while done < len(piece):
        count = stream.readinto(piece[done:])
        if not count:
            raise ExportRefused(f"blob {digest} became shorter while it was read")
        done += count
