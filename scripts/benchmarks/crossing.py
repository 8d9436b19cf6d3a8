"""The crossing of one model: export, verify and import, whole commands, beside what plain tools do with the same bytes.

    sha256sum              one hash
    SHA-256 ∥ SHA-512      both hashes with hashlib, each on a thread that reads the file: what verify cannot beat
    cp; cp, synced         a copy, and one that is on the disk at the end, as ours is
    tar xf; sha256sum      what is done without us: unpack, then compare with a list

The file lies in the page cache for all of them. `extra` has the memory of our commands, and their time over the time of
the plain way, round by round.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarks.tool import Tool, timed
from scripts.benchmarks.turns import Comparison, compare, spread

SIGNER = "bench"
PLAIN, HASHES = "tar xf; sha256sum", "SHA-256 ∥ SHA-512"
BESIDE = {"import": PLAIN, "verify": HASHES}
TWO_HASHES = """
import hashlib, sys, threading
def run(name):
    found, piece = hashlib.new(name), memoryview(bytearray(4 << 20))
    with open(sys.argv[1], "rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            found.update(piece[:count])
threads = [threading.Thread(target=run, args=(name,)) for name in ("sha256", "sha512")]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def measure(model: Path, folder: Path, *, runs: int) -> Comparison:
    here, there = Tool(folder / "here"), folder / "there"
    here.create("crossed", model)
    here.run("key", "generate", SIGNER, "--no-passphrase")
    medium, kept, copy, archive = folder / "medium", folder / "kept", folder / "copy", folder / "archive.tar"
    timed(["tar", "cf", str(archive), "-C", str(model.resolve().parent), model.resolve().name])
    here.run("bundle", "export", "crossed", "-o", kept, "--sign", SIGNER)
    trusting = Tool(folder / "trusting")
    public = here.home / "keys" / f"{SIGNER}.pub"
    trusting.run("trust", "add", public, "--role", "publisher")

    def export() -> float:
        shutil.rmtree(medium, ignore_errors=True)
        return here.run("bundle", "export", "crossed", "-o", medium, "--sign", SIGNER)

    def receiver() -> Tool:
        shutil.rmtree(there, ignore_errors=True)
        tool = Tool(there)
        tool.run("trust", "add", public, "--role", "publisher")
        return tool

    def unpacked() -> float:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        seconds = timed(["sh", "-c", 'tar xf "$1" -C "$2" && sha256sum "$2"/*', "sh", str(archive), str(copy)])
        shutil.rmtree(copy)
        return seconds

    def copied(script: str) -> float:
        seconds = timed(["sh", "-c", script, "sh", str(model), str(copy)])
        copy.unlink()
        return seconds

    players: dict[str, Callable[[], float]] = {
        "sha256sum": lambda: timed(["sha256sum", str(model)]),
        HASHES: lambda: timed([sys.executable, "-c", TWO_HASHES, str(model)]),
        "cp": lambda: copied('cp "$1" "$2"'),
        "cp, synced": lambda: copied('cp "$1" "$2" && sync "$2"'),
        PLAIN: unpacked,
        "export": export,
        "verify": lambda: trusting.run("bundle", "verify", kept),
        "import": lambda: receiver().run("bundle", "import", kept),
    }
    amount = model.stat().st_size / 1e9
    found = compare("crossing", players, amount=amount, unit="GB", against="sha256sum", rounds=runs)
    shutil.rmtree(medium)
    found["extra"]["peak_bytes"] = {
        "export": here.peak("bundle", "export", "crossed", "-o", medium, "--sign", SIGNER),
        "verify": trusting.peak("bundle", "verify", kept),
        "import": receiver().peak("bundle", "import", kept),
    }
    times = {name: [s["seconds"] for s in found["samples"] if s["who"] == name] for name in players}
    found["extra"]["time_over"] = {
        name: spread([ours / theirs for ours, theirs in zip(times[name], times[other], strict=True)])
        for name, other in BESIDE.items()
    }
    return found
