"""LoadedModel: token events become text, and every answer has one end. Around the engine that remembers."""

from __future__ import annotations

import asyncio
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.answer import Answer
from runtime.engine.batch import Opened, Rows
from runtime.engine.link import DIED, Link, Load
from runtime.engine.protocol import Entry, Frames, StepFrame, sampling_to_json
from runtime.engine.scheduler import Chosen
from runtime.engine.stream import Ended, Item, Score, Token
from runtime.engine.worker import Inbox, Loop
from runtime.errors import ContextExceeded, ModelRefused, RequestRefused, WorkerDied
from runtime.events import Event, Finish, PromptScored, TextDelta, TokenInfo
from runtime.loaded import GenerateRequest, LoadedModel, Sampling, load_model
from runtime.source import ModelSource
from runtime.text.tokenizer import Tokenizer
from tests.peers.fake_engine import VOCAB, FakeEngine, answer
from tests.peers.fake_worker import STEP_NS, Slow

COMMAND = (sys.executable, "-m", "tests.peers.fake_worker")
WAIT = 60.0
END = 7  # the token that ends an answer
LETTERS = "abcdé€😀\n"


class FakeTokenizer:
    """Token i writes one byte of LETTERS repeated: characters of several bytes take several tokens."""

    eog = frozenset({END})
    letters = LETTERS.encode()

    def piece(self, index: int, *, special: bool = False) -> bytes:
        return self.letters[index % len(self.letters) :][:1]

    def whole(self, index: int) -> str | None:
        letter = self.piece(index)
        return letter.decode() if letter < b"\x80" else None

    def control(self, text: str) -> int | None:
        return None

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.piece(id) for id in ids).decode("utf-8", "replace")


TOKENIZER = cast(Tokenizer, FakeTokenizer())


def token(id: int, *, queue_ns: int = 0, age_ns: int = 0) -> Token:
    return Token(id=id, logprob=-1.0, top=(), cached=0, queue_ns=queue_ns, age_ns=age_ns)


@asynccontextmanager
async def loaded(behaviour: str = "plain", n_ctx: int = 256) -> AsyncIterator[LoadedModel]:
    path = Path("/nowhere") / behaviour
    source = ModelSource(name="m", digest="d", weights="w", path=path, size=1, n_ctx=n_ctx)
    link = await Link.start(Load(path=str(path), n_ctx=n_ctx), COMMAND)
    model = LoadedModel(source=source, tokenizer=TOKENIZER, n_ctx_train=n_ctx, link=link)
    try:
        yield model
    finally:
        await model.close()


async def events_of(model: LoadedModel, **request: Any) -> tuple[str, Finish, list[Event]]:
    events = []
    async with aclosing(model.generate(GenerateRequest(**request))) as stream:
        async for event in stream:
            events.append(event)
    assert [isinstance(event, Finish) for event in events] == [False] * (len(events) - 1) + [True]
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, cast(Finish, events[-1]), events


def test_text_usage_and_reason() -> None:
    async def run() -> None:
        async with loaded() as model:
            prompt = tuple(range(40))
            text, finish, _ = await events_of(model, prompt=prompt, sampling=Sampling(seed=3), max_tokens=30, load_ns=5)
            whole = answer(prompt, 3, 30, frozenset({END}))
            assert text == TOKENIZER.decode(whole)
            assert (finish.reason, finish.seed, finish.error) == ("length", 3, None)
            usage = finish.usage
            assert (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens) == (40, 0, len(whole))
            assert usage.load_ns == 5 and 0 < usage.prompt_ns + usage.queue_ns + usage.generate_ns <= usage.total_ns - 5
            _, again, _ = await events_of(model, prompt=prompt, sampling=Sampling(seed=3), max_tokens=1)
            assert again.usage.cached_tokens == 32

    asyncio.run(run())


def test_times_are_when_the_worker_computed_and_not_when_we_read() -> None:
    """A server that comes late reads a whole answer at once; its steps took 2 ms each all the same."""

    async def run() -> None:
        async with loaded("slow") as model:
            stream = model.generate(GenerateRequest(prompt=(1,), max_tokens=20, ignore_eos=True))
            time.sleep(0.2)  # the loop stands still, the worker does not
            events = [event async for event in stream]
            usage = cast(Finish, events[-1]).usage
            assert usage.generated_tokens == 20
            assert usage.prompt_ns >= STEP_NS and usage.generate_ns >= 19 * STEP_NS
            assert usage.queue_ns + usage.prompt_ns + usage.generate_ns <= usage.total_ns

    asyncio.run(run())


def test_the_time_in_line_begins_when_a_request_comes_and_is_not_the_prompts() -> None:
    """The second one comes while the first one's step is being computed: it waits for that step to end."""
    inbox: Inbox = queue.SimpleQueue()
    entries: list[Entry] = []

    def add(id: int) -> None:
        message = {"op": "add", "id": id, "tokens": [id], "max_tokens": 1, "ends": [], "client": ""}
        inbox.put((time.monotonic_ns(), message | {"sampling": sampling_to_json(Sampling(seed=0))}))

    class Meanwhile(Slow):
        def run(self, rows: Rows) -> list[Chosen]:
            if not self.steps:
                add(2)
            return super().run(rows)

    def said(frame: bytes) -> None:
        for message in Frames().feed(frame):
            assert isinstance(message, StepFrame)
            entries.extend(message.out)

    engine = Meanwhile(n_blocks=4, max_rows=16, max_seqs=2)
    opened = Opened(runner=engine, n_ctx=64, n_blocks=4, vocab=VOCAB, max_seqs=2, max_rows=16, facts={})
    loop = Loop(opened, inbox, said)
    add(1)
    loop.turn()
    loop.turn()
    (first, *_, queued, age), (second, *_, later_queued, later_age) = entries
    assert (first, second) == (1, 2)
    assert 0 <= queued <= age - STEP_NS
    assert STEP_NS <= later_queued <= later_age - STEP_NS


def test_the_worker_says_how_many_wait_in_its_line_and_when_they_are_cancelled() -> None:
    """Two that need the whole pool and a third, in a batch that has places for all; and no frame without news."""
    inbox: Inbox = queue.SimpleQueue()
    frames: list[tuple[list[int], int]] = []

    def said(frame: bytes) -> None:
        for message in Frames().feed(frame):
            assert isinstance(message, StepFrame)
            frames.append(([entry[0] for entry in message.out], message.waiting))

    engine = FakeEngine(n_blocks=2, max_rows=32, max_seqs=4)
    loop = Loop(
        Opened(runner=engine, n_ctx=64, n_blocks=2, vocab=VOCAB, max_seqs=4, max_rows=32, facts={}), inbox, said
    )
    for id in range(3):
        message = {"op": "add", "id": id, "tokens": [id] * 60, "max_tokens": 4, "ends": [], "client": ""}
        inbox.put((0, message | {"sampling": sampling_to_json(Sampling(seed=0))}))
    while len(frames) < 3:
        loop.turn()
    assert frames == [([], 2), ([0], 2), ([0], 2)]
    inbox.put((0, {"op": "cancel", "id": 1}))
    loop.turn()
    assert frames[3:] == [([0], 1)]
    for id in (0, 2, 3):  # 3: nobody, so that there is something to wake up for
        inbox.put((0, {"op": "cancel", "id": id}))
    inbox.put((0, message | {"id": 4, "sampling": sampling_to_json(Sampling(seed=0))}))
    loop.turn()
    assert frames[4:] == [([], 0)]


SOME_NS = st.integers(-(2**70), 2**70) | st.integers(0, 10**10)


@given(st.lists(st.tuples(SOME_NS, SOME_NS), max_size=4), SOME_NS, st.sampled_from(["length", "cancelled", "error"]))
def test_whatever_times_the_worker_says_none_is_negative_and_their_sum_is_in_the_total(
    said: list[tuple[int, int]], age: int, reason: str
) -> None:
    state = Answer(GenerateRequest(prompt=(1,), load_ns=7), TOKENIZER, seed=0, started=time.monotonic_ns() - 10**10)
    state.take([*(token(0, queue_ns=queue, age_ns=at) for queue, at in said), Ended(reason=reason, age_ns=age)])
    assert state.finish is not None
    usage = state.finish.usage
    assert min(usage.queue_ns, usage.prompt_ns, usage.generate_ns) >= 0
    assert usage.load_ns + usage.queue_ns + usage.prompt_ns + usage.generate_ns <= usage.total_ns


@given(st.lists(st.integers(1, 3), max_size=4))
def test_scores_of_a_prompt_come_first_and_whole_however_they_are_bundled(cuts: list[int]) -> None:
    request = GenerateRequest(prompt=(1, 5, 6), logprobs=True, prompt_logprobs=True)
    state = Answer(request, TOKENIZER, seed=0, started=0)
    items: list[Item] = [Score(-1.0, ((9, -0.5),)), Score(-2.0, ()), token(0), token(END), Ended(reason="stop")]
    events: list[Event] = []
    for cut in [*cuts, len(items)]:
        part, items = items[:cut], items[cut:]
        scored, rest = state.score(part)
        delta = state.take(rest)
        events += [event for event in (scored, delta) if event is not None]
    first, *others = events
    assert isinstance(first, PromptScored)
    assert [(info.id, info.logprob, len(info.top)) for info in first.tokens] == [(5, -1.0, 1), (6, -2.0, 0)]
    told = [info.id for event in others if isinstance(event, TextDelta) for info in event.tokens]
    assert told == [0, END]  # the end too: who counts finds as many as were computed
    assert state.finish is not None and state.finish.usage.generated_tokens == 2


@pytest.mark.parametrize("scores", [[-1.0, math.nan], [-1.0, -1.0, -1.0]], ids=["no number", "too many"])
def test_scores_that_cannot_be_end_the_answer_in_an_error(scores: list[float]) -> None:
    state = Answer(GenerateRequest(prompt=(1, 5, 6), prompt_logprobs=True), TOKENIZER, seed=0, started=0)
    assert state.score([Score(logprob, ()) for logprob in scores]) == (None, ())
    assert state.finish is not None and state.finish.reason == "error" and state.finish.error is not None


def test_times_that_the_worker_says_are_told_as_they_are() -> None:
    state = Answer(GenerateRequest(prompt=(1,)), TOKENIZER, seed=0, started=time.monotonic_ns() - 10**10)
    state.take([token(0, queue_ns=10, age_ns=210), token(0, queue_ns=10, age_ns=3210), Ended(reason="length")])
    assert state.finish is not None
    usage = state.finish.usage
    assert (usage.queue_ns, usage.prompt_ns, usage.generate_ns) == (10, 200, 3000)


def test_the_answer_ends_at_an_end_token_unless_told_to_ignore_it() -> None:
    prompt = next((p,) for p in range(VOCAB) if END in answer((p,), 0, 60)[1:])
    whole = answer(prompt, 0, 60)

    async def run() -> None:
        async with loaded() as model:
            text, finish, _ = await events_of(model, prompt=prompt, sampling=Sampling(seed=0), max_tokens=60)
            assert finish.reason == "stop" and finish.stop is None
            assert finish.usage.generated_tokens == whole.index(END) + 1
            assert text == TOKENIZER.decode(whole[: whole.index(END)])
            text, finish, _ = await events_of(
                model, prompt=prompt, sampling=Sampling(seed=0), max_tokens=60, ignore_eos=True
            )
            assert finish.reason == "length" and text == TOKENIZER.decode(whole)

    asyncio.run(run())


def test_a_stop_string_ends_the_answer_there_and_the_sequence_in_the_worker() -> None:
    async def run() -> None:
        async with loaded("slow", n_ctx=2048) as model:
            whole = TOKENIZER.decode(answer((5,), 1, 200))
            stop = whole[60:63]
            where = whole.index(stop)
            text, finish, _ = await events_of(
                model, prompt=(5,), sampling=Sampling(seed=1), stop=(stop,), ignore_eos=True
            )
            assert text == whole[:where]
            assert (finish.reason, finish.stop) == ("stop", stop)
            count = finish.usage.generated_tokens
            tokens = answer((5,), 1, count)
            assert stop in TOKENIZER.decode(tokens) and stop not in TOKENIZER.decode(tokens[:-1])
            assert not model._link._streams

    asyncio.run(run())


@given(
    st.lists(st.integers(0, 30), max_size=20),
    st.lists(st.integers(0, 3), max_size=20),
    st.lists(st.text("abcé", max_size=3)),
)
def test_infos_come_once_each_in_order_and_never_before_their_text(
    ids: list[int], cuts: list[int], stops: list[str]
) -> None:
    """However the worker's items are bundled."""
    request = GenerateRequest(prompt=(1,), stop=tuple(stops), logprobs=True, ignore_eos=True)
    state = Answer(request, TOKENIZER, seed=0, started=0)
    items: list[Item] = [token(id) for id in ids]
    items.append(Ended(reason="length"))
    shown = ""
    infos: list[TokenInfo] = []
    for cut in [*cuts, len(items)]:
        part, items = items[:cut], items[cut:]
        if state.finish is None and part:
            delta = state.take(part)
            if delta is not None:
                shown += delta.text
                infos += delta.tokens
                # U+FFFD stands for what is no whole character: text may be short of the tokens, never ahead
                assert len(TOKENIZER.decode([info.id for info in infos]).rstrip("\ufffd")) <= len(shown)
    assert state.finish is not None
    assert [info.id for info in infos] == ids[: len(infos)]
    if state.finish.stop is None:
        assert [info.id for info in infos] == ids and shown == TOKENIZER.decode(ids)
    else:
        assert state.finish.stop not in shown


def test_closing_the_iterator_cancels_at_any_moment_even_before_the_first_event() -> None:
    async def run() -> None:
        async with loaded("slow", n_ctx=4096) as model:
            request = GenerateRequest(prompt=(1,), sampling=Sampling(seed=0), ignore_eos=True)
            for reads in range(3):
                stream = model.generate(request)
                for _ in range(reads):
                    await stream.__anext__()
                await stream.aclose()
                assert not model._link._streams
                with pytest.raises(StopAsyncIteration):
                    await stream.__anext__()
            _, finish, _ = await events_of(model, prompt=(1,), max_tokens=1)  # the batch is free again
            assert finish.reason == "length"

    asyncio.run(run())


def test_cancelling_the_reader_cancels_the_sequence() -> None:
    async def run() -> None:
        async with loaded("slow", n_ctx=4096) as model:
            task = asyncio.ensure_future(events_of(model, prompt=(1,), ignore_eos=True))
            await asyncio.sleep(0.1)
            assert model._link._streams
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not model._link._streams

    asyncio.run(run())


def test_a_killed_worker_ends_every_answer_with_one_error() -> None:
    async def run() -> None:
        async with loaded("slow", n_ctx=4096) as model:
            tasks = [asyncio.ensure_future(events_of(model, prompt=(i,), ignore_eos=True)) for i in range(5)]
            await asyncio.sleep(0.1)
            os.kill(model.pid, signal.SIGKILL)
            for _, finish, _ in await asyncio.wait_for(asyncio.gather(*tasks), WAIT):
                assert (finish.reason, str(finish.error)) == ("error", DIED)
            assert not model.alive
            with pytest.raises(WorkerDied):
                model.generate(GenerateRequest(prompt=(1,)))

    asyncio.run(run())


@pytest.mark.parametrize("behaviour", ["refuse", "hang", "plain"])
def test_when_no_load_comes_of_it_nobody_reads_the_file_any_more(
    behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads the head is waited for, whether the worker refuses or the load is given up, before the
    worker has loaded or after it: who cuts the mapped file short then ends no process."""
    begun, go_on, reading = threading.Event(), threading.Event(), []

    def slowly(path: Path) -> tuple[Tokenizer, int]:
        reading.append(1)
        begun.set()
        assert go_on.wait(WAIT)
        reading.append(-1)
        return TOKENIZER, 256

    async def run() -> None:
        source = ModelSource(name="m", digest="d", weights="w", path=Path("/nowhere") / behaviour, size=1, n_ctx=64)
        task = asyncio.ensure_future(load_model(source, COMMAND))
        await asyncio.to_thread(begun.wait, WAIT)
        await asyncio.sleep(0.3)
        if behaviour != "refuse":
            task.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises((ModelRefused, asyncio.CancelledError)):
            await task
        assert reading == [1, -1]

    monkeypatch.setattr("runtime.loaded.read_text_side", slowly)
    asyncio.run(run())


def test_what_cannot_be_answered_is_refused_at_the_call() -> None:
    async def run() -> None:
        async with loaded(n_ctx=64) as model:
            for request, kind in (
                (GenerateRequest(prompt=()), RequestRefused),
                (GenerateRequest(prompt=(1,) * 64), ContextExceeded),
                (GenerateRequest(prompt=(VOCAB,)), RequestRefused),
                (GenerateRequest(prompt=(1,), max_tokens=-1), RequestRefused),
                (GenerateRequest(prompt=(1,), sampling=Sampling(logit_bias={-3: 1.0})), RequestRefused),
            ):
                with pytest.raises(kind):
                    model.generate(request)
            text, finish, _ = await events_of(model, prompt=(1,), max_tokens=0)
            assert (text, finish.reason, finish.usage.generated_tokens) == ("", "length", 0)

    asyncio.run(run())
