"""What one request produces, in order: any number of deltas, then exactly one Finish.

All APIs turn these events into bytes and see nothing else of the engine. `LoadedModel.generate` gives TextDelta and
Finish alone; where the model thinks or was offered tools, `runtime.parting` cuts the text into the other kinds.
Invariants:

* The concatenated `text` of what `generate` gives is the whole answer; a stop string and what follows it never appear.
* Every generated token is counted in `Usage.generated_tokens` once. The token that ends the answer (end of generation)
  is counted but has no text; a constrained answer that is whole needs none. Tokens computed after a stop string was
  completed are not counted.
* A token's `TokenInfo` travels with the delta in which its text appears. A delta may have text and no tokens (text that
  was held back because it could have begun a stop string) or tokens and no text (half of a character).
* Finish is last and comes once, whatever happens: a stop, a limit, a cancel, a dead worker.
"""

from __future__ import annotations

from typing import Literal

from native.record import record
from runtime.errors import RuntimeFailure
from runtime.text.message import ToolCall

Reason = Literal["stop", "length", "cancelled", "error"]


@record(frozen=True, slots=True, kw_only=True)
class TopToken:
    """An alternative the sampler saw: natural log of its probability before any sampling option."""

    id: int
    logprob: float


@record(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """One generated token. `top` is sorted by falling probability and empty unless the request asked for it."""

    id: int
    logprob: float
    top: tuple[TopToken, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """The next piece of the answer. `tokens` is empty unless the request asked for log probabilities."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class ThinkingDelta:
    """The next piece of what the model thinks before it answers; `tokens` as in TextDelta."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """A tool call, complete: nothing of a call is shown before its arguments are whole. `index` counts from 0."""

    call: ToolCall
    tokens: tuple[TokenInfo, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """How likely each token of the prompt was after those before it: one TokenInfo for each but the first. Comes once,
    before every delta, and only where the request asked for it."""

    tokens: tuple[TokenInfo, ...]


@record(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts are tokens, times are nanoseconds.

    `load_ns` repeats what the request said it waited for the model; `queue_ns` is the wait for a place in the batch,
    `prompt_ns` from then until the first token was computed, `generate_ns` from there until the last one was: by the
    worker's clock, whenever we came to read it. `total_ns` is wall time from the call of `generate` (plus `load_ns`) to
    Finish, never less than the others' sum.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    load_ns: int = 0
    queue_ns: int = 0
    prompt_ns: int = 0
    generate_ns: int = 0
    total_ns: int = 0


@record(frozen=True, slots=True, kw_only=True)
class Finish:
    """The end. `error` says why when reason is "error"; `stop` is the stop string that ended the answer, if any.

    `seed` is the one that was used, so that an answer with a random seed can be replayed.
    """

    reason: Reason
    usage: Usage
    seed: int
    error: RuntimeFailure | None = None
    stop: str | None = None


Event = PromptScored | TextDelta | ThinkingDelta | CallDelta | Finish
