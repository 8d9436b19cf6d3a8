"""Routes over the store, transfers, and the door's manners, over ASGI (contract, 1.1, 1.5, 1.10, 3.5, 5.4)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import runtime.card
from manifests.create import CreateRequest, create
from manifests.errors import NotFound
from manifests.manifest import Descriptor
from manifests.name import ModelName
from manifests.store import Store
from runtime.api import names
from runtime.api.app import create_app
from runtime.source import OLLAMA_API
from runtime.told import Settings
from tests.peers.scripted import Script, scripted_manager, small_store


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("pattern"))


@pytest.fixture
def store(pattern: Store, tmp_path: Path) -> Store:
    """A copy of its own for every test."""
    return Store(Path(shutil.copytree(pattern.root, tmp_path / "models")))


def request(
    store: Store, method: str, path: str, body: Any = None, *, transfers: Any = None, **options: Any
) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(Script())
        app = create_app(store, manager, transfers=transfers, settings=Settings(version="9.9"))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
                return await client.request(method, path, content=content, **options)
            finally:
                await manager.close()

    return asyncio.run(main())


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.content.splitlines()]


def test_the_doors_manners(store: Store) -> None:
    root = request(store, "GET", "/")
    assert (root.text, root.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    assert root.headers["server"] == "sealift/9.9"
    version = request(store, "GET", "/api/version").json()["version"]
    assert version == OLLAMA_API and tuple(map(int, version.split("."))) >= (0, 6, 4)
    for path in ("/", "/api/version", "/api/tags", "/health"):
        assert request(store, "HEAD", path).status_code == 200
    assert request(store, "HEAD", "/api/ps").status_code == 405
    unknown = request(store, "GET", "/nowhere")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")
    wrong = request(store, "GET", "/api/chat")
    assert (wrong.status_code, wrong.text) == (405, "405 method not allowed")
    assert wrong.headers["content-type"].startswith("text/plain")
    for path in ("/docs", "/redoc"):  # FastAPI's pages load scripts from the internet
        assert request(store, "GET", path).status_code == 404
    moved = request(store, "GET", "/api/tags/?x=1")
    assert (moved.status_code, moved.headers["location"]) == (301, "/api/tags?x=1")
    assert request(store, "POST", "/api/chat/").status_code == 307


def test_what_is_not_built_is_refused_by_its_name(store: Store) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/systemone"):
        refused = request(store, "POST", path, {})
        error = refused.json()["error"]
        assert (refused.status_code, error["type"]) == (501, "api_error")
        assert error["message"] == f"{path} is not supported by this server"


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/api/me", 503, "account unavailable"),
        ("POST", "/api/signout", 503, "account unavailable"),
        ("DELETE", "/api/user/keys/abc", 503, "account unavailable"),
        ("POST", "/api/experimental/web_search", 403, "ollama cloud is disabled: web search is unavailable"),
        ("POST", "/api/experimental/web_fetch", 403, "ollama cloud is disabled: web fetch is unavailable"),
    ],
)
def test_what_lies_outside_is_refused_by_its_name(store: Store, method: str, path: str, status: int, text: str) -> None:
    response = request(store, method, path, {})
    assert (response.status_code, response.json()["error"]) == (status, text)


def test_nothing_is_recommended(store: Store) -> None:
    assert request(store, "GET", "/api/experimental/model-recommendations").json() == {"recommendations": []}


def test_copilot_is_shown_the_name_it_asked_for(store: Store) -> None:
    """Contract, 3.5: its model picker shows `general.basename`."""
    body = {"model": "demo"}
    shown = request(store, "POST", "/api/show", body, headers={"user-agent": "GitHubCopilotChat/0.31"}).json()
    assert shown["model_info"]["general.basename"] == "demo"
    assert "general.basename" not in request(store, "POST", "/api/show", body).json()["model_info"]


def test_a_card_is_read_once_for_a_manifest_and_never_stale(store: Store) -> None:
    from runtime.card import CardBox

    box, demo = CardBox(store), ModelName.parse("demo")
    first = box.card(demo)
    assert box.card(ModelName.parse("DEMO")) is first
    store.copy(ModelName.parse("acme/tuned:v1"), demo)
    assert box.card(demo).system == "Be brief." and first.system == ""


def test_tags_hold_every_field_clients_demand_newest_first(store: Store) -> None:
    models = request(store, "GET", "/api/tags").json()["models"]
    assert models[0]["name"] == "acme/tuned:v1" and {model["name"] for model in models[1:]} == {
        "demo:latest",
        "embedder:latest",
    }
    demo = next(model for model in models if model["name"] == "demo:latest")
    manifest = store.manifest(ModelName.parse("demo"))
    assert (demo["model"], demo["digest"], demo["size"]) == ("demo:latest", manifest.digest.hex, manifest.size)
    wanted = {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}
    assert wanted <= set(demo["details"])
    assert (demo["details"]["format"], demo["details"]["family"], demo["details"]["families"]) == (
        "gguf",
        "llama",
        ["llama"],
    )
    assert demo["modified_at"][-6] in "+-" or demo["modified_at"].endswith("Z")
    assert (demo["capabilities"], models[0]["capabilities"]) == (["completion"], ["completion", "insert"])


def test_a_model_that_cannot_be_read_is_left_out(store: Store) -> None:
    weights = store.manifest(ModelName.parse("embedder")).of_kind("model")[0].digest
    store.blob_path(weights).write_bytes(b"GGUF and then nothing")
    names = {model["name"] for model in request(store, "GET", "/api/tags").json()["models"]}
    assert "embedder:latest" not in names and "demo:latest" in names


def test_show(store: Store) -> None:
    shown = request(store, "POST", "/api/show", {"name": "ACME/tuned:v1"}).json()
    assert shown["license"] == "First licence\nSecond licence" and shown["system"] == "Be brief."
    assert shown["parameters"].splitlines() == [  # of its base: that there are stops, so they come first
        f'{"stop":<30} "<end>"',
        f'{"stop":<30} "B"',
        f"{'temperature':<30} 0.25",
        f"{'num_ctx':<30} 128",
    ]
    assert shown["messages"][0] == {"role": "user", "content": "hi"}
    assert shown["template"].startswith("{{ if .System }}")
    info = shown["model_info"]
    assert info["general.architecture"] == "llama" and info["general.parameter_count"] > 0
    assert info["tokenizer.ggml.tokens"] is None and "tokenizer.chat_template" not in info
    assert {"name", "type", "shape"} == set(shown["tensors"][0])
    assert "# FROM acme/tuned:v1" in shown["modelfile"] and "PARAMETER temperature 0.25" in shown["modelfile"]
    verbose = request(store, "POST", "/api/show", {"model": "demo", "verbose": True, "system": "S"}).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) > 10 and verbose["system"] == "S"
    assert "im_start" in verbose["template"]


def test_the_modelfile_that_show_prints_makes_the_same_model(store: Store) -> None:
    from manifests.create import create
    from manifests.create_request import request_from_modelfile
    from manifests.modelfile import Modelfile

    text = request(store, "POST", "/api/show", {"model": "acme/tuned:v1"}).json()["modelfile"]
    again = request_from_modelfile(Modelfile.parse(text.encode()), store.root)
    made = create(store, ModelName.parse("again"), again)
    original = store.manifest(ModelName.parse("acme/tuned:v1"))
    assert {layer.digest for layer in made.layers} == {layer.digest for layer in original.layers}


ERRORS: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/api/show", {}, 400, "model is required"),
    ("POST", "/api/show", {"model": "a b"}, 400, "invalid model name"),
    ("POST", "/api/show", {"model": "gone"}, 404, "model 'gone:latest' not found"),
    (
        "POST",
        "/api/show",
        {"model": "x-cloud:1-cloud"},
        403,
        "ollama cloud is disabled: remote model details are unavailable",
    ),
    ("DELETE", "/api/delete", {}, 400, "model is required"),
    ("DELETE", "/api/delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
    ("DELETE", "/api/delete", {"model": "gone"}, 404, "model 'gone' not found"),
    ("POST", "/api/copy", {"destination": "b"}, 400, 'source "" is invalid'),
    ("POST", "/api/copy", {"source": "demo", "destination": "-x"}, 400, 'destination "-x" is invalid'),
    ("POST", "/api/copy", {"source": "gone", "destination": "b"}, 404, 'model "gone" not found'),
    ("POST", "/api/pull", {}, 400, "invalid model name"),
    ("POST", "/api/push", {}, 400, "model is required"),
    ("POST", "/api/create", {}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
    (
        "POST",
        "/api/create",
        {"model": "x", "from": "demo", "requires": "soon"},
        400,
        "requires must be a valid semver (e.g. 0.14.0)",
    ),
    (
        "POST",
        "/api/create",
        {"model": "x", "files": {"../a.gguf": "sha256:" + "0" * 64}},
        400,
        "file path must be relative",
    ),
    ("POST", "/api/create", {"model": "x", "files": {"a.gguf": "md5:00"}}, 400, "invalid digest format"),
    (
        "POST",
        "/api/create",
        {"model": "x", "from": "demo", "quantize": "q3_K_M"},
        400,
        "unsupported quantization type q3_K_M - supported types are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
        "Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K",
    ),
    (
        "POST",
        "/api/create",
        {"model": "x", "from": "demo", "draft_quantize": "q4_0"},
        400,
        "--draft-quantize requires a DRAFT model",
    ),
    (
        "POST",
        "/api/create",
        {"model": "x", "from": "demo", "template": "{{ if }}"},
        400,
        "template error: template: line 1: missing value for if",
    ),
    ("POST", "/api/blobs/sha256:zz", b"x", 400, "invalid digest format"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), ERRORS)
def test_errors_have_the_contracts_status_and_words(
    store: Store, method: str, path: str, body: Any, status: int, text: str
) -> None:
    response = request(store, method, path, body)
    assert (response.status_code, response.json()["error"]) == (status, text)


def test_copy_and_delete_answer_with_nothing(store: Store) -> None:
    copied = request(store, "POST", "/api/copy", {"source": "DEMO", "destination": "other:v2"})
    assert (copied.status_code, copied.content) == (200, b"")
    assert store.manifest(ModelName.parse("other:v2")).digest == store.manifest(ModelName.parse("demo")).digest
    removed = request(store, "DELETE", "/api/delete", {"name": "other:v2"})
    assert (removed.status_code, removed.content) == (200, b"")
    with pytest.raises(NotFound):
        store.manifest(ModelName.parse("other:v2"))


def test_blobs_and_create(store: Store) -> None:
    weights = store.blob_path(store.manifest(ModelName.parse("demo")).of_kind("model")[0].digest).read_bytes()
    data = weights + bytes(-len(weights) % 32) or weights
    digest = hashlib.sha256(data).hexdigest()
    other = b"not a model"
    wanted = hashlib.sha256(other).hexdigest()
    assert request(store, "HEAD", f"/api/blobs/sha256:{wanted}").status_code == 404
    assert request(store, "POST", f"/api/blobs/sha256:{wanted}", other).status_code == 201
    assert request(store, "POST", f"/api/blobs/sha256-{wanted}", other).status_code == 200
    assert request(store, "HEAD", f"/api/blobs/sha256:{wanted.upper()}").status_code == 200
    wrong = request(store, "POST", f"/api/blobs/sha256:{'0' * 64}", b"xyz")
    got = hashlib.sha256(b"xyz").hexdigest()
    assert (wrong.status_code, wrong.json()["error"]) == (
        400,
        f'digest mismatch, expected "sha256:{"0" * 64}", got "sha256:{got}"',
    )
    assert list((store.private / "tmp").iterdir()) == []
    files = {"x.gguf": f"sha256:{wanted}"}
    bad = request(store, "POST", "/api/create", {"model": "bad", "files": files, "stream": False})
    assert bad.status_code == 400 and bad.json()["error"] == "supplied file was not in GGUF format"
    request(store, "POST", f"/api/blobs/sha256:{digest}", data)
    body = {
        "model": "made",
        "files": {"m.gguf": f"sha256:{digest}"},
        "system": "S",
        "parameters": {"top_k": 5},
        "license": ["L"],
    }
    made = lines(request(store, "POST", "/api/create", body))
    assert made[-1] == {"status": "success"} and {"status": "writing manifest"} in made
    whole = request(store, "POST", "/api/create", body | {"model": "made2", "stream": False})
    assert (whole.json(), whole.headers["content-type"]) == ({"status": "success"}, "application/json")
    unknown = request(store, "POST", "/api/create", {"model": "y", "from": "gone", "stream": False})
    assert unknown.status_code == 500 and "not found" in unknown.json()["error"]


@pytest.mark.parametrize("role", ["alien", "tool", "", "Assistant "])
def test_a_message_of_a_role_that_no_model_opens_with_is_refused(store: Store, role: str) -> None:
    said = [{"role": "USER", "content": "a"}, {"role": role, "content": "x"}]
    body = {"model": "odd", "from": "demo", "messages": said}
    answer = request(store, "POST", "/api/create", body | {"stream": False})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        f'messages[1]: message role must be one of "system", "user", or "assistant", found {role.lower()!r}',
    )
    assert not store.has(ModelName.parse("odd"))
    assert request(store, "POST", "/api/create", body | {"messages": said[:1], "stream": False}).status_code == 200
    shown = request(store, "POST", "/api/show", {"model": "odd"}).json()
    assert shown["messages"] == [{"role": "user", "content": "a"}]


def test_a_stub_that_names_a_model_elsewhere_is_refused(store: Store) -> None:
    from manifests.manifest import DOCKER_CONFIG, Descriptor, Manifest

    raw = json.dumps({"remote_host": "https://ollama.example", "remote_model": "big"}).encode()
    config = Descriptor(media_type=DOCKER_CONFIG, digest=store.put_bytes(raw), size=len(raw))
    store.put_manifest(ModelName.parse("stub:1b-cloud"), Manifest.build(config, ()).raw)
    for path, text in (("generate", "remote model is unavailable"), ("show", "remote model details are unavailable")):
        response = request(store, "POST", f"/api/{path}", {"model": "stub:1b-cloud", "prompt": "x"})
        assert (response.status_code, response.json()["error"]) == (403, f"ollama cloud is disabled: {text}")
    listed = request(store, "GET", "/api/tags").json()["models"]
    assert next(model for model in listed if "stub" in model["name"])["remote_model"] == "big"


def upload(store: Store, *messages: dict[str, Any], size: int | None = None) -> list[Any]:
    """The raw messages an upload of `b"abc..."` gets for the given request messages."""

    async def main() -> list[Any]:
        manager = scripted_manager(Script())
        left, sent = list(messages), []

        async def receive() -> Any:
            return left.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost")] + ([(b"content-length", str(size).encode())] if size else [])
        path = f"/api/blobs/sha256:{hashlib.sha256(b'abcdef').hexdigest()}"
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        await create_app(store, manager)(scope, receive, send)
        await manager.close()
        return sent

    return asyncio.run(main())


def test_an_upload_in_pieces_arrives_and_a_broken_one_leaves_nothing(store: Store) -> None:
    first = {"type": "http.request", "body": b"abc", "more_body": True}
    before = set(store.blobs.iterdir())
    assert upload(store, first, {"type": "http.disconnect"})[0]["status"] == 499
    assert set(store.blobs.iterdir()) == before and list((store.private / "tmp").iterdir()) == []
    assert upload(store, first, {"type": "http.request", "body": b"def", "more_body": False})[0]["status"] == 201


def test_an_upload_larger_than_the_disk_is_refused_before_it_is_read(store: Store) -> None:
    sent = upload(store, size=1 << 60)  # no request message: reading one would fail
    assert sent[0]["status"] == 507 and b"are needed" in sent[1]["body"]
    assert str(store.root).encode() not in sent[1]["body"]


def test_a_store_that_cannot_be_written_is_told_without_its_path(store: Store) -> None:
    shutil.rmtree(store.private / "tmp", ignore_errors=True)
    (store.private / "tmp").touch()
    sent = upload(store, size=6)
    told = json.loads(sent[1]["body"])["error"]
    assert sent[0]["status"] == 500 and told and "internal" not in told and str(store.root) not in told


def test_a_server_without_transfers_says_that_it_opens_no_connection(store: Store) -> None:
    here = lines(request(store, "POST", "/api/pull", {"model": "demo"}))
    assert here[0] == {"status": "pulling manifest"} and here[-1] == {"status": "success"}
    away = request(store, "POST", "/api/pull", {"name": "gone"})
    assert away.status_code == 200
    first, last = lines(away)
    assert first == {"status": "pulling manifest"}
    for words in (
        "pull model manifest: ",
        "no outbound connections",
        "sealift bundle import",
        "sealift serve --online",
    ):
        assert words in last["error"]
    assert request(store, "POST", "/api/pull", {"name": "gone", "stream": False}).status_code == 500
    pushed = lines(request(store, "POST", "/api/push", {"model": "gone"}))
    assert pushed[1] == {"status": "couldn't retrieve manifest"} and "error" in pushed[-1]


class RegistryRefused(Exception):
    """As the bundler raises: a room the runtime does not know."""

    http_status = 404


class Courier:
    """Transfers that report and, on demand, fail."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.asked = fail, []  # type: ignore[var-annotated]

    def pull(self, name: ModelName, *, insecure: bool, report: Any) -> None:
        self.asked.append((name.short, insecure))
        report({"status": "pulling manifest"})
        for completed in (1, 2):
            report({"status": "pulling abc", "digest": "sha256:abc", "total": 2, "completed": completed})
        if self.fail:
            raise RegistryRefused("the registry has no such model")
        report({"status": "success"})

    push = pull


def test_transfers_report_on_lines_and_fail_on_a_line(store: Store) -> None:
    courier = Courier()
    found = lines(request(store, "POST", "/api/pull", {"model": "new", "insecure": True}, transfers=courier))
    assert [line.get("completed") for line in found] == [None, 1, 2, None] and courier.asked == [("new:latest", True)]
    failed = request(store, "POST", "/api/pull", {"model": "new"}, transfers=Courier(fail=True))
    assert failed.status_code == 200 and lines(failed)[-1] == {"error": "the registry has no such model"}
    whole = request(store, "POST", "/api/pull", {"model": "new", "stream": False}, transfers=Courier(fail=True))
    assert (whole.status_code, whole.json()) == (500, {"error": "the registry has no such model"})


def test_a_transfer_whose_client_left_is_stopped(store: Store) -> None:
    from runtime.api.transport import in_thread
    from runtime.errors import RequestCancelled

    ended: list[str] = []

    async def main() -> None:
        go_on = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work(report: Any) -> None:
            report({"status": "first"})
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            try:
                report({"status": "second"})
            except RequestCancelled:
                ended.append("cancelled")
                raise

        reports = in_thread(work)
        assert await reports.__anext__() == {"status": "first"}
        closing = asyncio.ensure_future(reports.aclose())
        await asyncio.sleep(0)
        go_on.set()
        await closing

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_lookups_do_not_wait_behind_uploads_that_stall(store: Store) -> None:
    async def main() -> int:
        manager = scripted_manager(Script())
        app = create_app(store, manager)
        release, begun = asyncio.Event(), 0

        async def receive() -> Any:
            nonlocal begun
            begun += 1
            await release.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        path = f"/api/blobs/sha256:{'1' * 64}"
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"host", b"localhost")],
            "query_string": b"",
        }
        stalled = [asyncio.ensure_future(app(dict(scope), receive, send)) for _ in range(40)]
        while not begun:
            await asyncio.sleep(0.001)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            status = (await asyncio.wait_for(client.get("/api/tags"), 60)).status_code
        release.set()
        await asyncio.gather(*stalled)
        await manager.close()
        return status

    assert asyncio.run(main()) == 200


def test_a_list_reads_each_files_head_once_however_many_models_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(tmp_path)
    for number in range(20):
        base = ModelName.parse("demo")
        create(store, ModelName.parse(f"m{number}"), CreateRequest(from_model=base, system=f"{number}"))
    read: list[object] = []
    whole = runtime.card._facts

    def counted(store: Store, layer: Descriptor) -> runtime.card.GgufFacts:
        read.append(layer.digest)
        return whole(store, layer)

    monkeypatch.setattr(runtime.card, "_facts", counted)
    box = runtime.card.CardBox(store)
    for _ in range(2):
        assert {box.card(name).gguf is not None for name in store.names()} == {True}
    assert len(store.names()) == 23 and len(read) == len(set(read)) == 2
    monkeypatch.setattr(runtime.card, "CACHED", 1)
    assert box.card(ModelName.parse("demo")).system == "" and box.card(ModelName.parse("m3")).system == "3"
    box.card(ModelName.parse("embedder"))
    create(store, ModelName.parse("new"), CreateRequest(from_model=ModelName.parse("embedder"), parameters={"seed": 1}))
    box.card(ModelName.parse("new"))
    assert len(box._cards) == len(box._facts) == 1 and len(read) == 2


def test_a_manifest_that_changes_is_seen_at_once(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    demo, tuned = ModelName.parse("demo"), ModelName.parse("acme/tuned:v1")
    first = store.manifest(demo)
    assert store.manifest(demo) is first
    store.manifest_path(demo).write_bytes(store.manifest_path(tuned).read_bytes())
    assert store.manifest(demo).digest == store.manifest(tuned).digest != first.digest


def test_a_card_that_many_ask_for_at_once_is_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    box, demo, read = runtime.card.CardBox(store), ModelName.parse("demo"), []
    gate = threading.Barrier(8)

    def reading(*given: Any) -> Any:
        read.append(threading.get_ident())
        time.sleep(0.02)  # the others are asking by now
        return read_card(*given)

    def ask(_: int) -> Any:
        gate.wait()
        return box.card(demo)

    read_card = runtime.card.read_card
    monkeypatch.setattr("runtime.card.read_card", reading)
    with ThreadPoolExecutor(8) as asking:
        cards = list(asking.map(ask, range(8)))
    assert len(read) == 1 and all(card is cards[0] for card in cards)


def test_a_card_at_hand_is_never_that_of_a_model_that_has_gone_or_changed(tmp_path: Path) -> None:
    store, name = small_store(tmp_path), ModelName.parse("demo")
    box = runtime.card.CardBox(store)
    assert names.known(box, "demo") is None, "nothing was read yet"
    found = names.find(box, "demo")
    assert names.known(box, " demo ") == found and names.known(box, "registry.ollama.ai/library/demo:latest") == found
    assert names.known(box, "DEMO") is None and names.known(box, "gone") is None and names.known(box, "../x") is None
    create(store, name, CreateRequest(from_model=name, system="Other"))
    assert names.known(box, "demo") is None
    assert names.find(box, "demo") == names.known(box, "demo") != found
    store.remove(name)
    assert names.known(box, "demo") is None


# -- a store that is damaged: no fault of who asks, and nothing of this host's paths for who asks from elsewhere


def _gone(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [_gone, _cut, _pipe])
@pytest.mark.parametrize("part", ["model", "template", "manifest"])
def test_damage_is_the_servers_fault_and_no_path_is_told(
    tmp_path: Path, damage: Callable[[Path], None], part: str
) -> None:
    store = small_store(tmp_path)
    name = ModelName.parse("acme/tuned:v1")
    layers = {layer.kind: store.blob_path(layer.digest) for layer in store.manifest(name).layers}
    file = layers.get(part, store.manifest_path(name))
    if damage is _cut and part != "model":
        file.write_bytes(b"{")
    else:
        damage(file)
    asked = {"model": name.short, "messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "max_tokens": 1}
    expected = 404 if part == "manifest" and damage is _gone else 500
    for path in ("/api/generate", "/api/chat", "/api/show", "/v1/chat/completions", "/v1/messages", "/api/embed"):
        answer = request(store, "POST", path, asked)
        assert (path, answer.status_code) == (path, expected) and str(tmp_path) not in answer.text, answer.text
    for path in ("/api/tags", "/v1/models", "/api/ps"):
        listed = request(store, "GET", path)
        assert listed.status_code == 200 and str(tmp_path) not in listed.text
