"""Ollama's inference routes over ASGI, with a scripted model (contract, 1.1, 1.5 to 1.8)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.api import native
from runtime.api.app import create_app
from runtime.api.gojson import dump
from runtime.engine.constraint import Constraint
from runtime.errors import OutOfMemory, ServerBusy
from runtime.told import Settings
from tests.peers.scripted import Script, scripted_manager, small_store

Test = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def ask(store: Store, test: Test, script: Script | None = None, **settings: Any) -> Any:
    """Runs `test` with a client of a fresh server."""

    async def main() -> Any:
        manager = scripted_manager(script or Script(), **settings)
        app = create_app(store, manager, settings=Settings(version="9.9"))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await test(client)
            finally:
                await manager.close()

    return asyncio.run(main())


def post(store: Store, path: str, body: Any, script: Script | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def test(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, content=content)

    response: httpx.Response = ask(store, test, script)
    return response


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.content.endswith(b"\n") and b"\n\n" not in response.content  # the Python SDK breaks on blank lines
    return [json.loads(line) for line in response.content.splitlines()]


ERRORS: list[tuple[str, Any, int, str]] = [
    ("/api/generate", b"", 400, "missing request body"),
    ("/api/generate", b"{nope", 400, "invalid character 'n' looking for beginning of object key string"),
    ("/api/generate", {"model": ""}, 404, "model '' not found"),
    ("/api/generate", {"model": "a b"}, 400, "invalid model name"),
    ("/api/generate", {"model": "gone"}, 404, "model 'gone' not found"),
    ("/api/generate", {"model": "demo:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
    ("/api/generate", {"model": "m:local:cloud"}, 400, 'use either :local or :cloud, not both: "m:local:cloud"'),
    ("/api/generate", {"model": "embedder", "prompt": "x"}, 400, '"embedder" does not support generate'),
    (
        "/api/generate",
        {"model": "demo", "prompt": "x", "suffix": "y"},
        400,
        "registry.ollama.ai/library/demo:latest does not support insert",
    ),
    (
        "/api/generate",
        {"model": "demo", "prompt": "x", "raw": True, "system": "s"},
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "/api/generate",
        {"model": "demo", "prompt": "x", "format": "yaml"},
        500,
        'invalid format: "yaml"; expected "json" or a valid JSON Schema object',
    ),
    (
        "/api/generate",
        {"model": "demo", "prompt": "x", "options": {"num_ctx": "big"}},
        500,
        'option "num_ctx" must be of type integer',
    ),
    ("/api/generate", {"model": "demo", "prompt": "x", "keep_alive": "-1"}, 400, 'time: missing unit in duration "-1"'),
    ("/api/generate", {"model": "demo", "prompt": "x", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
    (
        "/api/generate",
        {"model": "demo", "prompt": "x", "top_logprobs": 21},
        400,
        "top_logprobs must be between 0 and 20",
    ),
    ("/api/chat", {"messages": []}, 400, "model is required"),
    ("/api/chat", {"model": ".."}, 400, "invalid model name"),
    ("/api/chat", {"model": "gone:1b"}, 404, "model 'gone:1b' not found"),
    (
        "/api/chat",
        {"model": "demo", "messages": [{"role": "user", "content": 1}]},
        400,
        "json: cannot unmarshal number into Go struct field Message.messages.content of type string",
    ),
    ("/api/chat", {"model": "embedder", "messages": [{}]}, 400, '"embedder" does not support chat'),
    (
        "/api/chat",
        {"model": "demo", "messages": [{}], "think": "loud"},
        400,
        'invalid think value: "loud" (must be "high", "medium", "low", "max", true, or false)',
    ),
    (
        "/api/chat",
        {"model": "demo", "messages": [{}], "think": 3},
        400,
        'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
    ),
    ("/api/chat", {"model": "demo", "messages": [{}], "think": True}, 400, '"demo" does not support thinking'),
    (
        "/api/chat",
        {"model": "demo", "messages": [{"images": ["aGk="]}], "tools": [{"type": "function"}]},
        400,
        "registry.ollama.ai/library/demo:latest does not support tools\n"
        "registry.ollama.ai/library/demo:latest does not support vision",
    ),
    (
        "/api/chat",
        {"model": "demo", "messages": [{"role": "user", "content": "x" * 3000}], "options": {"num_ctx": 64}},
        400,
        "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
        "context length in settings, or use a model with a longer context length",
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), ERRORS)
def test_errors_have_the_contracts_status_and_words(store: Store, path: str, body: Any, status: int, text: str) -> None:
    response = post(store, path, body)
    assert (response.status_code, response.json()["error"]) == (status, text)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("form", "constraint"),
    [
        ("json", Constraint(kind="json")),
        ({"type": "object"}, Constraint(kind="schema", text='{"type":"object"}')),
        ("", None),
        (None, None),
    ],
)
def test_a_format_becomes_a_constraint(store: Store, form: Any, constraint: Constraint | None) -> None:
    script = Script()
    post(store, "/api/generate", {"model": "demo", "prompt": "x", "format": form}, script)
    post(store, "/api/chat", {"model": "demo", "messages": [{"role": "user"}], "format": form}, script)
    assert [request.constraint for request in script.requests] == [constraint, constraint]


def test_generate_streams_pieces_and_one_last_line_with_figures(store: Store) -> None:
    script = Script()
    response = post(store, "/api/generate", {"MODEL": "Demo", "prompt": "Hi", "options": {"seed": 7}}, script)
    found = lines(response)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert b"\\u003cworld\\u003e \\u0026" in response.content
    assert "".join(line["response"] for line in found) == "Hello <world> & é!"
    assert [line["done"] for line in found] == [False, False, False, True]
    last = found[-1]
    assert last["done_reason"] == "stop" and last["model"] == "Demo"
    durations = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
    assert all(isinstance(last[key], int) for key in durations)
    request = script.requests[0]
    assert request.sampling.seed == 7
    assert last["prompt_eval_count"] == len(request.prompt)
    assert last["context"][: len(request.prompt)] == list(request.prompt)
    assert len(last["context"]) == last["prompt_eval_count"] + last["eval_count"]
    assert found[0]["created_at"].endswith("Z") and "T" in found[0]["created_at"]


@pytest.mark.parametrize("shape", [native.generate_shape, native.chat_shape])
@given(st.text(), st.text(min_size=1))
def test_a_prepared_line_is_what_the_whole_chunk_is_as_json(shape: native.Shape, asked: str, text: str) -> None:
    reply = native.Reply(asked=asked, shape=shape, logprobs=False, top=0, context=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "now_utc", lambda: "2026-01-02T03:04:05.678Z")
        chunk = {"model": asked, "created_at": native.now_utc(), **shape(text, "", ()), "done": False}
        assert native._text_line(reply)(text) == dump(chunk) + b"\n"


def test_streamed_or_not_the_answer_is_the_same(store: Store) -> None:
    for path, body, piece in (
        ("/api/generate", {"model": "demo", "prompt": "Hi", "logprobs": True, "top_logprobs": 2}, "response"),
        ("/api/chat", {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}, "message"),
    ):
        streamed = lines(post(store, path, body))
        whole = post(store, path, body | {"stream": False}).json()
        texts = [line[piece]["content"] if piece == "message" else line[piece] for line in streamed]
        assert "".join(texts) == (whole[piece]["content"] if piece == "message" else whole[piece])
        assert [e for line in streamed for e in line.get("logprobs", [])] == whole["logprobs"]
        varying = {"created_at", "response", "message", "logprobs", "load_duration"}
        assert {k: v for k, v in streamed[-1].items() if k not in varying} == {
            k: v for k, v in whole.items() if k not in varying
        }


def test_logprobs_carry_bytes_and_alternatives_only_when_asked(store: Store) -> None:
    body = {"model": "demo", "prompt": "Hi", "stream": False, "logprobs": True}
    entries = post(store, "/api/generate", body).json()["logprobs"]
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "Hello <world> & é!"
    assert all("top_logprobs" not in entry for entry in entries)
    entries = post(store, "/api/generate", body | {"top_logprobs": 2}).json()["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * len(entries)
    assert entries[0]["top_logprobs"][1]["logprob"] == -9999.0  # JSON has no infinity
    assert "logprobs" not in post(store, "/api/generate", body | {"logprobs": False}).json()


def test_a_failure_before_the_first_piece_is_a_status_and_after_it_a_last_line(store: Store) -> None:
    body = {"model": "demo", "prompt": "Hi"}
    early = post(store, "/api/generate", body, Script(fail_after=0))
    assert (early.status_code, early.json()) == (500, {"error": "the model fell over"})
    late = post(store, "/api/generate", body, Script(fail_after=2))
    found = lines(late)
    assert late.status_code == 200 and found[-1] == {"error": "the model fell over"}
    assert not any(line.get("done") for line in found)
    whole = post(store, "/api/generate", body | {"stream": False}, Script(fail_after=2))
    assert (whole.status_code, whole.json()) == (500, {"error": "the model fell over"})


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ServerBusy(), 503, "server busy, please try again.  maximum pending requests exceeded"),
        (OutOfMemory("the weights do not fit"), 500, "the weights do not fit"),
    ],
)
def test_what_the_manager_refuses_reaches_the_client(store: Store, error: Any, status: int, text: str) -> None:
    response = post(store, "/api/generate", {"model": "demo", "prompt": "x"}, Script(load_error=error))
    assert (response.status_code, response.json()["error"]) == (status, text)


def test_an_empty_prompt_loads_and_with_keep_alive_0_unloads(store: Store) -> None:
    async def test(client: httpx.AsyncClient) -> list[Any]:
        found: list[Any] = [(await client.post("/api/generate", json={"model": "demo"})).json()]
        found.append((await client.get("/api/ps")).json()["models"])
        found.append((await client.post("/api/chat", json={"model": "demo", "messages": [], "keep_alive": 0})).json())
        found.append((await client.get("/api/ps")).json()["models"])
        return found

    loaded, running, unloaded, rest = ask(store, test)
    assert (loaded["done_reason"], loaded["response"], loaded["done"]) == ("load", "", True)
    assert [model["name"] for model in running] == ["demo:latest"]
    assert {"digest", "size", "details", "expires_at", "size_vram", "context_length"} <= set(running[0])
    assert (unloaded["done_reason"], unloaded["message"]) == ("unload", {"role": "assistant", "content": ""})
    assert rest == []


def test_ps_tells_nothing_of_a_name_that_means_another_model_by_now(store: Store) -> None:
    async def test(client: httpx.AsyncClient) -> list[Any]:
        lines = []
        await client.post("/api/copy", json={"source": "demo", "destination": "mine"})
        await client.post("/api/generate", json={"model": "mine"})
        lines += (await client.get("/api/ps")).json()["models"]
        await client.post("/api/copy", json={"source": "embedder", "destination": "mine"})
        lines += (await client.get("/api/ps")).json()["models"]
        await client.request("DELETE", "/api/delete", json={"model": "mine"})
        lines += (await client.get("/api/ps")).json()["models"]
        return lines

    before, replaced, removed = ask(store, test)
    assert before["details"]["family"] == "llama"
    assert replaced == removed == before | {"details": replaced["details"], "expires_at": replaced["expires_at"]}
    assert replaced["details"]["family"] == ""


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_a_load_checks_its_fields_too(store: Store, path: str) -> None:
    response = post(store, path, {"model": "demo", "stream": "yes"})
    assert response.status_code == 400 and ".stream of type bool" in response.json()["error"]


def test_an_embedding_model_can_be_unloaded_though_it_cannot_answer(store: Store) -> None:
    response = post(store, "/api/generate", {"model": "embedder", "keep_alive": 0})
    assert response.json()["done_reason"] == "unload"


@pytest.mark.parametrize(
    ("path", "said"),
    [("/api/generate", {"response": ""}), ("/api/chat", {"message": {"role": "assistant", "content": ""}})],
)
def test_the_rendered_prompt_comes_in_the_routes_own_form(store: Store, path: str, said: dict[str, Any]) -> None:
    """Ollama's client refuses an answer without its field."""
    asked = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "_debug_render_only": True}
    found = post(store, path, {"model": "demo", **asked}).json()
    assert found | said == found and found["done"] is False and found["model"] == "demo"
    assert found.keys() == {"model", "created_at", "done", "_debug_info", *said}


def prompt_of(store: Store, path: str, body: dict[str, Any]) -> str:
    return str(post(store, path, body | {"_debug_render_only": True}).json()["_debug_info"]["rendered_template"])


def test_the_prompt_holds_the_models_own_messages_and_system(store: Store) -> None:
    chat = {"model": "acme/tuned:v1", "messages": [{"role": "user", "content": "now"}]}
    assert prompt_of(store, "/api/chat", chat).startswith("[Be brief.]hi|ho")
    own = chat | {"messages": [{"role": "SYSTEM", "content": "Mine."}, {"role": "user", "content": "now"}]}
    assert "Be brief." not in prompt_of(store, "/api/chat", own)
    generate = {"model": "acme/tuned:v1", "prompt": "now"}
    assert prompt_of(store, "/api/generate", generate).startswith("[Be brief.]hi|ho")
    with_context = prompt_of(store, "/api/generate", generate | {"context": [1, 2]})
    assert "hi" not in with_context and with_context.startswith("[Be brief.]now")
    assert prompt_of(store, "/api/generate", generate | {"template": "<{{ .Prompt }}>"}).startswith("<hi>")
    assert prompt_of(store, "/api/generate", {"model": "demo", "prompt": "a<|im_end|>b", "raw": True}) == "a<|im_end|>b"
    assert prompt_of(store, "/api/generate", generate | {"suffix": "after"}).startswith("now~after|")


def test_parameters_of_the_model_stand_until_the_request_says_otherwise(store: Store) -> None:
    script = Script()
    post(store, "/api/generate", {"model": "acme/tuned:v1", "prompt": "x"}, script)
    post(
        store,
        "/api/generate",
        {"model": "acme/tuned:v1", "prompt": "x", "options": {"stop": ["Z"], "top_k": 3}},
        script,
    )
    first, second = script.requests
    assert (first.sampling.temperature, first.stop, first.sampling.top_k) == (0.25, ("<end>", "B"), 40)
    assert (second.sampling.temperature, second.stop, second.sampling.top_k) == (0.25, ("Z",), 3)
    assert script.sources[0].n_ctx == 128


def test_context_ids_come_before_the_prompt_and_unknown_ones_are_refused(store: Store) -> None:
    script = Script()
    post(store, "/api/generate", {"model": "demo", "prompt": "x", "context": [5, 6, 7]}, script)
    assert script.requests[0].prompt[:3] == (5, 6, 7)


def test_messages_that_do_not_fit_are_counted_in_the_last_line(store: Store) -> None:
    old = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "word " * 40}]
    body = {"model": "demo", "messages": [*old, {"role": "user", "content": "Hi"}], "options": {"num_ctx": 64}}
    assert lines(post(store, "/api/chat", body))[-1]["dropped_messages"] == 2
    refused = post(store, "/api/chat", body | {"truncate": False})
    assert refused.status_code == 400 and "longer than the context" in refused.json()["error"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_client_that_leaves_ends_its_answer_once(store: Store, whole: bool) -> None:
    async def main() -> Script:
        script = Script(gate=asyncio.Event())
        manager = scripted_manager(script)
        app = create_app(store, manager)
        body = json.dumps({"model": "demo", "prompt": "x", "stream": not whole}).encode()
        sent: list[dict[str, Any]] = []
        left = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/generate",
            "headers": [],
            "query_string": b"",
            "app": app,
        }
        answering = asyncio.ensure_future(app(scope, receive, send))
        while not script.begun or (not whole and len(sent) < 2):
            await asyncio.sleep(0.001)
        left.set()
        await asyncio.wait_for(answering, 60)
        assert manager.loaded()[0].users == 0
        assert not any(message.get("more_body") is False for message in sent)
        await manager.close()
        return script

    script = asyncio.run(main())
    assert (script.begun, script.ended, script.cancelled) == (1, 1, 1)


def test_64_at_once_each_end_once(store: Store) -> None:
    script = Script()

    async def test(client: httpx.AsyncClient) -> list[httpx.Response]:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
        return list(await asyncio.gather(*(client.post("/api/chat", json=body) for _ in range(64))))

    responses = ask(store, test, script)
    for response in responses:
        assert [line["done"] for line in lines(response)].count(True) == 1
    assert (script.begun, script.ended, script.cancelled, len(script.sources)) == (64, 64, 0, 1)


def test_a_prompt_of_a_megabyte_is_told_that_it_is_too_long(store: Store) -> None:
    body = {"model": "demo", "prompt": "all work and no play " * 50_000}
    response = post(store, "/api/generate", body)
    assert response.status_code == 400 and response.json()["error"].startswith("the prompt is longer than the context")


def test_a_body_beyond_the_bound_is_refused_while_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import runtime.api.transport

    monkeypatch.setattr(runtime.api.transport.read_body, "__defaults__", (1000,))
    response = post(store, "/api/generate", {"model": "demo", "prompt": "x" * 2000})
    assert (response.status_code, response.json()["error"]) == (
        413,
        "http: request body too large: at most 1000 bytes are accepted",
    )


def test_a_fault_of_ours_is_a_500_with_a_reference_that_the_log_explains(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("runtime.api.native.model_of", broken)
    text = post(store, "/api/generate", {"model": "demo", "prompt": "x"}).json()["error"]
    reference = text.split()[2].rstrip(",")
    assert "secret detail" not in text and reference in caplog.text and "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("requires", "status"), [("0.33.0", 200), ("v0.9.99", 200), ("0.33.1", 400), ("v1.0.0-rc1", 400), ("99.0.0", 400)]
)
def test_a_model_that_requires_a_later_ollama_is_refused_by_its_number(
    tmp_path: Path, requires: str, status: int
) -> None:
    asking = small_store(tmp_path)
    create(asking, ModelName.parse("later"), CreateRequest(from_model=ModelName.parse("demo"), requires=requires))
    response = post(asking, "/api/generate", {"model": "later", "prompt": "Hi", "stream": False})
    assert response.status_code == status
    assert status == 200 or requires in response.json()["error"]
