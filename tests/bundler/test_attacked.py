"""A slice of `scripts/attack`, which runs ten thousand mutated bundles and a hundred interrupted imports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from scripts.attacks import interrupt, mutate, mutations
from tests.peers.bundles import Gap
from tests.peers.forgery import forge


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))


def test_mutated_bundles_are_refused_or_mean_the_same(tmp_path: Path) -> None:
    told: list[str] = []
    cases = range(12 * len(mutate.KINDS))
    assert not mutate.run(tmp_path, cases, tell=told.append)
    for kind in set(mutate.KINDS):
        assert f"'{kind} refused'" in told[-1], "each kind was tried, and changed something"
    assert "accepted" in told[-1], "some change nothing that counts"


def harmless(folder: Path, numbers: object) -> None:
    forge(folder, lambda document: document["predicate"]["models"][0]["source"].update(note="x"))


def test_an_attack_that_succeeds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: a reader that took anything, crashed, or ran out of memory would be found."""
    monkeypatch.setattr(mutate, "same", lambda report, sound: False)
    monkeypatch.setattr(mutate.Case, "_volume", lambda case: bytes(1 << 30))
    monkeypatch.setattr(mutate.Case, "_slip", lambda case: 1 // 0)
    monkeypatch.setattr(mutations, "statement", harmless)
    found = mutate.run(tmp_path, range(len(mutate.KINDS)), tell=lambda line: None)
    for what in ("MemoryError", "ZeroDivisionError", "accepted with another meaning"):
        assert any(what in line for line in found), found


def test_interrupted_imports_go_on_and_are_never_seen(tmp_path: Path) -> None:
    told: list[str] = []
    assert not interrupt.run(tmp_path / "side", range(4), tell=told.append)
    assert len([line for line in told if line.startswith("seed ")]) == 4


def test_a_store_that_is_seen_in_between_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher itself: an import that made a half blob visible for a moment, a look of the watcher's, would be
    found."""
    told, case, watch = tmp_path / "told", interrupt._case, interrupt._watch

    def one(*arguments: Any) -> str:
        told.unlink(missing_ok=True)
        return case(*arguments)

    def watching(*arguments: Any) -> None:
        watch(*arguments)
        told.touch()

    def half(gap: Gap, *_: object) -> None:
        path, end = gap.far.blobs / ("sha256-" + "0" * 64), time.monotonic() + 60
        path.write_bytes(b"half")
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.005)
        path.unlink()

    monkeypatch.setattr(interrupt, "_case", one)
    monkeypatch.setattr(interrupt, "_watch", watching)
    monkeypatch.setattr(interrupt, "_import", half)
    found = interrupt.run(tmp_path / "side", range(3), tell=lambda line: None)
    assert found and all("half" in line for line in found)
