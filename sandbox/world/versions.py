"""
In what the versions of Mayastor differ, as far as somebody who moves replicas can notice.

One row for each change that matters. A version is what a control plane of that time does; in between, it does what the
row before says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sandbox.world.choosing import RemovalRule


class MayastorVersion(StrEnum):
    """The rows."""

    LATE_2024 = "late-2024"
    EARLY_2025 = "2025-01"
    """Control plane #906, #914, #916: replicas on pools that do not match the volume's topology go earlier."""
    OPENEBS_4_3 = "4.3"
    """Control plane #968, 2025-04: node topology, and cordoned nodes, count as well."""
    OPENEBS_4_4 = "4.4"
    """Pools can be cordoned."""

    @property
    def traits(self) -> Traits:
        return _TRAITS[self]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a version does."""

    removal_order: tuple[RemovalRule, ...]
    """Who goes first where health does not decide."""
    pool_cordon: bool
    """Whether it knows the call."""
    engine: str
    """The version that its nodes tell."""


_TRAITS: Final = {
    MayastorVersion.LATE_2024: Traits(
        (RemovalRule.NOT_LOCAL, RemovalRule.CROWDED_GROUP),
        pool_cordon=False,
        engine="2.7.1",
    ),
    MayastorVersion.EARLY_2025: Traits(
        (RemovalRule.TOPOLOGY_MISMATCH, RemovalRule.NOT_LOCAL, RemovalRule.CROWDED_GROUP),
        pool_cordon=False,
        engine="2.8.0",
    ),
    MayastorVersion.OPENEBS_4_3: Traits(
        (
            RemovalRule.NODE_TOPOLOGY_MISMATCH,
            RemovalRule.TOPOLOGY_MISMATCH,
            RemovalRule.NODE_CORDONED,
            RemovalRule.NOT_LOCAL,
            RemovalRule.CROWDED_GROUP,
        ),
        pool_cordon=False,
        engine="2.9.0",
    ),
    MayastorVersion.OPENEBS_4_4: Traits(
        (
            RemovalRule.NODE_TOPOLOGY_MISMATCH,
            RemovalRule.TOPOLOGY_MISMATCH,
            RemovalRule.NODE_CORDONED,
            RemovalRule.NOT_LOCAL,
            RemovalRule.CROWDED_GROUP,
        ),
        pool_cordon=True,
        engine="2.10.0",
    ),
}


def removal_order(version: MayastorVersion, *, pool_cordon_counts: bool = False) -> tuple[RemovalRule, ...]:
    """
    Who goes first in a version.

    `pool_cordon_counts` is for 4.4 alone: the author of the pool cordon says that a cordoned pool's replica goes
    first, the code shows no such rule. Whoever relies on it has to be tried against both.
    """
    order = version.traits.removal_order
    if not (pool_cordon_counts and version.traits.pool_cordon):
        return order
    before = order.index(RemovalRule.NOT_LOCAL)
    return (*order[:before], RemovalRule.POOL_CORDONED, *order[before:])
