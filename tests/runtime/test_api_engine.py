"""The whole server, from socket to kernels and back, on a made model of a few kilobytes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from runtime.address import parse_address
from runtime.client import Client
from runtime.errors import ServerRefused
from tests.peers.live import Live, live
from tests.peers.model_maker import CHATML, Size, make_model

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}]}
FIXED = {"temperature": 0.8, "seed": 11, "num_predict": 12}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root: Path = tmp_path_factory.mktemp("engine")
    store = Store(root / "models")
    model = make_model(root / "m.gguf", size=Size(context=2048), metadata={"tokenizer.chat_template": CHATML})
    create(store, ModelName.parse("tiny"), CreateRequest(files={"m.gguf": store.put_file(model)}))
    with live(store) as server:
        yield server


@pytest.fixture
def client(server: Live) -> Iterator[Client]:
    with Client(parse_address(server.url)) as client:
        yield client


def chat(client: Client, **options: Any) -> dict[str, Any]:
    return client.post("/api/chat", ASK | {"stream": False, "options": FIXED | options})


def test_the_same_seed_gives_the_same_answer_streamed_or_not_alone_or_in_a_crowd(server: Live, client: Client) -> None:
    alone = chat(client)
    assert alone["eval_count"] <= 12 and alone["done_reason"] in ("stop", "length")
    streamed = list(client.stream("/api/chat", ASK | {"options": FIXED}))
    assert "".join(line["message"]["content"] for line in streamed) == alone["message"]["content"]

    def other(seed: int) -> str:
        with Client(parse_address(server.url)) as mine:
            return str(chat(mine, seed=seed)["message"]["content"])

    with ThreadPoolExecutor(16) as crowd:
        answers = list(crowd.map(other, [11, *range(100, 130), 11]))
    assert answers[0] == answers[-1] == alone["message"]["content"]
    assert len(set(answers)) > 1


def test_logprobs_are_of_a_distribution(client: Client) -> None:
    body = ASK | {"stream": False, "options": FIXED | {"temperature": 0}, "logprobs": True, "top_logprobs": 3}
    answer = client.post("/api/chat", body)
    for entry in answer["logprobs"]:
        top = [other["logprob"] for other in entry["top_logprobs"]]
        assert top == sorted(top, reverse=True) and top[0] == entry["logprob"] <= 0


def test_a_killed_worker_costs_its_requests_and_no_others(server: Live, client: Client) -> None:
    chat(client)
    assert server.manager is not None
    [entry] = server.manager._entries
    os.kill(entry.model.pid, signal.SIGSTOP)  # so that the requests are certainly under way when it dies
    with ThreadPoolExecutor(3) as asking:
        answers = [asking.submit(_chat_alone, server) for _ in range(3)]
        end = time.monotonic() + 60
        while entry.users < 3:
            assert time.monotonic() < end, "the requests never reached the model"
            time.sleep(0.005)
        os.kill(entry.model.pid, signal.SIGKILL)
        for answer in answers:
            with pytest.raises(ServerRefused, match="model runner has unexpectedly stopped"):
                answer.result(60)
    assert chat(client)["done"] is True


def _chat_alone(server: Live) -> dict[str, Any]:
    with Client(parse_address(server.url)) as client:
        return chat(client)


def test_stop_unloads_and_the_next_question_loads_again(client: Client) -> None:
    chat(client)
    assert len(client.get("/api/ps")["models"]) == 1
    assert client.post("/api/generate", {"model": "tiny", "keep_alive": 0})["done_reason"] == "unload"
    assert client.get("/api/ps")["models"] == []
    assert chat(client)["load_duration"] > 0


def test_clients_that_leave_free_their_places(server: Live, client: Client) -> None:
    chat(client)
    for _ in range(20):
        with httpx.stream(
            "POST", f"{server.url}/api/chat", json=ASK | {"options": {"num_predict": 2000}}, timeout=60
        ) as response:
            next(response.iter_bytes())
    with Client(parse_address(server.url)) as mine:
        assert chat(mine)["message"]["content"] == chat(client)["message"]["content"]
