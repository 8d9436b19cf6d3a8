"""Licences: what a model declares, what its licence texts are, and whether a site takes them.

A declared licence is an SPDX expression (`Apache-2.0`, `MIT OR Apache-2.0`, `GPL-2.0 WITH …`) or the name that model
hubs use (`gemma`, `llama3.1`). A text is known by phrases that stand in it and in no other licence: a text that says
more or less than the licence is found all the same, so this recognizes and does not prove.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from manifests.errors import FieldError
from manifests.scan.rules import Hit

MAX_EXPRESSION = 1000  # characters
MAX_TOKENS = 100

# licence -> phrases that must all occur in the text, in lower case, blanks made one, punctuation gone
_TEXTS: dict[str, tuple[str, ...]] = {
    "Apache-2.0": ("apache license version 2 0", "grant of patent license"),
    "MIT": ("permission is hereby granted free of charge to any person obtaining a copy", "without restriction"),
    "BSD-3-Clause": ("redistribution and use in source and binary forms", "may be used to endorse or promote"),
    "BSD-2-Clause": ("redistribution and use in source and binary forms", "redistributions in binary form"),
    "LicenseRef-Gemma": ("gemma terms of use",),
    "LicenseRef-Llama-2": ("llama 2 community license agreement",),
    "LicenseRef-Llama-3": ("meta llama 3 community license agreement",),
    "LicenseRef-Llama-3.1": ("llama 3 1 community license agreement",),
    "LicenseRef-Llama-3.2": ("llama 3 2 community license agreement",),
    "LicenseRef-Llama-3.3": ("llama 3 3 community license agreement",),
    "CC-BY-NC-4.0": ("attribution noncommercial 4 0 international",),
    "CC-BY-SA-4.0": ("attribution sharealike 4 0 international",),
    "CC-BY-4.0": ("attribution 4 0 international",),
    "LicenseRef-OpenRAIL": ("use based restrictions", "responsible ai"),
    "GPL-3.0-only": ("gnu general public license", "version 3 29 june 2007"),
}
# what hubs write, in lower case -> our name; SPDX ids need no entry
_NAMES = {
    "gemma": "LicenseRef-Gemma", "llama2": "LicenseRef-Llama-2", "llama3": "LicenseRef-Llama-3",
    "llama3.1": "LicenseRef-Llama-3.1", "llama3.2": "LicenseRef-Llama-3.2", "llama3.3": "LicenseRef-Llama-3.3",
    "openrail": "LicenseRef-OpenRAIL", "openrail++": "LicenseRef-OpenRAIL",
    "bigscience-openrail-m": "LicenseRef-OpenRAIL", "creativeml-openrail-m": "LicenseRef-OpenRAIL",
    "gpl-3.0": "GPL-3.0-only", "gpl-3.0-or-later": "GPL-3.0-only",
}  # fmt: skip
_SPELLED = {name.lower(): name for name in _TEXTS}
_TOKEN = re.compile(r"\s*(?:([()])|(?:(AND|OR|WITH)\b(?![-.]))|([A-Za-z0-9][A-Za-z0-9.+:-]*))", re.IGNORECASE)
Check = Callable[[Callable[[str], bool]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """policy.toml's `[licenses]`: names taken and names refused; `allow` None takes all that is not refused."""

    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()

    @classmethod
    def of(cls, allow: Iterable[str] | None, deny: Iterable[str] = ()) -> Rules:
        """Raises FieldError for what is no expression. `A OR B` is short for both."""
        taken = None if allow is None else frozenset(one for text in allow for one in _alternatives("allow", text))
        return cls(allow=taken, deny=frozenset(one for text in deny for one in _alternatives("deny", text)))

    @property
    def any(self) -> bool:
        return self.allow is not None or bool(self.deny)

    def takes(self, expression: str) -> bool:
        """An expression that does not parse is a name of its own."""
        try:
            return parse(expression)[0](self._takes)
        except FieldError:
            return self._takes(canonical(expression))

    def _takes(self, name: str) -> bool:
        return name not in self.deny and (self.allow is None or name in self.allow)


def canonical(name: str) -> str:
    """One spelling: SPDX ids are compared without letter case."""
    low = name.strip().lower()
    return _NAMES.get(low) or _SPELLED.get(low) or low


def _alternatives(path: str, text: str) -> frozenset[str]:
    _, names, operators = _parsed(text, path)
    if "AND" in operators:
        raise FieldError(path, f"{text[:60]!r} joins licences with AND; name each by itself")
    return names


def parse(text: str) -> tuple[Check, frozenset[str]]:
    """What decides an expression, and the licences in it; `X WITH Y` is one. Raises FieldError."""
    return _parsed(text, "licence")[:2]


def _parsed(text: str, path: str) -> tuple[Check, frozenset[str], frozenset[str]]:
    tokens = _tokens(text, path)
    names: set[str] = set()
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1] if position <= len(tokens) else ""

    def both() -> Check:
        parts = [single()]
        while peek() == "AND":
            take()
            parts.append(single())
        return lambda ok: all(part(ok) for part in parts)

    def either() -> Check:
        parts = [both()]
        while peek() == "OR":
            take()
            parts.append(both())
        return lambda ok: any(part(ok) for part in parts)

    def single() -> Check:
        token = take()
        if token == "(":
            inner = either()
            if take() != ")":
                raise FieldError(path, f"{text[:60]!r}: a parenthesis is not closed")
            return inner
        if token in ("", ")", "AND", "OR", "WITH"):
            raise FieldError(path, f"{text[:60]!r} is not an SPDX expression")
        name = canonical(token)
        if peek() == "WITH":
            take()
            name = f"{name} WITH {canonical(take())}"
        names.add(name)
        return lambda ok: ok(name)

    check = either()
    if position != len(tokens):
        raise FieldError(path, f"{text[:60]!r} is not an SPDX expression")
    return check, frozenset(names), frozenset(tokens) & {"AND", "OR"}


def _tokens(text: str, path: str) -> list[str]:
    if len(text) > MAX_EXPRESSION:
        raise FieldError(path, f"{len(text)} characters; at most {MAX_EXPRESSION} are accepted")
    found: list[str] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match or len(found) >= MAX_TOKENS:
            raise FieldError(path, f"{text[:60]!r} is not an SPDX expression")
        found.append(match[1] or (match[2] or "").upper() or match[3])
        position = match.end()
    return found


def recognize(text: str) -> str | None:
    """The licence that a text is, or None. A line such as `MIT License` or `Apache-2.0` alone counts too."""
    plain = " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())
    for name, phrases in _TEXTS.items():
        if all(phrase in plain for phrase in phrases):
            return name
    if len(text) <= 100:
        low = text.strip().lower().removesuffix(" license")
        return _NAMES.get(low) or _SPELLED.get(low)
    return None


def judge(declared: str | None, texts: list[str], rules: Rules) -> Iterator[Hit]:
    """One model: `declared` by its metadata, `texts` its licence layers."""
    known = [recognize(text) for text in texts]
    for text, name in zip(texts, known, strict=True):
        if name is None:
            yield "licence.unrecognized", " ".join(text.split())[:80]
    if declared is not None and any(known):
        try:
            names = parse(declared)[1]
        except FieldError:
            names = frozenset({canonical(declared)})
        recognized = sorted({name for name in known if name})
        # names of hubs that we do not know (`other`) contradict nothing
        if names <= _COMPARABLE and not names & set(recognized):
            yield "licence.mismatch", f"declared {declared[:60]!r}, the text is {', '.join(recognized)}"
    yield from _refused(declared, known, rules)


_COMPARABLE = frozenset(_TEXTS)


def _refused(declared: str | None, known: list[str | None], rules: Rules) -> Iterator[Hit]:
    if not rules.any:
        return
    stated = [name for name in (declared, *known) if name]
    for name in dict.fromkeys(stated):
        if not rules.takes(name):
            yield "licence.refused", name[:80]
    if not stated and rules.allow is not None:
        yield "licence.refused", "no licence is stated, or none that this version knows"
