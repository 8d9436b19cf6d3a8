"""The documentation says what is: its page of verbs is fresh, its commands parse, its links and references resolve.

No page is executed as a whole (scripts/demo does the main job); every command line is parsed by the real verbs.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runtime.api.app import ROUTES
from runtime.options import RULES
from scripts.cli_page import page
from tests.peers.verbs import leaves, options_of, tree
from tests.test_imports import MAY

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
VERBS = dict(leaves())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2", ")", "("}


@pytest.fixture(params=NAMES)
def text(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_page_of_verbs_is_fresh() -> None:
    assert (ROOT / "docs/cli.md").read_text("utf-8") == page(), "stale: run scripts/docs"


def test_every_page_of_the_plan_is_there() -> None:
    planned = ("ARCHITECTURE", "HACKING", "threats", "cli", "compatibility", "install-offline", "formats/bundle")
    assert {f"docs/{name}.md" for name in planned} | {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= set(NAMES)


# -- commands


def commands(text: str) -> Iterator[list[str]]:
    """The words after `sealift` of every command in a block that has a language."""
    for language, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language else ():
            yield from _commands(line)


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.replace("ExecStart=", "ExecStart= "), posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words = list(lexer)
    for i, word in enumerate(words):
        if word.rpartition("/")[2] == "sealift" and i + 1 < len(words) and (i == 0 or words[i - 1] != "--name"):
            rest = words[i + 1 :]
            end = next((k for k, other in enumerate(rest) if other in OPERATORS), len(rest))
            if rest[:end] and not _is_install(words[:i]):
                yield rest[:end]


def _is_install(before: list[str]) -> bool:
    return "install" in before or "venv" in before


def parse(words: list[str]) -> None:
    """Parses one command line as the program would, and runs nothing. Raises what the program would say."""
    command, rest, path = tree(), words, "sealift"
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{path} has no verb {rest[0]!r}"
        command, rest, path = command.commands[rest[0]], rest[1:], f"{path} {rest[0]}"
    own_work = path != "sealift" and getattr(command, "invoke_without_command", False)  # `inventory`, beside its verbs
    if hasattr(command, "commands") and not own_work:
        assert rest and all(word in ("--version", "-v", "--help", "-h") or "completion" in word for word in rest), words
    else:
        command.make_context(path, list(rest))


def test_commands_in_blocks_parse(text: str) -> None:
    for words in commands(text):
        try:
            parse(words)
        except Exception as error:
            message = getattr(error, "format_message", error.__str__)()
            pytest.fail(f"sealift {shlex.join(words)}: {message}")


def test_commands_in_sentences_name_verbs_and_options(text: str) -> None:
    for inline in re.findall(r"`sealift ([a-z-][^`]*)`", FENCE.sub("", text)):
        words = inline.replace("|", " ").split()
        if words[0].startswith("-"):
            continue
        verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in VERBS), None)
        group = words[0] in tree().commands and len(words) == 1
        assert verb or group, f"there is no verb `sealift {inline}`"
        for word in words if verb else ():
            if word.startswith("-") and len(word) > 1 and verb:
                known = options_of(VERBS[verb])
                assert word.partition("=")[0] in {*known, "--help", "-h"}, f"`sealift {inline}`: no option {word}"


def test_the_commands_of_the_readme_are_found() -> None:
    """This test can fail: the session is seen, and a wrong line is refused."""
    found = [words[:2] for words in commands((ROOT / "README.md").read_text("utf-8"))]
    for words in (["key", "generate"], ["bundle", "export"], ["bundle", "import"], ["serve"], ["audit", "--out"]):
        assert words in found
    assert list(commands("```sh\n$ SEALIFT_HOME=x /opt/bin/sealift list >out # all\npip install sealift x\n```\n")) == [
        ["list"]
    ]
    for wrong in (["bundel"], ["list", "--jsn"], ["cp", "a"], ["serve", "--port", "many"]):
        with pytest.raises(Exception, match=r"(?i)no verb|no such option|missing|valid"):
            parse(wrong)


# -- references


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    page_ = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page_.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page_.parent / path).resolve() if path else page_
        assert place.exists(), f"{name}: link to {target}"
        assert not anchor or anchor in slugs(place), f"{name}: no heading for {target}"


def test_files_named_in_backticks_exist(text: str) -> None:
    folders = "manifests|signing|bundler|native|runtime|tests|docs|scripts"
    for named in re.findall(rf"`((?:{folders})/[^`\s]*)`", text):
        path = named.partition("::")[0].rstrip("/")
        if not re.search(r"[<>…{}]|\b(?!ARCHITECTURE|HACKING)[A-Z]{3,}\b", path):  # capitals stand for a name
            assert list(ROOT.glob(path)), f"`{named}` does not exist"


@cache
def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def test_tests_that_are_named_exist(text: str) -> None:
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert (ROOT / file).is_file(), f"{file}::{name}"
        assert name in functions(ROOT / file), f"there is no {file}::{name}"


def test_the_threats_page_names_many_tests() -> None:
    named = re.findall(r"tests/[\w/]+\.py::\w+", (ROOT / "docs/threats.md").read_text("utf-8"))
    assert len(set(named)) > 60


# -- completeness: what the code has, a page tells


def test_every_setting_of_the_environment_is_told() -> None:
    told = (ROOT / "docs/cli.md").read_text("utf-8")
    used: set[str] = set()
    for room in ("manifests", "signing", "bundler", "native", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            source = path.read_text("utf-8")
            used |= set(re.findall(r"SEALIFT_[A-Z_]{2,}", source))
            used |= {f"SEALIFT_{name}" for name in re.findall(r'(?:setting|_setting)\(\s*"([A-Z_]+)"', source)}
    assert {"SEALIFT_HOME", "SEALIFT_KEEP_ALIVE"} <= used
    assert not [name for name in sorted(used) if f"`{name}`" not in told]


def test_every_route_and_option_is_told() -> None:
    told = (ROOT / "docs/compatibility.md").read_text("utf-8")
    assert not [path for _, path, _ in ROUTES if f"`{path.replace(':path', '')}`" not in told]
    assert not [name for name in RULES if f"`{name}`" not in told]


def test_the_table_of_rooms_is_the_rule_of_imports() -> None:
    told = (ROOT / "docs/ARCHITECTURE.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)/` \| .* \| ([^|]*) \|$", told, re.MULTILINE))
    assert rows == {room: ", ".join(may) or "none" for room, may in MAY.items()}


def test_every_test_and_script_is_in_the_table_of_hacking() -> None:
    told = (ROOT / "docs/HACKING.md").read_text("utf-8")
    patterns = re.findall(r"tests/[\w/*]+\.py", told)
    for path in (ROOT / "tests").rglob("test_*.py"):
        name = str(path.relative_to(ROOT))
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), (
            f"docs/HACKING.md does not say what {name} catches"
        )
    for path in (ROOT / "scripts").iterdir():
        if path.is_file():
            assert f"`scripts/{path.name}" in told, f"docs/HACKING.md does not tell scripts/{path.name}"


# -- scripts


SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_call_what_exists(name: str) -> None:
    """Nothing else runs some of them: the shell parses them, and the Python inside names things that are there."""
    path = ROOT / "scripts" / name
    text = path.read_text("utf-8")
    assert text.startswith("#!/bin/sh\n") and os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=60)
    for module, short in re.findall(r"import ([\w.]+) as (\w+)", text):
        for function in re.findall(rf"\b{short}\.(\w+)\(", text):
            assert hasattr(importlib.import_module(module), function), f"scripts/{name}: {module}.{function}"
    for block in re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON$", text, re.MULTILINE | re.DOTALL):
        compile(block, f"scripts/{name}", "exec")
    for named in re.findall(r"(?<![\w./$-])(scripts/[\w-]+)", text):
        assert (ROOT / named).exists(), f"scripts/{name} names {named}"
