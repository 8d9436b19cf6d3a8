"""The isolated side never opens an outbound connection (DESIGN 1), proved by looking, for every verb.

Two runs of one session (tests/peers/isolated_session.py): beside the network, where an attempt could succeed, and in a
network namespace without interfaces, where the kernel gives one. Both under a watch that ends any Python process that
tries to reach another machine, children included; in the namespace the kernel counts as well. Both watches are shown to
see: a program, a child with an environment of its own and `sealift pull` do try, and are caught.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from native import library
from tests.peers.softhsm import AVAILABLE, NEEDS
from tests.peers.verbs import leaves

ROOT = Path(__file__).parents[1]
STATUS = runpy.run_path(str(ROOT / "tests/peers/watch/sitecustomize.py"))["STATUS"]
ONLINE = {"pull", "push"}  # what the connected side is for


def namespaces() -> bool:
    """Whether this kernel gives this user a network namespace."""
    try:
        return not subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module", params=["beside the network", "without interfaces"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("isolated")
    command = [sys.executable, "-m", "tests.peers.isolated_session", str(folder)]
    isolated = request.param == "without interfaces"
    if isolated:
        command = [str(ROOT / "scripts" / "isolated"), *command, *(["alone"] if namespaces() else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    if isolated and namespaces():
        assert result["interfaces"] == ["lo"], "the session ran beside the network"
    elif isolated:
        assert "NOT isolated" in done.stderr, "a kernel without namespaces must be said"
    return result


def test_every_verb_ran_and_succeeded(session: dict[str, Any]) -> None:
    for verb in session["ran"]:
        assert verb["status"] == 0, f"sealift {' '.join(verb['words'])}: {verb['error']}"
    ran = {" ".join(verb["words"][:2]) for verb in session["ran"]} | {verb["words"][0] for verb in session["ran"]}
    assert {verb for verb, _ in leaves()} - ran == ONLINE | (set() if AVAILABLE else {"key add-token"}), NEEDS


def test_nothing_tried_to_reach_another_machine(session: dict[str, Any]) -> None:
    attempts = [line for line in session["seen"] if line.startswith("attempt ")]
    assert not attempts, attempts


def test_the_kernel_counted_no_packet_without_a_way(session: dict[str, Any]) -> None:
    """In a namespace without interfaces the kernel counts what any code wants to send elsewhere, native code too."""
    if session["kernel"] is None:
        return  # the run beside the network: there the count would be everybody's
    assert session["interfaces"] == ["lo"] and session["kernel"] == 0
    assert session["kernel_control"] > 0, "one unwatched attempt is counted"


def test_every_process_was_watched(session: dict[str, Any]) -> None:
    """Each verb, the worker of the model and the content gate of the import wrote that they started."""
    started = [line.split(" ", 2)[2] for line in session["seen"] if line.startswith("start ")]
    for verb in session["ran"]:
        assert any(line.endswith("sealift.py " + " ".join(verb["words"])) for line in started), verb["words"]
    assert any("runtime.engine.worker" in line for line in started)
    assert any("manifests.gate" in line for line in started)


def test_the_worker_cannot_reach_out_at_all(session: dict[str, Any]) -> None:
    """The process with the native code, looked at while it had a model."""
    powers = session["answers"]["powers"]
    assert (powers["Seccomp"], powers["NoNewPrivs"]) == ("2", "1"), "mode 2 is a filter (proc_pid_status(5))"
    if namespaces():
        assert powers["network"] == "own"


def test_the_server_answered_and_refused_to_fetch(session: dict[str, Any]) -> None:
    answers = session["answers"]
    assert [answers[name][0] for name in ("tags", "chat", "openai")] == [200, 200, 200]
    for name in ("pull", "push"):
        status, text = answers[name]
        assert status == 500 and "opens no outbound connections" in text
    assert answers["cloud"][0] == 403
    assert answers["run"].strip()
    assert json.loads(answers["ps"])[0]["name"] == "mine:latest"


def test_the_watch_sees_those_that_do_try(session: dict[str, Any]) -> None:
    assert session["controls"] == dict.fromkeys(("connect", "look-up", "child", "pull"), STATUS)
    attempts = [line.split(" ", 2)[2] for line in session["control_seen"] if line.startswith("attempt ")]
    assert attempts == [
        "socket.connect '192.0.2.1'",
        "socket.getaddrinfo 'registry.invalid'",
        "socket.connect '192.0.2.1'",
        "socket.getaddrinfo 'registry.invalid'",
    ]


def test_the_engine_does_not_know_how_to_connect() -> None:
    """What the watch cannot see: native code. The library names no function of the network among its symbols."""
    data = Path(library.find()).read_bytes()
    for symbol in (b"connect", b"getaddrinfo", b"gethostbyname", b"sendto", b"socket"):
        assert b"\0" + symbol + b"\0" not in data and b"\0" + symbol + b"@" not in data
    assert b"\0memcpy" in data, "symbols are to be found in this file at all"
