"""In the worker: which tokens may come next, so that an answer belongs to its language. llguidance does the work.

    Vocabulary -> Grammars.compile(Constraint) -> Matcher: advance(token) -> mask() -> advance ...

A matcher's next mask depends on its last token alone, so it is made in a thread from the moment that token is known,
beside the forward pass that computes the logits it will be laid on. Each request has a matcher of its own and shares
nothing with others: the same request, the same masks, whoever else is asking (law of batch invariance).

Refuses, by what llguidance says of it, what is no grammar or allows no answer. What costs more than its limits while
it answers is given up: `mask` returns None, never a mask that is not certain. The grammar comes from a stranger: it is
read here, where the process is confined, and its bytes were limited before (constraint.py).
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime.engine import guidance
from runtime.engine.constraint import NAMES, Constraint
from runtime.engine.grammar_schema import ANY_OBJECT
from runtime.engine.threads import Later, Threads
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import RequestRefused

AFTER_GAP = r"[ \r\n\t]{0,4}"  # between the end of the free text and JSON
STACK = 64 << 20  # bytes of a compiling thread: llguidance follows a chain of rules by recursion
LEXER_STATES = 50_000  # of one matcher, 1 to 2 kB each
ROW_ITEMS = 4096  # ways an answer may go on; an optional property is four
MAX_SAID = 300  # characters of llguidance's own words in a refusal


class Matcher:
    """One answer's language, and how much of the answer has been said. One thread at a time.

    complete: nothing may follow: the answer has ended, without a token that says so."""

    def __init__(self, parser: guidance.Parser, n_vocab: int, masks: Threads) -> None:
        self._parser = parser
        self._words = array("I", (0,)) * ((n_vocab + 31) // 32)
        self._masks = masks
        self._next: Later[bool] | None = None  # None: made already
        self._certain = self._fill()
        self.complete = False

    def advance(self, token: int) -> None:
        """The token that was chosen under the last mask. Begins to make the next mask."""
        if self.mask() is None:
            return
        self._certain = self._parser.consume(token)
        self.complete = self._certain and self._parser.stopped
        if self._certain and not self.complete:
            self._next = self._masks.submit(self._fill)

    def mask(self) -> array[int] | None:
        """Which tokens may come next, [(vocabulary + 31) / 32] with a bit for each; an end-of-generation token where
        the answer may end. Waits until it is made. None: it cannot be told within the limits."""
        if self._next is not None:
            self._certain, self._next = self._next.result(), None
        return self._words if self._certain else None

    def _fill(self) -> bool:
        """False on any error, and where no token may come, not even an end."""
        return self._parser.fill(self._words) and any(self._words)


class Grammars:
    """The tokens of one model and the threads that work on grammars. `n_vocab`: of the model, whose logits may be wider
    or narrower than its tokenizer's table."""

    def __init__(self, vocabulary: Vocabulary, n_vocab: int, threads: int) -> None:
        self._vocabulary = vocabulary
        self._n_vocab = n_vocab
        self._masks = Threads(threads, "sealift-mask")
        self._compiling = Threads(1, "sealift-grammar", stack=STACK)
        self._tokens: guidance.Tokens | None = None

    def compile(self, constraint: Constraint, done: Callable[[Later[Matcher]], None] | None = None) -> Later[Matcher]:
        """A matcher at the beginning of an answer, its first mask made; `done` is told. The result raises
        RequestRefused."""
        return self._compiling.submit(partial(self._compile, constraint), done)

    def _compile(self, constraint: Constraint) -> Matcher:
        try:
            parser = self._parser(constraint)
        except ValueError as error:  # guidance's, or of an expression that is none
            raise _refusal(constraint, str(error)) from error
        matcher = Matcher(parser, self._n_vocab, self._masks)
        if matcher.mask() is None:
            raise _refusal(constraint, parser.error() or "no answer satisfies it")
        return matcher

    def _parser(self, constraint: Constraint) -> guidance.Parser:
        if self._tokens is None:  # half a second for 262,144 tokens: only where somebody asks
            self._tokens = guidance.Tokens(*self._vocabulary.marked(self._n_vocab), sorted(self._vocabulary.ends))
        grammar = json.dumps({"grammars": _grammars(constraint, self._vocabulary)})
        return guidance.Parser(self._tokens, grammar, lexer_states=LEXER_STATES, row_items=ROW_ITEMS)


def _grammars(constraint: Constraint, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """llguidance's list: the first says what comes before, the second is the language.

    no_forcing: the model chooses among all tokens that fit, where llguidance would force one way to cut a text that can
    only be this; it would need the tokenizer for it, and which token comes would depend on more than the language."""
    free, line = _free(constraint.after, vocabulary) if constraint.after else ("", "")
    gap = f"/{AFTER_GAP}/" if constraint.after and constraint.kind in ("json", "schema") else ""
    if constraint.after and constraint.opening:
        free, gap = f"({_exactly(constraint.opening, vocabulary)} {free} {gap})?", ""
    first = f'%llguidance {{"no_forcing": true}}\nstart: {free} {gap} @language\n{line}\n'
    return [{"lark_grammar": first}, {**_language(constraint), "name": "language"}]


def _language(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "lark":
        return {"lark_grammar": constraint.text}
    if constraint.kind == "regex":  # d, w: as in ECMAScript, whatever other alphabets have
        return {"lark_grammar": f"start: /{guidance.regex_to_lark(constraint.text, 'dw')}/"}
    return {"json_schema": json.loads(ANY_OBJECT if constraint.kind == "json" else constraint.text)}


def _exactly(text: str, vocabulary: Vocabulary) -> str:
    """A text as the terms of a rule; the special tokens in it by their ids."""
    names = {name.decode("utf-8", "replace"): id for id, name in vocabulary.names().items() if name}
    longest = sorted(filter(text.__contains__, names), key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest))})", text) if longest else [text]
    return " ".join(f"<[{names[one]}]>" if one in longest else json.dumps(one) for one in pieces if one)


def _free(after: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """What stands before the language in the start rule, and the line that defines it: any text up to and with the
    first `after`. It may be a token of its own, which is no text: then the same text in other tokens is forbidden, so
    that there is one border. Raises RequestRefused where it holds such tokens and something else."""
    escaped = "".join(f"\\x{{{ord(char):X}}}" for char in after)
    for id, name in vocabulary.names().items():
        if name == after.encode():
            return f"FREE <[{id}]>", f"FREE: /(?s:.*)/ & ~/(?s:.*{escaped}.*)/"
        if name and name in after.encode():
            shown = name.decode("utf-8", "replace")
            raise RequestRefused(f"the text before the answer, {after!r}, holds the special token {shown!r} and more")
    return "free", f"free[lazy]: /(?s:.*){escaped}/"


def _refusal(constraint: Constraint, said: str) -> RequestRefused:
    words = " ".join(said.removesuffix("<non-verbose/>").split())
    return RequestRefused(f"{NAMES[constraint.kind]} cannot be kept: {words[:MAX_SAID]}")
