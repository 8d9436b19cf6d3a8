"""The process that makes one pack: `python -m runtime.engine.packer --fd N --parent PID --weights GGUF --blob DIGEST`

Writes to the one file it was given open and prints one line of JSON; `--old` names a pack that is kept if it is good.
It reads a stranger's file, so it is confined as a worker is: no network, no programs, and once it knows the plan no
opening of files. The lowest priority: whoever waits for an answer goes first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from manifests.confine import confine, die_with_parent
from manifests.errors import ManifestsError
from manifests.gguf import Gguf
from native import packing
from native.errors import NativeError
from runtime.engine import packfile, resources
from runtime.errors import PackUnusable, RuntimeFailure
from runtime.models.load import load
from runtime.packs import FAILED, REFUSED

NICE = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What the process says. `made` False: the old pack is good. Else `why` the old one was not, "" for none."""

    isa: str
    size: int
    made: bool
    why: str


def main() -> None:
    arguments = argparse.ArgumentParser(prog="runtime.engine.packer")
    arguments.add_argument("--fd", type=int, required=True)
    arguments.add_argument("--parent", type=int, required=True)
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--blob", required=True)
    arguments.add_argument("--old", default="", help="path of packs of this blob, to which .ISA.pack is added")
    given = arguments.parse_args()
    confine(files="any")
    die_with_parent(given.parent)
    os.nice(NICE)
    try:
        packed = make(given.fd, given.weights, given.blob, given.old)
    except (RuntimeFailure, ManifestsError, NativeError, OSError) as error:
        print(error.strerror if isinstance(error, OSError) else error, file=sys.stderr)
        sys.exit(REFUSED if getattr(error, "exit_code", 0) == 1 else FAILED)
    print(json.dumps({name: getattr(packed, name) for name in Packed.__dataclass_fields__}))


def make(fd: int, path: Path, blob: str, old: str) -> Packed:
    gguf = Gguf.open(path)
    _, plan, weights = load(gguf)
    isa = packing.best_isa()
    layout = packfile.layout_of(plan, weights, blob, isa)
    why = ""
    try:
        packfile.use(packfile.path_of(old, isa), layout, weights, isa, threads=resources.cores())
        return Packed(isa=isa, size=layout.size, made=False, why="")
    except FileNotFoundError:
        pass
    except PackUnusable as error:
        why = str(error)
    confine(files="none", namespaces=False)
    with os.fdopen(fd, "wb") as out:
        packfile.write(out, layout, weights, isa, gguf.release)
        out.flush()
        os.fsync(out.fileno())
    return Packed(isa=isa, size=layout.size, made=True, why=why)


if __name__ == "__main__":
    main()
