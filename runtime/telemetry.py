"""Spans of generations for OpenTelemetry, by its conventions for generative AI. Needs the extra `otel`.

A server makes them only where `--otel-endpoint` names a collector, and then connects to that one and to nothing else:
the only outbound connection of a server that is not --online. A collector that is away costs spans, never an answer.
One span for each generation, `{operation} {model}`, ended with it; below the caller's where it sends `traceparent`.
Counts, times and settings only: neither prompts nor answers.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from runtime.api.observing import record_now
from runtime.errors import RequestRefused
from runtime.metrics import Watch

TIMEOUT_S = 2.0  # that the collector has for a batch, and the last one when the server ends
OPERATIONS = {
    "/api/generate": "text_completion",
    "/v1/completions": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
}  # all others: chat
PROVIDER = "sealift"


def checked_endpoint(text: str) -> str:
    """`http://collector:4318`; its own path where none is said. Raises RequestRefused."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        good = False
    if not good or not text.isprintable():
        raise RequestRefused(f"--otel-endpoint: no URL: {text[:80]!r}", hint="write http://collector:4318")
    return text if url.path.strip("/") else text.rstrip("/") + "/v1/traces"


class Spans:
    """`exporter` stands in for the one that sends to `endpoint`. Raises RequestRefused where the extra is missing."""

    def __init__(self, endpoint: str, *, version: str = "0", exporter: Any = None) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise RequestRefused(
                "--otel-endpoint: OpenTelemetry is not installed", hint="pip install 'sealift[otel]'"
            ) from None
        exporter = exporter or OTLPSpanExporter(endpoint=checked_endpoint(endpoint), timeout=TIMEOUT_S)
        resource = Resource.create({"service.name": "sealift", "service.version": version})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sealift", version)

    def __call__(self, watch: Watch) -> None:
        """The span of a generation that has ended."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        record = record_now()
        carrier = {"traceparent": record.traceparent} if record is not None and record.traceparent else {}
        operation = OPERATIONS.get(record.route if record is not None else "", "chat")
        end = time.time_ns()
        span = self._tracer.start_span(
            f"{operation} {watch.name}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes=_attributes(watch, operation, record.id if record is not None else ""),
            start_time=end - (time.monotonic_ns() - watch.began),
        )
        if watch.reason in ("error", "refused"):
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", type(watch.error).__name__ if watch.error else watch.reason)
        span.end(end)

    def close(self) -> None:
        """Sends what is left. Blocks for about TIMEOUT_S at most."""
        self._provider.shutdown()


def _attributes(watch: Watch, operation: str, request_id: str) -> dict[str, Any]:
    usage, asked = watch.usage, watch.request
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": watch.name,
        "gen_ai.response.model": watch.name,
        "gen_ai.response.finish_reasons": [watch.reason],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.response.time_to_first_chunk": watch.first_token,
        "sealift.manifest.digest": watch.digest,
        "sealift.request.id": request_id,
    }
    if asked is not None:
        sampling, form = asked.sampling, asked.constraint
        found |= {
            "gen_ai.request.max_tokens": asked.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
            "gen_ai.request.presence_penalty": sampling.presence_penalty,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.output.type": "json" if form is not None and form.kind in ("json", "schema") else "text",
        }
    return {key: value for key, value in found.items() if value is not None and value != ""}
