"""An engine that remembers instead of computing, and that checks every step it is given against the batch contract.

Its "keys and values" are the tokens themselves, written to (block, offset). The next token is a hash of all the tokens
that the block table shows: so an answer is right only if the table shows exactly the sequence, and two schedules of the
same sequence must give the same tokens. `answer` is the same function without blocks: the oracle.
"""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from collections.abc import Sequence
from itertools import pairwise

from runtime.engine.batch import Rows
from runtime.engine.blocks import BLOCK
from runtime.engine.sampling import MAX_BIAS_VALUE
from runtime.engine.scheduler import Chosen, Vector

VOCAB = 1000


class ContractBroken(AssertionError):
    pass


def next_token(tokens: Sequence[int], seed: int, vocab: int = VOCAB) -> int:
    name = hashlib.blake2b(array("q", [seed, *tokens]).tobytes(), digest_size=8).digest()
    return int.from_bytes(name, "little") % vocab


def answer(prompt: Sequence[int], seed: int, count: int, ends: frozenset[int] = frozenset()) -> list[int]:
    """What a sequence alone must generate: `count` tokens, or up to and with the first of `ends`."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < count:
        tokens.append(next_token(tokens, seed))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :]


def score(tokens: Sequence[int]) -> float:
    """The log probability of the last token after all others."""
    return -next_token(tokens, 0) / VOCAB


WIDTH = 5


def vector_of(tokens: Sequence[int]) -> bytes:
    """What a text alone must give: WIDTH float32."""
    name = hashlib.blake2b(array("q", tokens).tobytes(), digest_size=2 * WIDTH).digest()
    return struct.pack(f"<{WIDTH}f", *(value / 100 for value in struct.unpack(f"<{WIDTH}h", name)))


class FakeEngine:
    """A Runner. `nan_at`: a token whose log probability comes out as not-a-number."""

    def __init__(
        self, *, n_blocks: int, max_rows: int, max_seqs: int, max_outputs: int = 0, vocab: int = VOCAB, nan_at: int = -1
    ) -> None:
        self.max_outputs = max_outputs or max_seqs
        self.n_blocks, self.max_rows, self.max_seqs, self.vocab, self.nan_at = (
            n_blocks,
            max_rows,
            max_seqs,
            vocab,
            nan_at,
        )
        self.memory: list[list[int | None]] = [[None] * BLOCK for _ in range(n_blocks)]
        self.steps = 0
        self.rows = 0

    def run(self, rows: Rows) -> list[Chosen]:
        self._check_shape(rows)
        self._check_blocks(rows)
        for index, table in enumerate(rows.tables):
            start = rows.start_pos[index]
            if start % BLOCK == 0 and start // BLOCK < len(table):
                self.memory[table[start // BLOCK]] = [None] * BLOCK  # a new block holds nothing of use
            for offset, token in enumerate(self._tokens(rows, index)):
                position = start + offset
                if position % BLOCK == 0:
                    self.memory[table[position // BLOCK]] = [None] * BLOCK
                self.memory[table[position // BLOCK]][position % BLOCK] = token
        self.steps += 1
        self.rows += len(rows.tokens)
        return [self._choose(rows, number) for number in range(len(rows.out_rows))]

    def _choose(self, rows: Rows, number: int) -> Chosen:
        row = rows.out_rows[number]
        index = max(s for s in range(len(rows.tables)) if rows.row_start[s] <= row)
        position = rows.start_pos[index] + row - rows.row_start[index]
        seen = [self.memory[rows.tables[index][p // BLOCK]][p % BLOCK] for p in range(position + 1)]
        tokens = [token for token in seen if token is not None]
        if len(tokens) != len(seen):
            raise ContractBroken(f"sequence {index} sees a position nobody wrote")
        sampling = rows.sampling[number]
        assert sampling.seed is not None
        for token, bias in sampling.logit_bias.items():
            if bias == MAX_BIAS_VALUE:  # the token of a prompt that is scored
                return Chosen(token=token, logprob=score([*tokens, token]))
        token = next_token(tokens, sampling.seed, self.vocab)
        top = tuple(((token + i) % self.vocab, -0.5 - i) for i in range(sampling.top_logprobs))
        return Chosen(token=token, logprob=math.nan if token == self.nan_at else -0.5, top=top)

    def _check_shape(self, rows: Rows) -> None:
        n = len(rows.tables)
        ok = (
            0 < len(rows.tokens) <= self.max_rows
            and 0 < n <= self.max_seqs
            and len(rows.start_pos) == n
            and len(rows.row_start) == n + 1
            and rows.row_start[0] == 0
            and rows.row_start[-1] == len(rows.tokens)
            and all(a < b for a, b in pairwise(rows.row_start))
            and all(a < b for a, b in pairwise(rows.out_rows))
            and all(0 <= row < len(rows.tokens) for row in rows.out_rows)
            and len(rows.out_rows) <= self.max_outputs
            and len(rows.sampling) == len(rows.out_rows) == len(rows.histories)
            and all(0 <= token < self.vocab for token in rows.tokens)
        )
        if not ok:
            raise ContractBroken(f"the shape of a step: {rows}")

    def _check_blocks(self, rows: Rows) -> None:
        written: dict[int, int] = {}
        for index, table in enumerate(rows.tables):
            start, end = rows.start_pos[index], rows.start_pos[index] + len(self._tokens(rows, index))
            if len(table) * BLOCK < end or len(set(table)) != len(table):
                raise ContractBroken(f"sequence {index}: its table does not cover it, or names a block twice")
            if not all(0 <= block < self.n_blocks for block in table):
                raise ContractBroken(f"sequence {index}: a block outside the pool")
            for place in range(start // BLOCK, -(-end // BLOCK)):
                if written.setdefault(table[place], index) != index:
                    raise ContractBroken(f"block {table[place]} is written by two sequences")
        for index, table in enumerate(rows.tables):
            if any(written.get(block, index) != index for block in table):
                raise ContractBroken(f"sequence {index} reads a block that another writes in this step")

    def _tokens(self, rows: Rows, index: int) -> list[int]:
        return rows.tokens[rows.row_start[index] : rows.row_start[index + 1]]


class FakeEmbedder(FakeEngine):
    """Takes whole texts only; `nan_at`: a text that begins with this token has a vector with a value that is none."""

    def run(self, rows: Rows) -> list[Vector]:  # type: ignore[override]
        self._check_shape(rows)
        self._check_blocks(rows)
        if any(rows.start_pos) or rows.out_rows != [end - 1 for end in rows.row_start[1:]]:
            raise ContractBroken(f"texts that are not whole: {rows}")
        self.steps += 1
        self.rows += len(rows.tokens)
        return [self._vector(self._tokens(rows, index)) for index in range(len(rows.tables))]

    def _vector(self, tokens: list[int]) -> Vector:
        values = vector_of(tokens)
        return Vector(values=struct.pack("<f", math.nan) + values[4:] if tokens[0] == self.nan_at else values)
