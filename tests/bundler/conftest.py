"""What the tests of encrypted bundles share: one identity of the other side, and its keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler import seal
from bundler.seal import Keys


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The identity's file, and its recipient."""
    path = tmp_path_factory.mktemp("identity") / "enclave.identity"
    return path, seal.generate(path)


@pytest.fixture(scope="module")
def keys(identity: tuple[Path, str]) -> Keys:
    return seal.load_keys(identity[0])
