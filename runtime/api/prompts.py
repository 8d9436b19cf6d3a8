"""What becomes the prompt of a request: the model's own messages and system text, the request's, and which template.

Rules (contract, 1.7 and 1.8): the model's MESSAGEs come first; its SYSTEM is put in front unless the first message of
the request is a system message; with `context`, the earlier exchange's ids come first and MESSAGEs are left out.
What a maker returns says which messages were dropped to fit; the last one is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from native.record import field, record, replace
from runtime.card import ModelCard
from runtime.engine.constraint import Constraint, prepared
from runtime.engine.grammar_schema import ANY_OBJECT
from runtime.errors import CapabilityMissing, RequestRefused
from runtime.text.errors import PromptTooLongError, TemplateTooSlow
from runtime.text.message import Message, Think
from runtime.text.parsers import Parser, Plain
from runtime.text.patience import at_most
from runtime.text.prompt import Prompt, Renderer, refuse_long, size_of
from runtime.text.tokenizer import Tokenizer


@record(frozen=True, slots=True, kw_only=True)
class Question:
    """What the model is given: the prompt, how its answers are read (a new parser for each, which must see the
    control tokens `shown`), what they must be, and how many calls are shown."""

    prompt: Prompt
    parser: Callable[[], Parser] = Plain
    shown: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    most_calls: int | None = None


class Speaker(Protocol):
    """What a question needs of its model. A prompt has fewer tokens than `n_ctx`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def n_ctx(self) -> int: ...


@record(frozen=True, slots=True, kw_only=True)
class QuestionMaker:
    """Makes the question for a loaded model, or for its text side alone. `small`: soon done, unless the model's
    template wants it otherwise; any other takes a thread."""

    card: ModelCard
    make: Callable[[Speaker], Question]
    small: bool = False

    def __call__(self, model: Speaker) -> Question:
        return self.make(model)

    def at_once(self, model: Speaker) -> Question | None:
        """None where that would keep others waiting."""
        if not self.small or self.card.manifest.digest.hex not in _renderers.get(model, ()):
            return None
        try:
            with at_most(AT_ONCE_S):
                return self.make(model)
        except TemplateTooSlow:
            return None


MAX_MESSAGES = 10_000  # of a conversation, each of their tool calls counted as one more
MAX_IDS = 1 << 21  # token ids given in place of text: about what a worker's frame holds
AT_ONCE_S = 0.01
SMALL = 16 << 10  # characters of a prompt's texts: some 4,000 tokens, in a few milliseconds
FEW = 64  # messages


@record(frozen=True, slots=True, kw_only=True)
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
    think: Think = None
    form: Constraint | None = None


@record(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation. `tools` in OpenAI's form. `choice`: "auto", "required" (a tool must be called) or `=` and
    the name of the one that must. `form`: what the answer's text must be. `parallel`: more than one call is welcome."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    choice: str = "auto"
    parallel: bool = True
    truncate: bool = True
    think: Think = None
    form: Constraint | None = None


def chat_maker(card: ModelCard, chat: Chat) -> QuestionMaker:
    """Refuses a conversation of more than MAX_MESSAGES."""
    whole = [Message(role=role, content=content) for role, content in card.messages] + list(chat.messages)
    if card.system and chat.messages and chat.messages[0].role != "system":
        whole.insert(0, Message(role="system", content=card.system))
    count = sum(1 + len(message.tool_calls) for message in whole)
    if count > MAX_MESSAGES:
        said = f"the conversation has {count} messages and tool calls; at most {MAX_MESSAGES} are accepted"
        raise RequestRefused(said, param="messages")

    def make(model: Speaker) -> Question:
        renderer = renderer_of(card, model)
        prompt = renderer.chat(whole, limit=model.n_ctx - 1, tools=chat.tools, think=chat.think, truncate=chat.truncate)
        return Question(
            prompt=prompt,
            parser=lambda: renderer.parser(
                tools=chat.tools, think=chat.think, prompt_text=prompt.text, begun=prompt.begun
            ),
            shown=renderer.shown(tools=chat.tools),
            constraint=_constraint(renderer, chat, prompt),
            most_calls=None if chat.parallel else 1,
        )

    small = len(whole) <= FEW and sum(map(size_of, whole)) <= SMALL and not chat.tools and chat.form is None
    return QuestionMaker(card=card, make=make, small=small)


def completion_maker(card: ModelCard, asked: Completion) -> QuestionMaker:
    def make(model: Speaker) -> Question:
        if asked.tokens:
            return Question(prompt=_fitting(Prompt(text="", ids=asked.tokens), model), constraint=asked.form)
        if asked.raw:
            refuse_long(model.tokenizer, asked.prompt, model.n_ctx - 1)
            ids = tuple(model.tokenizer.encode(asked.prompt, special=True))
            return Question(prompt=_fitting(Prompt(text=asked.prompt, ids=ids), model), constraint=asked.form)
        renderer = renderer_of(card, model)
        if asked.template is not None:
            renderer = Renderer.choose(model.tokenizer, template=asked.template, jinja=None)
        prompt = _templated(card, asked, model, renderer)
        return Question(
            prompt=_fitting(_after(asked.context, prompt, model), model),
            parser=lambda: renderer.parser(think=asked.think, prompt_text=prompt.text, begun=prompt.begun),
            shown=renderer.shown(),
            constraint=_behind_thinking(renderer, prompt, asked.think, asked.form),
        )

    texts = (asked.prompt, asked.suffix, card.system if asked.system is None else asked.system)
    small = not card.messages and asked.template is None and asked.form is None and sum(map(len, texts)) <= SMALL
    return QuestionMaker(card=card, make=make, small=small)


def _constraint(renderer: Renderer, chat: Chat, prompt: Prompt) -> Constraint | None:
    """A call that must be made wins over the form of a text that is then not written; one that may be made is as good
    as a text of that form."""
    if not chat.tools or (chat.choice == "auto" and chat.form is None):
        return _behind_thinking(renderer, prompt, chat.think, chat.form)
    free = chat.choice == "auto"
    grammar = renderer.call_grammar(tools=chat.tools, choice="required" if free else chat.choice)
    if grammar is not None and free and chat.form is not None:
        grammar = _either(grammar, chat.form)
    elif grammar is None and free:
        raise CapabilityMissing(
            "a format and tools together: the form of this model's tool calls is not known", param="tools"
        )
    if grammar is None:
        raise CapabilityMissing(
            '\'tool_choice\' must be "auto" or "none": this model\'s form of tool calls is not known',
            param="tool_choice",
        )
    return _behind_thinking(renderer, prompt, chat.think, grammar)


def _either(calls: Constraint, form: Constraint) -> Constraint:
    """A call, or JSON of the form: one more way to begin the calls' grammar."""
    if form.kind not in ("json", "schema"):
        raise CapabilityMissing(
            "a regular expression or grammar and tools together are not supported", param=form.param or None
        )
    schema = prepared(form).text if form.kind == "schema" else ANY_OBJECT
    return replace(calls, text=calls.text.replace("start: ", "start: form | ", 1) + f"form: %json {schema}\n")


def _behind_thinking(renderer: Renderer, prompt: Prompt, think: Think, form: Constraint | None) -> Constraint | None:
    if form is None:
        return None
    opening, after = renderer.before_answer(prompt, think=think)
    return replace(form, opening=opening, after=after)


def _templated(card: ModelCard, asked: Completion, model: Speaker, renderer: Renderer) -> Prompt:
    limit = model.n_ctx - 1
    system = card.system if asked.system is None else asked.system
    if card.messages and not asked.context and not asked.suffix:
        whole = [Message(role="system", content=system)] if system else []
        whole += [Message(role=role, content=content) for role, content in card.messages]
        whole.append(Message(role="user", content=asked.prompt))
        return renderer.chat(whole, limit=limit, think=asked.think, truncate=asked.truncate)
    return renderer.generate(asked.prompt, limit=limit, system=system, suffix=asked.suffix, think=asked.think)


def _after(context: tuple[int, ...], prompt: Prompt, model: Speaker) -> Prompt:
    """The ids of an earlier exchange and then the prompt's; the text begins once."""
    if not context:
        return prompt
    ids = prompt.ids[1:] if prompt.ids[:1] == (model.tokenizer.bos,) else prompt.ids
    return Prompt(text=prompt.text, ids=context + ids, dropped=prompt.dropped)


def _fitting(prompt: Prompt, model: Speaker) -> Prompt:
    if len(prompt.ids) >= model.n_ctx:
        raise PromptTooLongError(tokens=len(prompt.ids), limit=model.n_ctx - 1)
    return prompt


# Keyed by the loaded model and not by its tokenizer: a renderer holds the tokenizer, so that key would never go.
_renderers: WeakKeyDictionary[Speaker, dict[str, Renderer]] = WeakKeyDictionary()


def renderer_of(card: ModelCard, model: Speaker) -> Renderer:
    """Cached: a template is parsed once while its model is loaded. Two threads may both parse it."""
    by_digest = _renderers.setdefault(model, {})
    digest = card.manifest.digest.hex
    if digest not in by_digest:
        by_digest[digest] = card.renderer(model.tokenizer)
    return by_digest[digest]
