"""The pipeline of hashes: the same digests on any number of processors, pieces in order, failures told."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from bundler import hashing, sha256
from bundler.hashing import DEPTH, Pipeline
from bundler.sha256 import Hash


class Told:
    """A hash that passes on what it is given."""

    def __init__(self, update: Callable[[memoryview], None]) -> None:
        self.update = update


@pytest.mark.parametrize("processors", [1, 2, 3, 4, 64])
def test_every_hash_sees_every_piece_in_order(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    monkeypatch.setattr(hashing, "PIECE", 1500)
    numbers = random.Random(processors)
    data = numbers.randbytes(300_000)
    hashes = [hashlib.new(name) for name in ("sha512", "sha256", "sha1", "md5")]
    seen: list[int] = []

    def slow(piece: memoryview) -> None:
        time.sleep(numbers.choice((0, 0, 0.002)))  # another lane is ahead, or behind

    done = 0
    with Pipeline(5000) as pipeline:
        while done < len(data):
            together: list[Hash] = [hashes[0], Told(slow), hashes[2], hashes[3]]
            size = min(numbers.randint(1, 5000), len(data) - done)
            source = io.BytesIO(data[done : done + size])
            piece = pipeline.fill(size, source.readinto, together)
            hashes[1].update(piece)
            pipeline.push(partial(seen.append, done))
            done += size
        pipeline.flush()
    assert all(one.digest() == hashlib.new(one.name, data).digest() for one in hashes)
    assert seen == sorted(seen) and len(seen) > 50


def test_a_buffer_is_not_filled_again_while_it_is_hashed() -> None:
    late: list[bytes] = []

    def look(piece: memoryview) -> None:
        time.sleep(0.003)
        late.append(bytes(piece))

    with Pipeline(8) as pipeline:
        for number in range(4 * DEPTH):
            piece = pipeline.buffer(8)
            piece[:] = number.to_bytes(8, "big")
            pipeline.start(piece, [Told(look)])
            pipeline.push()
        pipeline.flush()
    assert late == [number.to_bytes(8, "big") for number in range(4 * DEPTH)]


def test_what_fails_is_told_and_later_pieces_reach_nobody() -> None:
    reached: list[int] = []

    def fail(piece: memoryview) -> None:
        if piece[0] == 2:
            raise ValueError("the third piece")

    with pytest.raises(ValueError, match="the third piece"), Pipeline(1) as pipeline:
        for number in range(DEPTH):
            piece = pipeline.buffer(1)
            piece[0] = number
            pipeline.start(piece, [Told(fail)])
            pipeline.push(partial(reached.append, number))
        pipeline.flush()
    assert reached == [0, 1]


class Together(Told):
    """A kind that takes several at once, and notes how many."""

    calls: list[tuple[int, bytes]]

    @staticmethod
    def together(hashes: Sequence[Together], piece: memoryview) -> None:
        Together.calls.append((len(hashes), bytes(piece)))
        for one in hashes:
            one.update(piece)


@pytest.mark.parametrize("processors", [1, 2, 64])
def test_hashes_that_go_together_share_a_lane_and_a_call(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    monkeypatch.setattr(sha256, "side_by_side", lambda: Together)
    monkeypatch.setattr(Together, "calls", [], raising=False)
    seen: list[list[bytes]] = [[], [], [], []]
    hashes = [Told(lambda piece: seen[0].append(bytes(piece)))]
    hashes += [Together(lambda piece, to=to: to.append(bytes(piece))) for to in seen[1:]]  # type: ignore[misc]
    with Pipeline(8) as pipeline:
        for number in range(20):
            pipeline.buffer(8)[:] = number.to_bytes(8, "big")
            pipeline.start(pipeline.buffer(8), hashes)
            pipeline.push()
        pipeline.flush()
    wanted = [number.to_bytes(8, "big") for number in range(20)]
    assert seen == [wanted] * 4 and Together.calls == [(3, piece) for piece in wanted]
