"""The prompt itself: prompt_toolkit around a Session.

Ctrl-C at the prompt drops the line, during an answer it stops the answer; Ctrl-D, /bye and /exit leave. What is pasted
stays one message, whatever it begins with. What is typed is remembered in `history` in sealift's home, unless told
otherwise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import has_selection, is_searching
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from manifests.home import home, setting
from runtime.chat.answer import Part, Parts, print_answer
from runtime.chat.asking import images, refuse_images
from runtime.chat.commands import COMMANDS, handle
from runtime.chat.printing import statistics
from runtime.chat.screen import write
from runtime.chat.session import Session
from runtime.errors import RuntimeFailure

PROMPT, CONTINUED = ">>> ", "... "
HINT, HINT_CONTINUED = "Send a message (/? for help)", 'End the message with """'
QUOTES = '"""'


class OptionalHistory(FileHistory):
    """Writes only while the session wants it."""

    def __init__(self, path: Path, session: Session) -> None:
        super().__init__(str(path))
        self._session = session

    def store_string(self, string: str) -> None:
        if self._session.history:
            super().store_string(string)


def chat(session: Session, *, input: Input | None = None, output: Output | None = None) -> None:
    """Until the user leaves. `input` and `output` stand in for the terminal in tests."""
    if editor := setting("EDITOR"):
        os.environ["VISUAL"] = editor  # where prompt_toolkit looks first
    prompt: PromptSession[str] = PromptSession(
        history=_history(session), input=input, output=output, key_bindings=_keys(), enable_suspend=True
    )
    while not session.leaving:
        try:
            command, text = _read(prompt)
        except KeyboardInterrupt:
            if not prompt.default_buffer.text:
                session.say("\nUse Ctrl + d or /bye to exit.")
            continue
        except EOFError:
            return
        if command:
            handle(session, text)
        elif text.strip():
            _answer(session, text)


def opening(messages: list[dict[str, Any]], *, wordwrap: bool) -> None:
    """The messages that a model begins with, as if they had been typed and answered."""

    def whole(text: str) -> Parts:
        yield Part(text=text)

    for message in messages:
        if message.get("role") == "user":
            write(f"{PROMPT}{message.get('content')}\n")
        elif message.get("role") == "assistant":
            print_answer(whole(str(message.get("content"))), wordwrap=wordwrap)
            write("\n\n")


def _history(session: Session) -> Any:
    if setting("NOHISTORY").lower() not in ("", "0", "f", "false"):
        return InMemoryHistory()
    path = home() / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    except OSError:
        return InMemoryHistory()  # a home that cannot be written is no reason not to talk
    return OptionalHistory(path, session)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-g", filter=~is_searching & ~has_selection)
    def edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


def _read(prompt: PromptSession[str]) -> tuple[bool, str]:
    """Whether it is a command, and its text. `\"\"\"` opens a text of several lines, also after `/set system`."""
    line = _line(prompt, PROMPT, HINT).strip("\n")
    head, quotes, text = line.partition(QUOTES)
    system = head.split() == ["/set", "system"]
    if not quotes or not (system or not head.strip()):
        return _is_command(line), line
    lines = [text]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(_line(prompt, CONTINUED, HINT_CONTINUED))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    whole = "\n".join(lines).strip("\n")
    return system, f"/set system {QUOTES}{whole}{QUOTES}" if system else whole


def _is_command(line: str) -> bool:
    """A path of an image begins with a slash too; pasted lines are a message."""
    words = line.split()
    return line.startswith("/") and "\n" not in line and (words[0] in COMMANDS or not images(line))


def _line(prompt: PromptSession[str], begin: str, hint: str) -> str:
    return prompt.prompt(begin, placeholder=HTML("<ansibrightblack>{}</ansibrightblack>").format(hint))


def _answer(session: Session, text: str) -> None:
    try:
        refuse_images(text)
        print_answer(session.ask(text), wordwrap=session.wordwrap, hide_thinking=session.hide_thinking)
    except KeyboardInterrupt:
        write("\n\n")
        return
    except RuntimeFailure as error:
        session.say(f"Error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return
    write("\n\n")
    if session.verbose:
        sys.stderr.write(statistics(session.last) + "\n")
        sys.stderr.flush()
