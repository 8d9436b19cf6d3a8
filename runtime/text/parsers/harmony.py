"""gpt-oss: an answer is a row of messages, each with a header.

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

Channel analysis is thinking; a message to a function is a call; all else is content. The header may say the recipient
before or after the channel. The prompt has written `<|start|>assistant`, or the header of a begun answer too.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from runtime.text.parsers import Call, Content, Thinking
from runtime.text.parsers.calls import Offered, read_json
from runtime.text.parsers.feed import MAX_CALL_CHARS, Reader

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_HEADER_CHARS = 512
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_NAMED_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class HarmonyReader(Reader):
    """A Parser. prompt_text: the rendered prompt; what follows its last <|start|> is the first header's beginning."""

    ENDS: tuple[str, ...] = ("<|end|>", "<|call|>", "<|return|>", START, CHANNEL)  # of a message
    HEADED: tuple[str, ...] = (START, CHANNEL)  # what a header follows
    NO_HEADER: tuple[str, ...] = ("<|end|>", START)  # what ends a header that is none

    def __init__(self, offered: Offered, prompt_text: str) -> None:
        self._offered = offered
        super().__init__()
        _, started, tail = prompt_text.rpartition(START)
        self._begin(self._answer(tail if started else ""))

    def _answer(self, begun: str) -> Generator[None, None, None]:
        header, open, _ = begun.partition(MESSAGE)
        stop = yield from self._message(header) if open else self._first()
        while stop:
            if stop in self.HEADED:
                stop = yield from self._headed(header + CHANNEL if stop == CHANNEL else "")
            else:
                stop = yield from self._feed.passing(self.HEADED, self._content)
            header = ""

    def _first(self) -> Generator[None, None, str]:
        """The rest of the first header; an answer without any is content."""
        led = yield from self._feed.option((*self.HEADED, MESSAGE, " to="))
        if led == START:
            return led
        if led == "":
            return (yield from self._feed.passing(self.ENDS, self._content))
        self._feed.text = led + self._feed.text
        return (yield from self._headed(""))

    def _headed(self, header: str) -> Generator[None, None, str]:
        pieces = [header]
        stop = yield from self._feed.passing((MESSAGE, *self.NO_HEADER), pieces.append, _HEADER_CHARS)
        if stop == MESSAGE:
            return (yield from self._message("".join(pieces)))
        if stop == "" and not self._feed.ended:  # no header after all
            self._content("".join(pieces))
            stop = yield from self._feed.passing(self.ENDS, self._content)
        return stop

    def _message(self, header: str) -> Generator[None, None, str]:
        """One message's text, to what ended it."""
        to, channel = _RECIPIENT.search(header), _NAMED_CHANNEL.search(header)
        if to is None:
            thinks = channel is not None and channel[1] == "analysis"
            return (yield from self._feed.passing(self.ENDS, self._thinking if thinks else self._content))
        pieces: list[str] = []
        stop = yield from self._feed.passing(self.ENDS, pieces.append, MAX_CALL_CHARS)
        text = "".join(pieces)
        value = read_json(text) if text.strip() else {}
        call = self._offered.call(to[1], value)
        if call is None:
            self._content(text)
        else:
            self._out.append(Call(call))
        return stop or (yield from self._feed.passing(self.ENDS, self._content))

    def _content(self, text: str) -> None:
        if text:
            self._out.append(Content(text))

    def _thinking(self, text: str) -> None:
        if text:
            self._out.append(Thinking(text))
