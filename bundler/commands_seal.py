"""`sealift bundle identity`: arguments and printing only."""

from __future__ import annotations

from pathlib import Path

import typer

from bundler.inputs import JSON
from bundler.printing import print_json, say


def register(bundle_app: typer.Typer) -> None:
    bundle_app.command("identity")(identity_)


def identity_(
    out: Path = typer.Option(..., "--out", "-o", help="The new identity file.", show_default=False),
    as_json: bool = JSON,
) -> None:
    """Make an identity to decrypt bundles with, and print its recipient: what they are encrypted for.

    The file is an age identity, as age-keygen writes it, and stays on the side that imports; the recipient goes to
    the other side. Example:

    \b
        sealift bundle identity -o enclave.identity
        sealift bundle import usb --identity enclave.identity
    """
    from bundler import seal

    recipient = seal.generate(out)
    if as_json:
        print_json({"recipient": recipient, "file": str(out)})
        return
    print(recipient)
    say(f"the identity is in {out}: keep a copy; without it nothing that is encrypted for it can be opened")
