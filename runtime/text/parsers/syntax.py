"""How the families of models write thinking and tool calls: data, and which of it a template speaks.

A family is recognised by texts of its template (`marks`), in either template language: the first in the list whose
marks are all there. Or by the name that Ollama's config gives its parser.
"""

from __future__ import annotations

import re

from native.record import record, replace
from runtime.text.parsers import blocks

Tags = tuple[str, str]

THINK: Tags = ("<think>", "</think>")
THINKING: tuple[Tags, ...] = (
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<seed:think>", "</seed:think>"),
    THINK,
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("Here is my thought process:", "Here is my response:"),
)

_SEP = "<｜tool▁sep｜>"
_LIST = r"[\s,;\[]*"  # what may stand before an object, where the name is in it


@record(frozen=True, slots=True, kw_only=True)
class Syntax:
    """opens: texts that begin a call. leads: texts that begin one only where nothing but blanks came before. closes:
    what may end it. around: texts about calls that say nothing. frames: texts about the answer's own text, never a part
    of it, with tools or without. inner: further texts that the reader must see. head: what stands between the opening
    and the `{` of a JSON object, with the group `name` where the name stands there. block: reads the whole text from
    opening to closing instead. loose: Ollama's rule, a known name anywhere."""

    name: str
    marks: tuple[tuple[str, ...], ...] = ()  # all texts of one of them: the template speaks it
    opens: tuple[str, ...] = ()
    leads: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    head: str = _LIST
    block: blocks.Block | None = None
    loose: bool = False
    channels: bool = False  # gpt-oss, Glimmer: the whole answer is framed, not only calls
    written: str = ""  # one call as the model writes it, with {name} and {arguments}; "" when no grammar is made of it

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.opens, *self.leads, *self.closes, *self.around, *self.inner)


Speech = tuple[Syntax | None, Tags | None]  # how the answers of a template's models are written: calls, and thinking

_BARE = ("{", "[", "```json", "```tool_call", "```")

HARMONY = Syntax(
    name="harmony",
    marks=(("<|channel|>", "<|message|>"),),
    inner=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"),
    channels=True,
    written="<|channel|>commentary to=functions.{bare} <|constrain|>json<|message|>{arguments}",
)
GLIMMER = Syntax(
    name="glimmer",
    marks=(("<atem:function_calls>", "<|message|>"),),
    inner=("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"),
    channels=True,
)
GENERIC = Syntax(
    name="json",
    opens=("<tool_call>",),
    leads=_BARE,
    closes=("</tool_call>", "```"),
    written='{{"name": {name}, "arguments": {arguments}}}',
)
HERMES = Syntax(
    name="hermes",
    marks=(("<tool_call>",),),
    opens=("<tool_call>",),
    closes=("</tool_call>",),
    head=r"\s*(?:```(?:json)?)?" + _LIST,
    written='<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>',
)
FAMILIES: tuple[Syntax, ...] = (
    HARMONY,
    GLIMMER,
    Syntax(
        name="deepseek",
        marks=(("<｜tool▁call▁begin｜>",), ("<｜tool▁calls▁begin｜>",)),
        opens=("<｜tool▁call▁begin｜>",),
        closes=("<｜tool▁call▁end｜>",),
        around=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        inner=(_SEP,),
        head=rf"\s*(?:function{_SEP})?\s*(?P<name>[\w.\-]+)\s*(?:{_SEP})?\s*(?:```json)?\s*",
        written="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{bare}"
        + _SEP
        + "{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    Syntax(
        name="kimi",
        marks=(("<|tool_call_begin|>",),),
        opens=("<|tool_call_begin|>",),
        closes=("<|tool_call_end|>",),
        around=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        inner=("<|tool_call_argument_begin|>",),
        head=r"\s*(?P<id>(?:functions\.)?(?P<name>[\w.\-]+?)(?::\d+)?)\s*<\|tool_call_argument_begin\|>\s*",
        written="<|tool_calls_section_begin|><|tool_call_begin|>functions.{bare}:0<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    Syntax(
        name="mistral",
        marks=(("[TOOL_CALLS]",),),
        opens=("[TOOL_CALLS]",),
        inner=("[ARGS]", "[CALL_ID]"),
        head=r"[\s\[]*(?:(?P<name>[\w.\-]+)\s*(?:\[CALL_ID\]\s*(?P<id>\w+)\s*)?(?:\[ARGS\])?\s*)?",
        written='[TOOL_CALLS][{{"name": {name}, "arguments": {arguments}}}]',
    ),
    Syntax(
        name="gemma-function",
        marks=(("<start_function_call>",),),
        opens=("<start_function_call>",),
        closes=("<end_function_call>",),
        inner=("<escape>",),
        block=blocks.brace_call,
    ),
    Syntax(
        name="gemma-4",
        marks=(("<|tool_call>", "<tool_call|>"),),
        opens=("<|tool_call>",),
        closes=("<tool_call|>",),
        inner=('<|"|>',),
        block=blocks.brace_call,
    ),
    Syntax(
        name="lfm2",
        marks=(("<|tool_call_start|>",), ("<|tool_list_start|>",)),
        opens=("<|tool_call_start|>",),
        closes=("<|tool_call_end|>",),
        block=blocks.python_calls,
    ),
    Syntax(
        name="xml",
        marks=(("<function=", "<parameter="),),
        opens=("<function=",),
        closes=("</function>", "</tool_call>"),
        around=("<tool_call>", "</tool_call>"),
        inner=("<parameter=", "</parameter>"),
        block=blocks.xml_parameters,
        written="<tool_call>\n<function={bare}>\n{arguments}</function>\n</tool_call>",
    ),
    Syntax(
        name="glm",
        marks=(("<arg_key>", "<arg_value>"),),
        opens=("<tool_call>",),
        closes=("</tool_call>",),
        inner=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        block=blocks.xml_pairs,
    ),
    Syntax(
        name="command-r7b",
        marks=(("<|START_ACTION|>",),),
        opens=("<|START_ACTION|>",),
        closes=("<|END_ACTION|>",),
        frames=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        written='<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": {name}, "parameters": {arguments}}}]'
        "<|END_ACTION|>",
    ),
    Syntax(
        name="command-r",
        marks=(("Action:", "```json"),),
        opens=("Action:",),
        closes=("```",),
        head=r"\s*(?:```json)?" + _LIST,
        written='Action: ```json\n[{{"tool_name": {name}, "parameters": {arguments}}}]\n```',
    ),
    Syntax(
        name="olmo",
        marks=(("<function_calls>",),),
        opens=("<function_calls>",),
        closes=("</function_calls>",),
        block=blocks.python_calls,
    ),
    Syntax(
        name="nemotron",
        marks=(("<TOOLCALL>",),),
        opens=("<TOOLCALL>",),
        closes=("</TOOLCALL>",),
        written='<TOOLCALL>[{{"name": {name}, "arguments": {arguments}}}]</TOOLCALL>',
    ),
    Syntax(
        name="apertus",
        marks=(("<|tools_prefix|>",),),
        opens=("<|tools_prefix|>",),
        closes=("<|tools_suffix|>",),
        written="<|tools_prefix|>[{{{name}: {arguments}}}]<|tools_suffix|>",
    ),
    Syntax(
        name="piped",  # Granite, Phi-4-mini
        marks=(("<|tool_call|>",),),
        opens=("<|tool_call|>", "<tool_call>"),
        closes=("<|/tool_call|>", "</tool_call>"),
        written='<|tool_call|>[{{"name": {name}, "arguments": {arguments}}}]',
    ),
    Syntax(
        name="functools",
        marks=(("functools[",),),
        opens=("functools[",),
        written='functools[{{"name": {name}, "arguments": {arguments}}}]',
    ),
    HERMES,
    Syntax(
        name="llama",
        marks=(("<|python_tag|>",), ("<|start_header_id|>", '"parameters"')),
        opens=("<|python_tag|>", "<function="),
        leads=_BARE,
        closes=("</function>", "```"),
        head=r"(?:(?P<name>[\w.\-]+)>)?" + _LIST,
        written='{{"name": {name}, "parameters": {arguments}}}',
    ),
)
_BY_NAME = {one.name: one for one in FAMILIES}

# Ollama's names of parsers (config `parser`): family ("" for none), and tags where the model thinks.
NAMED: dict[str, tuple[str, Tags | None]] = {
    "qwen3": ("hermes", THINK),
    "qwen3-thinking": ("hermes", THINK),
    "qwen3-vl-instruct": ("hermes", None),
    "qwen3-vl-thinking": ("hermes", THINK),
    "qwen3-coder": ("xml", None),
    "qwen3.5": ("xml", THINK),
    "ornith": ("xml", THINK),
    "nemotron-3-nano": ("xml", THINK),
    "nemotron-3.5-nano": ("xml", THINK),
    "ministral": ("mistral", ("[THINK]", "[/THINK]")),
    "harmony": ("harmony", None),
    "glimmer": ("glimmer", None),
    "cogito": ("deepseek", THINK),
    "deepseek3": ("deepseek", THINK),
    "functiongemma": ("gemma-function", None),
    "gemma4": ("gemma-4", ("<|channel>thought", "<channel|>")),
    "gemma4-no-thinking": ("gemma-4", None),
    "glm-4.7": ("glm", THINK),
    "glm-ocr": ("glm", THINK),
    "lfm2": ("lfm2", None),
    "lfm2-thinking": ("lfm2", THINK),
    "laguna": ("glm", THINK),
    "poolside-v1": ("glm", THINK),
    "olmo3": ("olmo", None),
    "olmo3-think": ("olmo", THINK),
    "passthrough": ("", None),
    "cohere": ("command-r7b", ("<|START_THINKING|>", "<|END_THINKING|>")),
}


def named(parser: str) -> Speech | None:
    """What a config's parser stands for; None for a name we do not know, as Ollama does: then the template decides."""
    known = NAMED.get(parser)
    return None if known is None else (_BY_NAME.get(known[0]), known[1])


def family(source: str) -> Syntax | None:
    """The family whose texts a template shows."""
    return next((one for one in FAMILIES if any(all(text in source for text in mark) for mark in one.marks)), None)


def of_tag(tag: str) -> Syntax:
    """For a tag that no family has: Ollama's inference. tag: the text before a call, `{` or `[` when there is none."""
    if tag in ("{", "["):
        return replace(GENERIC, opens=(), closes=("```",))
    return Syntax(name="inferred", opens=(tag,), closes=_closing(tag), head=r"[^{]*", loose=True)


def _closing(tag: str) -> tuple[str, ...]:
    """`</x>` for `<x>`, `[/x]` for `[x]`."""
    match = re.fullmatch(r"([<\[])([\w:.\-]+)([>\]])", tag)
    return (f"{match[1]}/{match[2]}{match[3]}",) if match else ()


def thinking(source: str) -> Tags | None:
    """The tags a Jinja template shows, both of them or (as templates that only cut thinking off do) the closing one."""
    return next((tags for tags in THINKING if tags[1] in source), None)
