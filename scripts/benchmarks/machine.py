"""What machine this is and what it can do at most: measured by limits.cpp, before and after each section."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("limits.cpp")
FLAGS = ["-std=c++20", "-O3", "-march=native", "-pthread"]


class Limits:
    """Compiled once; `measure` adds a reading of {read_bytes, integer_ops, instruction} (per second) and keeps it.

    The limit of a run is its best reading: what the machine can do when its neighbours let it.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._program, self._threads = folder / "limits", threads
        self.readings: list[dict[str, Any]] = []
        compiler = os.environ.get("CXX", "c++")
        try:
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(self._program)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"bench: cannot compile limits.cpp: {error}") from None

    def measure(self) -> dict[str, Any]:
        output = subprocess.run([str(self._program), str(self._threads)], check=True, stdout=subprocess.PIPE).stdout
        reading: dict[str, Any] = json.loads(output)
        self.readings.append({**reading, "load": os.getloadavg()[0]})
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


def describe(threads: int) -> dict[str, Any]:
    """The machine without its name or paths."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = ", ".join(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    return f"{facts.get('model name', platform.machine())} ({numbers})"


def scratch(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Removed at the end. Default: build/, on the disk where the models are."""
    where = folder or Path("build")
    where.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bench-", dir=where)
