"""The law of batch invariance through scheduler and native engine together, and the real worker process.

Models are small and random; what is compared is the bits of every log probability, not only the tokens.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.gguf import Gguf
from native import engine as native
from native.errors import InputError
from native.library import KV_TYPES
from runtime.engine import resources
from runtime.engine.blocks import BLOCK
from runtime.engine.link import Link, Load
from runtime.engine.native_runner import PROCESS, open_native, plan_memory
from runtime.engine.native_runner import _sampling as native_sampling
from runtime.engine.pace import SMALLEST, Pace
from runtime.engine.sampling import Sampling
from runtime.engine.stream import Ended, Stream, Token
from runtime.errors import ArchitectureRefused, ModelRefused, OptionRefused, OutOfMemory, RuntimeFailure
from runtime.loaded import GenerateRequest, load_model, read_text_side
from runtime.models.load import load as load_model_file
from runtime.source import ModelSource
from tests.peers.house import N_CTX, House, alone, asks
from tests.peers.model_maker import make_model

ROOT = Path(__file__).parents[2]
WAIT = 60.0


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m.gguf", request.param, quant="Q8_0")


@pytest.mark.parametrize(
    ("max_seqs", "max_rows", "parallel", "threads"), [(8, 24, 2, 1), (8, 512, 1, 2), (3, 17, 1, 3), (1, 512, 4, 1)]
)
def test_same_bits_alone_and_with_others(
    model: Path, max_seqs: int, max_rows: int, parallel: int, threads: int
) -> None:
    """With others that come at random steps, other chunks, a warm prefix cache, preemption, other threads."""
    wanted = asks(max_rows)
    expected = alone(model, wanted)
    house = House(model, max_seqs=max_seqs, max_rows=max_rows, parallel=parallel, threads=threads)
    assert house.come(wanted, threads) == expected
    if (max_seqs, parallel) == (8, 1):
        assert house.loop.scheduler.preemptions > 0, "the pool was meant to be too small"


@pytest.mark.parametrize(
    "name",
    ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"],
)  # fmt: skip
def test_a_sampling_that_exists_can_be_given_to_the_engine(name: str) -> None:
    """A number that float32 does not hold is refused with the request: in the engine it would end the worker."""
    numbers = [0.0, 5e-324, 1e-300, 1e-46, 1e-40, 2.0**-126, 1e-6, 1.0, 1 + 2**-52, 3.4e38, 2.0**128 - 2.0**104]
    logits, taken = np.linspace(-9, 9, 40, dtype=np.float32), 0
    given: dict[str, Any] = {"seed": 1}
    for number in [sign * one for one in (*numbers, 3.5e38, 1e308) for sign in (1, -1)]:
        try:
            sampling = Sampling(**{**given, name: number})
        except OptionRefused:
            continue
        taken += 1
        assert native.sample(logits, native_sampling(sampling, [3, 5], None), 7)[0] in range(40)
    assert taken >= 4


async def bits(stream: Stream) -> tuple[list[Token], Ended]:
    tokens: list[Token] = []
    while True:
        for item in await asyncio.wait_for(stream.take(), WAIT):
            if isinstance(item, Ended):
                return tokens, item
            tokens.append(item)


def test_the_real_process_answers_confined(model: Path) -> None:
    wanted = asks(1)
    expected = alone(model, wanted)

    async def run() -> None:
        link = await Link.start(Load(path=str(model), n_ctx=N_CTX, threads=2, parallel=2))
        try:
            streams = [link.submit(a.prompt, a.sampling, max_tokens=a.count)[1] for a in wanted]
            for stream, whole in zip(streams, expected, strict=True):
                tokens, ended = await bits(stream)
                assert [(token.id, token.logprob) for token in tokens] == whole
                assert ended.reason == "length" and all(len(token.top) == 2 for token in tokens)
            assert link.ready.weight_bytes > 0 and link.ready.kv_bytes > 0
        finally:
            await link.close()

    asyncio.run(run())


def test_a_prompt_is_cached_for_its_own_salt_alone(model: Path) -> None:
    async def run() -> None:
        link = await Link.start(Load(path=str(model), n_ctx=N_CTX, threads=2))
        prompt = [1 + index % 50 for index in range(2 * BLOCK + 3)]
        try:
            told = []
            for salt in ("key a", "key a", "key b", "", "key b"):
                tokens, _ = await bits(link.submit(prompt, Sampling(seed=1), max_tokens=3, salt=salt)[1])
                told.append((tokens[0].cached, [(token.id, token.logprob) for token in tokens]))
        finally:
            await link.close()
        assert [cached for cached, _ in told] == [0, 2 * BLOCK, 0, 0, 2 * BLOCK]
        assert all(answer == told[0][1] for _, answer in told)

    asyncio.run(run())


ANSWERS = """
import sys
from runtime.engine import worker
from runtime.engine.batch import Rows
from runtime.engine.protocol import Load
from runtime.engine.sampling import Sampling

opener = worker._native()
worker._import_grammars()
opened = opener(Load(path=sys.argv[1], n_ctx=64, threads=2, packs=sys.argv[1], blob="sha256:0"))
one = Sampling(seed=0, top_logprobs=3, logit_bias={1: 0.5}, repeat_penalty=1.5)
rows = Rows(
    tokens=[1, 2], row_start=[0, 2], start_pos=[0], tables=[[0]], out_rows=[1], sampling=[one], histories=[[1, 2]],
    matchers=[None],
)
assert opened.runner.run(rows)[0].top
print(*sys.modules)
"""


def test_a_worker_answers_without_what_takes_long_to_import(model: Path) -> None:
    """Each of these took milliseconds of every start, and megabytes of every worker (docs/adr/0005-start.md)."""

    def imported(code: str) -> set[str]:
        words = [sys.executable, "-c", code, str(model)]
        return set(subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split())

    heavy = {"numpy", "llguidance", "argparse", "dataclasses", "inspect", "logging", "concurrent", "pathlib", "random"}
    bare = imported("import sys; print(*sys.modules)")  # some environments' own files import something at every start
    assert not heavy & (imported(ANSWERS) - bare)


def test_memory_returns_to_where_it_was(model: Path) -> None:
    """64 requests at once, three times: what the worker holds after the third is what it held after the first."""

    async def run() -> None:
        link = await Link.start(Load(path=str(model), n_ctx=N_CTX, threads=1, parallel=1))
        try:
            held = []
            for _ in range(3):
                streams = [link.submit(a.prompt, a.sampling, max_tokens=9)[1] for a in asks(3, number=64)]
                for stream in streams:
                    await bits(stream)
                held.append(resident(link.pid))
            assert held[2] <= held[0] + (4 << 20), held
            assert not link._streams
        finally:
            await link.close()

    asyncio.run(run())


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def test_a_loaded_model_reads_its_own_tokenizer(model: Path) -> None:
    async def run() -> None:
        loaded = await load_model(ModelSource(name="m", digest="d", weights="w", path=model, size=1, n_ctx=10**6))
        try:
            assert loaded.n_ctx == loaded.n_ctx_train == 512
            assert loaded.tokenizer.vocab_size == loaded.vocab
            events = [e async for e in loaded.generate(GenerateRequest(prompt=(1, 2), max_tokens=4))]
            assert len(events) >= 1
        finally:
            await loaded.close()

    asyncio.run(run())


@pytest.mark.parametrize("cut", [0, 4, 100, 5000])
def test_a_file_that_is_no_model_is_refused_by_the_worker_by_name(model: Path, tmp_path: Path, cut: int) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:cut])

    async def run() -> None:
        with pytest.raises(ModelRefused) as caught:
            await Link.start(Load(path=str(broken)))
        assert str(caught.value)

    asyncio.run(run())


def test_an_architecture_we_do_not_know_keeps_its_error_over_the_wire(tmp_path: Path, model: Path) -> None:
    path = make_model(tmp_path / "m.gguf", metadata={"general.architecture": "unheard-of"})

    async def run() -> None:
        with pytest.raises(ArchitectureRefused, match="unheard-of") as caught:
            await Link.start(Load(path=str(path)))
        assert caught.value.hint

    asyncio.run(run())


@pytest.mark.parametrize("found", ["nothing", "no library"])
def test_a_library_that_cannot_be_loaded_is_told_without_its_path(
    found: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "libsealift.so"
    if found == "no library":
        library.write_bytes(b"\x7fELF, or so it says")
    monkeypatch.setenv("SEALIFT_NATIVE_LIBRARY", str(library))

    async def run() -> None:
        with pytest.raises(RuntimeFailure, match="the native engine of this server cannot be loaded") as caught:
            await Link.start(Load(path=str(model)))
        assert str(tmp_path) not in f"{caught.value} {caught.value.hint}"

    asyncio.run(run())
    assert str(library) in capfd.readouterr().err  # the log has it


# -- memory, cores, pace


def test_memory_is_planned_and_refused_with_the_numbers() -> None:
    gib, few = 1 << 30, 64 << 20
    assert plan_memory(gib, few, gib, 0, None).parallel == 4
    assert plan_memory(gib, few, gib, 0, 64 * gib).parallel == 4
    assert plan_memory(gib, few, gib, 0, 6 * gib).parallel == 2
    assert plan_memory(gib, few, gib, 0, 3 * gib).parallel == 1
    assert plan_memory(gib, few, gib, 3, 8 * gib).needed <= 8 * gib
    with pytest.raises(OutOfMemory, match=r"4\.1 GiB.*3\.0 GiB.*1\.0 GiB for weights, 3 x 1\.0 GiB for context, 64"):
        plan_memory(gib, few, gib, 3, 3 * gib)
    with pytest.raises(OutOfMemory):
        plan_memory(gib, few, gib, 0, gib)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_memory_is_measured_before_anything_is_packed(
    model: Path, monkeypatch: pytest.MonkeyPatch, kv_type: str, threads: int
) -> None:
    """What the engine holds is what was compared with the limit, to the byte; one byte less is refused."""
    request = Load(path=str(model), n_ctx=N_CTX, threads=threads, parallel=3, kv_type=kv_type)
    held = open_native(request).facts
    needed = held["weight_bytes"] + held["kv_bytes"] + held["scratch_bytes"] + PROCESS
    monkeypatch.setattr(resources, "memory_available", lambda: needed)
    assert open_native(request).facts == held
    monkeypatch.setattr(resources, "memory_available", lambda: needed - 1)
    monkeypatch.setattr(native, "Engine", lambda *_, **__: pytest.fail("made before it was known to fit"))
    with pytest.raises(OutOfMemory, match=r"for weights, 3 x .* for context, .* for computing") as caught:
        open_native(request)
    assert caught.value.hint is not None and "num_ctx" in caught.value.hint


def test_limits_of_the_control_group_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUP", tmp_path / "cgroup")
    assert resources.memory_available() is None and resources.cores() >= 1
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/a/b\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 4000 kB\n")
    inner = tmp_path / "cgroup" / "a" / "b"
    inner.mkdir(parents=True)
    assert resources.memory_available() == 4000 * 1024
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("50000 100000\n")
    assert resources.cores() == 1
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("3000000\n")
    (inner.parent / "memory.current").write_text("1000000\n")
    (inner.parent / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert resources.memory_available() == 2_500_000
    (inner / "memory.high").write_text("1500000\n")
    (inner / "memory.current").write_text("600000\n")
    assert resources.memory_available() == 900_000
    (inner / "memory.high").write_text("max\n")
    older = tmp_path / "cgroup" / "memory" / "d"
    older.mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/d\n0::/a/b\n")
    (older.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (older.parent / "memory.usage_in_bytes").write_text("3000000\n")
    assert resources.memory_available() == 2_500_000
    (older / "memory.limit_in_bytes").write_text("2000000\n")
    (older / "memory.usage_in_bytes").write_text("1500000\n")
    (older / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 200000\n")
    assert resources.memory_available() == 700_000


CHILD = """
import resource, sys
from runtime.engine.native_runner import open_native
from runtime.engine.protocol import Load
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
print(open_native(Load(path=sys.argv[1], threads=1, n_ctx=512)).facts["kv_bytes"])
open_native(Load(path=sys.argv[1], threads=1, n_ctx=512, parallel=4000))
"""


def test_a_limit_of_addresses_counts(model: Path) -> None:
    """`ulimit -v`: what does not fit is refused with the numbers, before an allocation fails without any."""
    child = subprocess.run([sys.executable, "-c", CHILD, model], cwd=ROOT, capture_output=True, text=True)
    assert int(child.stdout) > 0
    assert "OutOfMemory: model requires more system memory" in child.stderr and "4000 x" in child.stderr


V1 = "cpu,cpuacct/d/cpu.cfs_"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "350000 100000", "a/cpu.max": "150000 100000"}, 2),  # the least of those above
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "nonsense", "a/cpu.max": "300000 0"}, 8),
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),  # a hundredth of a core is one thread
        ("4:cpu,cpuacct:/d\n0::/\n", {V1 + "quota_us": "250000", V1 + "period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/d\n", {V1 + "quota_us": "-1", V1 + "period_us": "100000"}, 8),
        # in a container: the host's path, of which only the root is mounted, under the controller's own name
        ("4:cpu,cpuacct:/docker/d\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("5:cpuset:/d\n", {"cpuset/d/cpu.cfs_quota_us": "100000", "cpuset/d/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_threads_follow_the_quota_of_both_versions_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cores: int
) -> None:
    """The eight cores of this machine are what a cpuset left of it: the kernel has cut the affinity already."""
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    files = {f"cgroup/{name}": text for name, text in files.items()} | {"proc/self/cgroup": groups}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert resources.cores() == cores


def test_no_more_threads_than_an_engine_takes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(1536)))
    monkeypatch.setattr(resources, "CGROUP", "/nonexistent")
    most = resources.cores()
    _, plan, weights = load_model_file(Gguf.open(model))
    with pytest.raises(InputError, match=f"threads is {most + 1}, expected 1 to {most}"):
        native.measure(plan, weights, threads=most + 1, n_blocks=1, max_rows=1, max_seqs=1, max_outputs=1)


@pytest.mark.parametrize(
    ("fixed", "each", "slowest"),
    [(100, 10, 1000), (900, 1, 1627), (10, 100, 1000), (5000, 50, 9360), (0, 2000, 1000), (100, 1, 1000)],
)
def test_pace_finds_the_rows_that_fit_and_starves_nobody(fixed: int, each: int, slowest: int) -> None:
    """A machine whose steps take `fixed` + `each` x rows, and the longest step aimed at: the target; twice the step
    without a prompt where that is longer; the least rows where nothing fits."""
    pace = Pace(max_rows=512, stall_ns=1500)
    for _ in range(3):
        pace.took(4, 0, fixed + each * 4)
    for _ in range(30):
        rows = pace.rows(4, 1)
        pace.took(rows, rows - 4, fixed + each * rows)
    rows = pace.rows(4, 1)
    assert rows == 4 + SMALLEST or (fixed + each * rows) <= 1.1 * slowest
    assert rows == 512 or fixed + each * (rows + 2) >= 0.9 * slowest
    assert pace.rows(1, 0) == 512


def test_pace_grows_by_doubling_and_takes_a_slow_step_back() -> None:
    pace = Pace(max_rows=512, stall_ns=1000)
    assert pace.rows(2, 0) == 2 + SMALLEST
    pace.took(2, 0, 100)
    before = 2 + SMALLEST
    for _ in range(8):
        rows = pace.rows(2, 1)
        assert rows <= 2 * before
        pace.took(rows, rows - 2, 100 + rows // 10)
        before = rows
    assert before > 256
    pace.took(before, before - 2, 100_000)
    assert pace.rows(2, 1) == 2 + SMALLEST


def test_a_model_that_went_while_it_loads_is_refused_without_its_path(tmp_path: Path) -> None:
    source = ModelSource(name="m", digest="d", weights="w", path=tmp_path / "gone", size=1, n_ctx=64)
    with pytest.raises(ModelRefused, match="the file cannot be read") as refused:
        asyncio.run(load_model(source))
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(ModelRefused, match="the file cannot be read") as refused:
        read_text_side(source.path)
    assert str(tmp_path) not in str(refused.value)
