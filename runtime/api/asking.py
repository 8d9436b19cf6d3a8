"""One question to one model, as both APIs ask it: from checked fields to a running stream of events.

    Ask -> ModelSource -> manager.use -> Question -> model.generate -> parted -> events

The last step, events to bytes, belongs to each API. Several answers of one request run side by side (`together`); the
n-th of them has the request's seed plus n, so that each can be had again alone. Refuses capabilities the model or this
server does not have, with Ollama's texts (contract, 1.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request

from manifests.name import ModelName
from native.record import field, record, replace
from runtime.api import names
from runtime.api.durations import FOREVER, SECOND, keep_alive
from runtime.api.gate import caller_of
from runtime.api.gojson import Body, dump
from runtime.api.observing import note_model, watching
from runtime.api.prompts import Question, QuestionMaker
from runtime.api.state import Server
from runtime.card import ModelCard
from runtime.engine.constraint import Constraint
from runtime.errors import (
    CapabilityMissing,
    RequestCancelled,
    RequestRefused,
    WorkerDied,
)
from runtime.events import Event, Finish, TokenInfo
from runtime.loaded import GenerateRequest, LoadedModel, Sampling
from runtime.options import Options
from runtime.parting import parted
from runtime.source import ModelSource, source_of
from runtime.text.message import Think
from runtime.text.prompt import Prompt

MAX_TOP = 20  # alternatives for one token (contract, 2.3)


@record(frozen=True, slots=True, kw_only=True)
class Ask:
    """`keep_alive` in seconds, negative for ever, None not given. `client`: who asks, for fairness. `place`: which of
    the answers to one question this is, from 0."""

    name: ModelName
    card: ModelCard
    options: Options
    prompt: QuestionMaker
    keep_alive: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    client: str = ""
    place: int = 0


@record(frozen=True, slots=True, kw_only=True)
class Run:
    """An answer under way."""

    question: Question
    model: LoadedModel
    events: AsyncGenerator[Event, None]

    @property
    def prompt(self) -> Prompt:
        return self.question.prompt

    def limited_by(self, finish: Finish) -> str | None:
        """What cut an answer short: the request's own limit, or the model's context."""
        if finish.reason != "length":
            return None
        used = finish.usage.prompt_tokens + finish.usage.generated_tokens
        return "context" if used >= self.model.n_ctx else "num_predict"


@contextlib.asynccontextmanager
async def running(server: Server, ask: Ask) -> AsyncIterator[Run]:
    """Loads the model if need be. Leaving the block cancels what still runs."""
    async with together(server, [ask]) as [run]:
        yield run


@contextlib.asynccontextmanager
async def together(server: Server, asks: Sequence[Ask]) -> AsyncIterator[list[Run]]:
    """Answers of one request, side by side on one model: `asks` differ in question and place only."""
    started = time.monotonic_ns()
    async with contextlib.AsyncExitStack() as stack:
        first = asks[0]
        told = [watching(server.metrics, ask.name.short, ask.card.manifest.digest.hex) for ask in asks]
        watches = [await stack.enter_async_context(watch) for watch in told]
        model = await stack.enter_async_context(server.manager.use(wanted(server, first), keep_alive=first.keep_alive))
        load_ns = time.monotonic_ns() - started
        made: dict[int, Question] = {}
        for ask in asks:
            if id(ask.prompt) not in made:
                made[id(ask.prompt)] = await question_of(ask, model)
        runs = []
        for ask, watch in zip(asks, watches, strict=True):
            question = made[id(ask.prompt)]
            request = _request(ask, question, load_ns, salt_of(server, ask.client))
            events = model.generate(replace(request, watch=watch.at(model, request)))
            await stack.enter_async_context(aclosing(events))
            runs.append(
                Run(
                    question=question,
                    model=model,
                    events=parted(events, question.parser(), most_calls=question.most_calls),
                )
            )
        yield runs


def _request(ask: Ask, question: Question, load_ns: int, salt: str) -> GenerateRequest:
    return GenerateRequest(
        prompt=question.prompt.ids,
        sampling=sampling_of(ask),
        max_tokens=ask.options.num_predict if ask.options.num_predict >= 0 else None,
        stop=ask.options.stop,
        client=ask.client,
        salt=salt,
        logprobs=ask.logprobs,
        prompt_logprobs=ask.prompt_logprobs,
        constraint=question.constraint,
        shown=question.shown,
        load_ns=load_ns,
    )


async def mingled(runs: Sequence[Run]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all answers as they come, each with its answer's place in `runs`."""
    if len(runs) == 1:
        async for event in runs[0].events:
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(maxsize=2 * len(runs))

    async def feed(place: int, run: Run) -> None:
        try:
            async for event in run.events:
                await queue.put((place, event))
        except Exception as error:
            await queue.put((place, error))

    tasks = [asyncio.ensure_future(feed(place, run)) for place, run in enumerate(runs)]
    try:
        left = len(runs)
        while left:
            place, came = await queue.get()
            if isinstance(came, Exception):
                raise came
            left -= isinstance(came, Finish)
            yield place, came
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def question_of(ask: Ask, model: LoadedModel) -> Question:
    """In threads of its own, unless it is soon done: a prompt of megabytes keeps only other prompts waiting."""
    made = ask.prompt.at_once(model)
    if made is None:
        made = await asyncio.get_running_loop().run_in_executor(_PROMPTS, ask.prompt, model)
    return made


_PROMPTS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sealift-prompt")


class Wanted(Protocol):
    """What tells which model to load, and how."""

    @property
    def name(self) -> ModelName: ...

    @property
    def card(self) -> ModelCard: ...

    @property
    def options(self) -> Options: ...


def wanted(server: Server, ask: Wanted) -> ModelSource:
    """Raises what `source_of` refuses."""
    return source_of(server.store, server.settings, ask.name, ask.card, ask.options)


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
        seed=options.seed + ask.place if options.seed >= 0 else None,
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


def find_model(server: Server, asked: str, *, spoken: bool = False) -> tuple[ModelName, ModelCard]:
    """Blocks on disk. 400 for no name, 404 with the name as the client wrote it. `spoken`: what its template can do
    will be asked, which takes longer than all the rest."""
    name, card = names.chosen(server.box, asked)
    note_model(name.short, card.manifest.digest.hex)
    if spoken:
        _ = card.capabilities
    return name, card


async def model_of(server: Server, asked: str, *, spoken: bool = True) -> tuple[ModelName, ModelCard]:
    """As `find_model`, without blocking. A card at hand needs no thread: to wait for one takes longer than to look."""
    known = names.known(server.box, asked)
    if known is None or (spoken and not known[1].judged):
        return await asyncio.to_thread(find_model, server, asked, spoken=spoken)
    note_model(known[0].short, known[1].manifest.digest.hex)
    return known


def client_of(request: Request) -> str:
    """A key is one client wherever it asks from: behind a proxy all addresses are the same."""
    caller = caller_of(request)
    if caller is not None:
        return f"key {caller.name}"
    return request.client.host if request.client else ""


def salt_of(server: Server, client: str) -> str:
    """Keys do not find each other's prompts in the cache, unless told so: how long an answer takes, and how many tokens
    it says were cached, would tell one what another asks."""
    return client if server.access is not None and not server.settings.share_prefixes else ""


def keep_alive_of(body: Body) -> float | None:
    """Seconds; negative: for ever; None: not given."""
    value = keep_alive(body.raw("keep_alive"))
    return None if value is None else -1.0 if value == FOREVER else value / SECOND


FIELDS = {"insert": "suffix", "vision": "images"}  # what asks for a capability, where it is called otherwise


def refuse_incapable(name: ModelName, card: ModelCard, verb: str, asked: str, *, wanted: Mapping[str, bool]) -> None:
    """`wanted`: capability to whether the request needs it. All that are missing are named."""
    if not card.can("completion"):
        raise CapabilityMissing(f'"{asked}" does not support {verb}')
    missing = [capability for capability, needed in wanted.items() if needed and not card.can(capability)]
    if missing:
        text = "\n".join(f"{name.full} does not support {capability}" for capability in missing)
        raise CapabilityMissing(text, param=FIELDS.get(missing[0], missing[0]))


THINK_LEVELS = ("high", "medium", "low", "max")


def think_of(value: Any, asked: str, card: ModelCard, *, param: str = "think") -> Think:
    """A model that can think does, unless it is told otherwise. Refuses a bad value, and a wish to think where the
    model cannot."""
    expected = 'must be "high", "medium", "low", "max", true, or false'
    thinks = card.can("thinking")
    if value is None:
        return True if thinks else None
    if isinstance(value, str) and value not in THINK_LEVELS:
        raise RequestRefused(f'invalid think value: "{value[:40]}" ({expected})', param="think")
    if not isinstance(value, (bool, str)):
        raise RequestRefused('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value and not thinks:
        raise CapabilityMissing(f'"{asked}" does not support thinking', param=param)
    return value if thinks else None


def form_of(value: Any) -> Constraint | None:
    """The native `format`: absent, "json" or a schema."""
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint(kind="json")
    if isinstance(value, dict):
        return Constraint(kind="schema", text=dump(value).decode())
    shown = dump(value).decode()
    raise RequestRefused(
        f'invalid format: {shown[:200]}; expected "json" or a valid JSON Schema object', http_status=500
    )


def top_logprobs_of(body: Body) -> int:
    count = body.integer("top_logprobs")
    if not 0 <= count <= MAX_TOP:
        raise RequestRefused(f"top_logprobs must be between 0 and {MAX_TOP}", param="top_logprobs")
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
