"""What this machine can do at most, measured before and after each section, and who else used it meanwhile."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from native import limits
from runtime.measure.machine import describe

__all__ = ["Clock", "Limits", "describe", "scratch", "shares"]


class Limits:
    """`measure` adds a reading of native.limits (per second), with the load then, and keeps it.

    The limit of a run is its best reading: what the machine can do when its neighbours let it.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.readings: list[dict[str, Any]] = []

    def measure(self) -> dict[str, Any]:
        reading = {**asdict(limits.measure(self._threads)), "load": os.getloadavg()[0]}
        self.readings.append(reading)
        return reading

    def best(self, key: str) -> float | None:
        values = [reading[key] for reading in self.readings if reading[key] is not None]
        return max(values) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Seconds so far: wall time; processor time of all, of this process with its ended children, and stolen by the
    host for other guests. (/proc/stat: user nice system idle iowait irq softirq steal, in ticks.)"""

    wall: float
    busy: float
    ours: float
    stolen: float

    @staticmethod
    def now() -> Clock:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        user, nice, system, _idle, _waiting, irq, softirq, stolen = (tick / second for tick in ticks)
        return Clock(
            wall=time.monotonic(),
            busy=user + nice + system + irq + softirq,
            ours=sum(os.times()[:4]),
            stolen=stolen,
        )


def shares(before: Clock, after: Clock) -> dict[str, float]:
    """Of the machine's processor time between two moments: what other processes took, and what the host withheld."""
    total = (after.wall - before.wall) * (os.cpu_count() or 1)
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return {"others": max(0.0, others / total), "stolen": (after.stolen - before.stolen) / total}


def scratch(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Removed at the end. Default: build/, on the disk where the models are."""
    where = folder or Path("build")
    where.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bench-", dir=where)
