"""
What every run of the tests tells: which seed its random parts had, what it showed on real components, and which of
those it had to do without.
"""

import os
import secrets
from random import Random

import hypothesis.core
import pytest

from tests.real import SHOWN, SKIPPED

SEED = int(os.environ.get("TEST_SEED") or secrets.randbits(32))


def pytest_configure() -> None:
    hypothesis.core.global_force_seed = SEED  # type: ignore[assignment]


def pytest_report_header() -> str:
    return f"seed: {SEED} (TEST_SEED={SEED} repeats it)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SHOWN:
        terminalreporter.section("shown on real components")
        for line in SHOWN:
            terminalreporter.write_line(line)
    if SKIPPED:
        names = ", ".join(sorted(SKIPPED))
        terminalreporter.section("not shown here")
        terminalreporter.write_line(f"skipped for want of: {names} (`make tools` makes what is missing)")


@pytest.fixture
def rng() -> Random:
    """A source of chance that TEST_SEED repeats."""
    return Random(SEED)
