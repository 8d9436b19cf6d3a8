"""Constrained answers through scheduler, worker and engine: always in their language, always the same bits, one end.

The models are small and random, so that nothing but the masks makes an answer valid; the real one where it is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from runtime.engine import guidance
from runtime.engine.constraint import Constraint
from runtime.engine.grammar import Grammars, Matcher
from runtime.engine.sampling import Sampling
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import RequestRefused
from runtime.events import Finish, TextDelta
from runtime.loaded import GenerateRequest, LoadedModel, load_model, read_text_side
from runtime.source import ModelSource
from tests.peers.house import N_CTX, Ask, Bits, House, alone, asks
from tests.peers.model_maker import make_model

WAIT = 60.0
REAL = Path(os.environ.get("SEALIFT_TEST_MODEL") or "/nonexistent")
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["plumber", "poet", None]},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4},
        "when": {"type": "string", "format": "date"},
    },
    "required": ["name", "scores"],
}
CONSTRAINTS = [
    Constraint(kind="schema", text=json.dumps(SCHEMA)),
    Constraint(kind="regex", text=r"[a-f]{3,9}(-[0-9]{2}){1,5}"),
    Constraint(kind="lark", text='start: sum\nsum: N ("+" N){0,3}\nN: /[1-9][0-9]{0,3}/'),
    Constraint(kind="schema", text='{"type":"array","items":{"type":"boolean"},"minItems":9,"maxItems":12}'),
]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m.gguf", request.param, quant="Q8_0")


def wanted(seed: int, number: int = 10) -> list[Ask]:
    """Two of three are constrained; temperatures 0, 1 and 1.5, penalties, and a bias towards what is not allowed."""
    found = []
    for id, ask in enumerate(asks(seed, number)):
        constraint = None if id % 3 == 2 else CONSTRAINTS[id % len(CONSTRAINTS)]
        bias = {5: 50.0, 200: -50.0} if id % 4 == 1 else {}
        sampling = replace(ask.sampling, temperature=(0.0, 1.0, 1.5)[id % 3], logit_bias=bias)
        found.append(replace(ask, constraint=constraint, sampling=sampling, count=min(ask.count + 40, 90)))
    return found


def text_of(path: Path, bits: Bits) -> str:
    tokenizer, _ = read_text_side(path)
    return b"".join(tokenizer.piece(token) for token, _ in bits if token not in tokenizer.eog).decode()


def belongs(constraint: Constraint, text: str) -> bool:
    if constraint.kind == "schema":
        jsonschema.validate(json.loads(text), json.loads(constraint.text))
        return True
    pattern = constraint.text if constraint.kind == "regex" else r"[1-9][0-9]{0,3}(\+[1-9][0-9]{0,3}){0,3}"
    return re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize(
    ("max_seqs", "max_rows", "parallel", "threads"), [(8, 24, 2, 1), (8, 512, 1, 2), (1, 512, 2, 1)]
)
def test_same_bits_alone_and_with_others(
    model: Path, max_seqs: int, max_rows: int, parallel: int, threads: int
) -> None:
    """Constrained and free requests that come at random steps, in chunks, with a warm prefix cache, preempted."""
    requests = wanted(max_rows)
    house = House(model, max_seqs=max_seqs, max_rows=max_rows, parallel=parallel, threads=threads)
    found = house.come(requests, threads)
    assert found == alone(model, requests)
    if (max_seqs, parallel) == (8, 1):
        assert house.loop.scheduler.preemptions > 0, "the pool was meant to be too small"
    ended = [id for id, ask in enumerate(requests) if ask.constraint and house.ended[id] == "stop"]
    assert ended, "no constrained answer came to its end"
    for id in ended:
        constraint = requests[id].constraint
        assert constraint is not None and belongs(constraint, text_of(model, found[id]))
    assert {house.ended[id] for id in range(len(requests))} <= {"stop", "length"}
    grammars = house.loop._grammars
    assert grammars is not None and not grammars._holding, "a grammar is held for nobody"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_whatever_the_options_an_answer_that_ends_belongs_to_its_language(model: Path, temperature: float) -> None:
    options = [
        Sampling(temperature=temperature, top_k=0, top_p=1.0),
        Sampling(temperature=temperature, top_p=0.5, min_p=0.1),
        Sampling(temperature=temperature, typical_p=0.5),
        Sampling(
            temperature=temperature, repeat_penalty=2.0, presence_penalty=5.0, frequency_penalty=5.0, repeat_last_n=-1
        ),
        Sampling(temperature=temperature, logit_bias={token: 100.0 for token in range(90, 256)}, top_logprobs=3),
    ]
    requests = [
        Ask(prompt=[1, 2, seed], count=150, sampling=replace(option, seed=seed), constraint=constraint)
        for option in options
        for seed, constraint in enumerate(CONSTRAINTS)
    ]
    house = House(model, parallel=8)
    found = house.come(requests, 1)
    ended = 0
    for id, ask in enumerate(requests):
        assert house.ended[id] in ("stop", "length")
        if house.ended[id] == "stop" and ask.constraint is not None:
            ended += 1
            assert belongs(ask.constraint, text_of(model, found[id]))
    assert ended > len(requests) // 2


def test_the_end_needs_no_token_of_its_own(model: Path) -> None:
    """Where nothing may follow, the answer has ended: also when no further token would be allowed."""
    tokens = len("maybe")
    for count, reason in ((tokens, "stop"), (tokens - 1, "length"), (tokens + 9, "stop")):
        ask = Ask(prompt=[1], count=count, sampling=Sampling(seed=0), constraint=Constraint(kind="regex", text="maybe"))
        house = House(model)
        (bits,) = house.come([ask], 0)
        assert (house.ended[0], len(text_of(model, bits))) == (reason, min(count, tokens))


def test_a_constraint_that_is_refused_ends_at_once_and_others_go_on(model: Path) -> None:
    good = Ask(prompt=[1], count=9, sampling=Sampling(seed=0), constraint=CONSTRAINTS[1])
    bad = replace(good, constraint=Constraint(kind="regex", text="(a"))
    house = House(model)
    found = house.come([bad, good, bad], 0)
    assert [bool(bits) for bits in found] == [False, True, False]
    assert "the regular expression cannot be kept" in house.ended[0] and "unclosed group" in house.ended[2]


def test_one_whose_next_mask_cannot_be_told_ends_in_an_error_and_others_go_on(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a limit of llguidance is met in the middle of an answer; which one is, depends on the vocabulary."""
    made: list[Matcher] = []
    fill = Matcher._fill

    def limited(matcher: Matcher) -> bool:
        made.append(matcher)
        return (fill(matcher) and made.count(made[0]) < 4) or matcher is not made[0]

    good = Ask(prompt=[1], count=60, sampling=Sampling(seed=0), constraint=CONSTRAINTS[1])
    expected = alone(model, [good])
    monkeypatch.setattr(Matcher, "_fill", limited)
    house = House(model)
    found = house.come([good, good], 0)
    assert house.ended == {0: "stuck", 1: "stop"}
    assert found == [expected[0][:3], expected[0]]


def test_more_than_there_are_places_for_wait_for_their_grammar(model: Path) -> None:
    """And one that is cancelled, wherever it waits, leaves no trace."""
    ask = Ask(prompt=[1, 2], count=30, sampling=Sampling(seed=0), constraint=CONSTRAINTS[0])
    house = House(model, max_seqs=2)
    for id in range(12):
        house.add(id, ask)
    for id in (0, 5, 11):
        house.inbox.put((0, {"op": "cancel", "id": id}))
        house.open.remove(id)
    house.drain()
    assert len({tuple(house.out[id]) for id in range(12) if id not in (0, 5, 11)}) == 1
    assert house.loop._grammars is not None
    assert not house.loop._grammars._holding and not house.loop._grammars.waiting


def test_others_steps_go_on_while_a_vocabulary_is_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance makes a tree of it, for a large one in half a second: by its Python classes that was one long step of
    everybody. Counted are steps, while it does so in another thread; no thread has to give the interpreter's lock away
    in that time, so that none is counted unless the lock is let go."""
    within, done = threading.Event(), threading.Event()
    read = guidance.Tokens.__init__

    def told_of(*arguments: Any) -> None:
        within.set()
        read(*arguments)
        done.set()

    monkeypatch.setattr(guidance.Tokens, "__init__", told_of)
    words = [*(bytes([byte]) for byte in range(256)), *(index.to_bytes(3, "big") for index in range(150_000))]
    end = frozenset({len(words) - 1})
    grammars = Grammars(Vocabulary.of(words, special=end, ends=end), len(words), 1)
    house = House(model)
    house.add(0, Ask(prompt=[1], count=N_CTX - 2, sampling=Sampling(seed=0)))
    house.turn()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(WAIT)
    try:
        compiled = grammars.compile(Constraint(kind="json"))
        assert within.wait(WAIT)
        began = len(house.out[0])
        while house.open and not done.is_set():
            house.turn()
    finally:
        sys.setswitchinterval(usual)
    assert len(house.out[0]) - began > 10, "the lock was held"
    assert compiled.result(WAIT).mask() is not None
    house.drain()


# -- the real process


async def told(model: LoadedModel, **fields: Any) -> tuple[str, Finish]:
    text, finish = "", None
    async with aclosing(model.generate(GenerateRequest(**fields))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            else:
                assert isinstance(event, Finish)
                finish = event
    assert finish is not None
    return text, finish


def source(path: Path) -> ModelSource:
    return ModelSource(name="m", digest="d", weights="w", path=path, size=1, n_ctx=512)


def test_the_confined_process_keeps_constraints_and_refuses_by_name(model: Path) -> None:
    async def run() -> None:
        loaded = await load_model(source(model))
        try:
            asked = [told(loaded, prompt=(1, 2), max_tokens=99, constraint=one) for one in CONSTRAINTS]
            for (text, finish), constraint in zip(await asyncio.gather(*asked), CONSTRAINTS, strict=True):
                assert finish.reason == "length" or belongs(constraint, text)
            for constraint, said in (
                (Constraint(kind="schema", text='{"not":{}}'), 'schema: the keyword "not"'),
                (Constraint(kind="schema", text='{"enum":[]}'), "Unsatisfiable"),
                (Constraint(kind="lark", text="start: x"), "unknown name"),
            ):
                text, finish = await told(loaded, prompt=(1,), constraint=constraint)
                assert (
                    finish.reason == "error" and isinstance(finish.error, RequestRefused) and said in str(finish.error)
                )
                assert not text
            with pytest.raises(RequestRefused, match="ignore_eos"):
                loaded.generate(GenerateRequest(prompt=(1,), ignore_eos=True, constraint=CONSTRAINTS[0]))
            events = loaded.generate(GenerateRequest(prompt=(1,), constraint=CONSTRAINTS[0]))
            await events.aclose()  # before it has begun
            text, finish = await told(loaded, prompt=(1,), max_tokens=3)
            assert finish.reason in ("length", "stop")
        finally:
            await loaded.close()

    asyncio.run(asyncio.wait_for(run(), WAIT))


@needs_real
def test_the_real_model_answers_in_json() -> None:
    async def run() -> None:
        loaded = await load_model(source(REAL))
        try:
            text = "<|im_start|>user\nDescribe Ada, 36, who writes programs.<|im_end|>\n<|im_start|>assistant\n"
            prompt = tuple(loaded.tokenizer.encode(text, special=True))
            person = {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "job": {"type": "string"}},
                "required": ["name", "age", "job"],
            }
            one = Constraint(kind="schema", text=json.dumps(person))
            free = replace(one, after="</think>")
            asked = [
                told(loaded, prompt=prompt, max_tokens=200, sampling=Sampling(seed=seed, temperature=t), constraint=one)
                for seed, t in enumerate((0.0, 0.7, 1.0, 1.5))
            ]
            answers = [text for text, finish in await asyncio.gather(*asked) if finish.reason == "stop"]
            assert len(answers) >= 2
            for answer in answers:
                jsonschema.validate(json.loads(answer), person)
            pushed = Sampling(temperature=0.0, logit_bias={loaded.tokenizer.encode("</", special=False)[0]: 40.0})
            text, finish = await told(loaded, prompt=prompt, max_tokens=150, sampling=pushed, constraint=free)
            _, border, answer = text.partition("</think>")
            assert finish.reason == "length" or (border and json.loads(answer))
        finally:
            await loaded.close()

    asyncio.run(asyncio.wait_for(run(), WAIT))
