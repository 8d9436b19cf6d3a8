"""The prompt itself: prompt_toolkit around a Session.

Ctrl-C at the prompt drops the line, during an answer it stops the answer; Ctrl-D, /bye and /exit leave. What is typed
is remembered in `history` in sealift's home, unless told otherwise.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output

from manifests.home import home, setting
from runtime.chat.printing import Wrapper, statistics
from runtime.chat.session import Session
from runtime.errors import RuntimeFailure

PROMPT, CONTINUED = ">>> ", "... "
HINT = "Send a message (/? for help)"
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
    prompt: PromptSession[str] = PromptSession(history=_history(session), input=input, output=output)
    while not session.leaving:
        try:
            line = _read(prompt)
        except KeyboardInterrupt:
            session.say("\nUse Ctrl + d or /bye to exit.")
            continue
        except EOFError:
            return
        if line.strip().startswith("/"):
            session.handle(line)
        elif line.strip():
            _answer(session, line)


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


def _read(prompt: PromptSession[str]) -> str:
    """One message. `\"\"\"` opens a text of several lines, also after `/set system`."""
    line = prompt.prompt(PROMPT, placeholder=HTML("<ansibrightblack>{}</ansibrightblack>").format(HINT))
    head, quotes, text = line.partition(QUOTES)
    opens = quotes and (not head.strip() or head.strip() == "/set system")
    if not opens:
        return line
    lines = [text]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(prompt.prompt(CONTINUED))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    whole = "\n".join(lines).strip("\n")
    return f"/set system {whole}" if head.strip() else whole


def _answer(session: Session, text: str) -> None:
    try:
        print_answer(session.ask(text), wordwrap=session.wordwrap)
    except KeyboardInterrupt:
        write("\n\n")
        return
    except RuntimeFailure as error:
        session.say(f"Error: {error}")
        return
    write("\n\n")
    if session.verbose:
        sys.stderr.write(statistics(session.last) + "\n")
        sys.stderr.flush()


def print_answer(pieces: Generator[str, None, None], *, wordwrap: bool) -> None:
    """Lines are broken between words only on a terminal."""
    width = shutil.get_terminal_size().columns if wordwrap and sys.stdout.isatty() else 0
    wrapper = Wrapper(write, width)
    with closing(pieces):
        for piece in pieces:
            wrapper.feed(piece)
    wrapper.end()


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
