"""Pull and push against the real docker-registry (Debian's package), started here on loopback."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.registry.client import Registry
from bundler.registry.errors import NotThere
from bundler.registry.pull import pull
from bundler.registry.push import push
from manifests.digest import Digest
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store

PROGRAM = shutil.which("docker-registry")
SKOPEO = shutil.which("skopeo")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs docker-registry (Debian's package of that name)")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a registry with an empty store of its own."""
    folder = tmp_path_factory.mktemp("registry")
    assert PROGRAM
    for _ in range(5):  # a port that is free now may be another's in a moment
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder)}},
            "http": {"addr": address},
            "log": {"level": "error"},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        process = subprocess.Popen(
            [PROGRAM, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if listens(process, address):
                yield address
                return
        finally:
            process.kill()
            process.wait()
    pytest.fail("docker-registry does not listen")


def listens(process: subprocess.Popen[bytes], address: str) -> bool:
    """False: the process has ended."""
    host, _, port = address.partition(":")
    end = time.monotonic() + 60
    while process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        assert time.monotonic() < end, "docker-registry does not listen"
        time.sleep(0.05)
    return False


def fill(store: Store, name: ModelName, size: int) -> Manifest:
    weights = random.Random(size).randbytes(size)
    layers = tuple(
        Descriptor(media_type=OLLAMA_PREFIX + kind, digest=store.put_bytes(data), size=len(data))
        for kind, data in (("model", weights), ("template", b"{{ .Prompt }}"))
    )
    config = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(b"{}"), size=2)
    return store.put_manifest(name, Manifest.build(config, layers).raw)


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_there_and_back(address: str, tmp_path: Path, size: int) -> None:
    name = ModelName.parse(f"{address}/library/m{size}:v1")
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    manifest = fill(here, name, size)
    with Registry(name, insecure=True) as registry:
        push(here, name, registry, lambda report: None)
        found = pull(there, registry, lambda report: None, expect=manifest.digest)
    assert found.raw == manifest.raw
    for blob in found.blobs():
        there.verify_blob(blob.digest, blob.size)


def test_a_model_that_is_not_there(address: str, tmp_path: Path) -> None:
    with Registry(ModelName.parse(f"{address}/library/none"), insecure=True) as registry, pytest.raises(NotThere):
        pull(Store(tmp_path), registry, lambda report: None)


@pytest.mark.skipif(SKOPEO is None, reason="needs skopeo (Debian's package of that name)")
def test_skopeo_sees_the_same_manifest(address: str, tmp_path: Path) -> None:
    name = ModelName.parse(f"{address}/library/seen:v1")
    store = Store(tmp_path)
    manifest = fill(store, name, 1000)
    with Registry(name, insecure=True) as registry:
        push(store, name, registry, lambda report: None)
    assert SKOPEO
    command = [SKOPEO, "inspect", "--raw", "--tls-verify=false", f"docker://{address}/library/seen:v1"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    assert Digest.of(raw) == manifest.digest
