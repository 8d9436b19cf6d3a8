"""From a conversation to the token ids of a prompt.

`Renderer.choose` says which template speaks for a model (reference 6.1): a Go template layer, the GGUF's own Jinja, its
family's Go template where that Jinja cannot be run, or chatml. `Renderer.chat` and `Renderer.generate` render, encode
and make it fit.

Truncation: the oldest messages go first, as many as must; system messages and the last message always stay; what went
is in the result. A last message that does not fit is refused with both numbers: nothing is ever cut inside a message.
Invariants: what a message says never becomes a control token, even where it spells one: only the template's own control
texts do (a prompt of `generate` is its caller's own, and its control texts count). The begin token occurs once, whether
the template or the tokenizer writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from manifests.turns import recognised
from native.record import record, replace
from runtime.engine.constraint import Constraint
from runtime.text.errors import MessageError, PromptTooLongError, TemplateError, TemplateRaised
from runtime.text.message import MAX_CHARS, Message, Think, Tools, linked, refuse_images
from runtime.text.parsers import Parser, Plain
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.glimmer import GlimmerReader
from runtime.text.parsers.grammar import call_grammar
from runtime.text.parsers.harmony import HarmonyReader
from runtime.text.parsers.reader import AnswerReader
from runtime.text.parsers.syntax import Speech, Tags, named
from runtime.text.tokenizer import SEAM, Tokenizer

FRAMED = {"harmony": HarmonyReader, "glimmer": GlimmerReader}  # what reads families whose answers are framed


class TemplateRenderer(Protocol):
    """A conversation to text. Errors: TemplateError and its kinds."""

    kind: str

    def capabilities(self) -> frozenset[str]: ...

    def speech(self) -> Speech: ...

    def render_chat(self, messages: Sequence[Message], *, tools: Tools, think: Think) -> str: ...

    def render_generate(self, prompt: str, *, system: str, suffix: str, think: Think) -> str: ...


@record(frozen=True, kw_only=True, slots=True)
class Prompt:
    """dropped: the messages that did not fit, oldest first. begun: it ends in the beginning of the answer."""

    text: str
    ids: tuple[int, ...]
    dropped: tuple[Message, ...] = ()
    begun: bool = False


class Renderer:
    """One model's prompts. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, template: TemplateRenderer, parser_name: str = "") -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._speech: Speech = named(parser_name) or template.speech()

    @classmethod
    def choose(
        cls,
        tokenizer: Tokenizer,
        *,
        template: str | None,
        jinja: str | None,
        jinja_tools: str | None = None,
        prefer_go: bool | None = None,
        parser_name: str = "",
    ) -> Renderer:
        """template: the model's Go template layer. jinja: `tokenizer.chat_template` of its GGUF; jinja_tools: its
        `tokenizer.chat_template.tool_use`, which speaks where tools are offered. prefer_go: True and False decide
        outright (OLLAMA_GO_TEMPLATE), None lets the one that can do more win. parser_name: `parser` of the model's
        config; a name we do not know says nothing. A Jinja that cannot be run counts only where nothing else is there:
        then its family's Go template speaks, if that is known. Raises TemplateError."""
        # both template engines, a twentieth of a second: not before somebody asks for a template
        from runtime.text.renderers import ChatmlRenderer, GoRenderer, JinjaRenderer, NamedRenderers

        default: JinjaRenderer | None = None
        try:
            default = JinjaRenderer(jinja, tokenizer) if jinja else None
        except TemplateError:
            template = template if template and template.strip() else stand_in(jinja)
            if template is None:
                raise
        for_tools = JinjaRenderer(jinja_tools, tokenizer) if default is not None and jinja_tools else None
        from_jinja = NamedRenderers(default, for_tools) if default and for_tools else default
        from_go = GoRenderer(template) if template and template.strip() else None
        if from_go is None or from_jinja is None:
            return cls(tokenizer, from_go or from_jinja or ChatmlRenderer(), parser_name)
        if prefer_go is None:
            prefer_go = not _better(from_jinja.capabilities(), from_go.capabilities())
        return cls(tokenizer, from_go if prefer_go else from_jinja, parser_name)

    @property
    def kind(self) -> str:
        """`go`, `jinja` or `chatml`."""
        return self._template.kind

    @property
    def family(self) -> str:
        """The family whose tool calls the template speaks; "" when none is known."""
        return self._speech[0].name if self._speech[0] is not None else ""

    def capabilities(self) -> frozenset[str]:
        """Among `tools`, `tool_results`, `thinking` and `insert`: what the template has places for."""
        syntax, tags = self._speech
        thinks = {"thinking"} if tags is not None or (syntax is not None and syntax.channels) else set()
        return self._template.capabilities() | thinks

    def thinking_tags(self) -> tuple[str, str] | None:
        """The texts around thinking, where the template (or the parser's name) tells them."""
        return self._speech[1]

    def parser(self, *, tools: Tools = (), think: Think = None, prompt_text: str = "", begun: bool = False) -> Parser:
        """For one answer to a prompt of this renderer. tools: those on offer; without any, calls are text. think: False
        hides nothing: a model that thinks all the same has its thinking told apart. prompt_text, begun: of the Prompt.
        The text it is pushed must hold the control texts of `shown`."""
        offered = Offered(tools)
        syntax, tags = self._speech
        if syntax is not None and syntax.channels:
            return FRAMED[syntax.name](offered, prompt_text)
        inside = tags is not None and self._opened(prompt_text, tags, begun)
        frames = syntax.frames if syntax is not None else ()
        if tags is None and not offered and not frames:
            return Plain()
        return AnswerReader(
            offered, syntax=syntax if offered else None, tags=tags, inside=inside, begun=begun, frames=frames
        )

    def before_answer(self, prompt: Prompt, *, think: Think) -> tuple[str, str]:
        """What opens and what closes the thinking before the answer itself. No opening: the prompt has it, so there is
        thinking. No closing: there is none."""
        _, tags = self._speech
        if tags is not None and self._opened(prompt.text, tags, prompt.begun):
            return "", tags[1]
        if tags is None or not think or prompt.begun or prompt.text.rstrip().endswith(tags[1]):
            return "", ""
        return tags

    def call_grammar(self, *, tools: Tools, choice: str) -> Constraint | None:
        """What an answer must be that is a call. choice: `required`, or `=` and the name of the tool. None where this
        family's calls are not known well enough. Raises RequestRefused for a tool's schema that no grammar keeps."""
        syntax, _ = self._speech
        only = choice[1:] if choice.startswith("=") else None
        if syntax is None:
            return None
        return call_grammar(syntax, Offered(tools), only=only, pieces=self._tokenizer.pieces)

    def shown(self, *, tools: Tools = ()) -> frozenset[int]:
        """Control tokens that the parser must see by name (a StreamDecoder's `shown`); others are no part of a text."""
        syntax, tags = self._speech
        texts = set(tags or ()) | set(syntax.texts if syntax is not None and (tools or syntax.channels) else ())
        return frozenset(index for text in texts if (index := self._tokenizer.control(text)) is not None)

    def _level(self, think: Think) -> Think:
        """gpt-oss knows no level above high."""
        syntax, _ = self._speech
        return "high" if think == "max" and syntax is not None and syntax.name == "harmony" else think

    def _opened(self, prompt_text: str, tags: Tags, begun: bool) -> bool:
        """Whether the prompt ends in thinking that is not closed: in its tag, or in an answer that began with it."""
        _, tag, tail = prompt_text.rpartition(tags[0])
        if not tag or tags[1] in tail:
            return False
        return not tail.strip() or (begun and not any(isinstance(piece, int) for piece in self._tokenizer.pieces(tail)))

    def render_chat(self, messages: Sequence[Message], *, tools: Tools = (), think: Think = None) -> str:
        refuse_images(messages)
        return self._template.render_chat(linked(messages), tools=tools, think=self._level(think))

    def render_generate(self, prompt: str, *, system: str = "", suffix: str = "", think: Think = None) -> str:
        return self._template.render_generate(prompt, system=system, suffix=suffix, think=self._level(think))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a rendered prompt: its control texts become control tokens, begin is added unless it is there."""
        bos = self._tokenizer.bos
        written = bos is not None and text.startswith(self._tokenizer.token_text(bos))
        return tuple(self._tokenizer.encode(text, special=True, bos=False if written else None))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        limit: int,
        tools: Tools = (),
        think: Think = None,
        truncate: bool = True,
    ) -> Prompt:
        """A prompt of at most `limit` tokens. Raises PromptTooLongError when the system messages and the last message
        alone are longer (or any, without `truncate`)."""
        refuse_images(messages)
        _bounded(sum(map(size_of, messages)) + _extent(list(tools)))
        messages = [_harmless(self._tokenizer, one) for one in linked(messages)]
        tools = _within(list(tools), self._tokenizer.harmless)
        think = self._level(think)

        def attempt(start: int) -> Prompt:
            kept = [one for one in messages[:start] if one.role == "system"] + list(messages[start:])
            text = self._template.render_chat(kept, tools=tools, think=think)
            dropped = tuple(one for one in messages[:start] if one.role != "system")
            shown = text.replace(SEAM, "")
            refuse_long(self._tokenizer, shown, limit)
            ids = self.encode(text)
            if len(ids) > limit:
                raise PromptTooLongError(tokens=len(ids), limit=limit)
            return Prompt(text=shown, ids=ids, dropped=dropped, begun=_begun(shown, kept[-1:]))

        try:
            return attempt(0)
        except PromptTooLongError as error:
            if not truncate:
                raise
            return _longest(attempt, _starts(messages), error)

    def generate(self, prompt: str, *, limit: int, system: str = "", suffix: str = "", think: Think = None) -> Prompt:
        """One prompt without a conversation. Raises PromptTooLongError."""
        _bounded(len(prompt) + len(system) + len(suffix))
        text = self.render_generate(prompt, system=system, suffix=suffix, think=think)
        refuse_long(self._tokenizer, text, limit)
        ids = self.encode(text)
        if len(ids) > limit:
            raise PromptTooLongError(tokens=len(ids), limit=limit)
        return Prompt(text=text, ids=ids)


def refuse_long(tokenizer: Tokenizer, text: str, limit: int) -> None:
    """A text that cannot have `limit` tokens or fewer takes no time to be told so: megabytes take seconds to encode."""
    if len(text) > limit and (least := tokenizer.least(text)) > limit:
        raise PromptTooLongError(tokens=least, limit=limit, least=True)


def stand_in(jinja: str | None) -> str | None:
    """The Go template of a Jinja's family, for one that cannot be run; None where the family is not known."""
    family = recognised(jinja)
    return None if family is None else family.template


def _begun(text: str, last: Sequence[Message]) -> bool:
    """Whether a prompt ends in the beginning of the answer: not every template leaves a last answer open."""
    said = [(one.content or one.thinking).replace(SEAM, "").rstrip() for one in last if one.role == "assistant"]
    return any(one and text.rstrip().endswith(one) for one in said)


def _bounded(characters: int) -> None:
    if characters > MAX_CHARS:
        raise MessageError(f"the request's texts have {characters} characters; at most {MAX_CHARS} are accepted")


def _harmless(tokenizer: Tokenizer, message: Message) -> Message:
    safe = tokenizer.harmless
    return replace(
        message,
        role=safe(message.role),
        content=safe(message.content),
        thinking=safe(message.thinking),
        tool_calls=tuple(
            replace(one, name=safe(one.name), id=safe(one.id), arguments=_within(one.arguments, safe))
            for one in message.tool_calls
        ),
        tool_name=safe(message.tool_name),
        tool_call_id=safe(message.tool_call_id),
    )


def _within(value: Any, change: Callable[[str], str]) -> Any:
    """JSON data with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _within(one, change) for key, one in value.items()}
    return [_within(one, change) for one in value] if isinstance(value, (list, tuple)) else value


def size_of(message: Message) -> int:
    """Characters of all its texts."""
    calls = sum(len(one.name) + len(one.id) + _extent(one.arguments) for one in message.tool_calls)
    names = len(message.role) + len(message.tool_name) + len(message.tool_call_id)
    return len(message.content) + len(message.thinking) + names + calls


def _extent(value: Any) -> int:
    """Characters of all texts in JSON data."""
    if isinstance(value, Mapping):
        return sum(len(str(key)) + _extent(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(_extent, value))
    return len(value) if isinstance(value, str) else 1


def _starts(messages: Sequence[Message]) -> list[int]:
    """Where a shortened conversation may begin; a tool's answer without its call is no beginning."""
    last = len(messages) - 1
    droppable = [index for index, one in enumerate(messages[:last]) if one.role != "system"]
    starts = [index + 1 for index in droppable]
    return [index for index in starts if index == last or messages[index].role != "tool"]


def _longest(attempt: Callable[[int], Prompt], starts: list[int], shortest: PromptTooLongError) -> Prompt:
    """The prompt that drops the fewest messages and fits. From the end in growing leaps and then by bisection, so that
    what is rendered is a few times what fits, however long the conversation is. `shortest`: what does not fit."""
    best: Prompt | None = None
    low, high = 0, len(starts) - 1
    leap = 1  # 0: both sides are known, bisect
    while low <= high:
        middle = max(low, high + 1 - leap) if leap else (low + high) // 2
        try:
            best = attempt(starts[middle])
            high, leap = middle - 1, 2 * leap
        except TemplateRaised:  # a template may refuse a conversation that starts in the middle of an exchange
            if leap:
                leap = 0 if middle == low else 2 * leap + (leap % 2 == 0)  # of the other parity
                continue
            if middle == len(starts) - 1:
                raise
            low = middle + 1
        except PromptTooLongError as error:
            shortest, low, leap = error, middle + 1, 0
    if best is None:
        raise shortest
    return best


def _better(jinja: frozenset[str], go: frozenset[str]) -> bool:
    """Reference 6.1, rule 3: Jinja wins with strictly more abilities, or with tool results where Go has none."""
    main = {"tools", "thinking", "insert"}
    jinja_main, go_main = jinja & main, go & main
    if jinja_main > go_main:
        return not ("tool_results" in go and "tool_results" not in jinja)
    return jinja_main == go_main and "tools" in go_main and "tool_results" in jinja and "tool_results" not in go
