"""/metrics: what was counted, and how the models are now, as families of the Prometheus client's registry.

Ours are `sealift_*`, in base units, labelled with the model's name and its manifest's digest. Beside them stand the
names that vLLM's dashboards draw, from the same numbers. A model under two names is counted under the one that was
asked; what its process says (running, waiting, cache use) stands under the name that it was loaded by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from manifests.home import VERSION
from runtime.manager import Manager
from runtime.metrics import Figures, Histogram, Metrics

LABELS = ("model", "digest")
THEIRS = ("model_name", "engine")
ENGINE = "0"  # vLLM numbers its engines; a model has one here

Of = Callable[[Figures], Any]
Rows = Iterable[tuple[tuple[str, ...], float]]

COUNTERS: tuple[tuple[str, str, str, Of], ...] = (  # ours, vLLM's, what it says, where it is
    ("sealift_prompt_tokens", "vllm:prompt_tokens", "Tokens of prompts, cached ones too.", lambda f: f.prompt_tokens),
    ("sealift_prompt_tokens_cached", "vllm:prefix_cache_hits", "Tokens of prompts that came from the cache.",
     lambda f: f.cached_tokens),
    ("sealift_generated_tokens", "vllm:generation_tokens", "Tokens of answers.", lambda f: f.generated_tokens),
    ("sealift_preemptions", "vllm:num_preemptions", "How often a request gave its place to another.",
     lambda f: f.preemptions),
)  # fmt: skip
HISTOGRAMS: tuple[tuple[str, tuple[str, ...], str, Of], ...] = (
    ("sealift_time_to_first_token_seconds", ("vllm:time_to_first_token_seconds",),
     "From the request until the first token was computed.", lambda f: f.first_token),
    ("sealift_inter_token_latency_seconds", ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
     "From one token of an answer to its next.", lambda f: f.gap),
    ("sealift_generation_seconds", ("vllm:e2e_request_latency_seconds",),
     "From the request until its answer ended, loading included.", lambda f: f.whole),
    ("sealift_queue_seconds", ("vllm:request_queue_time_seconds",), "Waited for a place in the batch.",
     lambda f: f.queue),
    ("sealift_prefill_seconds", ("vllm:request_prefill_time_seconds",), "Computed the prompt.", lambda f: f.prefill),
    ("sealift_decode_seconds", ("vllm:request_decode_time_seconds",), "Computed the answer.", lambda f: f.decode),
    ("sealift_inference_seconds", ("vllm:request_inference_time_seconds",), "Computed prompt and answer.",
     lambda f: f.inference),
    ("sealift_load_seconds", (), "Loaded a model.", lambda f: f.load),
    ("sealift_prompt_size_tokens", ("vllm:request_prompt_tokens",), "Prompts by size.", lambda f: f.prompt_size),
    ("sealift_answer_size_tokens", ("vllm:request_generation_tokens", "vllm:request_max_num_generation_tokens"),
     "Answers by size.", lambda f: f.answer_size),
)  # fmt: skip


def registry(metrics: Metrics, manager: Manager) -> CollectorRegistry:
    """One look, for one answer."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Page(metrics, manager))
    ProcessCollector(registry=found)
    return found


class _Page:
    def __init__(self, metrics: Metrics, manager: Manager) -> None:
        self._metrics, self._manager = metrics, manager

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("sealift_build", "What answers.", value={"version": VERSION})
        yield from self._counted()
        yield from self._now()
        yield from self._http()

    def _counted(self) -> Iterator[Metric]:
        models = self._metrics.models
        for ours, theirs, text, of in COUNTERS:
            yield from _both(CounterMetricFamily, ours, (theirs,), text, [(key, of(f)) for key, f in models.items()])
        queries: Rows = [(_engine(name), figures.prompt_tokens) for (name, _), figures in models.items()]
        yield _family(CounterMetricFamily, "vllm:prefix_cache_queries", "Tokens looked up.", THEIRS, _sum(queries))
        for ours, others, text, of in HISTOGRAMS:
            yield _histogram(ours, text, LABELS, {key: [of(figures)] for key, figures in models.items()})
            by_name: dict[tuple[str, ...], list[Histogram]] = {}
            for (name, _), figures in models.items():
                by_name.setdefault(_engine(name), []).append(of(figures))
            yield from (_histogram(theirs, text, THEIRS, by_name) for theirs in others)
        finished = [((*key, reason), n) for key, f in models.items() for reason, n in f.finished.items()]
        labels = (*LABELS, "reason")
        yield _family(CounterMetricFamily, "sealift_generations", "Generations by how they ended.", labels, finished)
        success = [
            ((*_engine(name), THEIR_REASONS[reason]), n) for (name, _, reason), n in finished if reason in THEIR_REASONS
        ]
        labels = (*THEIRS, "finished_reason")
        yield _family(CounterMetricFamily, "vllm:request_success", "Finished requests.", labels, _sum(success))
        loads = [((*key, outcome), n) for key, f in models.items() for outcome, n in f.loads.items()]
        labels = (*LABELS, "outcome")
        yield _family(CounterMetricFamily, "sealift_model_loads", "Loads by outcome: ok, failed.", labels, loads)

    def _now(self) -> Iterator[Metric]:
        loaded = self._manager.loaded()
        waiting: dict[tuple[str, str], float] = {}
        for source, count in self._manager.arriving():
            waiting[source.name, source.digest] = waiting.get((source.name, source.digest), 0) + count
        for line in loaded:
            waiting[line.name, line.digest] = waiting.get((line.name, line.digest), 0) + line.waiting
        running = [((line.name, line.digest), max(0, line.users - line.waiting)) for line in loaded]
        use = [((line.name, line.digest), line.cache_use) for line in loaded]
        memory = [((line.name, line.digest), line.size) for line in loaded]
        for ours, theirs, text, rows in (
            ("sealift_requests_running", ("vllm:num_requests_running",), "Requests under way.", running),
            ("sealift_requests_waiting", ("vllm:num_requests_waiting",), "Requests that wait for a load or a place.",
             waiting.items()),
            ("sealift_kv_cache_use_ratio", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
             "Share of the key/value pool in use.", use),
            ("sealift_model_memory_bytes", (), "Memory of a loaded model.", memory),
        ):  # fmt: skip
            yield from _both(GaugeMetricFamily, ours, theirs, text, rows)

    def _http(self) -> Iterator[Metric]:
        labels = ("handler", "method", "status")
        yield _family(CounterMetricFamily, "http_requests", "Requests.", labels, self._metrics.http.items())
        seconds = {key: [histogram] for key, histogram in self._metrics.http_seconds.items()}
        yield _histogram("http_request_duration_seconds", "Whole answers.", ("handler", "method"), seconds)
        denied = [((reason,), count) for reason, count in self._metrics.denied.items()]
        yield _family(CounterMetricFamily, "sealift_requests_denied", "Requests turned away.", ("reason",), denied)


THEIR_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort"}  # a failure is no success there


def _engine(name: str) -> tuple[str, ...]:
    return (name, ENGINE)


def _both(
    kind: Any, ours: str, theirs: Iterable[str], text: str, rows: Iterable[tuple[tuple[str, str], float]]
) -> Iterator[Metric]:
    found = list(rows)
    yield _family(kind, ours, text, LABELS, found)
    for name in theirs:
        yield _family(kind, name, text, THEIRS, _sum((_engine(model), value) for (model, _), value in found))


def _sum(rows: Rows) -> Rows:
    """Rows of equal labels become one: a name may have had several digests."""
    found: dict[tuple[str, ...], float] = {}
    for labels, value in rows:
        found[labels] = found.get(labels, 0) + value
    return found.items()


def _family(kind: Any, name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family: Metric = kind(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)  # type: ignore[attr-defined]
    return family


def _histogram(name: str, text: str, labels: tuple[str, ...], rows: dict[Any, list[Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, parts in rows.items():
        whole = Histogram(parts[0].bounds)
        for part in parts:
            whole.counts = [a + b for a, b in zip(whole.counts, part.counts, strict=True)]
            whole.sum += part.sum
        family.add_metric(values, whole.cumulative(), whole.sum)
    return family
