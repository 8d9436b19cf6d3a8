"""Packs: the same bits as without, never believed, never in the way."""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sealift
from manifests import prune
from manifests.create import CreateRequest, create
from manifests.digest import Digest
from manifests.errors import NoSpace
from manifests.gguf import Gguf
from manifests.name import ModelName
from manifests.store import Store
from native import packing, sha256
from native.errors import NativeError
from native.library import isa_names
from runtime import packs as packs_module
from runtime.engine import packfile
from runtime.engine.batch import Rows
from runtime.engine.link import Load
from runtime.engine.native_runner import open_native
from runtime.engine.sampling import Sampling
from runtime.errors import ModelRefused, PackUnusable
from runtime.models.load import load
from runtime.packs import Packs
from tests.peers.model_maker import make_model

BLOB = "sha256:" + "0" * 64
NAME = ModelName.parse("made")


@pytest.fixture(scope="module", params=["Q8_0", "F16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m.gguf", quant=request.param, tied=request.param == "Q8_0")


def packed(model: Path, folder: Path, isa: str, blob: str = BLOB) -> Path:
    _, plan, weights = load(Gguf.open(model))
    path = Path(packfile.path_of(str(folder / "m"), isa))
    with path.open("wb") as out:
        packfile.write(out, packfile.layout_of(plan, weights, blob, isa), weights, isa)
    return path


def answer(request: Load) -> tuple[str, list[Any]]:
    """What the worker says of the pack, and three greedy steps to the bit."""
    opened = open_native(request)
    said, tokens = [], [1, 2, 3]
    for _ in range(3):
        rows = Rows(
            tokens=tokens, row_start=[0, len(tokens)], start_pos=[0], tables=[[0]], out_rows=[len(tokens) - 1],
            sampling=[Sampling(seed=0, top_logprobs=5)], histories=[[]], matchers=[None],
        )  # fmt: skip
        chosen = opened.runner.run(rows)[0]
        said.append(chosen)
        tokens = [*tokens, chosen.token]
    return opened.facts["pack"], said


@pytest.mark.parametrize("isa", isa_names())
def test_a_packed_model_gives_the_bits_of_the_model(
    model: Path, tmp_path: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packfile, "SLICE", 1 << 14)  # bytes: several slices for each matrix
    monkeypatch.setattr(packfile, "LEAF", 5 << 10)  # leaves that end inside matrices
    request = Load(path=str(model), n_ctx=64, threads=2, parallel=1, isa=isa, packs=str(tmp_path / "m"), blob=BLOB)
    absent, expected = answer(request)
    packed(model, tmp_path, isa)
    used, found = answer(request)
    assert (absent, used) == ("absent", "used")
    assert found == expected


def test_every_byte_of_a_pack_counts(model: Path, tmp_path: Path) -> None:
    """Header, its padding, panels, padding between matrices, hashes: one flipped bit, and it is not used."""
    isa = packing.best_isa()
    path = packed(model, tmp_path, isa)
    _, plan, weights = load(Gguf.open(model))
    layout = packfile.layout_of(plan, weights, BLOB, isa)
    good = path.read_bytes()
    assert len(good) == layout.size
    first, size = next(iter(layout.places.values()))
    places = [0, 100, packfile.PAGE - 1, first, first + size - 1, layout.end - 1, layout.end, layout.size - 1]
    places += range(0, layout.size, layout.size // 97)
    packfile.use(str(path), layout, weights, isa, threads=3)
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        with pytest.raises(PackUnusable):
            packfile.use(str(path), layout, weights, isa, threads=3)
    for other in (b"", good[:-1], good[: packfile.PAGE], good + b"\0"):
        path.write_bytes(other)
        with pytest.raises(PackUnusable, match=f"{len(other)} bytes, expected {layout.size}"):
            packfile.use(str(path), layout, weights, isa, threads=1)


def test_damage_in_any_leaf_is_found_whoever_hashes_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More leaves than are hashed in one call, on fewer and on more threads than there are leaves."""
    monkeypatch.setattr(packfile, "LEAF", 5 << 10)
    monkeypatch.setattr(packfile, "AT_ONCE", 4)
    isa = packing.best_isa()
    path = packed(model, tmp_path, isa)
    _, plan, weights = load(Gguf.open(model))
    layout = packfile.layout_of(plan, weights, BLOB, isa)
    good = path.read_bytes()
    assert layout.leaves > 8
    for threads in (1, 2, 7, layout.leaves + 3):
        packfile.use(str(path), layout, weights, isa, threads=threads)
        for leaf in range(1, layout.leaves):  # the first one has the header
            place = leaf * packfile.LEAF + 7
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises(PackUnusable, match=f"from {leaf * packfile.LEAF} on are damaged"):
                packfile.use(str(path), layout, weights, isa, threads=threads)
        path.write_bytes(good)


def test_what_could_not_be_hashed_is_not_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isa = packing.best_isa()
    path = packed(model, tmp_path, isa)
    _, plan, weights = load(Gguf.open(model))
    layout = packfile.layout_of(plan, weights, BLOB, isa)

    def fails(*_: Any) -> bytes:
        raise NativeError("broken")

    monkeypatch.setattr(sha256, "pieces", fails)
    with pytest.raises(NativeError):
        packfile.use(str(path), layout, weights, isa, threads=2)


def test_when_a_pack_is_refused_nobody_reads_it_any_more(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cuts the file short then ends no process."""
    isa = packing.best_isa()
    path = packed(model, tmp_path, isa, blob="sha256:" + "1" * 64)
    _, plan, weights = load(Gguf.open(model))
    layout = packfile.layout_of(plan, weights, BLOB, isa)
    begun, reading = threading.Event(), []
    pieces, use = sha256.pieces, packfile.Reading.use

    def slowly(data: Any, size: int) -> bytes:
        reading.append(1)
        begun.set()
        time.sleep(0.2)
        reading.append(-1)
        return pieces(data, size)

    def late(self: packfile.Reading, *given: Any) -> Any:
        assert begun.wait(60)
        return use(self, *given)

    monkeypatch.setattr(sha256, "pieces", slowly)
    monkeypatch.setattr(packfile.Reading, "use", late)
    with pytest.raises(PackUnusable, match="other weights"):
        packfile.use(str(path), layout, weights, isa, threads=1)
    assert reading == [1, -1]
    begun.clear()
    said, _ = answer(Load(path=str(model), n_ctx=64, threads=1, packs=str(tmp_path / "m"), blob=BLOB))
    assert "other weights" in said
    assert reading == [1, -1] * 2


def test_threads_that_hashed_a_pack_end_without_the_collector(model: Path, tmp_path: Path) -> None:
    isa = packing.best_isa()
    path = packed(model, tmp_path, isa)
    _, plan, weights = load(Gguf.open(model))
    before = set(threading.enumerate())
    gc.disable()
    try:
        packfile.use(str(path), packfile.layout_of(plan, weights, BLOB, isa), weights, isa, threads=3)
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("sealift-pack"):
                thread.join(60)
                assert not thread.is_alive()
    finally:
        gc.enable()


def test_a_foreign_pack_is_not_used_and_the_model_runs(model: Path, tmp_path: Path) -> None:
    isa = packing.best_isa()
    request = Load(path=str(model), n_ctx=64, threads=1, parallel=1, packs=str(tmp_path / "m"), blob=BLOB)
    _, expected = answer(request)
    path = packed(model, tmp_path, isa, blob="sha256:" + "1" * 64)
    why, found = answer(request)
    assert "other weights" in why and found == expected
    os.truncate(path, 0)
    assert answer(request) == ("it has 0 bytes, expected " + str(size_of(model, isa)), expected)
    path.unlink()
    path.symlink_to(packed(model, tmp_path / ".", "portable"))
    assert "cannot be read" in answer(request)[0]
    path.unlink()
    os.mkfifo(path)
    assert answer(request)[0] == "it is not a plain file"


def size_of(model: Path, isa: str) -> int:
    _, plan, weights = load(Gguf.open(model))
    return packfile.layout_of(plan, weights, BLOB, isa).size


def test_another_build_has_another_header(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan, weights = load(Gguf.open(model))
    isa = packing.best_isa()
    before = packfile.layout_of(plan, weights, BLOB, isa)
    real = packing.pack

    def otherwise(*arguments: Any, **more: Any) -> None:
        real(*arguments, **more)
        arguments[2][-1] ^= 1

    monkeypatch.setattr(packing, "pack", otherwise)
    assert packfile.layout_of(plan, weights, BLOB, isa).header != before.header


def test_panels_that_are_not_what_they_say_are_refused(model: Path, tmp_path: Path) -> None:
    from native.engine import Engine
    from native.errors import InputError

    isa = packing.best_isa()
    _, plan, weights = load(Gguf.open(model))
    used = packfile.use(
        str(packed(model, tmp_path, isa)), packfile.layout_of(plan, weights, BLOB, isa), weights, isa, threads=1
    )
    name = next(name for name in used if used[name].packed)
    counts: dict[str, Any] = dict(threads=1, n_blocks=1, max_rows=4, max_seqs=1, max_outputs=1)
    for wrong in (
        replace(used[name], buffer=used[name].buffer[:-64]),
        replace(used[name], buffer=memoryview(bytearray(used[name].buffer.nbytes + 1))[1:]),
        replace(used[name], packed="portable" if isa != "portable" else "avx2"),
        replace(weights[name], packed=isa, buffer=weights[name].buffer[:64]),
    ):
        with pytest.raises(InputError, match="panels of"):
            Engine(plan, used | {name: wrong}, isa=isa, **counts)


# -- beside the store


@pytest.fixture
def store(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SEALIFT_MODELS", str(tmp_path / "models"))
    store = Store()
    create(store, NAME, CreateRequest(files={"m.gguf": store.put_file(model)}))
    return store


def weights_of(store: Store) -> Digest:
    return store.manifest(NAME).of_kind("model")[-1].digest


def files(store: Store) -> list[str]:
    return sorted(path.name for path in store.packs.iterdir()) if store.packs.is_dir() else []


def test_made_kept_made_again_and_gone_with_the_model(store: Store) -> None:
    first = Packs(store).prepare(NAME)
    assert first.made and first.path.stat().st_size == first.size and not first.why
    assert files(store) == [f"{weights_of(store).hex}.{packing.best_isa()}.pack"]
    assert not Packs(store).prepare(NAME).made
    raw = first.path.read_bytes()
    first.path.write_bytes(raw[:-1] + b"\0" + raw[-1:])
    assert Packs(store).prepare(NAME).why
    assert first.path.read_bytes() == raw
    assert list((store.private / "tmp").iterdir()) == []
    store.remove(NAME)
    assert files(store) == []


def test_prune_takes_packs_whose_blob_nobody_needs(store: Store) -> None:
    made = Packs(store).prepare(NAME)
    left = made.path.with_name(f"{'ab' * 32}.avx2.pack")
    left.write_bytes(b"left over")
    prune.prune(store, now=time.time() + 2 * prune.AGE)
    assert files(store) == [made.path.name]


def test_a_killed_maker_leaves_nothing_and_is_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "import signal, sys; open(int(sys.argv[2]), 'wb').write(b'half'); signal.pause()"
    with monkeypatch.context() as patched:
        patched.setattr(packs_module, "COMMAND", (packs_module.COMMAND[0], "-c", slow))
        packs = Packs(store)
        at_work = threading.Thread(target=packs.prepare_quietly, args=(weights_of(store),))
        at_work.start()
        deadline = time.monotonic() + 60
        while packs._process is None and time.monotonic() < deadline:
            time.sleep(0.01)
        packs.close()
        at_work.join(60)
        assert not at_work.is_alive()
    assert files(store) == [] and list((store.private / "tmp").iterdir()) == []
    assert Packs(store).prepare(NAME).made


def test_a_maker_that_starts_while_the_server_closes_is_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    packs, started, popen = Packs(store), list[subprocess.Popen[bytes]](), subprocess.Popen
    slow = "import signal; signal.alarm(10); signal.pause()"

    def closing(*words: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*words, **more))
        packs.close()
        return started[0]

    monkeypatch.setattr(packs_module, "COMMAND", (packs_module.COMMAND[0], "-c", slow))
    monkeypatch.setattr(subprocess, "Popen", closing)
    packs.prepare_quietly(weights_of(store))
    assert [process.returncode for process in started] == [-signal.SIGKILL] and files(store) == []


def test_one_maker_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.packs.mkdir(parents=True)
    lock = os.open(store.packs, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    Packs(store).prepare_quietly(weights_of(store))
    assert files(store) == []
    os.close(lock)
    Packs(store).prepare_quietly(weights_of(store))
    assert len(files(store)) == 1


def test_a_disk_that_is_nearly_full_gets_no_pack(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(store.root)
    free = 1 << 20  # bytes, of which a pack takes more than a sixteenth
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1000 << 20, free=free))
    with pytest.raises(NoSpace, match="would leave less than"):
        Packs(store).prepare(NAME)
    packs = Packs(store)
    with caplog.at_level(logging.WARNING):
        packs.prepare_quietly(weights_of(store))
        packs.prepare_quietly(weights_of(store))
    assert len(caplog.records) == 1 and "no packed weights are kept" in caplog.text
    assert files(store) == []
    free = 90 << 20  # less than a tenth of the disk; but the pack is small
    assert packs.prepare(NAME).made


def test_a_store_that_cannot_be_written_is_said_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.packs.write_text("in the way")
    packs = Packs(store)
    with caplog.at_level(logging.WARNING):
        packs.prepare_quietly(weights_of(store))
        packs.prepare_quietly(weights_of(store))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("said", ["", "nonsense", '{"isa": "../../x", "size": 1, "made": true, "why": ""}', "[1]"])
def test_a_maker_that_talks_nonsense_puts_nothing_in_place(
    store: Store, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "COMMAND", (packs_module.COMMAND[0], "-c", f"print({said!r})"))
    packs = Packs(store)
    packs.prepare_quietly(weights_of(store))
    assert files(store) == []


def test_the_verb_says_what_it_did(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert sealift.run(["prepare", "made"]) == 0
    assert sealift.run(["prepare", "--json"]) == 0
    out = capsys.readouterr().out
    assert "made:latest: packed" in out and '"made": false' in out


def test_a_model_that_cannot_run_does_not_stop_the_others(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_model(tmp_path / "m.gguf", leave_out=("output_norm.weight",))
    create(store, ModelName.parse("a-broken-one"), CreateRequest(files={"m.gguf": store.put_file(path)}))
    assert sealift.run(["prepare"]) == 1
    out, err = capsys.readouterr()
    assert "made:latest: packed" in out and "a-broken-one:latest: not packed" in err and "output_norm.weight" in err
    assert sealift.run(["prepare", "--json"]) == 1
    assert {bool(item.get("error")) for item in json.loads(capsys.readouterr().out)} == {True, False}


def test_a_model_that_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    path = make_model(tmp_path / "m.gguf", leave_out=("output_norm.weight",))
    create(store, NAME, CreateRequest(files={"m.gguf": store.put_file(path)}))
    with pytest.raises(ModelRefused, match=r"output_norm\.weight"):
        Packs(store).prepare(NAME)
    assert files(store) == []
