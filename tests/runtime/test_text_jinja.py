"""Jinja chat templates: as Hugging Face runs them, inside a sandbox with bounds."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text import jinja
from runtime.text.errors import TemplateError, TemplateLimitError, TemplateRaised, TemplateSyntaxError
from runtime.text.jinja import JinjaTemplate

VECTORS = Path(__file__).parent / "vectors" / "text"
SMOLLM2 = (VECTORS / "smollm2.jinja").read_text()  # tokenizer.chat_template of SmolLM2-135M-Instruct, Apache-2.0


def render(source: str, **values: object) -> str:
    return JinjaTemplate(source).render(values)


def test_smollm2() -> None:
    messages = [{"role": "user", "content": "Hi <b>"}]
    default = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    turn = "<|im_start|>user\nHi <b><|im_end|>\n"
    assert render(SMOLLM2, messages=messages, add_generation_prompt=True) == default + turn + "<|im_start|>assistant\n"
    system = [{"role": "system", "content": "S"}, *messages]
    assert render(SMOLLM2, messages=system) == "<|im_start|>system\nS<|im_end|>\n" + turn


def test_variables() -> None:
    assert JinjaTemplate(SMOLLM2).variables() == {"messages", "add_generation_prompt"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # trim_blocks, lstrip_blocks
        (
            "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}"
            "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "13",
        ),
        ('{{ {"b": "<é>", "a": [1, none, true]} | tojson }}', '{"b": "<é>", "a": [1, null, true]}'),
        ('{{ {"a": 1} | tojson(indent=2) }}', '{\n  "a": 1\n}'),
        ("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b"),
        ("{% set s = namespace(n=0) %}{% for i in range(5) %}{% set s.n = s.n + i %}{% endfor %}{{ s.n }}", "10"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) ~ 'a' ~ none }}", "<1>aNone"),
        ("{{ ' x '.strip() | upper }}{{ 'a,b'.split(',') | join('-') }}{{ [1, 2][-1:] }}{{ unknown }}", "Xa-b[2]"),
        ("{{ 'ab' + 'c' }}{{ '-' * 3 }}{{ 7 % 4 }}{{ 2 ** 3 }}", "abc---38"),
        ("{{ messages[0].content is defined and messages[0]['x'] is not defined }}", "True"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_as_hugging_face(source: str, expected: str) -> None:
    assert render(source, messages=[{"content": ""}]) == expected


def test_arguments_of_a_call_are_an_object_and_their_json_as_text() -> None:
    """Some templates take arguments as an object, some as JSON text; Hugging Face hands over what the client sent."""
    forms = {
        "{{ a | tojson }}": '{"c": "é", "n": 1}',
        "{{ a }}": '{"c": "é", "n": 1}',
        "{{ 'x' + a + 'y' }}": 'x{"c": "é", "n": 1}y',
        "{{ 'x' ~ a }}": 'x{"c": "é", "n": 1}',
        "{{ a | string }}": '{"c": "é", "n": 1}',
        "{{ a.c }}{{ a['n'] }}{{ a is mapping }}{{ a is string }}": "é1TrueFalse",
        "{% for k, v in a | items %}{{ k }}={{ v }};{% endfor %}": "c=é;n=1;",
        "{% for k, v in a.items() %}{{ k }}{% endfor %}": "cn",
    }
    for source, expected in forms.items():
        assert render(source, a=jinja.JsonObject({"c": "é", "n": 1})) == expected, source
    with pytest.raises(TemplateError):
        render("{{ a.update({}) }}", a=jinja.JsonObject({}))


def test_what_templates_ask_of_jinja() -> None:
    """Constructs found in the templates of many models."""
    forms = {
        "{{ tools is defined and tools is not none }}": "True",
        "{%- for m in messages | selectattr('role', 'equalto', 'user') | list %}{{ m.content }}{% endfor %}": "ab",
        "{{ messages | map(attribute='role') | unique | join(',') }}": "user,tool",
        "{{ messages | rejectattr('content', 'none') | list | length }}": "2",
        "{%- set a, b = 'x-y'.split('-') %}{{ b }}{{ a }}": "yx",
        "{{ messages[-1].content is none }}{{ messages[::-1][0].role }}": "Truetool",
        "{{ 'abc'.startswith('ab') }}{{ 'abc'[1:] }}{{ 'a b'.title() }}{{ 'xax'.strip('x') }}": "TruebcA Ba",
        "{{ ('a' in 'abc') and ('role' in messages[0]) }}": "True",
        "{%- macro m(x, y='d') -%}{{ x }}{{ y }}{{ caller is defined }}{%- endmacro -%}{{ m(1) }}": "1dFalse",
        "{%- set x = 1 if false else 2 %}{{ x }}{{ 'n' if x is divisibleby(2) }}": "2n",
        "{{ {'b': 1, 'a': 2} | dictsort | first | last }}{{ [3, 1] | sort | string }}": "2[1, 3]",
        "{{ 'a\nb' | indent(2) }}": "a\n  b",
        "{{ tools[0] | tojson(separators=(',', ':'), sort_keys=true) }}": '{"a":1,"b":"é"}',
        "{{ tools[0] | tojson(ensure_ascii=true) }}": '{"b": "\\u00e9", "a": 1}',
        "{{ date_string | default('none') }}{{ custom.x | default('d') if custom is defined }}": "none",
        "{%- filter trim %}  x {% endfilter %}{% raw %}{{ y }}{% endraw %}": "x{{ y }}",
        "{%- set ns = namespace(found=false) %}{% for m in messages %}{% if loop.last %}{% set ns.found = m.role %}"
        "{% endif %}{% endfor %}{{ ns.found }}{{ loop is defined }}": "toolFalse",
    }
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "tool", "content": None}]
    for source, expected in forms.items():
        assert render(source, messages=messages, tools=[{"b": "é", "a": 1}]) == expected, source


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.date.today().year + more) for more in (0, 1)}


def test_raise_exception_is_the_clients_fault() -> None:
    with pytest.raises(TemplateRaised, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert (caught.value.exit_code, caught.value.http_status) == (1, 400)


def test_syntax_error_has_its_line() -> None:
    with pytest.raises(TemplateSyntaxError, match="line 3"):
        JinjaTemplate("a\nb\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ().__class__.x }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ self.__init__.__globals__ }}",
        "{{ '%s' % 1 }}",
    ],
)
def test_ways_out_are_closed(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source, messages=[{}])


def test_private_attributes_are_not_shown() -> None:
    assert render("{{ ().__class__ }}{{ raise_exception.__globals__ }}") == ""
    assert render("{{ ''|attr('__class__') }}{{ messages|map(attribute='__class__')|list }}", messages=[]) == "[]"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set b %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = b %}{% endfor %}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "x" * (2 << 20),
    ],
    ids=lambda source: source[:50],
)
def test_bounds_hold(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "MAX_TURNS", 100_000)
    with pytest.raises(TemplateLimitError, match=r"turns|characters|number|deep"):  # and not by the clock
        render(source)


def test_plain_formatting_works() -> None:
    assert render("{{ '{} and {0}'.replace('{0}', '{}').format('a', 1) }}{{ '{x}'.format(x=2) }}") == "a and 12"


def test_format_widths_cannot_fill_memory() -> None:
    for source in (
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 9) }}",
        "{{ '%1000000000d' | format(1) }}",
    ):
        with pytest.raises(TemplateError):
            render(source)


PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "messages",
        "for",
        "in",
        "endfor",
        "if",
        "endif",
        "set",
        "=",
        "|",
        "tojson",
        ".",
        "[0]",
        "(",
        ")",
        "'a'",
        "1",
        "*",
        "~",
        "+",
        "%",
        "loop",
        "macro",
        "endmacro",
        "range",
        "x",
        "{",
        "}",
        "generation",
        "endgeneration",
        "break",
        "filter",
        "raise_exception",
        "namespace",
        ",",
        ":",
        "-",
        "is",
        "defined",
    ]
)


@given(st.lists(PIECES, max_size=12).map(" ".join))
@settings(max_examples=600, deadline=None)
def test_any_text_renders_or_raises_our_error(source: str) -> None:
    with contextlib.suppress(TemplateError):
        render(source, messages=[{"role": "user", "content": "x"}])
