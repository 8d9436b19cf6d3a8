"""Request bodies that come compressed: zstd is read within the same bound, anything else is refused by name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
import zstandard

from manifests.store import Store
from runtime.api.app import create_app
from runtime.told import Settings
from tests.peers.scripted import Script, scripted_manager, small_store

BODY = json.dumps({"model": "no-such-model", "prompt": "hi"}).encode()
NOT_FOUND = "model 'no-such-model' not found"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


def post(store: Store, content: bytes, encoding: str) -> httpx.Response:
    async def main() -> httpx.Response:
        manager = scripted_manager(Script())
        transport = httpx.ASGITransport(app=create_app(store, manager, settings=Settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await client.post("/api/generate", content=content, headers={"content-encoding": encoding})
            finally:
                await manager.close()

    return asyncio.run(main())


def test_zstd_is_read(store: Store) -> None:
    for encoding in ("zstd", " ZSTD "):
        response = post(store, zstandard.compress(BODY), encoding)
        assert response.status_code == 404 and response.json()["error"] == NOT_FOUND


@pytest.mark.parametrize(
    ("content", "encoding", "status", "text"),
    [
        (BODY, "gzip", 415, "content-encoding 'gzip' is not supported"),
        (BODY, "zstd", 400, "the body is not zstd"),
        (zstandard.compress(b" " * (33 << 20)), "zstd", 413, "request body too large"),
    ],
)
def test_other_bodies_are_refused(store: Store, content: bytes, encoding: str, status: int, text: str) -> None:
    response = post(store, content, encoding)
    assert response.status_code == status and text in response.json()["error"]


def test_a_cut_stream_is_no_request(store: Store, tmp_path: Path) -> None:
    response = post(store, zstandard.compress(BODY)[:-5], "zstd")
    assert response.status_code == 400
