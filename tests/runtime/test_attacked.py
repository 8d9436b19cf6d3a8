"""A slice of `scripts/attack ask`: what clients and models send, mutated, each case within a second and 200 MB."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.attacks import ask


def test_what_is_mutated_is_answered_or_refused(tmp_path: Path) -> None:
    told: list[str] = []
    assert ask.run(tmp_path, range(60 * len(ask.KINDS)), tell=told.append) == []
    for kind in set(ask.KINDS):
        assert f"'{kind} refused'" in told[-1] and f"'{kind} accepted'" in told[-1], "each kind was tried, either way"


def test_a_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: a reader that raises, a parser that depends on the cut, a template that fills memory."""

    def parts(family: str, tags: object, inside: bool, pieces: list[str]) -> list[tuple[str, object]]:
        return [("Content", len(pieces))]

    def fault(*_: object) -> bool:
        raise KeyError("x")

    monkeypatch.setattr(ask, "_parts", parts)
    monkeypatch.setattr(ask, "_modelfile", fault)
    monkeypatch.setattr(ask, "_template", lambda *_: bytes(1 << 30))
    found = "\n".join(ask.run(tmp_path, range(len(ask.KINDS)), tell=lambda line: None))
    for what in ("answer: AssertionError: other parts", "modelfile: KeyError", "template: MemoryError"):
        assert what in found, found
