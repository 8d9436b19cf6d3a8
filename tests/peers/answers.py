"""Answers as models of each family write them, written by us from the facts of the formats, and their parts.

A part is ("say", text), ("think", text) or ("call", name, arguments). `family`: a name of runtime.text.parsers.syntax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Part = tuple[Any, ...]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": f"about {name}", "parameters": schema}}


STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
TOOLS = [
    tool("get_weather", city=STRING, days=INTEGER, exact=BOOLEAN, at={"type": ["number", "null"]}),
    tool("get_weather_map", city=STRING),
    tool("run-code", code=STRING, env={"type": "object"}, args={"type": "array", "items": STRING}),
    tool("now"),
]


@dataclass(frozen=True, kw_only=True)
class Sample:
    family: str
    about: str
    text: str
    parts: list[Part]
    tags: tuple[str, str] | None = None
    inside: bool = False


THINK = ("<think>", "</think>")


def say(text: str) -> Part:
    return ("say", text)


def think(text: str) -> Part:
    return ("think", text)


def call(name: str, **arguments: Any) -> Part:
    return ("call", name, arguments)


def _samples(family: str, *rows: tuple[str, str, list[Part]], **options: Any) -> list[Sample]:
    return [Sample(family=family, about=about, text=text, parts=parts, **options) for about, text, parts in rows]


PARIS = call("get_weather", city="Paris")
ROME = call("get_weather", city="Rome", days=2)
SAYS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
SAYS_ROME = '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}'
TRICKY = {"code": 'print("}{ </tool_call>\\n")\n# é "x"', "env": {"a": {"b": ["}", "]"]}}}
TRICKY_JSON = '{"code": "print(\\"}{ </tool_call>\\\\n\\")\\n# \\u00e9 \\"x\\"", "env": {"a": {"b": ["}", "]"]}}}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'

HERMES = _samples(
    "hermes",
    ("one", f"<tool_call>\n{SAYS}\n</tool_call>", [PARIS]),
    ("without line ends", f"<tool_call>{SAYS}</tool_call>", [PARIS]),
    ("text before", f"Let me look.\n\n<tool_call>\n{SAYS}\n</tool_call>", [say("Let me look."), PARIS]),
    ("text after", f"<tool_call>\n{SAYS}\n</tool_call>\nDone.", [PARIS, say("Done.")]),
    ("two", f"<tool_call>\n{SAYS}\n</tool_call>\n<tool_call>\n{SAYS_ROME}\n</tool_call>", [PARIS, ROME]),
    ("two in one list", f"<tool_call>\n[{SAYS}, {SAYS_ROME}]\n</tool_call>", [PARIS, ROME]),
    ("two lines in one tag", f"<tool_call>\n{SAYS}\n{SAYS_ROME}\n</tool_call>", [PARIS, ROME]),
    ("never closed", f"<tool_call>\n{SAYS}", [PARIS]),
    ("never closed, and text", f"<tool_call>\n{SAYS}\nThere.", [PARIS, say("There.")]),
    ("a brace too many", f"<tool_call>\n{SAYS}}}\n</tool_call>", [PARIS]),
    ("fenced", f"<tool_call>\n```json\n{SAYS}\n```\n</tool_call>", [PARIS]),
    ("no arguments", '<tool_call>{"name": "now"}</tool_call>', [call("now")]),
    ("null arguments", '<tool_call>{"name": "now", "arguments": null}</tool_call>', [call("now")]),
    ("parameters", f"<tool_call>{LLAMA}</tool_call>", [PARIS]),
    (
        "arguments as text",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        [PARIS],
    ),
    (
        "braces, quotes and a closing tag inside strings",
        f'<tool_call>{{"name": "run-code", "arguments": {TRICKY_JSON}}}</tool_call>',
        [("call", "run-code", TRICKY)],
    ),
    (
        "line ends inside a string",
        '<tool_call>{"name": "run-code", "arguments": {"code": "a\nb"}}</tool_call>',
        [call("run-code", code="a\nb")],
    ),
    ("arguments first", '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', [PARIS]),
    ("OpenAI's form", f'<tool_call>{{"type": "function", "function": {SAYS}}}</tool_call>', [PARIS]),
    ("half a surrogate", '<tool_call>{"name": "run-code", "arguments": {"code": "\\ud800!"}}</tool_call>',
     [call("run-code", code="\ufffd!")]),
    ("emoji", '<tool_call>{"name": "run-code", "arguments": {"code": "\\ud83d\\ude00"}}</tool_call>',
     [call("run-code", code="😀")]),
    ("broken JSON", '<tool_call>{"name": "get_weather", "arguments": {"city" "Paris"}}</tool_call>',
     [say('<tool_call>{"name": "get_weather", "arguments": {"city" "Paris"}}</tool_call>')]),
    ("not finished", '<tool_call>\n{"name": "now", "argum', [say('<tool_call>\n{"name": "now", "argum')]),
    ("unknown tool", 'So: <tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
     [say('So: <tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>')]),
    ("unknown, then known", f'<tool_call>{{"name": "rm"}}</tool_call>\n<tool_call>{SAYS}</tool_call>',
     [say('<tool_call>{"name": "rm"}</tool_call>'), PARIS]),
    ("known, then unknown in a list", f'<tool_call>[{SAYS}, {{"name": "rm"}}]</tool_call>',
     [PARIS, say('{"name": "rm"}]</tool_call>')]),
    ("arguments that are none", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
     [say('<tool_call>{"name": "now", "arguments": [1]}</tool_call>')]),
    ("a number no JSON has", '<tool_call>{"name": "get_weather", "arguments": {"days": 1e999}}</tool_call>',
     [say('<tool_call>{"name": "get_weather", "arguments": {"days": 1e999}}</tool_call>')]),
    ("the tag in prose", "The tag <tool_call> opens a call.", [say("The tag <tool_call> opens a call.")]),
    ("tag twice", f"<tool_call>\n<tool_call>\n{SAYS}\n</tool_call>", [say("<tool_call>"), PARIS]),
    ("half a tag", "x <tool_", [say("x <tool_")]),
    ("another tag", "a <tool_call_x> b", [say("a <tool_call_x> b")]),
    ("blanks", " \n", [say(" \n")]),
    ("JSON is text", SAYS, [say(SAYS)]),
)  # fmt: skip

THINKING = _samples(
    "hermes",
    ("thinks and answers", "<think>\nHm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
    ("blanks before", "\n <think>Hm.</think>Yes.", [think("Hm."), say("Yes.")]),
    ("nothing thought", "<think>\n\n</think>\n\nYes.", [say("Yes.")]),
    ("not closed", "<think>Hm. \n", [think("Hm. \n")]),
    ("not at the beginning", "Yes. <think>Hm.</think>", [say("Yes. <think>Hm.</think>")]),
    ("second time", "<think>a</think>b<think>c</think>", [think("a"), say("b<think>c</think>")]),
    ("half a closing tag", "<think>a </thi", [think("a </thi")]),
    ("a tag inside", "<think>a <b> </b> </think> c", [think("a <b> </b>"), say("c")]),
    ("no tag, blanks kept", "\n Yes.\n", [say("\n Yes.\n")]),
    ("then calls", f"<think>\nHm.\n</think>\n\n<tool_call>\n{SAYS}\n</tool_call>", [think("Hm."), PARIS]),
    ("a call ends it", f"<think>\nHm.\n<tool_call>\n{SAYS}\n</tool_call>\nYes.", [think("Hm."), PARIS, say("Yes.")]),
    ("no call inside", "<think>A <tool_call>\nis\n</tool_call></think>Yes.",
     [think("A <tool_call>\nis\n</tool_call>"), say("Yes.")]),
    tags=THINK,
)  # fmt: skip
OPENED = _samples(
    "hermes",
    ("goes on thinking", "Hm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
    ("closes at once", "\n</think>\n\nYes.", [say("Yes.")]),
    ("then calls", f"\nHm.</think>{'<tool_call>' + SAYS + '</tool_call>'}", [think("Hm."), PARIS]),
    ("never closed", "Hm", [think("Hm")]),
    tags=THINK,
    inside=True,
)

LLAMAS = _samples(
    "llama",
    ("bare", LLAMA, [PARIS]),
    ("python tag", f"<|python_tag|>{LLAMA}", [PARIS]),
    ("blanks before", f"\n {LLAMA}\n", [PARIS]),
    ("two", f'{LLAMA}; {{"name": "now", "parameters": {{}}}}', [PARIS, call("now")]),
    ("a list", f"[{LLAMA}]", [PARIS]),
    ("typed", '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', [PARIS]),
    ("after text it is none", f"So: {LLAMA}", [say(f"So: {LLAMA}")]),
    ("after text with the tag", f"So: <|python_tag|>{LLAMA}", [say("So:"), PARIS]),
    ("other JSON", '{"a": [1, {"b": 2}]}\nIs it.', [say('{"a": [1, {"b": 2}]}\nIs it.')]),
    ("a link", "[see](http://x/{y}) there", [say("[see](http://x/{y}) there")]),
    ("a function tag", '<function=get_weather>{"city": "Paris"}</function>', [PARIS]),
    ("code", "<|python_tag|>print({})\n", [say("<|python_tag|>print({})\n")]),
    ("fenced", f"```json\n{LLAMA}\n```", [PARIS]),
    ("fenced other", '```json\n{"a": 1}\n```\nSo.', [say('```json\n{"a": 1}\n```\nSo.')]),
)  # fmt: skip

MISTRAL = _samples(
    "mistral",
    ("list", f"[TOOL_CALLS] [{SAYS}]", [PARIS]),
    ("two", f"[TOOL_CALLS][{SAYS}, {SAYS_ROME}]", [PARIS, ROME]),
    ("name and arguments", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', [PARIS]),
    ("two of them", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', [PARIS, call("now")]),
    ("with id", '[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris"}', [PARIS]),
    ("no mark of arguments", '[TOOL_CALLS]get_weather{"city": "Paris"}', [PARIS]),
    ("text before", f"Well. [TOOL_CALLS] [{SAYS}]", [say("Well."), PARIS]),
    ("unknown tool", '[TOOL_CALLS]rm[ARGS]{"a": 1}', [say('[TOOL_CALLS]rm[ARGS]{"a": 1}')]),
    ("parameters that are named arguments", '[TOOL_CALLS]run-code[ARGS]{"arguments": {"a": 1}}',
     [call("run-code", arguments={"a": 1})]),
)  # fmt: skip

XML_PARIS = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>"
XML = _samples(
    "xml",
    ("one", f"<tool_call>\n{XML_PARIS}\n</tool_call>", [PARIS]),
    ("no outer tag", XML_PARIS, [PARIS]),
    ("two", f"<tool_call>\n{XML_PARIS}\n</tool_call>\n<tool_call>\n{XML_PARIS}\n</tool_call>", [PARIS, PARIS]),
    ("text about", f"I look.\n<tool_call>\n{XML_PARIS}\n</tool_call>\nSo.", [say("I look."), PARIS, say("So.")]),
    (
        "typed by the schema",
        "<tool_call><function=get_weather><parameter=city>3</parameter><parameter=days>3</parameter>"
        "<parameter=exact>True</parameter><parameter=at>2.5</parameter></function></tool_call>",
        [call("get_weather", city="3", days=3, exact=True, at=2.5)],
    ),
    (
        "null and whole numbers",
        "<tool_call><function=get_weather><parameter=at>null</parameter><parameter=days>2.0</parameter></function>",
        [call("get_weather", at=None, days=2)],
    ),
    (
        "what the schema does not fit stays text",
        "<tool_call><function=get_weather><parameter=days>soon</parameter><parameter=x>1</parameter></function>",
        [call("get_weather", days="soon", x="1")],
    ),
    (
        "code",
        "<tool_call>\n<function=run-code>\n<parameter=code>\ndef f(a):\n    return a < 3 and {a}\n\n</parameter>\n"
        '<parameter=env>\n{"A": "1"}\n</parameter>\n<parameter=args>["x"]</parameter>\n</function>\n</tool_call>',
        [call("run-code", code="def f(a):\n    return a < 3 and {a}\n", env={"A": "1"}, args=["x"])],
    ),
    ("no parameters", "<tool_call>\n<function=now>\n</function>\n</tool_call>", [call("now")]),
    ("not closed", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n", [PARIS]),
    ("unknown", "<tool_call><function=rm></function></tool_call>",
     [say("<tool_call><function=rm></function></tool_call>")]),
    ("the tag in prose", "A <tool_call> is this.", [say("A <tool_call> is this.")]),
)  # fmt: skip

SEP, CALLS, CALLS_END = "<｜tool▁sep｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
V3 = f'{CALL}function{SEP}get_weather\n```json\n{{"city": "Paris"}}\n```{CALL_END}'
V31 = f'{CALL}get_weather{SEP}{{"city": "Paris"}}{CALL_END}'
DEEPSEEK = _samples(
    "deepseek",
    ("V3", CALLS + V3 + CALLS_END, [PARIS]),
    ("V3, two", CALLS + V3 + "\n" + V3 + CALLS_END, [PARIS, PARIS]),
    ("V3.1", CALLS + V31 + CALLS_END, [PARIS]),
    ("V3.1, two", "Well.\n" + CALLS + V31 + V31 + CALLS_END, [say("Well."), PARIS, PARIS]),
    ("thinks first", f"<think>\nHm.\n</think>\n\n{CALLS}{V31}{CALLS_END}", [think("Hm."), PARIS]),
    ("marks without calls", f"a{CALLS}b", [say(f"a{CALLS}b")]),
    ("outer marks hidden", V3, [PARIS]),
    tags=THINK,
)

COMMAND = '[\n    {\n        "tool_name": "get_weather",\n        "parameters": {"city": "Paris"}\n    }\n]'
COMMAND_R = _samples(
    "command-r",
    ("one", f"Action: ```json\n{COMMAND}\n```", [PARIS]),
    ("no blank", f"Action:```json\n{COMMAND}```", [PARIS]),
    ("plan before", f"I will look.\nAction: ```json\n{COMMAND}\n```", [say("I will look."), PARIS]),
    ("prose", "Action: none is needed.", [say("Action: none is needed.")]),
)
COMMAND_R7B = _samples(
    "command-r7b",
    (
        "plan and action",
        '<|START_THINKING|>I will look.<|END_THINKING|><|START_ACTION|>[\n {"tool_call_id": "0", "tool_name": '
        '"get_weather", "parameters": {"city": "Paris"}}\n]<|END_ACTION|>',
        [think("I will look."), PARIS],
    ),
    ("answer", "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
     [think("Hm."), say("Yes.")]),
    ("answer without thinking", "<|START_RESPONSE|>Yes. \n<|END_RESPONSE|>", [say("Yes.")]),
    ("an answer that the prompt began", " <|START_THINKING Yes.<|END_TEXT|>", [say(" <|START_THINKING Yes.")]),
    tags=("<|START_THINKING|>", "<|END_THINKING|>"),
)  # fmt: skip

KIMI = _samples(
    "kimi",
    (
        "one",
        "Well.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
        [say("Well."), PARIS],
    ),
)
GLM = _samples(
    "glm",
    (
        "typed",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>",
        [ROME],
    ),
    ("none", "<tool_call>now</tool_call>", [call("now")]),
    ("no call", "<tool_call>now and then</tool_call>", [say("<tool_call>now and then</tool_call>")]),
)
LFM2 = _samples(
    "lfm2",
    (
        "two",
        "<|tool_call_start|>[get_weather(city=\"Paris\"), get_weather(city='Rome', days=2)]<|tool_call_end|>There.",
        [PARIS, ROME, say("There.")],
    ),
    (
        "values",
        "<|tool_call_start|>[run-code(code='a\\'\\n\\u00e9', env={'k': [1, -2.5e1, True, None]}, args=[])]"
        "<|tool_call_end|>",
        [call("run-code", code="a'\né", env={"k": [1, -25.0, True, None]}, args=[])],
    ),
    ("no call", "<|tool_call_start|>[now()<|tool_call_end|>", [say("<|tool_call_start|>[now()<|tool_call_end|>")]),
)  # fmt: skip
OLMO = _samples(
    "olmo",
    ("two lines", '<function_calls>\nget_weather(city="Paris")\nnow()\n</function_calls>', [PARIS, call("now")]),
    ("none", "<function_calls>\n</function_calls>", [say("<function_calls>\n</function_calls>")]),
)
GEMMA = _samples(
    "gemma-function",
    (
        "one",
        "<start_function_call>call:get_weather{city:<escape>Rome<escape>,days:2}<end_function_call>",
        [ROME],
    ),
    ("none", "<start_function_call>call:now{}<end_function_call>", [call("now")]),
) + _samples(
    "gemma-4",
    (
        "thinks and calls",
        '<|channel>thought\nHm.<channel|><|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>',
        [think("Hm."), ROME],
    ),
    tags=("<|channel>thought", "<channel|>"),
)
OTHERS = (
    _samples("nemotron", ("one", f"<TOOLCALL>[{SAYS}]</TOOLCALL>", [PARIS]))
    + _samples("apertus", ("one", '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>', [PARIS]))
    + _samples(
        "piped",
        ("Granite", f"<|tool_call|>[{SAYS}, {SAYS_ROME}]", [PARIS, ROME]),
        ("Phi-4-mini", f"<|tool_call|>[{SAYS}]<|/tool_call|>", [PARIS]),
    )
    + _samples("functools", ("one", f" functools[{SAYS}]", [PARIS]))
    + _samples(
        "json",
        ("bare", SAYS, [PARIS]),
        ("fenced", f"```tool_call\n{SAYS}\n```", [PARIS]),
        ("tagged", f"So. <tool_call>{SAYS}</tool_call>", [say("So."), PARIS]),
        ("the name is the key", '{"get_weather": {"city": "Paris"}}', [PARIS]),
    )
)

HARMONY = _samples(
    "harmony",
    (
        "thinks and answers",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        [think("Hm."), say("Yes.")],
    ),
    (
        "calls",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris"}',
        [think("Hm."), PARIS],
    ),
    (
        "recipient first, name as an identifier",
        ' to=functions.run_code<|channel|>commentary json<|message|>{"code": "1"}<|call|>',
        [call("run-code", code="1")],
    ),
    (
        "preamble and two calls",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.now"
        "<|message|>{}<|call|><|start|>assistant<|channel|>commentary to=functions.get_weather <|message|>"
        '{"city": "Paris"}<|call|>',
        [say("I look."), call("now"), PARIS],
    ),
    ("unknown", '<|channel|>commentary to=functions.rm<|message|>{"a": 1}<|call|>', [say('{"a": 1}')]),
    ("no header at all", "Yes.", [say("Yes.")]),
    ("only a header", "<|channel|>analysis", []),
)

ATEM = '<atem:function_calls>\n<atem:invoke name="{name}">\n{inner}</atem:invoke>\n</atem:function_calls>'
CITY = '<atem:parameter name="city">{city}</atem:parameter>\n'
ATEM_PARIS = ATEM.format(name="get_weather", inner=CITY.format(city="Paris"))
GLIMMER = _samples(
    "glimmer",
    (
        "thinks and answers",
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Yes.<|eot|>",
        [think("Hm."), say("Yes.")],
    ),
    ("no recipient", "<|message|>Yes.", [say("Yes.")]),
    (
        "calls, values typed by the schema",
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=get_weather<|message|>"
        + ATEM.format(
            name="get_weather", inner=CITY.format(city="Rome") + '<atem:parameter name="days">2</atem:parameter>\n'
        )
        + "<|eom|>",
        [think("Hm."), ROME],
    ),
    ("without arguments", f" to=now<|message|>{ATEM.format(name='now', inner='')}<|eot|>", [call("now")]),
    (
        "a value keeps its lines and tags",
        " to=run-code<|message|>"
        + ATEM.format(name="run-code", inner='<atem:parameter name="code">\nif a < b:\n  </p>\n</atem:parameter>')
        + "<|eom|>",
        [call("run-code", code="\nif a < b:\n  </p>\n")],
    ),
    (
        "text and then a call, and one whose message is not ended",
        f" to=user<|message|>I look.<|eom|><|start|>assistant to=get_weather<|message|>{ATEM_PARIS}"
        f"<|start|>assistant to=now<|message|>{ATEM.format(name='now', inner='')}",
        [say("I look."), PARIS, call("now")],
    ),
    ("a call to the user", f" to=user<|message|>\n{ATEM_PARIS}\n<|eot|>", [PARIS]),
    (
        "a tool in a namespace of its name",
        f" to=now.now<|message|>{ATEM.format(name='now.now', inner='')}",
        [call("now")],
    ),
    (
        "a stray mark in the name",
        f" to=now<|message|>{ATEM.format(name='now<|message|>', inner='')}<|eom|>",
        [call("now")],
    ),
    (
        "two calls in one message",
        " to=get_weather<|message|>"
        + ATEM_PARIS.replace("</atem:function_calls>", '<atem:invoke name="now"></atem:invoke></atem:function_calls>'),
        [PARIS, call("now")],
    ),
    (
        "an unknown tool",
        f" to=rm<|message|>{ATEM.format(name='rm', inner='')}<|eom|>",
        [say(ATEM.format(name="rm", inner=""))],
    ),
    (
        "text beside a call is no call",
        f" to=user<|message|>So: {ATEM_PARIS}<|eot|>",
        [say(f"So: {ATEM_PARIS}")],
    ),
    ("text behind a call", f" to=user<|message|>{ATEM_PARIS} so<|eot|>", [say(f"{ATEM_PARIS} so")]),
    ("a call that is cut", f" to=now<|message|>{ATEM_PARIS[:60]}", [say(ATEM_PARIS[:60])]),
    ("a call that the message's end cuts", f" to=now<|message|>{ATEM_PARIS[:60]}<|eom|>", [say(ATEM_PARIS[:60])]),
    ("no header at all", "Yes <b>.", [say("Yes <b>.")]),
    ("only a header", " to=self", []),
    ("blanks are the message's own", "<|message|>\n Yes. \n<|eot|>", [say("\n Yes. \n")]),
)

SAMPLES = [
    *HERMES, *THINKING, *OPENED, *LLAMAS, *MISTRAL, *XML, *DEEPSEEK, *COMMAND_R, *COMMAND_R7B, *KIMI, *GLM, *LFM2,
    *OLMO, *GEMMA, *OTHERS, *HARMONY, *GLIMMER,
]  # fmt: skip
