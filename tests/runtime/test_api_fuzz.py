"""Any JSON object sent to any route is answered without a fault of ours: no "internal error", no hang, one document, no
5xx without a line in the log that says why, and nothing that stays in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.store import Store
from runtime.api.app import NOT_BUILT, ROUTES, create_app
from runtime.told import Settings
from tests.peers.scripted import Script, scripted_manager, small_store

KEYS = [
    "model",
    "name",
    "messages",
    "prompt",
    "stream",
    "options",
    "format",
    "keep_alive",
    "think",
    "logprobs",
    "top_logprobs",
    "context",
    "raw",
    "suffix",
    "system",
    "template",
    "images",
    "tools",
    "truncate",
    "source",
    "destination",
    "from",
    "files",
    "adapters",
    "license",
    "parameters",
    "insecure",
    "verbose",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "n",
    "logit_bias",
    "response_format",
    "stream_options",
    "reasoning_effort",
    "reasoning",
    "echo",
    "dimensions",
    "encoding_format",
    "truncate",
    "best_of",
    "input",
    "instructions",
    "text",
    "tool_choice",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "max_output_tokens",
    "previous_response_id",
    "truncation",
    "include",
    "metadata",
    "thinking",
    "output_config",
    "stop_sequences",
    "content",
    "tokens",
    "add_special",
]
NAMES = st.sampled_from(
    ["demo", "acme/tuned:v1", "embedder", "gone", "", "a b", "x:cloud", "../../etc", "demo:latest", "é"]
)
WORDS = ["role", "content", "type", "text", "function", "name", "arguments", "schema", "tool_calls", "user", "tool"]
WORDS += ["function_call", "call_id", "tool_use", "tool_result", "message", "json_schema", "input", "thinking"]
SCALARS = (
    st.sampled_from(WORDS)
    | st.none()
    | st.booleans()
    | st.integers(-10, 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | NAMES
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WORDS, "num_ctx", "stop", "a"]), inner, max_size=4)
    ),
    max_leaves=6,
)
SOUND: dict[str, Any] = {
    "prompt": "x",
    "input": "x",
    "messages": [{"role": "user", "content": "x"}],
    "source": "demo",
    "destination": "d",
    "max_tokens": 5,
}
ODD = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)
BODIES = st.builds(lambda name, odd: SOUND | {"model": name} | odd, NAMES, ODD)
PATHS = st.sampled_from(
    [
        (method, path)
        for methods, path, _ in ROUTES
        if path not in NOT_BUILT
        for method in methods.split()
        if method in ("POST", "DELETE")
    ]
)


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("pattern"))


class Told(logging.Handler):
    """Lines of the log that explain an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    handler, log = Told(), logging.getLogger("sealift.api")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(PATHS, BODIES), min_size=1, max_size=3))
def test_no_body_is_a_fault_of_ours(
    pattern: Store, told: Told, tmp_path: Path, asked: list[tuple[tuple[str, str], dict[str, Any]]]
) -> None:
    root = tmp_path / "models"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(pattern.root, root)

    async def main() -> None:
        script = Script()
        manager = scripted_manager(script)
        transport = httpx.ASGITransport(app=create_app(Store(root), manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for (method, path), body in asked:
                url = path.replace("{digest}", "sha256:" + "0" * 64)
                if path == "/v1/responses":
                    body.pop("prompt", None)  # a stored one, which is refused before all else
                told.lines.clear()
                response = await asyncio.wait_for(client.request(method, url, content=json.dumps(body)), 60)
                assert b"internal error" not in response.content
                if response.status_code >= 500:
                    assert any(line.startswith(f"answered {response.status_code}: ") for line in told.lines)
                    assert response.json()["error"]
        await manager.close()
        assert script.begun == script.ended

    asyncio.run(main())


ODDITIES: tuple[dict[str, Any], ...] = (
    {},
    {"messages": [{"role": "tool", "content": [1]}], "prompt": {}, "input": [[[]]]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["x"]}}}]},
    {"format": {"$ref": "#/$defs/none"}, "response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
    {"template": "{{ range .Messages", "options": {"temperature": "hot"}, "keep_alive": "soon"},
    {"stop": [1], "logit_bias": {"x": "y"}, "n": 10**9, "echo": True, "logprobs": -1},
    {"files": {"a": "sha256:0"}, "from": "gone", "parameters": [], "tokens": [-1, 1 << 40]},
)


def test_nothing_stays_of_what_was_refused_or_answered(
    pattern: Store, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """The same bodies again: as many objects afterwards as before, once what may be remembered is."""
    caplog.set_level(logging.WARNING, logger="sealift.request")  # pytest keeps every record that is let through

    async def main() -> list[int]:
        counts = []
        manager = scripted_manager(Script())
        transport = httpx.ASGITransport(app=create_app(pattern, manager, settings=Settings(read_only=True)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _ in range(6):
                for methods, path, _ in ROUTES:
                    for odd in ODDITIES:
                        body = json.dumps(SOUND | {"model": "demo"} | odd)
                        await client.request(methods.split()[-1], path.replace("{digest}", "sha256:0"), content=body)
                told.lines.clear()
                gc.collect()
                counts.append(len(gc.get_objects()))
        await manager.close()
        return counts

    grown = [after - before for before, after in pairwise(asyncio.run(main()))]
    assert min(grown) < 300  # of some 250 requests: what leaks would leak two objects of each in every round
