"""The limits are numbers of the right kind: how large they are is the machine's affair."""

from __future__ import annotations

import pytest

from native import limits
from native.errors import InputError


def test_limits_are_measured() -> None:
    found = limits.measure(1, each=1 << 20)
    assert found.read_bytes > 0
    assert (found.integer_ops is None) == (found.instruction is None)
    assert all(rate is None or rate > 0 for rate in (found.integer_ops, found.float_ops, found.bf16_ops))


@pytest.mark.parametrize(("threads", "each"), [(0, 1 << 20), (1 << 20, 1 << 20), (1, 0), (1, 1 << 40)])
def test_limits_refused(threads: int, each: int) -> None:
    with pytest.raises(InputError):
        limits.measure(threads, each=each)
