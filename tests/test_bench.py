"""The bench measures in turn, counts what it says, and its parts still fit the program. No test depends on speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gguf
import numpy as np
import pytest

from manifests.gguf import Gguf
from runtime.models.load import load
from scripts.benchmarks import crossing, engine, figures, line, plot, report, server, shapes, waits
from scripts.benchmarks import load as crowd
from scripts.benchmarks.machine import Limits
from scripts.benchmarks.player import Player
from scripts.benchmarks.turns import Comparison, compare, summary
from tests.peers.model_maker import Size, make_model

ROOT = Path(__file__).parents[1]
READ, DOTS = 1e9, 1e12


class KnownLimits(Limits):
    """Readings that are given, not measured."""

    def __init__(self) -> None:
        self.readings: list[dict[str, Any]] = []

    def measure(self) -> dict[str, Any]:
        rates = {"read_bytes": READ, "integer_ops": DOTS, "float_ops": None, "bf16_ops": None}
        self.readings.append({**rates, "instruction": "none"})
        return self.readings[-1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bench") / "tiny.gguf", quant="Q8_0", size=Size(context=1024))


@pytest.fixture
def pair(model: Path) -> Iterator[list[Player]]:
    """Our engine twice, the second in the peer's place."""
    command = [sys.executable, "-m", "scripts.benchmarks.ours", str(model), "1", "16"]
    with Player("sealift", command) as ours, Player("llama.cpp", command) as theirs:
        yield [ours, theirs]


def scripted(times: dict[str, list[float]], calls: list[str]) -> dict[str, Callable[[], float]]:
    def play(name: str) -> float:
        calls.append(name)
        return times[name].pop(0)

    return {name: (lambda name=name: play(name)) for name in times}  # type: ignore[misc]


def test_players_take_turns_and_ratios_are_of_one_round() -> None:
    calls: list[str] = []
    players = scripted({"a": [9, 2, 4, 1], "b": [9, 1, 8, 3]}, calls)
    result = compare("w", players, amount=24, unit="tokens", against="b", rounds=3, rest=0)
    assert calls == ["a", "b"] * 4  # the first two warm up
    assert [(s["who"], s["turn"], s["round"]) for s in result["samples"]] == [
        ("a", 0, 0), ("b", 1, 0), ("a", 2, 1), ("b", 3, 1), ("a", 4, 2), ("b", 5, 2)
    ]  # fmt: skip
    assert result["pairs"] == {"a": [0.5, 2, 3]}
    assert result["ratios"] == {"a": {"median": 2, "min": 0.5, "max": 3}}  # of medians it would be 1.5
    assert result["rates"]["a"] == {"median": 12, "min": 6, "max": 24}
    assert result["seconds"]["b"] == {"median": 3, "min": 1, "max": 8}


def test_engine_section(pair: list[Player], model: Path) -> None:
    results = engine.measure(pair, runs=2, limits=(limits := KnownLimits()))
    assert len(limits.readings) == 2  # before and after
    assert [one["work"] for one in results] == [
        "prefill of 512", "decode, one sequence", "decode, 8 sequences", "decode, 16 sequences"
    ]  # fmt: skip
    assert [one["amount"] for one in results] == [512, 128, 32 * 8, 32 * 16]
    for one in results:
        check_comparison(one, ["sealift", "llama.cpp"], rounds=2)
        assert set(one["extra"]["shares"]) == {"sealift", "llama.cpp"}
    _, _, weights = load(Gguf.open(model))
    matrices = [weight for name, weight in weights.items() if weight.rows > 1]
    read = sum(weight.buffer.nbytes for weight in matrices)  # tied: the vocabulary is read as the output matrix
    speed = results[1]["rates"]["sealift"]["median"] * read
    assert results[1]["extra"]["shares"]["sealift"] == pytest.approx(speed / READ)
    late = ("blk.1.attn_output", "blk.1.ffn", "token_embd")  # only the last token of a prompt gets that far
    work = sum(2 * w.rows * w.cols for name, w in weights.items() if w.rows > 1 and not name.startswith(late))
    speed = results[0]["rates"]["sealift"]["median"] * work
    assert results[0]["extra"]["shares"]["sealift"] == pytest.approx(speed / DOTS)


def test_figures_have_each_player_and_the_limit(pair: list[Player], tmp_path: Path) -> None:
    found = engine.lengths(pair, runs=1, limits=KnownLimits())
    assert [one["extra"]["place"] for one in found] == [
        16,
        32,
        64,
        128,
        256,
        512,
        1024,
    ]  # the model's own context ends it
    assert {one["extra"]["top"] for one in found} == {DOTS / pair[0].ask("facts")["operations_per_token"]}
    together = engine.batches(pair, runs=1, limits=KnownLimits())
    facts = pair[0].ask("facts")
    for one in together:
        reading = READ * one["extra"]["place"] / facts["bytes_per_token"]
        assert one["extra"]["top"] == pytest.approx(min(reading, DOTS / facts["operations_per_answer"]))
    for section, results in (("lengths", found), ("batches", together)):
        shown = figures.write(tmp_path, section, {"comparisons": {"tiny & <all>": results}})
        assert shown[0].endswith(f"({section}-tiny & <all>.svg)")
        root = ElementTree.fromstring((tmp_path / f"{section}-tiny & <all>.svg").read_text())
        words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"sealift", "llama.cpp", "limit", "1,000"} & set(words) >= {"sealift", "llama.cpp", "limit"}
        assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 2 * len(results)


def test_memory_section(pair: list[Player]) -> None:
    one = engine.memory(pair)
    assert one["work"] == "resident with 1024 tokens of context"
    sizes = {name: held["median"] for name, held in one["seconds"].items()}
    assert all(size > 1e6 for size in sizes.values())
    assert line.inverse(one) == pytest.approx(sizes["sealift"] / sizes["llama.cpp"])
    assert report.memory([("tiny", one)])[2].count(" MB ") == 2


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 2205, False, [0, 500, 1000, 1500, 2000]),
        (0, 9, False, [0, 2, 4, 6, 8]),
        (10, 1000, True, [10, 20, 50, 100, 200, 500, 1000]),
        (1, 10000, True, [1, 10, 100, 1000, 10000]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[float]) -> None:
    assert plot.ticks(low, high, log=log) == pytest.approx(expected)


def test_a_plot_stays_in_its_picture() -> None:
    points = ((1.0, 5.0, 4.0, 6.0), (16.0, 900.0, 800.0, 1000.0))
    for log in (True, False):
        text = plot.svg("t", across="a", up="u", series=[plot.Series(name="sealift", points=points)], log=log)
        for one in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}circle"):
            assert plot.LEFT <= float(one.attrib["cx"]) <= plot.WIDTH - plot.RIGHT
            assert plot.TOP <= float(one.attrib["cy"]) <= plot.HEIGHT - plot.BOTTOM
    with pytest.raises(ValueError):
        plot.svg("t", across="a", up="u", series=[])


def test_the_line_is_passed_missed_or_not_measured() -> None:
    def found(work: str, ours: float, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        turns: list[Any] = [
            {"who": who, "turn": n, "round": 0, "seconds": seconds, "load": 0.0}
            for n, (who, seconds) in enumerate((("sealift", ours), ("llama.cpp", 1.0)))
        ]
        one = summary(work, turns, amount=1, unit="x", against="llama.cpp")
        return {**one, "extra": extra or {}}

    results = {
        "engine": {"comparisons": {"1b-Q4_K_M": [found(line.PREFILL, 1 / 2.2), found(line.ONE, 1)]}},
        "busy": {"comparisons": {"1b-Q4_K_M": [found(line.BESIDE, 1, {"of_quiet": {"sealift": 0.5}})]}},
        "memory": {"comparisons": {"1b-Q4_K_M": [found("resident with 4096 tokens of context", 1.1)]}},
    }
    rows = {row[:2]: row[2:] for row in line.rows(results)}
    assert rows["1b-Q4_K_M", line.PREFILL] == ("at least 2.20 ×", "2.20 ×", "passed")
    assert rows["1b-Q4_K_M", line.ONE] == ("at least 1.05 ×", "1.00 ×", "**missed**")
    assert rows["1b-Q4_K_M", line.BESIDE] == ("at least 40%", "50%", "passed")
    assert rows["1b-Q4_K_M", "resident with 4096 tokens of context"] == ("at most 1.00 ×", "1.10 ×", "**missed**")
    assert rows["1b-Q8_0", line.PREFILL] == ("at least 3.50 ×", "–", "not measured")


def test_busy_section_ends_its_neighbour(pair: list[Player], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STEPS_BUSY", 2)
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **named: Any) -> Any:
        started.append(real(*arguments, **named))
        return started[-1]

    monkeypatch.setattr("scripts.benchmarks.engine.subprocess.Popen", popen)
    quiet, beside = engine.busy(pair, runs=1)
    for one in (quiet, beside):
        check_comparison(one, ["sealift", "llama.cpp"], rounds=1)
    assert [process.returncode is not None for process in started] == [True]


def test_waits_sections(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "CACHED", 320)
    monkeypatch.setattr(waits, "LONG", 400)
    found = waits.cached(model, threads=1, runs=2)
    check_comparison(found, ["cold", "cached"], rounds=2)
    assert found["extra"]["part_of_cold"] > 0
    stalled = waits.stalls(model, threads=1, runs=1)
    check_comparison(stalled, ["sealift"], rounds=1)
    for spans in stalled["extra"].values():
        assert spans["count"] > 0 and 0 < spans["median"] <= spans["p99"] <= spans["max"]
    assert waits.spans([0.004, 0.001, 0.002, 0.003]) == {"count": 4, "median": 2.5, "p99": 4.0, "max": 4.0}
    for name, one in (("cached", found), ("stalls", stalled)):
        assert "| tiny " in "\n".join(report.TABLES[name]([("tiny", one)]))


def test_limits_are_measured() -> None:
    reading = Limits(1).measure()
    assert reading["read_bytes"] > 0
    assert reading["integer_ops"] is None or reading["integer_ops"] > 0
    assert (reading["integer_ops"] is None) == (reading["instruction"] is None)


def test_crossing_section(model: Path, tmp_path: Path) -> None:
    result = crossing.measure(model, tmp_path, runs=1)
    plain = ["sha256sum", crossing.HASHES, "cp", "cp, synced", crossing.PLAIN]
    check_comparison(result, [*plain, "export", "verify", "import"], rounds=1)
    assert set(result["extra"]["time_over"]) == set(crossing.BESIDE)
    assert all(10e6 < peak < 1e9 for peak in result["extra"]["peak_bytes"].values())
    assert result["amount"] == model.stat().st_size / 1e9


def test_server_sections(model: Path, tmp_path: Path) -> None:
    for one in server.through_http(model, tmp_path, threads=1, runs=1):
        check_comparison(one, ["HTTP API", "engine alone"], rounds=1)
    started = server.start(model, tmp_path, threads=1, runs=1, peer=None)
    assert [one["work"] for one in started] == ["start to first token", "start to first token of a chat"]
    for one in started:
        parts = one["extra"]["listening_s"]["median"] + one["extra"]["first_token_after_s"]["median"]
        assert one["seconds"]["sealift serve"]["median"] == pytest.approx(parts)
    table = "\n".join(report.start([("tiny", one) for one in started]))
    assert "sealift serve: start to first token of a chat" in table


def test_load_section(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IDLE", 20), ("ACTIVE", 4), ("LONG", 8), ("CHAT", 200), ("CHATS", 2), ("TEXT", 500)):
        monkeypatch.setattr(crowd, name, value)
    found = crowd.measure(model, tmp_path, threads=1, runs=1)
    for one in found:
        check_comparison(one, ["sealift"], rounds=1)
        spans = one["extra"]["ms"]
        assert spans["count"] > 0 and 0 < spans["median"] <= spans["p99"] <= spans["max"]
    assert found[0]["extra"]["ends"] == {"ended": 24, "lost": 0, "doubled": 0}
    assert "24 ended, 0 lost, 0 doubled" in "\n".join(report.load([("tiny", found[0])]))


def test_command_writes_json_without_paths(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["engine", "--model", str(model), "--runs", "1", "--threads", "1", "--json", str(out)]
    command = [sys.executable, "-m", "scripts.benchmarks", *words, "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert str(ROOT) not in text + done.stdout
    assert str(tmp_path) not in text + done.stdout
    words = ["engine", "--from", str(out), "--work", str(tmp_path / "nowhere")]
    again = subprocess.run([*command[:3], *words], cwd=ROOT, capture_output=True, text=True)
    assert again.stdout == done.stdout, again.stderr  # made of what was measured, which takes no model
    section = json.loads(text)["engine"]
    assert set(section) == {"machine", "limits", "players", "comparisons", "load", "others", "stolen"}
    assert set(section["comparisons"]) == {"tiny"}
    for one in section["comparisons"]["tiny"]:
        check_comparison(one, ["sealift"], rounds=1)
    assert "| tiny " in done.stdout


def test_pages_have_a_place_for_every_section() -> None:
    for section, page in report.PAGES.items():
        text = (ROOT / "docs" / "benchmarks" / page).read_text(encoding="utf-8")
        changed = report.into_page(text, section, "NEW\n")
        assert f"<!-- bench {section} -->\nNEW\n<!-- end {section} -->" in changed
        assert report.into_page(changed, section, "NEW\n") == changed
        assert changed.split("NEW\n")[0] == text[: changed.index("NEW\n")]
    with pytest.raises(SystemExit):
        report.into_page("no markers", "engine", "NEW\n")


@pytest.mark.parametrize("kind", shapes.BLOCKS, ids=str)
def test_made_values_are_sane(kind: gguf.GGMLQuantizationType) -> None:
    raw = shapes.blocks(kind, 64, 1024, np.random.default_rng(1))
    values = gguf.quants.dequantize(raw, kind)
    assert values.shape == (64, 1024)
    assert 0.5 < float(values.std()) * math.sqrt(1024) < 2


def test_made_model_loads(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    shapes.write(path, "Q4_K_M", replace(shapes.SHAPES["1b"], layers=1, vocab=512))
    spec, plan, _ = load(Gguf.open(path))
    assert (spec.vocab, plan.layers) == (512, 1)
    with pytest.raises(SystemExit):
        shapes.made(tmp_path, "1b-q9")


def check_comparison(one: Comparison, players: list[str], *, rounds: int) -> None:
    """In turn, all there, and every figure follows from the samples."""
    order = [(sample["who"], sample["turn"], sample["round"]) for sample in one["samples"]]
    assert order == [(name, n * len(players) + i, n) for n in range(rounds) for i, name in enumerate(players)]
    assert all(math.isfinite(sample["seconds"]) and sample["seconds"] > 0 for sample in one["samples"])
    seconds = {name: [s["seconds"] for s in one["samples"] if s["who"] == name] for name in players}
    assert list(one["rates"]) == players
    for name, pairs in one["pairs"].items():
        expected = [theirs / ours for ours, theirs in zip(seconds[name], seconds[one["against"]], strict=True)]
        assert pairs == pytest.approx(expected)
        assert one["ratios"][name]["min"] <= one["ratios"][name]["median"] <= one["ratios"][name]["max"]
    assert set(one["pairs"]) == set(players) - {one["against"]}
