"""
Does Prometheus answer?

Questions fail one by one (a window of 30 days may take too long where one of an hour does not); the service as a whole
is down while any question last failed. A change is told once: in the log, to the gauge, to whoever listens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from common.logs import Logger
from scorer.prometheus import Failure, PrometheusError


class Availability:
    """Whether Prometheus answers; `on_change` is called with each new state."""

    def __init__(self, log: Logger, on_change: Callable[[bool], None]) -> None:
        self._log = log
        self._on_change = on_change
        self._failing: dict[Hashable, Failure] = {}
        self._told: Failure | None = None
        self.up: bool | None = None
        """None until the first question has ended."""

    def answered(self, question: Hashable) -> None:
        """Note that a question was answered."""
        self._failing.pop(question, None)
        if not self._failing and self.up is not True:
            self._log.info("prometheus answers" if self.up is None else "prometheus answers again")
            self._told = None
            self._change(up=True)

    def failed(self, question: Hashable, error: PrometheusError) -> None:
        """Note that a question failed; another kind of failure than before is worth another line."""
        self._failing[question] = error.failure
        if error.failure is not self._told:
            self._log.warning("prometheus does not answer", error=str(error), failure=error.failure)
            self._told = error.failure
        if self.up is not False:
            self._change(up=False)

    def forget(self, question: Hashable) -> None:
        """Note that a question is asked no more. What it last showed of Prometheus stands until another ends."""
        self._failing.pop(question, None)

    def _change(self, *, up: bool) -> None:
        self.up = up
        self._on_change(up)
