"""The ways to turn a conversation into text: a Go template, one Jinja template or two, chatml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from runtime.text.godata import messages_value, think_values, tools_value
from runtime.text.gotemplate import GoTemplate
from runtime.text.gotemplate.values import Value
from runtime.text.jinja import JinjaTemplate, JsonObject
from runtime.text.message import Message, Think, Tools, collate
from runtime.text.parsers.syntax import GENERIC, Speech, Tags, family, of_tag, thinking
from runtime.text.tokenizer import Tokenizer

_EXPECTS_NONE = re.compile(r"content['\"]?\]? (?:is|==) none", re.IGNORECASE)
_NINE_LETTERS = re.compile(r"length\s*!=\s*9\b")


def _asked(prompt: str, system: str) -> list[Message]:
    head = [Message(role="system", content=system)] if system else []
    return [*head, Message(role="user", content=prompt)]


class GoRenderer:
    kind = "go"

    def __init__(self, source: str) -> None:
        """Raises TemplateError."""
        self._template = GoTemplate(source)
        self._names = self._template.variables()

    def capabilities(self) -> frozenset[str]:
        names = {"tools": "tools", "suffix": "insert", "thinking": "thinking", "toolcalls": "tool_results"}
        return frozenset(ability for name, ability in names.items() if name in self._names)

    def speech(self) -> Speech:
        """How the answers of this template's models are written: calls, and tags of thinking."""
        source = self._template.source
        tag = self._template.tool_tag() or ("{" if "tools" in self._names else None)
        return family(source) or (of_tag(tag) if tag else None), self._template.thinking_tags()

    def render_chat(self, messages: Sequence[Message], *, tools: Tools, think: Think) -> str:
        collated = collate(messages)
        if "messages" not in self._names:
            turns = ((message.role, message.content) for message in collated)
            return self._template.execute_turns(turns, think_values(think))
        data: dict[str, Value] = {
            "System": "\n\n".join(message.content for message in messages if message.role == "system"),
            "Messages": messages_value(collated),
            "Tools": tools_value(tools),
            "Response": "",
            **think_values(think),
        }
        return self._template.execute(data)

    def render_generate(self, prompt: str, *, system: str, suffix: str, think: Think) -> str:
        if prompt and suffix:
            return self._template.execute({"Prompt": prompt, "Suffix": suffix, "Response": "", **think_values(think)})
        return self.render_chat(_asked(prompt, system), tools=(), think=think)


class JinjaRenderer:
    kind = "jinja"

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """Raises TemplateError."""
        self._template = JinjaTemplate(source)
        self.source = source
        self._no_content = None if _EXPECTS_NONE.search(source) else ""  # of a message that is calls alone
        self._short_ids = _NINE_LETTERS.search(source) is not None
        self._specials = {
            "bos_token": "" if tokenizer.bos is None else tokenizer.token_text(tokenizer.bos),
            "eos_token": "" if tokenizer.eos is None else tokenizer.token_text(tokenizer.eos),
        }

    def capabilities(self) -> frozenset[str]:
        names, source = self._template.variables(), self.source
        switches = {"enable_thinking", "thinking", "reasoning_effort"} & names
        found = {
            "tools": "tools" in names,
            "thinking": bool(switches) or thinking(source) is not None,
            "tool_results": "tool_calls" in source,
        }
        return frozenset(ability for ability, there in found.items() if there)

    def speech(self) -> Speech:
        source = self.source
        return family(source) or (GENERIC if "tools" in self._template.variables() else None), thinking(source)

    def render_chat(self, messages: Sequence[Message], *, tools: Tools, think: Think) -> str:
        body, begun = _split_prefill(messages)
        values: dict[str, Any] = {
            "messages": [self._as_dict(message) for message in body],
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": True,
            **self._specials,
        }
        if think is not None:
            values |= {"enable_thinking": bool(think), "thinking": bool(think)}
        if isinstance(think, str):
            values["reasoning_effort"] = think
        text = self._template.render(values)
        return text if begun is None else text + _begun(begun, text, thinking(self.source))

    def _as_dict(self, message: Message) -> dict[str, Any]:
        """A message in Hugging Face's form."""
        content = message.content or (self._no_content if message.tool_calls else "")
        out: dict[str, Any] = {"role": message.role, "content": content}
        if message.thinking:
            out |= {"reasoning_content": message.thinking, "thinking": message.thinking}
        if message.tool_calls:
            out["tool_calls"] = [
                {
                    "id": self._id(call.id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": JsonObject(call.arguments)},
                }
                for call in message.tool_calls
            ]
        if message.tool_name:
            out["name"] = message.tool_name
        if message.tool_call_id:
            out["tool_call_id"] = self._id(message.tool_call_id)
        return out

    def _id(self, id: str) -> str:
        """Mistral's templates refuse ids that are not nine letters and digits."""
        if not self._short_ids or re.fullmatch("[a-zA-Z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]

    def render_generate(self, prompt: str, *, system: str, suffix: str, think: Think) -> str:
        return self.render_chat(_asked(prompt, system), tools=(), think=think)


class NamedRenderers:
    """Two templates of one GGUF: `tool_use` where tools are offered, as Hugging Face chooses, else the default one."""

    kind = "jinja"

    def __init__(self, default: JinjaRenderer, for_tools: JinjaRenderer) -> None:
        self._default = default
        self._for_tools = for_tools

    def capabilities(self) -> frozenset[str]:
        return self._default.capabilities() | self._for_tools.capabilities()

    def speech(self) -> Speech:
        calls, tags = self._for_tools.speech()
        return calls, tags or self._default.speech()[1]

    def render_chat(self, messages: Sequence[Message], *, tools: Tools, think: Think) -> str:
        return (self._for_tools if tools else self._default).render_chat(messages, tools=tools, think=think)

    def render_generate(self, prompt: str, *, system: str, suffix: str, think: Think) -> str:
        return self._default.render_generate(prompt, system=system, suffix=suffix, think=think)


class ChatmlRenderer:
    """For a model without any template. A single prompt goes to it as it is."""

    kind = "chatml"

    def capabilities(self) -> frozenset[str]:
        return frozenset()

    def speech(self) -> Speech:
        return None, None

    def render_chat(self, messages: Sequence[Message], *, tools: Tools, think: Think) -> str:
        body, begun = _split_prefill(messages)
        turns = (f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in body)
        return "".join(turns) + "<|im_start|>assistant\n" + (begun.content if begun else "")

    def render_generate(self, prompt: str, *, system: str, suffix: str, think: Think) -> str:
        return prompt


def _split_prefill(messages: Sequence[Message]) -> tuple[Sequence[Message], Message | None]:
    """A last message of the assistant is the beginning of the answer, not a finished turn."""
    if len(messages) > 1 and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        return messages[:-1], messages[-1]
    return messages, None


def _begun(begun: Message, prompt: str, tags: Tags | None) -> str:
    """The beginning of an answer after its prompt, which may have opened the thinking."""
    if tags is None:
        return begun.content
    opened = prompt.rstrip().endswith(tags[0])
    if begun.thinking:
        thought = ("" if opened else tags[0] + "\n") + begun.thinking
        return f"{thought}\n{tags[1]}\n\n{begun.content}" if begun.content else thought
    return (f"\n{tags[1]}\n\n" if opened and begun.content else "") + begun.content
