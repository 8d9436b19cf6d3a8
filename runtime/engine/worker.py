"""The worker process: one model, one engine, one loop. `python -m runtime.engine.worker --fd N --parent PID`

    socket -> reader thread -> inbox -> [control] -> schedule -> engine step -> commit -> one frame per step -> socket

Speaks token ids over one inherited socket (runtime.engine.protocol); whatever prints goes to standard error and harms
nothing. It has no network, starts no programs, and once loaded opens no file; what of this the system does not allow is
said in `ready`. It ends when its socket ends, when its parent ends, and by status 70 on a fault of ours.

Control messages wait in the inbox while the engine computes and take effect between steps: that is what keeps the
scheduler free of locks. Two loops to read: `Loop.turn` is the whole life of a step.
"""

from __future__ import annotations

import base64
import gc
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manifests.confine import Confinement, confine, die_with_parent
from manifests.errors import ManifestsError
from native.record import names
from runtime.engine.batch import Opened, Rows, rows_of
from runtime.engine.blocks import BlockPool, root_of
from runtime.engine.pace import Pace
from runtime.engine.protocol import (
    ENDS,
    NO_TOKEN,
    READ,
    Entry,
    Frames,
    Load,
    Message,
    ProtocolError,
    StepFrame,
    constraint_from_json,
    encode,
    encode_step,
    error_to_json,
    sampling_from_json,
)
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Chosen, Outcome, Scheduler, Vector
from runtime.engine.sequence import Sequence
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import CapabilityMissing, ModelRefused, RequestRefused, RuntimeFailure

if TYPE_CHECKING:
    from runtime.engine.grammar import Matcher
    from runtime.engine.grammar_line import GrammarLine
    from runtime.engine.threads import Later

FAULT = 70
GARBAGE = 50_000  # new objects before the collector looks for cycles: imports and a load make many, and no cycles
AHEAD = 2  # grammars compiled for sequences that wait for a place in the batch


Opener = Callable[[Load], Opened]
Inbox = queue.SimpleQueue[tuple[int, Message]]  # with the time it came, monotonic ns


def main(opener: Opener | None = None) -> None:
    gc.set_threshold(GARBAGE)
    fd, parent = _told(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which closes the socket when it is done
    before = confine(files="any")  # while there is one thread: the file to come is a stranger's
    die_with_parent(parent)  # after it: a change of credentials clears the kernel's note
    opener = opener or _native()
    serve(Wire(fd), opener, before)


def _told(arguments: list[str]) -> tuple[int, int]:
    """The two that spawn.py gives, in its order: argparse would take longer to import than to be of use."""
    match arguments:
        case ["--fd", fd, "--parent", parent] if fd.isdecimal() and parent.isdecimal():
            return int(fd), int(parent)
    sys.exit(f"usage: python -m runtime.engine.worker --fd N --parent PID, found {arguments}")


class Wire:
    """The inherited socket by its number: all that is done with it, in less time than `socket` takes to import."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def receive(self) -> bytes:
        """What has come, READ bytes at most; nothing: the other end is closed."""
        return os.read(self._fd, READ)

    def send(self, frame: bytes) -> None:
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def serve(wire: Wire, opener: Opener, before: Confinement) -> None:
    """Answers `load`, then runs until the socket ends."""
    inbox: Inbox = queue.SimpleQueue()
    writing = threading.Lock()  # the reader answers pings while the loop computes

    def send(frame: bytes) -> None:
        with writing:
            wire.send(frame)

    threading.Thread(target=_read, args=(wire, inbox, send), daemon=True).start()
    try:
        _import_grammars()
        asked, message = inbox.get()
        opened = opener(_load_of(message))
    except (RuntimeFailure, ManifestsError) as error:
        failure = error if isinstance(error, RuntimeFailure) else ModelRefused(error.plain, hint=error.hint)
        send(encode({"op": "failed", **error_to_json(failure)}))
        return
    after = confine(files="none", namespaces=False)
    for lack in dict.fromkeys((*before.missing, *after.missing)):
        print(f"sealift: the model's process could not be confined in full: {lack}", file=sys.stderr)
    ready: Message = {
        "op": "ready",
        "n_ctx": opened.n_ctx,
        "vocab": opened.vocab,
        "n_blocks": opened.n_blocks,
        "vector": opened.vector,
        "load_ns": time.monotonic_ns() - asked,
        "confined": list(dict.fromkeys((*before.done, *after.done))),
        "unconfined": list(dict.fromkeys((*before.missing, *after.missing))),
        **opened.facts,
    }
    send(encode(ready))
    loop = Loop(opened, inbox, send)
    gc.freeze()  # what is here stays: the collector need not walk over it between two steps
    while True:
        loop.turn()


class Loop:
    """The scheduler, the engine and the inbox. `send` takes encoded frames."""

    def __init__(self, opened: Opened, inbox: Inbox, send: Callable[[bytes], None]) -> None:
        pool = BlockPool(opened.n_blocks)
        self.scheduler = Scheduler(
            pool, n_ctx=opened.n_ctx, max_seqs=opened.max_seqs, max_rows=opened.max_rows,
            max_outputs=opened.max_outputs, whole=opened.whole,
        )  # fmt: skip
        self._embeds = opened.vector > 0
        self._runner = opened.runner
        self._vocab = opened.vocab
        self._threads = int(opened.facts.get("threads", 1))
        self._grammars: GrammarLine | None = None  # until the vocabulary is known
        self._pace = Pace(max_rows=opened.max_rows)
        self._rows: Rows  # of the last step
        self._inbox = inbox
        self._send = send
        self._arrivals = 0
        self._arrived: dict[int, int] = {}  # monotonic ns
        self._queued: dict[int, int] = {}  # ns spent in line
        self._said = 0  # sequences in line, as the server was last told

    def turn(self) -> None:
        """Takes all control messages (waits for one when there is nothing to do), then computes one step."""
        self._control()
        step = self.scheduler.again()
        if step is not None:
            self._rows.advance(step)
        else:
            step = self.scheduler.schedule(self._pace.rows(*self.scheduler.counts))
            if step is None:  # all that was left has been cancelled
                self.scheduler.check()
                return
            self._rows = rows_of(step)
        now = time.monotonic_ns()
        for id in step.admitted:
            self._queued[id] = now - self._arrived[id]
        chosen = self._runner.run(self._rows)
        done = time.monotonic_ns()
        self._pace.took(step.rows, step.prompt_rows, done - now)
        outcomes = self.scheduler.commit(step, chosen)
        self._report(outcomes, done)
        if self.scheduler.idle:
            self.scheduler.check()

    def _report(self, outcomes: list[Outcome], done: int) -> None:
        """Of a step that ended at `done`. Scores and vectors have frames of their own."""
        scored: list[list[Any]] = []
        out: list[Entry] = []
        top: list[tuple[int, float]] = []
        for outcome in outcomes:
            if outcome.scores:
                scored.append(self._scored(outcome))
            elif isinstance(outcome.chosen, Vector):
                self._send(encode(self._vector(outcome, outcome.chosen, done)))
            else:
                out.append(self._entry(outcome, outcome.chosen, done, top))
        if scored:
            self._send(encode({"op": "scored", "out": scored}))
        self._tell(out, top, news=bool(out or scored))

    def _tell(self, out: list[Entry], top: list[tuple[int, float]], *, news: bool) -> None:
        """One frame, where there is news: of who waits, too."""
        _, waiting = self.scheduler.counts
        waiting += self._grammars.waiting if self._grammars else 0
        if news or waiting != self._said:
            self._said = waiting
            used, preempted = self.scheduler.pool.n_used, self.scheduler.preemptions
            self._send(encode_step(StepFrame(waiting, used, preempted, out, top)))

    def _control(self) -> None:
        while True:
            idle = self.scheduler.idle
            if idle:
                self._tell([], [], news=False)  # those who waited may all have been cancelled
            elif self._inbox.empty():
                return
            arrived, message = self._inbox.get()
            self._handle(message, arrived)

    def _handle(self, message: Message, arrived: int) -> None:
        op = message["op"]
        if op in ("add", "embed"):
            self._arrived[message["id"]] = arrived
            self._add(message)
        elif op == "compiled":
            self._compiled(message["sequence"], message["matcher"])
        elif op == "cancel":
            self.scheduler.cancel(message["id"])
            self._forget(message["id"])
        elif op == "vocabulary":
            self._grammars = self._grammar_line(Vocabulary.from_json(message))
        else:
            raise ProtocolError(f"an unexpected {op}")

    def _add(self, message: Message) -> None:
        try:
            sequence, constraint = self._sequence(message), constraint_from_json(message.get("constraint"))
            if constraint is None:
                self.scheduler.add(sequence)
            elif self._grammars is None:
                raise ProtocolError("a constraint before the vocabulary")
            else:
                self._grammars.add(sequence, constraint)
        except RequestRefused as error:
            self._refuse(message["id"], error)

    def _compiled(self, sequence: Sequence, matcher: Later[Matcher]) -> None:
        """A sequence whose constraint has become a grammar, or was refused; it may have been cancelled since."""
        if self._grammars is None or not self._grammars.holds(sequence.id):
            return
        try:
            sequence.matcher = matcher.result()
            self.scheduler.add(sequence)
        except RequestRefused as error:
            self._refuse(sequence.id, error)

    def _refuse(self, id: int, error: RequestRefused) -> None:
        self._forget(id)
        self._send(encode({"op": "refused", "id": id, **error_to_json(error)}))

    def _grammar_line(self, vocabulary: Vocabulary) -> GrammarLine:
        from runtime.engine.grammar import Grammars
        from runtime.engine.grammar_line import GrammarLine

        def done(sequence: Sequence, matcher: Later[Matcher]) -> None:
            self._inbox.put((time.monotonic_ns(), {"op": "compiled", "sequence": sequence, "matcher": matcher}))

        grammars = Grammars(vocabulary, self._vocab, self._threads)
        return GrammarLine(grammars, self.scheduler.max_seqs + AHEAD, done)

    def _sequence(self, message: Message) -> Sequence:
        tokens, embed = message["tokens"], message["op"] == "embed"
        if embed is not self._embeds:
            raise CapabilityMissing(f"the model does not support {'embeddings' if embed else 'generate'}")
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._vocab:
            raise RequestRefused(f"the prompt names a token outside the model's vocabulary of {self._vocab}")
        self._arrivals += 1
        return Sequence(
            id=message["id"],
            client=message["client"],
            root=root_of(message.get("salt", "")),
            arrival=self._arrivals,
            tokens=tokens,
            n_prompt=len(tokens),
            embed=embed,
            max_tokens=0 if embed else message["max_tokens"],
            sampling=Sampling() if embed else sampling_from_json(message["sampling"]),
            ends=frozenset() if embed else frozenset(message["ends"]),
            score=bool(message.get("score")),
        )

    def _scored(self, outcome: Outcome) -> list[Any]:
        """One line of a frame of scores. A number that is none is told as null: the server ends the answer."""
        told = [[one.logprob if math.isfinite(one.logprob) else None, one.top] for one in outcome.scores]
        return [outcome.sequence.id, told]

    def _vector(self, outcome: Outcome, vector: Vector, done: int) -> Message:
        id = outcome.sequence.id
        told: Message = {
            "op": "vector",
            "id": id,
            "values": base64.b64encode(vector.values).decode(),
            "cached": outcome.sequence.n_cached,
            "queue_ns": self._queued[id],
            "age_ns": done - self._arrived[id],
        }
        self._forget(id)
        return told

    def _entry(self, outcome: Outcome, chosen: Chosen | None, done: int, top: list[tuple[int, float]]) -> Entry:
        """One entry of the frame of a step that ended at `done`; its alternatives go to `top`. A log probability that
        is no number ends the sequence."""
        sequence = outcome.sequence
        end: str = outcome.finish or ""
        token, logprob, count = NO_TOKEN, 0.0, 0
        if chosen is not None and math.isfinite(chosen.logprob):
            token, logprob, count = chosen.token, chosen.logprob, len(chosen.top)
            top += chosen.top
        elif chosen is not None:
            self.scheduler.cancel(sequence.id)
            end = "stuck" if chosen.stuck else "error"
        queued, age = self._queued[sequence.id], done - self._arrived[sequence.id]
        if end:
            self._forget(sequence.id)
        return (sequence.id, token, ENDS.index(end), count, logprob, sequence.n_cached, queued, age)

    def _forget(self, id: int) -> None:
        self._arrived.pop(id, None)
        self._queued.pop(id, None)
        if self._grammars is not None:
            self._grammars.leave(id)


def _load_of(message: Message) -> Load:
    if message["op"] != "load":
        raise ProtocolError(f"expected load, got {message['op']}")
    return Load(**{name: message[name] for name in names(Load)})


def _read(wire: Wire, inbox: Inbox, send: Callable[[bytes], None]) -> None:
    """The reader thread. When the server has gone there is nobody left to work for: out at once, in mid-step too."""
    frames = Frames()
    try:
        while data := wire.receive():
            for message in frames.feed(data):
                if isinstance(message, StepFrame):
                    raise ProtocolError("a step from the server")
                if message["op"] == "ping":
                    send(encode({"op": "alive"}))
                else:
                    inbox.put((time.monotonic_ns(), message))
    except ConnectionError:
        pass  # the server has gone with words of ours unread
    except (OSError, ProtocolError) as error:
        print(f"sealift worker: {error}", file=sys.stderr)
        os._exit(FAULT)
    os._exit(0)


def _native() -> Opener:
    """What takes longest to import: with the filter set, and before a model is asked for."""
    from runtime.engine.native_runner import open_native

    return open_native


def _import_grammars() -> None:
    """While files may be opened. Nothing of it runs until a constraint comes."""
    import runtime.engine.grammar_line  # noqa: F401


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
