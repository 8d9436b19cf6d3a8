"""What a confined process can no longer do: each attempt in a child, because there is no way back."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the filter exists on Linux only"
)

ATTEMPTS = """
import ctypes, json, mmap, os, pathlib, resource, socket, subprocess, sys, threading
from manifests.confine import confine

def attempt(work):
    try:
        work()
        return "done"
    except OSError as error:
        return error.errno

def other_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(attempt(work)))
    thread.start()
    thread.join()
    return found[0]

go, said = threading.Event(), []
def early():
    go.wait()
    said.append(attempt(lambda: socket.socket()))

place = pathlib.Path(sys.argv[2])
started_before = threading.Thread(target=early)
if sys.argv[3] == "threads":
    started_before.start()
a, b = socket.socketpair()
kept = open(place / "here")
known = confine(files=sys.argv[1], namespaces=sys.argv[3] != "threads")
result = {
    "done": known.done, "missing": known.missing,
    "socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "unix": attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "program": attempt(lambda: os.execv("/bin/true", ["true"])),
    "fork": attempt(lambda: os.fork() or os._exit(0)),
    "kill": attempt(lambda: os.kill(os.getppid(), 0)),
    "read": attempt(lambda: open(place / "here").close()),
    "write": attempt(lambda: open(place / "new", "w").close()),
    "append": attempt(lambda: open(place / "here", "a").close()),
    "unlink": attempt(lambda: os.unlink(place / "here")),
    "rename": attempt(lambda: os.rename(place / "here", place / "there")),
    "mkdir": attempt(lambda: os.mkdir(place / "folder")),
    "chmod": attempt(lambda: os.chmod(place / "here", 0o777)),
    "thread": other_thread(lambda: None),
    "thread socket": other_thread(lambda: socket.socket()),
    "open pair": attempt(lambda: (a.sendall(b"x"), b.recv(1))),
    "open file": attempt(lambda: kept.read()),
    "memory": attempt(lambda: mmap.mmap(-1, 1 << 20).close()),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
}
if sys.argv[3] == "threads":
    go.set()
    started_before.join()
    result["early thread"] = said[0]
print(json.dumps(result))
"""
EPERM = 1


def run(place: Path, files: str, *, threads: bool = False) -> dict[str, object]:
    (place / "here").write_text("x")
    command = [sys.executable, "-c", ATTEMPTS, files, str(place), "threads" if threads else "alone"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr
    result = json.loads(child.stdout)
    assert isinstance(result, dict)
    if any("sockets" in line for line in result["missing"]):
        pytest.skip(f"this kernel takes no filter: {result['missing']}")
    return result


@pytest.mark.parametrize("files", ["any", "read", "none"])
def test_no_network_no_programs_no_processes(tmp_path: Path, files: str) -> None:
    result = run(tmp_path, files)
    for what in ("socket", "unix", "program", "fork", "kill", "thread socket"):
        assert result[what] == EPERM, what
    for what in ("thread", "open pair", "open file", "memory"):
        assert result[what] == "done", what
    assert result["core"] == 0


def test_read_only_leaves_the_file_system_as_it_is(tmp_path: Path) -> None:
    result = run(tmp_path, "read")
    assert result["read"] == "done"
    for what in ("write", "append", "unlink", "rename", "mkdir", "chmod"):
        assert result[what] == EPERM, what
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_none_opens_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "none")
    for what in ("read", "write", "append", "unlink", "rename", "mkdir", "chmod"):
        assert result[what] == EPERM, what


def test_any_leaves_files_alone(tmp_path: Path) -> None:
    result = run(tmp_path, "any")
    assert result["read"] == result["write"] == result["mkdir"] == "done"


def test_threads_that_run_already_are_confined_too_and_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    result = run(tmp_path, "none", threads=True)
    assert result["early thread"] == EPERM


def test_threads_can_be_ended() -> None:
    """By pthread_exit(3), as Python ends those that still run when it ends itself."""
    code = """if True:
        import ctypes
        from manifests.confine import confine
        confine(files="none")
        c, thread = ctypes.CDLL(None), ctypes.c_ulong()
        c.pthread_create(ctypes.byref(thread), None, c.pthread_exit, None)
        print(c.pthread_join(thread, None))
        """
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (child.returncode, child.stdout) == (0, "0\n"), child.stderr


def test_namespaces_are_reported_one_way_or_the_other(tmp_path: Path) -> None:
    result = run(tmp_path, "read")
    done, missing = result["done"], result["missing"]
    assert isinstance(done, list) and isinstance(missing, list)
    assert ("no network interfaces" in done) != any(line.startswith("no network interfaces: ") for line in missing)


def test_a_child_dies_when_its_parent_does() -> None:
    """The parent starts a child that would sleep for ever, tells us its pid and is killed."""
    child = "import os,sys,time; from manifests.confine import die_with_parent; die_with_parent(int(sys.argv[1]));"
    child += "print(os.getpid(), flush=True); time.sleep(600)"
    parent = (
        "import os,subprocess,sys,time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())]);"
    )
    parent += "time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", parent, child], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.kill()
        assert process.stdout.read() == ""  # the pipe closes only when the grandchild has gone as well
