"""Parity by the engine's library: used where it is there and right, and nothing tells its parity from numpy's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import native.gf256
import sealift
from bundler import fec, gf256, gf256_library, parity
from bundler.expected import of_statement
from bundler.gf256_library import Combine
from bundler.medium import open_medium
from native.library import library
from tests.peers.bundles import small_gguf
from tests.peers.forgery import statement_of

K, M, LOST = 20, 7, (0, 3, 19)
NAMES = ("one", "two", "three")
EXPORT = ["bundle", "export", *NAMES, "--sign", "alice", "--volume-size", "600kB", "--parity", "2", "-o"]


class Counting:
    """The engine's, counting how often it was asked; its answers wrong by one bit of `spoiled`, if that is given."""

    def __init__(self, spoiled: int = 0) -> None:
        self.calls, self.spoiled = 0, spoiled

    def __call__(self, rows: Sequence[Sequence[int]], shards: Sequence[Any], outputs: Sequence[Any]) -> None:
        self.calls += 1
        native.gf256.combine(rows, shards, outputs)
        outputs[-1][-1] ^= self.spoiled


def hand_over(monkeypatch: pytest.MonkeyPatch, found: Combine | None) -> None:
    monkeypatch.setattr(gf256_library, "find", lambda: found)


def shards(size: int = 4096 + 8) -> list[gf256.Bytes]:
    numbers = np.random.default_rng(size)
    return [numbers.integers(0, 256, size, dtype=np.uint8) for _ in range(K)]


def test_what_the_library_made_numpy_restores_and_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data, made, restored = shards(), [], []
    ways: list[Counting | None] = [Counting(), None]
    for way in ways:
        hand_over(monkeypatch, way)
        made.append([array.tobytes() for array in parity.encode_row(M, data)])
    assert made[0] == made[1]
    known = [None if i in LOST else shard for i, shard in enumerate(data)]
    extra = [np.frombuffer(made[0][j], np.uint8) for j in (1, 4, 6)]
    for way in ways:
        hand_over(monkeypatch, way)
        found = gf256.combine(gf256.restoration(LOST, (1, 4, 6), K), [*known, *extra])
        restored.append([array.tobytes() for array in found])
    assert restored[0] == restored[1] == [data[i].tobytes() for i in LOST]
    assert ways[0] is not None and ways[0].calls == 3  # one to compare


def test_symbols_of_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = fec.Geometry(size=3 * 10 * 1400 - 77, k=10, m=4, symbol=1400)
    data = np.random.default_rng(5).bytes(geometry.size)
    encoded = []
    for way in (Counting(), None):
        hand_over(monkeypatch, way)
        encoded.append(fec.encode(geometry, data, 3).tobytes())
        symbols = np.frombuffer(encoded[-1], np.uint8).reshape(14, 3, 1400)
        found = {index: symbols[index, 1].tobytes() for index in range(14) if index not in (0, 2, 9, 11)}
        assert fec.decode(geometry, 1, found) == data[geometry.block : 2 * geometry.block]
    assert encoded[0] == encoded[1]


@pytest.mark.parametrize("spoiled", [1, 128])
def test_a_library_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, spoiled: int) -> None:
    hand_over(monkeypatch, None)
    wanted = [array.tobytes() for array in parity.encode_row(M, shards())]
    wrong = Counting(spoiled)
    hand_over(monkeypatch, wrong)
    for _ in range(3):
        assert [array.tobytes() for array in parity.encode_row(M, shards())] == wanted
    assert wrong.calls == 1  # to compare, once


# -- by the command line


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a key and three models, of which a volume holds one."""
    for name in list(os.environ):
        if name.startswith(("SEALIFT_", "OLLAMA_")) and name != "SEALIFT_NATIVE_LIBRARY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763700000")
    monkeypatch.chdir(tmp_path)
    library()  # found before the door is asked
    hand_over(monkeypatch, None)  # what the door hands over ends with the test
    sealift.build.cache_clear()  # it hands it over where it makes a verb ready, once for each verb of a process
    assert sealift.run(["key", "generate", "alice", "--no-passphrase"]) == 0
    for seed, name in enumerate(NAMES):
        small_gguf(tmp_path / "model.gguf", seed=seed, rows=1024 - seed)
        (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nLICENSE MIT\n")
        assert sealift.run(["create", name]) == 0
    return tmp_path


def tails(folder: Path) -> list[tuple[bytes, bytes]]:
    """The parity volumes behind the statement, whose signatures another export makes anew: hashes, and parity."""
    found = []
    for path in sorted(folder.glob("*.p*.tar")):
        with tarfile.open(path) as archive:
            table, data = (archive.extractfile(name) for name in ("table", "parity/" + "0" * 16))
            assert table and data
            found.append((table.read(), data.read()))
    return found


def test_an_export_uses_it_and_its_parity_is_that_of_numpy(side: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(side / "home", side / "home2")
    counting = Counting()
    monkeypatch.setattr(native.gf256, "find", lambda: counting)
    assert sealift.run([*EXPORT, "usb"]) == 0
    assert counting.calls > 1
    # volume for volume, over the same files
    volumes = {path.name: path.read_bytes() for path in (side / "usb").glob("*.p*.tar")}
    assert len(volumes) == 2
    for name in volumes:
        (side / "usb" / name).unlink()
    hand_over(monkeypatch, None)
    envelope = open_medium(side / "usb").envelope
    written = parity.write(side / "usb", of_statement(statement_of(side / "usb"), envelope), 2)
    assert {path.name: path.read_bytes() for path in written} == volumes
    # and by a process that has no library
    absent = {"SEALIFT_NATIVE_LIBRARY": "/nonexistent/libsealift.so", "SEALIFT_HOME": str(side / "home2")}
    command = [sys.executable, "-m", "sealift", *EXPORT, "usb2"]
    done = subprocess.run(command, env={**os.environ, **absent}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tails(side / "usb") == tails(side / "usb2") and len(tails(side / "usb2")) == 2


def test_a_repair_uses_it(side: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sealift.run([*EXPORT, "usb"]) == 0
    lost = sorted(path for path in (side / "usb").glob("*.tar") if ".p0" not in path.name)[-1]
    wanted = lost.read_bytes()
    lost.unlink()
    counting = Counting()
    monkeypatch.setattr(native.gf256, "find", lambda: counting)
    assert sealift.run(["bundle", "repair", "usb", "--in-place"]) == 0
    assert counting.calls > 1 and lost.read_bytes() == wanted
