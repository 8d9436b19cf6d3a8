"""From messages to a prompt and from an answer to messages, by the templates of each family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runtime.text.detokenize import StreamDecoder
from runtime.text.gotemplate import GoTemplate
from runtime.text.message import Message, ToolCall, linked
from runtime.text.parsers import Call
from runtime.text.parsers.glimmer import GlimmerReader
from runtime.text.parsers.syntax import NAMED
from runtime.text.prompt import Prompt, Renderer
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


def test_what_frames_an_answer_is_no_part_of_it_without_tools_either() -> None:
    """Command R7B's vocabulary has these texts as words that are shown, not as control tokens."""
    [template] = [one for _, one in TEMPLATES if one.family == "command-r7b"]
    for text in ("<|START_RESPONSE|>Yes.<|END_RESPONSE|>", "<|START_THINKING|>Hm.<|END_THINKING|>Yes.<|END_RESPONSE|>"):
        parts = read(renderer("jinja", template).parser(), text)
        assert parts[-1] == ("say", "Yes.") and len(parts) == 1 + ("Hm" in text)


@EACH
def test_nothing_in_a_call_or_a_tool_becomes_a_control_token(language: str, template: Template) -> None:
    chosen = renderer(language, template)
    tokens = tokenizer(template)
    evil = "".join(template.controls)
    call = ToolCall(name="get_weather", arguments={"city": evil, evil: [evil]}, id=evil)
    talk = [*TALK[:2], Message(role="assistant", tool_calls=(call,)), replace(TALK[3], content=evil, tool_call_id=evil)]
    bad: dict[str, Any] = {"type": "function", "function": {**WEATHER["function"], "description": evil}}

    def controls(messages: list[Message], tool: dict[str, Any]) -> list[str]:
        prompt = chosen.chat(messages, limit=99_999, tools=[tool], think=template.think)
        return [tokens.token_text(one) for one in prompt.ids if tokens.is_control(one)]

    assert controls(talk, bad) == controls(list(TALK), WEATHER)


# where the answer begins

OPENING = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant\n<think>\n{# </think> #}"
ASKING = (
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
Q = Message(role="user", content="What is <think>?")


def jinja(source: str, parser_name: str = "") -> Renderer:
    return Renderer.choose(Tokenizer.from_gguf(byte_level()), template=None, jinja=source, parser_name=parser_name)


@pytest.mark.parametrize(
    ("source", "think", "begun", "text", "parts"),
    [
        (OPENING, None, None, "a</think>b", [("think", "a"), ("say", "b")]),
        (OPENING, True, Message(role="assistant", thinking="so"), " a</think>b", [("think", "a"), ("say", "b")]),
        (OPENING, True, Message(role="assistant", thinking="so", content="Well"), ", b", [("say", ", b")]),
        (OPENING, True, Message(role="assistant", content="Well"), ", b", [("say", ", b")]),
        (ASKING, True, None, "<think>a</think>b", [("think", "a"), ("say", "b")]),
        (ASKING, True, None, "<b>", [("say", "<b>")]),
        (ASKING, True, Message(role="assistant", thinking="so"), "a</think>b", [("think", "a"), ("say", "b")]),
        (ASKING, True, Message(role="assistant", content="Well"), " <think> b", [("say", " <think> b")]),
        (ASKING, True, Message(role="assistant", content="<think>so"), " a</think>b", [("think", "a"), ("say", "b")]),
        (ASKING, False, None, "b", [("say", "b")]),
        (ASKING, False, None, "<think>a</think>b", [("think", "a"), ("say", "b")]),
    ],
)
def test_where_thinking_begins_and_ends(
    source: str, think: bool | None, begun: Message | None, text: str, parts: list[tuple[str, str]]
) -> None:
    chosen = jinja(source)
    prompt = chosen.chat([Q, *([begun] if begun else [])], limit=999, think=think)
    assert prompt.begun == (begun is not None)
    parser = chosen.parser(think=think, prompt_text=prompt.text, begun=prompt.begun)
    assert read(parser, [text]) == parts
    opens, closes = chosen.before_answer(prompt, think=think)
    assert (opens, closes) in (("", ""), ("", "</think>"), ("<think>", "</think>"))
    if "</think>" in text and think is not False:
        assert closes and text.startswith(opens)
    if prompt.text.endswith("Well"):
        assert closes == ""


def test_answers_that_must_have_a_form_have_it_behind_the_thinking() -> None:
    chosen, both = jinja(ASKING), ("<think>", "</think>")
    asked = [(think, chosen.chat([Q], limit=999, think=think)) for think in (True, False, None)]
    assert [chosen.before_answer(prompt, think=think) for think, prompt in asked] == [both, ("", ""), ("", "")]
    opening = jinja(OPENING)
    assert opening.before_answer(opening.chat([Q], limit=999), think=None) == ("", "</think>")
    assert jinja("{{ messages }}").before_answer(Prompt(text="", ids=()), think=True) == ("", "")


OLLAMAS = {  # names that a config may give its parser (contract, 6.7)
    "qwen3", "qwen3-thinking", "qwen3.5", "ornith", "qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking",
    "ministral", "passthrough", "harmony", "cogito", "deepseek3", "olmo3", "olmo3-think", "nemotron-3-nano",
    "nemotron-3.5-nano", "functiongemma", "glm-4.7", "gemma4", "gemma4-no-thinking", "glm-ocr", "lfm2", "lfm2-thinking",
    "laguna", "poolside-v1", "cohere", "glimmer",
}  # fmt: skip


def test_a_parsers_name_counts_before_the_template() -> None:
    source = "{{ messages[0].content }}"
    assert jinja(source).family == "" and jinja(source, "no such parser").family == ""
    named = jinja(source, "qwen3-coder")
    assert (named.family, named.thinking_tags()) == ("xml", None)
    assert named.capabilities() == set()  # the template has no place for tools
    assert jinja(source, "qwen3-thinking").capabilities() == {"thinking"}
    assert jinja("{{ tools }}", "harmony").capabilities() == {"tools", "thinking"}
    assert jinja("{{ tools }}<tool_call>", "passthrough").family == ""
    glimmer = jinja("{{ tools }}{{ messages }}", "glimmer")
    assert glimmer.capabilities() == {"tools", "thinking"}
    assert isinstance(glimmer.parser(tools=[WEATHER]), GlimmerReader)
    assert jinja("{{ tools }}<|message|><atem:function_calls>").family == "glimmer"
    assert NAMED.keys() == OLLAMAS
    for name, (family, tags) in NAMED.items():
        assert (jinja(source, name).family, jinja(source, name).thinking_tags()) == (family, tags)


def test_go_without_a_place_for_calls() -> None:
    tokens = Tokenizer.from_gguf(byte_level())
    tools = "{{ .Tools }}{{ range .Messages }}{{ .Content }}{{ end }}"
    assert Renderer.choose(tokens, template=tools, jinja=None).family == "json"
    assert Renderer.choose(tokens, template="{{ .Messages }}", jinja=None).family == ""


@pytest.mark.parametrize(
    ("block", "tag"),
    [
        ("{{ if .ToolCalls }}<x> {{ range .ToolCalls }}{ {{ end }}{{ end }}", "<x>"),
        ("{{ if .ToolCalls }} {{ range .ToolCalls }}\n<x>{{ .Function.Name }}{{ end }}{{ end }}", "<x>"),
        ("{{ if .ToolCalls }}{{ range .ToolCalls }}{{ .Function.Name }}<x>{{ end }}{{ end }}", "{"),
        ("{{ if .ToolCalls }}{{ range .ToolCalls }}{ {{ end }}]{{ end }}", "{"),
        ("{{ if .ToolCalls }}[CALL] [{{ range .ToolCalls }}{ {{ end }}]{{ end }}", "[CALL] ["),
        ("{{ if .Content }}y{{ else if .ToolCalls }}<x>{ {{ end }}", "<x>"),
        ("{{ range .ToolCalls }}<x>{{ .Function.Name }}{{ end }}", "<x>"),
        ("{{ .Content }}", None),
    ],
)
def test_the_tag_before_a_call(block: str, tag: str | None) -> None:
    assert GoTemplate("{{ range .Messages }}" + block + "{{ end }}").tool_tag() == tag


# calls and their answers find each other


def test_answers_of_tools_are_linked_to_their_calls() -> None:
    def calls(*pairs: tuple[str, str]) -> Message:
        return Message(role="assistant", tool_calls=tuple(ToolCall(name=name, id=id) for name, id in pairs))

    def answer(name: str = "", id: str = "") -> Message:
        return Message(role="tool", tool_name=name, tool_call_id=id)

    talk = [calls(("f", ""), ("g", "x"), ("f", "")), answer("g"), answer(), answer(), answer("h"), answer(id="y")]
    talk += [calls(("f", "z")), answer(id="z"), answer()]
    linked_ = linked(talk)
    assert [one.id for one in linked_[0].tool_calls] == ["call00000", "x", "call00001"]
    assert [(one.tool_name, one.tool_call_id) for one in linked_ if one.role == "tool"] == [
        ("g", "x"), ("f", "call00000"), ("f", "call00001"), ("h", ""), ("", "y"), ("f", "z"), ("", ""),
    ]  # fmt: skip
    assert linked(linked_) == linked_


def test_only_a_template_that_leaves_the_answer_open_begins_it() -> None:
    tokens = Tokenizer.from_gguf(byte_level())
    thought = "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    closing = "{{ range .Messages }}" + thought + "{{ .Content }}<|im_end|>{{ end }}<|im_start|>assistant\n"
    chosen = Renderer.choose(tokens, template=closing, jinja=None)
    prompt = chosen.chat([Q, Message(role="assistant", content="Well <think>")], limit=999)
    assert not prompt.begun
    parser = chosen.parser(prompt_text=prompt.text, begun=prompt.begun)
    assert read(parser, ["<think>a</think>b"]) == [("think", "a"), ("say", "b")]
    plain = Renderer.choose(
        tokens, template="{{ range .Messages }}" + thought + "{{ .Content }}\n{{ end }}A:", jinja=None
    )
    parser = plain.parser(prompt_text=plain.chat([Q], limit=999).text)
    assert read(parser, ["b"]) == [("say", "b")]  # though the question names the tag
