"""Answers to parts: every family's samples, at every cut; nothing lost, nothing raised, time by the length."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from runtime.text.parsers import Call, Content, Parser, Part
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.harmony import HarmonyReader
from runtime.text.parsers.reader import AnswerReader
from runtime.text.parsers.syntax import FAMILIES, GENERIC
from tests.peers.answers import SAMPLES, TOOLS, Sample

BY_NAME = {one.name: one for one in (*FAMILIES, GENERIC)}


def parser(family: str, tags: tuple[str, str] | None = None, inside: bool = False) -> Parser:
    if family == "harmony":
        return HarmonyReader(Offered(TOOLS), "<|start|>assistant")
    return AnswerReader(Offered(TOOLS), syntax=BY_NAME[family], tags=tags, inside=inside)


def joined(parts: Iterable[Part]) -> list[tuple[Any, ...]]:
    """Neighbours of a kind as one, as the samples have them."""
    out: list[tuple[Any, ...]] = []
    for part in parts:
        if isinstance(part, Call):
            out.append(("call", part.call.name, part.call.arguments))
            continue
        assert part.text, "an empty part says nothing"
        kind = "say" if isinstance(part, Content) else "think"
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + part.text)
        else:
            out.append((kind, part.text))
    return out


def read(reader: Parser, pieces: Iterable[str]) -> list[tuple[Any, ...]]:
    parts = [part for piece in pieces for part in reader.push(piece)]
    return joined([*parts, *reader.flush()])


def of(sample: Sample) -> Parser:
    return parser(sample.family, sample.tags, sample.inside)


IDS = [f"{one.family}: {one.about}" for one in SAMPLES]


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_samples(sample: Sample) -> None:
    assert read(of(sample), [sample.text]) == sample.parts


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_cuts_change_nothing(sample: Sample) -> None:
    text = sample.text
    assert read(of(sample), text) == sample.parts
    for at in range(len(text)):
        assert read(of(sample), [text[:at], "", text[at:]]) == sample.parts, at
    chance = random.Random(text)
    for _ in range(20):
        cuts = sorted(chance.sample(range(len(text) + 1), k=min(4, len(text))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(of(sample), pieces) == sample.parts, cuts
