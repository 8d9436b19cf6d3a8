"""Open WebUI itself, started with the settings of docs/compatibility.md on an empty folder, and asked as its page asks:
through its connection to Ollama's API, and through one to /v1. Then its page, in a browser, where Chromium and
playwright-core are here."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from common import ADDRESS, EMBEDDER, MODEL, check, refused, report, same, vectors
from questions import CALL, HELLO, SEED, TEXTS, TOKENS, TOOLS, examples

LIMIT_S = 150  # to start, on a machine that is busy
PERSON = {"name": "officer", "email": "officer@port.example", "password": "a ship at anchor"}
HARBOUR = "The harbour master of Port Ferrow is called Ysolde Marr. She counts the ships every morning."
DRAWN = {"temperature": 0, "seed": SEED, "max_tokens": TOKENS}
FULL, BY_V1, LEAVING = f"{MODEL}:latest", f"v1.{MODEL}:latest", "leaving:latest"
SETTINGS = {
    "OLLAMA_BASE_URL": ADDRESS,
    "ENABLE_OPENAI_API": "False",
    "OFFLINE_MODE": "True",
    "RAG_EMBEDDING_ENGINE": "ollama",
    "RAG_EMBEDDING_MODEL": f"{EMBEDDER}:latest",
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
    "WEBUI_SECRET_KEY": "for one test",
    "TASK_MODEL_PARAMS": json.dumps(DRAWN),  # titles and queries: a small model does not come to an end by itself
}


class WebUI:
    """`address` without a slash at its end; `token` once somebody has signed up."""

    def __init__(self, address):
        self.address, self.token = address, ""

    def text(self, path, body=None, kind="application/json"):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        request = urllib.request.Request(self.address + path, data, headers)
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.read().decode()

    def ask(self, path, body=None, kind="application/json"):
        return json.loads(self.text(path, body, kind))

    def stream(self, body):
        """The chunks of a streamed answer; what is no chunk (sources) too."""
        lines = self.text("/api/chat/completions", body | {"stream": True}).splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    def upload(self, name, text):
        """The file's id, once it is cut, embedded and kept."""
        edge = "an-edge"
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain'
        body = f"--{edge}\r\n{head}\r\n\r\n{text}\r\n--{edge}--\r\n".encode()
        path = "/api/v1/files/?process=true&process_in_background=false"
        return self.ask(path, body, f"multipart/form-data; boundary={edge}")["id"]


def ours(method, path, body):
    """Of the server itself, beside Open WebUI."""
    request = urllib.request.Request(ADDRESS + path, json.dumps(body).encode(), method=method)
    urllib.request.urlopen(request, timeout=60).close()


def started(home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("open-webui")
    environment = dict(os.environ) | SETTINGS | {"DATA_DIR": str(home / "data")}
    with (home / "open-webui.log").open("w") as log:
        command = [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log), f"http://127.0.0.1:{port}"


def answers(process, webui):
    """Waits until it does; its end, or the limit, ends the wait."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        try:
            return check("lists", webui.ask("/health")["status"])
        except OSError:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        break
    raise SystemExit(f"Open WebUI did not start: {Path('open-webui.log').read_text()[-2000:]}")


def connect(webui):
    """The first who signs up is its administrator; one connection is there by SETTINGS, the other is added."""
    person = webui.ask("/api/v1/auths/signup", PERSON)
    webui.token = person["token"]
    check("lists", person["role"], "admin")
    config = {"ENABLE_OPENAI_API": True, "OPENAI_API_BASE_URLS": [f"{ADDRESS}/v1"], "OPENAI_API_KEYS": ["none"]}
    webui.ask("/openai/config/update", config | {"OPENAI_API_CONFIGS": {"0": {"enable": True, "prefix_id": "v1"}}})
    found = {one["id"]: one["owned_by"] for one in webui.ask("/api/models?refresh=true")["data"]}
    check("lists", (found.get(FULL), found.get(BY_V1)), ("ollama", "openai"))
    check("lists", FULL in [one["model"] for one in webui.ask("/ollama/api/tags")["models"]])
    check("lists", webui.ask("/ollama/api/version")["version"].count("."), 2)


def talk(webui, model):
    asked = {"model": model, "messages": HELLO, "params": DRAWN}
    whole = webui.ask("/api/chat/completions", asked | {"stream": False})
    chunks = webui.stream(asked)
    same(parts := [one["choices"][0]["delta"].get("content") or "" for one in chunks], said(whole)["content"])
    check("streaming", chunks[-1]["choices"][0]["finish_reason"], "length")
    check("usage", whole["usage"]["completion_tokens"], TOKENS)
    called = said(webui.ask("/api/chat/completions", tooled(model) | {"stream": False}))["tool_calls"]
    check("tools", [(one["function"]["name"], json.loads(one["function"]["arguments"])) for one in called], [CALL])
    streamed = [one["choices"][0]["delta"].get("tool_calls") for one in webui.stream(tooled(model))]
    check("tools", [call["function"]["name"] for calls in streamed if calls for call in calls], [CALL[0]])
    return "".join(parts)


def tooled(model):
    return {"model": model, "messages": examples(as_text=True), "tools": TOOLS, "params": {"temperature": 0}}


def said(answer):
    return answer["choices"][0]["message"]


def leaves(webui):
    """A model that Open WebUI lists and that is gone when it is asked for: our words reach whoever asks."""
    ours("POST", "/api/copy", {"source": MODEL, "destination": LEAVING})
    listed = [one["id"] for one in webui.ask("/api/models?refresh=true")["data"]]
    ours("DELETE", "/api/delete", {"model": LEAVING})
    check("errors", {LEAVING, f"v1.{LEAVING}"} <= set(listed))
    for model in (LEAVING, f"v1.{LEAVING}"):
        for stream in (True, False):
            asked = {"model": model, "messages": HELLO, "stream": stream}
            refused(Told, lambda asked=asked: told(webui, asked), f"model '{LEAVING}' not found", "404")
    webui.ask("/api/models?refresh=true")


class Told(Exception):
    """What a person reads."""


def told(webui, asked):
    try:
        webui.text("/api/chat/completions", asked)
    except urllib.error.HTTPError as error:
        raise Told(f"{error.code} {error.read().decode()}") from None


def documents(webui):
    """A text is cut, embedded by us and kept; a question about it finds it, and the answer names it."""
    vectors(webui.ask("/ollama/api/embed", {"model": f"{EMBEDDER}:latest", "input": TEXTS})["embeddings"])
    file = webui.upload("harbour.txt", HARBOUR)
    asked = {"collection_name": f"file-{file}", "query": "Who is the harbour master?", "k": 1}
    check("search", webui.ask("/api/v1/retrieval/query/doc", asked)["documents"], [[HARBOUR]])
    question = {"model": FULL, "messages": [{"role": "user", "content": asked["query"]}], "params": DRAWN}
    chunks = webui.stream(question | {"files": [{"type": "file", "id": file, "name": "harbour.txt"}]})
    check("search", chunks[0]["sources"][0]["document"], [HARBOUR])
    check("search", any(one["choices"][0]["delta"].get("content") for one in chunks[1:]))


def titled(webui, answer):
    talk = [*HELLO, {"role": "assistant", "content": answer}]
    found = webui.ask("/api/v1/tasks/title/completions", {"model": FULL, "messages": talk, "chat_id": "none"})
    check("title", bool(said(found)["content"]))


def page(webui, home):
    """Where there is no browser, nothing is checked. What the page shows is the whole answer, and is kept."""
    modules, browser = os.environ.get("SEALIFT_NODE_MODULES", ""), shutil.which("chromium")
    if not browser or not shutil.which("node") or not Path(modules, "playwright-core").is_dir():
        return
    sailor = {"id": "sailor", "base_model_id": FULL, "name": "sailor", "meta": {}, "params": DRAWN}
    webui.ask("/api/v1/models/create", sailor)
    given = {"address": webui.address, "model": "sailor", "question": HELLO[0]["content"], "browser": browser}
    command = ["node", str(Path(__file__).with_name("page_open_webui.mjs")), json.dumps(given | PERSON)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=home)
    if done.returncode:
        raise SystemExit(f"page: {done.stderr[-2000:]}")
    shown = json.loads(done.stdout)
    check("page", set(shown["origins"]), {webui.address})
    (chat,) = webui.ask("/api/v1/chats/?page=1")
    kept = webui.ask(f"/api/v1/chats/{chat['id']}")["chat"]["history"]["messages"].values()
    (answer,) = [one for one in kept if one["role"] == "assistant"]
    check("page", (answer.get("error"), answer["content"].split()), (None, shown["answer"].split()))


home = Path.cwd()
process, address = started(home)
try:
    webui = WebUI(address)
    answers(process, webui)
    connect(webui)
    first = talk(webui, FULL)
    check("streaming", talk(webui, BY_V1), first)
    leaves(webui)
    documents(webui)
    titled(webui, first)
    page(webui, home)
finally:
    process.terminate()
    process.wait(30)
report("open-webui")
