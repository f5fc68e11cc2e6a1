"""
Labels of ours on pools that no journal knows.

A cordon of ours can be taken off by whoever finds it. A label cannot: what it was before stood in a journal that is not
there any more. So it is left as it is, and a person is told: once in words, and by a number as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.logs import Logger
from migrator.core.steering.cluster import RestPool, ours
from migrator.core.steering.levers import LabelPool, Lever


class StrayLabel(NamedTuple):
    """One label of one pool."""

    pool: str
    key: str
    value: str


def stray_labels(pools: Mapping[str, RestPool], known: Iterable[Lever]) -> frozenset[StrayLabel]:
    """Find labels whose value is ours, where none of these levers has put them."""
    changed = {(lever.pool, lever.key) for lever in known if isinstance(lever, LabelPool)}
    return frozenset(
        StrayLabel(name, key, value)
        for name, pool in pools.items()
        for key, value in pool.labels.items()
        if ours(value) and (name, key) not in changed
    )


class StrayLabels:
    """Those that are there."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._last: int | None = None
        self._seen: frozenset[StrayLabel] = frozenset()
        self._told: frozenset[StrayLabel] = frozenset()

    def __len__(self) -> int:
        return len(self._told)

    def look(self, number: int, pools: Mapping[str, RestPool], known: Iterable[Lever]) -> None:
        """
        Take in what a round showed: its number, its pools, and all levers that it may have shown.

        What two rounds show is believed.
        """
        if number == self._last:
            return
        self._last = number
        found = stray_labels(pools, known)
        lasting, self._seen = found & self._seen, found
        for label in sorted(lasting - self._told):
            self._log.warning(
                "a label of ours is on a pool, and no migration tells what it was before: set it yourself",
                pool=label.pool,
                key=label.key,
                value=label.value,
            )
        self._told = lasting

    def forget(self) -> None:
        """It is for somebody else to tell."""
        self._last, self._seen, self._told = None, frozenset(), frozenset()
