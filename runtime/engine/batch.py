"""From a Step (sequences) to rows (arrays): what any engine is given, whoever computes it.

`Runner` is the whole contract between the worker and an engine: token ids and block tables in, chosen tokens or
vectors out;
`Opened` is what whoever opens a model hands to the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from native.record import record
from runtime.engine.sampling import Sampling
from runtime.engine.scheduler import Chosen, Step, Vector

if TYPE_CHECKING:
    from runtime.engine.grammar import Matcher


@record(frozen=True, slots=True, kw_only=True)
class Rows:
    """One step in the terms of `sl_batch`, with ragged tables instead of padded ones.

    tokens      [n_rows]    row_start [n_seqs + 1]    start_pos [n_seqs]    tables [n_seqs][blocks of the sequence]
    out_rows    [n_outputs] ascending; sampling, histories, matchers: one for each of them. A matcher's mask may
                still be under way when the step begins: it is asked for after the forward pass
    """

    tokens: list[int]
    row_start: list[int]
    start_pos: list[int]
    tables: list[list[int]]
    out_rows: list[int]
    sampling: list[Sampling]
    histories: list[list[int]]
    matchers: list[Matcher | None]

    def advance(self, step: Step) -> None:
        """From the step that these rows are of to the same one again, each sequence a token further."""
        for place, part in enumerate(step.parts):
            sequence = part.sequence
            self.tokens[place] = sequence.tokens[-1]
            self.start_pos[place] = sequence.computed
            if sequence.sampling.penalises:
                self.histories[place] = sequence.history()


class Runner(Protocol):
    """Computes steps. One thread at a time. Raises only when it can compute no more: that ends the worker."""

    def run(self, rows: Rows) -> list[Chosen] | list[Vector]:
        """One answer for each out row, in order. Of a model that gives vectors the out row is its text's last. Where
        `rows` is what it was given last, it has been advanced since."""
        ...


@record(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model ready to run. `facts`: those fields of link.Ready that only the engine knows. `vector`: as there.
    `whole`: a text is computed in one step. `max_outputs`: rows of a step that may be answered, 0: one a sequence."""

    runner: Runner
    n_ctx: int
    n_blocks: int
    vocab: int
    max_seqs: int
    max_rows: int
    facts: dict[str, Any]
    vector: int = 0
    max_outputs: int = 0
    whole: bool = False


def rows_of(step: Step) -> Rows:
    rows = Rows(tokens=[], row_start=[0], start_pos=[], tables=[], out_rows=[], sampling=[], histories=[], matchers=[])
    for part in step.parts:
        sequence = part.sequence
        rows.tokens.extend(sequence.tokens[part.start : part.start + part.count])
        rows.row_start.append(len(rows.tokens))
        rows.start_pos.append(part.start)
        rows.tables.append(sequence.table)
        for position in part.scores:
            rows.out_rows.append(rows.row_start[-2] + position - part.start)
            rows.sampling.append(sequence.scoring(position))
            rows.histories.append([])
            rows.matchers.append(None)
        if part.output:
            rows.out_rows.append(len(rows.tokens) - 1)
            rows.sampling.append(sequence.sampling)
            rows.histories.append(sequence.history())
            rows.matchers.append(sequence.matcher)
    return rows
