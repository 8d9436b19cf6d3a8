"""The store: blobs by rename only, blobs before manifests, nothing trusted by presence."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import manifests.store
from manifests.digest import Digest
from manifests.errors import DigestMismatch, ManifestError, NoSpace, NotFound, StoreError
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store


def make(store: Store, name: str, weights: bytes, config: bytes = b"{}") -> Manifest:
    layer = Descriptor(media_type=OLLAMA_PREFIX + "model", digest=store.put_bytes(weights), size=len(weights))
    blob = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(config), size=len(config))
    return store.put_manifest(ModelName.parse(name), Manifest.build(blob, (layer,)).raw)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout_is_ollamas(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = make(store, "Llama3:8b", b"weights")
    found = files(tmp_path)
    assert found["manifests/registry.ollama.ai/library/Llama3/8b"] == manifest.raw
    assert found["blobs/sha256-" + Digest.of(b"weights").hex] == b"weights"
    assert store.manifest(ModelName.parse("llama3:8B")).raw == manifest.raw
    assert (tmp_path / "blobs" / Digest.of(b"weights").file_name).stat().st_mode & 0o777 == 0o644


def test_a_model_with_a_missing_or_cut_blob_is_not_stored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = make(store, "a", b"weights")
    path = store.blob_path(Digest.of(b"weights"))
    path.write_bytes(b"weight")
    with pytest.raises(DigestMismatch):
        store.put_manifest(ModelName.parse("b"), manifest.raw)
    path.unlink()
    with pytest.raises(NotFound):
        store.put_manifest(ModelName.parse("b"), manifest.raw)
    with pytest.raises(ManifestError):
        store.put_manifest(ModelName.parse("b"), b"{}")
    assert [name.short for name in store.names()] == ["a:latest"]


@pytest.mark.parametrize(("size", "digest"), [(6, None), (8, None), (None, Digest.of(b"other"))])
def test_unexpected_bytes_leave_nothing(tmp_path: Path, size: int | None, digest: Digest | None) -> None:
    store = Store(tmp_path)
    with pytest.raises(DigestMismatch):
        store.put_stream([b"wei", b"ghts"], size=size, digest=digest)
    assert files(tmp_path) == {}


def test_verify_notices_every_flipped_bit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put_bytes(b"weights")
    store.verify_blob(digest, 7)
    for bit in range(7 * 8):
        data = bytearray(b"weights")
        data[bit // 8] ^= 1 << bit % 8
        store.blob_path(digest).write_bytes(data)
        with pytest.raises(DigestMismatch):
            store.verify_blob(digest)
    with pytest.raises(DigestMismatch):
        store.read_blob(Descriptor(media_type="x", digest=digest, size=7), limit=100)
    store.put_bytes(b"weights")  # writing it again repairs it
    store.verify_blob(digest)


def test_shared_blobs_stay_until_the_last_model_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"shared", b"[1]")
    make(store, "b", b"shared", b"[2]")
    assert store.remove(ModelName.parse("A")) == [Digest.of(b"[1]")]
    assert store.has_blob(Digest.of(b"shared"))
    store.remove(ModelName.parse("b"))
    assert not list(store.blobs.iterdir()) and not list(store.manifests.iterdir())
    with pytest.raises(NotFound):
        store.remove(ModelName.parse("b"))


def test_nothing_is_pruned_while_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    other = store.manifest_path(ModelName.parse("broken"))
    other.parent.mkdir(parents=True)
    other.write_bytes(b"not json")
    assert store.remove(ModelName.parse("a")) == []
    assert store.has_blob(Digest.of(b"weights"))


def test_odd_files_are_not_models(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    for odd in ("manifests/x", "manifests/h/n/m/t/deep", "manifests/h/n/m/.hidden", "manifests/h/n/-m/t"):
        path = tmp_path / odd
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [name.short for name in store.names()] == ["a:latest"]


def test_pipes_folders_and_links_out_are_refused_and_do_not_hang(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    make(store, "a", b"weights")
    path, digest = store.blob_path(Digest.of(b"weights")), Digest.of(b"weights")
    outside = tmp_path / "outside"
    outside.write_bytes(b"weights")
    puts: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to(outside),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("/dev/zero"),
    ]
    for put in puts:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        put()
        for read in (
            lambda: store.open_blob(digest),
            lambda: store.verify_blob(digest),
            lambda: store.copy(ModelName.parse("a"), ModelName.parse("b")),
        ):
            with pytest.raises(StoreError):
                read()
    assert [name.short for name in store.names()] == ["a:latest"]
    path.unlink()
    (store.blobs / "elsewhere").write_bytes(b"weights")
    path.symlink_to("elsewhere")  # within the store
    store.verify_blob(digest)


def test_a_manifest_that_is_no_plain_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    path = store.manifest_path(ModelName.parse("a"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a plain file"):
        store.manifest(ModelName.parse("a"))
    assert store.names() == []


def test_a_folder_that_cannot_be_read_is_an_error_and_nothing_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that cannot be seen may need the blobs that the removed one named."""
    store = Store(tmp_path)
    make(store, "a", b"weights")
    make(store, "other/b", b"weights")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "other":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StoreError, match="Permission denied"):
        store.names()
    assert store.remove(ModelName.parse("a")) == []
    assert store.has_blob(Digest.of(b"weights"))


def test_a_broken_model_can_be_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    make(store, "b", b"weights")
    store.manifest_path(ModelName.parse("b")).write_bytes(b"not json")
    assert store.remove(ModelName.parse("b")) == []
    assert store.remove(ModelName.parse("a")) != []
    assert not list(store.blobs.iterdir())


def test_what_a_replaced_model_alone_named_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    make(store, "b", b"other")
    store.copy(ModelName.parse("a"), ModelName.parse("b"))
    assert not store.has_blob(Digest.of(b"other")) and store.has_blob(Digest.of(b"weights"))
    store.copy(ModelName.parse("a"), ModelName.parse("a"))
    store.verify_blob(Digest.of(b"weights"))


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.private / "tmp"
    folder.mkdir(parents=True)
    (folder / "dead").write_bytes(b"x" * 1000)
    with store.temporary() as first:
        assert not (folder / "dead").exists()
        first.write_bytes(b"being written")
        with store.temporary() as second:
            second.write_bytes(b"also")
            assert first.read_bytes() == b"being written"
    assert list(folder.iterdir()) == []


def test_the_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file")
    name = ModelName.parse("a")
    for use in (
        store.names,
        lambda: store.manifest(name),
        lambda: store.put_bytes(b"x"),
        lambda: store.remove(name),
        lambda: store.put_stream([b"x"]),
    ):
        with pytest.raises(StoreError):
            use()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = Digest.of(b"manifest")
    assert store.records(digest) == []
    for i in range(3):
        store.add_record(digest, "pull", {"n": i})
    assert [record["n"] for record in store.records(digest)] == [0, 1, 2]
    next((tmp_path / ".sealift" / "records" / digest.hex).iterdir()).write_bytes(b'{"n": 0}')
    with pytest.raises(StoreError, match="canonical"):
        store.records(digest)


def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifests.store, "sync_file", full)
    with pytest.raises(NoSpace):
        store.put_bytes(b"weights")
    assert files(tmp_path) == {}


def test_a_known_size_that_cannot_fit_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="are needed"):
        Store(tmp_path).put_stream([], size=1 << 60)
    assert files(tmp_path) == {}


def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a", b"weights")
    before = files(tmp_path)
    other = Store(tmp_path)
    assert other.manifest(other.names()[0]).size == 9 and other.records(Digest.of(b"x")) == []
    assert files(tmp_path) == before


def test_writers_and_removers_never_leave_a_model_without_its_blobs(tmp_path: Path) -> None:
    """Law: blobs first, manifest last, under one lock: whatever interleaves, a listed model is whole."""
    store = Store(tmp_path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with contextlib.suppress(NotFound):  # the other thread removed a blob: noticed, and nothing was listed
                make(store, "a", b"shared", b"[1]")

    def remove() -> None:
        while not stop.is_set():
            with contextlib.suppress(NotFound):
                store.remove(ModelName.parse("b"))
            with contextlib.suppress(NotFound):
                make(store, "b", b"shared", b"[2]")

    threads = [threading.Thread(target=write), threading.Thread(target=remove)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with store.locked():
            for name in store.names():
                assert all(store.has_blob(blob.digest) for blob in store.manifest(name).blobs())
    stop.set()
    for thread in threads:
        thread.join()


def test_killed_while_writing_shows_nothing(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from manifests.store import Store\n"
        "def pieces():\n    yield b'x' * 1000\n    os.kill(os.getpid(), signal.SIGKILL)\n    yield b''\n"
        "Store(Path(sys.argv[1])).put_stream(pieces())"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(manifests.store.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    assert result.returncode == -9
    assert not (tmp_path / "blobs").exists()
