"""What may hide in a text that a model or a person will read: characters nobody sees, active HTML, addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from manifests.scan.rules import Hit

# Unicode's bidirectional controls and tag characters (UTS 39, UAX 9): no text needs them
_HOSTILE = "\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\U000e0100-\U000e01ef"
# zero width and filler characters, and the control codes but tab, line feed and carriage return
_UNSEEN = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0"
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
INVISIBLE = re.compile(f"[{_HOSTILE}{_UNSEEN}{_CONTROL}]")
HOSTILE = re.compile(f"[{_HOSTILE}]")
# the joiners of Persian, Indic scripts and emoji: welcome in prose, not in a template
_JOINERS = "\u200c\u200d"

_MARKUP = re.compile(
    r"<\s{0,9}/?\s{0,9}(?:script|iframe|object|embed|svg|img|link|meta|form|base)\b[^>]{0,200}|\b(?:java|vb)script\s{0,9}:|"
    r"\bdata\s{0,9}:\s{0,9}text/html|\bon(?:error|load|click|mouseover)\s{0,9}=",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"\b(?:https?|ftp|file|wss?)://[^\s'\"<>)]{1,100}|\bwww\.[\w-]+\.\w+|\]\(\s{0,9}[\w.+-]{1,40}:", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_]{2,}")
# control tokens and switches of chat formats: <think>, <|im_end|>, [/INST], /no_think
_TOKEN = re.compile(r"<[|｜]?[^<>\s]{1,60}>?|\[/?[A-Z_]{1,24}\]|(?<!\w)/\w{1,20}")
MIN_WORDS = 3  # that make a message


def invisible(text: str, *, prose: bool = False) -> Iterator[Hit]:
    """One hit for the first such character. `prose`: joiners and a byte order mark at the beginning are allowed."""
    if prose:
        text = text.removeprefix("\ufeff").translate(dict.fromkeys(map(ord, _JOINERS), "x"))
    if found := INVISIBLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        yield "text.invisible", f"line {line}: U+{ord(found.group()):04X}"


def markup(text: str) -> Iterator[Hit]:
    if found := _MARKUP.search(text):
        yield "text.markup", found.group()[:120]


def link(text: str) -> Iterator[Hit]:
    if found := _LINK.search(text):
        yield "text.link", found.group()[:120]


def is_words(text: str) -> bool:
    """Ordinary words; a control token, with at most one word beside it (`<|channel|>analysis`), is a marker."""
    rest = _TOKEN.sub(" ", text)
    return len(_WORD.findall(rest)) > (rest != text)


def said(text: str) -> str:
    """What a text says beside control tokens, if that is words or a link; else nothing."""
    plain = _TOKEN.sub(" ", text)
    return " ".join(plain.split()) if _LINK.search(text) or len(_WORD.findall(plain)) >= MIN_WORDS else ""
