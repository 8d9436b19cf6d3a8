"""/metrics: the counts are those of the answers, whatever happens to a generation; Prometheus' parser reads them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from manifests.store import Store
from runtime import metrics as metrics_module
from runtime.api.app import create_app
from runtime.errors import ContextExceeded, OutOfMemory, RequestCancelled, RuntimeFailure, WorkerDied
from runtime.events import Finish, Usage
from runtime.loaded import GenerateRequest
from runtime.manager import Manager
from runtime.metrics import GAP, LATENCY, OTHERS, Histogram, Metrics
from tests.peers.live import live
from tests.peers.scripted import Script, scripted_manager, small_store
from tests.runtime.test_engine_loaded import loaded

HI = [{"role": "user", "content": "Hi"}]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@contextlib.asynccontextmanager
async def asking(store: Store, script: Script) -> AsyncIterator[tuple[httpx.AsyncClient, Metrics]]:
    metrics = Metrics()
    manager = scripted_manager(script)
    manager._load = metrics.timed(manager._load)
    app = create_app(store, manager, metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        try:
            yield client, metrics
        finally:
            await manager.close()


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum over all rows that have these labels."""
    rows = [
        number for (other, pairs), number in found.items() if other == name and labels.items() <= dict(pairs).items()
    ]
    return sum(rows)


def test_the_counts_are_those_of_the_answers(store: Store) -> None:
    async def main() -> None:
        async with asking(store, Script()) as (client, _):
            prompt = answer = cached = 0
            for number in range(3):
                body = {"model": "demo", "messages": HI, "stream": bool(number % 2)}
                last = json.loads((await client.post("/api/chat", json=body)).content.splitlines()[-1])
                prompt, answer = prompt + last["prompt_eval_count"], answer + last["eval_count"]
            body = {"model": "demo", "prompt": ["a", "b"]}
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
            prompt, answer = prompt + usage["prompt_tokens"], answer + usage["completion_tokens"]
            cached = usage["prompt_tokens_details"]["cached_tokens"] + 3
            page = await client.get("/metrics")
            assert page.headers["content-type"].startswith("text/plain")
            found = samples(page.text)
            for ours, theirs, count in (
                ("sealift_prompt_tokens_total", "vllm:prompt_tokens_total", prompt),
                ("sealift_prompt_tokens_cached_total", "vllm:prefix_cache_hits_total", cached),
                ("sealift_generated_tokens_total", "vllm:generation_tokens_total", answer),
                ("sealift_generations_total", "vllm:request_success_total", 5),
                ("sealift_time_to_first_token_seconds_count", "vllm:time_to_first_token_seconds_count", 5),
                ("sealift_inter_token_latency_seconds_count", "vllm:inter_token_latency_seconds_count", answer - 5),
                ("sealift_generation_seconds_count", "vllm:e2e_request_latency_seconds_count", 5),
                ("sealift_prompt_size_tokens_sum", "vllm:request_prompt_tokens_sum", prompt),
                ("sealift_answer_size_tokens_sum", "vllm:request_generation_tokens_sum", answer),
                ("sealift_answer_size_tokens_sum", "vllm:request_max_num_generation_tokens_sum", answer),
                ("sealift_inference_seconds_count", "vllm:request_inference_time_seconds_count", 5),
                ("sealift_requests_running", "vllm:num_requests_running", 0),
            ):
                assert value(found, ours, model="demo:latest") == count, ours
                assert value(found, theirs, model_name="demo:latest") == count, theirs
            seconds = [value(found, f"sealift_{part}_seconds_sum") for part in ("prefill", "decode", "inference")]
            assert seconds[0] + seconds[1] == pytest.approx(seconds[2])
            assert {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"} <= {name for name, _ in found}
            assert value(found, "sealift_model_loads_total", outcome="ok") == 1
            assert value(found, "http_requests_total", handler="/api/chat", method="POST", status="200") == 3
            digest = (await client.get("/api/tags")).json()["models"]
            digests = {model["digest"] for model in digest if model["name"] == "demo:latest"}
            assert {dict(labels)["digest"] for name, labels in found if name == "sealift_generations_total"} == digests
            other = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
            families = open_metrics(other.text)  # type: ignore[no-untyped-call]
            assert {family.name for family in families} >= {"sealift_prompt_tokens", "vllm:prompt_tokens"}

    asyncio.run(main())


def test_every_end_is_counted_once(store: Store) -> None:
    async def main() -> None:
        script = Script()
        async with asking(store, script) as (client, metrics):
            chat = {"model": "demo", "messages": HI, "stream": False}
            assert (await client.post("/api/chat", json=chat)).status_code == 200
            script.reason = "length"
            assert (await client.post("/api/chat", json=chat)).status_code == 200
            script.fail_after = 1
            assert (await client.post("/api/chat", json=chat)).status_code == 500
            script.fail_after, script.gate = None, asyncio.Event()
            for path in ("/api/chat", "/v1/chat/completions"):
                begun = script.begun
                gone = asyncio.ensure_future(client.post(path, json=chat | {"stream": True}))
                while script.begun == begun:
                    await asyncio.sleep(0.001)
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
            script.gate.set()
            script.load_error = OutOfMemory("9 are needed and 3 are free")
            other = chat | {"options": {"num_ctx": 64}}
            assert (await client.post("/api/chat", json=other)).status_code == 500
            script.load_error = None
            figures = metrics.figures(
                "demo:latest", next(digest for name, digest in metrics.models if name == "demo:latest")
            )
            assert figures.finished == {"stop": 1, "length": 1, "error": 1, "cancelled": 2, "refused": 1}
            assert figures.loads == {"ok": 1, "failed": 1}
            assert sum(figures.whole.counts) == 6 and sum(figures.prompt_size.counts) == 5
            found = samples((await client.get("/metrics")).text)
            theirs = {"stop": 1, "length": 1, "abort": 2}
            for reason, count in theirs.items():
                assert value(found, "vllm:request_success_total", finished_reason=reason) == count
            assert value(found, "vllm:request_success_total") == sum(theirs.values())

    asyncio.run(main())


def test_what_runs_and_waits_is_seen(store: Store) -> None:
    async def main() -> None:
        script = Script(gate=asyncio.Event())
        assert script.gate is not None
        async with asking(store, script) as (client, _):
            chat = {"model": "demo", "messages": HI, "stream": False}
            two = [asyncio.ensure_future(client.post("/api/chat", json=chat)) for _ in range(2)]
            while script.begun < 2:
                await asyncio.sleep(0.001)
            found = samples((await client.get("/metrics")).text)
            assert value(found, "sealift_requests_running", model="demo:latest") == 2
            assert value(found, "vllm:num_requests_running", model_name="demo:latest", engine="0") == 2
            assert value(found, "sealift_requests_waiting") == 0
            script.gate.set()
            await asyncio.gather(*two)
            assert value(samples((await client.get("/metrics")).text), "sealift_requests_running") == 0

    asyncio.run(main())


def test_the_real_engine_is_counted_to_the_token(store: Store) -> None:
    """With a model that is really loaded: cache hits, and a client that goes away."""
    metrics = Metrics()
    with live(store, metrics=metrics) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        body: dict[str, Any] = {"model": "demo", "prompt": "x" * 70, "raw": True, "stream": False}
        body["options"] = {"num_predict": 5, "seed": 1, "temperature": 0}
        answers = [client.post("/api/generate", json=body).json() for _ in range(2)]
        found = samples(client.get("/metrics").text)
        assert value(found, "sealift_prompt_tokens_total") == sum(answer["prompt_eval_count"] for answer in answers)
        assert value(found, "sealift_generated_tokens_total") == sum(answer["eval_count"] for answer in answers)
        assert value(found, "sealift_prompt_tokens_cached_total") >= 32, "the second prompt's first blocks"
        assert value(found, "sealift_kv_cache_use_ratio") == 0, "nobody is answered now"
        endless = body | {"stream": True, "options": {"num_predict": -1, "num_ctx": 4096}}
        read = 0
        with client.stream("POST", "/api/generate", json=endless | {"logprobs": True}) as stream:
            for line in stream.iter_lines():
                read += len(json.loads(line).get("logprobs", ()))
                if read > 3:
                    break
        while sum(metrics.models[next(iter(metrics.models))].finished.values()) < 3:
            client.get("/health")
        after = samples(client.get("/metrics").text)
        more = value(after, "sealift_generated_tokens_total") - value(found, "sealift_generated_tokens_total")
        assert more >= read, "whatever was sent was counted"
        gaps = value(after, "sealift_inter_token_latency_seconds_count")
        assert gaps == value(after, "sealift_generated_tokens_total") - 3


@pytest.mark.parametrize("take", [0, 1, 3])
def test_an_answer_that_nobody_reads_on_has_an_end_too(take: int) -> None:
    async def main() -> None:
        metrics = Metrics()
        async with loaded("slow", n_ctx=4096) as model:  # an answer of eight seconds, if it were read
            watch = metrics.watch("m", "d").at(model)
            events = model.generate(GenerateRequest(prompt=(1, 2, 3), ignore_eos=True, watch=watch))
            for _ in range(take):
                await anext(events)
            await events.aclose()
            watch.close()
            figures = metrics.models["m", "d"]
            assert watch.reason == "cancelled" and figures.finished == {"cancelled": 1}
            assert figures.prompt_tokens == 3 and figures.generated_tokens == watch.usage.generated_tokens
            assert (take == 0) == (figures.generated_tokens == 0)
            whole = metrics.watch("m", "d").at(model)
            request = GenerateRequest(prompt=(1, 2), max_tokens=4, ignore_eos=True, watch=whole)
            finish = [event async for event in model.generate(request)][-1]
            assert (
                isinstance(finish, Finish) and finish.usage == whole.usage and whole.reason == finish.reason == "length"
            )
            assert sum(figures.gap.counts) == sum(max(0, n - 1) for n in (watch.usage.generated_tokens, 4))

    asyncio.run(main())


def test_the_pools_use_is_what_the_worker_said() -> None:
    async def main() -> None:
        async with loaded("slow", n_ctx=4096) as model:  # an answer of eight seconds, if it were read
            assert model.cache_use == 0
            events = model.generate(GenerateRequest(prompt=tuple(range(1, 65)), ignore_eos=True))
            await anext(events)
            blocks = model.cache_use * model.ready.n_blocks
            assert round(blocks) == pytest.approx(blocks) and 2 <= blocks < model.ready.n_blocks
            await events.aclose()
            assert model.cache_use == 0

    asyncio.run(main())


def test_preemptions_are_those_of_the_worker() -> None:
    class Model:
        name, digest, preemptions = "m", "d", 0

    metrics, model = Metrics(), Model()
    for said in (0, 2, 2, 5):
        model.preemptions = said
        metrics.watch("m", "d").at(model).close()
    assert metrics.models["m", "d"].preemptions == 5
    again = Model()  # loaded anew: its worker counts from 0
    again.preemptions = 1
    metrics.watch("m", "d").at(again).close()
    assert metrics.models["m", "d"].preemptions == 6


def test_errors_by_what_they_are() -> None:
    for error, reason in (
        (None, "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (RequestCancelled(), "cancelled"),
        (WorkerDied("x"), "refused"),
    ):
        metrics = Metrics()
        watch = metrics.watch("m", "d")
        watch.close(error)
        watch.close()
        assert metrics.models["m", "d"].finished == {reason: 1}


@given(st.lists(st.floats(0, 1e5)))
def test_a_histogram_is_what_prometheus_means(values: list[float]) -> None:
    """ "le" is inclusive and cumulative."""
    histogram = Histogram(LATENCY)
    for number in values:
        histogram.add(number)
    for bound, count in histogram.cumulative():
        assert count == sum(number <= float(bound) for number in values)
    assert histogram.sum == pytest.approx(sum(values))


@given(st.lists(st.integers(-(1 << 70), 1 << 70), max_size=20))
def test_a_workers_clock_is_a_strangers(ages: list[int]) -> None:
    metrics = Metrics()
    watch = metrics.watch("m", "d")
    for age in ages:
        watch.token(age)
    watch.ended(Finish(reason="stop", usage=Usage(generated_tokens=len(ages)), seed=1))
    watch.close()
    figures = metrics.models["m", "d"]
    assert sum(figures.gap.counts) + sum(figures.first_token.counts) == len(ages)
    assert 0 <= figures.gap.sum <= 3600 * len(ages)


@pytest.mark.parametrize(
    ("began", "error", "reason"),
    [
        (False, OutOfMemory("not now"), "refused"),
        (True, ContextExceeded(), "refused"),
        (True, WorkerDied("it fell over"), "error"),
        (True, RequestCancelled(), "cancelled"),
    ],
)
def test_what_ends_without_a_finish_has_the_reason_of_its_error(
    began: bool, error: RuntimeFailure, reason: str
) -> None:
    """A vector has none: its worker's death is no refusal."""
    metrics, model = Metrics(), Mock(preemptions=0)
    watch = metrics.watch("m", "d")
    if began:
        watch.at(model)
    watch.close(error)
    assert (watch.reason, watch.error) == (reason, error) and metrics.models["m", "d"].finished == {reason: 1}


def test_labels_are_bounded(store: Store) -> None:
    metrics = Metrics()
    for number in range(metrics_module.MAX_MODELS + 50):
        metrics.watch(f"m{number}", "d").close()
    assert len(metrics.models) == metrics_module.MAX_MODELS + 1
    assert metrics.models[OTHERS].finished == {"cancelled": 50}

    async def main() -> None:
        async with asking(store, Script()) as (client, metrics):
            for number in range(50):
                await client.request(f"X{number}", f"/nosuch{number}")
                await client.get(f"/v1/models/gone{number}")
            assert set(metrics.http) == {("(none)", "(other)", "404"), ("/v1/models/{model:path}", "GET", "404")}

    asyncio.run(main())


def test_names_of_models_cannot_break_the_page() -> None:
    from prometheus_client import generate_latest

    from runtime.metrics_page import registry

    async def main() -> str:
        metrics = Metrics()
        metrics.watch('a"b\\c\nd', "d").close()
        manager = Manager()
        return generate_latest(registry(metrics, manager)).decode()

    found = samples(asyncio.run(main()))
    assert value(found, "sealift_generations_total", model='a"b\\c\nd') == 1


def test_vllms_buckets_are_vllms() -> None:
    assert LATENCY[0] == 0.3 and LATENCY[-1] == 7680 and len(LATENCY) == 21
    assert GAP[0] == 0.01 and GAP[-1] == 80 and len(GAP) == 19
    assert Counter(LATENCY).most_common(1)[0][1] == 1


def test_the_page_needs_no_path_of_this_machine(tmp_path: Path, store: Store) -> None:
    """It may cross to a monitoring host: names, digests and numbers alone."""

    async def main() -> None:
        async with asking(store, Script()) as (client, _):
            await client.post("/api/chat", json={"model": "demo", "messages": HI, "stream": False})
            text = (await client.get("/metrics")).text
            assert str(store.root) not in text and "Hi" not in text

    asyncio.run(main())
