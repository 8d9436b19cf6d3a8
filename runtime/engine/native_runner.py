"""Opens a GGUF file in the native engine and runs steps on it: the Runner that real workers use.

Memory is planned before it is taken: weights, the key/value pool, scratch. What does not fit what the machine has free
is refused with the numbers.
Refuses a file that is no model we run (runtime.models), a library that is absent or cannot run here.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from manifests.gguf import Gguf
from native import engine as native
from native import packing
from native.errors import LibraryError, MemoryShortError, NativeError
from native.library import ISAS, library
from native.plan import Plan
from native.record import record
from native.tokenizer import pass_strings
from native.weight import Weight
from runtime.engine import packfile, resources
from runtime.engine.batch import Opened, Rows
from runtime.engine.blocks import BLOCK, blocks_for
from runtime.engine.pace import SMALLEST
from runtime.engine.protocol import Load
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Chosen, Vector
from runtime.errors import EngineAbsent, ModelRefused, OutOfMemory, PackUnusable, RuntimeFailure
from runtime.models.adapters import adapt
from runtime.models.load import load as load_model

assert native.BLOCK == BLOCK

NAN = float("nan")

DEFAULT_CONTEXT = 4096  # tokens
PARALLEL = 4  # full contexts in the pool where nobody says and memory allows
POOL_SHARE = 0.5  # of the memory that the weights leave: the most an automatic pool takes
LOGITS = 32 << 20  # bytes of logits that a step may have where a prompt is scored; more than its sequences need
SPARE = 4  # blocks that tables may grow by before their rows are prepared anew
SMALLER = "ask for a smaller context (num_ctx), fewer parallel requests or threads, or a smaller quantization"
PROCESS = 64 << 20  # bytes of a worker without a model: the interpreter, its libraries, the file's head


@record(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes, and what they buy. `available` None: the system does not say."""

    weights: int
    scratch: int  # activations, logits, and the process itself
    context: int  # key/value bytes of one full context
    parallel: int
    available: int | None

    @property
    def needed(self) -> int:
        return self.weights + self.parallel * self.context + self.scratch


def plan_memory(weights: int, scratch: int, context: int, parallel: int, available: int | None) -> MemoryPlan:
    """`parallel` 0: as many contexts as POOL_SHARE of the rest holds, 1 to PARALLEL. Raises OutOfMemory."""
    chosen = parallel
    if not chosen:
        rest = None if available is None else POOL_SHARE * (available - weights - scratch)
        chosen = PARALLEL if rest is None else max(1, min(PARALLEL, int(rest // context)))
    plan = MemoryPlan(weights=weights, scratch=scratch, context=context, parallel=chosen, available=available)
    if available is not None and plan.needed > available:
        raise OutOfMemory(
            f"model requires more system memory ({_size(plan.needed)}) than is available ({_size(available)}): "
            f"{_size(weights)} for weights, {chosen} x {_size(context)} for context, {_size(scratch)} for computing",
            hint=SMALLER,
        )
    return plan


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def open_native(load: Load) -> Opened:
    """Raises RuntimeFailure and GgufError."""
    _need_the_library()
    threads = load.threads or resources.cores()
    with refusals():
        pack = _Pack(load, threads)
    try:
        return _open(load, threads, pack)
    finally:
        pack.stop()


def _open(load: Load, threads: int, pack: _Pack) -> Opened:
    with refusals():
        gguf = Gguf.open(load.path, arrays=False, pass_strings=pass_strings)
    spec, plan, weights = load_model(gguf)
    adapted, added = adapt(gguf, spec, plan, weights, [Gguf.open(path) for path in load.adapters])
    n_ctx = min(load.n_ctx or DEFAULT_CONTEXT, spec.context)
    max_rows = max(load.max_rows, load.max_seqs + SMALLEST, n_ctx if plan.whole else 0)
    seqs = load.max_seqs
    outputs = seqs if plan.whole else max(seqs, min(max_rows, LOGITS // (4 * spec.vocab)))
    config: dict[str, Any] = {"threads": threads, "isa": load.isa, "kv_type": load.kv_type}
    config |= {"max_rows": max_rows, "max_seqs": seqs, "max_outputs": outputs}
    with refusals():
        sizes = native.measure(adapted, {**weights, **added}, n_blocks=1, **config)
        memory = plan_memory(
            sizes.weight_bytes, sizes.scratch_bytes + PROCESS, blocks_for(n_ctx) * sizes.bytes_per_block,
            load.parallel, resources.memory_available(),
        )  # fmt: skip
        n_blocks = memory.parallel * blocks_for(n_ctx)
        weights = pack.use(plan, weights)
        engine = native.Engine(adapted, {**weights, **added}, n_blocks=n_blocks, **config)
    gguf.release()
    info = engine.info
    return Opened(
        runner=NativeEmbedder(engine) if spec.pooling else NativeRunner(engine),
        vector=info.width if spec.pooling else 0,
        whole=plan.whole,
        n_ctx=n_ctx,
        n_blocks=n_blocks,
        vocab=info.vocab,
        max_seqs=seqs,
        max_rows=max_rows,
        max_outputs=outputs,
        facts={
            "threads": info.threads,
            "weight_bytes": info.weight_bytes,
            "kv_bytes": info.kv_bytes,
            "scratch_bytes": info.scratch_bytes,
            "isa": info.isa,
            "pack": pack.said,
        },
    )


def _need_the_library() -> None:
    """Clients are not told where things lie on this host: the log is."""
    try:
        library()
    except LibraryError as error:
        print(f"sealift: {error}; {error.hint}", file=sys.stderr)
        raise EngineAbsent from error


class _Pack:
    """The weights' pack, if there is one: read from the moment the load begins. `said`: of it (Ready.pack)."""

    def __init__(self, load: Load, threads: int) -> None:
        self.said = "absent"
        self._load = load
        self._isa = packing.best_isa() if load.isa == "best" else load.isa
        self._reading: packfile.Reading | None = None
        if not load.packs or self._isa not in ISAS:  # which the engine refuses
            return
        try:
            self._reading = packfile.Reading(packfile.path_of(load.packs, self._isa), threads)
        except FileNotFoundError:
            pass
        except PackUnusable as error:
            self.said = str(error)

    def use(self, plan: Plan, weights: dict[str, Weight]) -> dict[str, Weight]:
        """The weights, from their pack where it is good."""
        if self._reading is None:
            return weights
        try:
            layout = packfile.layout_of(plan, weights, self._load.blob, self._isa)
            packed = self._reading.use(layout, weights, self._isa)
        except PackUnusable as error:
            self.said = str(error)
            return weights
        self.said = "used"
        return packed

    def stop(self) -> None:
        if self._reading is not None:
            self._reading.stop()


@contextmanager
def refusals() -> Iterator[None]:
    """The engine's errors as this room's."""
    try:
        yield
    except MemoryShortError as error:
        raise OutOfMemory(str(error), hint=error.hint or SMALLER) from error
    except NativeError as error:
        kind = ModelRefused if error.exit_code == 1 else RuntimeFailure
        raise kind(str(error), hint=error.hint) from error


class NativeRunner:
    """Steps on one engine."""

    def __init__(self, engine: native.Engine) -> None:
        self._engine = engine
        self._rows: Rows | None = None  # the last ones, as `_prepared` has them
        self._prepared: native.Prepared

    def run(self, rows: Rows) -> list[Chosen]:
        constrained = any(rows.matchers)
        if rows is not self._rows or not self._advance(rows, samples=not constrained):
            samplings = None if constrained else _samplings(rows, {})
            self._prepared, self._rows = self._engine.prepare(_batch(rows, sampling=samplings)), rows
        result = self._engine.run(self._prepared)
        stuck: set[int] = set()
        if constrained:
            masks = {place: matcher.mask() for place, matcher in enumerate(rows.matchers) if matcher is not None}
            stuck = {place for place, mask in masks.items() if mask is None}
            result = self._engine.choose(_samplings(rows, masks))
        return [
            _STUCK
            if place in stuck
            else Chosen(token, logprob if token >= 0 else NAN, result.top(place, count) if count else ())
            for place, (token, logprob, count) in enumerate(
                zip(result.tokens, result.logprobs, [options.top_logprobs for options in rows.sampling], strict=True)
            )
        ]

    def _advance(self, rows: Rows, *, samples: bool) -> bool:
        """Brings what is prepared to where the rows are now; False where a table has outgrown it."""
        prepared = self._prepared
        for place, position in enumerate(rows.start_pos):
            prepared.tokens[place], prepared.start_pos[place] = rows.tokens[place], position
            # where a block ends, the one before may have become another's equal one
            if position % BLOCK == 0 and not prepared.retable(place, rows.tables[place]):
                return False
            if samples and rows.histories[place]:
                prepared.remember(place, rows.histories[place])
        return True


_STUCK = Chosen(token=-1, logprob=NAN, stuck=True)


def _samplings(rows: Rows, masks: Mapping[int, array[int] | None]) -> list[native.Sampling]:
    """`masks` by place."""
    pairs = enumerate(zip(rows.sampling, rows.histories, strict=True))
    return [_sampling(options, history, masks.get(place)) for place, (options, history) in pairs]


class NativeEmbedder:
    """Steps on one engine whose outputs are vectors, one for each text."""

    def __init__(self, engine: native.Engine) -> None:
        self._engine = engine

    def run(self, rows: Rows) -> list[Vector]:
        result = self._engine.step(_batch(rows, want_logits=True))
        assert result.values is not None
        values, width = result.values, result.width
        if sys.byteorder == "big":
            values.byteswap()
        return [Vector(values=values[first : first + width].tobytes()) for first in range(0, len(values), width)]


def _batch(rows: Rows, **what: Any) -> native.Batch:
    return native.Batch(
        tokens=rows.tokens,
        row_start=rows.row_start,
        start_pos=rows.start_pos,
        blocks=rows.tables,
        out_rows=rows.out_rows,
        spare=SPARE,
        **what,
    )


def _sampling(options: Sampling, history: list[int], mask: array[int] | None) -> native.Sampling:
    assert options.seed is not None
    return native.Sampling(
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        history=history,
        mask=mask,
        bias=options.logit_bias,
        top_logprobs=options.top_logprobs,
    )
