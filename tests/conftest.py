"""What hypothesis draws is the same in every run, and no slowness fails a test. `--hypothesis-profile search` draws
other examples each time; what it finds becomes an `@example`. A failure is named when it comes: a run that is cut off
has told it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

for name, same in (("tests", True), ("search", False)):
    settings.register_profile(
        name, derandomize=same, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile("tests")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(_Named(terminal))


class _Named:
    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.nodeid} failed ({report.when})")
