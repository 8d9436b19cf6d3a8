"""What this machine gives this process: cores and memory, with the limits of its control group.

Values are what the kernel says; a file that is absent (another system, another cgroup version) means "no limit".
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Threads worth starting: cores this process may run on, cut to the control group's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        allowed = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, quota) if quota else allowed)


def _quota() -> int | None:
    """cpu.max is "quota period" in microseconds, or "max period"; a fraction of a core counts as one."""
    for folder in _groups():
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            return max(1, -(-int(words[0]) // int(words[1])))
    return None


def memory_available() -> int | None:
    """Bytes that can be taken without pushing others out; None where the system does not say."""
    found = []
    for line in _text(PROC / "meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1].isdigit():
            found.append(int(words[1]) * 1024)
    for folder in _groups():
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            cache = _counter(folder / "memory.stat", "inactive_file")
            found.append(max(0, int(limit) - int(used) + cache))
    return min(found) if found else None


def _counter(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0


def _groups() -> list[Path]:
    """This process's control group and those above it, innermost first (cgroup v2)."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        if line.startswith("0::"):
            group = CGROUP / line[3:].strip().lstrip("/")
            return [folder for folder in (group, *group.parents) if folder == CGROUP or CGROUP in folder.parents]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
