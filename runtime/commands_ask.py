"""The verbs that ask a server: run, ps, stop. Arguments and printing only.

Flags are read as Ollama's command reads them: `--verbose=false`, `--truncate=false`, and `--think` alone or with
`=LEVEL`, which never takes the next word.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from runtime.errors import ModelNotFound, RequestRefused, RuntimeFailure, ServerRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.chat.session import Session

JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
ANSWER_WITHIN = 1.0  # seconds that `--version` waits for a server


class GoFlags(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*self._plain(args)])

    def _plain(self, args: list[str]) -> Iterator[str]:
        """`args` as this library reads them."""
        off: dict[str, str] = {}
        for option in self.params:
            if getattr(option, "is_flag", False):
                other = [*option.secondary_opts, *[""] * len(option.opts)]
                off |= dict(zip(option.opts, other, strict=False))
        for place, arg in enumerate(args):
            name, equals, value = arg.partition("=")
            if arg == "--":
                yield from args[place:]
                return
            if equals and name in off:
                if value not in TRUE + FALSE:
                    raise typer.BadParameter(f"{name}: expected true or false, found {value[:20]!r}")
                yield from [name] if value in TRUE else [off[name]] if off[name] else []
            else:
                yield "--think=true" if arg == "--think" else arg


def register(app: typer.Typer) -> None:
    app.command("run", cls=GoFlags)(run)
    app.command("ps")(ps)
    app.command("stop")(stop)


def run(
    model: str = typer.Argument(help="The model to ask."),
    prompt: list[str] | None = typer.Argument(
        None, metavar="[PROMPT]...", help="The question; without one, at a terminal, a chat begins."
    ),
    verbose: bool = typer.Option(False, "--verbose", help="Print statistics after the answer."),
    form: str = typer.Option(
        "", "--format", help="Form of the answer: json, a JSON schema, or the path of a file that holds one."
    ),
    keepalive: str = typer.Option("", help="How long the model stays loaded: 5m, -1 for ever."),
    think: str = typer.Option(
        "", metavar="[=LEVEL]", help="Let the model think first: alone, or =true, =false, =high, =medium, =low, =max."
    ),
    hidethinking: bool = typer.Option(False, "--hidethinking", help="Let it think, and show only the answer."),
    nowordwrap: bool = typer.Option(False, "--nowordwrap", help="Let the terminal break lines."),
    truncate: bool = typer.Option(True, help="Embedding models: cut a text that is longer than the context."),
    dimensions: int = typer.Option(0, min=0, help="Embedding models: only this many values of the vector, 0 for all."),
    insecure: bool = typer.Option(False, "--insecure", help="Without effect: a model that is not here is not pulled."),
) -> None:
    """Ask a model one question, or chat with it. An embedding model prints the text's vector, a JSON array.

    Text piped in comes before the words of the command line; without either, the model is loaded. In the chat, /?
    helps and /bye leaves. Examples:

    \b
        sealift run demo "Why is the sky blue?"
        sealift run demo "Summarise:" < report.txt
        sealift run demo --format schema.json --think=high "The capital of Peru"
        sealift run demo
    """
    from runtime.chat import asking
    from runtime.chat.screen import say
    from runtime.chat.session import Session
    from runtime.client import Client

    words = prompt or []
    typed = sys.stdin.isatty()
    text = "" if typed else asking.piped()
    question = " ".join([text, *words] if text else words)
    asking.refuse_images(" ".join(words))
    settings: dict[str, Any] = {"think": _think(think), "keep_alive": _keep_alive(keepalive)}
    settings |= {"format": asking.form_of(form), "hide_thinking": hidethinking, "verbose": verbose}
    with Client() as client:
        shown = client.post("/api/show", {"model": model})
        if "completion" not in (can := shown.get("capabilities", ["completion"])) and "embedding" in can:
            vector = {"truncate": truncate, "dimensions": dimensions, "keep_alive": settings["keep_alive"]}
            print(_vector(client, model, question, vector))
            return
        session = Session(client=client, model=model, say=say, wordwrap=not nowordwrap and typed, **settings)
        if typed and sys.stdout.isatty() and not words:
            _chat(session, shown.get("messages") or [])
        else:
            _once(session, question)


def ps(prefix: str = typer.Argument("", help="Only models whose name begins with this."), as_json: bool = JSON) -> None:
    """List the models that are loaded, and for how long."""
    from manifests.display import printable, size_text, table
    from runtime.client import Client

    with Client() as client:
        models = [model for model in client.get("/api/ps")["models"] if model["name"].startswith(prefix)]
    if as_json:
        print(json.dumps(models, indent=2))
        return
    rows = [
        (
            model["name"],
            model["digest"][:12],
            size_text(model["size"]),
            _processor(model["size"], model["size_vram"]),
            str(model["context_length"]),
            _until(model["expires_at"]),
        )
        for model in models
    ]
    print(printable(table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)))


def stop(model: str = typer.Argument(help="The model to unload.")) -> None:
    """Unload a model. Answers under way are finished first."""
    from runtime.client import Client

    with Client() as client:
        try:
            client.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
        except ServerRefused as error:
            if error.http_status == 404:
                text = f'couldn\'t find model "{model}" to stop'
                raise ModelNotFound(text, hint="sealift ps shows what is loaded") from None
            raise


def compare_server(own: str, say: Callable[[str], None]) -> None:
    """For `--version`: says that no server answers, or that it is another version than this program."""
    from runtime.client import Client

    try:
        with Client(connect_within=ANSWER_WITHIN) as client:
            theirs, url = client.server(ANSWER_WITHIN), client.address.url
    except RuntimeFailure as error:
        say(f"warning: {error}")
        return
    if theirs != f"sealift {own}":
        say(f"warning: the server at {url} is {theirs}, this program is sealift {own}")


# -- helpers


def _vector(client: Any, model: str, text: str, settings: dict[str, Any]) -> str:
    if not text:
        hint = f'sealift run {model} "a text"'
        raise RequestRefused(f"{model} is an embedding model: it needs a text", hint=hint)
    given = {name: value for name, value in settings.items() if value is not None}
    vectors = client.post("/api/embed", {"model": model, "input": text, **given})["embeddings"]
    return json.dumps(vectors[0], separators=(",", ":"))


def _once(session: Session, question: str) -> None:
    """One question through /api/generate, as Ollama's command does: the model's own MESSAGEs come first there too."""
    from runtime.chat.answer import print_answer
    from runtime.chat.printing import statistics
    from runtime.chat.screen import write

    print_answer(session.once(question), wordwrap=session.wordwrap, hide_thinking=session.hide_thinking)
    if question:
        write("\n")
    if session.verbose:
        sys.stderr.write("\n" + statistics(session.last))


def _chat(session: Session, messages: list[dict[str, Any]]) -> None:
    from runtime.chat.repl import chat, opening
    from runtime.chat.screen import Waiting

    waiting = Waiting()
    try:
        session.load()
    finally:
        waiting.stop()
    opening(messages, wordwrap=session.wordwrap)
    chat(session)


def _think(text: str) -> Any:
    from runtime.chat.commands import THINK

    if text and text not in THINK:
        levels = "true, false, high, medium, low or max"
        raise typer.BadParameter(f"--think: expected {levels}, found {text[:20]!r}")
    return THINK[text] if text else None


def _keep_alive(text: str) -> Any:
    from runtime.chat.commands import keep_alive_value

    return keep_alive_value(text) if text else None


def _processor(size: int, on_gpu: int) -> str:
    if not size:
        return "Unknown"
    share = round(100 * (size - on_gpu) / size)
    return "100% CPU" if share == 100 else "100% GPU" if share == 0 else f"{share}%/{100 - share}% CPU/GPU"


def _until(text: str) -> str:
    from datetime import datetime, timezone

    from runtime.chat.commands import short_fraction
    from runtime.chat.printing import distance

    moment = datetime.fromisoformat(short_fraction(text))
    return distance(moment) if moment >= datetime.now(timezone.utc) else "Stopping..."
