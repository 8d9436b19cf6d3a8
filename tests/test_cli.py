"""The command line as a whole: help that teaches, exit codes, where errors go, JSON, closed pipes, completion.

What a single verb does is tested in its room; here stand the promises that every verb keeps (DESIGN 3, STYLE).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import typer

import sealift
from bundler.heads import find_statement
from bundler.receipts import Receipt
from bundler.receipts_compact import Short
from bundler.shards import stem_of
from bundler.slip import Slip, Want
from manifests.digest import Digest
from tests.peers.bundles import small_gguf
from tests.peers.verbs import leaves, options_of, tree

ROOT = Path(__file__).parents[1]
VERBS = dict(leaves())


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a key, a trusted publisher, a model and a bundle of it; made through the command line itself."""
    root = tmp_path_factory.mktemp("side")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("SEALIFT_", "OLLAMA_")) and name != "SEALIFT_NATIVE_LIBRARY":
                patch.delenv(name)
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        patch.chdir(root)
        small_gguf(root / "model.gguf")
        (root / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are brief.\nLICENSE MIT\n")
        for words in (
            ("key", "generate", "alice", "--no-passphrase"),
            ("trust", "add", str(root / "home/keys/alice.pub"), "--role", "publisher"),
            ("create", "mine"),
            ("bundle", "export", "mine", "-o", "usb", "--sign", "alice", "--parity", "1"),
            ("trust", "init", "--root", "alice", "--sign", "alice"),
            ("trust", "export", "-o", "chain"),
            ("inventory", "-o", "enclave.inventory", "--sign", "alice"),
        ):
            assert sealift.run(list(words)) == 0
        statement, _ = find_statement(root / "usb", stem_of(root / "usb", root / "usb"))
        (root / "slip.txt").write_text(Slip(id=statement.id, wants=(Want(volume=0),)).text())
        sample = Receipt(
            reason="damaged", time="2026-11-01T12:00:00Z", subject=Digest.of(b"x"), known=False, tool="sealift"
        )
        (root / "receipt.txt").write_text(Short.of(sample).text())
        yield root


# -- help


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sealift.run([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    command = VERBS[verb]
    assert f"Usage: sealift {verb}" in out
    assert command.help and len(command.help.split()) >= 3, "a verb says what it does in a sentence"
    for parameter in command.params:
        words = (getattr(parameter, "help", None) or "").split()
        assert words, f"sealift {verb}: {parameter.name} has no help text"


@pytest.mark.parametrize("words", [(), ("bundle",), ("key",), ("trust",)])
def test_a_group_alone_prints_its_verbs(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    sealift.run(list(words))
    printed = "".join(capsys.readouterr())
    for verb in VERBS:
        if verb.split()[:-1] == list(words):
            assert verb.split()[-1] in printed


def test_the_door_knows_which_file_has_which_verbs() -> None:
    """So that a verb alone is the verb that help shows: none is missing, none is taken from another file."""
    everything = set(_verbs(tree()))
    for file, verbs in sealift.FILES:
        _, names = sealift._names(verbs)
        everything -= set(names)
        for name in names:
            assert set(_verbs(tree(sealift.build(name)))) == set(names), file
    assert not everything
    for group in sealift.GROUPS:
        assert set(_verbs(tree(sealift.build(group)))) == {name for name in _verbs(tree()) if name.split()[0] == group}


def _verbs(root: Any) -> Iterator[str]:
    """`bundle export` of the groups that several files share; others' verbs are one file's."""
    for name, command in root.commands.items():
        yield from (f"{name} {verb}" for verb in command.commands) if name in sealift.GROUPS else (name,)


def test_the_reflection_sees_a_missing_help_text() -> None:
    app = typer.Typer()

    @app.command("silent")
    def silent(name: str, loud: bool = typer.Option(False, "--loud")) -> None:
        """Says nothing."""

    @app.command("other")
    def other() -> None: ...

    command = dict(leaves(app))["silent"]
    assert [bool(getattr(parameter, "help", None)) for parameter in command.params] == [False, False]
    assert options_of(command) == {"--loud": False}


# -- what a verb imports

OURS = {"bundler", "manifests", "native", "runtime", "signing"}
HEAVY = {"fastapi", "starlette", "uvicorn", "numpy", "jinja2", "tokenizers", "llguidance", "prompt_toolkit", "gguf"}
NEEDS: list[tuple[str, set[str]]] = [  # the rooms and libraries that a verb is for; it imports no others of these
    ("list", {"manifests"}),
    ("bundle verify --help", {"bundler"}),
    ("bundle verify usb", {"bundler", "manifests", "native", "signing", "cryptography"}),
    ("bundle import usb --dry-run", {"bundler", "manifests", "signing", "cryptography"}),
    ("key list", {"signing", "cryptography"}),
    ("trust list", {"signing", "cryptography"}),
    ("serve --help", {"runtime"}),
    ("ps", {"manifests", "native", "runtime"}),
    ("--version", {"manifests", "native", "runtime"}),
    ("run absent hi", {"manifests", "native", "runtime"}),
]


def imported(side: Path, words: str) -> set[str]:
    """Top names of what is in memory after one command line, in a process of its own."""
    code = "import sys, sealift; sealift.run(sys.argv[1:]); print('', *sys.modules)"
    places = {"SEALIFT_HOME": str(side / "home"), "SEALIFT_HOST": "127.0.0.1:9" if words != "list" else ""}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], cwd=side, text=True, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": path, **places},
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(("words", "needed"), NEEDS, ids=[words for words, _ in NEEDS])
def test_a_verb_imports_what_it_is_for(side: Path, words: str, needed: set[str]) -> None:
    others = OURS | HEAVY | {"cryptography", "httpx"}
    if not any(line.startswith("pydantic") for line in requires("typer") or ()):  # a typer that converts with it
        others |= {"pydantic"}
    assert imported(side, words) & others == needed


def test_a_server_tells_its_worker_what_to_load_before_it_imports_what_answers() -> None:
    """Else the worker would wait for libraries that it does not need (docs/adr/0005-start.md)."""
    code = "import sys, sealift, runtime.commands_serve, runtime.told, runtime.starting; print('', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    found = {name.split(".")[0] for name in done.stdout.split()}
    assert not found & (HEAVY | {"asyncio", "httpx", "pydantic"})


@pytest.mark.parametrize("words", [["--port", "many"], ["--kv-cache-type", "f8"], ["--load", "absent", "--port", "0"]])
def test_a_worker_that_was_started_ahead_goes_with_a_verb_that_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from runtime.engine import spawn

    made: list[spawn.Spawned] = []

    def seen(*command: Any) -> spawn.Spawned:
        made.append(start(*command))
        return made[-1]

    start = spawn.spawn
    monkeypatch.setattr(spawn, "spawn", seen)
    monkeypatch.setattr("runtime.logs.set_up", lambda *_: None)  # the log is this process's, and other tests read it
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path))
    assert sealift.run(["serve", *words]) in (1, 2)
    assert [one.process.poll() for one in made] == [-signal.SIGKILL]
    assert spawn._ahead is None


# -- exit codes and where words go


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


EXITS: list[tuple[int, tuple[str, ...]]] = [
    (0, ("--version",)),
    (0, ("list",)),
    (0, ("bundle", "verify", "usb")),
    (1, ("show", "absent")),
    (1, ("rm", "absent")),
    (1, ("create", "x", "-f", "absent")),
    (1, ("bundle", "verify", "empty")),
    (2, ("nosuch",)),
    (2, ("list", "--nosuch")),
    (2, ("cp", "only-one")),
    (2, ("bundle", "nosuch")),
    (2, ("bundle", "export", "mine", "-o", "other", "--sign", "alice", "--volume-size", "17 parsecs")),
    (2, ("show", "mine", "--license", "--system")),
    (3, ("bundle", "verify", "usb", "--trust", "nobody.toml")),
    (3, ("bundle", "import", "usb", "--trust", "nobody.toml")),
    (4, ("ps",)),
    (4, ("run", "mine", "hello")),
]


@pytest.mark.parametrize(
    ("code", "words"), EXITS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_exit_codes(
    side: Path,
    code: int,
    words: tuple[str, ...],
    nobody: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from signing.trust import TrustStore

    monkeypatch.setenv("SEALIFT_HOST", nobody)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    (side / "empty").mkdir(exist_ok=True)
    (side / "nobody.toml").write_bytes(TrustStore.empty().encode())
    assert sealift.run(list(words)) == code
    out, err = capsys.readouterr()
    if code:
        assert out == "", "an error is not a result"
        assert err and all(line.startswith("sealift: ") for line in err.splitlines()), err
        assert "Traceback" not in err
    else:
        assert out


def test_a_usage_error_names_the_help_that_tells(side: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, verb in (
        (["nosuch"], "sealift"),
        (["list", "--nosuch"], "sealift list"),
        (["trust", "revoke", "alice"], "sealift trust revoke"),
    ):
        assert sealift.run(words) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"sealift: hint: {verb} --help"


def test_no_number_in_a_help_text_stands_for_unset(capsys: pytest.CaptureFixture[str]) -> None:
    assert sealift.run(["serve", "--help"]) == 0
    assert "default:" not in capsys.readouterr().out


def test_a_fault_of_ours_is_70_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("manifests.store.Store.names", lambda self: 1 // 0)
    monkeypatch.delenv("SEALIFT_DEBUG", raising=False)
    assert sealift.run(["list"]) == 70
    out, err = capsys.readouterr()
    assert not out and err.startswith("sealift: internal error: ZeroDivisionError") and "SEALIFT_DEBUG" in err
    monkeypatch.setenv("SEALIFT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        sealift.run(["list"])


@pytest.mark.parametrize("verb", sorted(sealift.INTERRUPTED))
def test_who_interrupts_a_crossing_hears_what_was_written(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while it works: 130, and whether the same command goes on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VERBS[verb], "callback", interrupted)
    assert callable(sealift.build(verb))
    monkeypatch.setattr(sealift, "build", lambda _: lambda args, **more: VERBS[verb].main([], **more))
    monkeypatch.setattr(VERBS[verb], "invoke", interrupted)
    monkeypatch.setattr(VERBS[verb], "parse_args", lambda *_: [])
    assert sealift.run(verb.split()) == 130
    assert capsys.readouterr().err.strip().endswith(f"sealift: interrupted: {sealift.INTERRUPTED[verb]}")


def test_what_a_terminal_would_obey_is_not_printed(side: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error may quote a stranger's text: no escape sequence of it reaches the screen."""
    assert sealift.run(["create", "x", "-f", "gone\x1b[2J\x07"]) == 1
    err = capsys.readouterr().err
    assert "gone" in err and "\x1b" not in err and "\x07" not in err


def test_a_passphrase_that_cannot_be_asked_for_is_no_fault_of_ours(
    side: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal and without a passphrase an export is refused in words."""
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "correct horse battery staple")
    assert sealift.run(["key", "generate", "locked"]) == 0
    monkeypatch.delenv("SEALIFT_PASSPHRASE")
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code = sealift.run(["bundle", "export", "mine", "-o", "locked-usb", "--sign", "locked"])
    err = capsys.readouterr().err
    assert code in (1, 2, 3, 4), err
    assert "internal error" not in err and "passphrase" in err


# -- JSON

JSON_VERBS: list[tuple[str, ...]] = [
    ("list",),
    ("show", "mine"),
    ("verify",),
    ("scan", "mine"),
    ("audit",),
    ("key", "list"),
    ("key", "show", "alice"),
    ("trust", "list"),
    ("trust", "show"),
    ("trust", "history"),
    ("trust", "import", "chain"),
    ("bundle", "export", "mine", "-o", "usb2", "--sign", "alice"),
    ("bundle", "inspect", "usb"),
    ("bundle", "verify", "usb"),
    ("bundle", "import", "usb"),
    ("bundle", "approve", "usb", "--sign", "alice", "-o", "approval.json"),
    ("bundle", "identity", "-o", "enclave.identity"),
    ("bundle", "repair", "usb"),
    ("bundle", "resend", "slip.txt", "-o", "again"),
    ("inventory", "show", "enclave.inventory"),
    ("bundle", "send", "usb", "--to", "drop"),
    ("receipt", "show", "receipt.txt"),
    ("reconcile", "receipt.txt"),
    ("custody", "show"),
    ("custody", "head"),
    ("custody", "verify"),
    ("access", "add", "wiki"),
    ("access", "list"),
]


@pytest.mark.parametrize("words", JSON_VERBS, ids=" ".join)
def test_json_is_json_and_nothing_else(side: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert sealift.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) is not None


def test_every_verb_with_json_is_tested() -> None:
    """`ps` needs a server, `pull` and `push` a registry, `bench`, `eval` and `prepare` a model that runs, and
    `bundle receive` prints events: their rooms' tests and tests/test_isolation.py run these."""
    have = {verb for verb, command in VERBS.items() if "--json" in options_of(command)}
    tested = {verb for verb in VERBS for words in JSON_VERBS if " ".join(words).startswith(verb)}
    elsewhere = {"ps", "pull", "push", "bench", "eval", "prepare", "bundle receive"}
    assert have == {verb for verb in tested if "--json" in options_of(VERBS[verb])} | elsewhere


# -- the shell


def run(words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "sealift.py"), *words]
    return subprocess.run(command, capture_output="stdout" not in more, text=True, timeout=120, **more)


def test_a_reader_that_leaves_is_no_error(side: Path) -> None:
    """`sealift list | head -0`: the pipe is closed before the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(["list"], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 141), "1 would say that something was refused"


def test_an_output_that_cannot_be_written_is_no_fault_of_ours(side: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(["list"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        4, "sealift: the output could not be written: No space left on device"
    )  # fmt: skip
    command = f'"{sys.executable}" "{ROOT / "sealift.py"}" list >&-'
    assert subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    done = run([], env={**os.environ, "_SEALIFT_COMPLETE": f"source_{shell}"})
    assert done.returncode == 0, done.stderr
    assert "_SEALIFT_COMPLETE" in done.stdout and f"complete_{shell}" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("bash"), reason="the option asks which shell called it, and there is no bash here")
def test_show_completion_serves_the_shell_that_asks() -> None:
    line = f'"{sys.executable}" "{ROOT / "sealift.py"}" --show-completion; exit $?'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "complete_bash" in done.stdout


def test_completion_completes() -> None:
    environment = {
        **os.environ,
        "_SEALIFT_COMPLETE": "complete_bash",
        "COMP_WORDS": "sealift bundle ",
        "COMP_CWORD": "2",
    }
    done = run([], env=environment)
    assert set(done.stdout.split()) == {
        "export",
        "verify",
        "inspect",
        "import",
        "approve",
        "identity",
        "repair",
        "resend",
        "send",
        "receive",
    }


def test_a_refusal_is_json_too(side: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sealift.run(["audit", "no-such-model", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 1 and "not found" in found["error"] and found["hint"]
    (tmp_path / "trust.toml").write_bytes(b"")
    untrusting = sealift.run(["bundle", "verify", str(tmp_path / "nothing"), "--json"])
    assert json.loads(capsys.readouterr().out)["exit_code"] == untrusting != 0
