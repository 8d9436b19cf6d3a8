"""`sealift bench`: what its figures mean, and that it ends. No test depends on speed."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sealift
from native import limits
from native.limits import Limits
from runtime.engine import resources
from runtime.errors import OutOfMemory, RequestRefused
from runtime.measure import bench, table
from runtime.measure.bench import Row
from runtime.measure.subject import Subject, find
from runtime.measure.work import attentions, products
from tests.peers.model_maker import Size, make_model

ROOT = Path(__file__).parents[2]
LIMITS = Limits(read_bytes=1e9, integer_ops=1e12, float_ops=1e11, bf16_ops=2e11, instruction="none")
FIELDS = {"format", "sealift", "machine", "model", "isa", "limits", "load_seconds", "memory", "rows", "ops", "left_out"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bench") / "tiny.gguf", quant="Q8_0", size=Size(context=1024))


@pytest.fixture(scope="module")
def subject(model: Path) -> Subject:
    return find(str(model))


@pytest.fixture(scope="module")
def result(subject: Subject) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        turns = iter([replace(LIMITS, read_bytes=3e8, integer_ops=2e11), LIMITS])  # a neighbour is busy at the first
        patch.setattr(bench, "measure_limits", lambda threads: next(turns))
        return bench.bench(subject, threads=1, quick=True, tell=lambda what: None)


def test_result_has_the_fields_of_its_page(result: dict[str, Any], model: Path) -> None:
    assert set(result) == FIELDS
    page = (ROOT / "docs" / "formats" / "bench.md").read_text()
    named = set(re.findall(r"`([a-z_0-9]+)(?:\[\])?`", page))
    assert named >= FIELDS | {key for part in ("machine", "model", "limits", "memory") for key in result[part]}
    assert named >= {key for part in ("rows", "ops") for row in result[part] for key in row}
    assert str(model.parent) not in json.dumps(result)
    assert [table.key(row) for row in result["rows"]] == [("prefill", 512), ("decode", 1), ("decode", 8)]


def test_rates_and_shares_follow_from_each_other(result: dict[str, Any], subject: Subject) -> None:
    matrices = products(subject.plan, subject.weights)
    for row in result["rows"]:
        rate = row["tokens_per_s"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        if row["work"] == "prefill":
            each = sum(2 * one.weight.rows * one.weight.cols for one in matrices if not one.last_only)
            assert row["operations_per_s"] == pytest.approx(rate["median"] * each)
            assert row["share"] == pytest.approx(row["operations_per_s"] / 1e12)
        else:
            size = sum(one.weight.buffer.nbytes for one in matrices)
            assert row["bytes_per_s"] == pytest.approx(rate["median"] * size / row["sequences"])
            assert row["share"] == pytest.approx(row["bytes_per_s"] / 1e9)


def test_ops_have_the_limits_of_the_rows(result: dict[str, Any]) -> None:
    prefill, decode = ("operations_per_s", {"attend": 1e11}, 1e12), ("bytes_per_s", {}, 1e9)
    found = []
    for row in result["ops"]:
        rate, limits, usual = prefill if row["work"] == "prefill" else decode
        if "share" in row:
            found.append((row["share"], row[rate] / limits.get(row["op"], usual)))
    assert {row["op"] for row in result["ops"] if "share" not in row}.isdisjoint({"attend", "ffn_down Q8_0"})
    assert len(found) > 10
    assert [share for share, _ in found] == pytest.approx([expected for _, expected in found])


def test_attention_is_counted_by_what_it_looks_at(result: dict[str, Any], subject: Subject) -> None:
    one = attentions(subject.plan, result["memory"]["bytes_per_token"])[0]
    assert sum(each.bytes for each in attentions(subject.plan, 6.0)) == pytest.approx(6)
    assert [one.seen(range(4)), replace(one, window=2).seen(range(4)), one.seen(range(32, 34))] == [10, 7, 67]
    spec = subject.spec.layers[0].attention
    pairs = sum(range(1, 513)) * spec.heads * spec.head_dim * len(subject.spec.layers)
    row = next(row for row in result["ops"] if (row["work"], row["op"]) == ("prefill", "attend"))
    assert row["operations_per_s"] * row["seconds"] == pytest.approx(4 * pairs)
    row = next(row for row in result["ops"] if (row["work"], row["op"]) == ("decode", "attend"))
    assert row["bytes_per_s"] * row["seconds"] == pytest.approx(
        sum(range(33, 65)) * result["memory"]["bytes_per_token"]
    )


def test_every_op_is_in_the_table_once(result: dict[str, Any], subject: Subject) -> None:
    for work in ("prefill", "decode"):
        rows = [row for row in result["ops"] if row["work"] == work]
        assert sum(row["time_share"] for row in rows) == pytest.approx(1)
        assert len({row["op"] for row in rows}) == len(rows)
        assert {"ffn_down Q8_0", "attn_q Q8_0", "token_embd Q8_0", "rms_norm", "attend"} <= {row["op"] for row in rows}


def test_a_limit_that_is_not_known_gives_no_share(subject: Subject) -> None:
    nothing = Limits(read_bytes=1e9, integer_ops=None, float_ops=None, bf16_ops=None, instruction=None)
    row = {"work": "prefill", "tokens_per_s": {"median": 1.0}}
    assert bench.speed(row, products(subject.plan, subject.weights), nothing)["share"] is None


@pytest.mark.parametrize(("kind", "limit"), [("F32", 1e11), ("F16", 2e11), ("BF16", 2e11), ("Q4_0", 1e12)])
def test_each_format_has_its_own_limit(kind: str, limit: float, tmp_path: Path) -> None:
    made = find(str(make_model(tmp_path / "m.gguf", quant=kind)))
    one = products(made.plan, made.weights)[0]
    assert bench.least_seconds(one, LIMITS) == pytest.approx(one.operations / limit)


def test_rows_that_would_take_too_long_are_left_out() -> None:
    clock = [0.0]
    played: list[int] = []

    def row(tokens: int) -> Row:
        def turn() -> float:
            played.append(tokens)
            clock[0] += tokens / 10
            return tokens / 10

        return Row(work="prefill", label={"tokens": tokens}, amount=tokens, play=turn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock[0])
        found, left_out = bench.play([row(n) for n in (1, 10, 200)], 10.0, lambda what: None)
    assert [one["tokens"] for one in found] == [1, 10]
    assert left_out == ["prefill, 200 tokens"]
    assert played == [1] * (bench.TURNS + 1) + [10] * 4  # one warms up, of three seconds' worth
    assert clock[0] <= 10


def test_the_better_limit_counts() -> None:
    other = Limits(read_bytes=2e9, integer_ops=None, float_ops=1e10, bf16_ops=None, instruction="none")
    both = Limits(read_bytes=2e9, integer_ops=1e12, float_ops=1e11, bf16_ops=2e11, instruction="none")
    assert bench.better(LIMITS, other) == both == bench.better(other, LIMITS)


def test_compare_prints_ratios_and_what_differs(result: dict[str, Any], tmp_path: Path) -> None:
    earlier = json.loads(json.dumps(result))
    earlier["rows"][1]["tokens_per_s"]["median"] /= 2
    earlier["rows"].pop(2)
    earlier["machine"]["cpu"] = "other\x1b[2J"
    (tmp_path / "old.json").write_text(json.dumps(earlier))
    text = table.text(result, table.read(tmp_path / "old.json"))
    lines = {line.split()[0] + line.split()[1]: line for line in text.splitlines() if line.startswith(("pre", "dec"))}
    assert lines["prefill512"].endswith("1.00 ×")
    assert lines["decode1"].endswith("2.00 ×")
    assert lines["decode8"].endswith("–")
    assert "another processor then: other" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "rows": [{}]}', '{"format": 1}'])
def test_results_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(RequestRefused):
        table.read(tmp_path / "old.json")


@pytest.mark.parametrize("rate", ["12.5", pytest.param(10**400, id="huge"), [], None, "fast", 12])
def test_what_was_read_can_be_compared(result: dict[str, Any], tmp_path: Path, rate: Any) -> None:
    """Nothing of an earlier result fails after a minute of measuring."""
    earlier = json.loads(json.dumps(result))
    earlier["rows"][0]["tokens_per_s"]["median"] = rate
    (tmp_path / "old.json").write_text(json.dumps(earlier))
    with suppress(RequestRefused):
        assert "AGAINST EARLIER" in table.text(result, table.read(tmp_path / "old.json"))


@pytest.mark.parametrize(
    ("threads", "free", "each"),
    [
        (2, 64 << 30, 256 << 20),
        (2, 1 << 30, 128 << 20),  # a quarter of what is free
        (64, 1 << 20, 1 << 20),
        (512, 4 << 40, 128 << 20),  # more threads than read 64 GiB
        (512, None, 128 << 20),
    ],
)
def test_limits_are_measured_on_memory_that_is_there(
    threads: int, free: int | None, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "memory_available", lambda: free)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(limits, "measure", lambda threads, each: asked.append((threads, each)))
    bench.measure_limits(threads)
    assert asked == [(threads, each)]


def test_too_little_memory_is_refused_with_the_numbers(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory_available", lambda: 1 << 20)
    with pytest.raises(OutOfMemory, match="requires more system memory"):
        bench.bench(subject, threads=1, quick=True, tell=lambda what: None)


def test_verb(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure_limits", lambda threads: LIMITS)
    monkeypatch.setattr(bench, "QUICK_S", 0.5)
    assert sealift.run(["bench", str(model), "--quick", "--threads", "1"]) == 0
    assert "OF THE LIMIT" in capsys.readouterr().out
    assert sealift.run(["bench", str(model), "--quick", "--threads", "1", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == FIELDS


def test_ctrl_c_ends_it_cleanly(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(threads: int) -> Limits:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_limits", interrupted)
    assert sealift.run(["bench", str(model)]) == 130
    assert capsys.readouterr() == ("", "")


def test_prefill_in_several_steps_writes_the_same_cache(subject: Subject) -> None:
    """A prompt longer than one step: work.prefill goes on where the step before ended."""
    work = bench.Work(subject, threads=1, sequences=2, each=512)
    steps: list[tuple[int, int]] = []
    real = work.engine.step

    def step(batch: Any) -> Any:
        steps.append((int(batch.start_pos[0]), len(np.asarray(batch.tokens))))
        return real(batch)

    with work.engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.engine, "step", step)
        work.prefill(1000)
    assert steps == [(0, 512), (512, 488)]
