"""Every error of every room maps to an exit code and an HTTP status, and stands in its room's drawn tree."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

ROOMS = ("manifests", "signing", "bundler", "native", "runtime")
EXIT_CODES = {0, 1, 2, 3, 4, 70}


def error_classes(room: str) -> list[type[BaseException]]:
    """All exception classes defined in a room's modules."""
    package = importlib.import_module(room)
    found: set[type[BaseException]] = set()
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if module.name.endswith((".worker", ".verify_sealift", ".libsealift")):
            continue  # programs of their own, and the engine's shared library
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, BaseException) and value.__module__.split(".")[0] == room:
                found.add(value)
    return sorted(found, key=lambda c: c.__name__)


@pytest.mark.parametrize("room", ROOMS)
def test_every_error_is_mapped(room: str) -> None:
    classes = error_classes(room)
    assert classes
    for error in classes:
        if error.__name__.startswith("_"):
            continue  # private control flow, never leaves its module
        assert getattr(error, "exit_code", None) in EXIT_CODES, f"{error.__module__}.{error.__name__} has no exit code"
        assert 400 <= getattr(error, "http_status", 0) < 600, f"{error.__module__}.{error.__name__} has no HTTP status"


@pytest.mark.parametrize("room", ROOMS)
def test_every_error_is_drawn(room: str) -> None:
    for error in error_classes(room):
        if error.__name__.startswith("_"):
            continue
        tree = importlib.import_module(error.__module__).__doc__ or ""
        rooms_tree = importlib.import_module(f"{room}.errors").__doc__ or ""
        assert error.__name__ in tree + rooms_tree, f"{error.__name__} is not in the tree of {room}.errors"
