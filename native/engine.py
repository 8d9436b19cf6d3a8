"""One loaded model behind the C ABI: arrays in, chosen tokens out.

Refuses, before anything changes: what step.py refuses of a batch, anything the engine finds wrong with plan, batch or
options (InputError), use after `close`. An Engine is used by one thread at a time; the GIL is free while it computes.
numpy is imported where a matrix goes in or out, which is for tests and measurements.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from native.errors import InputError, PlanError
from native.library import BLOCK, ISAS, KV_TYPES, MAX_TOP, SlConfig, SlInfo, SlTensor, check, library
from native.memory import address, place, places
from native.plan import Plan
from native.record import record
from native.step import Batch, Prepared, Sampling, Samplings, StepResult, int32, sl_batch
from native.weight import Weight

if TYPE_CHECKING:
    from types import TracebackType

    from native.step import Floats

__all__ = [
    "BLOCK",
    "MAX_TOP",
    "Batch",
    "Engine",
    "EngineInfo",
    "Prepared",
    "Sampling",
    "StepResult",
    "Weight",
    "dequantize",
    "measure",
    "sample",
]


@record(frozen=True, kw_only=True, slots=True)
class EngineInfo:
    """`sl_info`: bytes held, bytes of one key/value block over all layers, and what was chosen.
    `width`: values of one output row, `vocab` where they are logits."""

    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    bytes_per_block: int
    vocab: int
    layers: int
    threads: int
    isa: str
    width: int


class Engine:
    """`tensors` holds a Weight for every name of `plan.tensors`; their buffers stay as they are until `close`:
    panels, and matrices that are only looked up, are read in place.

    n_blocks: key/value blocks of BLOCK tokens; max_rows, max_seqs, max_outputs: the most one step may hold. kv_type:
    how keys and values are kept, "f16" or "q8_0" (a little over half the memory; sealift.h says what is rounded).
    """

    def __init__(
        self,
        plan: Plan,
        tensors: Mapping[str, Weight],
        *,
        threads: int,
        n_blocks: int,
        max_rows: int,
        max_seqs: int,
        max_outputs: int,
        isa: str = "best",
        kv_type: str = "f16",
    ) -> None:
        self._handle = ctypes.c_void_p()
        self._library = library()
        given = _Given(plan, tensors, threads, n_blocks, max_rows, max_seqs, max_outputs, isa, kv_type)
        check(self._library.sl_create(*given.arguments, ctypes.byref(self._handle)))
        self.plan = plan
        self.info = self._info()
        self._given = given  # some of it is read in place

    def step(self, batch: Batch) -> StepResult:
        """Runs the batch's rows and chooses a token per output row. Raises InputError with nothing changed."""
        return self.run(self.prepare(batch))

    def prepare(self, batch: Batch) -> Prepared:
        """The batch, to be run once or, advanced, again and again. Raises InputError where its parts do not fit."""
        return Prepared(batch, vocab=self.info.vocab, width=self.info.width)

    def run(self, prepared: Prepared) -> StepResult:
        """`step`, of a batch that this engine prepared. The result is good until it runs again."""
        check(self._library.sl_step(self._open(), prepared.pointer))
        return prepared.result

    def choose(self, samplings: Sequence[Sampling]) -> StepResult:
        """Chooses the tokens of the last step, which had no sampling: one for each of its outputs, once. Raises
        InputError."""
        handle = self._open()
        given, result = Samplings(samplings, self.info.vocab), StepResult.room(len(samplings), self.info.width)
        batch = sl_batch(result, given, n_outputs=len(samplings))
        check(self._library.sl_choose(handle, ctypes.byref(batch)))
        return result

    def op_times(self) -> list[int]:
        """Nanoseconds spent in each op of the plan since the engine was made, [ops]."""
        times = array("q", (0,)) * len(self.plan.ops)
        check(self._library.sl_op_times(self._open(), place(times), len(times)))
        return times.tolist()

    def close(self) -> None:
        """Frees everything. Again does nothing."""
        if self._handle:
            self._library.sl_free(self._handle)
            self._handle = ctypes.c_void_p()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):  # absent where __init__ was never entered
            self.close()

    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise InputError("the engine is closed")
        return self._handle

    def _info(self) -> EngineInfo:
        raw = SlInfo()
        check(self._library.sl_get_info(self._handle, ctypes.byref(raw)))
        return _info_of(raw)


def measure(
    plan: Plan, tensors: Mapping[str, Weight], *, threads: int, n_blocks: int, max_rows: int, max_seqs: int,
    max_outputs: int, isa: str = "best", kv_type: str = "f16",
) -> EngineInfo:  # fmt: skip
    """What such an Engine would hold, told from shapes alone: nothing is packed. Raises as making it would."""
    given = _Given(plan, tensors, threads, n_blocks, max_rows, max_seqs, max_outputs, isa, kv_type)
    raw = SlInfo()
    check(library().sl_measure(*given.arguments, ctypes.byref(raw)))
    return _info_of(raw)


def _info_of(raw: SlInfo) -> EngineInfo:
    values: dict[str, Any] = {name: getattr(raw, name) for name in (field[0] for field in SlInfo._fields_)}
    values["isa"] = library().sl_isa_name(raw.isa).decode()
    return EngineInfo(**values)


class _Given:
    """The first arguments of sl_create, checked, together with the arrays they point to."""

    def __init__(
        self, plan: Plan, tensors: Mapping[str, Weight], threads: int, n_blocks: int, max_rows: int, max_seqs: int,
        max_outputs: int, isa: str, kv_type: str,
    ) -> None:  # fmt: skip
        missing = [name for name in plan.tensors if name not in tensors]
        if missing:
            raise PlanError(f"tensor {missing[0]} is in the plan and was not given")
        if isa not in ISAS:
            raise InputError(f"instruction set {isa!r} is not known; expected one of {', '.join(ISAS)}")
        if kv_type not in KV_TYPES:
            raise InputError(f"kv type {kv_type!r} is not known; expected one of {', '.join(KV_TYPES)}")
        self._ops = plan.encode()
        given = (SlTensor * max(1, len(plan.tensors)))()
        for at, name in enumerate(plan.tensors):
            given[at] = _sl_tensor(tensors[name])
        self._kept = [tensors[name].buffer for name in plan.tensors]
        counts = [int32(n) for n in (threads, n_blocks, max_rows, max_seqs, max_outputs)]
        config = ctypes.byref(SlConfig(*counts, ISAS[isa], KV_TYPES[kv_type]))
        self.arguments = (self._ops, len(plan.ops), given, len(plan.tensors), config)


def _sl_tensor(weight: Weight) -> SlTensor:
    """Good as long as the weight's buffer is kept."""
    packed = ISAS[weight.packed] if weight.packed else 0
    size = weight.buffer.nbytes
    return SlTensor(address(weight.buffer), size, weight.rows, weight.cols, weight.type, packed)


def sample(logits: Floats, sampling: Sampling, position: int) -> tuple[int, float, list[tuple[int, float]]]:
    """Chooses the token at `position` from logits [vocab] as a step would: token, log probability, alternatives."""
    import numpy as np

    changed = np.array(logits, np.float32, copy=True)
    given = Samplings([sampling], len(changed))
    result = StepResult.room(1, len(changed))
    status = library().sl_sample(
        changed.ctypes.data,
        len(changed),
        ctypes.addressof(given.structs),
        int32(position),
        *places(result.tokens, result.logprobs, result.top_ids, result.top_logprobs),
    )
    check(status)
    return result.tokens[0], result.logprobs[0], list(result.top(0, MAX_TOP))


def dequantize(weight: Weight) -> Floats:
    """[rows, cols]: the exact values."""
    import numpy as np

    values = np.empty((weight.rows, weight.cols), np.float32)
    given = _sl_tensor(weight)
    check(library().sl_dequantize(ctypes.byref(given), values.ctypes.data))
    return values
