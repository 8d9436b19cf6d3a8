"""One step in the engine's terms: a batch of rows, how its outputs choose, what they chose; and the arrays behind them.

The C side cannot see how long an array is, so lengths are checked here and numbers there. Arrays are the standard
library's: a worker needs nothing else, and those of a step are small. Refuses, as InputError: a batch whose arrays do
not fit together, what is no 32-bit integer.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from native.errors import InputError
from native.library import MAX_TOP, NONE, SlBatch, SlSampling
from native.memory import place, places
from native.record import field, record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = Sequence[int] | array[int] | npt.NDArray[np.integer]
    Floats = npt.NDArray[np.float32]


@record(frozen=True, kw_only=True, slots=True)
class Sampling:
    """`sl_sampling`. `history`: the tokens the penalties look at. `mask` [(vocab + 31) / 32] words of 32 bits, bit set
    = allowed; an array("I") is read in place."""

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
    mask: Ints | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int = 0


@record(frozen=True, kw_only=True, slots=True)
class Batch:
    """`sl_batch`. tokens [n_rows], row_start [n_seqs + 1], start_pos [n_seqs], blocks [n_seqs][blocks of the sequence]
    (-1 where unused), out_rows [n_outputs]; sampling one per output, or None to sample nothing; `want_logits` copies
    them out. `spare`: blocks that tables may grow by before the batch is prepared anew."""

    tokens: Ints
    row_start: Ints
    start_pos: Ints
    blocks: Sequence[Ints] | npt.NDArray[np.integer]
    out_rows: Ints
    sampling: Sequence[Sampling] | None = None
    want_logits: bool = False
    spare: int = 0


@record(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Per output row: token (-1 where its logits were not finite) and log probability [n]; alternatives [n * MAX_TOP],
    of which the first `top_logprobs` of each row are used (else -1 and -inf). Empty if nothing was sampled. `values`
    [n * width], if asked for: the plan's last slot, logits or vectors."""

    tokens: array[int]
    logprobs: array[float]
    top_ids: array[int]
    top_logprobs: array[float]
    values: array[float] | None
    width: int  # EngineInfo.width

    @classmethod
    def room(cls, sampled: int, width: int, wanted: int | None = None) -> StepResult:
        """For the tokens of `sampled` outputs and, if not None, the values of `wanted` ones."""
        return cls(
            tokens=_room("i", sampled),
            logprobs=_room("f", sampled),
            top_ids=_room("i", sampled * MAX_TOP),
            top_logprobs=_room("f", sampled * MAX_TOP),
            values=None if wanted is None else _room("f", wanted * width),
            width=width,
        )

    def top(self, output: int, count: int) -> tuple[tuple[int, float], ...]:
        """The first `count` alternatives of an output, as many as there are."""
        first = output * MAX_TOP
        ids, logprobs = self.top_ids[first : first + count], self.top_logprobs[first : first + count]
        return tuple((id, logprob) for id, logprob in zip(ids, logprobs, strict=True) if id >= 0)

    @property
    def logits(self) -> Floats | None:
        """`values` as a matrix [n, width], not copied; None if they were not asked for."""
        if self.values is None:
            return None
        import numpy as np

        return np.asarray(self.values).reshape(len(self.values) // self.width, self.width)


class Prepared:
    """A Batch as `sl_batch`, with the arrays it points to; made by Engine.prepare.

    Before it runs again tokens [n_rows] and start_pos [n_seqs] may be changed in place, by `retable` a sequence's
    blocks and by `remember` the history of an output."""

    def __init__(self, batch: Batch, *, vocab: int, width: int) -> None:
        """`vocab`, `width`: of EngineInfo. Raises InputError."""
        self.tokens, self.start_pos = ints(batch.tokens), ints(batch.start_pos)
        row_start, out_rows = ints(batch.row_start), ints(batch.out_rows)
        n_seqs, n_outputs = len(self.start_pos), len(out_rows)
        tables = [ints(table) for table in batch.blocks]
        if len(tables) != n_seqs or len(row_start) != n_seqs + 1:
            raise InputError(
                f"batch of {n_seqs} sequences with row_start [{len(row_start)}] and blocks of {len(tables)}; "
                f"expected [{n_seqs + 1}] and a table for each"
            )
        if batch.sampling is not None and len(batch.sampling) != n_outputs:
            raise InputError(f"batch of {n_outputs} outputs with {len(batch.sampling)} samplings")
        self._width = max(map(len, tables), default=0) + batch.spare
        self._blocks = array("i", (NONE,)) * (n_seqs * self._width)
        for sequence, table in enumerate(tables):
            self._blocks[sequence * self._width : sequence * self._width + len(table)] = table
        self._samplings = None if batch.sampling is None else Samplings(batch.sampling, vocab)
        sampled, wanted = 0 if batch.sampling is None else n_outputs, n_outputs if batch.want_logits else None
        self.result = StepResult.room(sampled, width, wanted)
        given = sl_batch(
            self.result, self._samplings,
            *places(self.tokens, row_start, self.start_pos, self._blocks, out_rows),
            n_rows=len(self.tokens), n_seqs=n_seqs, n_outputs=n_outputs, table_width=self._width,
        )  # fmt: skip
        self.pointer = ctypes.byref(given)
        self._kept = row_start, out_rows

    def retable(self, sequence: int, table: Sequence[int]) -> bool:
        """The sequence's blocks are these now; False where they have outgrown the room for them."""
        if len(table) > self._width:
            return False
        first = sequence * self._width
        self._blocks[first : first + len(table)] = array("i", table)
        return True

    def remember(self, output: int, history: Sequence[int]) -> None:
        """The history of an output, of a batch with samplings."""
        assert self._samplings is not None
        self._samplings.remember(output, history)


class Samplings:
    """An array of sl_sampling together with the arrays it points to."""

    def __init__(self, samplings: Sequence[Sampling], vocab: int) -> None:
        """Raises InputError."""
        self._kept: list[array[Any]] = []
        self._histories: dict[int, array[int]] = {}
        self.structs = (SlSampling * max(1, len(samplings)))(*(self._struct(s, vocab) for s in samplings))

    def _struct(self, s: Sampling, vocab: int) -> SlSampling:
        history = bias_ids = bias_values = mask = None  # most have none of them, and arrays cost more than all the rest
        if len(s.history):
            history = self._keep(ints(s.history))
        if s.bias:
            bias_ids = self._keep(ints(list(s.bias)))
            bias_values = self._keep(array("f", s.bias.values()))
        if s.mask is not None:
            words = s.mask if isinstance(s.mask, array) and s.mask.typecode == "I" else array("I", s.mask)
            if len(words) != (vocab + 31) // 32:
                raise InputError(f"mask of [{len(words)}] words, expected [{(vocab + 31) // 32}]")
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
            top_logprobs=int32(s.top_logprobs),
            temperature=s.temperature,
            top_p=s.top_p,
            min_p=s.min_p,
            typical_p=s.typical_p,
            repeat_penalty=s.repeat_penalty,
            presence_penalty=s.presence_penalty,
            frequency_penalty=s.frequency_penalty,
        )

    def remember(self, output: int, history: Ints) -> None:
        """Another history for the sampling of an output."""
        self._histories[output] = kept = ints(history)
        self.structs[output].history, self.structs[output].n_history = place(kept), len(kept)

    def _keep(self, numbers: array[Any]) -> int:
        """Its address, good as long as this object lives."""
        self._kept.append(numbers)
        return place(numbers)


def sl_batch(result: StepResult, samplings: Samplings | None, *inputs: int, **counts: int) -> SlBatch:
    """`inputs`: addresses of tokens, row_start, start_pos, blocks and out_rows, or none of them. The caller keeps all
    that it points to."""
    return SlBatch(
        *(inputs or (None,) * 5),
        None if samplings is None else ctypes.addressof(samplings.structs),
        *places(result.tokens, result.logprobs, result.top_ids, result.top_logprobs),
        None if result.values is None else place(result.values),
        **counts,
    )


_LEAST, _MOST = -(1 << 31), (1 << 31) - 1  # of an int32


def int32(value: int) -> int:
    """ctypes would cut what does not fit, silently."""
    if not _LEAST <= value <= _MOST:
        raise InputError(f"{value} does not fit 32 bits")
    return value


def ints(values: Ints) -> array[int]:
    """One dimension, 32 bits, nothing cut: an array checks each number as it takes it. Raises InputError."""
    try:
        return array("i", values if not isinstance(values, bytes | bytearray) else list(values))  # else: as raw memory
    except OverflowError:
        raise InputError(f"expected one dimension of 32-bit integers, got {values!r:.60}") from None
    except TypeError:
        raise InputError(f"expected integers, got {values!r:.60}") from None


def _room(code: str, count: int) -> array[Any]:
    """`count` zeros."""
    return array(code, (0,)) * count
