"""One request inside the worker: integers are its state.

    tokens   [ prompt ................ | generated ......... ]
             0                         n_prompt             len(tokens)
    computed [ stored ....................... )               keys and values exist for tokens[:computed]
    table    [ block 0 | block 1 | block 2 ...|               covers tokens[:computed], no block more
    keys     [ key 0   | key 1   )                            one for each full block of tokens[:computed]

Invariants, between steps: computed <= len(tokens); len(table) == ceil(computed / BLOCK);
len(keys) == computed // BLOCK; keys[i] names the content of table[i] and of everything before it.
A sequence decodes when len(tokens) - computed == 1 and has generated; otherwise it is in prefill. Preemption sets
computed to 0 and empties the table: the generated tokens stay and are computed again, to the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native.record import field, record
from runtime.engine.blocks import BLOCK, ROOT
from runtime.engine.sampling import MAX_BIAS_VALUE, Sampling

if TYPE_CHECKING:
    from runtime.engine.grammar import Matcher


@record(slots=True, kw_only=True, eq=False)
class Sequence:
    id: int
    client: str
    arrival: int  # order of arrival; smaller is older and is preempted later
    tokens: list[int]
    n_prompt: int
    max_tokens: int  # generated at most; 0: the prompt is computed (and cached), nothing is chosen
    sampling: Sampling  # with a definite seed
    ends: frozenset[int]  # tokens that end the answer; empty when the request ignores them
    score: bool = False  # how likely each token of the prompt is after those before it is wanted too
    scored: int = 0  # rows of which that is known; it stays when the sequence is preempted
    embed: bool = False  # its vector is wanted, and no token
    matcher: Matcher | None = None  # of a constrained answer: what it has said; preemption leaves it as it is
    computed: int = 0
    n_cached: int = 0  # prompt tokens taken from the cache before the first preemption
    preempted: bool = False
    table: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def remaining(self) -> int:
        """Tokens whose keys and values are still to be computed before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        return self.remaining == 1 and len(self.tokens) > self.n_prompt

    @property
    def parent(self) -> bytes:
        return self.keys[-1] if self.keys else ROOT

    @property
    def matchable(self) -> int:
        """Blocks the cache may supply: at least one token must be computed, or there are no logits; of a prompt that is
        scored, every one."""
        if self.score and self.scored < self.n_prompt - 1:
            return 0
        return (len(self.tokens) - 1) // BLOCK

    def block_tokens(self, index: int) -> tuple[int, ...]:
        return tuple(self.tokens[index * BLOCK : (index + 1) * BLOCK])

    def scores(self, start: int, count: int) -> range:
        """Of the positions start .. start + count those that tell how likely the prompt's next token is, and have not
        yet."""
        first = max(start, self.scored)
        return range(first, max(first, min(start + count, self.n_prompt - 1)) if self.score else first)

    def scoring(self, position: int) -> Sampling:
        """So that the token that does come next is chosen, and its log probability told (of the model as it is: a bias
        changes the choice alone)."""
        bias = {self.tokens[position + 1]: MAX_BIAS_VALUE}
        top = self.sampling.top_logprobs
        return Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0, logit_bias=bias, top_logprobs=top)

    def history(self) -> list[int]:
        """What the penalties look at: the newest repeat_last_n tokens, the prompt included."""
        last = self.sampling.repeat_last_n
        if last == 0 or not self.sampling.penalises:
            return []
        return self.tokens[-last:] if last > 0 else list(self.tokens)
