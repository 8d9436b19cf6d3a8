"""The line to pass: what the engine is asked for beside llama.cpp, and whether the results of a run say so.

A row that the run did not measure is shown as such: it is neither passed nor failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.benchmarks.turns import Comparison

Results = dict[str, Any]  # section -> what run() returns
SMOL, GEMMA = "SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m"
PREFILL, ONE, BESIDE = "prefill of 512", "decode, one sequence", "decode beside a busy neighbour"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """`least`, or with `most` the most, of what `measured` finds in one comparison."""

    section: str
    model: str
    work: str
    bound: float
    measured: Callable[[Comparison], float | None]
    most: bool = False
    percent: bool = False


def ratio(one: Comparison) -> float | None:
    """Ours over the last player's, the median of the rounds."""
    found = next(iter(one["ratios"].values()), None)
    return found["median"] if found else None


def inverse(one: Comparison) -> float | None:
    """Of times or sizes: ours by theirs."""
    found = ratio(one)
    return 1 / found if found else None


def of_quiet(one: Comparison) -> float | None:
    kept: float | None = one["extra"].get("of_quiet", {}).get("sealift")
    return kept


def part_of_cold(one: Comparison) -> float | None:
    """The time to a first token with the prompt in the prefix cache, by the time without."""
    part: float | None = one["extra"].get("part_of_cold")
    return part


def engine(model: str, work: str, least: float) -> Asked:
    return Asked(section="engine", model=model, work=work, bound=least, measured=ratio)


LINE: tuple[Asked, ...] = (
    *(
        engine(f"1b-{kind}", PREFILL, least)
        for kind, least in {
            "Q4_K_M": 2.2, "Q4_0": 2, "Q5_K_M": 1.5, "Q6_K": 1.6, "Q8_0": 3.5, "Q4_1": 6, "F16": 1.5, "BF16": 1.5
        }.items()
    ),
    engine(SMOL, PREFILL, 2.5),
    engine(GEMMA, PREFILL, 1.6),
    *(engine(f"1b-{kind}", ONE, least) for kind, least in {"Q4_K_M": 1.05, "Q5_K_M": 1.25, "Q4_1": 1.25}.items()),
    engine(SMOL, ONE, 1.8),
    engine(GEMMA, ONE, 1.4),
    engine("1b-Q4_K_M", "decode, 8 sequences", 3),
    engine("1b-Q4_K_M", "decode, 16 sequences", 2.4),
    *(
        Asked(section="busy", model=model, work=BESIDE, bound=0.4, measured=of_quiet, percent=True)
        for model in (SMOL, GEMMA, "1b-Q4_K_M")
    ),
    Asked(
        section="cached", model=SMOL, work="first token, 2000 of 2016 tokens cached", bound=0.05, measured=part_of_cold,
        most=True, percent=True,
    ),
    *(
        Asked(section="http", model=SMOL, work=work, bound=0.95, measured=ratio, percent=True)
        for work in ("1 streaming client", "16 streaming clients")
    ),
    Asked(section="start", model=SMOL, work="start to first token", bound=0.8, measured=inverse, most=True),
    Asked(
        section="memory", model="1b-Q4_K_M", work="resident with 4096 tokens of context", bound=1, measured=inverse,
        most=True,
    ),
)  # fmt: skip


def rows(results: Results, line: tuple[Asked, ...] = LINE) -> list[tuple[str, ...]]:
    """The table, its head first."""
    found: list[tuple[str, ...]] = [("model", "work", "asked", "measured", "")]
    for asked in line:
        value = _value(results, asked)
        sign = "at most" if asked.most else "at least"
        verdict = "not measured" if value is None else "passed" if passes(asked, value) else "**missed**"
        measured = "–" if value is None else _number(value, asked)
        found.append((asked.model, asked.work, f"{sign} {_number(asked.bound, asked)}", measured, verdict))
    return found


def passes(asked: Asked, value: float) -> bool:
    return value <= asked.bound if asked.most else value >= asked.bound


def _value(results: Results, asked: Asked) -> float | None:
    comparisons = results.get(asked.section, {}).get("comparisons", {}).get(asked.model, [])
    one = next((one for one in comparisons if one["work"] == asked.work), None)
    return asked.measured(one) if one else None


def _number(value: float, asked: Asked) -> str:
    return f"{value:.0%}" if asked.percent else f"{value:.2f} ×"
