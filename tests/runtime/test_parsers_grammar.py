"""The grammar of a call that must be made: what it allows, the parser reads as that call; it allows nothing else."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from runtime.engine.constraint import Constraint, prepared
from runtime.engine.grammar import Grammars, Matcher
from runtime.engine.vocabulary import Vocabulary
from runtime.errors import RequestRefused
from runtime.text.parsers import Call, Parser
from runtime.text.parsers.calls import Offered
from runtime.text.parsers.grammar import call_grammar
from runtime.text.parsers.harmony import HarmonyReader
from runtime.text.parsers.reader import AnswerReader
from runtime.text.parsers.syntax import FAMILIES, GENERIC, Syntax
from runtime.text.tokenizer import Tokenizer
from tests.peers.answers import tool
from tests.peers.vocabularies import byte_level

CONTROLS = (
    "[TOOL_CALLS]", "<｜tool▁sep｜>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|constrain|>", "<|call|>",
    "<|return|>",
)  # fmt: skip
TOOLS = [
    tool("set", n={"type": "integer", "minimum": 0, "maximum": 99}, on={"type": "boolean"}),
    tool("pick", which={"type": "string", "enum": ["a}", '"b"', "c"]}),
    tool("stop"),
]
TOOLS[0]["function"]["parameters"]["required"] = ["n"]
KNOWN = [one for one in (*FAMILIES, GENERIC) if one.written]


def _tokenizer() -> Tokenizer:
    table = byte_level()
    table["tokenizer.ggml.tokens"] = [*table["tokenizer.ggml.tokens"], *CONTROLS]
    table["tokenizer.ggml.token_type"] = [*table["tokenizer.ggml.token_type"], *([3] * len(CONTROLS))]
    return Tokenizer.from_gguf(table)


TOKENIZER = _tokenizer()
IDS = range(TOKENIZER.vocab_size)
GRAMMARS = Grammars(
    Vocabulary.of(
        TOKENIZER.table(),
        special=frozenset(filter(TOKENIZER.is_control, IDS)),
        ends=TOKENIZER.eog,
    ),
    TOKENIZER.vocab_size,
    1,
)


def compiled(constraint: Constraint | None) -> Matcher:
    assert constraint is not None
    return GRAMMARS.compile(constraint).result()


def grammar(syntax: Syntax, tools: list[dict[str, Any]] = TOOLS, only: str | None = None) -> Constraint | None:
    return call_grammar(syntax, Offered(tools), only=only, pieces=TOKENIZER.pieces)


def allowed(matcher: Matcher) -> list[int]:
    mask = matcher.mask()
    assert mask is not None
    return [index for index in IDS if mask[index >> 5] >> (index & 31) & 1]


def accepts(constraint: Constraint | None, text: str) -> bool:
    matcher = compiled(constraint)
    for index in TOKENIZER.encode(text, special=True, bos=False):
        if index not in allowed(matcher):
            return False
        matcher.advance(index)
    return matcher.complete or bool(TOKENIZER.eog & set(allowed(matcher)))


def reader(syntax: Syntax) -> Parser:
    offered = Offered(TOOLS)
    return (
        HarmonyReader(offered, "<|start|>assistant")
        if syntax.channels
        else AnswerReader(offered, syntax=syntax, tags=None)
    )


@pytest.mark.parametrize("syntax", KNOWN, ids=lambda one: one.name)
def test_every_walk_through_the_grammar_is_read_as_one_call(syntax: Syntax) -> None:
    constraint = grammar(syntax)
    seen = set()
    for seed in range(12):
        chance = random.Random(seed)
        matcher, ids = compiled(constraint), list[int]()
        while not matcher.complete and len(ids) < 400:
            fits = allowed(matcher)
            if TOKENIZER.eog & set(fits):
                break
            # gpt-oss may think before; here at most a little
            ends = [one for one in fits if TOKENIZER.token_text(one) == "<|end|>"]
            ids.append(ends[0] if ends and len(ids) > 30 else chance.choice(fits))
            matcher.advance(ids[-1])
        text = TOKENIZER.decode(ids, special=True)
        parser = reader(syntax)
        calls = [part.call for part in (*parser.push(text), *parser.flush()) if isinstance(part, Call)]
        assert len(calls) == 1, text
        seen.add(calls[0].name)
        assert set(calls[0].arguments) <= {"set": {"n", "on"}, "pick": {"which"}, "stop": set()}[calls[0].name], text
        if calls[0].name == "set":
            assert 0 <= calls[0].arguments["n"] <= 99
    assert len(seen) > 1


def test_the_form_is_the_familys_own() -> None:
    by_name = {one.name: one for one in KNOWN}
    arguments = json.dumps({"n": 1})
    call = f'{{"name": "set", "arguments": {arguments}}}'
    texts = {
        "hermes": f"<tool_call>\n{call}\n</tool_call>",
        "llama": f'{{"name": "set", "parameters": {arguments}}}',
        "mistral": f"[TOOL_CALLS][{call}]",
        "xml": "<tool_call>\n<function=set>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>",
        "harmony": f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.set "
        f"<|constrain|>json<|message|>{arguments}",
    }
    for name, text in texts.items():
        assert accepts(grammar(by_name[name]), text), name
        assert not accepts(grammar(by_name[name]), text.replace("set", "sat")), name
        assert not accepts(grammar(by_name[name]), text.replace("1", "100")), name
        assert not accepts(grammar(by_name[name], only="stop"), text), name
        assert not accepts(grammar(by_name[name]), "No. " + text), name


def test_what_no_grammar_keeps_is_refused_with_its_tool() -> None:
    bad = [*TOOLS, tool("odd", x={"not": {"type": "string"}})]
    with pytest.raises(RequestRefused, match=r"tool 'odd': .*not"):
        grammar(KNOWN[0], bad)
    assert grammar(KNOWN[0], only="nothing") is None
    assert grammar(Syntax(name="unknown", opens=("<x>",))) is None


@pytest.mark.parametrize(("opening", "closing"), [("<think>", "</think>"), ("<|start|>x", "<|end|>"), ("", "</think>")])
def test_what_may_come_before_an_answer_of_a_form(opening: str, closing: str) -> None:
    """With an opening the thinking may be left out, without one the prompt has begun it."""
    for form in (Constraint(kind="json"), Constraint(kind="regex", text=r"\{\}"), grammar(KNOWN[-1])):
        assert form is not None
        bounded = replace(form, after=closing, opening=opening)
        answer = {"json": "{}", "regex": "{}", "lark": '{"name": "stop", "arguments": {}}'}[form.kind]
        assert accepts(bounded, f"{opening}hm, {{}} {closing}{answer}")
        assert accepts(bounded, answer) == bool(opening)
        assert not accepts(bounded, f"{opening}hm, {{}}")
        assert not accepts(bounded, f"x{answer}") or not opening


def _large(number: int) -> dict[str, Any]:
    """A tool with ten parameters as clients have them: long descriptions, choices, lists of objects."""
    point = {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    }
    shapes: list[dict[str, Any]] = [
        {"type": "string", "enum": [f"choice {n}" for n in range(10)]},
        {"type": "array", "items": point},
        {"type": "integer", "format": "int64", "minimum": 0},
    ]
    return tool(
        f"tool_{number}", **{f"p{n}": {**shapes[n % 3], "description": "What it is for. " * 20} for n in range(10)}
    )


@pytest.mark.parametrize(
    "syntax", [one for one in KNOWN if one.name in ("hermes", "xml", "harmony")], ids=lambda one: one.name
)
def test_a_call_of_one_of_thirty_large_tools_can_be_asked_for(syntax: Syntax) -> None:
    one = grammar(syntax, [_large(number) for number in range(30)])
    assert one is not None and len(one.text) > 32 << 10
    mask = compiled(prepared(one)).mask()
    assert mask is not None and any(mask)


def test_the_limits_of_schemas_hold_for_all_tools_together() -> None:
    patterned = [tool(f"t{n}", a={"type": "string", "pattern": "a" * 2000}) for n in range(9)]
    with pytest.raises(RequestRefused, match="patterns have 18000 characters"):
        grammar(GENERIC, patterned)
    with pytest.raises(RequestRefused, match="at most 524288"):
        prepared(Constraint(kind="lark", text="//" + "a" * (512 << 10), calls=True))
