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
        raise RequestRefused(f"--context is {context}, expected at least {LEAST_CONTEXT}")
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
    perplexity = math.exp(mean)
    return Score(
        perplexity=perplexity,
        error=perplexity * math.sqrt(spread / max(1, count - 1)),
        bits_per_byte=total / math.log(2) / max(1, text),
        tokens=count,
        bytes=text,
        windows=number,
    )


class EngineScorer:
    """Through the native engine, as a server runs it: packed weights, rounded activations, a rounded cache. The token
    that really follows is the only one its sampler may choose, and the engine says how likely it was."""

    def __init__(self, subject: Subject, *, context: int, threads: int, kv_type: str = "f16") -> None:
        self._vocab = subject.spec.vocab
        self._outputs = max(1, min(context, OUTPUT_BYTES // (4 * self._vocab)))
        self.engine = subject.engine(
            threads=threads, tokens=context, kv_type=kv_type,
            max_rows=min(ROWS, context), max_seqs=1, max_outputs=self._outputs,
        )  # fmt: skip

    def __call__(self, window: Window) -> Doubles:
        unscored = len(window.tokens) - 1 - window.scored  # these rows' answers are known to nobody
        found = []
        for first, last in _steps(0, unscored, ROWS):
            self._step(window.tokens[first:last], first, [])
        for first, last in _steps(unscored, len(window.tokens) - 1, min(ROWS, self._outputs)):
            following = window.tokens[first + 1 : last + 1]
            found.append(self._step(window.tokens[first:last], first, following))
        return np.concatenate(found)

    def _step(self, tokens: Sequence[int], position: int, following: Sequence[int]) -> Doubles:
        """Log-probabilities of `following`, one for each token, or none at all."""
        table = np.arange(-(-(position + len(tokens)) // BLOCK)).reshape(1, -1)
        batch = Batch(
            tokens=tokens,
            row_start=[0, len(tokens)],
            start_pos=[position],
            blocks=table,
            out_rows=list(range(len(following))),
            sampling=[Sampling(mask=self._only(token)) for token in following],
        )
        result = self.engine.step(batch)
        if result.tokens.tolist() != list(following):
            raise ModelRefused("the model produced values that are not numbers")
        return result.logprobs.astype(np.float64)

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
        run = Reference(self._plan, self._weights, dtype=np.float32)
        following = np.asarray(window.tokens[-window.scored :])
        last = len(window.tokens) - 1
        logits: npt.NDArray[Any] = run.step(window.tokens[:-1], range(last - window.scored, last))
        shifted = logits - logits.max(axis=-1, keepdims=True)
        sums = np.exp(shifted).sum(axis=-1, dtype=np.float64)
        found: Doubles = shifted[np.arange(len(following)), following] - np.log(sums)
        if not np.isfinite(found).all():
            raise ModelRefused("the reference produced values that are not numbers")
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
