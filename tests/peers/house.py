"""A worker's loop in this process, scheduler and native engine together, and requests by seed."""

from __future__ import annotations

import contextlib
import queue
import random
from dataclasses import dataclass
from pathlib import Path

from runtime.engine.constraint import Constraint, prepared
from runtime.engine.link import Load
from runtime.engine.native_runner import open_native
from runtime.engine.protocol import (
    ENDS,
    NO_TOKEN,
    Frames,
    Message,
    StepFrame,
    constraint_to_json,
    sampling_to_json,
)
from runtime.engine.sampling import Sampling
from runtime.engine.worker import Inbox, Loop
from runtime.loaded import read_text_side, vocabulary_of

N_CTX = 256
Bits = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Ask:
    prompt: list[int]
    count: int
    sampling: Sampling
    constraint: Constraint | None = None


def asks(seed: int, number: int = 8, vocab: int = 256) -> list[Ask]:
    """Most prompts begin with the same 96 tokens."""
    rng = random.Random(seed)
    shared = [rng.randrange(vocab) for _ in range(96)]
    found = []
    for id in range(number):
        tail = [rng.randrange(vocab) for _ in range(rng.randint(1, 60))]
        sampling = Sampling(
            temperature=rng.choice([0.0, 1.0]), seed=id, top_logprobs=2, repeat_penalty=rng.choice([1.0, 1.2]), top_k=50
        )
        found.append(
            Ask(prompt=(shared if rng.random() < 0.7 else []) + tail, count=rng.randint(1, 70), sampling=sampling)
        )
    return found


class NothingLeft(Exception):
    pass


class House:
    """What each request got is in `out`: tokens with the bits of their log probabilities; how it ended in `ended`."""

    def __init__(
        self,
        path: Path,
        *,
        parallel: int = 2,
        max_seqs: int = 8,
        max_rows: int = 512,
        threads: int = 1,
        isa: str = "best",
    ) -> None:
        load = Load(
            path=str(path), n_ctx=N_CTX, threads=threads, parallel=parallel, max_seqs=max_seqs, max_rows=max_rows,
            isa=isa,
        )  # fmt: skip
        self.inbox: Inbox = queue.SimpleQueue()
        self.out: dict[int, Bits] = {}
        self.ended: dict[int, str] = {}
        self.ends: list[int] = []  # once a constraint has come
        self.path = path
        self.open: set[int] = set()
        self.loop = Loop(open_native(load), self.inbox, self.said)

    def said(self, frame: bytes) -> None:
        for message in Frames().feed(frame):
            if not isinstance(message, StepFrame):
                assert message["op"] == "refused"
                self.open.remove(message["id"])
                self.ended[message["id"]] = message["error"]
                if not self.open:
                    raise NothingLeft
                continue
            for id, token, end, _, logprob, *_ in message.out:
                if token != NO_TOKEN:
                    self.out[id].append((token, logprob))
                if end:
                    self.open.remove(id)
                    self.ended[id] = ENDS[end]

    def add(self, id: int, ask: Ask) -> None:
        self.out[id] = []
        self.open.add(id)
        if ask.constraint is not None and not self.ends:
            vocabulary = vocabulary_of(read_text_side(self.path)[0])
            self.ends = sorted(vocabulary.ends)
            self.inbox.put((0, {"op": "vocabulary", **vocabulary.to_json()}))
        constraint = None if ask.constraint is None else constraint_to_json(prepared(ask.constraint))
        message: Message = {
            "op": "add", "id": id, "tokens": list(ask.prompt), "sampling": sampling_to_json(ask.sampling),
            "max_tokens": ask.count, "ends": self.ends if constraint else [], "client": "", "constraint": constraint,
        }  # fmt: skip
        self.inbox.put((0, message))

    def turn(self) -> None:
        """One step; a loop that has refused all there was would wait for more."""
        with contextlib.suppress(NothingLeft):
            self.loop.turn()

    def drain(self) -> None:
        while self.open:
            self.turn()
        assert self.loop.scheduler.idle and self.loop.scheduler.pool.n_used == 0

    def come(self, wanted: list[Ask], seed: int) -> list[Bits]:
        """Requests that arrive at random steps; what each got in the end."""
        rng = random.Random(seed)
        for id, ask in enumerate(wanted):
            self.add(id, ask)
            for _ in range(rng.randint(0, 6)):
                if self.open:
                    self.turn()
        self.drain()
        return [self.out[id] for id in range(len(wanted))]


def alone(path: Path, wanted: list[Ask], isa: str = "best") -> list[Bits]:
    """Each in an engine that has seen nothing before, in one chunk."""
    return [House(path, isa=isa).come([ask], 0)[0] for ask in wanted]
