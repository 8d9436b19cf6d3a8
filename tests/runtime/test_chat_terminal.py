"""The real program in a real terminal: what keys do, what is pasted, what an answer cannot do (contract, 8)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.create import CreateRequest, create
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store
from tests.peers.terminal import Terminal

REAL = Path(os.environ.get("SEALIFT_TEST_MODEL") or "/nonexistent")
TEXT = "Hello <world> & é!"
CTRL_C, CTRL_D = "\x03", "\x04"
PASTE, PASTED = "\x1b[200~", "\x1b[201~"
PROMPT = ">>> "


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(store: Store, script: Script) -> Iterator[Live]:
    with live(store, script) as server:
        yield server


def test_ctrl_c_stops_the_answer_and_not_the_program(store: Store, tmp_path: Path) -> None:
    script = Script(gate=asyncio.Event())  # every answer waits for ever after its first piece
    with live(store, script) as server, Terminal(server.url, tmp_path, "demo", "--nowordwrap") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("tell me\r")
        at = terminal.wait_for("Hel", terminal.wait_for("tell me"))
        terminal.type(CTRL_C)
        terminal.wait_for(PROMPT, at)
        terminal.type("/bye\r")
        assert terminal.process.wait(60) == 0
    assert (script.begun, script.ended) == (1, 1)


def test_a_drawn_prompt_pastes_wraps_fails_and_goes_on(server: Live, script: Script, tmp_path: Path) -> None:
    script.texts = ("\x1b[2J", "\x1b]0;own", "ed\x07 ", "word " * 30)
    with Terminal(server.url, tmp_path, "demo", kind="xterm", COLUMNS="40") as terminal:
        at = terminal.wait_for("Send a message (/? for help)")
        terminal.type("a line to drop")
        terminal.wait_for("drop", at)
        terminal.type(CTRL_C)
        at = terminal.wait_for("Send a message", at)
        assert "Use Ctrl" not in terminal.seen
        terminal.type(CTRL_C)
        terminal.wait_for("Send a message", terminal.wait_for("Use Ctrl + d or /bye to exit.", at))
        terminal.type(f"{PASTE}/bye is no command here\rsecond line{PASTED}\r")
        at = terminal.wait_for("␛[2J␛]0;owned␇ word")
        at = terminal.wait_for("Send a message", at)
        assert "\x1b[2J\x1b" not in terminal.seen and "\x07" not in terminal.seen
        answer = terminal.seen[terminal.seen.index("␛") : at].split("\x1b")[0].splitlines()
        assert len(answer) > 4 and max(len(line.rstrip()) for line in answer) <= 35, answer
        script.texts, script.fail_after = ("begun", "never"), 1
        terminal.type("again\r")
        at = terminal.wait_for("begun\r\nError: ", at)
        at = terminal.wait_for("Send a message", at)
        script.texts, script.fail_after = (TEXT,), None
        terminal.type("and now\r")
        terminal.wait_for(TEXT, at)
        terminal.type("/bye\r")
        assert terminal.process.wait(60) == 0
    history = (tmp_path / "history").read_text()
    assert "+/bye is no command here\n+second line" in history
    assert script.begun == 3


def test_ctrl_g_opens_the_editor_that_is_named_and_nohistory_keeps_quiet(
    server: Live, script: Script, tmp_path: Path
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('printf "written elsewhere" >"$1"\n')
    named = {"OLLAMA_EDITOR": "sh " + str(editor).replace(" ", r"\ "), "OLLAMA_NOHISTORY": "1"}
    with Terminal(server.url, tmp_path / "home", "demo", kind="xterm", **named) as terminal:
        at = terminal.wait_for("Send a message")
        terminal.type("\x07")
        at = terminal.wait_for("written elsewhere", at)
        terminal.type("\r")
        terminal.wait_for("Send a message", terminal.wait_for(TEXT, at))
        terminal.type(CTRL_D)
        assert terminal.process.wait(60) == 0
    assert script.begun == 1 and not (tmp_path / "home/history").exists()


def test_a_terminal_and_a_prompt_ask_once(server: Live, tmp_path: Path) -> None:
    with Terminal(server.url, tmp_path, "demo", "Hi") as terminal:
        terminal.wait_for(TEXT)
        assert terminal.process.wait(60) == 0
        assert PROMPT not in terminal.seen


@pytest.mark.skipif(not REAL.is_file(), reason="needs SEALIFT_TEST_MODEL, the path scripts/model prints")
def test_a_real_model_talks_and_the_talk_is_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    create(store, ModelName.parse("smol"), CreateRequest(files={"m.gguf": store.put_file(REAL)}))
    with live(store) as server, Terminal(server.url, tmp_path / "home", "smol", "--verbose") as terminal:
        at = terminal.wait_for(PROMPT)
        for line in ('/set system """', "You answer", 'with one word."""', "/set parameter num_predict 8"):
            terminal.type(f"{line}\r")
        at = terminal.wait_for("Set parameter 'num_predict' to '8'", at)
        terminal.type("What is the capital of France?\r")
        at = terminal.wait_for("eval rate:", terminal.wait_for("eval count:", at))
        at = terminal.wait_for(PROMPT, at)
        terminal.type("/save kept\r")
        at = terminal.wait_for("Created new model 'kept'", at)
        terminal.type("/load kept\r")
        at = terminal.wait_for("Loading model 'kept'", at)
        at = terminal.wait_for(PROMPT, at)
        terminal.type("/show system\r/show parameters\r")
        terminal.wait_for("num_predict", terminal.wait_for("You answer\r\nwith one word.", at))
        terminal.type("/bye\r")
        assert terminal.process.wait(60) == 0
    with Terminal("127.0.0.1:9", tmp_path / "home", "kept") as terminal:
        terminal.wait_for("could not connect to the sealift server at http://127.0.0.1:9")
        assert terminal.process.wait(60) == 4
