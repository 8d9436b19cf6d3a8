"""Measurements in turn: A B A B in one run, so that a noisy neighbour meets all players alike.

Medians, and ratios round by round; a time by itself says more about the machine than about the program.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

REST_S = 0.15  # between turns: a thread pool that spins after its work shall not run into the next one's time


class Sample(TypedDict):
    """One turn. `turn` counts over the whole comparison; `load`: the machine's load average of the last minute."""

    who: str
    turn: int
    round: int
    seconds: float
    load: float


class Spread(TypedDict):
    median: float
    min: float
    max: float


class Comparison(TypedDict):
    """`seconds` of each player's turns; `rates`: amount per second. `pairs`: each player's rate over that of `against`
    in the same round; `ratios`: their spread. `extra`: shares of limits and other facts of the section."""

    work: str
    unit: str
    amount: float
    against: str
    samples: list[Sample]
    seconds: dict[str, Spread]
    rates: dict[str, Spread]
    ratios: dict[str, Spread]
    pairs: dict[str, list[float]]
    extra: dict[str, Any]


def compare(
    work: str,
    players: Mapping[str, Callable[[], float]],
    *,
    amount: float,
    unit: str,
    against: str,
    rounds: int,
    warm: bool = True,
    rest: float = REST_S,
) -> Comparison:
    """Each player returns the seconds its turn took for `amount` of `unit`. `warm`: one uncounted turn each before."""
    if warm:
        for play in players.values():
            play()
    samples: list[Sample] = []
    for number in range(rounds):
        for who, play in players.items():
            time.sleep(rest)
            seconds = play()
            load = os.getloadavg()[0]
            samples.append({"who": who, "turn": len(samples), "round": number, "seconds": seconds, "load": load})
    return summary(work, samples, amount=amount, unit=unit, against=against)


def summary(work: str, samples: list[Sample], *, amount: float, unit: str, against: str) -> Comparison:
    names = list(dict.fromkeys(sample["who"] for sample in samples))
    times = {name: [s["seconds"] for s in samples if s["who"] == name] for name in names}
    rates = {name: [amount / seconds for seconds in times[name]] for name in names}
    pairs = {
        name: [ours / theirs for ours, theirs in zip(rates[name], rates[against], strict=True)]
        for name in names
        if name != against and against in rates
    }
    return {
        "work": work,
        "unit": unit,
        "amount": amount,
        "against": against,
        "samples": samples,
        "seconds": {name: spread(values) for name, values in times.items()},
        "rates": {name: spread(values) for name, values in rates.items()},
        "ratios": {name: spread(values) for name, values in pairs.items()},
        "pairs": pairs,
        "extra": {},
    }


def spread(values: list[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
