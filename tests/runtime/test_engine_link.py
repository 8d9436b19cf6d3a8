"""The wire and the worker process, with the engine that remembers behind them (tests/peers/fake_worker.py)."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import socket
import subprocess
import sys
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.engine.link import DIED, NOT_NUMBERS, Link, Load
from runtime.engine.protocol import (
    ENDS,
    ENTRY,
    HEADER,
    MAX_FRAME,
    NO_TOKEN,
    STEP,
    Frames,
    ProtocolError,
    StepFrame,
    encode,
    encode_step,
    load_frame,
    sampling_from_json,
    sampling_to_json,
)
from runtime.engine.sampling import Sampling
from runtime.engine.spawn import Spare
from runtime.engine.stream import Ended, Score, Token
from runtime.errors import (
    ContextExceeded,
    ModelRefused,
    OptionRefused,
    OutOfMemory,
    RequestRefused,
    ShuttingDown,
    WorkerDied,
)
from tests.peers.fake_engine import answer

COMMAND = (sys.executable, "-m", "tests.peers.fake_worker")
WAIT = 60.0  # seconds until a test that hangs is called failed


def start(behaviour: str = "plain", *, n_ctx: int = 0) -> asyncio.Future[Link]:
    return asyncio.ensure_future(Link.start(Load(path=f"/nowhere/{behaviour}", n_ctx=n_ctx), COMMAND))


async def collect(stream: object) -> tuple[list[Token], Ended]:
    tokens: list[Token] = []
    while True:
        for item in await asyncio.wait_for(stream.take(), WAIT):  # type: ignore[attr-defined]
            if isinstance(item, Ended):
                return tokens, item
            tokens.append(item)


# -- frames


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=20), max_size=3), max_size=5),
    st.data(),
)
def test_frames_do_not_depend_on_how_the_stream_is_cut(messages: list[dict[str, object]], data: st.DataObject) -> None:
    messages = [{**message, "op": "x"} for message in messages]
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = Frames()
    found: list[object] = []
    for low, high in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[low:high])
    assert found == messages


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"op": 1}', b"\xff", b"[" * 100_000])
def test_frames_that_are_no_messages_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Frames().feed(HEADER.pack(len(body)) + body))


def test_a_frame_over_the_limit_is_refused_before_its_body_is_kept() -> None:
    with pytest.raises(ProtocolError, match="allowed"):
        list(Frames().feed(HEADER.pack(MAX_FRAME + 1)))


def whole(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


ALTERNATIVES = st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(allow_nan=False)), max_size=3)
NUMBERED = st.tuples(
    whole(64), st.integers(NO_TOKEN, 1 << 30), st.integers(0, len(ENDS) - 1), ALTERNATIVES,
    st.floats(allow_nan=False), whole(32), whole(64), whole(64),
)  # fmt: skip


@given(whole(32), whole(32), whole(64), st.lists(NUMBERED, max_size=4))
def test_a_step_crosses_the_wire_unchanged(waiting: int, used: int, preempted: int, entries: list[Any]) -> None:
    out = [(*entry[:3], len(entry[3]), *entry[4:]) for entry in entries]
    step = StepFrame(waiting, used, preempted, out, [pair for entry in entries for pair in entry[3]])
    assert list(Frames().feed(encode_step(step))) == [step]


STEPS = encode_step(StepFrame(0, 1, 2, [(1, 5, 0, 1, -0.5, 0, 3, 4), (2, 6, 1, 0, -0.5, 0, 3, 4)], [(7, -1.0)]))


@pytest.mark.parametrize("size", [*range(1, len(STEPS) - HEADER.size), len(STEPS) - HEADER.size + 1])
def test_a_step_of_another_length_than_it_says_is_refused(size: int) -> None:
    body = (STEPS[HEADER.size :] + b"\0")[:size]
    with pytest.raises(ProtocolError, match="length"):
        list(Frames().feed(HEADER.pack(size) + body))


def test_a_step_that_says_it_has_more_alternatives_is_refused() -> None:
    body = bytearray(STEPS[HEADER.size :])
    body[STEP.size + 13] += 1  # of the first entry: after its id, token and end
    with pytest.raises(ProtocolError, match="length"):
        list(Frames().feed(HEADER.pack(len(body)) + body))


def test_sampling_crosses_the_wire_unchanged() -> None:
    sampling = Sampling(temperature=0.3, seed=7, logit_bias={5: -1.5}, top_logprobs=3)
    assert sampling_from_json(sampling_to_json(sampling)) == sampling


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 1.1}, {"min_p": -1.0}, {"repeat_penalty": 0.0},
        {"repeat_last_n": -2}, {"top_logprobs": 21}, {"presence_penalty": float("inf")},
        {"logit_bias": {1: float("nan")}},
    ],
)  # fmt: skip
def test_options_without_meaning_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionRefused, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_a_negative_or_absent_seed_is_drawn_and_a_given_one_kept() -> None:
    assert Sampling(seed=5).seeded().seed == 5
    drawn = {Sampling(seed=seed).seeded().seed for seed in (None, -1) for _ in range(8)}
    assert len(drawn) > 8 and all(seed is not None and seed >= 0 for seed in drawn)


# -- the process


def test_one_answer_and_its_facts() -> None:
    async def run() -> None:
        link = await start(n_ctx=128)
        try:
            assert link.ready.n_ctx == 128 and link.ready.isa == "fake"
            _, stream = link.submit([1, 2, 3], Sampling(seed=9, top_logprobs=2), max_tokens=5)
            tokens, ended = await collect(stream)
            assert [token.id for token in tokens] == answer([1, 2, 3], 9, 5)
            assert ended.reason == "length" and ended.failure is None
            assert all(len(token.top) == 2 for token in tokens)
        finally:
            await link.close()
        assert link._process.returncode is not None

    asyncio.run(run())


def test_the_worker_says_how_it_is_confined() -> None:
    async def run() -> None:
        link = await start()
        await link.close()
        said = [*link.ready.confined, *link.ready.unconfined]
        for what in ("network interfaces", "no new privileges", "opening of files", "core dumps"):
            assert any(what in line for line in said), what

    asyncio.run(run())


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        ("refuse", ModelRefused, "nobody can run"),
        ("memory", OutOfMemory, "9 and 3"),
        ("die", WorkerDied, "unexpectedly stopped"),
        ("garbage", WorkerDied, "unexpectedly stopped"),
    ],
)
def test_a_load_that_fails_raises_and_leaves_no_process(behaviour: str, error: type[Exception], text: str) -> None:
    async def run() -> None:
        with pytest.raises(error, match=text):
            await asyncio.wait_for(start(behaviour), WAIT)

    asyncio.run(run())


def test_a_command_that_does_not_exist_is_a_dead_worker() -> None:
    async def run() -> None:
        with pytest.raises(WorkerDied, match="could not be started"):
            await Link.start(Load(path="/nowhere/x"), ("/nowhere/python",))

    asyncio.run(run())


def test_a_cancelled_load_leaves_no_process() -> None:
    async def run() -> None:
        task = start("hang")
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_kill_9_ends_every_stream_in_the_contracts_words_and_later_ones_are_refused() -> None:
    async def run() -> None:
        link = await start("slow", n_ctx=4096)
        died = asyncio.Event()
        link.on_death = died.set
        streams = [link.submit([id + 1], Sampling(seed=0), max_tokens=4000)[1] for id in range(20)]
        await asyncio.wait_for(streams[0].take(), WAIT)
        os.kill(link.pid, signal.SIGKILL)
        for stream in streams:
            _, ended = await collect(stream)
            assert ended.reason == "error" and str(ended.failure) == DIED
        assert died.is_set() and not link.alive
        with pytest.raises(WorkerDied):
            link.submit([1], Sampling(seed=0), max_tokens=1)
        await link.close()

    asyncio.run(run())


def test_closing_says_to_open_streams_that_the_server_ends() -> None:
    async def run() -> None:
        link = await start("slow", n_ctx=4096)
        _, stream = link.submit([1], Sampling(seed=0), max_tokens=4000)
        await link.close()
        _, ended = await collect(stream)
        assert ended.reason == "error" and isinstance(ended.failure, ShuttingDown)

    asyncio.run(run())


def test_a_worker_that_is_stopped_is_given_up_and_its_streams_end() -> None:
    async def run() -> None:
        link = await start("slow", n_ctx=4096)
        _, stream = link.submit([1], Sampling(seed=0), max_tokens=4000)
        os.kill(link.pid, signal.SIGSTOP)
        while link.alive:  # what it said before is still read, and counts as a sign of life
            link._feel()
            await asyncio.sleep(0.01)
        _, ended = await asyncio.wait_for(collect(stream), WAIT)
        assert ended.reason == "error" and str(ended.failure) == DIED
        await asyncio.wait_for(link.close(), WAIT)

    asyncio.run(asyncio.wait_for(run(), WAIT))


def test_a_worker_that_only_computes_for_long_answers_a_ping() -> None:
    async def run() -> None:
        link = await start("long")
        _, stream = link.submit([1], Sampling(seed=0), max_tokens=2)
        link._feel()  # submit did once, and nothing has come since
        while getattr(link, "_asked"):  # noqa: B009  # until the answer has come: the step itself does not end
            await asyncio.sleep(0.01)
        assert link.alive and not stream._items
        os.kill(link.pid, signal.SIGUSR1)
        tokens, ended = await collect(stream)
        assert len(tokens) == 2 and ended.reason == "length"
        await link.close()

    asyncio.run(asyncio.wait_for(run(), WAIT))


def test_nobody_is_asked_for_a_sign_of_life_when_nothing_is_open() -> None:
    async def run() -> None:
        link = await start()
        await collect(link.submit([1], Sampling(seed=0), max_tokens=1)[1])
        link._feel()
        assert link._pulse is None and not link._asked
        await link.close()

    asyncio.run(run())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "op", "out"]), inner, max_size=3)
    ),
    max_leaves=6,
)
READY = {
    "op": "ready", "n_ctx": 64, "vocab": 9, "vector": 0, "threads": 1, "n_blocks": 2, "weight_bytes": 1, "kv_bytes": 1,
    "scratch_bytes": 1, "isa": "fake", "pack": "absent", "load_ns": 1, "confined": [], "unconfined": [],
}  # fmt: skip
SCORED = st.tuples(st.integers(0, 1), st.lists(st.tuples(st.floats() | JSON, JSON).map(list), max_size=3)).map(list)
HOSTILE = st.fixed_dictionaries(
    {"op": st.sampled_from(["scored", "ready", "failed", "refused", "load", "vector", ""])},
    optional={
        "out": st.lists(SCORED | JSON, max_size=3) | JSON,
        **{name: JSON for name in ("id", "kind", "error", "hint", "values")},
    },
).map(encode)
WRONG = st.tuples(
    whole(1), st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-2, 9), st.integers(0, len(ENDS)), st.integers(0, 2),
    st.floats(), whole(32), whole(64), whole(64),
)  # fmt: skip
TOP = st.tuples(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-1, 9), st.floats())
HOSTILE_STEP = st.builds(
    lambda waiting, used, preempted, out, top: encode_step(
        StepFrame(waiting, used, preempted, out, top[: sum(entry[3] for entry in out)])
    ),
    whole(32), whole(32), whole(64), st.lists(WRONG, max_size=3),
    st.lists(TOP, min_size=6, max_size=6),
)  # fmt: skip
BROKEN = st.binary(max_size=2 * STEP.size + ENTRY.size).map(lambda body: HEADER.pack(len(body) + 1) + b"\0" + body)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(HOSTILE | HOSTILE_STEP | BROKEN, min_size=1, max_size=4))
@example(True, [encode_step(StepFrame(0, 0, 0, [(0, 5, 0, 1, -0.5, 0, 0, 0)], [(9, -1.0)]))])
@example(True, [encode({"op": "scored", "out": [[id, [[-0.5, [[9, -1.0]]]]] for id in (0, 1)]})])
def test_a_worker_that_says_anything_costs_only_itself(ready: bool, frames: list[bytes]) -> None:
    """No exception reaches the loop; what is not as described ends the worker; every stream has at most one end."""

    class Process:
        killed = False

        def kill(self) -> None:
            self.killed = True

    async def run() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        link = Link(cast("subprocess.Popen[bytes]", Process()), ours)
        link._send({"op": "load"})
        streams = [link.submit([1], Sampling(seed=0), max_tokens=1)[1] for _ in range(2)]
        with theirs:
            theirs.sendall(encode(READY) * ready + b"".join(frames))
        await asyncio.wait_for(link.dead.wait(), WAIT)
        if link._loaded.done():
            link._loaded.exception()
        assert not faults
        assert 0 <= link.waiting <= len(streams), "a line that turns others away with 503"
        for stream in streams:
            items = await stream.take()
            assert [isinstance(item, Ended) for item in items].count(True) == 1
            ids = [id for one in items if isinstance(one, Token | Score) for id, _ in one.top]
            ids += [one.id for one in items if isinstance(one, Token)]
            assert all(0 <= id < 9 for id in ids)

    asyncio.run(run())


def test_the_worker_hears_of_a_cancel() -> None:
    """Messages keep their order: once a later sequence has ended, nothing is computed for the cancelled one."""

    async def run() -> None:
        link = await start("slow", n_ctx=4096)
        heard: list[int] = []
        deliver = link._step

        def spy(step: StepFrame) -> None:
            heard.extend(entry[0] for entry in step.out)
            deliver(step)

        link._step = spy  # type: ignore[method-assign]
        try:
            cancelled, stream = link.submit([1], Sampling(seed=0), max_tokens=4000)
            await asyncio.wait_for(stream.take(), WAIT)
            link.cancel(cancelled)
            await collect(link.submit([2], Sampling(seed=0), max_tokens=1)[1])
            heard.clear()
            await collect(link.submit([3], Sampling(seed=0), max_tokens=5)[1])
            assert len(heard) == 5 and cancelled not in heard
        finally:
            await link.close()

    asyncio.run(run())


def test_the_worker_ends_by_itself_when_its_socket_does() -> None:
    async def run() -> None:
        link = await start("slow", n_ctx=4096)
        link.submit([1], Sampling(seed=0), max_tokens=4000)
        await link.close(patience=WAIT)
        assert link._process.returncode == 0

    asyncio.run(run())


def test_what_the_server_did_not_check_the_worker_refuses() -> None:
    async def run() -> None:
        link = await start(n_ctx=64)
        try:
            wanted = [
                ([], RequestRefused),
                ([1] * 64, ContextExceeded),
                ([10**6], RequestRefused),
                ([-1], RequestRefused),
            ]
            for prompt, kind in wanted:
                _, ended = await collect(link.submit(prompt, Sampling(seed=0), max_tokens=1)[1])
                assert ended.reason == "error" and type(ended.failure) is kind
            tokens, ended = await collect(link.submit([1], Sampling(seed=0), max_tokens=3)[1])
            assert ended.reason == "length" and len(tokens) == 3
        finally:
            await link.close()

    asyncio.run(run())


def test_values_that_are_not_numbers_end_the_answer_by_name() -> None:
    async def run() -> None:
        link = await start("nan")
        try:
            tokens, ended = await collect(link.submit([1], Sampling(seed=0), max_tokens=3)[1])
            assert tokens == [] and ended.reason == "error" and str(ended.failure) == NOT_NUMBERS
        finally:
            await link.close()

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(4))
def test_exactly_one_end_for_every_stream(seed: int) -> None:
    """Random arrivals and cancels, then a death in the middle: each stream ends once, and those that ran to the end are
    what they would have been alone."""

    async def one(link: Link, rng: random.Random) -> None:
        prompt, count = [rng.randrange(1000) for _ in range(rng.randint(1, 90))], rng.randint(0, 30)
        await asyncio.sleep(rng.random() * 0.05)
        if not link.alive:
            return
        id, stream = link.submit(prompt, Sampling(seed=seed), max_tokens=count, client=rng.choice("ab"))
        asyncio.get_running_loop().call_later(rng.random() * 0.1, link.cancel, id) if rng.random() < 0.4 else None
        tokens, ended = await collect(stream)
        found, whole = [token.id for token in tokens], answer(prompt, seed, count)
        assert found == whole[: len(found)]
        assert ended.reason in ("length", "cancelled", "error")
        assert ended.reason != "length" or found == whole
        await asyncio.sleep(0)
        assert not stream._items, "something after the end"

    async def run() -> None:
        rng = random.Random(seed)
        link = await start("slow", n_ctx=128)
        if seed % 2:
            asyncio.get_running_loop().call_later(0.15, os.kill, link.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*(one(link, random.Random(rng.random())) for _ in range(40))), WAIT)
        assert not link._streams
        await link.close()

    asyncio.run(run())


# -- a worker ahead


@pytest.mark.parametrize("behaviour", ["plain", "refuse"])
def test_a_spare_worker_loads_before_anybody_listens(behaviour: str) -> None:
    load = Load(path=f"/nowhere/{behaviour}", n_ctx=64)
    spare = Spare(COMMAND)
    spare.begin(load_frame(load))
    spawned = spare.take(load_frame(load))
    assert spawned is not None and spare.take(load_frame(load)) is None, "it is taken once"
    said = select.select([spawned.socket], [], [], WAIT)[0]

    async def main() -> None:
        link = await asyncio.wait_for(Link.start(load, COMMAND, spawned), WAIT)
        assert link.pid == spawned.process.pid and link.ready.n_ctx == 64
        _, stream = link.submit([1, 2, 3], Sampling(seed=1), max_tokens=2)
        tokens, end = await collect(stream)
        assert [token.id for token in tokens] == answer([1, 2, 3], 1, 2) and end.reason == "length"
        await link.close()

    assert said, "it told how the load went"
    if behaviour == "refuse":
        with pytest.raises(ModelRefused, match="nobody can run"):
            asyncio.run(main())
        assert spawned.process.poll() is not None
    else:
        asyncio.run(main())


def test_a_spare_worker_that_has_begun_is_not_taken_for_another_load() -> None:
    spare = Spare(COMMAND)
    process = spare._spawned.process if spare._spawned else None
    spare.begin(load_frame(Load(path="/nowhere/hang")))
    assert spare.take(load_frame(Load(path="/nowhere/plain"))) is None
    assert process is not None and process.poll() is not None, "and is not left behind"


def test_a_spare_worker_that_has_gone_is_not_taken() -> None:
    spare = Spare(COMMAND)
    assert spare._spawned is not None
    spare._spawned.process.kill()
    spare._spawned.process.wait()
    spare.begin(load_frame(Load(path="/nowhere/plain")))
    assert spare.take(load_frame(Load(path="/nowhere/plain"))) is None
    Spare(COMMAND).close()
