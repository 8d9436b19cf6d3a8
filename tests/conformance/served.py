"""`sealift serve`, as a program, on a store with two models: SmolLM2, whose template here calls tools, and an encoder.

The encoder is all-MiniLM-L6-v2 where SEALIFT_TEST_EMBEDDER names its folder, else a small one with random weights.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.bert_maker import random_bert, write
from tests.peers.hermes import TEMPLATE

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("SEALIFT_TEST_MODEL") or "/nonexistent")
ENCODER = Path(os.environ.get("SEALIFT_TEST_EMBEDDER") or "/nonexistent")
MODEL, EMBEDDER = "smol", "minilm"
needs_model = pytest.mark.skipif(not REAL.is_file(), reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """`url` without a slash at its end; `log` is what the server wrote to stderr, growing."""

    url: str
    pid: int
    log: Path


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[Served]:
    """A server for one block. Raises what the command said if it does not start. It must end cleanly."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SEALIFT_", "OLLAMA_"))}
    environment |= {"SEALIFT_HOME": str(folder / "home")}
    if "SEALIFT_NATIVE_LIBRARY" in os.environ:
        environment["SEALIFT_NATIVE_LIBRARY"] = os.environ["SEALIFT_NATIVE_LIBRARY"]
    command = [sys.executable, str(ROOT / "sealift.py")]
    for name, text in modelfiles(folder):
        (folder / "Modelfile").write_text(text)
        words = ["create", name, "-f", str(folder / "Modelfile")]
        subprocess.run([*command, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    log = folder / "serve.log"
    words = ["serve", "--host", "127.0.0.1", "--port", "0", *options]
    with log.open("w") as told:
        process = subprocess.Popen([*command, *words], env=environment, stdout=told, stderr=subprocess.STDOUT)
        try:
            yield Served(url=_listening(process, log), pid=process.pid, log=log)
        finally:
            process.terminate()
            ended = process.wait(60)
    assert ended in (0, -15, 143), f"the server ended with {ended}: {log.read_text()[-2000:]}"


def modelfiles(folder: Path) -> Iterator[tuple[str, str]]:
    if ENCODER.is_dir():
        yield EMBEDDER, f"FROM {ENCODER}\n"
    else:
        yield EMBEDDER, f"FROM {write(random_bert(), folder / 'encoder.gguf')}\n"
    yield MODEL, f'FROM {REAL.resolve()}\nTEMPLATE """{TEMPLATE}"""\n'


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for the line that says where; the process' end, or its limit, ends the wait."""
    for _ in range(600):
        if found := re.search(r"listening on (http://[^ ,]+)", log.read_text()):
            return found[1].rstrip("/")
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"sealift serve did not start: {log.read_text()[-2000:]}")
