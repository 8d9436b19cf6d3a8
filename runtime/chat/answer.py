"""An answer as it comes, from the chunks of /api/chat and /api/generate to the screen.

Thinking stands between two lines, as in Ollama's command, in grey on a terminal. A call of a tool is told in words: the
command line offers none, so it is a model's own invention.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

from runtime.chat.screen import GREY, PLAIN, Waiting, Wrapper, paint, write
from runtime.errors import RuntimeFailure

BEGIN, END = "Thinking...\n", "...done thinking.\n\n"


class Part(NamedTuple):
    """What one chunk brought; each may be empty."""

    thinking: str = ""
    text: str = ""
    calls: tuple[dict[str, Any], ...] = ()


Parts = Generator[Part, None, None]


def part_of(chunk: dict[str, Any]) -> Part:
    """Of a chunk of /api/chat, or of /api/generate. What is no text is nothing."""
    message = chunk.get("message")
    holder = message if isinstance(message, dict) else chunk
    calls = holder.get("tool_calls")
    return Part(
        thinking=_text(holder.get("thinking")),
        text=_text(holder.get("content") if holder is message else holder.get("response")),
        calls=tuple(call for call in calls if isinstance(call, dict)) if isinstance(calls, list) else (),
    )


def print_answer(parts: Parts, *, wordwrap: bool, hide_thinking: bool = False) -> None:
    """Writes them as they come. Whatever happens, closes `parts`, which hangs up, and writes what was held back."""
    width = shutil.get_terminal_size().columns if wordwrap and sys.stdout.isatty() else 0
    wrapper = Wrapper(write, width)
    waiting = Waiting()
    began = failed = False
    try:
        with closing(_shown(parts, hide_thinking=hide_thinking)) as pieces:
            for piece in pieces:
                waiting.stop()
                wrapper.feed(piece)
                began = True
    except RuntimeFailure:
        failed = True
        raise
    finally:
        waiting.stop()
        wrapper.end()
        if failed and began:
            write("\n")


def _shown(parts: Parts, *, hide_thinking: bool) -> Generator[str, None, None]:
    """Texts that are not empty. Grey begins and ends where a line does, so nothing held back changes colour."""
    thinking = False
    try:
        with closing(parts):
            for part in parts:
                if part.thinking and not hide_thinking:
                    if not thinking:
                        yield BEGIN
                        paint(GREY)
                    thinking = True
                    yield part.thinking
                if thinking and (part.text or part.calls):
                    yield "\n"
                    paint(PLAIN)
                    thinking = False
                    yield END
                if part.text:
                    yield part.text
                yield from map(told, part.calls)
        if thinking:
            yield "\n"
            paint(PLAIN)
            thinking = False
            yield END
    finally:
        if thinking:
            paint(PLAIN)


def told(call: dict[str, Any]) -> str:
    """`  Model called a non-existent function 'weather()' with arguments: {"city":"Oslo"}`."""
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = json.dumps(function.get("arguments"), ensure_ascii=False, separators=(",", ":"))
    return f"  Model called a non-existent function '{function.get('name', '')}()' with arguments: {arguments}\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
