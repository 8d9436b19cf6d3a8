"""Runs one client script against a served store: who can run here, and what a script reported.

The clients live in environments of their own, which `scripts/conformance --install` makes: build/conformance/python and
build/conformance/node. A whole program (`program_NAME.py`) has one to itself, which only a run of everything makes.
SEALIFT_CONFORMANCE names another folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.conformance.served import EMBEDDER, MODEL, ROOT, Served

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
SCRIPTS = sorted([*CLIENTS.glob("python_*.py"), *CLIENTS.glob("node_*.mjs"), *CLIENTS.glob("program_*.py")])
INSTALLED = Path(os.environ.get("SEALIFT_CONFORMANCE") or ROOT / "build" / "conformance")
PYTHON, NODE = INSTALLED / "python", INSTALLED / "node"
LIMIT_S = 240

# No client may look for its maker, nor find settings of whoever runs this.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "ANONYMIZED_TELEMETRY": "False", "HAYSTACK_TELEMETRY_ENABLED": "False"}
QUIET |= {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "AI_SDK_LOG_WARNINGS": "false"}
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR")


class Failed(Exception):
    def __init__(self, *, script: str, told: str) -> None:
        super().__init__(f"{script}: {told}")
        self.script, self.told = script, told


def environment_of(script: Path) -> tuple[Path, str]:
    """Where a script's client is installed, and the file that pins its versions."""
    kind, _, name = script.stem.partition("_")
    if kind == "program":
        name = name.replace("_", "-")
        return INSTALLED / name, f"{name}.txt"
    return (NODE, "package-lock.json") if kind == "node" else (PYTHON, "requirements.txt")


def missing(script: Path) -> str:
    """Why a script cannot run here; empty if it can. An environment of other versions than the pinned ones is none."""
    folder, pins = environment_of(script)
    if script.suffix == ".mjs" and not shutil.which("node"):
        return "needs node"
    made = folder / pins
    if not made.is_file() or made.read_bytes() != (HERE / pins).read_bytes():
        everything = script.stem.startswith("program_")
        return f"needs {folder.name}: scripts/conformance" + ("" if everything else " --install")
    return ""


def run(script: Path, served: Served, folder: Path) -> dict[str, Any]:
    """{client, version, checked, seconds}. Raises Failed with what the script said. `folder` is its home."""
    environment = {key: os.environ[key] for key in KEPT if key in os.environ} | QUIET
    environment |= {"HOME": str(folder), "SEALIFT_ADDRESS": served.url}
    environment |= {"SEALIFT_MODEL": MODEL, "SEALIFT_EMBEDDER": EMBEDDER}
    environment["SEALIFT_NODE_MODULES"] = str(NODE / "node_modules")
    command = [str(environment_of(script)[0] / "bin" / "python"), str(script)]
    if script.suffix == ".mjs":
        command = ["node", str(_beside_modules(folder) / script.name)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Failed(
            script=script.name, told=f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def _beside_modules(folder: Path) -> Path:
    """Node looks for modules from where a script really lies."""
    place = folder / "clients"
    if not place.exists():
        shutil.copytree(CLIENTS, place, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (place / "node_modules").symlink_to(NODE / "node_modules")
    return place
