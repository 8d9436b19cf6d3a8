"""Modelfile: the grammar of the contract, 5.1, and the law `parse(render(m)) == m`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import ModelfileError
from manifests.modelfile import COMMANDS, ROLES, Command, Modelfile, render_command
from manifests.parameters import check_parameters


def parse(text: str) -> list[tuple[str, str, str]]:
    return [(command.name, command.key, command.value) for command in Modelfile.parse(text.encode()).commands]


def test_all_commands() -> None:
    text = """
# a comment
from base
ADAPTER ./a.gguf
DRAFT d
TEMPLATE \"\"\"{{ .Prompt }}
# not a comment
\"\"\"
SyStEm "over
two lines"
LICENSE MIT
LICENSE \"\"\" spaced \"\"\"
RENDERER r
PARSER p
REQUIRES v0.14.0
PARAMETER temperature 0.5
PARAMETER stop "a b"
PARAMETER\tstop\tc
MESSAGE user hello  there
MESSAGE assistant ""
"""
    assert parse(text) == [
        ("from", "", "base"),
        ("adapter", "", "./a.gguf"),
        ("draft", "", "d"),
        ("template", "", "{{ .Prompt }}\n# not a comment\n"),
        ("system", "", "over\ntwo lines"),
        ("license", "", "MIT"),
        ("license", "", " spaced "),
        ("renderer", "", "r"),
        ("parser", "", "p"),
        ("requires", "", "v0.14.0"),
        ("parameter", "temperature", "0.5"),
        ("parameter", "stop", "a b"),
        ("parameter", "stop", "c"),
        ("message", "user", "hello  there"),
        ("message", "assistant", ""),
    ]
    modelfile = Modelfile.parse(text.encode())
    assert modelfile.parameters == {"temperature": 0.5, "stop": ["a b", "c"]}
    assert modelfile.last("system") == "over\ntwo lines" and modelfile.all("license") == ("MIT", " spaced ")


def test_a_quote_ends_only_at_a_lines_end() -> None:
    # contract 11.44: text after the closing quote keeps the value open
    assert parse('FROM x\nSYSTEM "a" b\nc"\n')[1] == ("system", "", 'a" b\nc')
    with pytest.raises(ModelfileError, match="unexpected EOF"):
        parse('FROM x\nSYSTEM "a" b\n')


def test_encodings_and_line_ends() -> None:
    text = 'FROM x\nSYSTEM "é\n😀"\n'
    for raw in (text.encode("utf-16"), text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        assert Modelfile.parse(raw) == Modelfile.parse(text.encode())


def test_joined_emoji_and_odd_spaces_survive() -> None:
    value = "👩\u200d🚀 a\u00a0b\u00adc\u3000d"
    assert parse(f"FROM x\nSYSTEM {value}\n")[1] == ("system", "", value)


BAD = [
    ("", "no FROM line"),
    ("SYSTEM x", "no FROM line"),
    ("FROM x\nFOO y", r'\(line 2\): command must be one of "from", "license"'),
    ("FROM x\n!", r"\(line 2\)"),
    ("FROM", r"\(line 1\): the command has no value"),
    ("FROM x\nMESSAGE tool y", r'\(line 2\): message role must be one of "system", "user", or "assistant"'),
    ("FROM x\nPARAMETER nope 1", r"\(line 2\): unknown parameter 'nope'"),
    ("FROM x\nPARAMETER num_ctx 1.5", r"\(line 2\): invalid int value \[1.5\]"),
    ("FROM x\nPARAMETER temperature hot", r"invalid float value \[hot\]"),
    ("FROM x\nPARAMETER temperature nan", "invalid float value"),
    ("FROM x\nPARAMETER use_mmap maybe", "invalid bool value"),
    ("FROM x\nREQUIRES 1", "requires must be a valid semver"),
    ('FROM x\nSYSTEM """a', "unexpected EOF"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ModelfileError, match=message):
        Modelfile.parse(text.encode())


def test_dropped_parameters_have_no_effect() -> None:
    assert Modelfile.parse(b"FROM x\nPARAMETER mirostat 1\n").parameters == {}
    assert check_parameters({"mirostat": 2, "top_k": 3.0, "stop": "x", "seed": None}) == {"top_k": 3, "stop": ["x"]}
    for bad in ({"top_k": "3"}, {"temperature": True}, {"stop": [1]}, {"use_mmap": 1}, {"nope": 1}):
        with pytest.raises(ModelfileError):
            check_parameters(bad)


VALUES = st.text(st.sampled_from('ab "#\n\t\\é\u200d'), max_size=12) | st.text(max_size=12)


@given(
    st.lists(
        st.tuples(st.sampled_from([c for c in COMMANDS if c not in ("parameter", "requires")]), VALUES), max_size=4
    )
)
def test_render_parses_back_or_refuses(pairs: list[tuple[str, str]]) -> None:
    commands = [Command(name="from", value="x")]
    for name, value in pairs:
        command = Command(name=name, value=value, key=ROLES[0] if name == "message" else "")
        try:
            render_command(command)
        except ModelfileError:
            assert "\n" in value or "\r" in value or value != value.strip() or value.startswith('"') or not value
            continue
        commands.append(command)
    modelfile = Modelfile(commands=tuple(commands))
    assert Modelfile.parse(modelfile.render().encode()) == modelfile


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    with contextlib.suppress(ModelfileError):
        Modelfile.parse(b"FROM x\n" + raw)


@pytest.mark.parametrize("line", [b"\n", b'a"b\n', b"\r\n"])
def test_a_quote_that_is_closed_late_or_never_is_found_in_one_pass(line: bytes) -> None:
    body = line * (1 << 18)
    with pytest.raises(ModelfileError, match="unexpected EOF"):
        Modelfile.parse(b'FROM x\nSYSTEM """' + body)
    (text,) = Modelfile.parse(b'FROM x\nSYSTEM """' + body + b'"""\n').all("system")
    assert text.encode() == body.replace(b"\r\n", b"\n")
