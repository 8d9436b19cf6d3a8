"""What this machine gives this process: cores and memory, with the limits of its control group and its own.

Values are what the kernel says; a file that is absent (another system, another cgroup version) means "no limit".
"""

from __future__ import annotations

import os
import resource

PROC = "/proc"
CGROUP = "/sys/fs/cgroup"
MOST = 1024  # threads of an engine


def cores() -> int:
    """Threads worth starting: cores this process may run on (a cpuset has already cut them), cut to the quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        allowed = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, quota or allowed, MOST))


def _quota() -> int | None:
    """The least of this group's and those above it; a fraction of a core counts as one. In microseconds: cpu.max is
    "quota period" or "max period" (version 2); version 1 has a file for each, and -1 for no limit."""
    pairs = [_text(f"{folder}/cpu.max").split() for folder in _groups()]
    for folder in _groups_v1("cpu"):
        pairs.append([_text(f"{folder}/{name}").strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")])
    found = [
        max(1, -(-int(pair[0]) // int(pair[1])))
        for pair in pairs
        if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit() and int(pair[1])
    ]
    return min(found) if found else None


def memory_available() -> int | None:
    """Bytes that can be taken without pushing others out; None where the system does not say."""
    found = []
    for line in _text(f"{PROC}/meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1].isdigit():
            found.append(int(words[1]) * 1024)
    for folder in _groups():
        for limit in ("memory.max", "memory.high"):  # beyond `high` the kernel stops nothing, and slows all down
            found += _rest(folder, limit, "memory.current", "inactive_file")
    for folder in _groups_v1("memory"):  # a group without a limit has one that no machine reaches
        found += _rest(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found += _addresses_left()
    return min(found) if found else None


def _addresses_left() -> list[int]:
    """What `ulimit -v` leaves: a limit of addresses, of which mapped files have taken some."""
    limit, pages = resource.getrlimit(resource.RLIMIT_AS)[0], _text(f"{PROC}/self/statm").split()[:1]
    if limit == resource.RLIM_INFINITY or not pages:
        return []
    return [max(0, limit - int(pages[0]) * resource.getpagesize())]


def _rest(folder: str, limit: str, used: str, cache: str) -> list[int]:
    """What one group may still take; files it has read and nobody uses give way. Nothing where there is no limit."""
    most, now = _text(f"{folder}/{limit}").strip(), _text(f"{folder}/{used}").strip()
    if not (most.isdigit() and now.isdigit()):
        return []
    return [max(0, int(most) - int(now) + _counter(f"{folder}/memory.stat", cache))]


def _counter(path: str, name: str) -> int:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0


def _groups() -> list[str]:
    """This process's control group and those above it, innermost first (cgroup v2)."""
    for line in _text(f"{PROC}/self/cgroup").splitlines():
        if line.startswith("0::"):
            return _upwards(CGROUP, line[3:])
    return []


def _groups_v1(controller: str) -> list[str]:
    """The same in version 1, where each controller has a tree of its own: "4:cpu,cpuacct:/a/b". Inside a container the
    path is often the host's and the tree begins at the container's group: then its root alone is found."""
    for line in _text(f"{PROC}/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number.isdigit() and controller in names.split(","):
            return [folder for name in (names, controller) for folder in _upwards(f"{CGROUP}/{name}", path)]
    return []


def _upwards(root: str, path: str) -> list[str]:
    names = [name for name in path.strip().split("/") if name]
    return ["/".join([str(root), *names[:count]]) for count in range(len(names), -1, -1)]


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
