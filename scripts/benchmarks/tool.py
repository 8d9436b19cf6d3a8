"""`sealift` as a user runs it: this checkout's, in a home of its own, its bytecode kept as an installation has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Tool:
    """`folder` becomes SEALIFT_HOME. Settings of the caller's environment do not reach it, but for the library's."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        ours = ("SEALIFT_", "OLLAMA_")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as an installation has its bytecode ready
        self.environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment["SEALIFT_HOME"] = str(folder)
        if "SEALIFT_NATIVE_LIBRARY" in os.environ:
            self.environment["SEALIFT_NATIVE_LIBRARY"] = os.environ["SEALIFT_NATIVE_LIBRARY"]

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-c", "import sealift; sealift.main()", *map(str, words)]

    def run(self, *words: str | Path) -> float:
        """Seconds from start to end. Raises SystemExit with its words if it fails."""
        return timed(self.command(*words), self.environment)

    def peak(self, *words: str | Path) -> int:
        """The most bytes of memory that the command held at once. A small process starts it: what counts for a child
        begins with the size of its parent."""
        script = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode; "
        script += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10); sys.exit(done)"
        command = [sys.executable, "-c", script, *self.command(*words)]
        return int(subprocess.run(command, env=self.environment, check=True, capture_output=True).stdout)

    def create(self, name: str, model: Path) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        modelfile = self.home / "Modelfile"
        modelfile.write_text(f"FROM {model.resolve()}\n")
        self.run("create", name, "-f", modelfile)


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command[-4:])} ended with {done.returncode}: {done.stderr.strip()}")
    return seconds
