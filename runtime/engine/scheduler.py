"""Which tokens are computed in the next step: continuous batching with chunked prefill.

Policy, in this order, under a budget of rows:
1. every sequence that decodes gets one row, oldest first;
2. sequences in prefill get what is left, oldest first, in chunks that end on a block border;
3. waiting sequences are admitted while places, rows and blocks last: preempted ones first, then one client after the
   other (round-robin), each client's in order of arrival. A head that does not fit waits and nobody overtakes it.
When blocks run out the youngest sequence is preempted: its blocks go (published ones stay matchable), its tokens stay.

Refuses a prompt that can never fit, by name. Invariants:
* The oldest sequence always advances, because it may preempt all others and the pool holds one full context. So every
  sequence ends.
* Every added sequence ends in exactly one Outcome with `finish`, unless it is cancelled, which ends it at once.
* No clock, no threads, no text. The choice of rows changes when a token is computed, never which token (law of batch
  invariance, proved on the engine).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Literal

from runtime.engine.blocks import BLOCK, BlockPool, blocks_for
from runtime.engine.sequence import Sequence
from runtime.errors import ContextExceeded, RequestRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one sequence in a step: tokens[start : start + count]. `output`: the last row chooses a token."""

    sequence: Sequence
    start: int
    count: int

    @property
    def output(self) -> bool:
        sequence = self.sequence
        return sequence.max_tokens > 0 and self.start + self.count == len(sequence.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the engine shall compute. `admitted`: sequences that left the waiting line for the first time."""

    parts: tuple[Part, ...]
    admitted: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def outputs(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The engine's answer for one output: the token, its log probability, the alternatives asked for."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step did to a sequence. `chosen` is None only for a prompt computed with max_tokens 0."""

    sequence: Sequence
    chosen: Chosen | None
    finish: Literal["stop", "length"] | None


class Scheduler:
    def __init__(self, pool: BlockPool, *, n_ctx: int, max_seqs: int, max_rows: int) -> None:
        assert blocks_for(n_ctx) <= pool.n_blocks, "one full context must fit the pool"
        assert max_rows >= max_seqs >= 1, "every sequence needs a row to decode"
        self.pool = pool
        self.n_ctx = n_ctx
        self.max_seqs = max_seqs
        self.max_rows = max_rows
        self.preemptions = 0
        self._running: list[Sequence] = []  # by arrival
        self._preempted: list[Sequence] = []  # by arrival
        self._waiting: OrderedDict[str, deque[Sequence]] = OrderedDict()  # client -> its line; first client is next

    @property
    def idle(self) -> bool:
        return not (self._running or self._preempted or self._waiting)

    @property
    def counts(self) -> tuple[int, int]:
        """Sequences running, and waiting (the preempted included)."""
        return len(self._running), len(self._preempted) + sum(map(len, self._waiting.values()))

    def add(self, sequence: Sequence) -> None:
        """Raises ContextExceeded when no token could follow the prompt, RequestRefused when there is no prompt."""
        if not sequence.tokens:
            raise RequestRefused("the prompt is empty", hint="a prompt needs at least one token")
        if len(sequence.tokens) >= self.n_ctx:
            raise ContextExceeded(hint=f"the prompt has {len(sequence.tokens)} tokens and the context {self.n_ctx}")
        self._waiting.setdefault(sequence.client, deque()).append(sequence)

    def cancel(self, id: int) -> bool:
        """Ends a sequence without an outcome; False when it has ended already. Never call it within a step."""
        for sequence in self._running:
            if sequence.id == id:
                self._retire(sequence)
                return True
        for sequence in self._preempted:
            if sequence.id == id:
                self._preempted.remove(sequence)
                return True
        for client, line in self._waiting.items():
            for sequence in line:
                if sequence.id == id:
                    line.remove(sequence)
                    if not line:
                        del self._waiting[client]
                    return True
        return False

    def schedule(self, rows: int | None = None) -> Step | None:
        """The next step with at most `rows` rows (at least one for each sequence that decodes); None when idle."""
        left = max(1, min(rows or self.max_rows, self.max_rows))
        parts: dict[Sequence, Part] = {}
        for sequence in [s for s in self._running if s.decoding]:
            self._plan(sequence, 1, parts)
        for sequence in [s for s in self._running if not s.decoding]:
            self._plan(sequence, left - _rows(parts), parts)
        admitted = []
        while _rows(parts) < left and len(self._running) < self.max_seqs:
            entered = self._admit()
            if entered is None:
                break
            if not entered.preempted:
                admitted.append(entered.id)
            self._plan(entered, left - _rows(parts), parts)
        if not parts:
            assert self.idle, "there is work and nothing was scheduled"
            return None
        return Step(parts=tuple(parts.values()), admitted=tuple(admitted))

    def commit(self, step: Step, chosen: Seq[Chosen]) -> list[Outcome]:
        """Takes the engine's answers, in the order of step.outputs, and retires the sequences that ended."""
        answers: Iterator[Chosen] = iter(chosen)
        outcomes = []
        for part in step.parts:
            sequence, output = part.sequence, part.output
            sequence.computed += part.count
            self._publish(sequence)
            if output:
                answer = next(answers)
                sequence.tokens.append(answer.token)
                outcomes.append(Outcome(sequence=sequence, chosen=answer, finish=self._finish(sequence, answer.token)))
            elif sequence.remaining == 0:
                outcomes.append(Outcome(sequence=sequence, chosen=None, finish="length"))
        for outcome in outcomes:
            if outcome.finish:
                self._retire(outcome.sequence)
        return outcomes

    def check(self) -> None:
        """The accounts of the pool and the invariants of every sequence; AssertionError is a fault of ours. The worker
        calls it whenever it runs out of work."""
        self.pool.check([sequence.table for sequence in self._running])
        for sequence in self._running:
            assert len(sequence.table) == blocks_for(sequence.computed), "table and computed differ"
            assert len(sequence.keys) == sequence.computed // BLOCK, "keys and computed differ"
        for sequence in self._preempted:
            assert not sequence.table and not sequence.keys and sequence.computed == 0

    # -- one sequence in a step

    def _plan(self, sequence: Sequence, rows: int, parts: dict[Sequence, Part]) -> None:
        """Gives the sequence up to `rows` rows and the blocks for them, or as many as blocks can be had for."""
        if rows < 1 or sequence not in self._running:  # preempted for an older one a moment ago
            return
        self._match(sequence)
        count = min(rows, sequence.remaining)
        if count < sequence.remaining:
            border = (sequence.computed + count) // BLOCK * BLOCK
            count = max(border - sequence.computed, 0) or count
        while len(sequence.table) * BLOCK < sequence.computed + count:
            block = self.pool.take()
            if block is not None:
                sequence.table.append(block)
            elif not self._preempt_younger(sequence, parts):
                count = len(sequence.table) * BLOCK - sequence.computed
        if count > 0:
            parts[sequence] = Part(sequence=sequence, start=sequence.computed, count=count)
        elif sequence.decoding:  # it is the youngest and holds what others may need
            self._preempt(sequence, parts)

    def _match(self, sequence: Sequence) -> None:
        """Takes from the cache every block that comes next. Also between chunks: another may have computed it since."""
        while sequence.computed % BLOCK == 0 and sequence.computed // BLOCK < sequence.matchable:
            found = self.pool.match(sequence.parent, sequence.block_tokens(len(sequence.table)))
            if found is None:
                return
            block, key = found
            sequence.table.append(block)
            sequence.keys.append(key)
            sequence.computed += BLOCK
            if not sequence.preempted:
                sequence.n_cached += BLOCK

    def _publish(self, sequence: Sequence) -> None:
        while len(sequence.keys) < sequence.computed // BLOCK:
            index = len(sequence.keys)
            tokens = sequence.block_tokens(index)
            sequence.table[index], key = self.pool.publish(sequence.table[index], sequence.parent, tokens)
            sequence.keys.append(key)

    def _finish(self, sequence: Sequence, token: int) -> Literal["stop", "length"] | None:
        if token in sequence.ends:
            return "stop"
        if sequence.generated >= sequence.max_tokens or len(sequence.tokens) >= self.n_ctx:
            return "length"
        return None

    # -- coming and going

    def _admit(self) -> Sequence | None:
        """The next in line, with its cached prefix in its table; None when there is none or it does not fit now."""
        client = None
        if self._preempted:
            sequence = self._preempted[0]
        elif self._waiting:
            client, line = next(iter(self._waiting.items()))
            sequence = line[0]
        else:
            return None
        self._match(sequence)
        promised = sum(blocks_for(len(s.tokens)) - len(s.table) for s in self._running)
        needed = blocks_for(len(sequence.tokens) + 1) - len(sequence.table)
        if self._running and needed + promised > self.pool.available:
            self._empty(sequence)
            if not sequence.preempted:
                sequence.n_cached = 0
            return None
        if client is None:
            self._preempted.pop(0)
        else:
            self._leave_line(client)
        self._running.append(sequence)
        self._running.sort(key=_arrival)
        return sequence

    def _leave_line(self, client: str) -> None:
        line = self._waiting[client]
        line.popleft()
        if line:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]

    def _preempt_younger(self, sequence: Sequence, parts: dict[Sequence, Part]) -> bool:
        youngest = self._running[-1]
        if youngest is sequence:
            return False
        self._preempt(youngest, parts)
        return True

    def _preempt(self, sequence: Sequence, parts: dict[Sequence, Part]) -> None:
        parts.pop(sequence, None)
        self._retire(sequence)
        sequence.preempted = True
        self._preempted.append(sequence)
        self._preempted.sort(key=_arrival)
        self.preemptions += 1

    def _retire(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._empty(sequence)

    def _empty(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.table.clear()
        sequence.keys.clear()
        sequence.computed = 0


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _rows(parts: dict[Sequence, Part]) -> int:
    return sum(part.count for part in parts.values())
