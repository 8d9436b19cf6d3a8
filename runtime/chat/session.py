"""The state of a chat and what it says to the server, without a terminal: text in, parts of an answer out.

    Session.ask("Hello")                     ->  parts of the answer; the conversation grows by both sides
    commands.handle(session, "/set ...")     ->  changes the state; see there

Invariant: a question whose answer failed is not kept; one that was interrupted is kept with what was said.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from runtime.chat.answer import Parts, part_of
from runtime.client import Client
from runtime.errors import RuntimeFailure


@dataclass(slots=True, kw_only=True)
class Session:
    client: Client
    model: str
    say: Callable[[str], None]  # writes one line for the user
    messages: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    format: Any = None
    think: Any = None
    hide_thinking: bool = False
    keep_alive: Any = None
    verbose: bool = False
    wordwrap: bool = True
    history: bool = True
    leaving: bool = False
    last: dict[str, Any] = field(default_factory=dict)  # the last chunk of the last answer

    def load(self) -> None:
        """Loads the model, so that the first answer comes soon. Raises what the server says."""
        self.client.post("/api/chat", self._body([]) | {"stream": False})

    def ask(self, text: str) -> Parts:
        """Parts of the answer. Closing the iterator interrupts it."""
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        calls: list[dict[str, Any]] = []
        failed = False
        try:
            with closing(self.client.stream("/api/chat", self._body([*self.messages, question]))) as chunks:
                for chunk in chunks:
                    part = part_of(chunk)
                    pieces.append(part.text)
                    calls += part.calls
                    if chunk.get("done"):
                        self.last = chunk
                    yield part
        except RuntimeFailure:
            failed = True
            raise
        finally:
            if not failed:
                answer: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
                self.messages += [question, answer | ({"tool_calls": calls} if calls else {})]

    def once(self, prompt: str) -> Parts:
        """One question through /api/generate, as Ollama's command does. An empty one loads the model."""
        with closing(self.client.stream("/api/generate", self._request({"prompt": prompt}))) as chunks:
            for chunk in chunks:
                self.last = chunk
                yield part_of(chunk)

    def saved(self) -> list[dict[str, str]]:
        """What `/save` keeps of the conversation: the model's own messages, which came first, and this chat's.

        A MESSAGE of a Modelfile has a role and a text, so calls of tools are not kept.
        """
        if not self.messages:
            return []
        own = self.client.post("/api/show", {"model": self.model}).get("messages") or []
        return [{"role": message["role"], "content": message["content"]} for message in [*own, *self.messages]]

    def forget(self) -> None:
        """As the session of another model begins."""
        self.messages.clear()
        self.options.clear()
        self.system, self.format, self.think = "", None, None

    def _body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self.system and messages:
            messages = [{"role": "system", "content": self.system}, *messages]
        return self._request({"messages": messages, "options": self.options})

    def _request(self, body: dict[str, Any]) -> dict[str, Any]:
        extra = {"format": self.format, "think": self.think, "keep_alive": self.keep_alive}
        return {"model": self.model} | body | {name: value for name, value in extra.items() if value is not None}
