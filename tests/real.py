"""
What a test does that needs a real program: it asks, and where the machine has none, it says so and is skipped.

With REQUIRE_REAL=1, as in CI, a missing program is a failure, so that nothing is ever skipped there unseen. The names
of what was missing are collected, so that the end of a run can tell what it did not show; so are the few lines that
sum up what was shown.
"""

import os

import pytest

from sandbox.real.tools import find_tool

SKIPPED: set[str] = set()
SHOWN: list[str] = []
"""What tests on real components say of themselves at the end of a run."""


def require_real(*names: str) -> None:
    """Skip the calling test (or fixture) unless every named program is here; fail it if REQUIRE_REAL=1."""
    missing = [name for name in names if find_tool(name) is None]
    if not missing:
        return
    SKIPPED.update(missing)
    reason = f"{', '.join(missing)}: not on this machine (`make tools` makes what is missing)"
    if os.environ.get("REQUIRE_REAL", "") not in {"", "0"}:
        pytest.fail(f"{reason}, and REQUIRE_REAL=1 forbids to skip", pytrace=False)
    pytest.skip(reason)
