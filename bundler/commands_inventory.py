"""`sealift inventory`: what this store holds, as a signed list to be carried back. Arguments and printing only."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import typer

from bundler.inputs import JSON
from bundler.printing import print_json, say

inventory_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    app.add_typer(inventory_app, name="inventory")


@inventory_app.callback()
def inventory(
    context: typer.Context,
    out: Path | None = typer.Option(
        None, "--out", "-o", help="The file to write; else standard output.", show_default=False
    ),
    sign: list[str] | None = typer.Option(
        None, "--sign", help="Name of a key; may be given several times.", show_default=False
    ),
    passphrase_file: Path = typer.Option(None, "--passphrase-file", help="File with the key's passphrase."),
) -> None:
    """Write what this store holds: every blob is read and hashed. Carry the file back, and export with --since FILE.

    Example, on the isolated side:

    \b
        sealift inventory -o enclave.inventory --sign receiver
    """
    if context.invoked_subcommand is not None:
        return
    from bundler.channels import Channels
    from bundler.errors import medium_errors
    from bundler.inventory import PAYLOAD_TYPE, take
    from bundler.writing import write_file
    from manifests.store import Store
    from signing import envelope as dsse
    from signing.keyring import open_signer

    signers = [open_signer(name, passphrase_file=passphrase_file) for name in dict.fromkeys(sign or ())]
    taken = take(Store(), Channels.imported(), datetime.now(timezone.utc))
    raw = taken.inventory.encode()
    if signers:
        raw = dsse.encode(dsse.sign(PAYLOAD_TYPE, raw, signers))
    for note in taken.notes:
        say(note)
    if out is None:
        sys.stdout.write(raw.decode())
    else:
        with medium_errors(out):
            write_file(out, raw)
        print(f"inventory {taken.inventory.id}: {len(taken.inventory.blobs)} blobs, in {out}")
    if not signers:
        say("nobody signed it: an export takes it only with --allow-unsigned-inventory")


@inventory_app.command("show")
def show(
    file: Path = typer.Argument(help="A file that `sealift inventory` wrote.", show_default=False), as_json: bool = JSON
) -> None:
    """Show what an inventory lists. This is no verdict: no signature is checked."""
    from bundler.delta_since import keyids, read_inventory
    from bundler.sizes import show_size

    found, keys = read_inventory(file, None), keyids(file)
    if as_json:
        models = [{"name": name.short, "manifest": str(digest)} for name, digest in found.models]
        blobs = [
            {"digest": str(digest), "size": known.size, "leaves": len(known.leaves.lengths) if known.leaves else 0}
            for digest, known in found.blobs.items()
        ]
        channels = [{"channel": c.channel, "sequence": c.sequence, "id": c.id} for c in found.channels]
        print_json(
            {
                "trusted": False,
                "id": found.id,
                "time": found.time,
                "tool": found.tool,
                "keyids": list(keys),
                "models": models,
                "blobs": blobs,
                "channels": channels,
            }
        )
        return
    print("unverified: this is what the file says of itself")
    print(f"inventory {found.id}, taken {found.time} with {found.tool}")
    for name, digest in found.models:
        print(f"  {name.short}  {digest.short}")
    print(f"  {len(found.blobs)} blobs, {show_size(sum(known.size for known in found.blobs.values()))}")
    for reached in found.channels:
        print(f"  channel {reached.channel}: number {reached.sequence}, bundle {reached.id}")
    for key in keys:
        print(f"signature by key {key}")
