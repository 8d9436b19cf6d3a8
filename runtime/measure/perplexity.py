"""Perplexity of a text: how surprised a model is by what really follows, token by token.

The method, which is llama.cpp's (`llama-perplexity`), so that figures can be compared:
* the whole text is encoded once, with the beginning-of-sequence token if the model wants one; control texts inside it
  are plain text;
* windows of `context` tokens lie next to one another, what is left at the end is not used; a model that wants a
  beginning gets it in the place of each window's first token;
* each window starts with an empty cache. Scored are the tokens of its second half but the first of them: each has at
  least context / 2 tokens before it;
* with a stride, windows begin every `stride` tokens and the last `stride` tokens of each are scored: dearer and lower.

perplexity = exp(mean negative log-likelihood); its standard error is that of the mean, times the perplexity (the tokens
are taken as independent). Bits per byte compares models with different vocabularies.

What the engine loses against the reference is told twice. The ratio of their perplexities is of the tokens that do
follow, and needs tens of thousands of them to tell half a percent from chance. The Kullback-Leibler divergence is the
mean loss if tokens followed as the reference expects them; all of the vocabulary counts at each, so it is sharp after a
few hundred. Where roundings favour no token, both say the same in the long run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from manifests.display import size_text
from native import engine as native
from native.engine import BLOCK, Batch, Sampling
from native.reference import Reference
from runtime.engine import resources
from runtime.errors import ModelRefused, OutOfMemory, RequestRefused
from runtime.measure.subject import Subject

CONTEXT = 512  # tokens, as llama-perplexity's default
LEAST_CONTEXT = 8
ROWS = 512  # most tokens of one step
OUTPUT_BYTES = 64 << 20  # of logits in one step: a large vocabulary takes smaller steps
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """tokens [context]; the last `scored` of them are asked for, given all before them."""

    tokens: Sequence[int]
    scored: int


class Scorer(Protocol):
    """Log-probabilities [scored], natural, of a window's last tokens. Raises ModelRefused where they are no numbers."""

    def __call__(self, window: Window) -> Doubles: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """`tokens` and `bytes` are what was scored, not what was read. `error`: one standard error of the perplexity."""

    perplexity: float
    error: float
    bits_per_byte: float
    tokens: int
    bytes: int
    windows: int


def windows(tokens: Sequence[int], *, context: int, stride: int | None, bos: int | None) -> list[Window]:
    """`bos`: replaces each window's first token, if given. Raises RequestRefused where not one window is full."""
    if context < LEAST_CONTEXT:
        raise RequestRefused(f"a context of {context} tokens is too short, expected at least {LEAST_CONTEXT}")
    if stride is not None and not 1 <= stride < context:
        raise RequestRefused(f"--stride is {stride}, expected 1 to {context - 1}: less than the context")
    if len(tokens) < context:
        hint = "give a longer text, or a smaller --context"
        raise RequestRefused(f"the text has {len(tokens)} tokens, one window needs {context}", hint=hint)
    scored = stride or context - context // 2 - 1
    starts = range(0, len(tokens) - context + 1, stride or context)
    first = [] if bos is None else [bos]
    return [Window(tokens=[*first, *tokens[start + len(first) : start + context]], scored=scored) for start in starts]


def score(many: Sequence[Window], scorer: Scorer, size: Callable[[int], int]) -> Iterator[Score]:
    """The score so far, after every window. `size`: bytes of a token."""
    total = squares = 0.0
    count = text = 0
    for number, window in enumerate(many, 1):
        losses = -scorer(window)
        total, squares = total + float(losses.sum()), squares + float((losses**2).sum())
        count += window.scored
        text += sum(size(token) for token in window.tokens[-window.scored :])
        yield _score(total, squares, count, text, number)


def _score(total: float, squares: float, count: int, text: int, number: int) -> Score:
    mean = total / count
    spread = max(0.0, squares / count - mean * mean)
    perplexity = exp(mean)
    return Score(
        perplexity=perplexity,
        error=perplexity * math.sqrt(spread / max(1, count - 1)),
        bits_per_byte=total / math.log(2) / max(1, text),
        tokens=count,
        bytes=text,
        windows=number,
    )


def exp(nats: float) -> float:
    """Raises ModelRefused where no float64 is so large."""
    try:
        return math.exp(nats)
    except OverflowError:
        raise ModelRefused(f"{nats:.4g} nats a token: the model holds the text for all but impossible") from None


class EngineScorer:
    """Through the native engine, as a server runs it: packed weights, rounded activations, a rounded cache. The token
    that really follows is the only one its sampler may choose, and the engine says how likely it was."""

    def __init__(self, subject: Subject, *, context: int, threads: int, kv_type: str, isa: str = "best") -> None:
        self._vocab = subject.spec.vocab
        self._outputs = max(1, min(context, OUTPUT_BYTES // (4 * self._vocab)))
        self.engine = subject.engine(
            threads=threads, tokens=context, kv_type=kv_type,
            max_rows=min(ROWS, context), max_seqs=1, max_outputs=self._outputs, isa=isa,
        )  # fmt: skip

    def __call__(self, window: Window) -> Doubles:
        found = []
        for first, last in self._scored(window):
            following = window.tokens[first + 1 : last + 1]
            result = self._step(window, first, last, sampling=[Sampling(mask=self._only(token)) for token in following])
            if result.tokens.tolist() != list(following):
                raise ModelRefused("the model produced values that are not numbers")
            found.append(np.array(result.logprobs, np.float64))
        return np.concatenate(found)

    def divergences(self, window: Window, logits: Floats) -> Doubles:
        """What this engine loses, on average, where `logits` [scored, vocab] say what follows: nats, [scored]."""
        found, start = [], len(window.tokens) - 1 - window.scored
        for first, last in self._scored(window):
            ours = self._step(window, first, last, want_logits=True).logits
            assert ours is not None
            found.append(divergences(logits[first - start : last - start], ours))
        return np.concatenate(found)

    def _scored(self, window: Window) -> Iterator[tuple[int, int]]:
        """Ranges of rows whose outputs are wanted, after the rows before them, which answer nothing, were computed."""
        unscored = len(window.tokens) - 1 - window.scored
        for first, last in _steps(0, unscored, ROWS):
            self._step(window, first, last, out_rows=[], sampling=[])
        yield from _steps(unscored, len(window.tokens) - 1, min(ROWS, self._outputs))

    def _step(self, window: Window, first: int, last: int, **wanted: Any) -> native.StepResult:
        """Rows first to last - 1; with an output for each, if nothing else is wanted."""
        count = last - first
        return self.engine.step(
            Batch(
                tokens=window.tokens[first:last],
                row_start=[0, count],
                start_pos=[first],
                blocks=np.arange(-(-last // BLOCK)).reshape(1, -1),
                **{"out_rows": list(range(count)), **wanted},
            )
        )

    def _only(self, token: int) -> npt.NDArray[np.uint32]:
        mask = np.zeros((self._vocab + 31) // 32, np.uint32)
        mask[token // 32] = 1 << (token % 32)
        return mask

    def __enter__(self) -> EngineScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()


class ReferenceScorer:
    """Through native/reference.py in float32, on exactly dequantized weights: nothing is packed, nothing rounded."""

    def __init__(self, subject: Subject) -> None:
        self._plan = subject.plan
        self._weights = {name: native.dequantize(weight) for name, weight in subject.weights.items()}

    def __call__(self, window: Window) -> Doubles:
        return chances(self.logits(window), window.tokens[-window.scored :])

    def logits(self, window: Window) -> Floats:
        """[scored, vocab]. Raises ModelRefused where they are no numbers."""
        run = Reference(self._plan, self._weights, dtype=np.float32)
        last = len(window.tokens) - 1
        found = run.step(window.tokens[:-1], range(last - window.scored, last)).astype(np.float32, copy=False)
        if not np.isfinite(found).all():
            raise ModelRefused("the reference produced values that are not numbers")
        return found


def chances(logits: Floats, tokens: Sequence[int]) -> Doubles:
    """Log-probabilities of `tokens` [rows], natural, of logits [rows, vocab]."""
    found: Doubles = _log_softmax(logits)[np.arange(len(tokens)), np.asarray(tokens)].astype(np.float64)
    return found


def divergences(expected: Floats, found: Floats) -> Doubles:
    """Kullback-Leibler divergence of `found` from `expected`, both logits [rows, vocab]: nats, [rows]."""
    p, q = _log_softmax(expected), _log_softmax(found)
    total: Doubles = (np.exp(p) * (p - q)).sum(axis=-1, dtype=np.float64)
    return total


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    found: Floats = shifted - np.log(sums).astype(np.float32)
    return found


def require_memory(subject: Subject) -> None:
    """Raises OutOfMemory where the reference's weights would not fit."""
    needed = 4 * sum(weight.rows * weight.cols for weight in subject.weights.values())
    available = resources.memory_available()
    if available is not None and needed > available:
        text = f"the reference needs {size_text(needed)} for weights in float32, {size_text(available)} are free"
        raise OutOfMemory(text, hint="score without --reference")


def _steps(first: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    for start in range(first, end, most):
        yield start, min(end, start + most)
