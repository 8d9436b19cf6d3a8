"""The pipeline of hashes: the same digests on any number of processors, pieces in order, failures told."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from functools import partial

import pytest

from bundler import hashing
from bundler.hashing import DEPTH, Pipeline


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
            jobs = [hashes[0].update, slow, hashes[2].update, hashes[3].update]
            size = min(numbers.randint(1, 5000), len(data) - done)
            source = io.BytesIO(data[done : done + size])
            piece = pipeline.fill(size, source.readinto, jobs)
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
            pipeline.start(piece, [look])
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
            pipeline.start(piece, [fail])
            pipeline.push(partial(reached.append, number))
        pipeline.flush()
    assert reached == [0, 1]
