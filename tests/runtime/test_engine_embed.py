"""Vectors over the wire: the worker's answer, the link that believes nothing, LoadedModel.embed; and the same bits from
the real engine whoever else is asking."""

from __future__ import annotations

import asyncio
import base64
import random
import struct
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from native.engine import BLOCK, Batch, Engine
from runtime.engine.link import Link, Load
from runtime.engine.protocol import HEADER, Message, encode
from runtime.engine.sampling import Sampling
from runtime.engine.stream import Ended, Vector
from runtime.errors import CapabilityMissing, ContextExceeded, RequestRefused, RuntimeFailure, WorkerDied
from runtime.loaded import GenerateRequest, LoadedModel, load_model
from runtime.models import load
from runtime.source import ModelSource
from tests.peers.bert_maker import random_bert, write
from tests.peers.fake_engine import WIDTH, vector_of
from tests.peers.model_maker import make_model
from tests.runtime.test_engine_loaded import loaded

COMMAND = (sys.executable, "-m", "tests.peers.fake_worker")
WAIT = 60.0


def text(length: int, seed: int = 0) -> list[int]:
    return [(seed + 7 * i) % 1000 for i in range(length)]


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, WAIT))


def test_each_text_gets_its_own_vector_in_whatever_company() -> None:
    async def main() -> None:
        async with loaded("embed") as model:
            assert model.ready.vector == WIDTH
            texts = [text(1 + 50 * i % 256, 20 + i) for i in range(40)]
            found = await asyncio.gather(*(model.embed(one, client=str(i % 3)) for i, one in enumerate(texts)))
            assert [struct.pack(f"<{WIDTH}f", *one) for one in found] == [vector_of(one) for one in texts]
            assert not model._link._streams

    run(main())


def test_what_does_not_go_is_refused_by_name() -> None:
    async def main() -> None:
        async with loaded("embed") as model:
            with pytest.raises(ContextExceeded, match="exceeds the context length: 257 tokens of 256"):
                await model.embed(text(257))
            assert len(await model.embed(text(256))) == WIDTH
            with pytest.raises(RequestRefused, match="empty"):
                await model.embed([])
            with pytest.raises(RequestRefused, match="token 1000 is not in the model's vocabulary of 1000"):
                await model.embed([1, 1000])
            with pytest.raises(CapabilityMissing, match="does not support generate"):
                model.generate(GenerateRequest(prompt=(1,)))
        async with loaded("plain") as model:
            with pytest.raises(CapabilityMissing, match="does not support embeddings"):
                await model.embed([1])

    run(main())


def test_the_worker_refuses_what_its_model_is_not_for() -> None:
    """Whatever the server has checked before."""

    async def main() -> None:
        for behaviour, said in (("plain", "embeddings"), ("embed", "generate")):
            link = await Link.start(Load(path=f"/nowhere/{behaviour}", n_ctx=64), COMMAND)
            try:
                if behaviour == "plain":
                    _, stream = link.embed([1])
                else:
                    _, stream = link.submit([1], Sampling(seed=1), max_tokens=1)
                (ended,) = await stream.take()
                assert isinstance(ended, Ended) and isinstance(ended.failure, CapabilityMissing)
                assert str(ended.failure) == f"the model does not support {said}"
            finally:
                await link.close()

    run(main())


def test_values_that_are_no_numbers_are_said_and_harm_nobody_else() -> None:
    async def main() -> None:
        async with loaded("embed") as model:
            good, bad = await asyncio.gather(model.embed([1, 2]), model.embed([13, 2]), return_exceptions=True)
            assert isinstance(good, array) and isinstance(bad, RuntimeFailure)
            assert str(bad) == "embedding contains NaN or Inf values"

    run(main())


def test_a_vector_of_another_length_ends_the_worker() -> None:
    async def main() -> None:
        async with loaded("short") as model:
            with pytest.raises(WorkerDied):
                await model.embed([1, 2])
            assert not model.alive

    run(main())


HOSTILE: dict[str, Message] = {
    "no base64": {"op": "vector", "id": 0, "values": "!", "cached": 0, "queue_ns": 0, "age_ns": 0},
    "no text": {"op": "vector", "id": 0, "values": 7, "cached": 0, "queue_ns": 0, "age_ns": 0},
    "no id": {"op": "vector", "values": "", "cached": 0, "queue_ns": 0, "age_ns": 0},
    "list id": {"op": "vector", "id": [0], "values": "", "cached": 0, "queue_ns": 0, "age_ns": 0},
    "words": {"op": "vector", "id": 0, "values": "AAAA" * 5, "cached": "x", "queue_ns": 0, "age_ns": 0},
    "infinite": {"op": "vector", "id": 0, "values": base64.b64encode(bytes(20)).decode(), "cached": 0,
                 "queue_ns": float("inf"), "age_ns": 0},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_worker_may_not_say(name: str) -> None:
    """It ends the worker; the stream ends in WorkerDied, and the server lives."""

    async def main() -> None:
        link = await Link.start(Load(path="/nowhere/embed-slow", n_ctx=64), COMMAND)
        try:
            _, stream = link.embed([1])
            frame = encode(HOSTILE[name])
            assert len(frame) > HEADER.size
            link._socket = Scripted(link._socket, frame)  # type: ignore[assignment]
            link._readable()
            items = await stream.take()
            assert isinstance(items[-1], Ended) and isinstance(items[-1].failure, WorkerDied)
            assert not link.alive
        finally:
            await link.close(patience=0.0)

    run(main())


class Scripted:
    """A socket that has one more frame to give."""

    def __init__(self, real: Any, frame: bytes) -> None:
        self._real, self._frame = real, frame

    def recv_into(self, buffer: memoryview) -> int:
        buffer[: len(self._frame)] = self._frame
        return len(self._frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_who_goes_away_leaves_the_worker() -> None:
    async def main() -> None:
        async with loaded("embed") as model:
            tasks = [asyncio.ensure_future(model.embed(text(200, 20 + i))) for i in range(30)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not model._link._streams
            assert len(await model.embed([5])) == WIDTH

    run(main())


# -- the real engine


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(random_bert(context=256), tmp_path_factory.mktemp("encoder") / "m.gguf", quant="Q8_0")


def alone(path: Path, texts: list[list[int]]) -> list[bytes]:
    from manifests.gguf import Gguf

    _, plan, weights = load(Gguf.open(path))
    found = []
    with Engine(plan, weights, threads=1, n_blocks=8, max_rows=256, max_seqs=1, max_outputs=1) as engine:
        for one in texts:
            blocks = [list(range(-(-len(one) // BLOCK)))]
            batch = Batch(
                tokens=one, row_start=[0, len(one)], start_pos=[0], blocks=blocks, out_rows=[len(one) - 1],
                want_logits=True,
            )  # fmt: skip
            logits = engine.step(batch).logits
            assert logits is not None
            found.append(logits[0].tobytes())
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_alone_and_with_others(encoder: Path, threads: int) -> None:
    """Through the real process: forty texts at once, of all lengths; equal texts get equal vectors."""
    rng = random.Random(threads)
    texts = [[rng.randrange(60) for _ in range(rng.choice([1, 2, 31, 32, 33, 100, 256]))] for _ in range(39)]
    texts.append(list(texts[0]))
    expected = alone(encoder, texts)

    async def main() -> None:
        source = ModelSource(name="m", digest="d", weights="w", path=encoder, size=1, n_ctx=4096, threads=threads)
        model: LoadedModel = await load_model(source)
        try:
            assert (model.n_ctx, model.ready.vector) == (256, 64)
            found = await asyncio.gather(*(model.embed(one) for one in texts))
            assert [struct.pack("<64f", *one) for one in found] == expected
        finally:
            await model.close()

    run(main())
    assert expected[0] == expected[-1]


def test_the_link_hands_vectors_out_as_they_come() -> None:
    async def main() -> None:
        link = await Link.start(Load(path="/nowhere/embed", n_ctx=64), COMMAND)
        try:
            _, stream = link.embed([3, 4])
            items: list[Any] = []
            while not any(isinstance(item, Ended) for item in items):
                items += await stream.take()
            vector, ended = items
            assert vector == Vector(values=vector_of([3, 4])) and (ended.reason, ended.failure) == ("stop", None)
            assert ended.age_ns > 0 and ended.age_ns >= ended.queue_ns
        finally:
            await link.close()

    run(main())


def test_a_decoder_that_takes_the_last_token_is_cut_and_cached_to_the_same_bits(tmp_path: Path) -> None:
    """Texts longer than a step, with a common beginning that the second one finds in the cache."""
    path = make_model(tmp_path / "m.gguf", "qwen3", quant="Q8_0", metadata={"qwen3.pooling_type": 3})
    rng = random.Random(1)
    shared = [rng.randrange(256) for _ in range(150)]
    texts = [shared + [rng.randrange(256) for _ in range(length)] for length in (1, 40, 77)] + [shared, [7]]
    expected = alone(path, texts)

    async def main() -> None:
        source = ModelSource(name="m", digest="d", weights="w", path=path, size=1, n_ctx=256, max_rows=32)
        model = await load_model(source)
        try:
            one_by_one = [struct.pack("<64f", *await model.embed(one)) for one in texts]
            at_once = await asyncio.gather(*(model.embed(one) for one in texts))
            assert one_by_one == [struct.pack("<64f", *one) for one in at_once] == expected
        finally:
            await model.close()

    run(main())
