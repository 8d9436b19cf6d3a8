"""/v1/completions: one text for each prompt and choice, all side by side on one model.

A string goes through the model's template, as in Ollama; with `echo` it is taken as it is, because what is echoed is
the model's whole prompt, and so are token ids. `echo` with `logprobs` gives the log probability of every token of the
prompt but the first: how well a model expects a given text (lm-eval's multiple choice asks so). `best_of` keeps the
answers whose tokens were likeliest on average, and cannot be streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from native.record import field, record
from runtime.api import prompts
from runtime.api.asking import (
    MAX_TOP,
    Ask,
    Run,
    client_of,
    ended,
    keep_alive_of,
    mingled,
    model_of,
    refuse_incapable,
    think_of,
    together,
)
from runtime.api.gojson import Body, dump, too_many
from runtime.api.openai.fields import MAX_ANSWERS, answers_of, form_of, logit_bias_of, options_of, refuse_other_media
from runtime.api.openai.wire import DONE, OPENAI, Frame, frame_of, sse, text_logprobs, usage_of
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.structured import structured_form
from runtime.api.transport import JSON, SSE, Answer, Chunks
from runtime.errors import RequestRefused
from runtime.events import Event, Finish, PromptScored, TextDelta, TokenInfo, Usage

PROMPTS = "'prompt' must be a string, a list of strings, a list of tokens or a list of lists of tokens"


@record(frozen=True, slots=True, kw_only=True)
class Reply:
    """`n` of `best_of` answers to each prompt are shown. `top`: alternatives of a token, None: no log probabilities."""

    frame: Frame
    n: int
    best_of: int
    top: int | None
    echo: bool


async def completions(request: Request) -> Response:
    server, body = server_of(request), await body_of(request, "CompletionRequest")
    asked = body.text("model").strip()
    if not asked:
        raise RequestRefused("model '' not found", http_status=404, param="model")
    name, card = await model_of(server, asked)
    refuse_incapable(name, card, "generate", asked, wanted={"insert": bool(body.text("suffix"))})
    refuse_other_media(body)
    values = _prompts(body)
    top, stream = _logprobs_of(body), body.flag("stream")
    n = answers_of(body, len(values))
    reply = Reply(
        frame=frame_of(body, card, asked, "cmpl", "text_completion"),
        n=n,
        best_of=_best_of(body, n, len(values), stream),
        top=top,
        echo=body.flag("echo"),
    )
    think = think_of(False, asked, card)  # the answer goes on where the prompt ends
    suffix, form = body.text("suffix"), structured_form(body, form_of(body.raw("response_format")))
    options, bias = options_of(body, card, "max_completion_tokens", "max_tokens"), logit_bias_of(body)
    asks = []
    for value in values:
        maker = prompts.completion_maker(card, _question(value, suffix, think, form, raw=reply.echo))
        for place in range(reply.best_of):
            asks.append(
                Ask(
                    name=name,
                    card=card,
                    options=options,
                    prompt=maker,
                    keep_alive=keep_alive_of(body),
                    logprobs=top is not None or reply.best_of > n,
                    top_logprobs=top or 0,
                    prompt_logprobs=reply.echo and top is not None and place < n,
                    logit_bias=bias,
                    client=client_of(request),
                    place=place,
                )
            )
    if stream:
        return Answer(_stream(server, asks, reply), media_type=SSE, dialect=OPENAI)
    return Answer(_once(server, asks, reply), media_type=JSON, dialect=OPENAI, whole=True)


def _prompts(body: Body) -> list[Any]:
    value = body.raw("prompt")
    if value is None or value == "":
        raise RequestRefused("'prompt' is empty", param="prompt")
    values = value if isinstance(value, list) and value and isinstance(value[0], (str, list)) else [value]
    if len(values) > MAX_ANSWERS:
        raise RequestRefused(f"'prompt' is a list of {len(values)}; at most {MAX_ANSWERS} are accepted", param="prompt")
    return values


def _question(value: Any, suffix: str, think: Any, form: Any, *, raw: bool) -> prompts.Completion:
    if isinstance(value, str) and value:
        return prompts.Completion(prompt=value, suffix=suffix, think=think, form=form, raw=raw and not suffix)
    if isinstance(value, list) and len(value) > prompts.MAX_IDS:
        raise too_many("prompt", len(value), prompts.MAX_IDS)
    if isinstance(value, list) and set(map(type, value)) == {int} and min(value) >= 0:
        return prompts.Completion(tokens=tuple(value), form=form)
    raise RequestRefused(PROMPTS, param="prompt")


def _logprobs_of(body: Body) -> int | None:
    """Completions' `logprobs` is a count. Some clients send chat's boolean: true is 0 alternatives."""
    value = body.raw("logprobs")
    if value is None or value is False:
        return None
    count = 0 if value is True else body.integer("logprobs")
    if not 0 <= count <= MAX_TOP:
        raise RequestRefused(f"logprobs must be between 0 and {MAX_TOP}", param="logprobs")
    return count


def _best_of(body: Body, n: int, prompts: int, stream: bool) -> int:
    best_of = body.integer("best_of", n)
    if not n <= best_of <= MAX_ANSWERS // prompts:
        raise RequestRefused(
            f"'best_of' must be from 'n' ({n}) to {MAX_ANSWERS // prompts} here, found {best_of}", param="best_of"
        )
    if stream and best_of > n:
        raise RequestRefused("'best_of' above 'n' cannot be streamed: send \"stream\": false", param="best_of")
    return best_of


# -- events to bytes


@record(slots=True, kw_only=True)
class _Text:
    """One answer under way: what there is to show, and what is known of its tokens."""

    text: str = ""
    offset: int = 0  # characters shown before `text`
    ids: list[int] = field(default_factory=list)
    infos: list[TokenInfo | None] = field(default_factory=list)
    score: float = 0.0  # sum of the answer's log probabilities
    count: int = 0

    def add(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self.text += event.text
            self.ids += [info.id for info in event.tokens]
            self.infos += event.tokens
            self.score += sum(info.logprob for info in event.tokens)
            self.count += len(event.tokens)

    def echo(self, run: Run, event: PromptScored | None) -> None:
        """The prompt before the answer."""
        ids = run.prompt.ids
        self.text = run.prompt.text or run.model.tokenizer.decode(ids, special=True)
        if event is not None:
            self.ids, self.infos = list(ids), [None, *event.tokens]

    def choice(self, place: int, run: Run, reply: Reply, reason: str | None) -> dict[str, Any]:
        logprobs = None
        if reply.top is not None and self.ids:
            logprobs = text_logprobs(run.model, self.infos, self.ids, reply.top, self.offset)
        return {"index": place, "text": self.text, "logprobs": logprobs, "finish_reason": reason}

    def next(self) -> _Text:
        return _Text(offset=self.offset + len(self.text))


async def _stream(server: Server, asks: Sequence[Ask], reply: Reply) -> Chunks:
    usages: dict[int, Usage] = {}
    async with together(server, asks) as runs:
        pieces = [_Text() for _ in runs]
        for place, run in enumerate(runs):
            if reply.echo and reply.top is None:
                pieces[place].echo(run, None)
        async for place, event in mingled(runs):
            run, piece = runs[place], pieces[place]
            reason = None
            if isinstance(event, PromptScored):
                piece.echo(run, event)
                continue
            if isinstance(event, Finish):
                usages[place], reason = ended(event).usage, event.reason
            piece.add(event)
            if piece.text or piece.ids or reason:
                yield sse(reply.frame.chunk([piece.choice(place, run, reply, reason)]))
                pieces[place] = piece.next()
    if reply.frame.usage:
        yield sse(reply.frame.chunk([], usage_of([usages[place] for place in sorted(usages)], reply.best_of)))
    yield DONE


async def _once(server: Server, asks: Sequence[Ask], reply: Reply) -> Chunks:
    finishes: dict[int, Finish] = {}
    async with together(server, asks) as runs:
        texts = [_Text() for _ in runs]
        for place, run in enumerate(runs):
            if reply.echo and reply.top is None:
                texts[place].echo(run, None)
        async for place, event in mingled(runs):
            if isinstance(event, PromptScored):
                texts[place].echo(runs[place], event)
            elif isinstance(event, Finish):
                finishes[place] = ended(event)
            else:
                texts[place].add(event)
        usage = usage_of([finishes[place].usage for place in range(len(runs))], reply.best_of)
        choices = [
            texts[place].choice(index, runs[place], reply, finishes[place].reason)
            for index, place in enumerate(_shown(texts, reply))
        ]
        yield dump(reply.frame.chunk(choices, usage))


def _shown(texts: Sequence[_Text], reply: Reply) -> list[int]:
    """Of each prompt's answers the `n` likeliest, in the order in which they were asked for."""
    shown: list[int] = []
    for first in range(0, len(texts), reply.best_of):
        places = range(first, first + reply.best_of)
        best = sorted(places, key=lambda place: -texts[place].score / max(texts[place].count, 1))
        shown += sorted(best[: reply.n])
    return shown
