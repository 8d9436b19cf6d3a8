"""`scripts/attack`: what to run, how often, from which seed."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/attack", description="Attack the crossing and the server; any finding fails."
    )
    parser.add_argument("what", choices=["mutate", "interrupt", "ask"])
    parser.add_argument("--count", type=int, help="how many (default: 10000; 100 interrupted)")
    parser.add_argument("--seed", type=int, default=0, help="the first case's number (default 0)")
    options = parser.parse_args()
    tell = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory(prefix="sealift-attack-") as folder:
        os.environ["SEALIFT_HOME"] = str(Path(folder) / "home")
        attack = importlib.import_module(f"scripts.attacks.{options.what}")
        count = options.count or (100 if options.what == "interrupt" else 10_000)
        found = attack.run(Path(folder), range(options.seed, options.seed + count), tell=tell)
    for line in found:
        print(f"FOUND {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
