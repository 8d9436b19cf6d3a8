"""The crossing of one model: export, verify and import, whole commands, beside `sha256sum` and `cp` of the same bytes.

Ours hash everything, and sync what they write to the disk; so a `cp` that syncs stands there too. The file lies in the
page cache for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarks.tool import Tool, timed
from scripts.benchmarks.turns import Comparison, compare

SIGNER = "bench"


def measure(model: Path, folder: Path, *, runs: int) -> Comparison:
    here, there = Tool(folder / "here"), folder / "there"
    here.create("crossed", model)
    here.run("key", "generate", SIGNER, "--no-passphrase")
    medium, kept, copy = folder / "medium", folder / "kept", folder / "copy"
    here.run("bundle", "export", "crossed", "-o", kept, "--sign", SIGNER)
    trusting = Tool(folder / "trusting")
    public = here.home / "keys" / f"{SIGNER}.pub"
    trusting.run("trust", "add", public, "--role", "publisher")

    def export() -> float:
        shutil.rmtree(medium, ignore_errors=True)
        return here.run("bundle", "export", "crossed", "-o", medium, "--sign", SIGNER)

    def bring() -> float:
        shutil.rmtree(there, ignore_errors=True)
        receiver = Tool(there)
        receiver.run("trust", "add", public, "--role", "publisher")
        return receiver.run("bundle", "import", kept)

    def copied(script: str) -> float:
        copy.unlink(missing_ok=True)
        return timed(["sh", "-c", script, "sh", str(model), str(copy)])

    players: dict[str, Callable[[], float]] = {
        "sha256sum": lambda: timed(["sha256sum", str(model)]),
        "cp": lambda: copied('cp "$1" "$2"'),
        "cp, synced": lambda: copied('cp "$1" "$2" && sync "$2"'),
        "export": export,
        "verify": lambda: trusting.run("bundle", "verify", kept),
        "import": bring,
    }
    amount = model.stat().st_size / 1e9
    return compare("crossing", players, amount=amount, unit="GB", against="sha256sum", rounds=runs)
