"""The Go template interpreter: against recorded output of Go itself, the dialect's modes, its bounds, and fuzz."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.errors import TemplateError, TemplateLimitError, TemplateSyntaxError
from runtime.text.godata import tools_value
from runtime.text.gotemplate import GoTemplate
from runtime.text.gotemplate.executor import Limits
from runtime.text.gotemplate.values import Struct, to_json

LINES = (Path(__file__).parent / "vectors" / "text" / "gotemplate.jsonl").read_text().splitlines()
DATA: dict[str, Any] = json.loads(LINES[0])["data"]
CASES = [json.loads(line) for line in LINES[1:]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["template"][:40])
def test_like_go(case: dict[str, str]) -> None:
    if "out" in case:
        assert GoTemplate(case["template"]).execute(DATA) == case["out"]
    elif case["refused"] == "parse":
        with pytest.raises(TemplateSyntaxError):
            GoTemplate(case["template"])
    else:
        template = GoTemplate(case["template"])
        with pytest.raises(TemplateError) as caught:
            template.execute(DATA)
        assert caught.value.line is not None or isinstance(caught.value, TemplateLimitError)


def test_vectors_cover_both_outcomes() -> None:
    assert sum("out" in case for case in CASES) > 60
    assert {case.get("refused") for case in CASES} == {None, "parse", "execute"}


def test_errors_carry_the_line() -> None:
    with pytest.raises(TemplateSyntaxError, match="line 3: undefined variable"):
        GoTemplate("a\nb\n{{ $x }}")
    with pytest.raises(TemplateError, match="line 2: error calling len"):
        GoTemplate("a\n{{ len 3 }}").execute({})


def test_functions_of_the_dialect() -> None:
    today = datetime.date.today()
    out = GoTemplate('{{ currentDate "x" }} {{ yesterdayDate }}').execute({"Response": ""})
    near = {today + datetime.timedelta(days=days) for days in (0, 1)}  # the day may turn between the two calls
    assert out in {f"{day} {day - datetime.timedelta(days=1)}" for day in near}
    kind = Struct(type="p", fields={"AnyOf": [], "Type": ["string", "integer"], "Items": None})
    either = Struct(type="p", fields={"AnyOf": [kind, Struct(type="p", fields={"AnyOf": [], "Type": "array"})]})
    template = GoTemplate("{{ toTypeScriptType .P }}|{{ toTypeScriptType .Q }}")
    assert template.execute({"P": kind, "Q": either, "Response": ""}) == "string | number|string | number | any[]"


def test_javascript_is_escaped_where_it_cannot_be_seen() -> None:
    """As JSEscape of text/template does: "\\u%04X" unless unicode.IsPrint."""
    shown = GoTemplate("{{ js .T }}").execute({"T": "\u2028\u00a0\u200b\u00e9\t\u65e5 ", "Response": ""})
    assert shown == "\\u2028\\u00A0\\u200B\u00e9\\u0009\u65e5 "


PRINTF = {  # by the documentation of Go's fmt: explicit argument indexes
    '{{ printf "%[2]s-%[1]s" "a" "b" }}': "b-a",
    '{{ printf "%[1]d %[1]v %[1]q" 65 }}': "65 65 'A'",
    '{{ printf "%[3]d" 1 }}': "%!d(BADINDEX)",
    '{{ printf "%[x]d" 1 }}': "%!d(BADINDEX)",
    '{{ printf "%[1]s" "a" "b" }}': "a",
}


@pytest.mark.parametrize("source", PRINTF)
def test_printf_takes_arguments_by_their_place(source: str) -> None:
    assert GoTemplate(source).execute({"Response": ""}) == PRINTF[source]


def test_methods_of_the_values_that_ollama_gives() -> None:
    field = {"type": ["string", "null"]}
    tools = tools_value([{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": field}}}}])
    source = (
        "{{ .Tools.String }}|{{ range .Tools }}{{ .String }}|{{ .Function.Parameters.Properties }}|"
        "{{ range $name, $p := .Function.Parameters.Properties }}{{ $name }} {{ $p.ToTypeScriptType }} "
        "{{ toTypeScriptType $p }} {{ toTypeScriptType 1 }}{{ end }}{{ end }}"
    )
    one = (
        '{"type":"function","function":{"name":"f","description":"","parameters":{"type":"","properties":'
        '{"a":{"type":["string","null"]}}}}}'
    )
    expected = f'[{one}]|{one}|{{"a":{{"type":["string","null"]}}}}|a string | null string | null any'
    assert GoTemplate(source).execute({"Tools": tools, "Response": ""}) == expected


def test_what_is_absent_is_null_as_json() -> None:
    tools = tools_value([{"type": "function", "function": {"name": "f"}}])
    source = (
        "{{ range .Tools }}{{ with .Function.Parameters }}{{ .Properties }} {{ json .Properties }}{{ end }}{{ end }}"
    )
    assert GoTemplate(source).execute({"Tools": tools, "Response": ""}) == "{} null"


def test_json_escapes_as_go_does() -> None:
    assert to_json({"b": "<&>", "a": "é\u2028\n\x01", "c": [1.0, 0.000001, 1e-7, 1e21, True, None]}) == (
        '{"a":"é\\u2028\\n\\u0001","b":"\\u003c\\u0026\\u003e","c":[1,0.000001,1e-7,1e+21,true,null]}'
    )


def test_structs_print_as_go_structs_and_refuse_unknown_fields() -> None:
    inner = Struct(type="api.F", fields={"Name": "f", "Tags": ["a", "b"], "Map": {"k": 1}})
    assert GoTemplate("{{ .F }}{{ .Response }}").execute({"F": inner, "Response": ""}) == "{f [a b] map[k:1]}"
    with pytest.raises(TemplateError, match=r"can't evaluate field Nope in type api\.F"):
        GoTemplate("{{ .F.Nope }}").execute({"F": inner})


# variables and tags


def test_variables_are_found_everywhere_in_lower_case() -> None:
    loop = "{{ range $m := .Messages }}{{ $m.Role }}{{ (index .L 0).F }}{{ end }}"
    source = '{{ define "x" }}{{ .Deep }}{{ end }}{{ if .A }}' + loop + "{{ else }}{{ $.Tools }}{{ end }}"
    found = GoTemplate(source).variables()
    assert {"deep", "a", "messages", "role", "l", "f", "tools"} <= found


def test_thinking_tags_are_the_texts_around_thinking() -> None:
    thought = "{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>\n{{ end }}"
    source = "{{ range .Messages }}" + thought + "{{ .Content }}{{ end }}"
    assert GoTemplate(source).thinking_tags() == ("<think>", "</think>")
    assert GoTemplate("<think>{{ .Thinking }}</think>").thinking_tags() is None
    assert GoTemplate("{{ range .Messages }}{{ .Content }}{{ end }}").thinking_tags() is None


# legacy mode

CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ if .Prompt }}<|im_start|>user\n"
    "{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
LEGACY = {
    "one turn": ([("user", "hi")], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
    "system": (
        [("system", "S"), ("user", "hi")],
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "two turns": (
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
    ),
    "prefill": (
        [("user", "a"), ("assistant", "So")],
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nSo",
    ),
    "tool ignored": ([("user", "a"), ("tool", "x")], "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_legacy_turns(case: str) -> None:
    turns, expected = LEGACY[case]
    assert GoTemplate(CHATML).execute_turns(turns, {}) == expected


def test_response_is_appended_when_the_text_has_none() -> None:
    assert GoTemplate("{{ .Prompt }}").execute({"Prompt": "p", "Response": "r"}) == "pr"
    assert GoTemplate("{{ .Prompt }}").source == "{{ .Prompt }}"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert GoTemplate("[{{ .Prompt }}]").execute_turns(turns, {}) == "[a]b[c]"


def test_last_turn_is_cut_inside_branches_and_keeps_functions() -> None:
    """Where Ollama panics (.Response in if/else) or loses its functions (json)."""
    body = "S {{ json .Prompt }} {{ .Response }} E1{{ else }}{{ .Prompt }}: {{ .Response }} E2"
    source = "{{ if .System }}" + body + "{{ end }} E3"
    assert GoTemplate(source).execute_turns([("user", "u")], {}) == "u: "
    assert GoTemplate(source).execute_turns([("system", "s"), ("user", "u")], {}) == 'S "u" '


# bounds and fuzz


@pytest.mark.parametrize(
    "source",
    [
        "{{ define `a` }}{{ template `a` . }}{{ end }}{{ template `a` . }}",
        "{{ range 1000000 }}{{ range 1000000 }}{{ end }}{{ end }}",
        "{{ range 100000 }}" + "x" * 1000 + "{{ end }}",
        "{{ printf `%1000000000d` 1 }}",
        "{{ $x := `aaaaaaaaaaaaaaaa` }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}",
        "{{ if .A }}" * 200 + "{{ end }}" * 200,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ range 9000000000000000000 }}{{ end }}",
        "x" * (2 << 20),
    ],
    ids=lambda source: source[:40],
)
def test_bounds_hold(source: str) -> None:
    with pytest.raises(TemplateLimitError):
        GoTemplate(source, limits=Limits(steps=200_000)).execute({"A": True})


PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        ".A",
        ".L",
        ".M.x",
        "$",
        "$x",
        ":=",
        "=",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        '"t"',
        "template",
        "block",
        "|",
        "(",
        ")",
        "eq",
        "len",
        "index",
        "printf",
        '"%5d"',
        "json",
        "1",
        "-2.5",
        "nil",
        "true",
        "text",
        ",",
        "and",
        "or",
        ".",
        "break",
        "continue",
        "/*",
        "*/",
        "'x'",
        "`r`",
        "\\",
        "é",
        "0x",
        "slice",
        "html",
        "{{- ",
        " -}}",
        " ",
        "\n",
        "\x00",
    ]
)
FUZZ_DATA: dict[str, Any] = {"A": 3, "L": [1, "b", None, {"x": [2]}], "M": {"x": "y"}, "Response": ""}


JOINED = st.lists(PIECES, max_size=14).map("".join)
ACTIONS = st.lists(PIECES, max_size=8).map(lambda pieces: "{{" + " ".join(pieces) + "}}")


@given(JOINED | ACTIONS)
@settings(max_examples=1500, deadline=None)
def test_any_text_renders_or_raises_our_error(source: str) -> None:
    with contextlib.suppress(TemplateError):
        template = GoTemplate(source, limits=Limits(steps=2_000, output_chars=100_000))
        template.variables()
        template.thinking_tags()
        template.execute(FUZZ_DATA)
        template.execute_turns([("user", "u"), ("assistant", "a"), ("user", "v")], {})


def test_every_cut_and_every_changed_byte_of_a_good_template() -> None:
    for index in range(len(CHATML)):
        for source in (CHATML[:index], CHATML[index:], CHATML[:index] + "}" + CHATML[index + 1 :]):
            try:
                GoTemplate(source).execute_turns([("user", "u")], {})
            except TemplateError:
                continue
