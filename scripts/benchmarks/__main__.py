"""Measures sealift on this machine, section by section, in turn with its peers.

engine    prefill and decode, one sequence and several, beside llama.cpp
lengths   prefill against the length of the prompt, with its figure
batches   decode against sequences at once, with its figure
memory    what each process holds at 4,096 tokens of context, beside llama.cpp
busy      decode while another process keeps one core busy, beside llama.cpp
http      tokens a second through the streaming API with 1 and 16 clients, beside the engine alone
cached    the first token of a prompt whose beginning is in the prefix cache, beside the whole prompt
stalls    the time from token to token of four answers while prompts of 4,000 tokens arrive
start     from the start of `sealift serve --load` to a first token, beside llama-server
load      a thousand open streams, /api/tags meanwhile; a long text to its tokens; a request on its way to the engine
crossing  export, verify and import, beside sha256sum and cp

`plots` means lengths and batches. After `engine` the line to pass stands at the end: what was asked for, and what was
measured in this run or the one of --from.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.benchmarks import crossing, engine, figures, line, load, report, server, shapes, waits
from scripts.benchmarks.machine import Clock, Limits, describe, scratch, shares
from scripts.benchmarks.player import our_player, peer_player
from scripts.benchmarks.turns import Comparison

ROOT = Path(__file__).parents[2]
SECTIONS = ("engine", "lengths", "batches", "memory", "busy", "http", "cached", "stalls", "start", "load", "crossing")
PLOTS = "plots"
DOCS = ROOT / "docs" / "benchmarks"
CROSSED = "made:1b-q8_0"  # 1.3 GB


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # players and folders go too
    ask = arguments()
    earlier: dict[str, Any] = json.loads(ask.earlier.read_text()) if ask.earlier else {}
    results = dict(earlier)
    for section in ask.what:
        results[section] = earlier.get(section) or run(section, ask)
        show(section, report.markdown(section, results[section]), results[section], ask)
        if ask.json:
            ask.json.write_text(json.dumps(results, indent=1) + "\n")
    if "engine" in results:  # most of the line is about it
        show("line", "\n".join(report.table(line.rows(results))) + "\n", {}, ask)


def show(section: str, text: str, result: dict[str, Any], ask: argparse.Namespace) -> None:
    print(f"## {section}\n\n{text}", flush=True)
    if ask.write_docs:
        drawn = figures.write(DOCS, section, result) if section in figures.SECTIONS else []
        report.write_page(DOCS, section, text + "".join(f"\n{one}\n" for one in drawn))


def arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=form)
    parser.add_argument("what", nargs="*", metavar="SECTION", help="all, if none is named")
    parser.add_argument(
        "--model", action="append", default=[], metavar="GGUF",
        help="a file, made:1b-FORMAT or made:7b-FORMAT (random weights, made in build/models), or made:1b-all; "
        "repeatable [scripts/model]",
    )  # fmt: skip
    parser.add_argument("--cross", default=CROSSED, metavar="GGUF", help=f"the file that crosses [{CROSSED}]")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that can import llama_cpp")
    parser.add_argument("--llama-server", metavar="PROGRAM", help="the peer of `start`")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[one a core]")
    parser.add_argument("--runs", type=int, default=5, help="turns of each player [5]")
    parser.add_argument("--alone", action="store_true", help="engine: one sequence only, for a look at many formats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--from", type=Path, dest="earlier", metavar="FILE", help="sections in FILE are not run again")
    parser.add_argument("--write-docs", action="store_true", help="make docs/benchmarks anew, figures too")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for temporary files [build]")
    ask = parser.parse_args()
    unknown = [section for section in ask.what if section not in (*SECTIONS, PLOTS)]
    if unknown:
        parser.error(f"{unknown[0]!r} is no section; expected {', '.join(SECTIONS)} or {PLOTS}")
    named = [one for what in ask.what for one in (figures.SECTIONS if what == PLOTS else (what,))]
    ask.what = list(dict.fromkeys(named)) or list(SECTIONS)
    return ask


def run(section: str, ask: argparse.Namespace) -> dict[str, Any]:
    """{machine, limits, load, others, stolen, players, comparisons: {model: [Comparison]}}"""
    names = [ask.cross] if section == "crossing" else ask.model or [default_model()]
    models = [model for name in names for model in resolve(name)]
    result: dict[str, Any] = {"machine": describe(ask.threads), "limits": [], "players": {}}
    before = Clock.now()
    with scratch(ask.work) as folder:
        limits = Limits(ask.threads)
        loads = [os.getloadavg()[0]]
        result["comparisons"] = {}
        for number, model in enumerate(models):
            place = Path(folder) / str(number)
            place.mkdir()
            found, players = measure(section, model, place, limits, ask)
            result["comparisons"][engine.name_of(model)] = found
            result["players"] |= players
            loads += [sample["load"] for one in found for sample in one["samples"]]
    result |= {"limits": limits.readings, "load": {"min": min(loads), "max": max(loads)}, **shares(before, Clock.now())}
    return result


def measure(
    section: str, model: Path, folder: Path, limits: Limits, ask: argparse.Namespace
) -> tuple[list[Comparison], dict[str, str]]:
    """Results, and the peers' versions."""
    print(f"bench: {section}: {model.name}", file=sys.stderr, flush=True)
    if section == "crossing":
        return [crossing.measure(model, folder, runs=ask.runs)], {}
    if section == "http":
        return server.through_http(model, folder, threads=ask.threads, runs=ask.runs), {}
    if section == "load":
        return load.measure(model, folder, threads=ask.threads, runs=ask.runs), {}
    if section in ("cached", "stalls"):
        measured = waits.cached if section == "cached" else waits.stalls
        return [measured(model, threads=ask.threads, runs=ask.runs)], {}
    if section == "start":
        started = server.start(
            model, folder, threads=ask.threads, runs=ask.runs, peer=ask.peer, llama_server=ask.llama_server
        )
        return started, {}
    whole = {"sequences": 1, "each": engine.FULL} if section == "memory" else {"sequences": max(engine.TOGETHER)}
    with our_player(model, threads=ask.threads, **whole) as ours:
        if not ask.peer:
            return engine_section(section, [ours], limits, ask), {}
        with peer_player(ask.peer, model, threads=ask.threads) as peer:
            version = {peer.name: str(peer.ask("facts")["name"])}
            return engine_section(section, [ours, peer], limits, ask), version


def engine_section(section: str, players: list[Any], limits: Limits, ask: argparse.Namespace) -> list[Comparison]:
    if section == "memory":
        return [engine.memory(players)]
    if section == "busy":
        return engine.busy(players, runs=ask.runs)
    if section == "engine":
        return engine.measure(players, runs=ask.runs, limits=limits, together=() if ask.alone else engine.TOGETHER)
    works = {"lengths": engine.lengths, "batches": engine.batches}
    return works[section](players, runs=ask.runs, limits=limits)


def default_model() -> str:
    script = subprocess.run([ROOT / "scripts" / "model"], check=True, stdout=subprocess.PIPE, text=True)
    return script.stdout.strip()


def resolve(name: str) -> list[Path]:
    """One file, or all of a shape's."""
    if name.startswith("made:"):
        made = ROOT / "build" / "models"
        shape, _, kind = name.removeprefix("made:").partition("-")
        kinds = shapes.FORMATS if kind == "all" else (kind,)
        return [shapes.made(made, f"{shape}-{one}") for one in kinds]
    path = Path(name)
    if not path.is_file():
        raise SystemExit(f"bench: {name} is no file; name a GGUF, made:1b-FORMAT or made:7b-FORMAT")
    return [path]


if __name__ == "__main__":
    main()
