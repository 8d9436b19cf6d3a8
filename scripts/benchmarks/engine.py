"""The engine beside llama.cpp, on one file: prefill, decode of one and of several sequences, and decode beside a
neighbour that keeps one core busy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks.machine import Limits
from scripts.benchmarks.player import Player
from scripts.benchmarks.turns import Comparison, Sample, compare, summary

PREFILL = 512  # tokens
PROMPT = 32  # tokens before a decode, uncounted
DECODE = 128  # tokens
TOGETHER = (8, 16)  # sequences
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # tokens
SEQUENCES = (1, 2, 4, 8, 16)
FULL = 4096  # tokens of context, where memory is compared
STEPS_TOGETHER = 32
STEPS_BUSY = 32


def measure(
    players: list[Player], *, runs: int, limits: Limits, prefill: int = PREFILL, together: tuple[int, ...] = TOGETHER
) -> list[Comparison]:
    """Each player's rates, and the first player's against the last's. Shares of the limits are in `extra`."""
    facts = {player.name: player.ask("facts") for player in players}
    cost = _cost(players)
    limits.measure()
    results = [_turns(players, f"prefill of {prefill}", prefill, runs, order={"work": "prefill", "tokens": prefill})]
    results.append(_decode(players, 1, DECODE, runs))
    results += [_decode(players, sequences, STEPS_TOGETHER, runs) for sequences in together]
    limits.measure()
    for result in results:
        prompt = result["work"].startswith("prefill")
        result["extra"] = shares(result, cost, limits, prompt=prompt)
    after = {player.name: player.ask("facts")["resident"] for player in players}
    results[0]["extra"] |= {"players": facts, "resident": after}
    return results


def lengths(players: list[Player], *, runs: int, limits: Limits) -> list[Comparison]:
    """Prefill against the prompt's length; `extra` holds its place in the figure and the machine's limit there."""
    cost = _cost(players)
    lengths = [length for length in LENGTHS if length <= cost["context"]]
    limits.measure()
    results = [
        _turns(players, f"prefill of {length}", length, runs, order={"work": "prefill", "tokens": length})
        for length in lengths
    ]
    limits.measure()
    arithmetic = most(limits, cost)
    for result, length in zip(results, lengths, strict=True):
        result["extra"] = shares(result, cost, limits, prompt=True)
        result["extra"] |= {"place": length, "top": arithmetic and arithmetic / cost["operations_per_token"]}
    return results


def batches(players: list[Player], *, runs: int, limits: Limits) -> list[Comparison]:
    """Decode against sequences at once: the weights are read once a step, and each sequence has its arithmetic."""
    cost = _cost(players)
    limits.measure()
    results = [_decode(players, sequences, STEPS_TOGETHER, runs) for sequences in SEQUENCES]
    limits.measure()
    arithmetic = most(limits, cost)
    for result, sequences in zip(results, SEQUENCES, strict=True):
        reading = (limits.best("read_bytes") or 0) * sequences / cost["bytes_per_token"]
        result["extra"] = shares(result, cost, limits, prompt=False)
        top = min(reading, arithmetic / cost["operations_per_answer"]) if arithmetic else reading
        result["extra"] |= {"place": sequences, "top": top}
    return results


def memory(players: list[Player]) -> Comparison:
    """Bytes that each process holds once a sequence fills its context: one turn, for nothing in it depends on time.
    As a comparison: the rate is contexts in a byte, so that a ratio above 1 needs less."""
    tokens = min(FULL, _cost(players)["context"])
    samples: list[Sample] = []
    for turn, player in enumerate(players):
        load = os.getloadavg()[0]
        player.seconds("prefill", tokens=tokens)
        size = float(player.ask("facts")["resident"])
        samples.append({"who": player.name, "turn": turn, "round": 0, "seconds": size, "load": load})
    work = f"resident with {tokens} tokens of context"
    return summary(work, samples, amount=1, unit="contexts", against=players[-1].name)


def _cost(players: list[Player]) -> dict[str, Any]:
    facts = (player.ask("facts") for player in players)
    return next(fact for fact in facts if "bytes_per_token" in fact)


def most(limits: Limits, cost: dict[str, Any]) -> float | None:
    """Operations a second of the arithmetic that the model's formats ask for, with the best instruction there is."""
    return next((found for name in cost["arithmetic"] if (found := limits.best(name))), None)


def busy(players: list[Player], *, runs: int) -> list[Comparison]:
    """Decode of one sequence, quiet and beside a process that never sleeps. A rate of the quiet one is in `extra`."""
    order = {"work": "decode", "prompt": PROMPT, "tokens": STEPS_BUSY, "sequences": 1}
    quiet = _turns(players, "decode, quiet", STEPS_BUSY, runs, order=order)
    with neighbour():
        beside = _turns(players, "decode beside a busy neighbour", STEPS_BUSY, runs, order=order)
    beside["extra"] = {
        "of_quiet": {name: rate["median"] / quiet["rates"][name]["median"] for name, rate in beside["rates"].items()}
    }
    return [quiet, beside]


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def shares(result: Comparison, cost: dict[str, Any], limits: Limits, *, prompt: bool) -> dict[str, Any]:
    """Of the medians. Prefill: operations a second; decode: bytes of weights a second, read once a step."""
    sequences = 1 if prompt else int(result["extra"]["sequences"])
    each = cost["operations_per_token"] if prompt else cost["bytes_per_token"] / sequences
    limit = most(limits, cost) if prompt else limits.best("read_bytes")
    speeds = {name: rate["median"] * each for name, rate in result["rates"].items()}
    return {
        **result["extra"],
        "speed_unit": "operations/s" if prompt else "bytes/s",
        "speeds": speeds,
        "limit": limit,
        "shares": {name: speed / limit for name, speed in speeds.items()} if limit else {},
    }


def _decode(players: list[Player], sequences: int, steps: int, runs: int) -> Comparison:
    work = "decode, one sequence" if sequences == 1 else f"decode, {sequences} sequences"
    order = {"work": "decode", "prompt": PROMPT, "tokens": steps, "sequences": sequences}
    result = _turns(players, work, steps * sequences, runs, order=order)
    result["extra"] = {"sequences": sequences}
    return result


def _turns(players: list[Player], work: str, amount: float, runs: int, *, order: dict[str, Any]) -> Comparison:
    plays: dict[str, Callable[[], float]] = {player.name: partial(player.seconds, **order) for player in players}
    return compare(work, plays, amount=amount, unit="tokens", against=players[-1].name, rounds=runs)


def name_of(model: Path) -> str:
    return model.name.removesuffix(".gguf")
