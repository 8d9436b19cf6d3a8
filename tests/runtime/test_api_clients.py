"""The published `ollama`, `openai` and `anthropic` clients against the real server, with a scripted model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from manifests.store import Store
from runtime.events import CallDelta, TextDelta, ThinkingDelta
from runtime.text.message import ToolCall
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store

TEXT = "Hello <world> & é!"
HI: Any = [{"role": "user", "content": "Hi"}]  # the two clients type it in two ways


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Live]:
    with live(store, Script()) as server:
        yield server


@pytest.fixture
def native(server: Live) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


@pytest.fixture
def compatible(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_ollama_lists_shows_and_asks(native: ollama.Client) -> None:
    assert {model.model for model in native.list().models} == {"demo:latest", "embedder:latest", "acme/tuned:v1"}
    shown = native.show("demo")
    assert shown.modelinfo is not None and shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"] and shown.modified_at is not None
    assert native.generate("demo", "Hi").response == TEXT
    answer = native.chat("demo", messages=HI)
    assert answer.message.content == TEXT and answer.done_reason == "stop" and (answer.eval_count or 0) > 0
    assert [model.model for model in native.ps().models] == ["demo:latest"]


def test_ollama_streams(native: ollama.Client) -> None:
    assert "".join(part.response or "" for part in native.generate("demo", "Hi", stream=True)) == TEXT
    parts = list(native.chat("demo", messages=HI, stream=True, logprobs=True, top_logprobs=1))
    assert "".join(part.message.content or "" for part in parts) == TEXT
    assert [part.done for part in parts].count(True) == 1


def test_ollama_raises_our_errors(native: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'gone' not found") as caught:
        native.chat("gone", messages=HI)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="no outbound connections"):
        list(native.pull("gone", stream=True))


def test_ollama_makes_copies_and_deletes(native: ollama.Client) -> None:
    assert native.create("made", from_="demo", system="S").status == "success"
    assert native.copy("made", "copied").status == "success"
    for name in ("made", "copied"):
        assert native.delete(name).status == "success"


def test_the_async_client_too(server: Live) -> None:
    async def main() -> str:
        client = ollama.AsyncClient(host=server.url)
        found = "".join(
            [part.message.content or "" async for part in await client.chat("demo", messages=HI, stream=True)]
        )
        await client._client.aclose()
        return found

    assert asyncio.run(main()) == TEXT


def test_openai_asks_and_streams(compatible: openai.OpenAI) -> None:
    answer = compatible.chat.completions.create(model="demo", messages=HI, max_completion_tokens=9)
    assert answer.choices[0].message.content == TEXT and answer.usage is not None
    stream = compatible.chat.completions.create(
        model="demo", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == answer.usage.total_tokens
    assert compatible.completions.create(model="demo", prompt="x").choices[0].text == TEXT
    assert {model.id for model in compatible.models.list()} >= {"demo:latest", "acme/tuned:v1"}
    assert compatible.models.retrieve("demo").id == "demo:latest"


def test_openai_takes_several_answers_and_their_log_probabilities(compatible: openai.OpenAI) -> None:
    answer = compatible.chat.completions.create(model="demo", messages=HI, n=3, logprobs=True, top_logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {TEXT}
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content
    stream = compatible.chat.completions.create(model="demo", messages=HI, n=2, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [TEXT, TEXT]


def called(store: Store) -> Script:
    """A model that thinks, speaks and calls two tools."""
    weather = ToolCall(name="weather", arguments={"city": "Paris", "days": 2}, id="call_aaaaaaaa")
    return Script(
        events=(
            ThinkingDelta(text="Hm"),
            ThinkingDelta(text="m."),
            TextDelta(text="Let me "),
            TextDelta(text="look."),
            CallDelta(call=weather),
            CallDelta(call=ToolCall(name="time", id="call_bbbbbbbb", index=1)),
        )
    )


def test_openai_understands_calls_and_thinking(store: Store) -> None:
    with live(store, called(store)) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        with client.chat.completions.stream(model="demo", messages=HI) as stream:
            streamed = stream.get_final_completion().choices[0]
        whole = client.chat.completions.create(model="demo", messages=HI).choices[0]
    for choice in (streamed, whole):
        assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
        assert getattr(choice.message, "reasoning_content", None) == "Hmm."
        calls: list[Any] = list(choice.message.tool_calls or ())
        assert [call.function.name for call in calls] == ["weather", "time"]
        assert [call.id for call in calls] == ["call_aaaaaaaa", "call_bbbbbbbb"]
        assert json.loads(calls[0].function.arguments) == {"city": "Paris", "days": 2}


def test_openais_responses_and_their_stream(store: Store) -> None:
    with live(store, called(store)) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        whole = client.responses.create(model="demo", input="Hi", instructions="Be brief.", max_output_tokens=9)
        with client.responses.stream(model="demo", input="Hi") as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_response()
    for answer in (whole, streamed):
        assert answer.output_text == "Let me look." and answer.status == "completed"
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
        call = answer.output[2]
        assert call.type == "function_call" and (call.name, call.call_id) == ("weather", "call_aaaaaaaa")
        assert json.loads(call.arguments) == {"city": "Paris", "days": 2}
        assert answer.usage is not None and answer.usage.output_tokens == 6
    assert kinds == [f"response.{kind}" for kind in PUBLISHED]


PUBLISHED = [  # OpenAI's reference, "Streaming events"
    "created",
    "in_progress",
    "output_item.added",
    "reasoning_summary_part.added",
    "reasoning_summary_text.delta",
    "reasoning_summary_text.delta",
    "reasoning_summary_text.done",
    "reasoning_summary_part.done",
    "output_item.done",
    "output_item.added",
    "content_part.added",
    "output_text.delta",
    "output_text.delta",
    "output_text.done",
    "content_part.done",
    "output_item.done",
    *["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"] * 2,
    "completed",
]


def test_anthropics_messages_and_their_stream(store: Store) -> None:
    with live(store, called(store)) as server, anthropic.Anthropic(base_url=server.url, api_key="x") as client:
        whole = client.messages.create(model="demo", messages=HI, max_tokens=9, system="Be brief.")
        with client.messages.stream(model="demo", messages=HI, max_tokens=9) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
        counted = client.messages.count_tokens(model="demo", messages=HI)
    assert text == "Let me look."
    for message in (whole, streamed):
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        call = message.content[2]
        assert call.type == "tool_use" and (call.name, call.id) == ("weather", "toolu_aaaaaaaa")
        assert call.input == {"city": "Paris", "days": 2}
        assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 6)
    assert counted.input_tokens == streamed.usage.input_tokens < whole.usage.input_tokens


def test_anthropics_client_lists_models_page_by_page(server: Live) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client_of_openai:
        ids = [model.id for model in client_of_openai.models.list()]
    with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as client:
        assert len(ids) == 3
        assert [model.id for model in client.models.list(limit=1)] == ids
        assert [model.id for model in client.models.list(limit=1, before_id=ids[2])] == ids[1::-1]
        one = client.models.retrieve("acme/tuned:v1")
        assert (one.display_name, one.lifecycle, one.created_at.tzinfo is None) == ("acme/tuned:v1", "active", False)
        with pytest.raises(anthropic.NotFoundError, match="model 'gone:latest' not found"):
            client.models.retrieve("gone")


def test_anthropic_raises_our_errors(server: Live, store: Store) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="x", max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError, match="model 'gone' not found"):
            client.messages.create(model="gone", messages=HI, max_tokens=9)
        with pytest.raises(anthropic.BadRequestError, match="max_tokens is required and must be positive"):
            client.messages.create(model="demo", messages=HI, max_tokens=0)
    with live(store, Script(fail_after=2)) as failing, anthropic.Anthropic(base_url=failing.url, api_key="x") as client:
        stream = client.messages.create(model="demo", messages=HI, max_tokens=9, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="the model fell over"):
            list(stream)


def test_openais_responses_fail_in_mid_stream(store: Store) -> None:
    with live(store, Script(fail_after=2)) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        *_, last = client.responses.create(model="demo", input="Hi", stream=True)
    assert last.type == "response.failed" and last.response.error is not None
    assert last.response.error.message == "the model fell over"


def test_openai_raises_our_errors(compatible: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model 'gone' not found"):
        compatible.chat.completions.create(model="gone", messages=HI)
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
        compatible.chat.completions.create(model="demo", messages=HI, tools=[tool])


def test_openai_sees_a_failure_in_mid_stream(store: Store) -> None:
    with live(store, Script(fail_after=2)) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(model="demo", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="the model fell over"):
            list(stream)


def test_ollama_sees_a_failure_in_mid_stream(store: Store) -> None:
    with live(store, Script(fail_after=2)) as server:
        client = ollama.Client(host=server.url)
        with pytest.raises(ollama.ResponseError, match="the model fell over"):
            list(client.chat("demo", messages=HI, stream=True))
        client._client.close()


def test_a_client_that_hangs_up_frees_the_model(store: Store) -> None:
    """Over a real socket: the answer waits at a gate that never opens, so only the hang-up can end it."""
    script = Script(gate=asyncio.Event())
    with live(store, script) as server:
        with httpx.stream(
            "POST", f"{server.url}/api/chat", json={"model": "demo", "messages": HI}, timeout=60
        ) as response:
            next(response.iter_bytes())
        wait_until(lambda: nobody_uses(server))
        assert (script.begun, script.ended, script.cancelled) == (1, 1, 1)


def test_a_client_that_hangs_up_frees_all_of_several_answers(store: Store) -> None:
    script = Script(gate=asyncio.Event())
    with live(store, script) as server:
        body = {"model": "demo", "messages": HI, "n": 3, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
            next(response.iter_bytes())
        wait_until(lambda: nobody_uses(server))
        assert (script.begun, script.ended, script.cancelled) == (3, 3, 3)


def test_stopping_the_server_ends_the_answers_under_way(store: Store) -> None:
    script = Script(gate=asyncio.Event())
    with live(store, script) as server:
        bodies: list[bytes] = []

        def read() -> None:
            try:
                with httpx.stream(
                    "POST", f"{server.url}/api/chat", json={"model": "demo", "messages": HI}, timeout=60
                ) as response:
                    bodies.extend(response.iter_bytes())
            except httpx.HTTPError:
                pass

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: bool(bodies))
    reader.join(60)
    assert not reader.is_alive() and script.ended == 1


def nobody_uses(server: Live) -> bool:
    assert server.manager is not None
    return server.manager.loaded()[0].users == 0


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "waited 60 s"
        time.sleep(0.005)
