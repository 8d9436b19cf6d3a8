"""One loaded model behind the C ABI: arrays in, chosen tokens out.

The C side cannot see how long an array is, so lengths are checked here and numbers there. Refuses, before anything
changes: a batch whose arrays do not fit together (InputError), anything the engine finds wrong with plan, batch or
options (InputError), use after `close`. An Engine is used by one thread at a time; the GIL is free while it computes.
"""

from __future__ import annotations

import contextlib
import ctypes
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from native.errors import InputError, PlanError
from native.library import (
    BLOCK,
    ISAS,
    KV_TYPES,
    MAX_TOP,
    SlBatch,
    SlConfig,
    SlInfo,
    SlSampling,
    SlTensor,
    check,
    library,
)
from native.plan import Plan
from native.weight import Weight

__all__ = [
    "BLOCK",
    "MAX_TOP",
    "Batch",
    "Engine",
    "EngineInfo",
    "Sampling",
    "StepResult",
    "Weight",
    "dequantize",
    "measure",
    "sample",
]

Ints = Sequence[int] | npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """`sl_sampling`. `history`: the tokens the penalties look at. `mask` [(vocab + 31) / 32] uint32, bit set =
    allowed."""

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    history: Ints = ()
    mask: npt.NDArray[np.uint32] | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`sl_batch`. tokens [n_rows], row_start [n_seqs + 1], start_pos [n_seqs], blocks [n_seqs, table width] (-1 where
    unused), out_rows [n_outputs]; sampling one per output, or None to sample nothing; `want_logits` copies them out."""

    tokens: Ints
    row_start: Ints
    start_pos: Ints
    blocks: npt.ArrayLike
    out_rows: Ints
    sampling: Sequence[Sampling] | None = None
    want_logits: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Per output row: token (-1 where its logits were not finite) and log probability [n]; alternatives [n, MAX_TOP],
    of which the first `top_logprobs` are used (else -1 and -inf); logits [n, EngineInfo.width] if asked for: the plan's
    last slot. Empty if nothing was sampled."""

    tokens: npt.NDArray[np.int32]
    logprobs: Floats
    top_ids: npt.NDArray[np.int32]
    top_logprobs: Floats
    logits: Floats | None


@dataclass(frozen=True, kw_only=True, slots=True)
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
        return Prepared(batch, self.info)

    def run(self, prepared: Prepared) -> StepResult:
        """`step`, of a batch that this engine prepared. The result is good until it runs again."""
        check(self._library.sl_step(self._open(), prepared.pointer))
        return prepared.result

    def choose(self, samplings: Sequence[Sampling]) -> StepResult:
        """Chooses the tokens of the last step, which had no sampling: one for each of its outputs, once. Raises
        InputError."""
        handle = self._open()
        given = _Samplings(samplings, self.info.vocab)
        result = _result(len(samplings), None)
        batch = SlBatch(
            sampling=ctypes.addressof(given.structs),
            out_tokens=result.tokens.ctypes.data,
            out_logprobs=result.logprobs.ctypes.data,
            top_ids=result.top_ids.ctypes.data,
            top_logprobs=result.top_logprobs.ctypes.data,
            n_outputs=len(samplings),
        )
        check(self._library.sl_choose(handle, ctypes.byref(batch)))
        return result

    def op_times(self) -> npt.NDArray[np.int64]:
        """Nanoseconds spent in each op of the plan since the engine was made, [ops]."""
        times = np.zeros(len(self.plan.ops), np.int64)
        check(self._library.sl_op_times(self._open(), times.ctypes.data, len(times)))
        return times

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


class Prepared:
    """A Batch as `sl_batch`, with the arrays it points to; made by Engine.prepare.

    Before it runs again tokens [n_rows], start_pos [n_seqs] and blocks [n_seqs, table width] may be changed in place,
    and by `remember` the history of an output."""

    def __init__(self, batch: Batch, info: EngineInfo) -> None:
        self.tokens, self.start_pos = _ints(batch.tokens), _ints(batch.start_pos)
        row_start, out_rows = _ints(batch.row_start), _ints(batch.out_rows)
        self.blocks = np.array(batch.blocks, np.int32, order="C")
        n_seqs, n_outputs = len(self.start_pos), len(out_rows)
        if self.blocks.ndim != 2 or len(self.blocks) != n_seqs or len(row_start) != n_seqs + 1:
            raise InputError(
                f"batch of {n_seqs} sequences with row_start [{len(row_start)}] and blocks {list(self.blocks.shape)}; "
                f"expected [{n_seqs + 1}] and [{n_seqs}, table width]"
            )
        self._sampling = None if batch.sampling is None else _Samplings(batch.sampling, info.vocab)
        if batch.sampling is not None and len(batch.sampling) != n_outputs:
            raise InputError(f"batch of {n_outputs} outputs with {len(batch.sampling)} samplings")
        logits = np.empty((n_outputs, info.width), np.float32) if batch.want_logits else None
        self.result = result = _result(0 if batch.sampling is None else n_outputs, logits)
        given = SlBatch(
            *(array.ctypes.data for array in (self.tokens, row_start, self.start_pos, self.blocks, out_rows)),
            None if self._sampling is None else ctypes.addressof(self._sampling.structs),
            *(array.ctypes.data for array in (result.tokens, result.logprobs, result.top_ids, result.top_logprobs)),
            None if result.logits is None else result.logits.ctypes.data,
            len(self.tokens),
            n_seqs,
            n_outputs,
            self.blocks.shape[1],
        )
        self.pointer = ctypes.byref(given)
        self._kept = row_start, out_rows

    def remember(self, place: int, history: Sequence[int]) -> None:
        """The history of the output at `place`, of a batch with samplings."""
        assert self._sampling is not None
        self._sampling.remember(place, history)


def _result(n: int, logits: Floats | None) -> StepResult:
    """Room for the tokens of n outputs."""
    return StepResult(
        tokens=np.empty(n, np.int32),
        logprobs=np.empty(n, np.float32),
        top_ids=np.empty((n, MAX_TOP), np.int32),
        top_logprobs=np.empty((n, MAX_TOP), np.float32),
        logits=logits,
    )


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
        plan.verify({name: (tensors[name].rows, tensors[name].cols) for name in plan.tensors})
        self._ops = plan.encode()
        self._views = [np.frombuffer(tensors[name].buffer, np.uint8) for name in plan.tensors]
        given = (SlTensor * max(1, len(self._views)))()
        for place, (name, view) in enumerate(zip(plan.tensors, self._views, strict=True)):
            weight = tensors[name]
            packed = ISAS[weight.packed] if weight.packed else 0
            given[place] = SlTensor(view.ctypes.data, view.nbytes, weight.rows, weight.cols, weight.type, packed)
        counts = [_int32(n) for n in (threads, n_blocks, max_rows, max_seqs, max_outputs)]
        config = ctypes.byref(SlConfig(*counts, ISAS[isa], KV_TYPES[kv_type]))
        self.arguments = (self._ops.ctypes.data, len(self._ops), given, len(self._views), config)


def sample(logits: Floats, sampling: Sampling, position: int) -> tuple[int, float, list[tuple[int, float]]]:
    """Chooses the token at `position` from logits [vocab] as a step would: token, log probability, alternatives."""
    changed = np.array(logits, np.float32, copy=True)
    given = _Samplings([sampling], len(changed))
    token, logprob = ctypes.c_int32(), ctypes.c_float()
    ids, logprobs = np.empty(MAX_TOP, np.int32), np.empty(MAX_TOP, np.float32)
    status = library().sl_sample(
        changed.ctypes.data,
        len(changed),
        ctypes.byref(given.structs),
        _int32(position),
        ctypes.byref(token),
        ctypes.byref(logprob),
        ids.ctypes.data,
        logprobs.ctypes.data,
    )
    check(status)
    return token.value, logprob.value, [(int(i), float(p)) for i, p in zip(ids, logprobs, strict=True) if i >= 0]


def dequantize(weight: Weight) -> Floats:
    """[rows, cols]: the exact values."""
    view = np.frombuffer(weight.buffer, np.uint8)
    values = np.empty((weight.rows, weight.cols), np.float32)
    given = SlTensor(view.ctypes.data, view.nbytes, weight.rows, weight.cols, weight.type, 0)
    check(library().sl_dequantize(ctypes.byref(given), values.ctypes.data))
    return values


class _Samplings:
    """An array of sl_sampling together with the arrays it points to."""

    def __init__(self, samplings: Sequence[Sampling], vocab: int) -> None:
        self.kept: list[npt.NDArray[Any]] = []
        self._histories: dict[int, npt.NDArray[np.int32]] = {}
        self.structs = (SlSampling * max(1, len(samplings)))(*(self._struct(s, vocab) for s in samplings))

    def _struct(self, s: Sampling, vocab: int) -> SlSampling:
        history = bias_ids = bias_values = mask = None  # most have none of them, and arrays cost more than all the rest
        if len(s.history):
            history = self._keep(_ints(s.history))
        if s.bias:
            bias_ids = self._keep(_ints(list(s.bias)))
            bias_values = self._keep(np.array(list(s.bias.values()), np.float32))
        if s.mask is not None:
            words = np.ascontiguousarray(s.mask, np.uint32)
            if words.shape != ((vocab + 31) // 32,):
                raise InputError(f"mask of {list(words.shape)} words, expected [{(vocab + 31) // 32}]")
            mask = self._keep(words)
        if not 0 <= s.seed < 1 << 64:
            raise InputError(f"seed {s.seed} is not in 0 .. 2^64-1")
        return SlSampling(
            seed=s.seed,
            history=history,
            mask=mask,
            bias_ids=bias_ids,
            bias_values=bias_values,
            n_history=len(s.history),
            n_bias=len(s.bias),
            top_k=max(_LEAST, min(_MOST, s.top_k)),
            top_logprobs=_int32(s.top_logprobs),
            temperature=s.temperature,
            top_p=s.top_p,
            min_p=s.min_p,
            typical_p=s.typical_p,
            repeat_penalty=s.repeat_penalty,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
        )

    def remember(self, place: int, history: Ints) -> None:
        """Another history for the sampling at `place`."""
        self._histories[place] = kept = _ints(history)
        self.structs[place].history, self.structs[place].n_history = kept.ctypes.data, len(kept)

    def _keep(self, array: npt.NDArray[Any]) -> int:
        """Its address, good as long as this object lives."""
        self.kept.append(array)
        return array.ctypes.data


_LEAST, _MOST = -(1 << 31), (1 << 31) - 1  # of an int32


def _int32(value: int) -> int:
    """ctypes would cut what does not fit, silently."""
    if not _LEAST <= value <= _MOST:
        raise InputError(f"{value} does not fit 32 bits")
    return value


def _ints(values: Ints) -> npt.NDArray[np.int32]:
    """One dimension, 32 bits, nothing cut."""
    if isinstance(values, list) and values:  # several in every step: an array checks each number as it takes it
        with contextlib.suppress(OverflowError, TypeError):  # refused below, in words
            return np.frombuffer(array("i", values), np.int32)
    try:
        wide = np.asarray(values, np.int64)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"expected integers, got {values!r:.60}") from error
    if wide.ndim != 1 or (wide.size and (wide.min() < _LEAST or wide.max() > _MOST)):
        raise InputError(f"expected one dimension of 32-bit integers, got {values!r:.60}")
    return np.ascontiguousarray(wide, np.int32)
