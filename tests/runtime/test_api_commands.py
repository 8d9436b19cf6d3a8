"""The verbs serve, run, ps, stop and show, and the client they use (contract, 7.3 and 8)."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.home import VERSION
from manifests.store import Store
from native.library import KV_TYPES
from runtime import told as settings
from runtime.address import Address, parse_address
from runtime.chat.asking import form_of
from runtime.client import Client
from runtime.commands_serve import serve as serve_verb
from runtime.errors import AddressRefused, RequestRefused, ServerRefused, ServerUnreachable
from runtime.starting import bind
from runtime.told import MAX_QUEUE, Range, Settings, number_setting, resolve, seconds_setting
from tests.peers.live import Live, live
from tests.peers.scripted import Script, small_store

ROOT = Path(__file__).parents[2]
TEXT = "Hello <world> & é!"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Live]:
    with live(store, Script()) as server:
        yield server


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def sealift(*arguments: str, input: str = "", host: str = "", **extra: str) -> Done:
    """One command line in this process, as the door runs it."""
    import sealift as door

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SEALIFT_", "OLLAMA_"))]:
            if name != "SEALIFT_NATIVE_LIBRARY":
                patch.delenv(name)
        for name, value in ({"SEALIFT_HOST": host} | extra).items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = door.run(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


ADDRESSES = [
    ("", "http://127.0.0.1:11434"),
    ("1.2.3.4", "http://1.2.3.4:11434"),
    (":5678", "http://127.0.0.1:5678"),
    ("1.2.3.4:", "http://1.2.3.4:11434"),
    ("http://1.2.3.4", "http://1.2.3.4:80"),
    ("https://1.2.3.4", "https://1.2.3.4:443"),
    ("https://1.2.3.4:1234/", "https://1.2.3.4:1234"),
    ("http://h:1/some/path/", "http://h:1/some/path"),
    ("::1", "http://[::1]:11434"),
    ("[::1]:5", "http://[::1]:5"),
    ("[fe80::1]", "http://[fe80::1]:11434"),
    ("h:66000", "http://h:11434"),
    ("h:x", "http://h:11434"),
    (' "h:7" ', "http://h:7"),
]


@pytest.mark.parametrize(("text", "url"), ADDRESSES)
def test_addresses_are_read_as_ollama_reads_them(text: str, url: str) -> None:
    assert parse_address(text).url == url


def test_what_is_no_address_is_refused() -> None:
    for text in ("ftp://h", "http://u:p@h", "h?x=1", "a b"):
        with pytest.raises(RequestRefused, match="address"):
            parse_address(text)
    assert parse_address("0.0.0.0:1").dialled.url == "http://127.0.0.1:1"


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_refusal(text: str) -> None:
    try:
        address = parse_address(text)
    except RequestRefused:
        return
    assert 0 <= address.port <= 65535 and address.host


def test_a_server_that_is_not_there_is_exit_code_4() -> None:
    with socket.socket() as taken:  # and does not listen
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = sealift("ps", host=f"127.0.0.1:{port}")
        assert done.returncode == 4 and done.stdout == ""
        text = f"could not connect to the sealift server at http://127.0.0.1:{port}, run 'sealift serve' to start it"
        assert done.stderr == f"sealift: {text}\n"
        with Client(parse_address(f"127.0.0.1:{port}")) as client, pytest.raises(ServerUnreachable):
            client.get("/api/tags")


@contextlib.contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]) -> Iterator[Address]:
    """A server that gives `answer`'s status and body to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = answer(self)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield parse_address(f"127.0.0.1:{server.server_port}/under")
        server.shutdown()


def test_the_client_passes_the_servers_sentence_on() -> None:
    answers = {
        "/under/e": (404, b'{"error": "model \'x\' not found", "hint": "pull it"}'),
        "/under/h": (502, b"<html>"),
        "/under/j": (200, b"[1]"),
        "/under/s": (200, b'{"a":1}\n{"error":"broke"}\n'),
    }
    with answering(lambda request: answers[request.path]) as address, Client(address) as client:
        with pytest.raises(ServerRefused, match="model 'x' not found") as caught:
            client.post("/e", {})
        assert (caught.value.http_status, caught.value.hint) == (404, "pull it")
        with pytest.raises(ServerRefused, match="502"):
            client.get("/h")
        with pytest.raises(ServerRefused, match="expected an object"):
            client.get("/j")
        found = []
        with pytest.raises(ServerRefused, match="broke"):
            for line in client.stream("/s", {}):
                found.append(line)
        assert found == [{"a": 1}]


def test_run_asks_once_with_what_is_piped_in_front(server: Live) -> None:
    done = sealift("run", "demo", "Summarise", "this", "--verbose", input="a long report\n", host=server.url)
    assert (done.returncode, done.stdout) == (0, TEXT + "\n")
    assert "eval count:" in done.stderr and "prompt eval rate:" in done.stderr


def test_run_refuses_in_one_sentence(server: Live) -> None:
    gone = sealift("run", "gone", "Hi", host=server.url)
    assert (gone.returncode, gone.stdout, gone.stderr.splitlines()[0]) == (
        1,
        "",
        "sealift: model 'gone:latest' not found",
    )
    assert "sealift: hint: sealift list" in gone.stderr
    assert sealift("run", "demo", "x", "--think=loudly", host=server.url).returncode == 2
    thinking = sealift("run", "demo", "x", "--think=true", host=server.url)
    assert thinking.returncode == 1 and '"demo" does not support thinking' in thinking.stderr
    form = sealift("run", "demo", "x", "--format", "yaml", host=server.url)
    assert form.returncode == 1 and 'invalid format: "yaml"' in form.stderr and "hint: write json" in form.stderr


PIPED = [
    ("a report\n", ("Summarise:",), "a report\n Summarise:"),
    ("a report\n", (), "a report\n"),
    ("", ("two", "words"), "two words"),
    ("", (), ""),
    ("", ("",), ""),
    ("x", ("", "y"), "x  y"),
    ("\x1b é", ("-",), "\x1b é -"),
]


@pytest.mark.parametrize(("piped", "words", "prompt"), PIPED)
def test_what_is_piped_comes_before_the_words(
    server: Live, piped: str, words: tuple[str, ...], prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt is, to the letter, what was piped, a blank and the words; an empty one loads the model."""
    bodies: list[dict[str, object]] = []
    original = Client.stream

    def stream(self: Client, path: str, body: dict[str, object]) -> Iterator[dict[str, object]]:
        bodies.append(body)
        return original(self, path, body)

    monkeypatch.setattr(Client, "stream", stream)
    done = sealift("run", "demo", *words, input=piped, host=server.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT + "\n" if prompt else "", "")
    assert bodies == [{"model": "demo", "prompt": prompt}]


GO_FLAGS = [
    (("--think", "demo", "high"), {"think": True}, "high"),
    (("demo", "--think=high", "hi"), {"think": "high"}, "hi"),
    (("demo", "--think=false", "--verbose=false", "hi"), {"think": False}, "hi"),
    (("--keepalive", "10m", "--hidethinking", "demo", "hi", "--insecure"), {"keep_alive": "10m"}, "hi"),
    (("demo", "--keepalive=-1", "--nowordwrap=true", "hi"), {"keep_alive": -1}, "hi"),
    (("demo", "--format", "json", "--", "--think", "hi"), {"format": "json"}, "--think hi"),
    (("demo", "--format", '{"type":"integer"}', "hi"), {"format": {"type": "integer"}}, "hi"),
]


@pytest.mark.parametrize(("words", "fields", "prompt"), GO_FLAGS)
def test_flags_are_read_as_ollama_reads_them(
    server: Live, words: tuple[str, ...], fields: dict[str, object], prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[dict[str, object]] = []

    def stream(self: Client, path: str, body: dict[str, object]) -> Iterator[dict[str, object]]:
        bodies.append(body)
        yield {"response": "ok"}

    monkeypatch.setattr(Client, "stream", stream)
    assert sealift("run", *words, host=server.url).returncode == 0
    assert bodies == [{"model": "demo", "prompt": prompt, **fields}]


def test_forms_of_an_answer_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}')
    assert form_of(str(path)) == {"type": "object"} and form_of("") is None and form_of("json") == "json"
    path.write_text("[]")
    for wrong, text in (
        (str(path), "expected a JSON schema, an object, found a list"),
        ("{", "not JSON"),
        ("\0", "no file"),
        (str(tmp_path), "no file"),
    ):
        with pytest.raises(RequestRefused, match=text):
            form_of(wrong)
    path.write_text(" " * (128 << 10) + "{}")
    with pytest.raises(RequestRefused, match="more than 131072 bytes"):
        form_of(str(path))


def test_images_are_refused_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.jpg").touch()
    done = sealift("run", "demo", "what is", "./x.jpg?", host="127.0.0.1:9")
    assert done.returncode == 1 and "./x.jpg: the models here read text" in done.stderr


@pytest.mark.parametrize("verb", ["signin", "login", "signout", "logout", "launch"])
def test_what_needs_a_cloud_is_refused_by_name(verb: str) -> None:
    done = sealift(verb, "claude", "--model", "x")
    assert done.returncode == 1 and done.stderr.startswith(f"sealift: {verb}: ") and "sealift: hint: " in done.stderr


def test_help_explains_a_verb() -> None:
    assert "Usage: sealift bundle export" in sealift("help", "bundle", "export").stdout
    assert "bundle" in sealift("help").stdout and sealift("help", "nosuch").returncode == 2


class Stranger(BaseHTTPRequestHandler):
    """A server of somebody else: asks for a key, redirects, says another version."""

    def do_GET(self) -> None:
        status = {"/api/version": 200, "/api/ps": 401}.get(self.path, 302)
        self.send_response(status)
        self.send_header("location", "http://elsewhere/")
        self.end_headers()
        self.wfile.write(b'{"version":"0.9.9\\u001b[2J"}' if status == 200 else b"<html>")

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def stranger() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_version_tells_what_the_server_is(server: Live, store: Store, stranger: str) -> None:
    own = VERSION

    def told(host: str) -> str:
        done = sealift("--version", host=host)
        assert (done.returncode, done.stdout) == (0, f"sealift version is {own}\n")
        return done.stderr

    assert told(server.url).endswith(f"{server.url} is sealift 0, this program is sealift {own}\n")
    assert f"http://{stranger} is Ollama 0.9.9\ufffd[2J, this" in told(stranger)
    assert "warning: could not connect" in told("127.0.0.1:9")
    with live(store, Script(), settings=Settings(version=own)) as same:
        assert told(same.url) == ""


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("", True), ("127.0.0.1:1", True), ("127.9.9.9", True), ("0.0.0.0", True), ("[::]:5", True), ("::1", True),
        ("LocalHost:99", True), ("https://localhost/x", True), (":7", True), ("10.0.0.5", False),
        ("models.corp", False), ("[fe80::1]", False), ("localhost.corp", False), ("https://127.0.0.1.nip.io", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_this_machine(text: str, here: bool) -> None:
    assert parse_address(text).here is here


def test_the_store_of_another_machine_is_asked_of_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """list, show, cp and rm, as Ollama's; nothing of this host is touched, its custody log neither."""
    (tmp_path / "there").mkdir()
    there, home = small_store(tmp_path / "there"), tmp_path / "home"
    own = {"SEALIFT_HOME": str(home), "SEALIFT_MODELS": str(tmp_path / "here")}
    monkeypatch.setattr(Address, "here", False)
    with live(there, Script()) as server:

        def ask(*words: str) -> Done:
            done = sealift(*words, host=server.url, **own)
            assert f"sealift: asks the server at {server.url}\n" in done.stderr
            return done

        listed = json.loads(ask("list", "--json").stdout)
        assert {row["name"]: row["digest"] for row in listed} == {
            name.short: there.manifest(name).digest.hex for name in there.names()
        }
        shown = ask("list", "ACME").stdout.splitlines()
        assert shown[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"] and shown[1].startswith("acme/tuned:v1 ")
        assert ask("cp", "demo", "second:x").stdout == "copied 'demo' to 'second:x'\n"
        assert "second:x" in [name.short for name in there.names()]
        assert "architecture" in ask("show", "second:x").stdout
        assert json.loads(ask("show", "acme/tuned:v1", "--json").stdout)["system"] == "Be brief."
        gone = ask("rm", "second:x", "nope")
        assert (gone.returncode, gone.stdout) == (
            1,
            "deleted 'second:x'\n",
        ) and "'nope:latest' not found" in gone.stderr
        assert ask("rm", "acme/tuned:v1").returncode == 0
        assert {name.short for name in there.names()} == {"demo:latest", "embedder:latest"}
        assert ask("rm", "--unused").returncode == 2
        assert ask("show", "nope").returncode == 1
        made = sealift("create", "x", "-f", "absent", host=server.url, **own)
        assert made.returncode == 1 and "works on the store of this host" in made.stderr
    unreachable = sealift("rm", "demo", host=server.url, **own)
    assert unreachable.returncode == 4 and "SEALIFT_HOST=localhost" in unreachable.stderr
    assert not (tmp_path / "here").exists() and not home.exists()


def test_without_a_host_the_store_of_this_one_is_listed(store: Store, tmp_path: Path) -> None:
    own = {"SEALIFT_HOME": str(tmp_path), "SEALIFT_MODELS": str(store.root)}
    for host in ("", "127.0.0.1:9", "0.0.0.0", "localhost"):
        done = sealift("list", "--json", host=host, **own)
        assert done.stderr == "" and len(json.loads(done.stdout)) == 3
    refused = sealift("list", host="ftp://x", **own)
    assert refused.returncode == 1 and "expected http:// or https://" in refused.stderr


def test_a_connection_that_fails_says_the_next_step(server: Live, stranger: str) -> None:
    key = sealift("ps", host=stranger)
    assert key.returncode == 1 and "401" in key.stderr and "hint: SEALIFT_API_KEY (or OLLAMA_API_KEY)" in key.stderr
    with Client(parse_address(stranger)) as client, pytest.raises(ServerRefused, match="302"):
        client.get("/api/tags")
    tls = sealift("ps", host=f"https://127.0.0.1:{server.port}")
    assert tls.returncode == 4 and "no TLS with https://" in tls.stderr and "http://" in tls.stderr
    unknown = sealift("ps", host="no-such-host.invalid")
    assert unknown.returncode == 4 and "hint: is it running, and is SEALIFT_HOST" in unknown.stderr
    with socket.create_server(("127.0.0.1", 0)) as closing:
        thread = threading.Thread(target=lambda: closing.accept()[0].close())
        thread.start()
        broken = sealift("ps", host=f"127.0.0.1:{closing.getsockname()[1]}")
        thread.join()
    assert broken.returncode == 4 and "hint: if the server speaks TLS: SEALIFT_HOST=https://127" in broken.stderr


def test_an_answer_that_breaks_off_is_no_end() -> None:
    """A chunk that is cut, and a connection that ends between chunks: the lines before it, then the failure."""
    head = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n'
    for end in (b'40\r\n{"b"', b""):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def breaking(listener: socket.socket = listener, end: bytes = end) -> None:
                with listener.accept()[0] as connection:
                    connection.recv(1 << 16)
                    connection.sendall(head + end)

            thread = threading.Thread(target=breaking)
            thread.start()
            found, address = [], parse_address(f"127.0.0.1:{listener.getsockname()[1]}")
            with Client(address) as client, pytest.raises(ServerUnreachable, match="broke"):
                for line in client.stream("/api/chat", {}):
                    found.append(line)
            thread.join()
        assert found == [{"a": 1}]


def test_a_key_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_API_KEY", "a\r\nX: b")
    with pytest.raises(RequestRefused, match="SEALIFT_API_KEY"):
        Client(parse_address("h"))


def test_keys_are_sent_as_a_bearer() -> None:
    seen: list[str | None] = []

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        seen.append(request.headers.get("authorization"))
        return 200, b"{}"

    for named, sent in (
        ({}, None),
        ({"OLLAMA_API_KEY": "o"}, "Bearer o"),
        ({"OLLAMA_API_KEY": "o", "SEALIFT_API_KEY": "s"}, "Bearer s"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("OLLAMA_API_KEY", "SEALIFT_API_KEY"):
                patch.delenv(name, raising=False)
            for name, value in named.items():
                patch.setenv(name, value)
            with answering(answer) as address, Client(address) as client:
                client.get("/api/ps")
        assert seen[-1] == sent


def test_ps_and_stop(server: Live) -> None:
    assert sealift("run", "demo", "Hi", "--keepalive", "-1", host=server.url).returncode == 0
    shown = sealift("ps", host=server.url).stdout.splitlines()
    assert shown[0].split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert "demo:latest" in shown[1] and "100% CPU" in shown[1] and shown[1].endswith("Forever")
    listed = json.loads(sealift("ps", "--json", host=server.url).stdout)
    assert [model["name"] for model in listed] == ["demo:latest"]
    assert sealift("stop", "demo", host=server.url).returncode == 0
    assert json.loads(sealift("ps", "--json", host=server.url).stdout) == []
    unknown = sealift("stop", "gone", host=server.url)
    assert unknown.returncode == 1 and 'couldn\'t find model "gone" to stop' in unknown.stderr


def test_show_needs_no_server(store: Store) -> None:
    models = {"SEALIFT_MODELS": str(store.root)}
    shown = sealift("show", "acme/tuned:v1", **models)
    assert shown.returncode == 0 and "architecture" in shown.stdout and "temperature" in shown.stdout
    assert sealift("show", "acme/tuned:v1", "--system", **models).stdout == "Be brief.\n"
    assert json.loads(sealift("show", "demo", "--json", **models).stdout)["details"]["family"] == "llama"
    assert "tokenizer.ggml.tokens" in sealift("show", "demo", "--verbose", **models).stdout
    assert sealift("show", "demo", "--system", "--license", **models).returncode == 2
    assert sealift("show", "gone", **models).returncode == 1


def start(store: Store, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """`sealift serve` on a free port; its address."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "SEALIFT_MODELS": str(store.root), "SEALIFT_HOST": ""}
    command = [sys.executable, str(ROOT / "sealift.py"), "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=env)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("sealift: listening on http://127.0.0.1:"), line + process.stderr.read()
    return process, line.split()[3].rstrip(",")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_where_it_listens_and_leaves_on_a_signal(store: Store, number: int) -> None:
    process, url = start(store)
    try:
        assert len(httpx.get(f"{url}/api/tags", timeout=60).json()["models"]) == 3
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
        assert " info request id=" in line and " route=/api/tags status=200 " in line
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_told_and_exit_code_4(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = sealift("serve", host=f"127.0.0.1:{port}", SEALIFT_MODELS=str(store.root))
        assert done.returncode == 4 and f"cannot listen on http://127.0.0.1:{port}: the port is in use" in done.stderr
        assert "hint: is a server running already?" in done.stderr
    with pytest.raises(AddressRefused, match="cannot listen on"):
        bind(parse_address("no-such-host.invalid"))


def test_flags_come_before_the_environment_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "-1")
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "7")
    monkeypatch.setenv("SEALIFT_CONTEXT_LENGTH", "2048")
    told = resolve(parse_address(""))
    assert (told.keep_alive, told.max_queue, told.settings.context_length, told.settings.parallel) == (-1.0, 7, 2048, 0)
    told = resolve(parse_address(""), threads=2, keep_alive="90", load_timeout="0", max_queue=3, batch_rows=64)
    assert (told.keep_alive, told.load_timeout, told.max_queue) == (90.0, 0.0, 3)
    assert (told.settings.threads, told.settings.batch_rows) == (2, 64)
    with pytest.raises(RequestRefused, match="TLS needs a certificate"):
        resolve(parse_address("https://h"))
    monkeypatch.setenv("SEALIFT_MAX_QUEUE", "many")
    with pytest.raises(RequestRefused, match="SEALIFT_MAX_QUEUE"):
        number_setting(MAX_QUEUE)
    monkeypatch.setenv("SEALIFT_LOAD_TIMEOUT", "soon")
    with pytest.raises(RequestRefused, match="SEALIFT_LOAD_TIMEOUT"):
        seconds_setting("LOAD_TIMEOUT", "5m")
    with pytest.raises(RequestRefused, match=r"--keep-alive: .*soon"):
        seconds_setting("KEEP_ALIVE", "5m", "soon")


def test_kinds_of_keys_and_values_that_are_not_kept_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(KV_TYPES) == settings.KV_TYPES
    assert resolve(parse_address("")).settings.kv_type == "f16"
    monkeypatch.setenv("OLLAMA_KV_CACHE_TYPE", "Q8_0")
    assert resolve(parse_address("")).settings.kv_type == "q8_0"
    assert resolve(parse_address(""), kv_cache_type="f16").settings.kv_type == "f16"
    monkeypatch.setenv("OLLAMA_KV_CACHE_TYPE", "q4_0")
    with pytest.raises(RequestRefused, match=r"SEALIFT_KV_CACHE_TYPE \(or OLLAMA_KV_CACHE_TYPE\): .*'q4_0'"):
        resolve(parse_address(""))
    with pytest.raises(RequestRefused, match=r"--kv-cache-type: .*'bf16'"):
        resolve(parse_address(""), kv_cache_type="bf16")


RANGES = {
    flag: getattr(settings, name)
    for flag, name in {
        "threads": "THREADS", "parallel": "PARALLEL", "context_length": "CONTEXT", "batch_rows": "BATCH_ROWS",
        "max_queue": "MAX_QUEUE", "max_loaded": "MAX_LOADED",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("flag", RANGES)
@pytest.mark.parametrize("prefix", ["SEALIFT", "OLLAMA"])
def test_every_number_has_a_range_that_flag_and_environment_share(
    flag: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of: Range = RANGES[flag]
    option = inspect.signature(serve_verb).parameters[flag].default
    assert option.max == of.high and option.min in (of.low, of.also)
    for value in (of.low, of.high):
        monkeypatch.setenv(f"{prefix}_{of.name}", str(value))
        assert number_setting(of) == value
    for value in (of.low - 1, of.high + 1):
        monkeypatch.setenv(f"{prefix}_{of.name}", str(value))
        if value != of.also:
            with pytest.raises(
                RequestRefused, match=rf"SEALIFT_{of.name} \(or OLLAMA_{of.name}\): .* {of.low} to {of.high}"
            ):
                number_setting(of)
