"""The chat: its commands, its prompt, Ctrl-C (contract, 8). The server is real, the model scripted."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from manifests.store import Store
from runtime.address import parse_address
from runtime.chat.printing import Wrapper, facts, statistics
from runtime.chat.repl import chat
from runtime.chat.session import Session
from runtime.client import Client
from runtime.errors import ServerRefused
from runtime.events import TextDelta, ThinkingDelta
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store

ROOT = Path(__file__).parents[2]
TEXT = "Hello <world> & é!"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def server(store: Store, script: Script) -> Iterator[Live]:
    with live(store, script) as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Said(list[str]):
    def __str__(self) -> str:
        return "\n".join(self)


@pytest.fixture
def session(server: Live) -> Iterator[Session]:
    said = Said()
    with Client(parse_address(server.url)) as client:
        yield Session(client=client, model="demo", say=said.append)


def said(session: Session) -> Said:
    found = session.say.__self__  # type: ignore[attr-defined]
    assert isinstance(found, Said)
    return found


def test_a_conversation_grows_by_both_sides(session: Session, script: Script) -> None:
    assert "".join(session.ask("Hi")) == TEXT
    before = len(script.requests[-1].prompt)
    assert "".join(session.ask("And?")) == TEXT
    assert len(script.requests[-1].prompt) > before
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "assistant"]
    assert session.last["done"] is True
    session.handle("/clear")
    assert session.messages == [] and said(session) == ["Cleared session context"]


def test_an_interrupted_answer_is_kept_and_a_failed_one_is_not(session: Session) -> None:
    pieces = session.ask("Hi")
    assert next(pieces) == "Hel"
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": "Hel"}
    session.model = "gone"
    with pytest.raises(ServerRefused, match="model 'gone' not found"):
        list(session.ask("again"))
    assert len(session.messages) == 2


def test_thinking_is_shown_apart_and_not_kept_as_said(session: Session, script: Script) -> None:
    script.events = (ThinkingDelta(text="Hm"), ThinkingDelta(text="m"), TextDelta(text="Yes"), TextDelta(text="."))
    assert "".join(session.ask("Why?")) == "Thinking...\nHmm\n...done thinking.\n\nYes."
    assert session.messages[-1] == {"role": "assistant", "content": "Yes."}
    script.events = (ThinkingDelta(text="Hm"),)
    assert "".join(session.ask("Why?")) == "Thinking...\nHm\n...done thinking.\n\n"
    script.events = None


def test_settings_reach_the_server(session: Session, script: Script) -> None:
    for line in (
        "/set parameter temperature 0.5",
        "/set parameter stop END B",
        "/set parameter seed 7",
        "/set system Be brief.",
    ):
        session.handle(line)
    list(session.ask("Hi"))
    asked = script.requests[-1]
    assert (asked.sampling.temperature, asked.stop, asked.sampling.seed) == (0.5, ("END", "B"), 7)
    assert said(session)[:2] == ["Set parameter 'temperature' to '0.5'", "Set parameter 'stop' to 'END B'"]
    session.handle("/show parameters")
    assert "temperature" in said(session)[-1]
    session.handle("/show system")
    assert said(session)[-1] == "Be brief."


WORDS = [
    ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
    ("/set parameter banana 1", "Couldn't set parameter: unknown parameter 'banana'"),
    ("/set parameter temperature hot", 'Couldn\'t set parameter: option "temperature" must be of type float32'),
    ("/set parameter top_p 7", 'Couldn\'t set parameter: option "top_p" must be from 0 to 1, found 7'),
    ("/set nothink", "Set 'nothink' mode."),
    ("/set think high", "Set 'think' mode to high."),
    ("/set format yaml", "Invalid or missing format. For 'json' mode use '/set format json'"),
    ("/set verbose", "Set 'verbose' mode."),
    ("/show license", "No license was specified for this model."),
    ("/load gone", "Error: model 'gone' not found"),
    ("/load", "Usage:\n  /load <modelname>"),
]


@pytest.mark.parametrize(("line", "last"), WORDS)
def test_commands_answer(session: Session, line: str, last: str) -> None:
    session.handle(line)
    assert said(session)[-1] == last
    assert session.model == "demo"


def test_show_list_help_load_and_save(session: Session, server: Live) -> None:
    session.handle("/show info")
    assert "architecture        llama" in said(session)[-1] and "completion" in said(session)[-1]
    session.handle("/list")
    assert (
        said(session)[-1].splitlines()[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
        and "demo:latest" in said(session)[-1]
    )
    for line in ("/?", "/help", "/help set", "/? shortcuts", "/show", "/set"):
        session.handle(line)
        assert "Available commands" in said(session)[-1] or "Ctrl + d" in said(session)[-1]
    session.handle("/set system Kept.")
    list(session.ask("Hi"))
    session.handle("/save kept")
    assert said(session)[-1] == "Created new model 'kept'"
    shown = session.client.post("/api/show", {"model": "kept"})
    assert shown["system"] == "Kept." and shown["messages"][1]["content"] == TEXT
    session.handle("/load kept")
    assert (session.model, session.messages, session.system) == ("kept", [], "")


def converse(session: Session, typed: str) -> None:
    with create_pipe_input() as keys:
        keys.send_text(typed)
        chat(session, input=keys, output=DummyOutput())


def test_the_prompt_reads_lines_blocks_and_commands(
    session: Session, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    converse(session, 'Hi\r"""one\rtwo"""\r/set system """a\rb"""\r\r/nope\r/bye\r')
    assert [message["content"] for message in session.messages[::2]] == ["Hi", "one\ntwo"]
    assert capsys.readouterr().out.count(TEXT) == 2
    assert session.system == "a\nb"
    assert "Unknown command '/nope'. Type /? for help" in said(session)
    assert "+Hi" in (home / "history").read_text() and (home / "history").stat().st_mode & 0o077 == 0


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(session: Session) -> None:
    converse(session, "half a line\x03\x04")
    assert session.messages == [] and "Use Ctrl + d or /bye to exit." in str(said(session))


def test_nohistory_keeps_what_is_typed_to_itself(session: Session, home: Path) -> None:
    converse(session, "/set nohistory\rsecret words\r/bye\r")
    assert "secret words" not in (home / "history").read_text()


def test_verbose_prints_figures_on_stderr(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.verbose = True
    converse(session, "Hi\r\x04")
    assert "eval rate:" in capsys.readouterr().err


def test_statistics_have_ollamas_lines() -> None:
    last = {
        "total_duration": 1_500_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 130_000_000,
        "eval_count": 3,
        "eval_duration": 2_000_000_000,
    }
    assert statistics(last).splitlines() == [
        "total duration:       1.5s",
        "prompt eval count:    26 token(s)",
        "prompt eval duration: 130ms",
        "prompt eval rate:     200.00 tokens/s",
        "eval count:           3 token(s)",
        "eval duration:        2s",
        "eval rate:            1.50 tokens/s",
    ]
    assert facts({}) == ""


@pytest.mark.parametrize("width", [0, 8, 20])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_wrapping_changes_line_ends_only(width: int, step: int) -> None:
    text = "The quick brown fox\njumps  over 日本語 verylongwordwithoutend.\n\n  done "
    out: list[str] = []
    wrapper = Wrapper(out.append, width)
    for at in range(0, len(text), step):
        wrapper.feed(text[at : at + step])
    wrapper.end()
    written = "".join(out)
    assert written.replace("\n", "") == text.replace("\n", "")
    if width == 20 and step == 100:
        assert written.startswith("The quick brown fox\njumps  over 日本語 \nverylongwordwithoutend.")


# -- the real program in a terminal


class Terminal:
    """`sealift run` under a pseudo-terminal."""

    def __init__(self, server: Live, home: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        env = {
            **os.environ,
            "SEALIFT_HOME": str(home),
            "SEALIFT_HOST": server.url,
            "TERM": "dumb",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(ROOT / "sealift.py"), "run", *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, preexec_fn=_take_terminal
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, after: int = 0) -> int:
        """Reads until `text` appears; returns where it ends."""
        end = time.monotonic() + 60
        while text not in self.seen[after:]:
            assert time.monotonic() < end, f"waited 60 s for {text!r}, saw {self.seen!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:
                    break  # the other side is closed
        return self.seen.index(text, after) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_the_answer_and_not_the_program(store: Store, home: Path) -> None:
    script = Script(gate=asyncio.Event())  # every answer waits for ever after its first piece
    with live(store, script) as server:
        terminal = Terminal(server, home, "demo", "--nowordwrap")
        try:
            terminal.wait_for(">>> ")
            terminal.type("tell me\r")
            at = terminal.wait_for("Hel", terminal.wait_for("tell me"))
            terminal.type("\x03")
            at = terminal.wait_for(">>> ", at)
            terminal.type("/bye\r")
            assert terminal.process.wait(60) == 0
        finally:
            terminal.close()
    assert (script.begun, script.ended) == (1, 1)
