"""The shell scripts hold their words together: a checkout, and a Python, in a folder with a space and an accent."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

# Stands for Python: writes down its arguments, one a line, and leaves the wheel that `pip wheel` would have made.
FAKE_PYTHON = """#!/bin/sh
log=$(dirname "$0")/log
for word in "$@"; do printf '%s\\n' "$word" >>"$log"; done
while [ $# -gt 0 ]; do
    [ "$1" = --wheel-dir ] && echo wheel >"$2/sealift-1-py3-none-any.whl"
    shift
done
exit 0
"""


def test_wheelhouse_works_in_a_folder_with_a_space(tmp_path: Path) -> None:
    checkout = tmp_path / "la clé d'été" / "sealift"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS / "wheelhouse", checkout / "scripts")
    python = checkout / "bin dir" / "python"
    python.parent.mkdir()
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    command = [str(checkout / "scripts" / "wheelhouse"), "-o", str(checkout / "wheel house"), "-p", "3.10", "extra"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": str(python)})
    assert done.returncode == 0, done.stderr
    words = (python.parent / "log").read_text("utf-8").splitlines()
    assert str(checkout) in words  # `pip wheel` is given the checkout as one word
    assert str(checkout / "wheel house" / "sealift-1-py3-none-any.whl") in words
    assert (checkout / "wheel house" / "SHA256SUMS").read_text("utf-8").endswith("sealift-1-py3-none-any.whl\n")
