"""`sealift access …`: who may ask this host's server. Arguments and printing only.

Not to be taken for `sealift key …`: those keys sign bundles. The file is runtime.access.entries'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

access_app = typer.Typer(no_args_is_help=True, help="Who may ask this host's server, and for what.")

Name = Annotated[str, typer.Argument(help="What logs call whoever has the key: letters, digits, . _ @ -")]
File = Annotated[
    Path | None, typer.Option("--file", help="The file of keys [SEALIFT_ACCESS, access.toml in the home].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.add_typer(access_app, name="access")


@access_app.command("add")
def add(
    name: Name,
    scope: Annotated[
        str, typer.Option("--scope", help="What it is for: infer, read, admin, metrics; a comma list [infer,read].")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Only this model, or a pattern such as acme/* in quotes; repeatable [all]."),
    ] = None,
    rate: Annotated[str, typer.Option("--rate", help="Most requests in an interval: 60/m, 5/s, 1000/h [any].")] = "",
    concurrent: Annotated[
        int | None, typer.Option("--concurrent", min=1, max=1 << 16, help="Most requests under way at once [any].")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", help="Last day it counts, or in how many days: 90d [never].")
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", help="No key: let in whoever shows this certificate, a PEM file (mutual TLS)."),
    ] = None,
    subject: Annotated[
        str, typer.Option("--subject", help="No key: let in whoever shows a certificate with this common name.")
    ] = "",
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for a client of the server. It is printed once and kept nowhere; the file holds its hash.

    A running server reads the file again by itself. Clients send the key as 'Authorization: Bearer KEY' or
    'X-Api-Key: KEY': every Ollama, OpenAI and Anthropic client can. Examples:

    \\b
        sealift access add wiki --model llama3.2 --rate 60/m --concurrent 4
        sealift access add prometheus --scope metrics
    """
    from runtime.access.entries import default_path
    from runtime.access.register import make

    entry, key = make(
        file or default_path(), name, scopes=scope, models=model or (), rate=rate, concurrent=concurrent or 0,
        expires=expires, certificate=certificate, subject=subject,
    )  # fmt: skip
    if as_json:
        print(json.dumps(_dict(entry) | ({"key": key} if key else {}), indent=2))
        return
    _say(f"{entry.name} may {', '.join(entry.scopes)}; models: {', '.join(entry.models) or 'all'}")
    if key:
        print(key)
        _say("hint: this is the only time it is shown")


@access_app.command("list")
def list_(file: File = None, as_json: AsJson = False) -> None:
    """List who may ask the server: names, scopes, models and limits, no keys."""
    from manifests.display import table
    from runtime.access.entries import default_path, read

    entries = read(file or default_path())
    if as_json:
        print(json.dumps([_dict(entry) for entry in entries], indent=2))
        return
    rows = [
        (
            entry.name,
            entry.id,
            "key" if entry.sha256 else "certificate",
            ",".join(entry.scopes),
            ",".join(entry.models) or "all",
            str(entry.rate or "any"),
            str(entry.concurrent or "any"),
            entry.expires or "never",
        )
        for entry in entries
    ]
    print(table(("NAME", "ID", "BY", "SCOPES", "MODELS", "RATE", "AT ONCE", "EXPIRES"), rows))


@access_app.command("revoke")
def revoke(name: Name, file: File = None) -> None:
    """Take a client's access away. A running server notices before its next request; answers under way are
    finished."""
    from runtime.access.entries import default_path
    from runtime.access.register import remove

    remove(file or default_path(), name)
    _say(f"{name} has no access any more")


def _dict(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "id": entry.id,
        "scopes": list(entry.scopes),
        "models": list(entry.models),
        "rate": str(entry.rate) if entry.rate else None,
        "concurrent": entry.concurrent or None,
        "created": entry.created or None,
        "expires": entry.expires or None,
        "certificate": entry.certificate or None,
        "subject": entry.subject or None,
    }


def _say(line: str) -> None:
    print(f"sealift: {line}", file=sys.stderr)
