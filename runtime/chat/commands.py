"""The slash commands of a chat (contract, 8): a line in, a changed Session and words for the user out.

What Ollama's command answers, clients of terminals look for: those words are kept. Errors of the server are said, not
raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from manifests.display import printable, size_text, table
from runtime.api.durations import keep_alive_setting
from runtime.chat import printing, texts
from runtime.chat.session import Session
from runtime.errors import RequestRefused, RuntimeFailure, ServerRefused
from runtime.options import RULES, checked

THINK = {"": True, "true": True, "false": False, "high": "high", "medium": "medium", "low": "low", "max": "max"}
SHOWN = ("info", "license", "modelfile", "parameters", "system", "template")
FLAGS = {
    "history": ("history", True), "nohistory": ("history", False), "wordwrap": ("wordwrap", True),
    "nowordwrap": ("wordwrap", False), "verbose": ("verbose", True), "quiet": ("verbose", False),
}  # fmt: skip
NOTHING = {
    "license": "No license was specified for this model.",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def handle(session: Session, line: str) -> None:
    """One line that begins with a slash."""
    command, _, rest = line.strip().partition(" ")
    action = COMMANDS.get(command)
    if action is None:
        session.say(f"Unknown command '{command}'. Type /? for help")
        return
    try:
        action(session, rest.strip())
    except RuntimeFailure as error:
        session.say(f"Error: {error}")


def _leave(session: Session, rest: str) -> None:
    session.leaving = True


def _clear(session: Session, rest: str) -> None:
    session.messages.clear()
    session.say("Cleared session context")


def _help(session: Session, rest: str) -> None:
    pages = {"set": texts.HELP_SET, "show": texts.HELP_SHOW} | dict.fromkeys(
        ("shortcut", "shortcuts"), texts.HELP_SHORTCUTS
    )
    session.say(pages.get(rest.lstrip("/"), texts.HELP))


def _list(session: Session, rest: str) -> None:
    models = session.client.get("/api/tags")["models"]
    session.say(model_table([model for model in models if model["name"].lower().startswith(rest.lower())]))


def _load(session: Session, rest: str) -> None:
    if len(rest.split()) != 1:
        session.say(texts.USAGE_LOAD)
        return
    session.say(f"Loading model '{rest}'")
    former = session.model
    session.model = rest
    try:
        session.load()
    except ServerRefused as error:
        session.model = former
        if error.http_status != 404:
            raise
        session.say(f"Couldn't find model '{rest}'")
    except RuntimeFailure:
        session.model = former
        raise
    else:
        session.forget()


def _save(session: Session, rest: str) -> None:
    if len(rest.split()) != 1:
        session.say(texts.USAGE_SAVE)
        return
    body: dict[str, Any] = {"model": rest, "from": session.model, "stream": False}
    extra = {"system": session.system, "parameters": session.options, "messages": session.saved()}
    try:
        session.client.post("/api/create", body | {name: value for name, value in extra.items() if value})
    except ServerRefused as error:
        if str(error) != "invalid model name":
            raise
        session.say(f"error: The model name '{rest}' is invalid")
        return
    session.say(f"Created new model '{rest}'")


def _show(session: Session, what: str) -> None:
    if not what:
        session.say(texts.HELP_SHOW)
        return
    if what not in SHOWN:
        session.say(f"Unknown command '/show {what}'. Type /? for help")
        return
    shown = session.client.post("/api/show", {"model": session.model})
    if what == "info":
        session.say(printing.facts(shown).rstrip("\n") + "\n")
    elif what == "parameters":
        _show_parameters(session, shown)
    else:
        own = session.system if what == "system" else ""
        session.say(own or str(shown.get(what) or NOTHING.get(what, "")))


def _show_parameters(session: Session, shown: dict[str, Any]) -> None:
    lines = str(shown.get("parameters") or "No additional parameters were specified for this model.").splitlines()
    session.say("Model defined parameters:\n" + "".join(f"  {line}\n" for line in lines))
    if session.options:
        pairs = sorted(session.options.items())
        own = [f"  {name:<30} {json.dumps(value, ensure_ascii=False)}\n" for name, value in pairs]
        session.say("User defined parameters:\n" + "".join(own))


def _set(session: Session, rest: str) -> None:
    what, _, value = rest.partition(" ")
    value = value.strip()
    if what in FLAGS:
        name, on = FLAGS[what]
        setattr(session, name, on)
        session.say(f"Set '{what}' mode.")
    elif what == "parameter":
        _set_parameter(session, value)
    elif what == "system":
        _set_system(session, value)
    elif what in ("think", "nothink"):
        _set_think(session, "false" if what == "nothink" else value)
    elif (what == "format" and value == "json") or what == "noformat":
        session.format = "json" if what == "format" else None
        session.say("Set format to 'json' mode." if session.format else "Disabled format.")
    elif what == "format":
        session.say("Invalid or missing format. For 'json' mode use '/set format json'")
    else:
        session.say(texts.HELP_SET if not what else f"Unknown command '/set {what}'. Type /? for help")


def _set_system(session: Session, value: str) -> None:
    """`\"\"\"` around the text is taken away; the prompt gathers the lines between before it comes here."""
    if not value:
        session.say(texts.HELP_SET)
        return
    if value.startswith('"""'):
        value = value[3:].removesuffix('"""').strip("\n")
    session.system = value
    session.say("Set system message.")


def _set_think(session: Session, value: str) -> None:
    if value not in THINK:
        session.say(f"Unknown think level '{value}'. Use high, medium, low or max.")
        return
    session.think = THINK[value]
    mode = "nothink" if session.think is False else "think"
    session.say(f"Set '{mode}' mode{f' to {value!r}' if value and session.think else ''}.")


def _set_parameter(session: Session, rest: str) -> None:
    name, _, text = rest.partition(" ")
    if not name or not text.strip():
        session.say(texts.HELP_PARAMETERS)
        return
    if name not in RULES:
        session.say(f"Couldn't set parameter: unknown parameter '{name}'")
        return
    try:
        value = parameter_value(name, text.strip())
    except RequestRefused as error:
        session.say(f"Couldn't set parameter: {error}")
        return
    session.options[name] = value
    session.say(f"Set parameter '{name}' to '{', '.join(text.split())}'")


COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "/set": _set, "/show": _show, "/load": _load, "/save": _save, "/clear": _clear, "/list": _list, "/ls": _list,
    "/bye": _leave, "/exit": _leave, "/help": _help, "/?": _help,
}  # fmt: skip


# -- values and tables


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
    return printable(table(("NAME", "ID", "SIZE", "MODIFIED"), rows))


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
