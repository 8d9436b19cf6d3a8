"""From messages to a prompt and from an answer to messages, by the templates of each family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.text.detokenize import StreamDecoder
from runtime.text.message import Message, ToolCall
from runtime.text.parsers import Call
from runtime.text.prompt import Renderer
from runtime.text.tokenizer import Tokenizer
from tests.peers.answers import PARIS
from tests.peers.templates import TALK, TEMPLATES, WEATHER, Template
from tests.peers.vocabularies import byte_level
from tests.runtime.test_parsers import read

IDS = [f"{language}: {one.name}" for language, one in TEMPLATES]
EACH = pytest.mark.parametrize(("language", "template"), TEMPLATES, ids=IDS)


def tokenizer(template: Template) -> Tokenizer:
    table = byte_level()
    more = [one for one in template.controls if one not in table["tokenizer.ggml.tokens"]]
    table["tokenizer.ggml.tokens"] = [*table["tokenizer.ggml.tokens"], *more]
    table["tokenizer.ggml.token_type"] = [*table["tokenizer.ggml.token_type"], *([3] * len(more))]
    return Tokenizer.from_gguf(table)


def renderer(language: str, template: Template) -> Renderer:
    go, jinja = (template.source, None) if language == "go" else (None, template.source)
    return Renderer.choose(tokenizer(template), template=go, jinja=jinja)


@EACH
def test_prompts(language: str, template: Template) -> None:
    prompt = renderer(language, template).chat(TALK, limit=9999, tools=[WEATHER], think=template.think)
    assert prompt.text == template.prompt
    assert template.call in prompt.text


@EACH
def test_what_is_inferred(language: str, template: Template) -> None:
    chosen = renderer(language, template)
    assert chosen.thinking_tags() == template.tags
    expected = {"tools", "tool_results"} | ({"thinking"} if template.tags or template.family == "harmony" else set())
    assert chosen.capabilities() == expected
    assert chosen.family == template.family


@EACH
def test_answers(language: str, template: Template) -> None:
    chosen = renderer(language, template)
    prompt = chosen.chat(TALK, limit=9999, tools=[WEATHER], think=template.think)
    after_thinking = "" if template.tags is None or not prompt.text.rstrip().endswith("<think>") else "</think>"
    for text, parts in (*template.answers, (after_thinking + template.call, [PARIS])):
        for pieces in ([text], text):
            parser = chosen.parser(tools=[WEATHER], think=template.think, prompt_text=prompt.text, begun=prompt.begun)
            assert read(parser, pieces) == parts


@EACH
def test_an_answer_that_is_put_into_the_conversation_again_is_the_same_text(language: str, template: Template) -> None:
    chosen = renderer(language, template)
    parser = chosen.parser(tools=[WEATHER], prompt_text="")
    calls = [part.call for part in (*parser.push(template.call), *parser.flush()) if isinstance(part, Call)]
    again = [*TALK[:2], Message(role="assistant", tool_calls=tuple(calls)), TALK[3]]
    assert chosen.render_chat(again, tools=[WEATHER], think=template.think) == template.prompt


@EACH
def test_control_tokens_of_a_call_reach_the_parser(language: str, template: Template) -> None:
    """As a server has it: ids, then only those control tokens by name that the parser asked for."""
    chosen = renderer(language, template)
    tokens = tokenizer(template)
    decoder = StreamDecoder(tokens, shown=chosen.shown(tools=[WEATHER]))
    parser = chosen.parser(tools=[WEATHER], prompt_text="<|start|>assistant")
    pieces = [decoder.push(one) for one in tokens.encode(template.call, special=True, bos=False)]
    assert read(parser, pieces) == [PARIS]


@EACH
def test_without_tools_a_call_is_text(language: str, template: Template) -> None:
    parser = renderer(language, template).parser(prompt_text="<|start|>assistant")
    texts = [part for part in (*parser.push(template.call), *parser.flush())]
    assert texts and not any(isinstance(part, Call) for part in texts)


@EACH
def test_nothing_in_a_call_or_a_tool_becomes_a_control_token(language: str, template: Template) -> None:
    chosen = renderer(language, template)
    tokens = tokenizer(template)
    evil = "".join(template.controls)
    call = ToolCall(name="get_weather", arguments={"city": evil, evil: [evil]}, id=evil)
    talk = [*TALK[:2], Message(role="assistant", tool_calls=(call,)), replace(TALK[3], content=evil, tool_call_id=evil)]
    bad = {"type": "function", "function": {**WEATHER["function"], "description": evil}}

    def controls(messages: list[Message], tool: dict[str, object]) -> list[str]:
        prompt = chosen.chat(messages, limit=99_999, tools=[tool], think=template.think)
        return [tokens.token_text(one) for one in prompt.ids if tokens.is_control(one)]

    assert controls(talk, bad) == controls(list(TALK), WEATHER)
