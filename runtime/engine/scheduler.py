"""Which tokens are computed in the next step: continuous batching with chunked prefill.

Policy, in this order, under a budget of rows:
1. every sequence that decodes gets one row, oldest first;
2. sequences in prefill get what is left, in chunks that end on a block border: first those of the client that was last
   served, or came, longest ago, each client's oldest first;
3. waiting sequences (`line.py` says who is next) are admitted while places, rows and blocks last, and even before 2
   where their client runs nothing, or two less than another. A head that does not fit waits and nobody overtakes it;
   but a client that runs at least two sequences more than the head's gives up its youngest.
When blocks run out the youngest sequence of the client with most of them is preempted. A preempted sequence goes back
to its client's line: its blocks go (published ones stay matchable), its tokens stay.

Of a model that computes whole texts (`whole`: an encoder, or one that takes a mean) a sequence has all its rows in one
step, or none; it may be more rows than the budget when it comes first. Its blocks are of that step alone: none is
looked for in the cache, none is left there.

Refuses a prompt that can never fit, by name. Invariants:
* The oldest running sequence advances in one of as many steps as there are clients, because it may preempt all others,
  no other preempts it, and the pool holds one full context. So every sequence ends.
* Giving up a place makes the clients' numbers more equal, so it cannot go round in circles.
* Every added sequence ends in exactly one Outcome with `finish`, unless it is cancelled, which ends it at once.
* No clock, no threads, no text. The choice of rows changes when a token is computed, never which token (law of batch
  invariance, proved on the engine).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Literal, NamedTuple

from native.record import record
from runtime.engine.blocks import BLOCK, BlockPool, blocks_for
from runtime.engine.line import Line
from runtime.engine.sequence import Sequence
from runtime.errors import ContextExceeded, RequestRefused


@record(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one sequence in a step: tokens[start : start + count]. `output`: the last row chooses a token. True until
    `commit`, and again with the step that `again` gives."""

    sequence: Sequence
    count: int

    @property
    def start(self) -> int:
        return self.sequence.computed

    @property
    def scores(self) -> range:
        """Positions whose rows tell how likely the prompt's next token is."""
        return self.sequence.scores(self.start, self.count)

    @property
    def output(self) -> bool:
        sequence = self.sequence
        return (sequence.embed or sequence.max_tokens > 0) and self.start + self.count == len(sequence.tokens)


@record(frozen=True, slots=True, kw_only=True)
class Step:
    """What the engine shall compute. `admitted`: sequences that left the waiting line for the first time. `rows`: how
    many in all; `prompt_rows`: of sequences that do not decode."""

    parts: tuple[Part, ...]
    admitted: tuple[int, ...]
    rows: int
    prompt_rows: int

    @property
    def outputs(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.output)


class Chosen(NamedTuple):
    """The engine's answer for one output: the token, its log probability, the alternatives asked for. `stuck`: nothing
    could be chosen, because it cannot be told what the constraint allows. A tuple because there are so many."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    stuck: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Vector:
    """The engine's answer for one output of a model that gives vectors: float32, little-endian."""

    values: bytes


class Outcome(NamedTuple):
    """What a step did to a sequence. `scores`: of the next tokens of a prompt that is scored, in an outcome of their
    own; else `chosen` is None only for a prompt computed with max_tokens 0."""

    sequence: Sequence
    chosen: Chosen | Vector | None
    finish: Literal["stop", "length"] | None
    scores: tuple[Chosen, ...] = ()


class Scheduler:
    def __init__(
        self, pool: BlockPool, *, n_ctx: int, max_seqs: int, max_rows: int, max_outputs: int = 0, whole: bool = False
    ) -> None:
        """`max_outputs`: as in Opened."""
        assert blocks_for(n_ctx) <= pool.n_blocks, "one full context must fit the pool"
        assert max_rows >= max_seqs >= 1, "every sequence needs a row to decode"
        assert not max_outputs or max_outputs >= max_seqs, "every sequence needs an output"
        assert not whole or max_rows >= n_ctx, "every whole text needs its rows in one step"
        self.pool = pool
        self.whole = whole
        self.n_ctx = n_ctx
        self.max_seqs = max_seqs
        self.max_rows = max_rows
        self.max_outputs = max_outputs or max_seqs
        self.preemptions = 0
        self._running: list[Sequence] = []  # by arrival
        self._waiting = Line()
        self._steps = 0
        self._steady: Step | None = None  # the last step, where all that run decoded in it and still do
        self._fed: dict[str, int] = {}  # client -> the step in which a prompt of its last had rows, or it came

    @property
    def idle(self) -> bool:
        return not (self._running or self._waiting)

    @property
    def counts(self) -> tuple[int, int]:
        """Sequences running, and waiting (the preempted included)."""
        return len(self._running), len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Raises ContextExceeded when no token could follow the prompt (none must follow one whose vector is wanted),
        RequestRefused when there is no prompt."""
        if not sequence.tokens:
            raise RequestRefused("the prompt is empty", hint="a prompt needs at least one token")
        if len(sequence.tokens) + (not sequence.embed) > self.n_ctx:
            raise ContextExceeded(hint=f"the prompt has {len(sequence.tokens)} tokens and the context {self.n_ctx}")
        self._waiting.add(sequence)
        self._fed.setdefault(sequence.client, self._steps)

    def cancel(self, id: int) -> bool:
        """Ends a sequence without an outcome; False when it has ended already. Never call it within a step."""
        for sequence in self._running:
            if sequence.id == id:
                self._retire(sequence)
                return True
        for sequence in self._waiting:
            if sequence.id == id:
                self._waiting.remove(sequence)
                return True
        return False

    def schedule(self, rows: int | None = None) -> Step | None:
        """The next step with at most `rows` rows (at least one for each sequence that decodes); None when idle."""
        left = max(1, min(rows or self.max_rows, self.max_rows))
        parts: dict[Sequence, Part] = {}
        admitted: list[int] = []
        for sequence in [s for s in self._running if s.decoding]:
            self._plan(sequence, 1, parts)
        entered: list[Sequence] = []
        while self._behind() and (one := self._enter(parts, admitted)):
            entered.append(one)  # it may need one row only: preempted, and its blocks found again
        prompts = [sequence for sequence in self._running if not sequence.decoding or sequence in entered]
        for sequence in sorted(prompts, key=lambda s: (self._fed[s.client], s.arrival)):
            self._plan(sequence, left - _rows(parts), parts)
        while _rows(parts) < left and (one := self._enter(parts, admitted)):
            self._plan(one, left - _rows(parts), parts)
        if not parts:
            assert self.idle, "there is work and nothing was scheduled"
            return None
        self._remember(parts)
        step = _step(parts, admitted)
        self._steady = None if step.prompt_rows or len(parts) < len(self._running) else step
        return step

    def again(self) -> Step | None:
        """What `schedule` would give, where that is the last step once more, each sequence a token further: all decode,
        and nobody has come or gone. Else None."""
        step = None if self._waiting else self._steady
        if step is not None:
            for part in step.parts:
                sequence = part.sequence
                if sequence.computed == len(sequence.table) * BLOCK:
                    block = self.pool.take()
                    if block is None:
                        return None
                    sequence.table.append(block)
            self._steps += 1
        return step

    def commit(self, step: Step, chosen: Seq[Chosen | Vector]) -> list[Outcome]:
        """Takes the engine's answers, in the order of step.outputs, and retires the sequences that ended."""
        answers: Iterator[Chosen | Vector] = iter(chosen)
        outcomes = []
        for part in step.parts:
            sequence, output = part.sequence, part.output
            if sequence.score and part.scores:
                scores = tuple(_score(next(answers), sequence.tokens[at + 1]) for at in part.scores)
                sequence.scored += len(scores)
                outcomes.append(Outcome(sequence, None, None, scores))
            sequence.computed += part.count
            if len(sequence.keys) < sequence.computed // BLOCK:
                self._publish(sequence)
            if output:
                answer = next(answers)
                if isinstance(answer, Vector):
                    outcomes.append(Outcome(sequence, answer, "stop"))
                    continue
                sequence.tokens.append(answer.token)
                if sequence.matcher is not None and answer.token >= 0 and answer.token not in sequence.ends:
                    sequence.matcher.advance(answer.token)
                outcomes.append(Outcome(sequence, answer, self._finish(sequence, answer.token)))
            elif sequence.remaining == 0:
                outcomes.append(Outcome(sequence, None, "length"))
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
        for sequence in self._waiting:
            assert not sequence.table and not sequence.keys and sequence.computed == 0
        assert {s.client for s in (*self._running, *self._waiting)} <= self._fed.keys()

    # -- one sequence in a step

    def _plan(self, sequence: Sequence, rows: int, parts: dict[Sequence, Part]) -> None:
        """Gives the sequence up to `rows` rows and the blocks for them, or as many as blocks can be had for."""
        if rows < 1 or sequence not in self._running:  # preempted for an older one a moment ago
            return
        self._match(sequence)
        if self.whole:
            if parts and (sequence.remaining > rows or blocks_for(sequence.remaining) > self.pool.available):
                return  # the next step begins with it
            rows = sequence.remaining
        elif sequence.score:
            rows = min(rows, self._scorable(parts))
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
            parts[sequence] = Part(sequence=sequence, count=count)
        elif sequence.decoding:  # it may take from nobody, and holds what others may need
            self._preempt(sequence, parts)

    def _scorable(self, parts: dict[Sequence, Part]) -> int:
        """Rows of a scored prompt that may have outputs: one, and those that no sequence needs, whoever is admitted."""
        sequences = min(len(self._running) + len(self._waiting), self.max_seqs)
        given = sum(max(0, len(part.scores) + part.output - 1) for part in parts.values())
        return 1 + max(0, self.max_outputs - sequences - given)

    def _remember(self, parts: dict[Sequence, Part]) -> None:
        """Whose turn it was: the first prompt's client, and who had a block's rows or all it needed; a few rows that
        others left are no turn. Clients that have gone are forgotten."""
        self._steps += 1
        prompts = [part for part in parts.values() if not part.sequence.decoding]
        for number, part in enumerate(prompts):
            if number == 0 or part.count >= min(BLOCK, part.sequence.remaining):
                self._fed[part.sequence.client] = self._steps
        self._fed = {s.client: self._fed[s.client] for s in (*self._running, *self._waiting)}

    def _match(self, sequence: Sequence) -> None:
        """Takes from the cache every block that comes next. Also between chunks: another may have computed it since."""
        while not self.whole and sequence.computed % BLOCK == 0 and sequence.computed // BLOCK < sequence.matchable:
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
        while not self.whole and len(sequence.keys) < sequence.computed // BLOCK:
            index = len(sequence.keys)
            tokens = sequence.block_tokens(index)
            sequence.table[index], key = self.pool.publish(sequence.table[index], sequence.parent, tokens)
            sequence.keys.append(key)

    def _finish(self, sequence: Sequence, token: int) -> Literal["stop", "length"] | None:
        if token in sequence.ends or (sequence.matcher is not None and sequence.matcher.complete):
            return "stop"
        if sequence.generated >= sequence.max_tokens or len(sequence.tokens) >= self.n_ctx:
            return "length"
        return None

    # -- coming and going

    def _behind(self) -> bool:
        """Whether the next in line shall not wait until prompts under way leave rows: its client runs nothing, or at
        least two sequences less than another."""
        if not self._waiting:
            return False
        running = self._by_client()
        has = running[self._waiting.head(running).client]
        return has == 0 or has + 2 <= max(running.values())

    def _enter(self, parts: dict[Sequence, Part], admitted: list[int]) -> Sequence | None:
        """Admits the next in line, in a place that another client gives up where it must be; None: it cannot be."""
        while (entered := self._admit()) is None:
            if not self._give_up_a_place(parts):
                return None
        if not entered.preempted:
            admitted.append(entered.id)
        return entered

    def _admit(self) -> Sequence | None:
        """The next in line, with its cached prefix in its table; None when there is none or it does not fit now."""
        if not self._waiting or len(self._running) >= self.max_seqs:
            return None
        sequence = self._waiting.head(self._by_client())
        self._match(sequence)
        promised = sum(blocks_for(len(s.tokens)) - len(s.table) for s in self._running)
        needed = blocks_for(len(sequence.tokens) + 1) - len(sequence.table)
        if self._running and needed + promised > self.pool.available:
            self._empty(sequence)
            if not sequence.preempted:
                sequence.n_cached = 0
            return None
        self._waiting.leave(sequence)
        self._running.append(sequence)
        self._running.sort(key=_arrival)
        return sequence

    def _give_up_a_place(self, parts: dict[Sequence, Part]) -> bool:
        """For the head of the line, which finds no place or no blocks: where another client has at least two more."""
        if not self._waiting:
            return False
        running = self._by_client()
        victim = max(self._running, key=lambda s: (running[s.client], s.arrival))
        if running[victim.client] < running[self._waiting.head(running).client] + 2:
            return False
        self._preempt(victim, parts)
        return True

    def _preempt_younger(self, sequence: Sequence, parts: dict[Sequence, Part]) -> bool:
        """For blocks. None but the oldest takes them from a client that has at least two sequences less."""
        younger = self._running[self._running.index(sequence) + 1 :]
        if not younger:
            return False
        running = self._by_client()
        victim = max(younger, key=lambda s: (running[s.client], s.arrival))
        if sequence is not self._running[0] and running[sequence.client] >= running[victim.client] + 2:
            return False
        self._preempt(victim, parts)
        return True

    def _by_client(self) -> Counter[str]:
        return Counter(sequence.client for sequence in self._running)

    def _preempt(self, sequence: Sequence, parts: dict[Sequence, Part]) -> None:
        parts.pop(sequence, None)
        self._retire(sequence)
        sequence.preempted = True
        self._waiting.add(sequence)
        self.preemptions += 1

    def _retire(self, sequence: Sequence) -> None:
        self._steady = None
        self._running.remove(sequence)
        self._empty(sequence)

    def _empty(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.table.clear()
        sequence.keys.clear()
        sequence.computed = 0


def _score(answer: Chosen | Vector, token: int) -> Chosen:
    """Of the token that does come next; where not even a bias made the engine choose it, there is no number."""
    assert isinstance(answer, Chosen), "a model that gives vectors scores nothing"
    return answer if answer.token == token else answer._replace(logprob=math.nan)


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _step(parts: dict[Sequence, Part], admitted: list[int]) -> Step:
    prompt = sum(part.count for part in parts.values() if not part.sequence.decoding)
    return Step(parts=tuple(parts.values()), admitted=tuple(admitted), rows=_rows(parts), prompt_rows=prompt)


def _rows(parts: dict[Sequence, Part]) -> int:
    return sum(part.count for part in parts.values())
