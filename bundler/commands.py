"""The verbs of this room. Arguments and printing only; the verbs themselves are in the files named like them."""

from __future__ import annotations

import typer

from bundler import (
    commands_approve,
    commands_bundle,
    commands_custody,
    commands_inventory,
    commands_receipts,
    commands_registry,
    commands_repair,
    commands_scan,
    commands_seal,
    commands_transfer,
)


def register(app: typer.Typer) -> None:
    commands_bundle.register(app)
    commands_approve.register(commands_bundle.bundle_app)
    commands_seal.register(commands_bundle.bundle_app)
    commands_repair.register(commands_bundle.bundle_app)
    commands_transfer.register(commands_bundle.bundle_app)
    commands_inventory.register(app)
    commands_registry.register(app)
    commands_scan.register(app)
    commands_receipts.register(app)
    commands_custody.register(app)
