"""The command line's verbs by reflection, whatever the version of typer: for the tests and for docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

import sealift


def tree(app: typer.Typer | None = None) -> Any:
    """The group of all verbs, as typer builds it."""
    return typer.main.get_command(app or sealift.build())


def leaves(app: typer.Typer | None = None) -> Iterator[tuple[str, Any]]:
    """("bundle export", command) for every verb that is not hidden, in the order of the help text."""
    yield from _leaves(tree(app), "")


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if getattr(command, "invoke_without_command", False):
            yield f"{prefix}{name}", command
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def options_of(command: Any) -> dict[str, bool]:
    """Every spelling of every option, and whether it takes a value. `--help` is not among them."""
    return {
        spelling: not (parameter.is_flag or parameter.count)
        for parameter in command.params
        if parameter.param_type_name == "option"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }


def arguments_of(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]
