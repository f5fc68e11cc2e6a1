"""
What a control plane is known to do, found out without writing, and which orders of removal that leaves open.

No version says in which order it considers replicas when one has to go, so the order is pinned down from below: the
marks that a version shows prove it to be at least so new, and versions only ever added rules. What is not proven may
be there or not, and a plan has to come out right either way. "Known not to" is never concluded: a control plane may be
newer than anything it shows, and no plan would be the better for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import combinations
from typing import Final


class Ability(StrEnum):
    """One thing that Mayastor does and that a move may rest on."""

    ADD_NODE_CORDON = "NodeCordonKeepsReplicasAway"
    ADD_POOL_LABEL = "PoolLabelKeepsReplicasAway"
    ADD_POOL_CORDON = "PoolCordonKeepsReplicasAway"
    GO_NODE_MISMATCH = "NodeOutsideTopologyGoesFirst"
    GO_POOL_MISMATCH = "PoolOutsideTopologyGoesFirst"
    GO_NODE_CORDON = "CordonedNodeGoesFirst"
    GO_NOT_LOCAL = "NotLocalGoesFirst"
    GO_CROWDED = "CrowdedGroupGoesFirst"


ORDER: Final = (
    Ability.GO_NODE_MISMATCH,
    Ability.GO_POOL_MISMATCH,
    Ability.GO_NODE_CORDON,
    Ability.GO_NOT_LOCAL,
    Ability.GO_CROWDED,
)
"""
The rules of removal among replicas that are all in perfect health, in the order in which they count where they do.

The last two are as old as removal itself; pool topology came in January 2025 (control plane #906, #914, #916), node
topology and cordons in April 2025 (#968). A rule for cordoned pools is said to exist from OpenEBS 4.4 on, nobody knows
where in this order, and it is left out: no plan may rest on it, and it can spoil none, because nothing is removed while
somebody else's cordon is on a pool that is to stay.
"""
ALWAYS: Final = frozenset({Ability.GO_NOT_LOCAL, Ability.GO_CROWDED})
SINCE_2025_01: Final = frozenset({Ability.GO_POOL_MISMATCH})
SINCE_2025_04: Final = SINCE_2025_01 | {Ability.GO_NODE_MISMATCH, Ability.GO_NODE_CORDON}
ENGINES: Final = (((2, 9), SINCE_2025_04), ((2, 8), SINCE_2025_01))
"""Which rules a control plane has at least that was released with an io-engine of this version or later."""

Order = tuple[Ability, ...]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What may be counted upon. The levers that keep replicas away work in every version, but for the pool's cordon."""

    counts: frozenset[Ability] = ALWAYS
    """The rules of removal that are proven; each other one may be there or not."""
    pool_cordon: bool = False
    """The call is known."""
    off: frozenset[Ability] = frozenset()
    """Switched off for this cluster: it was relied upon once, and something else happened."""

    def may_rely_on(self, ability: Ability) -> bool:
        """Tell whether a lever that rests on this is worth pulling at all."""
        if ability in self.off or (ability is Ability.ADD_POOL_CORDON and not self.pool_cordon):
            return False
        return ability not in ORDER or ability in self.counts


@dataclass(frozen=True, slots=True)
class Marks:
    """What a control plane shows of its age."""

    pool_cordon_call: bool = False
    """DELETE /pools/{one that cannot exist}/cordon is answered with a body: the call is known."""
    engine_versions: tuple[str, ...] = ()
    """What each node tells as the version of its io-engine; empty where it tells none."""


def abilities_of(marks: Marks, off: frozenset[Ability] = frozenset()) -> Abilities:
    """
    Conclude from the marks what may be counted upon.

    The control plane is upgraded before the io-engines, never after, so it is at least as new as the oldest of them.
    """
    counts = set(ALWAYS)
    if marks.pool_cordon_call:
        counts |= SINCE_2025_04
    oldest = min((_release(text) for text in marks.engine_versions), default=(0, 0))
    for release, brought in ENGINES:
        if oldest >= release:
            counts |= brought
    return Abilities(frozenset(counts), marks.pool_cordon_call, off)


_RELEASE: Final = re.compile(r"(?<![\d.])(\d+)\.(\d+)\.\d+(?![\d.])")
_UNRELEASED: Final = re.compile(r"rc|alpha|beta|dev|main|snapshot|pre", re.IGNORECASE)


def _release(text: str) -> tuple[int, int]:
    """Read major and minor out of a version such as v2.9.1 or v2.9.1-0-g1234abc; (0, 0) of what proves nothing."""
    found = _RELEASE.search(text)
    if found is None or _UNRELEASED.search(text):
        return (0, 0)
    return (int(found[1]), int(found[2]))


@lru_cache(maxsize=256)
def removal_orders(abilities: Abilities) -> tuple[Order, ...]:
    """List every order of removal that may be the true one."""
    certain = abilities.counts - abilities.off
    open_rules = [rule for rule in ORDER if rule not in certain]
    return tuple(
        tuple(rule for rule in ORDER if rule in certain or rule in also)
        for size in range(len(open_rules) + 1)
        for also in combinations(open_rules, size)
    )
