"""`sealift bench`: what one model does on this machine, beside what the machine could do at most.

No peers, no network, bounded in time: every row gets its part of what is left of the budget, and as many turns as fit
into it; a row whose single turn would not fit is left out, and said to be. The result is docs/formats/bench.md's.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.home import VERSION
from native import limits
from native.engine import BLOCK
from native.limits import Limits
from native.weight import TYPES
from runtime.engine import resources
from runtime.measure.machine import describe, resident
from runtime.measure.subject import Subject
from runtime.measure.work import ARITHMETIC, MAX_ROWS, Attention, Product, Work, attentions, kind_of, products

FORMAT = 1
LENGTHS = (32, 128, 512, 2048)  # tokens of a prompt
SEQUENCES = (1, 2, 4, 8, 16)
PROMPT, STEPS = 32, 32  # tokens before a decode, uncounted; steps of one turn
TURNS = 5
BUDGET_S, QUICK_S = 45.0, 10.0
ROOM = 0.25  # of the free memory: the most that measuring the limits may take

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table to be: `amount` tokens in a turn."""

    work: str
    label: dict[str, int]
    amount: int
    play: Callable[[], float]


def bench(subject: Subject, *, threads: int, quick: bool, tell: Tell) -> dict[str, Any]:
    """Raises OutOfMemory, ModelRefused and NativeError."""
    threads = threads or resources.cores()
    lengths = [n for n in (LENGTHS[2:3] if quick else LENGTHS) if n <= subject.spec.context]
    each = max(PROMPT + STEPS, -(-max(lengths, default=PROMPT) // max(SEQUENCES)))
    tell("loading")
    started = time.perf_counter()
    work = Work(subject, threads=threads, sequences=max(SEQUENCES), each=each)
    loaded = time.perf_counter() - started
    with work.engine:
        tell("the machine's limits")
        best = measure_limits(threads)
        todo = [prefill(work, n) for n in lengths]
        todo += [decode(work, n) for n in (SEQUENCES[::3] if quick else SEQUENCES)]
        found, left_out = play(todo, QUICK_S if quick else BUDGET_S, tell)
        tell("every op")
        spent = {name: op_seconds(work, subject, name) for name in ("prefill", "decode")}
        best = better(best, measure_limits(threads))
        info = work.engine.info
        matrices = products(subject.plan, subject.weights)
        return {
            "format": FORMAT,
            "sealift": VERSION,
            "machine": describe(threads),
            "model": facts(subject),
            "isa": info.isa,
            "limits": asdict(best),
            "load_seconds": loaded,
            "memory": {
                "weight_bytes": info.weight_bytes,
                "bytes_per_token": info.bytes_per_block // BLOCK,
                "scratch_bytes": info.scratch_bytes,
                "resident_bytes": resident(),
            },
            "rows": [{**row, **speed(row, matrices, best)} for row in found],
            "ops": [
                op
                for name, seconds in spent.items()
                for op in summed(subject, seconds, name, best, info.bytes_per_block / BLOCK)
            ],
            "left_out": left_out,
        }


def facts(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "digest": str(subject.digest()),
        "architecture": subject.spec.architecture,
        "parameters": subject.file.parameter_count,
        "format": subject.file.file_type,
        "bytes": subject.file.file_size,
    }


def measure_limits(threads: int) -> Limits:
    """With less memory where little is free: a smaller buffer may sit in caches, a larger one would push others out."""
    free = resources.memory_available()
    each = min(limits.READ_EACH, limits.MOST // threads)
    if free is not None:
        each = min(each, int(ROOM * free / threads))
    return limits.measure(threads, each=max(1 << 20, each))


def better(a: Limits, b: Limits) -> Limits:
    """The higher of each: what the machine can do when its neighbours let it."""
    rates = {
        name: max(getattr(a, name) or 0, getattr(b, name) or 0) or None
        for name in ("integer_ops", "float_ops", "bf16_ops")
    }
    return Limits(read_bytes=max(a.read_bytes, b.read_bytes), instruction=b.instruction, **rates)


def prefill(work: Work, tokens: int) -> Row:
    return Row(work="prefill", label={"tokens": tokens}, amount=tokens, play=lambda: work.prefill(tokens))


def decode(work: Work, sequences: int) -> Row:
    return Row(
        work="decode", label={"sequences": sequences}, amount=STEPS * sequences,
        play=lambda: work.decode(PROMPT, STEPS, sequences),
    )  # fmt: skip


def play(todo: Iterable[Row], budget: float, tell: Tell) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and what was left out. A row's cost is guessed from the one before: tokens take no less time one by one."""
    rows, left_out = list(todo), []
    found: list[dict[str, Any]] = []
    end = time.monotonic() + budget
    slowest: dict[str, float] = {}  # seconds a token
    for number, row in enumerate(rows):
        allowed = (end - time.monotonic()) / (len(rows) - number)
        name = f"{row.work}, {' '.join(f'{count} {what}' for what, count in row.label.items())}"
        if slowest.get(row.work, 0) * row.amount > 2 * max(allowed, 0):
            left_out.append(name)
            continue
        tell(name)
        seconds = turns(row.play, allowed)
        slowest[row.work] = min(seconds) / row.amount
        rates = [row.amount / one for one in seconds]
        rate = {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}
        found.append({"work": row.work, **row.label, "turns": len(seconds), "tokens_per_s": rate})
    return found, left_out


def turns(one: Callable[[], float], allowed: float) -> list[float]:
    """Seconds of up to TURNS turns within `allowed`; the first only warms up, unless there is time for no other."""
    end = time.monotonic() + allowed
    first = one()
    seconds: list[float] = []
    while len(seconds) < TURNS and time.monotonic() + first < end:
        seconds.append(one())
    return seconds or [first]


def speed(row: dict[str, Any], matrices: list[Product], best: Limits) -> dict[str, Any]:
    """What the row's median means: operations a second in prefill, bytes of weights in decode, and the share of the
    limit: the time the machine would need at its limits, against the time it took."""
    rate = row["tokens_per_s"]["median"]
    if row["work"] == "prefill":
        done = [one for one in matrices if not one.last_only]
        ideal = sum(least_seconds(one, best) for one in done)
        each = sum(one.operations for one in done)
        return {"operations_per_s": rate * each, "share": rate * ideal if ideal else None}
    each = sum(one.weight.buffer.nbytes for one in matrices)
    steps = rate / row["sequences"]
    return {"bytes_per_s": steps * each, "share": steps * each / best.read_bytes}


def least_seconds(product: Product, best: Limits) -> float:
    """For one row at the machine's limit; 0 where it is not known."""
    rates = [getattr(best, name) for name in ARITHMETIC[kind_of(product.weight)]]
    limit = next((rate for rate in rates if rate), None)
    return product.operations / limit if limit else 0.0


def op_seconds(work: Work, subject: Subject, name: str) -> npt.NDArray[np.float64]:
    """[ops] of one prompt of MAX_ROWS tokens, or of STEPS steps of one sequence."""
    work.prefill(PROMPT)
    before = np.array(work.engine.op_times())
    if name == "prefill":
        work.prefill(min(MAX_ROWS, subject.spec.context))
    else:
        work.steps(PROMPT, STEPS, 1)
    spent: npt.NDArray[np.float64] = (work.engine.op_times() - before) / 1e9
    return spent


def summed(
    subject: Subject, spent: npt.NDArray[np.float64], name: str, best: Limits, bytes_per_token: float
) -> list[dict[str, Any]]:
    """What op_seconds found, by kind of op and by matrix. `bytes_per_token`: keys and values of all layers."""
    rows = min(MAX_ROWS, subject.spec.context)
    linear = {one.op: one for one in products(subject.plan, subject.weights)}
    attend = {one.op: one for one in attentions(subject.plan, bytes_per_token)}
    groups: dict[str, list[int]] = {}
    for op, kind in enumerate(subject.plan.ops):
        groups.setdefault(matrix(linear[op]) if op in linear else kind.NAME, []).append(op)
    found = []
    for label, members in groups.items():
        seconds = float(spent[members].sum())
        row = {"work": name, "op": label, "seconds": seconds, "time_share": seconds / float(spent.sum())}
        if seconds and members[0] in linear:
            row |= linear_speed([linear[op] for op in members], seconds, name, best, rows)
        elif seconds and members[0] in attend:
            row |= attend_speed([attend[op] for op in members], seconds, name, best, rows)
        found.append(row)
    return sorted(found, key=lambda row: -float(row["seconds"]))


def linear_speed(own: list[Product], seconds: float, name: str, best: Limits, rows: int) -> dict[str, Any]:
    if name == "prefill":
        times = [(one, 1 if one.last_only else rows) for one in own]
        rate = sum(one.operations * n for one, n in times) / seconds
        return {"operations_per_s": rate, "share": sum(least_seconds(one, best) * n for one, n in times) / seconds}
    rate = STEPS * sum(one.weight.buffer.nbytes for one in own) / seconds
    return {"bytes_per_s": rate, "share": rate / best.read_bytes}


def attend_speed(own: list[Attention], seconds: float, name: str, best: Limits, rows: int) -> dict[str, Any]:
    """The limits are float32's arithmetic and reading from memory; short contexts lie in caches and may beat that."""
    if name == "prefill":
        rate = sum(one.operations * one.seen(range(rows)) for one in own) / seconds
        return {"operations_per_s": rate} | ({"share": rate / best.float_ops} if best.float_ops else {})
    rate = sum(one.bytes * one.seen(range(PROMPT, PROMPT + STEPS)) for one in own) / seconds
    return {"bytes_per_s": rate, "share": rate / best.read_bytes}


def matrix(product: Product) -> str:
    """`ffn_down Q4_K`: a layer's matrices of one role together."""
    role = re.sub(r"^blk\.\d+\.", "", product.name).removesuffix(".weight")
    return f"{role} {TYPES[product.weight.type]}"
