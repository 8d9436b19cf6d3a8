"""Published clients and checkers against `sealift serve` with a real model; docs/conformance.md is made anew.

Runs every client of tests/conformance/clients that is installed and, where their files are given, the probes of the
published descriptions; then the other tests of the folder, with many more of schemathesis' requests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from scripts.benchmarks.report import table
from tests.conformance.described import Description
from tests.conformance.probes import Probe, ask
from tests.conformance.published import OLLAMA, OPENAI, VECTORS, described, facts, meant, read, vector
from tests.conformance.running import SCRIPTS, Failed, missing, run
from tests.conformance.served import REAL, ROOT, Served, serve

PAGE = ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- clients -->", "<!-- end clients -->"
MANY = "150"  # of schemathesis' requests to each operation


def main() -> int:
    asked = arguments()
    if not REAL.is_file():
        raise SystemExit("conformance: SEALIFT_TEST_MODEL names no file; scripts/model prints one")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "served").mkdir()
        with serve(folder / "served", "--keep-alive", "-1") as served:
            rows = [row for script in SCRIPTS for row in client(script, served, folder)]
            rows += list(published(served, asked))
    told = [row for row in rows if row[-1] != "failed"]
    print("\n".join(table([("client", "version", "script", "checked", "result"), *rows])), flush=True)
    if len(told) == len(rows):
        write(rows)
    return int(len(told) < len(rows)) or tests()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--install", action="store_true", help="only make the clients' environments, build/conformance")
    parser.add_argument("--ollama-openapi", type=Path, metavar="FILE", help="docs/openapi.yaml of Ollama's repository")
    parser.add_argument("--openai-openapi", type=Path, metavar="FILE", help="openapi.json of openai/openai-openapi")
    return parser.parse_args()


def client(script: Path, served: Served, folder: Path) -> Iterator[tuple[str, ...]]:
    """(client, version, script, checked, result)"""
    if reason := missing(script):
        yield script.stem, "–", f"`{script.name}`", "–", f"left out: {reason}"
        return
    home = folder / script.stem
    home.mkdir()
    try:
        told = run(script, served, home)
    except Failed as failed:
        print(f"conformance: {failed.script}: {failed.told}", file=sys.stderr)
        yield script.stem, "–", f"`{script.name}`", "–", "failed"
        return
    print(f"conformance: {script.name}: {told['seconds']:.1f} s", file=sys.stderr, flush=True)
    yield told["client"], told["version"], f"`{script.name}`", ", ".join(told["checked"]), "passed"


def published(served: Served, asked: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    files = (
        ("Ollama's OpenAPI", asked.ollama_openapi, "", "", OLLAMA),
        ("OpenAI's OpenAPI", asked.openai_openapi, "/v1", "ErrorResponse", OPENAI),
    )
    for name, file, base, refusal, probes in files:
        if file is None:
            yield name, "–", "–", "–", "left out: its file was not given"
            continue
        document = read(file)
        yield (
            name,
            str(document["info"]["version"]),
            "`published.py`",
            *_met(Description(document, base=base, refusal=refusal), probes, served),
        )


def _met(description: Description, probes: tuple[Probe, ...], served: Served) -> tuple[str, str]:
    """Also keeps the facts of what was met in published.json."""
    kept = json.loads(VECTORS.read_text())
    met, otherwise, asked = 0, 0, described(description, probes)
    with httpx.Client(base_url=served.url, timeout=120) as client:
        for probe in asked:
            answer = ask(client, probe)
            kept[probe.name] = vector(description, probe, answer)
            faults = [fault.removeprefix(f"{probe.name}: ") for fault in description.faults(probe, answer)]
            met += not faults
            otherwise += bool(faults) and all(meant(probe, fault.partition(":")[0]) for fault in faults)
            for fault in faults:
                print(f"conformance: {probe.name}: {fault}", file=sys.stderr)
    if met + otherwise < len(asked):
        return f"{met} of {len(asked)} probes", "failed"
    VECTORS.write_text(facts(kept), encoding="utf-8")
    return f"{met} of {len(asked)} probes" + (f", {otherwise} otherwise on purpose" if otherwise else ""), "passed"


def write(rows: list[tuple[str, ...]]) -> None:
    """The table of the page, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    made = "\n".join(table([("client", "version", "script", "checked", "result"), *rows]))
    PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}", encoding="utf-8")


def tests() -> int:
    """All of the folder but the clients, which have just run."""
    environment: dict[str, Any] = {**os.environ, "SEALIFT_SCHEMATHESIS": MANY}
    command = [sys.executable, "-m", "pytest", "-q", "tests/conformance", "--ignore=tests/conformance/test_clients.py"]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
