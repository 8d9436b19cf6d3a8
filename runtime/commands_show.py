"""The verb `show`. Arguments and printing only."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    app.command("show")(show)


def show(
    model: str = typer.Argument(help="The model to describe."),
    license_: bool = typer.Option(False, "--license", help="Only its licence."),
    modelfile: bool = typer.Option(False, "--modelfile", help="Only the Modelfile that makes it."),
    parameters: bool = typer.Option(False, "--parameters", help="Only its parameters."),
    template: bool = typer.Option(False, "--template", help="Only its prompt template."),
    system: bool = typer.Option(False, "--system", help="Only its system message."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Also its metadata and tensors."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, for scripts."),
) -> None:
    """Show what a model is. Needs no server, unless SEALIFT_HOST names another machine: then the one there is asked."""
    from runtime.chat.printing import facts
    from runtime.chat.screen import say

    flags = (license_, modelfile, parameters, template, system)
    names = ("license", "modelfile", "parameters", "template", "system")
    chosen = [name for name, wanted in zip(names, flags, strict=True) if wanted]
    if len(chosen) > 1:
        raise typer.BadParameter("only one of " + ", ".join(f"--{name}" for name in names) + " may be given")
    shown = _shown(model, verbose=verbose)
    if as_json:
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    elif chosen:
        say(shown.get(chosen[0], ""))
    else:
        print(facts(shown, verbose=verbose), end="")


def _shown(model: str, *, verbose: bool) -> dict[str, Any]:
    from runtime.remote import remote_store

    if remote := remote_store():
        print(f"sealift: asks the server at {remote.url}", file=sys.stderr)
        return remote.show(model, verbose=verbose)
    from manifests.store import Store
    from runtime.card import CardBox
    from runtime.describe import describe

    return describe(CardBox(Store()), model, verbose=verbose)
