"""
Volumes of our own migrations that have one replica more, which is still being copied.

What is known of other volumes comes from a copy that may be older than the call by which one of them was given a
replica. That call was ours, so the journal tells of it, or whoever has just made it; such a volume counts as not whole
until it is seen to be, new replica and all, and so nothing is closed under it that keeps it from becoming so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import msgspec

from common.resources.migration import BackendKind, VolumeMigration
from migrator.core.history import Fate, Intent, read_history
from migrator.core.model import Purpose, SetReplicaCount
from migrator.core.steering.cluster import RestCluster


class Growing(NamedTuple):
    """A volume that was given one replica more, or may have been."""

    volume: str
    """Uuid."""
    replica_count: int
    """With the new one."""
    pool: str
    """Where the new one is to be."""


def growing_of(record: VolumeMigration) -> Growing | None:
    """Tell what a migration's journal says of its volume: None before a scale-up, and once a replica has gone again."""
    settings = record.status.settings
    if settings is None or settings.backend is not BackendKind.REST or not record.active:
        return None
    try:
        intents = read_history(record.status).intents
    except (msgspec.ValidationError, ValueError):
        return None  # of a later version, or edited: whoever executes it says so
    found: Growing | None = None
    for intent in intents:
        found = _after(found, intent, record.spec.volume_handle.lower())
    return found


def _after(before: Growing | None, intent: Intent, volume: str) -> Growing | None:
    write, happened = intent.write, intent.fate in {Fate.DONE, Fate.UNSURE}
    # What is only intended waits for its turn, perhaps until somebody else's copy is done: it must not hold up that.
    if not isinstance(write, SetReplicaCount) or not happened:
        return before
    if write.purpose is Purpose.SCALE_UP:
        return Growing(volume, write.replica_count, write.concerns)
    # All that stay were Synced when the source was asked to go; a new one that may still be there need not be.
    gone = write.purpose is Purpose.SCALE_DOWN or intent.fate is Fate.DONE
    return None if gone else before


def with_growing(cluster: RestCluster, growing: Iterable[Growing]) -> RestCluster:
    """The cluster with these volumes counted as not settled, but for those that are seen to be whole since."""
    unseen = [each for each in growing if not _seen_whole(cluster, each)]
    if not unseen:
        return cluster
    unsettled = {pool: set(uuids) for pool, uuids in cluster.unsettled.items()}
    for each in unseen:
        for pool in _pools_of(cluster, each):
            unsettled.setdefault(pool, set()).add(each.volume)
    return replace(cluster, unsettled={pool: tuple(sorted(uuids)) for pool, uuids in unsettled.items()})


def _seen_whole(cluster: RestCluster, growing: Growing) -> bool:
    """While it is not in use nobody sees whether its new replica is complete."""
    volume = cluster.volumes.get(growing.volume)
    if volume is None or volume.target_node is None:
        return False
    return volume.replica_count == growing.replica_count and volume.settled


def _pools_of(cluster: RestCluster, growing: Growing) -> tuple[str, ...]:
    volume = cluster.volumes.get(growing.volume)
    held = [replica.pool for replica in volume.replicas] if volume is not None else []
    return (*held, growing.pool)
