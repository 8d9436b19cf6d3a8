"""What hypothesis draws is the same in every run, and no slowness fails a test. `--hypothesis-profile search` draws
other examples each time; what it finds becomes an `@example`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

for name, same in (("tests", True), ("search", False)):
    settings.register_profile(
        name, derandomize=same, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("tests")
