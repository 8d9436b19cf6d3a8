"""`sealift eval`: the perplexity of a text under a model, and whether the fast engine pays for its speed with it.

The method stands in runtime/measure/perplexity.py. Refused: a text that is too large, or no UTF-8.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import RequestRefused
from runtime.measure.perplexity import (
    CONTEXT,
    Doubles,
    EngineScorer,
    ReferenceScorer,
    Score,
    Scorer,
    Window,
    chances,
    exp,
    require_memory,
    score,
    windows,
)
from runtime.measure.subject import Subject

MAX_TEXT = 16 << 20  # bytes: ten times WikiText-2, and its tokens still fit small hosts

Progress = Callable[[str, Score, int], None]  # who scores, the score so far, windows in all


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """`windows`: the most that are scored, None: all. `reference`: score with the numpy reference too. `isa`: the
    instruction set, "best": what a server takes here."""

    context: int = CONTEXT
    stride: int | None = None
    windows: int | None = None
    threads: int = 0
    kv_type: str = "f16"
    isa: str = "best"
    reference: bool = False


def read_text(path: Path) -> str:
    """Raises RequestRefused for what cannot be read, is larger than MAX_TEXT or is not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_TEXT:
        raise RequestRefused(f"{path} is larger than {MAX_TEXT >> 20} MiB", hint="a part of it tells as much")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefused(f"{path} is no UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}") from None


def evaluate(subject: Subject, text: str, asked: Asked, progress: Progress) -> dict[str, Any]:
    """What `sealift eval --json` prints. Raises RequestRefused, TokenizerError, OutOfMemory, ModelRefused."""
    from runtime.text.tokenizer import Tokenizer

    if asked.reference:
        require_memory(subject)
    tokenizer = Tokenizer.from_gguf(subject.file.metadata)
    bos = tokenizer.bos if tokenizer.add_bos else None
    context = min(asked.context, subject.spec.context)
    many = windows(tokenizer.encode(text, special=False), context=context, stride=asked.stride, bos=bos)
    many = many[: asked.windows]

    def run(who: str, scorer: Scorer) -> tuple[dict[str, Any], Doubles]:
        """The score, and the log-probabilities that it is made of."""
        kept: list[Doubles] = []

        def keeping(window: Window) -> Doubles:
            kept.append(scorer(window))
            return kept[-1]

        started = time.monotonic()
        for found in score(many, keeping, lambda token: len(tokenizer.piece(token))):
            progress(who, found, len(many))
        return {**asdict(found), "seconds": time.monotonic() - started}, np.concatenate(kept)

    with EngineScorer(subject, context=context, threads=asked.threads, kv_type=asked.kv_type, isa=asked.isa) as scorer:
        info = scorer.engine.info
        engine, ours = run("engine", scorer)
        result: dict[str, Any] = {
            "model": subject.name,
            "digest": str(subject.digest()),
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "context": context,
            "stride": asked.stride,
            "kv_type": asked.kv_type,
            "isa": info.isa,
            "threads": info.threads,
            "engine": engine,
        }
        if asked.reference:
            judge = _Judge(subject, scorer)
            result["reference"], theirs = run("reference", judge)
            result |= compared(theirs - ours, np.concatenate(judge.divergences))
    return result


class _Judge:
    """The reference as a scorer, which on the way compares with the engine all that could have followed."""

    def __init__(self, subject: Subject, engine: EngineScorer) -> None:
        self._reference, self._engine = ReferenceScorer(subject), engine
        self.divergences: list[Doubles] = []

    def __call__(self, window: Window) -> Doubles:
        logits = self._reference.logits(window)
        self.divergences.append(self._engine.divergences(window, logits))
        return chances(logits, window.tokens[-window.scored :])


def compared(more: Doubles, divergences: Doubles) -> dict[str, float]:
    """Of the nats that the engine lost `more` on each token that did follow: the ratio of the perplexities, and its
    standard error, far smaller than theirs, since both scored the same tokens. And of the nats lost on average over all
    that could have followed: their mean, and its standard error."""
    ratio, root = exp(float(more.mean())), math.sqrt(max(1, len(more) - 1))
    return {
        "ratio": ratio,
        "ratio_error": ratio * float(more.std()) / root,
        "divergence": float(divergences.mean()),
        "divergence_error": float(divergences.std()) / root,
    }
