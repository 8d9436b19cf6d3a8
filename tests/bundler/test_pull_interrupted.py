"""Pulls over a real socket: killed, slowed, starved of disk, beside other verbs, through proxies and certificates."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sealift
from bundler.registry import limits
from bundler.registry.client import Registry
from bundler.registry.errors import RegistryError, Unreachable
from bundler.registry.pull import Report, pull
from manifests.digest import Digest
from manifests.errors import NoSpace, NotFound
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.live_registry import PIECE, Live, make_certificate, serve
from tests.peers.registry import RegistryPeer

SIZE = 8 << 20
WEIGHTS = random.Random(7).randbytes(SIZE)
PATIENCE = 60.0  # seconds after which a test gives up hope; nothing is measured with it


def described(kind: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=kind, digest=Digest.of(data), size=len(data))


def model(system: bytes) -> Manifest:
    layers = (described(OLLAMA_PREFIX + "model", WEIGHTS), described(OLLAMA_PREFIX + "system", system))
    return Manifest.build(described(DOCKER_CONFIG, b"{}"), layers)


MANIFEST = model(b"brief")


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home" / "sealift"))
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)
    for variable in ("SEALIFT_REGISTRY_USER", "DOCKER_CONFIG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


@pytest.fixture
def peer() -> RegistryPeer:
    peer = RegistryPeer()
    peer.add("library/m", "latest", MANIFEST, {Digest.of(data): data for data in (WEIGHTS, b"brief", b"{}")})
    return peer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def named(live: Live) -> ModelName:
    return ModelName.parse(f"{live.address}/library/m")


def pulled(store: Store, live: Live, observer: Callable[[Report], None] = lambda report: None) -> None:
    with Registry(named(live), insecure=True) as registry:
        pull(store, registry, observer)


def journaled(store: Store) -> int:
    """The bytes of the weights that a journal with disjoint lines remembers."""
    text = (store.private / "partial" / (Digest.of(WEIGHTS).hex + ".journal")).read_text()
    return sum(int(line.split()[1]) for line in text.split("\n")[:-1] if line)


def requested(peer: RegistryPeer) -> int:
    """The bytes of the weights that were asked for since `peer.requests` was cleared."""
    ranges = [
        request.headers["range"].removeprefix("bytes=").split("-")
        for request in peer.requests
        if request.url.path.endswith(str(Digest.of(WEIGHTS)))
    ]
    return sum(int(last) - int(first) + 1 for first, last in ranges)


def assert_valid(store: Store) -> None:
    """Every listed model is whole."""
    for name in store.names():
        for blob in store.manifest(name).blobs():
            store.verify_blob(blob.digest, blob.size)


def test_a_killed_pull_goes_on_from_where_it_was(peer: RegistryPeer, store: Store) -> None:
    """`kill -9` at any moment: the store is valid, running it again completes without starting over (issue 2)."""
    stops = [SIZE // 2, 3 * SIZE // 4]
    reached, go_on = threading.Event(), threading.Event()

    def gate(live: Live) -> None:
        if stops and live.sent >= stops[0]:
            reached.set()
            go_on.wait(PATIENCE)

    environment = os.environ | {"SEALIFT_MODELS": str(store.root), "PYTHONPATH": str(Path(sealift.__file__).parent)}
    with serve(peer) as live:
        live.gate = gate
        command = [sys.executable, sealift.__file__, "pull", str(named(live)), "--insecure"]
        known = sent = 0
        while stops:
            process = subprocess.Popen(command, env=environment)
            assert reached.wait(PATIENCE)
            end = time.monotonic() + PATIENCE
            # what was sent arrives, and all of it is noted but the step being filled, and what the killed one left
            while journaled(store) < known + (live.sent - sent) - limits.JOURNAL_STEP - 4 * PIECE:
                assert time.monotonic() < end
                time.sleep(0.01)
            process.kill()
            process.wait()
            known, sent = journaled(store), live.sent
            assert store.names() == [] and not store.has_blob(Digest.of(WEIGHTS))
            stops.pop(0)
            reached.clear()
            go_on.set()
            go_on = threading.Event()
        peer.requests.clear()
        pulled(store, live)
        assert_valid(store)
        assert requested(peer) == SIZE - known < 3 * SIZE // 4
    assert sorted(path.name for path in store.private.iterdir() if path.is_file()) == ["lock"]
    assert not list((store.private / "partial").iterdir())


def test_an_observer_that_ends_the_transfer_costs_nothing(peer: RegistryPeer, store: Store) -> None:
    class Enough(Exception):
        pass

    def end(report: Report) -> None:
        if report.completed >= SIZE // 2 and report.total == SIZE:
            raise Enough

    with serve(peer) as live:
        with pytest.raises(Enough):
            pulled(store, live, end)
        first: list[int] = []
        pulled(store, live, lambda report: first.append(report.completed) if report.total == SIZE else None)
        assert_valid(store)
        assert first[0] >= SIZE // 2 and first == sorted(first)  # nothing had to be thrown away


def test_a_full_disk_in_the_middle(peer: RegistryPeer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.pwrite, [3]

    def pwrite(file: int, data: memoryview, at: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, at)

    with serve(peer) as live:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(NoSpace):
                pulled(store, live)
        assert store.names() == []
        known = journaled(store)
        peer.requests.clear()
        pulled(store, live)
        assert_valid(store)
        assert known >= 3 * limits.JOURNAL_STEP and requested(peer) == SIZE - known


def test_what_a_partial_file_takes_is_not_asked_for_again(
    peer: RegistryPeer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Store, "require_space", lambda self, size: asked.append(size))
    with serve(peer) as live:
        with pytest.raises(RuntimeError):
            pulled(store, live, stop_at(SIZE // 2))
        asked.clear()
        pulled(store, live)
    assert asked[0] <= SIZE // 2 + 1000


def stop_at(count: int) -> Callable[[Report], None]:
    def observe(report: Report) -> None:
        if report.completed >= count:
            raise RuntimeError("enough")

    return observe


def test_two_pulls_at_once_fetch_the_weights_once(peer: RegistryPeer, store: Store) -> None:
    failures: list[BaseException] = []

    def run(live: Live) -> None:
        try:
            pulled(store, live)
        except BaseException as error:
            failures.append(error)

    with serve(peer) as live:
        threads = [threading.Thread(target=run, args=(live,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert_valid(store)
        assert SIZE <= live.sent < SIZE + 1000


def test_removing_a_model_that_shares_blobs_does_not_fail_a_pull(peer: RegistryPeer, store: Store) -> None:
    """The weights are there and sound when the pull begins, and gone when it ends: they are fetched."""
    store.put_bytes(WEIGHTS)
    store.put_bytes(b"other")
    store.put_bytes(b"{}")
    other = ModelName.parse("other")
    store.put_manifest(other, model(b"other").raw)
    removed: list[Digest] = []

    def remove(report: Report) -> None:
        if report.status == "writing manifest" and not removed:
            removed.extend(store.remove(other))

    with serve(peer) as live:
        pulled(store, live, remove)
    assert Digest.of(WEIGHTS) in removed
    assert [name.model for name in store.names()] == ["m"]
    assert_valid(store)


def test_pulls_beside_removals_never_list_a_model_that_is_not_whole(peer: RegistryPeer, store: Store) -> None:
    small = {Digest.of(data): data for data in (b"w", b"a", b"b", b"{}")}
    for tag, system in (("a", b"a"), ("b", b"b")):
        layers = (described(OLLAMA_PREFIX + "model", b"w"), described(OLLAMA_PREFIX + "system", system))
        peer.add("library/m", tag, Manifest.build(described(DOCKER_CONFIG, b"{}"), layers), small)
    stop = threading.Event()

    def remove(name: ModelName) -> None:
        while not stop.is_set():
            try:
                store.remove(name)
            except NotFound:
                time.sleep(0.001)

    with serve(peer) as live:
        a, b = (ModelName.parse(f"{live.address}/library/m:{tag}") for tag in "ab")
        thread = threading.Thread(target=remove, args=(a,))
        thread.start()
        done = 0
        try:
            for name in [a, b] * 8:
                with Registry(name, insecure=True) as registry:
                    try:
                        pull(store, registry, lambda report: None)
                        done += 1
                    except NotFound:
                        pass  # removed three times over while it was pulled: refused, and nothing is listed
                with store.locked():
                    assert_valid(store)
        finally:
            stop.set()
            thread.join()
    assert done


# -- certificates, proxies, stalls


def test_an_own_authority(peer: RegistryPeer, store: Store, tmp_path: Path) -> None:
    authority = make_certificate(tmp_path)
    with serve(peer, tls=tmp_path) as live:
        with Registry(named(live)) as registry, pytest.raises(Unreachable, match="certificate") as caught:
            pull(store, registry, lambda report: None)
        assert "--ca" in (caught.value.hint or "") and not caught.value.temporary and "tried" not in str(caught.value)
        with Registry(named(live), ca=authority) as registry:
            manifest = pull(store, registry, lambda report: None)
        with Registry(named(live), insecure=True) as registry:
            assert registry.origin.startswith("https://")
            pull(store, registry, lambda report: None)
    assert_valid(store)
    assert sorted(record["tls_checked"] for record in store.records(manifest.digest)) == [False, True]


def test_a_registry_without_tls_says_what_to_do(peer: RegistryPeer, store: Store) -> None:
    with serve(peer) as live:
        with Registry(named(live)) as registry, pytest.raises(Unreachable) as caught:
            pull(store, registry, lambda report: None)
        assert "--insecure" in (caught.value.hint or "") and not caught.value.temporary
        pulled(store, live)


def test_through_a_proxy(peer: RegistryPeer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(peer) as live:
        monkeypatch.setenv("HTTP_PROXY", f"http://{live.address}")
        with Registry(ModelName.parse("http://reg.invalid/library/m"), insecure=True) as registry:
            pull(store, registry, lambda report: None)
    assert {request.url.host for request in peer.requests} == {"reg.invalid"}
    assert_valid(store)


@pytest.mark.parametrize("proxy", ["nonsense://x", "socks5://127.0.0.1:1", "http://x:port"])
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(RegistryError, match="proxy") as caught:
        Registry(ModelName.parse("reg.invalid/library/m"))
    assert "NO_PROXY" in (caught.value.hint or "")


@pytest.mark.parametrize("host", ["a:b:c", "x:99999999", "x:"])
def test_a_host_that_is_none(host: str, store: Store) -> None:
    with pytest.raises(RegistryError), Registry(ModelName.parse(f"{host}/library/m"), insecure=True) as registry:
        pull(store, registry, lambda report: None)


@pytest.mark.parametrize("only_blobs", [False, True])
def test_a_registry_that_sends_next_to_nothing(
    peer: RegistryPeer, store: Store, monkeypatch: pytest.MonkeyPatch, only_blobs: bool
) -> None:
    """One byte now and then is no progress: the reply is given up, and after RETRIES of them the transfer."""
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(limits, "REPLY_SECONDS", PATIENCE if only_blobs else 0.1)
    monkeypatch.setattr(limits, "RETRIES", 1)
    monkeypatch.setattr("tests.peers.live_registry.PIECE", 64)

    def gate(live: Live) -> None:
        if not only_blobs or any("/blobs/" in request.url.path for request in live.peer.requests):
            time.sleep(0.02)

    with serve(peer) as live:
        live.gate = gate
        with pytest.raises(Unreachable, match=r"bytes in|no whole reply"):
            pulled(store, live)
    assert store.names() == []
