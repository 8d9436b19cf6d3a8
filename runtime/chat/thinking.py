"""What a person sees of a model that thinks before it answers: the thinking between two lines, as Ollama's command."""

from __future__ import annotations

from collections.abc import Generator, Iterable

BEGIN, END = "Thinking...\n", "\n...done thinking.\n\n"


def shown(parts: Iterable[tuple[str, str]]) -> Generator[str, None, None]:
    """`parts`: (thinking, text) of each piece of an answer, as they come; either may be empty."""
    thinking = False
    for thought, text in parts:
        if thought:
            yield thought if thinking else BEGIN + thought
            thinking = True
        if text and thinking:
            yield END
            thinking = False
        yield text
    if thinking:
        yield END
