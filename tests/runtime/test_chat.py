"""The chat: its commands, its prompt, Ctrl-C (contract, 8). The server is real, the model scripted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from manifests.store import Store
from runtime.address import parse_address
from runtime.chat.answer import Part, Parts, print_answer
from runtime.chat.commands import handle
from runtime.chat.repl import chat, opening
from runtime.chat.session import Session
from runtime.chat.texts import HELP_PARAMETERS, HELP_SET, HELP_SHORTCUTS
from runtime.client import Client
from runtime.errors import ServerRefused
from runtime.events import TextDelta, ThinkingDelta
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store

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


def text(parts: Parts) -> str:
    return "".join(part.text for part in parts)


def said(session: Session) -> Said:
    found = session.say.__self__  # type: ignore[attr-defined]
    assert isinstance(found, Said)
    return found


def test_a_conversation_grows_by_both_sides(session: Session, script: Script) -> None:
    assert text(session.ask("Hi")) == TEXT
    before = len(script.requests[-1].prompt)
    assert text(session.ask("And?")) == TEXT
    assert len(script.requests[-1].prompt) > before
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "assistant"]
    assert session.last["done"] is True
    handle(session, "/clear")
    assert session.messages == [] and said(session) == ["Cleared session context"]


def test_an_interrupted_answer_is_kept_and_a_failed_one_is_not(session: Session) -> None:
    pieces = session.ask("Hi")
    assert next(pieces) == Part(text="Hel")
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": "Hel"}
    session.model = "gone"
    with pytest.raises(ServerRefused, match="model 'gone' not found"):
        list(session.ask("again"))
    assert len(session.messages) == 2


def test_thinking_is_shown_apart_and_not_kept_as_said(
    session: Session, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.events = (ThinkingDelta(text="Hm"), ThinkingDelta(text="m"), TextDelta(text="Yes"), TextDelta(text="."))
    print_answer(session.ask("Why?"), wordwrap=False)
    assert capsys.readouterr().out == "Thinking...\nHmm\n...done thinking.\n\nYes."
    assert session.messages[-1] == {"role": "assistant", "content": "Yes."}
    script.events = (ThinkingDelta(text="Hm"),)
    print_answer(session.ask("Why?"), wordwrap=False)
    assert capsys.readouterr().out == "Thinking...\nHm\n...done thinking.\n\n"
    script.events = None


def test_settings_reach_the_server(session: Session, script: Script) -> None:
    for line in (
        "/set parameter temperature 0.5",
        "/set parameter stop END B",
        "/set parameter seed 7",
        "/set system Be brief.",
    ):
        handle(session, line)
    list(session.ask("Hi"))
    asked = script.requests[-1]
    assert (asked.sampling.temperature, asked.stop, asked.sampling.seed) == (0.5, ("END", "B"), 7)
    assert said(session)[:2] == ["Set parameter 'temperature' to '0.5'", "Set parameter 'stop' to 'END, B'"]
    handle(session, "/show parameters")
    assert "temperature" in said(session)[-1]
    handle(session, "/show system")
    assert said(session)[-1] == "Be brief."


WORDS = [
    ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
    ("/set parameter banana 1", "Couldn't set parameter: unknown parameter 'banana'"),
    ("/set parameter temperature hot", 'Couldn\'t set parameter: option "temperature" must be of type float32'),
    ("/set parameter top_p 7", 'Couldn\'t set parameter: option "top_p" must be from 0 to 1, found 7'),
    ("/set nothink", "Set 'nothink' mode."),
    ("/set think high", "Set 'think' mode to 'high'."),
    ("/set format yaml", "Invalid or missing format. For 'json' mode use '/set format json'"),
    ("/set verbose", "Set 'verbose' mode."),
    ("/show license", "No license was specified for this model."),
    ("/load gone", "Couldn't find model 'gone'"),
    ("/load", "Usage:\n  /load <modelname>"),
    ("/load two words", "Usage:\n  /load <modelname>"),
    ("/save", "Usage:\n  /save <modelname>"),
    ("/save b@d", "error: The model name 'b@d' is invalid"),
    ("/show nonsense", "Unknown command '/show nonsense'. Type /? for help"),
    ("/show system", "No system message was specified for this model."),
    ("/set nonsense", "Unknown command '/set nonsense'. Type /? for help"),
    ("/set think loudly", "Unknown think level 'loudly'. Use high, medium, low or max."),
    ("/set system", HELP_SET),
    ("/set parameter seed", HELP_PARAMETERS),
    ("/set noformat", "Disabled format."),
    ("/set quiet", "Set 'quiet' mode."),
    ("/set nowordwrap", "Set 'nowordwrap' mode."),
    ("/? shortcuts", HELP_SHORTCUTS),
]


@pytest.mark.parametrize(("line", "last"), WORDS)
def test_commands_answer(session: Session, line: str, last: str) -> None:
    handle(session, line)
    assert said(session)[-1] == last
    assert session.model == "demo"


def test_parameters_are_shown_as_the_server_tells_them(session: Session) -> None:
    told = "Model defined parameters:\n"
    stops = [f'  {"stop":<30} "<|im_{end}|>"\n' for end in ("start", "end")]
    handle(session, "/show parameters")
    assert said(session)[-1] == told + "".join(stops)
    session.client.post("/api/create", {"model": "bare", "from": "demo", "parameters": {"stop": []}, "stream": False})
    session.model = "bare"
    handle(session, "/show parameters")
    assert said(session)[-1] == told + "  No additional parameters were specified for this model.\n"


def test_show_list_help_load_and_save(session: Session, server: Live) -> None:
    handle(session, "/show info")
    assert "architecture        llama" in said(session)[-1] and "completion" in said(session)[-1]
    handle(session, "/list")
    assert (
        said(session)[-1].splitlines()[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
        and "demo:latest" in said(session)[-1]
    )
    for line in ("/?", "/help", "/help set", "/? shortcuts", "/show", "/set"):
        handle(session, line)
        assert "Available commands" in said(session)[-1] or "Ctrl + d" in said(session)[-1]
    handle(session, "/set system Kept.")
    list(session.ask("Hi"))
    handle(session, "/save kept")
    assert said(session)[-1] == "Created new model 'kept'"
    shown = session.client.post("/api/show", {"model": "kept"})
    assert shown["system"] == "Kept." and shown["messages"][1]["content"] == TEXT
    handle(session, "/load kept")
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
    assert session.messages == [] and said(session) == []
    converse(session, "\x03\x04")
    assert said(session) == ["\nUse Ctrl + d or /bye to exit."]


def test_nohistory_keeps_what_is_typed_to_itself(session: Session, home: Path) -> None:
    converse(session, "/set nohistory\rsecret words\r/bye\r")
    assert "secret words" not in (home / "history").read_text()


def test_verbose_prints_figures_on_stderr(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.verbose = True
    converse(session, "Hi\r\x04")
    assert "eval rate:" in capsys.readouterr().err


def test_a_block_or_a_paste_is_a_message_whatever_it_begins_with(session: Session) -> None:
    converse(session, '"""/bye"""\r""""""\r"""\r/set nothing\rsaid "quoted" """\rsay """hi"""\r/bye\r')
    asked = [message["content"] for message in session.messages[::2]]
    assert asked == ["/bye", '/set nothing\nsaid "quoted" ', 'say """hi"""']


def test_saving_keeps_what_the_model_began_with(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    begins = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I, a bot."}]
    session.client.post("/api/create", {"model": "begun", "from": "demo", "messages": begins, "stream": False})
    session.model = "begun"
    list(session.ask("Hi"))
    session.messages[-1]["tool_calls"] = [{"function": {"name": "x", "arguments": {}}}]
    handle(session, "/set parameter temperature 1")
    handle(session, "/save grown")
    assert said(session)[-1] == "Created new model 'grown'"
    shown = session.client.post("/api/show", {"model": "grown"})
    assert shown["messages"] == [*begins, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": TEXT}]
    assert shown["parameters"].splitlines()[-1].split() == ["temperature", "1"]  # no fraction, as in Go
    opening(begins, wordwrap=True)
    assert capsys.readouterr().out == ">>> Who?\nI, a bot.\n\n"


def test_images_are_refused_by_name_and_other_paths_are_words(session: Session, tmp_path: Path) -> None:
    picture = tmp_path / "a picture.PNG"
    picture.write_bytes(b"")
    escaped = str(picture).replace(" ", "\\ ")
    converse(session, f"what is on {escaped} ?\r{escaped}\r/not/here.png\rread /not/here.png\r/bye\r")
    refused = f"Error: {picture}: the models here read text, no images and no sound"
    assert [line.splitlines()[0] for line in said(session)] == [
        refused, refused, "Unknown command '/not/here.png'. Type /? for help"
    ]  # fmt: skip
    assert [message["content"] for message in session.messages[::2]] == ["read /not/here.png"]


def test_an_error_in_the_middle_is_said_and_the_chat_goes_on(session: Session, script: Script) -> None:
    script.fail_after = 1
    converse(session, "Hi\r\x04")
    script.fail_after = None
    assert said(session)[-1].startswith("Error: ") and session.messages == []
    assert text(session.ask("Hi")) == TEXT
