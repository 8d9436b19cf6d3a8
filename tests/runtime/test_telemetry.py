"""Spans by OpenTelemetry's conventions for generative AI; sent over the wire only where an endpoint was named."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from manifests.store import Store
from runtime.address import parse_address
from runtime.api.app import create_app
from runtime.errors import OutOfMemory, RequestRefused
from runtime.metrics import Metrics
from runtime.telemetry import Spans, checked_endpoint
from runtime.told import resolve
from tests.peers.scripted import Script, scripted_manager, small_store

SECRET = "the-prompt-that-nobody-shall-read"
HI = [{"role": "user", "content": SECRET}]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C's Trace Context


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def ask(store: Store, spans: Spans, script: Script, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        metrics, manager = Metrics(), scripted_manager(script)
        metrics.on_end = spans
        transport = httpx.ASGITransport(app=create_app(store, manager, metrics=metrics))
        headers = {"traceparent": PARENT}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            try:
                return [await client.post(path, json={"model": "demo", **body}) for path, body in requests]
            finally:
                await manager.close()

    return asyncio.run(main())


def test_a_span_for_each_generation(store: Store) -> None:
    exporter = InMemorySpanExporter()
    spans = Spans("", exporter=exporter)
    options = {"temperature": 0.5, "top_k": 7, "seed": 3, "num_predict": 99}
    chat: dict[str, Any] = {"messages": HI, "stream": False, "options": options}
    answers = ask(
        store, spans, Script(), ("/api/chat", chat), ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 9, "response_format": {"type": "json_object"}}),
    )  # fmt: skip
    ask(store, spans, Script(fail_after=1), ("/api/chat", chat))
    ask(store, spans, Script(load_error=OutOfMemory("9 and 3")), ("/api/chat", chat))
    spans.close()
    found: tuple[ReadableSpan, ...] = exporter.get_finished_spans()
    names = [span.name for span in found]
    assert names == ["chat demo:latest", *["text_completion demo:latest"] * 2, *["chat demo:latest"] * 3]
    first, said = dict(found[0].attributes or {}), answers[0].json()
    assert first["gen_ai.provider.name"] == "sealift" and first["gen_ai.operation.name"] == "chat"
    assert first["gen_ai.usage.input_tokens"] == said["prompt_eval_count"]
    assert first["gen_ai.usage.output_tokens"] == said["eval_count"]
    assert first["gen_ai.usage.cache_read.input_tokens"] == 1
    assert first["gen_ai.response.finish_reasons"] == ("stop",)
    asked = {name: first[f"gen_ai.request.{name}"] for name in ("temperature", "top_k", "seed", "max_tokens")}
    assert asked == {"temperature": 0.5, "top_k": 7, "seed": 3, "max_tokens": 99}
    assert [(span.attributes or {}).get("gen_ai.output.type") for span in found[:4]] == ["text", "text", "text", "json"]
    assert first["sealift.request.id"] == answers[0].headers["x-request-id"]
    assert 0 < first["gen_ai.response.time_to_first_chunk"] < 60  # type: ignore[operator]
    for span in found:
        assert span.parent is not None and f"{span.parent.trace_id:032x}" == PARENT.split("-")[1]
        assert span.start_time is not None and span.end_time is not None and span.start_time < span.end_time
        assert SECRET not in span.to_json() and "Hello" not in span.to_json()
    assert [dict(span.attributes or {}).get("error.type") for span in found[-2:]] == ["WorkerDied", "OutOfMemory"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes what is posted."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
        server.shutdown()
        thread.join()


def test_spans_reach_a_collector_over_otlp(store: Store, collector: tuple[str, list[bytes]]) -> None:
    url, bodies = collector
    spans = Spans(url)
    ask(store, spans, Script(), ("/api/chat", {"messages": HI, "stream": False}))
    spans.close()
    sent = ExportTraceServiceRequest.FromString(b"".join(bodies))
    (span,) = [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert span.name == "chat demo:latest" and SECRET.encode() not in b"".join(bodies)


def test_only_an_endpoint_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere.invalid")
    assert resolve(parse_address("")).otel_endpoint == ""
    assert checked_endpoint("http://c:4318") == checked_endpoint("http://c:4318/") == "http://c:4318/v1/traces"
    assert checked_endpoint("https://c/otlp/v1/traces") == "https://c/otlp/v1/traces"
    for wrong in ("c:4318", "grpc://c:4317", "http://", "http://c:x", "http://c/\n", "http://c:99999"):
        with pytest.raises(RequestRefused, match="no URL"):
            checked_endpoint(wrong)


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestRefused, match="is not installed") as caught:
        Spans("http://c")
    assert caught.value.hint == "pip install 'sealift[otel]'"
