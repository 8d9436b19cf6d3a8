from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conformance.served import Served, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for a file of tests. What the server could not explain fails the last of them."""
    with serve(tmp_path_factory.mktemp("served"), "--keep-alive", "-1") as served:
        yield served
        log = served.log.read_text()
        assert "Traceback" not in log and "internal error" not in log


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client
