"""Cases by number, each under limits: none may crash, take over a second of processor time or 200 MB.

Cases run in forked children, many in each, with an address space of 200 MB above what the child begins with; a child
that dies, also of a case that does not end, or a case that neither is refused nor accepted, is a finding.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

SECONDS = 1.0  # processor time of one case
MEMORY = 200 << 20  # bytes
SLICE = 500  # cases of one child
M_ARENA_MAX = -8  # malloc.h
HANGS = 120  # seconds until a case that does not end takes its child along
Tell = Callable[[str], Any]
Bench = TypeVar("Bench")
Begin = Callable[[Bench], object]


def _nothing(bench: object) -> None:
    pass


def sliced(
    bench: Bench, case: Callable[[Bench, int], str], cases: Sequence[int], *, tell: Tell, begin: Begin[Bench] = _nothing
) -> list[str]:
    """The findings, each with the number that repeats it. `case` gives "KIND accepted" or "KIND refused". `begin`: what
    every child does before its memory is limited."""
    found: list[str] = []
    counts: dict[str, int] = {}
    slowest, largest = 0.0, 0
    fork = multiprocessing.get_context("fork")
    for start in range(0, len(cases), SLICE):
        here, there = fork.Pipe(duplex=False)
        child = fork.Process(target=_child, args=(bench, begin, case, cases[start : start + SLICE], there))
        child.start()
        there.close()
        last = None
        with contextlib.suppress(EOFError):
            while True:
                last = here.recv()
                if last[0] == "end":
                    largest = max(largest, last[1])
                    continue
                number, outcome, seconds = last
                counts[outcome.split(":")[0]] = counts.get(outcome.split(":")[0], 0) + 1
                slowest = max(slowest, seconds)
                if not outcome.endswith(("accepted", "refused")):
                    found.append(f"case {number}: {outcome}")
        child.join()
        if child.exitcode:
            found.append(f"a child died with {child.exitcode} after {last}")
        done, memory = min(start + SLICE, len(cases)), f"{largest / 1e6:.0f} MB"
        tell(f"{done} cases: {counts}, slowest {slowest:.2f} s, {memory}, {len(found)} found")
    return found


def _child(
    bench: Bench, begin: Begin[Bench], case: Callable[[Bench, int], str], cases: Iterable[int], out: Any
) -> None:
    for pool in [one for one in gc.get_objects() if isinstance(one, ThreadPoolExecutor)]:
        pool.__init__(pool._max_workers)  # type: ignore[misc]  # it counts on threads that only the parent has
    gc.freeze()  # what the parent left is not ended here, where its threads are not
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)  # an arena of each thread reserves 64 MB
    begin(bench)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
    for number in cases:
        signal.alarm(HANGS)
        started = time.process_time()
        try:
            outcome = case(bench, number)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.process_time() - started
        if seconds > SECONDS:
            outcome = f"{outcome[:40]}: took {seconds:.2f} s"
        out.send((number, outcome, seconds))
    out.send(("end", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
