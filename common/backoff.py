"""
How long to wait before the next try.

Waits double up to a cap and are spread at random, so that many clients of one server that came back do not return at
the same moment.
"""

from __future__ import annotations

import random


class Backoff:
    """Exponential back-off with jitter; one per thing that is tried."""

    def __init__(self, rng: random.Random, *, first_seconds: float = 0.5, cap_seconds: float = 30.0) -> None:
        self._rng = rng
        self._first = first_seconds
        self._cap = cap_seconds
        self.failures = 0
        """Tries that failed since the last success."""

    def next_seconds(self) -> float:
        """Count a failure and return the wait after it: between half and the whole of the doubled time."""
        # 2**64 of anything is past every cap; without the bound a long outage would overflow the float.
        whole: float = min(self._cap, self._first * 2 ** min(self.failures, 64))
        self.failures += 1
        return whole * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Forget the failures: a try succeeded."""
        self.failures = 0
