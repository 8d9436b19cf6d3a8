"""The life of an isolated side, verb by verb, under the watch: `python -m tests.peers.isolated_session FOLDER [alone]`.

Prints one JSON object: which verbs ran with which status, what the watch saw, which network interfaces there were, and,
with `alone` (nobody else is in this network namespace), how many packets the kernel had no way for.
Run it through scripts/isolated for a network namespace without interfaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundler.heads import find_statement
from bundler.shards import stem_of
from bundler.slip import Slip, Want
from tests.peers.model_maker import Size, make_model
from tests.peers.softhsm import AVAILABLE, MODULE, PIN, TOKEN, make_token

ROOT = Path(__file__).parents[2]
WATCH = Path(__file__).with_name("watch")
SIOCGIFFLAGS, IFF_UP = 0x8913, 1  # linux/sockios.h, linux/if.h
TIMEOUT = 120  # seconds for one verb; a slow machine needs a few
CONTROL = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"  # RFC 5737
LOOKUP = "import socket; socket.getaddrinfo('registry.invalid', 443)"  # RFC 6761
# as the content gate starts its child: an environment that names nothing of ours
CHILD = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CONTROL!r}], env={{}}).returncode)"


class Session:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[dict[str, Any]] = []
        self.fifo = folder / "watch"
        os.mkfifo(self.fifo)
        self._seen: list[str] = []
        self._news = threading.Condition()
        self._reading = os.open(self.fifo, os.O_RDWR)
        threading.Thread(target=self._read, daemon=True).start()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEALIFT_", "OLLAMA_"))}
        kept |= {name: os.environ[name] for name in ("SEALIFT_NATIVE_LIBRARY",) if name in os.environ}
        self.env = kept | {
            "PYTHONPATH": str(WATCH),
            "SEALIFT_WATCH": str(self.fifo),
            "SEALIFT_HOME": str(folder / "home"),
            "HOME": str(folder),
        }

    def _read(self) -> None:
        with os.fdopen(os.dup(self._reading), "rb") as lines:
            for line in lines:
                with self._news:
                    self._seen.append(line.decode().rstrip("\n"))
                    self._news.notify_all()

    def seen(self) -> list[str]:
        """All lines so far: a mark of our own is the last of them."""
        mark = f"mark {os.urandom(8).hex()}"
        os.write(self._reading, mark.encode() + b"\n")
        with self._news:
            assert self._news.wait_for(lambda: mark in self._seen, TIMEOUT)
        return [line for line in self._seen if not line.startswith("mark ")]

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def sealift(self, *words: str) -> str:
        done = self.python(str(ROOT / "sealift.py"), *words)
        self.ran.append({"words": list(words), "status": done.returncode, "error": done.stderr[-2000:]})
        return done.stdout

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """`sealift serve` on a free port; stopped by the signal that Ctrl-C sends."""
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "sealift.py"), "serve", "--port", "0"],
            env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stderr is not None
        said = server.stderr.readline()
        port = int(found.group(1)) if (found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", said)) else 0
        self.env["SEALIFT_HOST"] = f"127.0.0.1:{port}"
        try:
            if port:
                yield port
        finally:
            server.send_signal(signal.SIGINT)
            _, rest = server.communicate(timeout=TIMEOUT)
            status = server.returncode
            self.ran.append({"words": ["serve", "--port", "0"], "status": status, "error": (said + rest)[-2000:]})


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def live(session: Session) -> dict[str, Any]:
    """Every verb of an isolated side once, on a made model; returns what the server answered."""
    folder, run = session.folder, session.sealift
    make_model(folder / "model.gguf", size=Size(layers=1))
    (folder / "Modelfile").write_text("FROM ./model.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 4\n")
    run("key", "generate", "alice", "--no-passphrase")
    run("key", "list")
    run("key", "show", "alice")
    run("key", "passwd", "alice", "--no-passphrase")
    run("create", "mine", "-f", "Modelfile")
    run("bundle", "export", "mine", "-o", "usb", "--sign", "alice", "--parity", "1")
    session.env["SEALIFT_MODELS"] = str(folder / "far")
    run("trust", "add", "home/keys/alice.pub", "--role", "publisher")
    run("key", "generate", "bob", "--no-passphrase")
    run("trust", "add", "home/keys/bob.pub", "--role", "publisher")
    run("trust", "remove", "bob")
    run("trust", "list")
    run("trust", "show")
    run("trust", "threshold", "publisher", "1")
    run("trust", "expires", "2099-01-01")
    run("bundle", "inspect", "usb")
    run("bundle", "verify", "usb")
    run("bundle", "repair", "usb")
    (folder / "slip.txt").write_text(slip_for(folder / "usb").text())
    run("bundle", "resend", "slip.txt", "-o", "again", "--from", "usb")
    run("bundle", "send", "usb", "--to", "drop")
    run("bundle", "receive", "--watch", "drop", "--once")
    run("bundle", "identity", "-o", "enclave.identity")
    run("rm", "mine")
    run("bundle", "approve", "usb", "--sign", "bob")
    run("bundle", "import", "usb", "--prepare", "--receipt-key", "bob", "--receipt-out", "back")
    run("receipt", "show", str(next((folder / "back").glob("*.json"), "absent")))
    run("reconcile", "back")
    run("custody", "add", "--medium", "USB 7", "--from", "anna", "--to", "ben", "--sign", "bob")
    run("custody", "show")
    run("custody", "head")
    run("custody", "prove", "1", "-o", "proof.json")
    run("custody", "verify", "--proof", "proof.json")
    run("custody", "verify")
    run("list")
    run("show", "mine")
    run("cp", "mine", "second")
    run("verify")
    run("audit")
    run("scan", "mine")
    run("bench", "mine", "--quick")
    run("eval", "mine", "Modelfile", "--context", "16")
    run("prepare", "mine")
    run("access", "add", "wiki")
    run("access", "list")
    run("access", "revoke", "wiki")
    answers: dict[str, Any] = {}
    message = {"model": "mine", "stream": False, "messages": [{"role": "user", "content": "Hello"}]}
    with session.serving() as port:
        answers["tags"] = ask(port, "/api/tags")
        answers["chat"] = ask(port, "/api/chat", message)
        answers["openai"] = ask(port, "/v1/chat/completions", message)
        answers["powers"] = powers(session)
        answers["pull"] = ask(port, "/api/pull", {"model": "registry.example/team/absent", "stream": False})
        answers["push"] = ask(port, "/api/push", {"model": "mine", "stream": False})
        answers["cloud"] = ask(port, "/api/show", {"model": "mine:cloud"})
        answers["run"] = session.sealift("run", "mine", "Hello")
        answers["ps"] = session.sealift("ps", "--json")
        run("stop", "mine")
    run("rm", "second")
    if AVAILABLE:
        session.env |= {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "SEALIFT_PIN": PIN}
        os.environ["SOFTHSM2_CONF"] = session.env["SOFTHSM2_CONF"]
        make_token(folder)
        words = ["--module", MODULE, "--token", TOKEN, "--label", "card-p384", "--no-passphrase"]
        run("key", "add-token", "carol", *words)
    run("trust", "role", "alice", "approver")
    run("trust", "channel", "alice", "approver", "mine")
    run("key", "generate", "root", "--no-passphrase")
    run("trust", "init", "--root", "home/keys/root.pub", "--sign", "root")
    run("trust", "export", "-o", "chain")
    run("inventory", "-o", "enclave.inventory", "--sign", "root")
    run("inventory", "show", "enclave.inventory")
    run("trust", "import", "chain")
    run("trust", "history")
    run("trust", "expires", "never")
    run("trust", "discard")
    run("trust", "revoke", "alice", "--reason", "the test is over")
    run("trust", "sign", "--sign", "root")
    return answers


def slip_for(folder: Path) -> Slip:
    """One that asks for the index volume."""
    statement, _ = find_statement(folder, stem_of(folder, folder))
    return Slip(id=statement.id, wants=(Want(volume=0),))


def powers(session: Session) -> dict[str, str]:
    """What the kernel says of the worker that runs now: its filter of system calls, and whether its network is ours."""
    line = next(line for line in reversed(session.seen()) if "runtime.engine.worker" in line)
    process = Path("/proc") / line.split()[1]
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    ours = os.readlink("/proc/self/ns/net") == os.readlink(process / "ns/net")
    return {name: status.get(name, "") for name in ("Seccomp", "NoNewPrivs")} | {"network": "ours" if ours else "own"}


def interfaces() -> list[str]:
    """Those that are up: a new namespace may hold tunnels that are down (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return [name for _, name in socket.if_nameindex() if _flags(probe, name) & IFF_UP]


def _flags(probe: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
    return int(struct.unpack("16sh14x", answer)[1])


def unroutable() -> int:
    """The kernel's count of packets without a way in this network namespace, whoever wanted to send them."""
    names, values = (
        line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")
    )
    counts = dict(zip(names, map(int, values), strict=True))
    six = Path("/proc/net/snmp6")
    for line in six.read_text().splitlines() if six.exists() else ():
        counts |= {line.split()[0]: int(line.split()[1])}
    return counts["OutNoRoutes"] + counts.get("Ip6OutNoRoutes", 0)


def kernel_control(session: Session) -> int:
    """The same count after a program that is not watched has tried."""
    del session.env["SEALIFT_WATCH"]
    session.python("-c", CONTROL)
    return unroutable()


def main() -> None:
    session = Session(Path(sys.argv[1]))
    alone = sys.argv[2:] == ["alone"]
    answers = live(session)
    seen = session.seen()
    kernel = unroutable() if alone else None
    controls = {
        "connect": session.python("-c", CONTROL).returncode,
        "look-up": session.python("-c", LOOKUP).returncode,
        "child": session.python("-c", CHILD).returncode,
        "pull": session.python(str(ROOT / "sealift.py"), "pull", "registry.invalid/team/model").returncode,
    }
    result = {
        "interfaces": interfaces(),
        "ran": session.ran,
        "answers": answers,
        "seen": seen,
        "controls": controls,
        "control_seen": session.seen()[len(seen) :],
        "kernel": kernel,
        "kernel_control": kernel_control(session) if alone else None,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
