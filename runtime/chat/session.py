"""The state of a chat and its slash commands (contract, 8), without a terminal: text in, text out.

    Session.handle("/set system Be short.")  ->  Outcome
    Session.ask("Hello")                     ->  pieces of the answer; the conversation grows by both sides

Invariant: a question whose answer failed is not kept; one that was interrupted is kept with what was said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from manifests.display import size_text, table
from runtime.api.durations import keep_alive_setting
from runtime.chat import printing
from runtime.chat.texts import HELP, HELP_SET, HELP_SHORTCUTS, HELP_SHOW
from runtime.chat.thinking import shown
from runtime.client import Client
from runtime.errors import RequestRefused, RuntimeFailure, ServerRefused
from runtime.options import RULES, checked

THINK = {"": True, "true": True, "false": False, "high": "high", "medium": "medium", "low": "low", "max": "max"}
SHOWN = ("info", "license", "modelfile", "parameters", "system", "template")


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
    keep_alive: Any = None
    verbose: bool = False
    wordwrap: bool = True
    history: bool = True
    leaving: bool = False
    last: dict[str, Any] = field(default_factory=dict)  # the last chunk of the last answer

    # -- talking

    def load(self) -> None:
        """Loads the model, so that the first answer comes soon. Raises what the server says."""
        self.client.post("/api/chat", self._body([]))

    def ask(self, text: str) -> Generator[str, None, None]:
        """Pieces of the answer, and of what was thought before it. Closing the iterator interrupts it."""
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        failed = False

        def parts(chunks: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
            for chunk in chunks:
                message = chunk.get("message", {})
                pieces.append(message.get("content", ""))
                if chunk.get("done"):
                    self.last = chunk
                yield message.get("thinking", ""), pieces[-1]

        try:
            with closing(self.client.stream("/api/chat", self._body([*self.messages, question]))) as chunks:
                yield from shown(parts(chunks))
        except RuntimeFailure:
            failed = True
            raise
        finally:
            if not failed:
                self.messages += [question, {"role": "assistant", "content": "".join(pieces)}]

    def _body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        if self.system and messages:
            messages = [{"role": "system", "content": self.system}, *messages]
        body: dict[str, Any] = {"model": self.model, "messages": messages, "options": self.options}
        extra = {"format": self.format, "think": self.think, "keep_alive": self.keep_alive}
        return body | {name: value for name, value in extra.items() if value is not None}

    # -- commands

    def handle(self, line: str) -> None:
        """One line that begins with a slash. Errors of the server are said, not raised."""
        command, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/set": self._set, "/show": self._show, "/load": self._load, "/save": self._save, "/clear": self._clear,
            "/list": self._list, "/ls": self._list, "/bye": self._leave, "/exit": self._leave, "/help": self._help,
            "/?": self._help,
        }  # fmt: skip
        action = commands.get(command)
        if action is None:
            self.say(f"Unknown command '{command}'. Type /? for help")
            return
        try:
            action(rest.strip())
        except RuntimeFailure as error:
            self.say(f"Error: {error}")

    def _leave(self, rest: str) -> None:
        self.leaving = True

    def _clear(self, rest: str) -> None:
        self.messages.clear()
        self.say("Cleared session context")

    def _help(self, rest: str) -> None:
        self.say({"set": HELP_SET, "show": HELP_SHOW, "shortcuts": HELP_SHORTCUTS}.get(rest.lstrip("/"), HELP))

    def _list(self, rest: str) -> None:
        self.say(model_table(self.client.get("/api/tags")["models"]))

    def _load(self, rest: str) -> None:
        if not rest:
            self.say("Usage:\n  /load <modelname>")
            return
        self.say(f"Loading model '{rest}'")
        former = self.model
        self.model = rest
        try:
            self.load()
        except RuntimeFailure:
            self.model = former
            raise
        self.messages.clear()
        self.options.clear()
        self.system, self.format, self.think = "", None, None

    def _save(self, rest: str) -> None:
        if not rest:
            self.say("Usage:\n  /save <modelname>")
            return
        body: dict[str, Any] = {"model": rest, "from": self.model, "stream": False}
        extra = {"system": self.system, "parameters": self.options, "messages": self.messages}
        self.client.post("/api/create", body | {name: value for name, value in extra.items() if value})
        self.say(f"Created new model '{rest}'")

    def _show(self, what: str) -> None:
        if what not in SHOWN:
            self.say(HELP_SHOW)
            return
        shown = self.client.post("/api/show", {"model": self.model})
        if what == "info":
            self.say(printing.facts(shown).rstrip())
        elif what == "parameters":
            self._show_parameters(shown)
        elif what == "system":
            self.say(self.system or shown.get("system") or "No system message was specified for this model.")
        else:
            self.say(str(shown.get(what) or f"No {what} was specified for this model."))

    def _show_parameters(self, shown: dict[str, Any]) -> None:
        if shown.get("parameters"):
            lines = [f"  {line}" for line in shown["parameters"].splitlines()]
            self.say("Model defined parameters:\n" + "\n".join(lines))
        if self.options:
            pairs = sorted(self.options.items())
            lines = [f"  {name:<30} {json.dumps(value, ensure_ascii=False)}" for name, value in pairs]
            self.say("User defined parameters:\n" + "\n".join(lines))
        if not shown.get("parameters") and not self.options:
            self.say("No parameters were specified for this model.")

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        value = value.strip()
        flags = {
            "history": ("history", True), "nohistory": ("history", False), "wordwrap": ("wordwrap", True),
            "nowordwrap": ("wordwrap", False), "verbose": ("verbose", True), "quiet": ("verbose", False),
        }  # fmt: skip
        if what in flags:
            name, on = flags[what]
            setattr(self, name, on)
            self.say({"verbose": "Set 'verbose' mode.", "quiet": "Set 'quiet' mode."}.get(what, f"Set '{what}' mode."))
        elif what == "parameter":
            self._set_parameter(value)
        elif what == "system":
            self.system = value.removeprefix('"""').removesuffix('"""').strip("\n")
            self.say("Set system message.")
        elif what in ("think", "nothink"):
            self._set_think("false" if what == "nothink" else value)
        elif (what == "format" and value == "json") or what == "noformat":
            self.format = "json" if what == "format" else None
            self.say("Set format to 'json' mode." if self.format else "Disabled format.")
        elif what == "format":
            self.say("Invalid or missing format. For 'json' mode use '/set format json'")
        else:
            self.say(HELP_SET if not what else f"Unknown command '/set {what}'. Type /? for help")

    def _set_think(self, value: str) -> None:
        if value not in THINK:
            self.say(f"Unknown think level '{value}'. Use high, medium, low or max.")
            return
        self.think = THINK[value]
        level = f" to {value}" if value else ""
        self.say("Set 'nothink' mode." if self.think is False else f"Set 'think' mode{level}.")

    def _set_parameter(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        if not name or not text.strip():
            self.say("Usage:\n  /set parameter <parameter> <value>")
            return
        if name not in RULES:
            self.say(f"Couldn't set parameter: unknown parameter '{name}'")
            return
        try:
            value = parameter_value(name, text.strip())
        except RequestRefused as error:
            self.say(f"Couldn't set parameter: {error}")
            return
        self.options[name] = value
        self.say(f"Set parameter '{name}' to '{text.strip()}'")


def parameter_value(name: str, text: str) -> Any:
    """The typed value of words at the prompt; several words are several stops. Raises OptionRefused."""
    kind = RULES[name].kind
    if kind == "array":
        value: Any = text.split()
    else:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    found = checked({name: value})[name] if value is not None else None
    return list(found) if isinstance(found, tuple) else found


def model_table(models: list[dict[str, Any]]) -> str:
    rows = []
    for model in models:
        modified = datetime.fromisoformat(short_fraction(model["modified_at"]))
        rows.append((model["name"], model["digest"][:12], size_text(model["size"]), printing.distance(modified)))
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def short_fraction(text: str) -> str:
    """RFC 3339 with any fraction as Python 3.10's fromisoformat takes it: six digits, or none."""
    match = re.fullmatch(r"([^.Z+]*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if not match:
        raise ServerRefused(f"the server sent a time that is not RFC 3339: {text[:40]!r}")
    moment, fraction, zone = match.groups()
    return f"{moment}.{(fraction or '0')[:6]:0<6}{'+00:00' if zone == 'Z' else zone}"


def keep_alive_value(text: str) -> Any:
    """The command line's --keepalive as the request's field. Raises RequestRefused for what is no duration."""
    keep_alive_setting(text)
    return int(text) if text.lstrip("-").isdigit() else text
