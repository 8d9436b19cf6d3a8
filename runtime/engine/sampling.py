"""How the next token is chosen: the options of one request, checked once, in the units of `sl_sampling`.

Refuses, by the option's name, what has no meaning (a negative temperature, a `top_p` of 2, not-a-number). Values that
switch a stage off are accepted as clients send them: `top_k <= 0`, `top_p = 1`, `min_p = 0`, `typical_p = 1`,
`repeat_penalty = 1`. Invariant: a Sampling that exists can be given to the native sampler as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from native.record import field, record, replace
from runtime.errors import OptionRefused

MAX_TOP = 20  # alternatives reported for one token (SL_MAX_TOP)
MAX_BIAS = 1024  # tokens whose logits one request may shift
MAX_BIAS_VALUE = 1000.0  # and by how much
LEAST, MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32's normal numbers
SEED_BITS = 64


@record(frozen=True, slots=True, kw_only=True)
class Sampling:
    """`temperature` 0 takes the likeliest token. `seed` None: drawn by `seeded`, and reported in Finish.

    `repeat_last_n` tokens of the sequence, prompt included, are what the penalties look at: 0 none, -1 all of it.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        _range("temperature", self.temperature, 0.0, MOST)
        _range("top_p", self.top_p, 0.0, 1.0)
        _range("min_p", self.min_p, 0.0, 1.0)
        _range("typical_p", self.typical_p, 0.0, 1.0)
        _range("repeat_penalty", self.repeat_penalty, LEAST, MOST)
        _range("presence_penalty", self.presence_penalty, -MOST, MOST)
        _range("frequency_penalty", self.frequency_penalty, -MOST, MOST)
        if self.repeat_last_n < -1:
            raise OptionRefused(f'option "repeat_last_n" is {self.repeat_last_n}; expected -1 or more')
        if not 0 <= self.top_logprobs <= MAX_TOP:
            raise OptionRefused(f"top_logprobs must be between 0 and {MAX_TOP}")
        if len(self.logit_bias) > MAX_BIAS:
            raise OptionRefused(
                f'option "logit_bias" names {len(self.logit_bias)} tokens; at most {MAX_BIAS} are allowed'
            )
        for token, bias in self.logit_bias.items():
            _range(f"logit_bias[{token}]", bias, -MAX_BIAS_VALUE, MAX_BIAS_VALUE)

    def seeded(self) -> Sampling:
        """The same options with a definite seed in 0 .. 2**64-1; a negative one means "choose for me", as in Ollama."""
        if self.seed is None or self.seed < 0:
            return replace(self, seed=int.from_bytes(os.urandom(4), "little"))
        return replace(self, seed=self.seed % (1 << SEED_BITS))

    @property
    def penalises(self) -> bool:
        return self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def _range(name: str, value: float, low: float, high: float) -> None:
    """Refuses what is not in [low, high], NaN too."""
    if not low <= value <= high:
        raise OptionRefused(f'option "{name}" is {value}; expected a number from {low:g} to {high:g}')
