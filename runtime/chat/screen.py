"""What reaches the terminal of the chat: harmless characters, words that wrap, a spinner while nothing has come yet.

A model's answer, and what a model says of itself, must not control the terminal that shows it: of the control
characters only line ends and tabs pass, the others become the pictures Unicode has for them, so that an escape sequence
is read and not obeyed. Marks that turn the order of the line (U+202A to U+202E) become U+FFFD. Joiners, directional
marks and isolates pass: scripts and emoji need them. What is piped is data and stays as it came.

Invariant of `Wrapper`: what was fed and what was written differ in line ends only.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
from collections.abc import Callable

GREY, PLAIN = "\x1b[90m", "\x1b[0m"
MARGIN = 5  # columns left free at the end of a line, as in Ollama's command
NARROWEST = 10  # columns; no words are wrapped in less
TAB = 8  # columns
JOINER = "\u200d"  # joins emoji into one

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t\r"} | {0x0D: None, 0x7F: 0x2421}
_REFUSED = (*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0xD800, 0xE000))
_HARMLESS: dict[int, int | None] = _CONTROLS | dict.fromkeys(_REFUSED, 0xFFFD)


def harmless(text: str) -> str:
    """`text` without anything that a terminal would obey; a carriage return goes, it would overwrite the line."""
    return text.translate(_HARMLESS)


def write(text: str) -> None:
    """To stdout at once: harmless on a terminal; elsewhere as it is, but for what the encoding cannot say."""
    if sys.stdout.isatty():
        text = harmless(text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def say(line: str) -> None:
    write(line + "\n")


def paint(sequence: str) -> None:
    """One of our own sequences, such as GREY, where stdout is a terminal that understands them and may have colours."""
    if sys.stdout.isatty() and _obeys() and not os.environ.get("NO_COLOR"):
        sys.stdout.write(sequence)
        sys.stdout.flush()


def _obeys() -> bool:
    return os.environ.get("TERM", "dumb") != "dumb"


class Waiting:
    """A spinner on stderr until `stop`; nothing is shown unless both outputs are a terminal."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if sys.stderr.isatty() and sys.stdout.isatty() and _obeys():
            self._thread = threading.Thread(target=self._turn, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """The place where it turned is empty afterwards. A second time does nothing."""
        self._over.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def _turn(self) -> None:
        for sign in itertools.cycle("|/-\\"):
            sys.stderr.write(f"\r{sign} ")
            sys.stderr.flush()
            if self._over.wait(0.1):
                break
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class Wrapper:
    """Breaks lines between words before the last MARGIN of `width` columns; less than NARROWEST leaves the text alone.

    A word is written when it is complete, a wide character (Chinese, emoji) at once: there a line may break too.
    """

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write = write
        self._limit = width - MARGIN if width >= NARROWEST else 0
        self._column = 0
        self._word = ""
        self._joined = False  # the last character asks the next one to stay with it

    def feed(self, text: str) -> None:
        if not self._limit:
            self._write(text)
            return
        for part in re.findall(r"[\n\t]| +|[^ \t\n]", text):
            if part[0] in " \t\n":
                self.end()
                self._space(part)
            else:
                self._letter(part)

    def end(self) -> None:
        """Writes the word that is held back."""
        if self._word:
            columns = _columns(self._word)
            if self._column and self._column + columns > self._limit:
                self._write("\n")
                self._column = 0
            self._write(self._word)
            self._column += columns
            self._word = ""
        self._joined = False

    def _letter(self, letter: str) -> None:
        columns = _columns(letter)
        if not self._word and (self._joined or not columns):  # belongs to the character that was written last
            self._write(letter)
            self._column += columns
            self._joined = letter == JOINER
            return
        if _columns(self._word) + columns > self._limit and not self._word.endswith(JOINER):
            self.end()
        self._word += letter
        if columns > 1 or _columns(self._word) >= self._limit:
            self.end()

    def _space(self, part: str) -> None:
        if part == "\n":
            self._column = 0
        else:
            self._column += TAB - self._column % TAB if part == "\t" else len(part)
        self._write(part)


def _columns(text: str) -> int:
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(text)
