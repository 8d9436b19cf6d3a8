"""What becomes the prompt of a request: the model's own messages and system text, the request's, and which template.

Rules (contract, 1.7 and 1.8): the model's MESSAGEs come first; its SYSTEM is put in front unless the first message of
the request is a system message; with `context`, the earlier exchange's ids come first and MESSAGEs are left out.
What a maker returns says which messages were dropped to fit; the last one is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from manifests.home import setting
from runtime.card import ModelCard
from runtime.loaded import LoadedModel
from runtime.text.errors import PromptTooLongError
from runtime.text.message import Message
from runtime.text.prompt import Prompt, Renderer

# Makes the prompt for a loaded model. Runs in a thread.
PromptMaker = Callable[[LoadedModel], Prompt]

_FALSE = ("0", "f", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A question of /api/generate or /v1/completions. `tokens`: ids in place of text. `context`: the ids before it."""

    prompt: str = ""
    tokens: tuple[int, ...] = ()
    suffix: str = ""
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] = ()
    raw: bool = False
    truncate: bool = True


def chat_maker(card: ModelCard, messages: Sequence[Message], *, truncate: bool) -> PromptMaker:
    whole = [Message(role=role, content=content) for role, content in card.messages] + list(messages)
    if card.system and messages and messages[0].role != "system":
        whole.insert(0, Message(role="system", content=card.system))

    def make(model: LoadedModel) -> Prompt:
        return _renderer(card, model).chat(whole, limit=model.n_ctx - 1, truncate=truncate)

    return make


def completion_maker(card: ModelCard, question: Completion) -> PromptMaker:
    def make(model: LoadedModel) -> Prompt:
        if question.tokens:
            return _fitting(Prompt(text="", ids=question.tokens), model)
        if question.raw:
            ids = tuple(model.tokenizer.encode(question.prompt, special=True))
            return _fitting(Prompt(text=question.prompt, ids=ids), model)
        return _fitting(_after(question.context, _templated(card, question, model), model), model)

    return make


def _templated(card: ModelCard, question: Completion, model: LoadedModel) -> Prompt:
    limit = model.n_ctx - 1
    system = card.system if question.system is None else question.system
    renderer = _renderer(card, model) if question.template is None else _choose(question.template, None, model)
    if card.messages and not question.context and not question.suffix:
        whole = [Message(role="system", content=system)] if system else []
        whole += [Message(role=role, content=content) for role, content in card.messages]
        whole.append(Message(role="user", content=question.prompt))
        return renderer.chat(whole, limit=limit, truncate=question.truncate)
    return renderer.generate(question.prompt, limit=limit, system=system, suffix=question.suffix)


def _after(context: tuple[int, ...], prompt: Prompt, model: LoadedModel) -> Prompt:
    """The ids of an earlier exchange and then the prompt's; the text begins once."""
    if not context:
        return prompt
    ids = prompt.ids[1:] if prompt.ids[:1] == (model.tokenizer.bos,) else prompt.ids
    return Prompt(text=prompt.text, ids=context + ids, dropped=prompt.dropped)


def _fitting(prompt: Prompt, model: LoadedModel) -> Prompt:
    if len(prompt.ids) >= model.n_ctx:
        raise PromptTooLongError(tokens=len(prompt.ids), limit=model.n_ctx - 1)
    return prompt


# Keyed by the loaded model and not by its tokenizer: a renderer holds the tokenizer, so that key would never go.
_renderers: WeakKeyDictionary[LoadedModel, dict[str, Renderer]] = WeakKeyDictionary()


def _renderer(card: ModelCard, model: LoadedModel) -> Renderer:
    """Cached: a template is parsed once while its model is loaded. Two threads may both parse it."""
    by_digest = _renderers.setdefault(model, {})
    digest = card.manifest.digest.hex
    if digest not in by_digest:
        by_digest[digest] = _choose(card.template, card.gguf.chat_template if card.gguf else None, model)
    return by_digest[digest]


def _choose(template: str | None, jinja: str | None, model: LoadedModel) -> Renderer:
    told = setting("GO_TEMPLATE")
    prefer_go = told.lower() not in _FALSE if told else None
    return Renderer.choose(model.tokenizer, template=template, jinja=jinja, prefer_go=prefer_go)
