"""Keys and roles over HTTP: every route and scope, models that a key may not use, limits, read-only, real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from manifests.name import ModelName
from manifests.store import Store
from runtime.access import scopes
from runtime.access.access import Access
from runtime.access.entries import new_key
from runtime.access.register import make, remove
from runtime.access.scopes import SCOPES, Scope, scope_of
from runtime.api.app import ROUTES, create_app
from runtime.metrics import Metrics
from runtime.told import Settings
from tests.peers.live import Live, live
from tests.peers.scripted import Script, scripted_manager, small_store

TEXT = "Hello <world> & é!"
HI: Any = [{"role": "user", "content": "Hi"}]
WRITES = {"/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/{digest}"}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("pattern"))


@pytest.fixture
def store(pattern: Store, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(pattern.root, tmp_path / "models")))


@contextlib.asynccontextmanager
async def asking(store: Store, script: Script | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    manager = scripted_manager(script or Script())
    app = create_app(store, manager, **options)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        try:
            yield client
        finally:
            await manager.close()


def with_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def requests() -> Iterator[tuple[str, str, str]]:
    """Method, declared path and a path that it matches, for every route."""
    for methods, path, _ in ROUTES:
        for method in methods.split():
            yield method, path, path.replace("{digest}", "sha256:" + "0" * 64).replace("{model:path}", "demo")


# -- who may what


def test_every_route_has_a_scope_of_its_own_and_no_scope_is_of_no_route() -> None:
    """A new route is entered in runtime/access/scopes.py; until then it asks for `admin`."""
    declared = {path for _, path, _ in ROUTES}
    assert declared - set(scopes.OPEN) <= scopes.ROUTES.keys(), "which scope do these ask for?"
    assert scope_of("/api/new") == "admin"
    assert {path for path, scope in scopes.ROUTES.items() if scope == "admin"} == WRITES


def test_every_route_with_every_kind_of_key(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    keys: dict[str, str] = {scope: make(path, scope, scopes=scope)[1] for scope in SCOPES}
    senders: dict[str, dict[str, str]] = {
        "none": {},
        "bad": with_key(new_key()[0]),
        "other": {"authorization": "Basic eDp5"},
        **{scope: with_key(key) for scope, key in keys.items()},
        **{f"{scope} by x-api-key": {"x-api-key": key} for scope, key in keys.items()},
    }

    async def main() -> None:
        metrics = Metrics()
        async with asking(store, access=Access(path), metrics=metrics) as client:
            for method, declared, asked in requests():
                needed = scope_of(declared)
                for sender, headers in senders.items():
                    metrics.denied.clear()
                    answer = await client.request(method, asked, content=b"{}", headers=headers)
                    where = f"{method} {declared} by {sender}"
                    if needed is None:
                        assert answer.status_code == 200 and not metrics.denied, where
                    elif sender in ("none", "bad", "other"):
                        assert answer.status_code == 401 and metrics.denied == {"key": 1}, where
                        assert answer.headers["www-authenticate"].startswith("Bearer"), where
                    elif sender.split()[0] != needed:
                        assert answer.status_code == 403 and metrics.denied == {"scope": 1}, where
                    else:
                        assert not metrics.denied, where  # a route may have a 403 of its own
            for method, asked in (
                ("POST", "/"),
                ("GET", "/nosuch"),
                ("GET", "/docs"),
                ("PUT", "/api/tags"),
                ("GET", "/health/"),
            ):
                assert (await client.request(method, asked)).status_code == 401, asked
                found = await client.request(method, asked, headers=with_key(keys["read"]))
                assert found.status_code in (301, 404, 405), asked
            preflight = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
            assert (await client.options("/api/chat", headers=preflight)).status_code == 204

    asyncio.run(main())


def test_an_open_server_ignores_keys(store: Store) -> None:
    async def main() -> None:
        metrics = Metrics()
        async with asking(store, metrics=metrics) as client:
            for method, declared, asked in requests():
                plain = await client.request(method, asked, content=b"{}")
                for headers in (with_key("none"), with_key(new_key()[0]), {"x-api-key": "ollama"}):
                    answer = await client.request(method, asked, content=b"{}", headers=headers)
                    assert answer.status_code == plain.status_code and not metrics.denied, declared

    asyncio.run(main())


def test_refusals_are_worded_as_the_api_that_was_asked(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, key = make(path, "k", scopes="metrics", rate="3/d")

    async def main() -> None:
        async with asking(store, access=Access(path)) as client:
            for headers, status in (({}, 401), (with_key(key), 403), (with_key(key), 429)):
                for _ in range(1 + 2 * (status == 403)):  # two use up the rate
                    bodies = {
                        asked: await client.post(asked, content=b"{}", headers=headers)
                        for asked in (
                            ("/v1/messages", "/api/chat", "/v1/embeddings") if status != 403 else ("/api/chat",)
                        )
                    }
                for asked, answer in bodies.items():
                    assert answer.status_code == status, asked
                    said = answer.json()
                    if asked == "/api/chat":
                        assert isinstance(said["error"], str)
                    else:
                        assert said["error"]["message"] and said["error"]["type"].endswith("_error")
                    if asked == "/v1/messages" and status != 403:
                        assert said.get("type", "error") == "error"
                    assert ("retry-after" in answer.headers) == (status == 429)

    asyncio.run(main())


# -- models


def test_other_models_are_not_there_for_a_key_with_a_list(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, all_ = make(path, "all", scopes="infer,read,admin")
    _, some = make(path, "some", scopes="infer,read,admin", models=["acme/*", "mine"])

    async def main() -> None:
        async with asking(store, access=Access(path)) as client:

            async def ask(key: str, method: str, where: str, body: Any = None) -> httpx.Response:
                return await client.request(method, where, json=body, headers=with_key(key))

            listed = (await ask(some, "GET", "/api/tags")).json()["models"]
            assert [model["name"] for model in listed] == ["acme/tuned:v1"]
            assert [model["id"] for model in (await ask(some, "GET", "/v1/models")).json()["data"]] == ["acme/tuned:v1"]
            assert len((await ask(all_, "GET", "/api/tags")).json()["models"]) == 3
            hidden = [
                ("POST", "/api/chat", {"model": "demo", "messages": HI}),
                ("POST", "/api/chat", {"model": "DEMO:latest", "messages": HI}),
                ("POST", "/api/chat", {"model": "demo:local", "messages": HI}),
                ("POST", "/api/generate", {"model": "demo", "keep_alive": 0}),
                ("POST", "/api/generate", {"model": "registry.ollama.ai/library/demo", "prompt": "x"}),
                ("POST", "/v1/chat/completions", {"model": "demo", "messages": HI}),
                ("POST", "/v1/completions", {"model": "demo", "prompt": "x"}),
                ("POST", "/api/show", {"model": "demo"}),
                ("GET", "/v1/models/demo", None),
                ("DELETE", "/api/delete", {"model": "demo"}),
                ("POST", "/api/copy", {"source": "demo", "destination": "mine"}),
            ]
            for method, where, body in hidden:
                refused = await ask(some, method, where, body)
                assert refused.status_code == 404, where
                missing = json.loads(json.dumps(body).replace("demo", "gone").replace("DEMO", "GONE"))
                same = await ask(some, method, where.replace("demo", "gone"), missing)
                words = same.text.replace("gone", "demo").replace("GONE", "DEMO")
                assert refused.text == words, "it sounds like a model that does not exist"
                assert (await ask(all_, method, where, body)).status_code in (200, 404) or where == "/api/delete"
                if not store.has(ModelName.parse("demo")):
                    store.copy(ModelName.parse("acme/tuned:v1"), ModelName.parse("demo"))
            made = await ask(some, "POST", "/api/create", {"model": "mine", "from": "demo", "stream": False})
            assert made.status_code >= 400
            taken = await ask(some, "POST", "/api/copy", {"source": "acme/tuned:v1", "destination": "demo2"})
            assert taken.status_code == 403 and not store.has(ModelName.parse("demo2"))
            for stream in (False, True):  # said before a stream begins, and before the work
                wanted = {"model": "theirs", "from": "acme/tuned:v1", "stream": stream}
                made = await ask(some, "POST", "/api/create", wanted)
                assert made.status_code == 403 and "may not use the model name" in made.text
            assert (await ask(some, "POST", "/api/pull", {"model": "demo", "stream": False})).status_code >= 400
            answer = await ask(some, "POST", "/api/chat", {"model": "acme/tuned:v1", "messages": HI, "stream": False})
            assert answer.json()["message"]["content"] == TEXT
            assert [model["name"] for model in (await ask(some, "GET", "/api/ps")).json()["models"]] in (
                ["acme/tuned:v1"],
                [],  # its weights were loaded by another name, which this key may not know
            )

    asyncio.run(main())


def test_what_one_key_removes_another_keeps(store: Store, tmp_path: Path) -> None:
    """The store must ask all models which blobs are needed, not those that the key may see."""
    path = tmp_path / "access.toml"
    _, key = make(path, "some", scopes="admin", models=["acme/*"])
    weights = store.manifest(ModelName.parse("demo")).of_kind("model")[-1].digest
    assert weights in {blob.digest for blob in store.manifest(ModelName.parse("acme/tuned:v1")).blobs()}

    async def main() -> None:
        async with asking(store, access=Access(path)) as client:
            body = json.dumps({"model": "acme/tuned:v1"})
            answer = await client.request("DELETE", "/api/delete", content=body, headers=with_key(key))
            assert answer.status_code == 200

    asyncio.run(main())
    assert store.has_blob(weights) and not store.has(ModelName.parse("acme/tuned:v1"))


def test_transfers_are_for_names_on_the_list(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, key = make(path, "some", scopes="admin", models=["acme/*"])
    pulled: list[str] = []

    class Registries:
        def pull(self, name: ModelName, **options: Any) -> None:
            pulled.append(name.short)

        push = pull

    async def main() -> None:
        async with asking(store, access=Access(path), transfers=Registries()) as client:
            for name in ("demo", "acme/new"):
                body = {"model": name, "stream": False}
                await client.post("/api/pull", json=body, headers=with_key(key))
                await client.post("/api/push", json=body, headers=with_key(key))

    asyncio.run(main())
    assert set(pulled) == {"acme/new:latest"}


# -- limits, read-only


def test_limits_of_a_key_hold_under_streams(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, key = make(path, "k", concurrent=1)
    _, other = make(path, "other")

    async def main() -> None:
        gate = asyncio.Event()
        script = Script(gate=gate)
        async with asking(store, script, access=Access(path)) as client:
            body = {"model": "demo", "messages": HI, "stream": False}
            first = asyncio.ensure_future(client.post("/api/chat", json=body, headers=with_key(key)))
            while not script.begun:
                await asyncio.sleep(0.001)
            second = await client.get("/api/tags", headers=with_key(key))
            assert second.status_code == 429 and second.headers["retry-after"] == "1"
            assert (await client.get("/api/tags", headers=with_key(other))).status_code == 200
            gate.set()
            assert (await first).status_code == 200
            assert (await client.get("/api/tags", headers=with_key(key))).status_code == 200
            assert {request.client for request in script.requests} == {"key k"}, "a key is one client for the scheduler"

    asyncio.run(main())


def test_read_only_refuses_by_name_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    def state() -> set[tuple[str, int]]:
        return {(str(path), path.stat().st_mtime_ns) for path in store.root.rglob("*")}

    path = tmp_path / "access.toml"
    _, key = make(path, "k", scopes=",".join(SCOPES))
    before = state()

    async def main(access: Access | None, headers: dict[str, str]) -> None:
        metrics = Metrics()
        async with asking(store, access=access, settings=Settings(read_only=True), metrics=metrics) as client:
            for method, declared, asked in requests():
                metrics.denied.clear()
                answer = await client.request(method, asked, content=b'{"model": "demo"}', headers=headers)
                assert metrics.denied == ({"read-only": 1} if declared in WRITES else {}), declared
                if declared in WRITES:
                    assert answer.status_code == 403
                    assert method == "HEAD" or "this server is read-only" in answer.text
            chat = {"model": "demo", "messages": HI, "stream": False}
            assert (await client.post("/api/chat", json=chat, headers=headers)).status_code == 200

    asyncio.run(main(None, {}))
    asyncio.run(main(Access(path), with_key(key)))
    assert state() == before


# -- real clients


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The file, a key for asking, and one that may do nothing of the kind."""
    path = tmp_path_factory.mktemp("keys") / "access.toml"
    return path, make(path, "app", models=["demo"])[1], make(path, "scraper", scopes="metrics")[1]


@pytest.fixture(scope="module")
def server(pattern: Store, keys: tuple[Path, str, str]) -> Iterator[Live]:
    with live(pattern, Script(), access=Access(keys[0]), metrics=Metrics()) as server:
        yield server


def test_the_ollama_client_with_keys(
    server: Live, keys: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def client(key: str) -> Iterator[ollama.Client]:
        made = ollama.Client(host=server.url, headers=with_key(key) if key else {})
        yield made
        made._client.close()

    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    with client(keys[1]) as asker:
        assert [model.model for model in asker.list().models] == ["demo:latest"]
        assert asker.chat("demo", messages=HI).message.content == TEXT
        assert "".join(part.response or "" for part in asker.generate("demo", "Hi", stream=True)) == TEXT
        for action, status in (
            (lambda: asker.chat("acme/tuned:v1", messages=HI), 404),
            (lambda: asker.delete("demo"), 403),
        ):
            with pytest.raises(ollama.ResponseError, match=r"not found|not for .admin.") as caught:
                action()
            assert caught.value.status_code == status
    for key, status in (("", 401), ("none", 401), (keys[2], 403)):
        with client(key) as stranger:
            with pytest.raises(ollama.ResponseError) as caught:
                stranger.list()
            assert caught.value.status_code == status
    monkeypatch.setenv("OLLAMA_API_KEY", keys[1])  # what the client's own variable sends
    with client("") as asker:
        assert asker.list().models


def test_the_openai_client_with_keys(server: Live, keys: tuple[Path, str, str]) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)

    with client(keys[1]) as asker:
        raw = asker.chat.completions.with_raw_response.create(model="demo", messages=HI)
        assert raw.parse().choices[0].message.content == TEXT and len(raw.headers["x-request-id"]) == 16
        stream = asker.chat.completions.create(model="demo", messages=HI, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
        with pytest.raises(openai.NotFoundError, match="not found"):
            asker.chat.completions.create(model="acme/tuned:v1", messages=HI)
    with client("none") as stranger, pytest.raises(openai.AuthenticationError, match="not a key of this server"):
        stranger.models.list()
    with client(keys[2]) as scraper, pytest.raises(openai.PermissionDeniedError, match="not for 'read'"):
        scraper.models.list()


@pytest.mark.parametrize("share", [False, True])
def test_keys_do_not_find_each_others_prompts_in_the_cache(store: Store, tmp_path: Path, share: bool) -> None:
    path = tmp_path / "access.toml"
    keys = [make(path, name)[1] for name in ("wiki", "mail")]
    routes: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": "x"}, "/api/chat": {"messages": HI}, "/v1/completions": {"prompt": "x"},
        "/v1/chat/completions": {"messages": HI}, "/v1/responses": {"input": "x"},
        "/v1/messages": {"messages": HI, "max_tokens": 3},
    }  # fmt: skip
    script = Script()

    async def main(access: Access | None) -> None:
        async with asking(store, script, access=access, settings=Settings(share_prefixes=share)) as client:
            for route, body in routes.items():
                for key in keys:
                    answer = await client.post(route, json={"model": "demo", **body}, headers=with_key(key))
                    assert answer.status_code == 200, answer.text
            vector = await client.post(
                "/api/embed", json={"model": "embedder", "input": "x"}, headers=with_key(keys[0])
            )
            assert vector.status_code == 200

    asyncio.run(main(Access(path)))
    own = ["", ""] if share else ["key wiki", "key mail"]
    assert [request.salt for request in script.requests] == own * len(routes)
    assert [salt for _, _, salt in script.embedded] == own[:1]
    script.requests.clear()
    asyncio.run(main(None))
    assert {request.salt for request in script.requests} == {""}


def test_the_anthropic_client_with_keys(server: Live, keys: tuple[Path, str, str]) -> None:
    """It sends X-Api-Key."""

    def client(key: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0)

    with client("sk-none") as stranger, pytest.raises(anthropic.AuthenticationError, match="not a key of this server"):
        stranger.messages.create(model="demo", max_tokens=9, messages=HI)
    with client(keys[2]) as scraper, pytest.raises(anthropic.PermissionDeniedError, match="not for 'infer'"):
        scraper.messages.create(model="demo", max_tokens=9, messages=HI)
    with client("sk-none") as stranger, pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.models.list()
    assert "'type': 'error'" in str(refused.value.body)  # in Anthropic's form, although OpenAI's API has this path too


def test_a_key_that_is_revoked_is_out_at_once(server: Live, keys: tuple[Path, str, str]) -> None:
    _, key = make(keys[0], "guest")
    assert httpx.get(f"{server.url}/api/tags", headers=with_key(key), timeout=60).status_code == 200
    remove(keys[0], "guest")
    assert httpx.get(f"{server.url}/api/tags", headers=with_key(key), timeout=60).status_code == 401


def test_scopes_are_all_told_in_the_help() -> None:
    from tests.peers.verbs import leaves

    text = next(p.help for p in dict(leaves())["access add"].params if p.name == "scope")
    wanted: tuple[Scope, ...] = SCOPES
    assert all(scope in text for scope in wanted)
