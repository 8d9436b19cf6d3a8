"""What clients and models send, mutated: none may be a fault of ours, hang, or take over a second or 200 MB.

A case is a number that seeds everything and chooses the kind, so one number repeats it.

    body       a JSON body with wrong values in it, or with mangled bytes, to any route, answered by a scripted model:
               no "internal error", and no 5xx without a line in the log that explains it
    template   a template of a family with mutated bytes or pieces of others: a prompt, or our error with its place
    schema, grammar
               a JSON schema, a regular expression or a Lark grammar, mutated: refused by name, or compiled, and then a
               random walk under its masks, which ends, or is given up
    modelfile  mutated bytes: refused, or read as what its own rendering reads back as
    answer     what a model of a family writes, mutated: the same parts at every cut that was tried
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from manifests.create import CreateRequest, create
from manifests.errors import ManifestsError
from manifests.modelfile import Modelfile
from manifests.name import ModelName
from runtime.api.app import create_app
from runtime.engine.constraint import Constraint, prepared
from runtime.engine.grammar import Grammars
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import RuntimeFailure
from runtime.text.errors import TextError
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.harmony import HarmonyReader
from runtime.text.parsers.reader import AnswerReader
from runtime.text.parsers.syntax import FAMILIES, GENERIC, of_tag
from runtime.text.prompt import Renderer
from runtime.text.tokenizer import Tokenizer
from runtime.told import Settings
from scripts.attacks.asked import BODIES, CHAT, GRAMMARS, MODELFILE, MODELS, ODD, POSTS, SCHEMA
from scripts.attacks.mutations import change, mangle
from scripts.attacks.slices import Tell, sliced
from tests.peers import hermes
from tests.peers.answers import SAMPLES, TOOLS
from tests.peers.scripted import Script, scripted_manager, small_store
from tests.peers.templates import TALK, TEMPLATES, WEATHER
from tests.peers.vocabularies import byte_level

KINDS = ("body", "body", "body", "template", "schema", "schema", "grammar", "modelfile", "answer", "answer")
WALK = 24  # tokens of a walk under masks


class Told(logging.Handler):
    """Lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)  # which writes the traceback
        self.lines.append(record.getMessage() + (record.exc_text or ""))


class Bench:
    """What all cases share; read only, but for the log."""

    def __init__(self, folder: Path) -> None:
        self.store = small_store(folder)
        caller = CreateRequest(
            from_model=ModelName.parse("demo"), template=hermes.TEMPLATE, parameters={"num_ctx": 2048}
        )
        create(self.store, ModelName.parse("caller"), caller)
        table = byte_level()
        self.tokenizer = Tokenizer.from_gguf(table)
        tokens = [bytes([byte]) for byte in range(256)]
        words = [b'{"', b'": ', b"true", b"  ", b"</s>", b"<think>"]
        last = len(tokens) + len(words) - 1
        vocabulary = Vocabulary.of([*tokens, *words], special=frozenset({last - 1, last}), ends=frozenset({last - 1}))
        self.vocabulary, self.n_vocab, self.end = vocabulary, last + 1, last - 1
        self.told = Told()
        log = logging.getLogger("sealift")
        log.propagate = False
        log.addHandler(self.told)

    def begin(self) -> None:
        """In the child, whose threads these are; a first grammar brings all that is made once."""
        self.grammars = Grammars(self.vocabulary, self.n_vocab, 1)
        self.grammars.compile(Constraint(kind="json")).result()


def run(folder: Path, cases: Sequence[int], *, tell: Tell) -> list[str]:
    """The findings, each with the number that repeats it."""
    return sliced(Bench(folder), case, cases, tell=tell, begin=Bench.begin)


def case(bench: Bench, number: int) -> str:
    """`KIND accepted` or `KIND refused`. Raises AssertionError for what must not be."""
    numbers, kind = random.Random(f"ask {number}"), KINDS[number % len(KINDS)]
    judge = {"body": _body, "template": _template, "schema": _schema, "grammar": _grammar, "modelfile": _modelfile}
    try:
        accepted = judge.get(kind, _answer)(bench, numbers)
    except Exception as error:
        raise AssertionError(f"{kind}: {type(error).__name__}: {error}") from error
    return f"{kind} {'accepted' if accepted else 'refused'}"


def _body(bench: Bench, numbers: random.Random) -> bool:
    method, path = ("POST", numbers.choice(list(BODIES))) if numbers.random() < 0.9 else numbers.choice(POSTS)
    sound = "embedder" if "embed" in path else "caller"
    asked = {
        "model": numbers.choice(MODELS) if numbers.random() < 0.2 else sound,
        "stream": numbers.random() < 0.5,
        **copy.deepcopy(BODIES.get(path, CHAT)),
    }
    for key in numbers.sample(list(asked), numbers.randint(0, min(4, len(asked)))):
        del asked[key]
    holder: list[Any] = [asked]
    for _ in range(numbers.choice((0, 1, 1, 2, 4))):
        _change(holder, numbers)
    body = json.dumps(holder[0]).encode()
    if numbers.random() < 0.2:
        body = mangle(body, numbers)
    return asyncio.run(_asked(bench, method, path.replace("{digest}", "sha256:" + "0" * 64), body))


def _change(holder: list[Any], numbers: random.Random) -> None:
    """One change in the value that `holder` holds first."""
    change(holder, numbers)
    if numbers.random() < 0.3 and holder and isinstance(holder[0], dict) and holder[0]:
        holder[0][numbers.choice(list(holder[0]))] = copy.deepcopy(numbers.choice(ODD))
    holder[:] = holder[:1] or [None]


async def _asked(bench: Bench, method: str, path: str, body: bytes) -> bool:
    script = Script()
    manager = scripted_manager(script)
    app = create_app(bench.store, manager, settings=Settings(read_only=True))
    bench.told.lines.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        answer = await client.request(method, path, content=body)
    await manager.close()
    assert b"internal error" not in answer.content, bench.told.lines
    assert script.begun == script.ended, "an answer that never ended"
    if answer.status_code >= 500:
        assert any(line.startswith(f"answered {answer.status_code}: ") for line in bench.told.lines), answer.content
    return answer.status_code < 400


def _template(bench: Bench, numbers: random.Random) -> bool:
    language, template = numbers.choice(TEMPLATES)
    source = _mutated(template.source, numbers, [other.source for kind, other in TEMPLATES if kind == language])
    go, jinja = (source, None) if language == "go" else (None, source)
    try:
        renderer = Renderer.choose(bench.tokenizer, template=go, jinja=jinja)
        renderer.thinking_tags()
        renderer.chat(TALK, limit=9999, tools=[WEATHER], think=numbers.choice((None, True, "low")))
    except TextError:
        return False
    return True


def _mutated(text: str, numbers: random.Random, others: Sequence[str]) -> str:
    """Pieces doubled, dropped, moved, taken from others; sometimes a character changed."""
    pieces = text.splitlines(keepends=True) if numbers.random() < 0.5 else list(_tokens(text))
    foreign = list(_tokens(numbers.choice(others)))
    for _ in range(numbers.randint(1, 6)):
        at, kind = numbers.randrange(len(pieces) + 1), numbers.randrange(5)
        if kind == 0:
            del pieces[at : at + numbers.randint(1, 3)]
        elif kind == 1:
            pieces[at:at] = pieces[at : at + numbers.randint(1, 30)]
        elif kind == 2:
            pieces.insert(at, numbers.choice(foreign or [""]))
        elif kind == 3:
            pieces.insert(at, numbers.choice(string.printable))
        elif pieces:
            pieces.insert(at, pieces.pop(numbers.randrange(len(pieces))))
    return "".join(pieces)


def _tokens(text: str) -> list[str]:
    words, word = [], ""
    for char in text:
        if word and (char.isalnum() != word[-1].isalnum() or char in "{}%|<>\n"):
            words.append(word)
            word = ""
        word += char
    return [*words, word]


def _schema(bench: Bench, numbers: random.Random) -> bool:
    holder: list[Any] = [copy.deepcopy(SCHEMA)]
    for _ in range(numbers.randint(1, 4)):
        _change(holder, numbers)
    return _walked(bench, Constraint(kind="schema", text=json.dumps(holder[0])), numbers)


def _grammar(bench: Bench, numbers: random.Random) -> bool:
    kind, text = numbers.choice(GRAMMARS)
    made = Constraint(kind="regex" if kind == "regex" else "lark", text=_mutated(text, numbers, [GRAMMARS[0][1]]))
    return _walked(bench, made, numbers)


def _walked(bench: Bench, constraint: Constraint, numbers: random.Random) -> bool:
    try:
        matcher = bench.grammars.compile(prepared(constraint)).result()
    except RuntimeFailure:
        return False
    for _ in range(WALK):
        mask = matcher.mask()
        if mask is None:
            return False
        ids = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
        assert ids and max(ids) < bench.n_vocab, "a mask of no tokens, or of some that there are not"
        token = numbers.choice(ids)
        if token == bench.end:
            break
        matcher.advance(token)
        if matcher.complete:
            break
    return True


def _modelfile(bench: Bench, numbers: random.Random) -> bool:
    raw = mangle(MODELFILE, numbers)
    try:
        found = Modelfile.parse(raw)
        rendered = found.render()
    except ManifestsError:
        return False
    assert Modelfile.parse(rendered.encode()) == found, "rendered as another Modelfile"
    return True


def _answer(bench: Bench, numbers: random.Random) -> bool:
    sample, foreign = numbers.choice(SAMPLES), [one.text for one in SAMPLES]
    text = _mutated(sample.text, numbers, foreign)
    if numbers.random() < 0.2:
        text *= numbers.choice((2, 50))
    family = numbers.choice((sample.family, sample.family, numbers.choice(FAMILIES).name, "json", "<<call>>"))
    whole = _parts(family, sample.tags, sample.inside, [text])
    cut = sorted(numbers.randrange(len(text) + 1) for _ in range(3))
    pieces = [text[begin:end] for begin, end in zip([0, *cut], [*cut, len(text)], strict=True)]
    assert _parts(family, sample.tags, sample.inside, pieces) == whole, "other parts at another cut"
    if len(text) < 2000:
        assert _parts(family, sample.tags, sample.inside, list(text)) == whole, "other parts letter by letter"
    return any(kind == "Call" for kind, _ in whole)


def _parts(family: str, tags: Any, inside: bool, pieces: Sequence[str]) -> list[tuple[str, Any]]:
    """Kinds and what they say, neighbours of a kind as one."""
    reader: Any
    if family == "harmony":
        reader = HarmonyReader(Offered(TOOLS), "<|start|>assistant")
    else:
        known = {one.name: one for one in (*FAMILIES, GENERIC)}
        reader = AnswerReader(Offered(TOOLS), syntax=known.get(family) or of_tag(family), tags=tags, inside=inside)
    out: list[tuple[str, Any]] = []
    for part in [part for piece in pieces for part in reader.push(piece)] + reader.flush():
        kind, said = type(part).__name__, getattr(part, "text", None) or getattr(part, "call", None)
        if out and out[-1][0] == kind and isinstance(said, str):
            out[-1] = (kind, out[-1][1] + said)
        else:
            out.append((kind, said))
    return out
