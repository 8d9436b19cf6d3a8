"""A model of 400 GB crosses: sizes, offsets, lists, headers and space. Its bytes are holes in sparse files.

Real here: the store's files, the GGUF head and the gate, leaves, packing, the statement, its signatures, every header
and border of every volume, free space, the import's order. Faked: hashing the 400 GB (a blob that nobody reads has the
digest of no bytes), and with it the copy of those bytes; that work is linear and measured by `scripts/bench crossing`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bundler import layout, measure, writing
from bundler.draft import Options
from bundler.errors import BadRequest, MediumUnavailable
from bundler.importer import import_bundle
from bundler.medium import VolumeReader
from bundler.sizes import parse_size
from bundler.staging import Staging
from manifests.digest import Digest
from manifests.errors import NoSpace
from manifests.leaves import LEAF_SIZE
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.bundles import Gap, put, signer, trusting
from tests.peers.gguf_head import text

TENSORS, ROWS, COLUMNS = 4, 25_000, 1_000_000  # float32: 100 GB each
NOTHING = Digest.of(b"")


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    size = sparse_gguf(tmp_path / "huge.gguf")
    for store in (gap.near, gap.far):
        store.put_bytes(b"")
        os.link(tmp_path / "huge.gguf", tmp_path / f"link-{store.root.parent.name}")
        os.replace(tmp_path / f"link-{store.root.parent.name}", store.blob_path(NOTHING))
    weights = Descriptor(media_type=OLLAMA_PREFIX + "model", digest=NOTHING, size=size)
    config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
    head = Descriptor(media_type=DOCKER_CONFIG, digest=gap.near.put_bytes(config), size=len(config))
    layers = (weights, put(gap.near, "template", b"{{ .Prompt }}"))
    gap.near.put_manifest(ModelName.parse("huge"), Manifest.build(head, layers).raw)

    def passed(self: Any, member: layout.Member, *_: Any) -> None:
        self._file.seek(member.size, os.SEEK_CUR)  # a hole instead of a copy

    def counted(self: Any, pipeline: Any, member: layout.Member, hasher: Any) -> None:
        hashes, done = self._hashes[NOTHING], 0
        while done < member.size:
            done += self._load.larges[NOTHING][len(hashes)]
            hashes.append(len(hashes).to_bytes(32, "big"))
        assert done == member.size, "segments end at leaf borders"

    monkeypatch.setattr(measure._Hashing, "_segment", counted)
    monkeypatch.setattr(writing._Writer, "_segment", passed)
    monkeypatch.setattr(Store, "verify_blob", lambda self, digest, size, progress=None: None)
    room(monkeypatch, 10**12)
    return gap


def room(patch: pytest.MonkeyPatch, free: int) -> None:
    usage = type(shutil.disk_usage("/"))(free, 0, free)
    patch.setattr(shutil, "disk_usage", lambda path: usage)


def sparse_gguf(path: Path) -> int:
    """Four tensors of 100 GB; nothing of them is on the disk. Returns the file's size."""
    keys = [("general.architecture", (8).to_bytes(4, "little") + text("llama")),
            ("llama.block_count", (4).to_bytes(4, "little") + TENSORS.to_bytes(4, "little"))]  # fmt: skip
    head = b"GGUF" + (3).to_bytes(4, "little") + TENSORS.to_bytes(8, "little") + len(keys).to_bytes(8, "little")
    head += b"".join(text(key) + value for key, value in keys)
    for number in range(TENSORS):
        shape = b"".join(n.to_bytes(8, "little") for n in (COLUMNS, ROWS))
        offset = (number * ROWS * COLUMNS * 4).to_bytes(8, "little")
        head += text(f"blk.{number}.weight") + (2).to_bytes(4, "little") + shape + bytes(4) + offset
    head += bytes(-len(head) % 32)
    path.write_bytes(head)
    os.truncate(path, len(head) + TENSORS * ROWS * COLUMNS * 4)
    return path.stat().st_size


@pytest.mark.parametrize("size", [None, "bd100", "bd25", "fat32"])
def test_400_gb_are_laid_out_written_and_read(gap: Gap, size: str | None) -> None:
    limit = parse_size(size) if size else None
    report = gap.export("huge", options=Options(volume_size=limit))
    statement = report.statement
    blob = next(blob for blob in statement.blobs if blob.leaves)
    assert blob.size > 400e9 and blob.leaves and blob.leaves.count >= blob.size // LEAF_SIZE
    assert blob.layout[-1].offset > 1 << 38 and blob.layout[-1].offset + blob.layout[-1].size == blob.size
    least = -(-blob.size // limit) + 1 if limit else 2  # the index volume comes to those that hold the blob
    assert least <= len(statement.volumes) <= least + 1 and len(statement.encode()) < 100_000
    assert report.bytes < blob.size * 1.0001 + len(statement.volumes) * 200_000
    files = [gap.medium / name for name in layout.volume_names(statement)]
    assert not limit or max(path.stat().st_size for path in files) <= limit
    assert sum(path.stat().st_blocks * 512 for path in files) < 64 << 20, (
        "the files are sparse, or this test fills disks"
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NoSpace, match="bytes are needed"):
        patch.setattr(Store, "has_blob", lambda self, digest: False)
        room(patch, blob.size)  # enough for the blob, not for what has to stay free
        import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen)
    done = gap.bring_in()  # every header and border; the far side has the large blob, so its bytes are passed over
    assert done.complete and done.reused == blob.size
    assert [name.short for name in gap.far.names()] == ["huge:latest"]


def test_what_does_not_fit_is_said_before_a_byte_is_read(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 399 * 10**9)
    with pytest.raises(MediumUnavailable, match="bytes are needed"):
        gap.export("huge", options=Options())
    room(monkeypatch, 10**12)
    with pytest.raises(BadRequest, match="volume"):
        gap.export("huge", options=Options(volume_size=8 << 20))


def test_readers_and_staging_work_behind_2_to_the_38(gap: Gap) -> None:
    far = (1 << 38) + 5
    path = gap.root / "far.bin"
    path.touch()
    os.truncate(path, far)
    with path.open("ab") as out:
        out.write(b"the end")
    with VolumeReader(path) as reader:
        reader.skip(far)
        assert reader.read(7, "the end") == b"the end" and reader.position == far + 7
        reader.expect_end()
    with Staging(gap.far, "0" * 32) as staging:
        staging.write(NOTHING, memoryview(b"the end"), far)
        staging.finish(NOTHING, far + 7)
        assert staging.held(NOTHING) == far + 7
        staging.remove()
