"""The verbs `sealift key …` and `sealift trust …`. What they do is in keyring and trust."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds `key` and `trust` with their verbs."""
    from signing.commands_key import key_app
    from signing.commands_root import register as register_root
    from signing.commands_trust import trust_app

    register_root(trust_app)
    app.add_typer(key_app, name="key")
    app.add_typer(trust_app, name="trust")
