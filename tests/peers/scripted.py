"""A loaded model that says what a test tells it to, for the APIs: real tokenizer, no engine, no worker.

`Script.texts` are the pieces of every answer, or `events` are. `stop`: the stop string that is said to have ended it.
`fail_after`: how many pieces come before the error. `gate`: an event
every answer waits for after its first piece. `Script.begun` and `Script.ended` count answers.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from manifests.create import CreateRequest, create
from manifests.gguf import Gguf
from manifests.name import ModelName
from manifests.store import Store
from runtime.errors import RequestRefused, RuntimeFailure, WorkerDied
from runtime.events import Event, Finish, Reason, TextDelta, TokenInfo, TopToken, Usage
from runtime.loaded import GenerateRequest
from runtime.manager import Manager
from runtime.source import ModelSource
from runtime.text.tokenizer import Tokenizer
from tests.peers.model_maker import CHATML, make_model

MS = 1_000_000  # ns


@dataclass(kw_only=True)
class Script:
    texts: tuple[str, ...] = ("Hel", "lo <world> & ", "é!")
    events: tuple[Event, ...] | None = None
    reason: Reason = "stop"
    stop: str | None = None
    fail_after: int | None = None
    gate: asyncio.Event | None = None
    load_error: RuntimeFailure | None = None
    requests: list[GenerateRequest] = field(default_factory=list)
    embedded: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    sources: list[ModelSource] = field(default_factory=list)
    begun: int = 0
    ended: int = 0
    cancelled: int = 0


class ScriptedModel:
    max_seqs = 16
    waiting = 0
    cache_use = 0.0
    preemptions = 0
    unpacked = False
    alive = True

    def __init__(self, script: Script, source: ModelSource, tokenizer: Tokenizer) -> None:
        self.script, self.source, self.tokenizer = script, source, tokenizer
        self.name, self.digest = source.name, source.digest
        self.n_ctx = source.n_ctx or 256
        self.n_ctx_train = 0 if source.n_ctx else 256  # so that a request without a context fits what it got
        self.figures = SimpleNamespace(total=123456)
        self.loaded_at = datetime.now(timezone.utc)
        self._gone = asyncio.Event()

    async def died(self) -> None:
        await self._gone.wait()

    async def close(self) -> None:
        self.alive = False
        self._gone.set()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        script, watch = self.script, request.watch
        script.requests.append(request)
        script.begun += 1
        generated, over = 0, False
        try:
            for number, piece in enumerate(script.texts if script.events is None else script.events):
                if script.fail_after == number:
                    over = True
                    yield self._finish(request, generated, "error", error=WorkerDied("the model fell over"))
                    return
                if isinstance(piece, str):
                    ids = self.tokenizer.encode(piece, special=False, bos=False)
                    piece, count = TextDelta(text=piece, tokens=_infos(ids) if request.logprobs else ()), len(ids)
                else:
                    count = 1
                for _ in range(count):
                    generated += 1
                    if watch is not None:
                        watch.token(MS * (generated + 1))
                yield piece
                if script.gate is not None:
                    await script.gate.wait()
                await asyncio.sleep(0)
            over = True
            yield self._finish(request, generated, script.reason)
        except (asyncio.CancelledError, GeneratorExit):
            script.cancelled += 1
            if not over:
                self._finish(request, generated, "cancelled")
            raise
        finally:
            script.ended += 1

    async def embed(self, tokens: Sequence[int], *, client: str = "") -> array[float]:
        """Three values that tell the text's length and ends."""
        if not tokens:
            raise RequestRefused("the input is empty")
        self.script.embedded.append((tuple(tokens), client))
        if self.script.gate is not None:
            await self.script.gate.wait()
        await asyncio.sleep(0)
        return array("f", (len(tokens), tokens[0], tokens[-1]))

    def _finish(
        self, request: GenerateRequest, generated: int, reason: Reason, error: RuntimeFailure | None = None
    ) -> Finish:
        usage = Usage(
            prompt_tokens=len(request.prompt),
            cached_tokens=1,
            generated_tokens=generated,
            load_ns=request.load_ns,
            prompt_ns=2 * MS,
            generate_ns=5 * MS,
            total_ns=8 * MS,
        )
        finish = Finish(reason=reason, usage=usage, seed=1, error=error, stop=self.script.stop)
        if request.watch is not None:
            request.watch.ended(finish)
        return finish


def _infos(ids: list[int]) -> tuple[TokenInfo, ...]:
    return tuple(map(_info, ids))


def _info(token: int) -> TokenInfo:
    return TokenInfo(
        id=token, logprob=-0.5, top=(TopToken(id=token, logprob=-0.5), TopToken(id=0, logprob=-float("inf")))
    )


def scripted_manager(script: Script, **settings: Any) -> Manager:
    """A real manager over scripted models. Call it inside the event loop that uses it."""

    async def load(source: ModelSource) -> Any:
        script.sources.append(source)
        if script.load_error is not None:
            raise script.load_error
        tokenizer = await asyncio.to_thread(lambda: Tokenizer.from_gguf(Gguf.open(source.path).metadata))
        return ScriptedModel(script, source, tokenizer)

    return Manager(load=load, **settings)


TEMPLATE = (
    "{{ if .System }}[{{ .System }}]{{ end }}{{ .Prompt }}{{ if .Suffix }}~{{ .Suffix }}{{ end }}|{{ .Response }}"
)


def small_store(root: Path) -> Store:
    """`demo:latest` (Jinja of chatml), `acme/tuned:v1` (Go template, system, parameters, messages, two licences), and
    `embedder:latest`, which gives vectors and cannot answer."""
    store = Store(root / "models")
    plain = store.put_file(make_model(root / "plain.gguf", metadata={"tokenizer.chat_template": CHATML}))
    embedder = store.put_file(make_model(root / "embedder.gguf", seed=1, metadata={"llama.pooling_type": 1}))
    create(store, ModelName.parse("demo"), CreateRequest(files={"plain.gguf": plain}))
    create(store, ModelName.parse("embedder"), CreateRequest(files={"embedder.gguf": embedder}))
    tuned = CreateRequest(
        from_model=ModelName.parse("demo"),
        template=TEMPLATE,
        system="Be brief.",
        parameters={"temperature": 0.25, "stop": ["<end>", "B"], "num_ctx": 128},
        messages=(("user", "hi"), ("assistant", "ho")),
        licenses=("First licence", "Second licence"),
    )
    create(store, ModelName.parse("acme/tuned:v1"), tuned)
    return store
