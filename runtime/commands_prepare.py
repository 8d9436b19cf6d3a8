"""The verb `prepare`. Arguments and printing only."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    app.command("prepare")(prepare)


def prepare(
    model: list[str] = typer.Argument(help="Models of the store, or none for all of them.", default=None),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, for scripts."),
) -> None:
    """Pack models' weights for this machine, so that they load faster.

    A pack is a cache beside the store, as large as the model: made again when it is damaged or another version needs
    another one, and removed with the model. The server makes it too, after a model's first answer. A model that
    cannot run does not stop the others; it is told, and the exit code says so.
    """
    from manifests.display import size_text
    from manifests.name import ModelName
    from manifests.store import Store
    from runtime.packs import Packs

    store = Store()
    packs = Packs(store)
    found: list[dict[str, Any]] = []
    names = [ModelName.parse(text) for text in model or []] or store.names()
    code = 0
    for name in names:
        try:
            made = packs.prepare(name)
        except Exception as error:
            if len(names) == 1 or not hasattr(error, "exit_code"):
                raise
            code = code or error.exit_code
            found.append({"model": name.short, "error": str(error)})
            print(f"sealift: {name.short}: not packed: {error}", file=sys.stderr)
            continue
        found.append({"model": name.short, "made": made.made, "size": made.size, "replaced": made.why})
        if not as_json:
            before = f" (the one before was not good: {made.why})" if made.why else ""
            print(f"{name.short}: {'packed' if made.made else 'has a good pack'}, {size_text(made.size)}{before}")
    if as_json:
        print(json.dumps(found, indent=2))
    if code:
        raise typer.Exit(code)
