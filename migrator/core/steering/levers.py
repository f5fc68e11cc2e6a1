"""
Levers: what is put on nodes and pools for the few seconds of one replica_count call, so that Mayastor has no choice.

A lever is data that survives a journey through the journal and tells both ways: how to pull it and how to let it go.
Only such levers exist as can be let go: what somebody else has cordoned, or a label that the control plane could not be
made to set again, is never one. None makes a pool match what it did not match: a replica of somebody else's that
landed there meanwhile would stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from common.placement import Refusal
from common.reasons import Reason
from migrator.core.steering.abilities import Ability
from migrator.core.steering.candidates import Footing
from migrator.core.steering.cluster import PoolCordon, RestCluster, RestNode, RestPool, RestVolume, ours

PASSING: Final = frozenset({Reason.NEIGHBOUR_DEGRADED})
"""Reasons that pass by themselves, usually within the time that a rebuild takes: to wait for, not to fail."""
MAX_LEVERS: Final = 32
"""More objects than these are not touched for one call."""


class CordonNode(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Cordon a node under a label of ours. Keeps replicas and targets away; its replicas go first where that counts."""

    node: str
    label: str


class LabelPool(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Change a pool's label away from what a volume's inclusion asks for."""

    pool: str
    key: str
    previous: str
    """To be put back, unless it is no longer `value` that is there: then it is somebody's."""
    value: str | None = None
    """None: take the label off, because the inclusion is content with any value. No null comes back from a journal."""


class CordonPool(msgspec.Struct, frozen=True, tag=True, rename="camel", omit_defaults=True):
    """Close a pool for replicas, and for nothing else."""

    pool: str
    previous: PoolCordon
    """Never with `replicas`: that would be somebody's. Letting go takes `replicas` off and leaves the rest."""


Lever = CordonNode | LabelPool | CordonPool


@dataclass(frozen=True, slots=True)
class LeverSet:
    """Levers that together leave Mayastor one choice."""

    levers: tuple[Lever, ...]
    """In the order to pull them; empty: nothing needs to be done."""
    relies_on: frozenset[Ability]
    """To be switched off for this cluster if it comes out otherwise."""
    footing: Footing
    why: str
    """For a person."""


def pools_touched(cluster: RestCluster, lever: Lever) -> tuple[str, ...]:
    """Name the pools whose replicas a lever concerns."""
    if isinstance(lever, CordonNode):
        return tuple(pool.name for pool in cluster.pools_by_node.get(lever.node, ()))
    return (lever.pool,)


def disturbed(cluster: RestCluster, volume: RestVolume, levers: Iterable[Lever]) -> tuple[str, ...]:
    """Name the other volumes that have a replica on what is touched and lack something: they could not heal."""
    found: set[str] = set()
    if cluster.unsettled:
        for lever in levers:
            for pool in pools_touched(cluster, lever):
                found.update(cluster.unsettled.get(pool, ()))
        found.discard(volume.uuid)
    return tuple(sorted(found)) if found else ()


def label_away(cluster: RestCluster, volume: RestVolume, pool: RestPool, mark: str) -> LabelPool | None:
    """
    Find the label whose change takes a pool out of a volume's topology; None if there is none that can be put back.

    A label that is asked for by value is given a value of ours, which is nobody's wish; one of which any value will do
    has to be taken off. Of several, the one that fewest volumes ask for.
    """
    options: list[tuple[bool, int, str]] = []
    for key, wanted in volume.pool_inclusion.items():
        current = pool.labels.get(key, "")
        any_value = wanted == ""
        # An empty value is refused when set again; a key with a slash is not found by the delete call of many versions.
        if current == "" or ours(current) or wanted == mark or (any_value and "/" in key):
            continue
        options.append((any_value, cluster.inclusion_keys.get(key, 0), key))
    if not options:
        return None
    any_value, _, key = min(options)
    return LabelPool(pool=pool.name, key=key, value=None if any_value else mark, previous=pool.labels[key])


def without(cluster: RestCluster, levers: Iterable[Lever]) -> RestCluster:
    """
    The cluster as it was before these levers of ours, pulled or not.

    Node cordons of ours need no mention here: they are known by their label and never counted.
    """
    pools = dict(cluster.pools)
    for lever in levers:
        if isinstance(lever, CordonNode) or lever.pool not in pools:
            continue
        if isinstance(lever, CordonPool) or in_place(lever, pools, cluster.nodes):
            pools[lever.pool] = _let_go(pools[lever.pool], lever)
    return cluster if pools == cluster.pools else cluster.with_pools(pools.values())


def in_place(lever: Lever, pools: Mapping[str, RestPool], nodes: Mapping[str, RestNode]) -> bool:
    """Tell whether a lever is seen pulled."""
    match lever:
        case CordonNode():
            return lever.node in nodes and lever.label in nodes[lever.node].cordons
        case LabelPool():
            return lever.pool in pools and pools[lever.pool].labels.get(lever.key) == lever.value
        case CordonPool():
            return lever.pool in pools and pools[lever.pool].cordon.replicas


def missing(cluster: RestCluster, levers: Iterable[Lever]) -> tuple[Lever, ...]:
    """List the levers that are not seen pulled: until there are none, the call that they are for is not made."""
    return tuple(lever for lever in levers if not in_place(lever, cluster.pools, cluster.nodes))


def strays(cluster: RestCluster, held: Iterable[Lever]) -> tuple[CordonNode, ...]:
    """List the cordons of ours that are not among those held: a leader that is no more left them."""
    known = {(lever.node, lever.label) for lever in held if isinstance(lever, CordonNode)}
    return tuple(
        CordonNode(node=node.name, label=label)
        for _, node in sorted(cluster.nodes.items())
        for label in node.cordons
        if ours(label) and (node.name, label) not in known
    )


def _let_go(pool: RestPool, lever: LabelPool | CordonPool) -> RestPool:
    if isinstance(lever, LabelPool):
        return replace(pool, labels=_labelled(pool.labels, lever.key, lever.previous))
    return replace(pool, cordon=msgspec.structs.replace(pool.cordon, replicas=lever.previous.replicas))


def _labelled(labels: Mapping[str, str], key: str, value: str | None) -> dict[str, str]:
    rest = {each: text for each, text in labels.items() if each != key}
    return rest if value is None else {**rest, key: value}


def neighbours(uuids: tuple[str, ...], where: str) -> Refusal:
    """Refuse for the sake of other volumes."""
    more = f" and {len(uuids) - 1} more" if len(uuids) > 1 else ""
    return Refusal(
        Reason.NEIGHBOUR_DEGRADED,
        f"volume {uuids[0]}{more} is not whole and has a replica on {where}: closing that could keep it from healing",
    )


def told(levers: Iterable[Lever]) -> str:
    """Tell for a person what is done while they are pulled."""
    words: list[str] = []
    for lever in levers:
        match lever:
            case CordonNode():
                words.append(f"node {lever.node} is cordoned")
            case LabelPool():
                words.append(f"label {lever.key} of pool {lever.pool} is changed")
            case CordonPool():
                words.append(f"pool {lever.pool} is closed for replicas")
    return ", ".join(words)
