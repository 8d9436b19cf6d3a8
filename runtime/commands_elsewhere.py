"""Verbs of Ollama's command that make no sense beside an air gap: each is refused by name, with what to do instead."""

from __future__ import annotations

from collections.abc import Callable

import typer

from runtime.errors import RequestRefused

ACCOUNT = "accounts are ollama.com's, and nothing here asks it"
ELSEWHERE = {
    "signin": (ACCOUNT, "keys of this host's server: sealift access add"),
    "login": (ACCOUNT, "keys of this host's server: sealift access add"),
    "signout": (ACCOUNT, "a key is taken away by sealift access revoke"),
    "logout": (ACCOUNT, "a key is taken away by sealift access revoke"),
    "launch": (
        "programs of others are not set up from here",
        "give them http://HOST:11434/v1 (OpenAI's clients), http://HOST:11434 (Anthropic's) or OLLAMA_HOST",
    ),
}
ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    for verb, (reason, hint) in ELSEWHERE.items():
        app.command(verb, hidden=True, context_settings=ANYTHING)(_refusal(verb, reason, hint))
    app.command("help", hidden=True)(help_)


def help_(
    ctx: typer.Context, verb: list[str] = typer.Argument(None, help="The verb to explain; none: all of them.")
) -> None:
    """Explain a verb, as `--help` does."""
    words = verb or []
    parent, command = ctx.parent, ctx.parent.command if ctx.parent else ctx.command
    path = "sealift"
    for word in words:
        found = getattr(command, "commands", {}).get(word)
        if found is None:
            raise typer.BadParameter(f"there is no verb {path.removeprefix('sealift ').strip()} {word}"[:200])
        command, path = found, f"{path} {word}"
        parent = command.make_context(word, [], parent=parent, resilient_parsing=True)
    if parent is not None:
        print(command.get_help(parent))


def _refusal(verb: str, reason: str, hint: str) -> Callable[[], None]:
    def refuse() -> None:
        raise RequestRefused(f"{verb}: {reason}", hint=hint)

    refuse.__doc__ = f"Refused: {reason}."
    return refuse
