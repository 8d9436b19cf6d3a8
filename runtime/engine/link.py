"""The server's end of one worker process: start it, give it sequences, hand out what it chooses, notice its death.

Invariants:
* Every Stream ends with exactly one Ended, whatever the worker does: its last word, its death, or `cancel`.
* After death nothing is sent and every new sequence is refused with WorkerDied.
* A worker whose process does not run (stopped, or thrashing) while a sequence is open is asked for a sign of life after
  PULSE_S of silence and killed after another: a request does not wait for ever, and others do not wait for it.
* The process is never left behind: it dies with its socket, with its parent, and is killed and waited for in `close`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import socket
import subprocess
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

from native.record import record
from runtime.engine.constraint import Constraint
from runtime.engine.protocol import (
    ENDS,
    NO_TOKEN,
    READ,
    Frames,
    Load,
    Message,
    ProtocolError,
    StepFrame,
    constraint_to_json,
    encode,
    error_from_json,
    load_frame,
    sampling_to_json,
)
from runtime.engine.sampling import Sampling
from runtime.engine.spawn import COMMAND, Spawned, spawn
from runtime.engine.stream import Ended, Score, Stream, Token, Vector
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import RequestRefused, RuntimeFailure, ShuttingDown, WorkerDied

__all__ = ["Ended", "Link", "Load", "Ready", "Score", "Stream", "Token", "Vector"]  # Load: protocol

log = logging.getLogger("sealift.engine")

DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check the server's log for details"
)
NOT_NUMBERS = "an error was encountered while running the model: it produced values that are not numbers"
STUCK = "what the format allows next cannot be told within its limits; a simpler schema, pattern or grammar may do"
CLOSE_S = 2.0  # patience before a worker that was asked to go is killed
PULSE_S = 30.0  # silence before a worker is asked for a sign of life, and then before it is given up


@record(frozen=True, slots=True, kw_only=True)
class Ready:
    """What the worker made of it. `vector`: values of a text's vector, 0: the model answers with tokens. Sizes in
    bytes; `confined`, `unconfined`: what the sandbox does, and could not do. `pack`: "used", "absent", or why the pack
    that is there is not used."""

    n_ctx: int
    vocab: int
    vector: int
    threads: int
    n_blocks: int
    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    isa: str
    pack: str
    load_ns: int
    confined: tuple[str, ...]
    unconfined: tuple[str, ...]


class Link:
    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
        self._process = process
        self._socket = ours
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._inbox = memoryview(bytearray(READ))
        self._outbox: bytearray = bytearray()
        self._streams: dict[int, Stream] = {}
        self._next_id = 0
        self._vocab = 0  # until it has loaded
        self._waiting = 0
        self._used = 0
        self.preemptions = 0  # as the worker said last
        self._loaded: asyncio.Future[Ready] = self._loop.create_future()
        self._closing = False
        self._pulse: asyncio.TimerHandle | None = None  # runs while a sequence is open
        self._heard = True  # something came since the last look
        self._asked = False  # for a sign of life, and nothing came since
        self.dead = asyncio.Event()
        self.on_death: Callable[[], None] | None = None
        self._loop.add_reader(ours.fileno(), self._readable)

    @classmethod
    async def start(cls, load: Load, command: Seq[str] = COMMAND, spawned: Spawned | None = None) -> Link:
        """A worker that has loaded: the one given, which may have begun with this load already, or a new one.
        Raises what the worker refused, or WorkerDied; leaves no process behind."""
        try:
            spawned = spawned or spawn(command)
        except OSError as error:
            raise WorkerDied(f"the worker could not be started: {error.strerror}") from error
        process, ours = spawned.process, spawned.socket
        ours.setblocking(False)
        link = cls(process, ours)
        try:
            if not spawned.begun:
                link._put(load_frame(load))
            await link._loaded
        except BaseException:
            await link.close(patience=0.0)
            raise
        return link

    @property
    def ready(self) -> Ready:
        return self._loaded.result()

    @property
    def alive(self) -> bool:
        return not self.dead.is_set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def waiting(self) -> int:
        """Sequences in the worker's line: what it said last, never more than there are, and while there is a line those
        sent since."""
        return self._waiting

    @property
    def used_blocks(self) -> int:
        """Of the key/value pool, as the worker said last; none when no sequence is open."""
        return min(max(0, self._used), self.ready.n_blocks) if self._streams else 0

    def submit(
        self, tokens: Seq[int], sampling: Sampling, *, max_tokens: int, ends: Seq[int] = (), client: str = "",
        constraint: Constraint | None = None, score: bool = False,
    ) -> tuple[int, Stream]:  # fmt: skip
        """Gives the worker a sequence; `sampling` has a definite seed, `constraint` is prepared, and the worker was
        taught the vocabulary before. `score`: a Score comes for each token of the prompt but the first, before every
        Token. Raises WorkerDied."""
        wanted = {"sampling": sampling_to_json(sampling), "max_tokens": max_tokens, "ends": list(ends)}
        wanted |= {"constraint": constraint_to_json(constraint), "score": score}
        return self._open({"op": "add", "tokens": list(tokens), "client": client, **wanted})

    def embed(self, tokens: Seq[int], *, client: str = "") -> tuple[int, Stream]:
        """Gives the worker a text whose vector is wanted: the stream brings a Vector. Raises WorkerDied."""
        return self._open({"op": "embed", "tokens": list(tokens), "client": client})

    def _open(self, message: Message) -> tuple[int, Stream]:
        if not self.alive:
            raise WorkerDied(DIED)
        id, self._next_id = self._next_id, self._next_id + 1
        self._send({**message, "id": id})
        stream = self._streams[id] = Stream()
        self._waiting += self._waiting > 0
        if self._pulse is None:
            self._feel()
        return id, stream

    def teach(self, vocabulary: Vocabulary) -> None:
        """What the worker must know before a constraint. Raises WorkerDied."""
        if not self.alive:
            raise WorkerDied(DIED)
        self._send({"op": "vocabulary", **vocabulary.to_json()})

    def cancel(self, id: int) -> None:
        """The sequence ends now, for the reader at once and for the worker before its next step."""
        stream = self._streams.pop(id, None)
        if stream is None:
            return
        stream.put(Ended(reason="cancelled"))
        if self.alive:
            self._send({"op": "cancel", "id": id})

    async def close(self, patience: float = CLOSE_S) -> None:
        """Asks the worker to go, then makes it. Streams still open end in ShuttingDown: nothing else closes a link that
        is in use."""
        self._closing = True
        self._die(ShuttingDown())
        try:
            await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    # -- the socket

    def _send(self, message: Message) -> None:
        self._put(encode(message))

    def _put(self, frame: bytes) -> None:
        idle = not self._outbox
        self._outbox += frame
        if idle:
            self._writable()
            if self._outbox and self.alive:
                self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            while self._outbox:
                sent = self._socket.send(self._outbox)
                del self._outbox[:sent]
        except BlockingIOError:
            return
        except OSError:  # the reader will see the end too, with whatever the worker said before it
            self._outbox.clear()
        if self.alive:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._inbox)
            self._asked = False
            self._heard = True
            if size:
                for message in self._frames.feed(self._inbox[:size]):
                    if isinstance(message, StepFrame):
                        self._step(message)
                    else:
                        self._handle(message)
                return
        except BlockingIOError:
            return
        except (OSError, ProtocolError, LookupError, TypeError, ValueError, ArithmeticError):
            self._process.kill()  # it does not keep to the protocol, or its socket is broken: it is not trusted further
        self._die()

    def _step(self, step: StepFrame) -> None:
        self._waiting = min(step.waiting, len(self._streams))
        self._used = step.used
        self.preemptions = max(self.preemptions, min(step.preempted, 1 << 53))
        self._known(step.top)
        at = 0
        for id, token, end, count, logprob, cached, queue_ns, age_ns in step.out:
            top = tuple(step.top[at : at + count]) if count else ()
            at += count
            stream = self._streams.get(id)
            if stream is None:  # cancelled while this was under way
                continue
            if 0 <= token < self._vocab:
                stream.put(Token(token, logprob, top, cached, queue_ns, age_ns))
            elif token != NO_TOKEN:
                raise ProtocolError("a token outside the model's vocabulary")
            if end:
                reason = ENDS[end]
                failure = _failure(reason)
                reason = "error" if failure else reason
                self._end(id, Ended(reason=reason, cached=cached, queue_ns=queue_ns, age_ns=age_ns, failure=failure))

    def _known(self, alternatives: Seq[tuple[int, float]]) -> None:
        if any(not 0 <= token < self._vocab for token, _ in alternatives):
            raise ProtocolError("an alternative outside the model's vocabulary")

    def _handle(self, message: Message) -> None:
        op = message["op"]
        if op == "scored":
            for id, scores in message["out"]:
                self._deliver_scores(id, scores)
        elif op == "vector":
            self._deliver_vector(message)
        elif op == "refused":
            self._end(message["id"], Ended(reason="error", failure=error_from_json(message)))
        elif op == "alive":
            pass
        elif op == "ready" and not self._loaded.done():
            fields = {name: message[name] for name in Ready.__dataclass_fields__}
            fields |= {name: tuple(message[name]) for name in ("confined", "unconfined")}
            ready = Ready(**fields)
            self._vocab = int(ready.vocab)
            self._loaded.set_result(ready)
        elif op == "failed" and not self._loaded.done():
            self._loaded.set_exception(error_from_json(message))
        else:
            raise ProtocolError(f"an unexpected {op}")

    def _feel(self) -> None:
        """Once every PULSE_S while a sequence is open."""
        self._pulse = None
        if not self._streams or not self.alive:
            self._asked = False
            return
        if self._asked:
            log.warning("the worker %d gave no sign of life for %g s and is ended", self.pid, 2 * PULSE_S)
            self._process.kill()
            self._die()
            return
        if not self._heard:
            self._asked = True
            self._send({"op": "ping"})
        self._heard = False
        self._pulse = self._loop.call_later(PULSE_S, self._feel)

    def _deliver_scores(self, id: int, scores: list[Any]) -> None:
        stream = self._streams.get(id)
        if stream is None:
            return
        for logprob, top in scores:
            pairs = tuple((int(other), float(value)) for other, value in top)
            self._known(pairs)
            stream.put(Score(math.nan if logprob is None else float(logprob), pairs))

    def _deliver_vector(self, message: Message) -> None:
        stream = self._streams.get(message["id"])
        if stream is None:
            return
        values = base64.b64decode(message["values"], validate=True)
        if len(values) != 4 * self.ready.vector or not values:
            raise ProtocolError("a vector of another length than was said")
        cached, queue_ns, age_ns = (int(message[name]) for name in ("cached", "queue_ns", "age_ns"))
        stream.put(Vector(values=values))
        self._end(message["id"], Ended(reason="stop", cached=cached, queue_ns=queue_ns, age_ns=age_ns))

    def _end(self, id: int, ended: Ended) -> None:
        stream = self._streams.pop(id, None)
        if stream is not None:
            stream.put(ended)

    def _die(self, why: RuntimeFailure | None = None) -> None:
        """The end of the worker, wished for or not. Once."""
        if not self.alive:
            return
        self.dead.set()
        if self._pulse is not None:
            self._pulse.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        if not self._loaded.done():
            self._loaded.set_exception(WorkerDied(DIED))
            self._loaded.exception()  # seen: nobody may be waiting any more
        for id in list(self._streams):
            self._end(id, Ended(reason="error", failure=why or WorkerDied(DIED)))
        if self.on_death is not None and not self._closing:
            self.on_death()


def _failure(finish: str) -> RuntimeFailure | None:
    if finish == "stuck":
        return RequestRefused(STUCK)
    return RuntimeFailure(NOT_NUMBERS) if finish == "error" else None
