"""The wire between the server and one worker: frames over a socket pair that the worker inherits.

frame    4 bytes little-endian length, then that many bytes: UTF-8 JSON, one object with a string "op"; or a step,
         packed because there is one for every token: a zero byte, what STEP says, entries, the alternatives of all
server   load (once, first) · vocabulary (once, before the first add with a constraint) · add · embed · cancel · ping;
         the end of the stream ends the worker
worker   ready or failed (once, in answer to load) · scored (before the step that scored prompts: log probabilities of
         their next tokens, null for no number, with alternatives) · step (one for all that a step brought; how many
         sequences wait for their first rows or, preempted, for their next; how many blocks of the pool are used; how
         often a sequence was preempted so far) · vector (in answer to embed, and its end) · refused (an add or an
         embed) · alive (at once in answer to ping, in mid-step too)

A vector is base64 of float32, little-endian: at most 2^20 values, so it fits a frame of its own.
Token ids and numbers only, except the path in `load`, sentences in `failed` and `refused`, and what constrained answers
need: the bytes of the vocabulary, and in `add` a constraint's text. The worker holds hostile
content (a GGUF), so what it sends is read like a stranger's: frames are bounded, and a frame that is not as described
here ends the worker, not the server.

RuntimeFailure
└── ProtocolError   70 / 500   the other side did not keep to the wire; seen by the log only, streams end in WorkerDied
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from native.record import record, values
from runtime import errors
from runtime.engine.constraint import Constraint
from runtime.engine.sampling import Sampling
from runtime.errors import RuntimeFailure

READ = 1 << 18  # bytes asked of the socket at once
MAX_FRAME = 32 << 20  # bytes; a prompt of 2 million tokens fits
HEADER = struct.Struct("<I")

STEP = struct.Struct("<BIIQI")  # 0, StepFrame's numbers, how many entries follow
ENTRY = struct.Struct("<QiBBdIQQ")
ALTERNATIVE = struct.Struct("<id")
NO_TOKEN = -1
ENDS = ("", "stop", "length", "error", "stuck")  # what an entry's `end` stands for; 0: the sequence goes on

Message = dict[str, Any]
Entry = tuple[int, int, int, int, float, int, int, int]
"""id, token or NO_TOKEN, end, how many of StepFrame.top are its own; logprob, cached, queue_ns, age_ns as in Token."""


class StepFrame(NamedTuple):
    """What one step brought. `top`: the alternatives of all entries, in their order."""

    waiting: int
    used: int
    preempted: int
    out: list[Entry]
    top: list[tuple[int, float]]


@record(frozen=True, slots=True, kw_only=True)
class Load:
    """What a worker shall run. `path`: the GGUF file's absolute path; `adapters`: those of the LoRAs added to it.

    `n_ctx`, `threads`, `parallel` 0: the worker chooses. `parallel`: how many full contexts the key/value pool holds.
    `packs`: the path of the weights' packs without instruction set and suffix, "": none are kept; `blob`: the digest
    they are keyed by. `max_seqs`: sequences computed together; more than `parallel` may share the pool as long as
    their tokens fit. `kv_type`: how keys and values are kept, of native.library.KV_TYPES.
    """

    path: str
    adapters: tuple[str, ...] = ()
    n_ctx: int = 0
    threads: int = 0
    parallel: int = 0
    max_seqs: int = 16
    max_rows: int = 512
    kv_type: str = "f16"
    isa: str = "best"
    packs: str = ""
    blob: str = ""


class ProtocolError(RuntimeFailure):
    """Never leaves the engine's modules."""


def encode_step(step: StepFrame) -> bytes:
    body = STEP.pack(0, step.waiting, step.used, step.preempted, len(step.out))
    body += b"".join([ENTRY.pack(*entry) for entry in step.out])
    body += b"".join([ALTERNATIVE.pack(*pair) for pair in step.top])
    return HEADER.pack(len(body)) + body


def decode_step(body: bytes) -> StepFrame:
    """Raises ProtocolError for a body that is not as long as it says."""
    try:
        _, waiting, used, preempted, count = STEP.unpack_from(body)
        border = STEP.size + count * ENTRY.size
        if border > len(body):
            raise ProtocolError("a step of another length than it says")
        out = [ENTRY.unpack_from(body, at) for at in range(STEP.size, border, ENTRY.size)]
        top = list(ALTERNATIVE.iter_unpack(body[border:]))
    except struct.error as error:
        raise ProtocolError("a step of another length than it says") from error
    if len(top) != sum([entry[3] for entry in out]):
        raise ProtocolError("a step of another length than it says")
    return StepFrame(waiting, used, preempted, out, top)


def encode(message: Message) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes; at most {MAX_FRAME} are allowed")
    return HEADER.pack(len(body)) + body


def load_frame(load: Load) -> bytes:
    """What a worker is told first."""
    return encode({"op": "load", **values(load)})


def decode(body: bytes) -> Message | StepFrame:
    if body[:1] == b"\0":
        return decode_step(body)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame that is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ProtocolError('a frame that is not an object with "op"')
    return message


class Frames:
    """Cuts a byte stream into messages: feed it what came, take what is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterable[Message | StepFrame]:
        """Raises ProtocolError for a frame over the limit before its body is kept."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._buffer)
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes; at most {MAX_FRAME} are allowed")
            if len(self._buffer) < HEADER.size + size:
                return
            body = bytes(self._buffer[HEADER.size : HEADER.size + size])
            del self._buffer[: HEADER.size + size]
            yield decode(body)


def sampling_to_json(sampling: Sampling) -> dict[str, Any]:
    return {**values(sampling), "logit_bias": list(sampling.logit_bias.items())}


def sampling_from_json(told: dict[str, Any]) -> Sampling:
    return Sampling(**{**told, "logit_bias": {int(token): bias for token, bias in told["logit_bias"]}})


def constraint_to_json(constraint: Constraint | None) -> dict[str, str] | None:
    return None if constraint is None else values(constraint)


def constraint_from_json(told: dict[str, Any] | None) -> Constraint | None:
    return None if told is None else Constraint(**told)


def error_to_json(error: RuntimeFailure) -> dict[str, Any]:
    return {"kind": type(error).__name__, "error": str(error), "hint": error.hint}


def error_from_json(told: Message) -> RuntimeFailure:
    """An error of runtime.errors by its class's name; what has no such name becomes a plain RuntimeFailure."""
    kind = getattr(errors, str(told.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, RuntimeFailure)):
        kind = RuntimeFailure
    hint = told.get("hint")
    made: RuntimeFailure = kind(str(told.get("error", "")), hint=hint if isinstance(hint, str) else None)
    return made
