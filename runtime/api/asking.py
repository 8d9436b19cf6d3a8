"""One question to one model, as both APIs ask it: from checked fields to a running stream of events.

    Ask -> ModelSource -> manager.use -> prompt ids -> model.generate -> events

The last step, events to bytes, belongs to each API. Refuses capabilities the model or this server does not have, with
Ollama's texts (contract, 1.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from manifests.errors import NotFound
from manifests.name import ModelName
from runtime.api import names
from runtime.api.durations import FOREVER, SECOND, keep_alive
from runtime.api.gojson import Body
from runtime.api.observing import watching
from runtime.api.prompts import PromptMaker
from runtime.api.state import Server
from runtime.card import ModelCard
from runtime.errors import (
    CapabilityMissing,
    ModelNotFound,
    RequestCancelled,
    RequestRefused,
    RuntimeFailure,
    WorkerDied,
)
from runtime.events import Event, Finish, TokenInfo
from runtime.loaded import GenerateRequest, LoadedModel, ModelSource, Sampling
from runtime.options import Options
from runtime.text.prompt import Prompt

MAX_TOP = 20  # alternatives for one token (contract, 2.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """`keep_alive` in seconds, negative for ever, None not given. `client`: who asks, for fairness."""

    name: ModelName
    card: ModelCard
    options: Options
    prompt: PromptMaker
    keep_alive: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An answer under way."""

    prompt: Prompt
    model: LoadedModel
    events: AsyncGenerator[Event, None]


@contextlib.asynccontextmanager
async def running(server: Server, ask: Ask) -> AsyncIterator[Run]:
    """Loads the model if need be. Leaving the block cancels what still runs."""
    started = time.monotonic_ns()
    watched = watching(server.metrics, ask.name.short, ask.card.manifest.digest.hex)
    async with watched as watch, server.manager.use(source_of(server, ask), keep_alive=ask.keep_alive) as model:
        load_ns = time.monotonic_ns() - started
        prompt = await prompt_of(ask, model)
        request = GenerateRequest(
            prompt=prompt.ids,
            sampling=sampling_of(ask),
            max_tokens=ask.options.num_predict if ask.options.num_predict >= 0 else None,
            stop=ask.options.stop,
            client=ask.client,
            logprobs=ask.logprobs,
            load_ns=load_ns,
            watch=watch.at(model),
        )
        async with aclosing(model.generate(request)) as events:
            yield Run(prompt=prompt, model=model, events=events)


async def prompt_of(ask: Ask, model: LoadedModel) -> Prompt:
    """In threads of its own: a prompt of megabytes keeps only other prompts waiting."""
    return await asyncio.get_running_loop().run_in_executor(_PROMPTS, ask.prompt, model)


_PROMPTS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sealift-prompt")


class Wanted(Protocol):
    """What tells which model to load, and how."""

    @property
    def name(self) -> ModelName: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def options(self) -> Options: ...


def source_of(server: Server, ask: Wanted) -> ModelSource:
    settings, weights = server.settings, ask.card.weights
    return ModelSource(
        name=ask.name.short,
        digest=ask.card.manifest.digest.hex,
        weights=str(weights.digest),
        path=server.store.blob_path(weights.digest),
        size=ask.card.manifest.size,
        adapters=tuple((str(layer.digest), server.store.blob_path(layer.digest)) for layer in ask.card.adapters),
        n_ctx=ask.options.num_ctx or settings.context_length,
        threads=ask.options.num_thread or settings.threads,
        parallel=settings.parallel,
        max_rows=settings.batch_rows,
        kv_type=settings.kv_type,
        packs=str(server.store.packs / weights.digest.hex),
    )


def sampling_of(ask: Ask) -> Sampling:
    options = ask.options
    return Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repeat_last_n=options.repeat_last_n,
        seed=options.seed if options.seed >= 0 else None,
        logit_bias=dict(ask.logit_bias),
        top_logprobs=ask.top_logprobs,
    )


def ended(finish: Finish) -> Finish:
    """A finish that is an answer's end; the two others are raised."""
    if finish.reason == "error":
        raise finish.error or WorkerDied("the model stopped without saying why")
    if finish.reason == "cancelled":
        raise RequestCancelled()
    return finish


# -- fields shared by both APIs


def find_model(server: Server, asked: str) -> tuple[ModelName, ModelCard]:
    """Blocks on disk. 400 for no name, 404 with the name as the client wrote it."""
    try:
        return names.find(server.box, asked)
    except NotFound as error:
        name = names.parse(asked, server.store)
        if name is not None and server.store.has(name):
            raise RuntimeFailure(str(error), hint=error.hint) from None  # the model is there, a blob of it is not
        raise ModelNotFound(f"model '{asked}' not found", hint=error.hint) from None


def keep_alive_of(body: Body) -> float | None:
    """Seconds; negative: for ever; None: not given."""
    value = keep_alive(body.raw("keep_alive"))
    return None if value is None else -1.0 if value == FOREVER else value / SECOND


def refuse_incapable(name: ModelName, card: ModelCard, verb: str, asked: str, *, wanted: Mapping[str, bool]) -> None:
    """`wanted`: capability to whether the request needs it. All that are missing are named."""
    if "completion" not in card.capabilities:
        raise CapabilityMissing(f'"{asked}" does not support {verb}')
    missing = [capability for capability, needed in wanted.items() if needed and capability not in card.capabilities]
    if missing:
        raise CapabilityMissing("\n".join(f"{name.full} does not support {capability}" for capability in missing))


THINK_LEVELS = ("high", "medium", "low", "max")


def check_think(value: Any, asked: str, card: ModelCard) -> None:
    """Refuses a bad value, and a wish to think where the model (or this server) cannot."""
    expected = 'must be "high", "medium", "low", "max", true, or false'
    if value is None or value is False:
        return
    if isinstance(value, str) and value not in THINK_LEVELS:
        raise RequestRefused(f'invalid think value: "{value}" ({expected})')
    if not isinstance(value, (bool, str)):
        raise RequestRefused('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if "thinking" not in card.capabilities:
        raise CapabilityMissing(f'"{asked}" does not support thinking')


def check_format(value: Any, shown: str) -> None:
    """`shown`: the value as the client wrote it, compact. Structured output is not built yet and refused by name."""
    if value is None or value == "":
        return
    if value != "json" and not isinstance(value, dict):
        raise RequestRefused(
            f'invalid format: {shown[:200]}; expected "json" or a valid JSON Schema object', http_status=500
        )
    raise CapabilityMissing(FORMAT_TEXT)


FORMAT_TEXT = "format is not supported by this server: it does not constrain answers to JSON or a schema yet"


def top_logprobs_of(body: Body) -> int:
    count = body.integer("top_logprobs")
    if not 0 <= count <= MAX_TOP:
        raise RequestRefused(f"top_logprobs must be between 0 and {MAX_TOP}")
    return count


# -- log probabilities


def token_entry(model: LoadedModel, token: int, logprob: float) -> dict[str, Any]:
    """`bytes` are exact; `token` shows half of a character as U+FFFD."""
    raw = model.tokenizer.token_bytes(token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, LEAST), "bytes": list(raw)}


LEAST = -9999.0  # JSON has no minus infinity; OpenAI's API uses this number for "very unlikely"


def logprob_entry(model: LoadedModel, info: TokenInfo, *, top: int, always: bool = False) -> dict[str, Any]:
    """`always`: name the alternatives even when none were asked for (OpenAI)."""
    entry = token_entry(model, info.id, info.logprob)
    if top or always:
        entry["top_logprobs"] = [token_entry(model, other.id, other.logprob) for other in info.top[:top]]
    return entry
