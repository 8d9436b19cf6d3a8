"""Every single draw, not only their frequencies (test_sample): the exact distribution, inverted at Philox's own
number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from native.engine import Sampling, sample
from tests.peers.philox import uniform

EPS = 2.0**-24


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("spread", [0.01, 3.0, 1e3, 1e37])
@pytest.mark.parametrize("temperature", [1e-3, 0.8, 50.0])
def test_every_draw_is_the_inverse_of_the_exact_distribution(spread: float, temperature: float, narrow: bool) -> None:
    """A draw u falls into the interval of the token it chose, in id order or, once filtered, by descending logit.

    The exact distribution is of x = (logit - max) * (1 / temperature): two float32 roundings, so a weight is off by
    e^(2 eps |x|) and exp's 4 eps; weights below e^-87 are 0. Cumulated, borders are off by no more than
    (4 + 2 * 87) eps, and the engine's sum (lanes of 64 terms, then float64) by 64 eps."""
    rng = np.random.default_rng(12)
    n, kept = 1000, 400
    logits = (rng.standard_normal(n) * spread).astype(np.float32)
    order = np.lexsort((np.arange(n), -logits))[:kept] if narrow else np.arange(n)
    x = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(x[order])
    high = np.cumsum(weights) / weights.sum()
    low = np.concatenate([[0.0], high[:-1]])
    place = {int(token): i for i, token in enumerate(order)}
    way = Sampling(temperature=temperature, top_k=kept if narrow else 0)
    for position in range(300):
        seed = 0x0123456789ABCDEF * (position + 1) % 2**64
        u = uniform(seed, position)
        token, logprob, _ = sample(logits, dataclasses.replace(way, seed=seed), position)
        at, slack = place[token], (4 + 2 * 87 + 64) * EPS
        assert low[at] - slack <= u <= high[at] + slack
        assert np.isfinite(logprob)
