"""
MayastorVolume in the core's words, and the core's writes as merge patches on it.

Pure translation, both ways: what a resource says becomes a VolumeSeen, in which a word that is not known is never
health; what is to be written becomes a difference with explicit nulls, since a merge patch merges maps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from common.kube.api import (
    Body,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    TooManyRequestsError,
)
from common.placement import Pool, Replica, ReplicaHealth
from common.quantities import parse_bytes
from common.resources.meta import FENCE
from common.resources.volume import MayastorReplica, MayastorVolume
from migrator.backends.base import ResourceWrite
from migrator.core.history import wanted
from migrator.core.model import (
    ABSENT,
    FenceVolume,
    Outcome,
    PatchVolume,
    ProbeVolume,
    Purpose,
    VolumeSeen,
    VolumeSpec,
    canonical,
)

NEEDED: Final = (
    ("spec", "numReplicas"),
    ("spec", "topology"),
    ("status", "replicas", "syncState"),
)
"""Fields without which a MayastorVolume is another one than the specification's."""
_SYNCED: Final = frozenset({"Synced"})
_SYNCING: Final = frozenset({"Syncing", "Rebuilding"})
_FAULTED: Final = frozenset({"Faulted", "Offline", "Failed", "Error"})


def lacking_field(schema: Mapping[str, Any]) -> str | None:
    """Name the first field that a served schema lacks and that the specification's MayastorVolume has."""
    for path in NEEDED:
        node: Any = schema
        for key in path:
            node = node.get("properties", {}).get(key) if isinstance(node, Mapping) else None
            if isinstance(node, Mapping) and node.get("type") == "array":
                node = node.get("items")
            if not isinstance(node, Mapping):
                return ".".join(path)
    return None


def outcome_of(error: KubeError) -> Outcome:
    """Tell what an error says of the write that met it."""
    if isinstance(error, (ConflictError, NotFoundError)):
        return Outcome.CONFLICT
    if isinstance(error, TooManyRequestsError):
        return Outcome.BUSY
    if isinstance(error, (InvalidError, ForbiddenError)):
        return Outcome.REFUSED
    return Outcome.UNKNOWN


def patch_body(write: ResourceWrite, seen: VolumeSeen) -> Body:
    """Translate a write into a merge patch on the volume as it was read."""
    metadata: dict[str, Any] = {"resourceVersion": seen.version}
    if isinstance(write, FenceVolume):
        return {"metadata": {**metadata, "annotations": {FENCE: write.value}}}
    if isinstance(write, PatchVolume) and write.unfence and (seen.fence or write.purpose is Purpose.UNFENCE):
        metadata["annotations"] = {FENCE: None}
    spec: dict[str, Any] = {}
    if write.replica_count is not None:
        spec["numReplicas"] = write.replica_count
    if write.topology is not None and write.topology != seen.spec.topology:
        spec["topology"] = merge_difference(json.loads(seen.spec.topology), json.loads(write.topology))
    return {"metadata": metadata, "spec": spec} if spec else {"metadata": metadata}


def merge_difference(before: Any, after: Any) -> Any:
    """Return the RFC 7396 patch that makes `after` of `before`: what is to go is null, what is the same is left out."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif canonical(before[key]) != canonical(value):
            patch[key] = merge_difference(before[key], value)
    return patch


def difference(write: ResourceWrite, seen: VolumeSeen, after: VolumeSeen) -> str | None:
    """Say how what was stored differs from what was meant."""
    if isinstance(write, FenceVolume):
        return None if after.fence == write.value else f"the fence is {after.fence!r}, meant was {write.value!r}"
    as_patch = write
    if isinstance(write, ProbeVolume):
        as_patch = PatchVolume(purpose=Purpose.SCALE_UP, replica_count=write.replica_count, topology=write.topology)
    meant = wanted(as_patch, seen.spec)
    if meant == after.spec or meant is None:
        return None
    if meant.replica_count != after.spec.replica_count:
        return f"numReplicas is {after.spec.replica_count}, meant was {meant.replica_count}"
    return f"topology is {after.spec.topology}, meant was {meant.topology}"


def volume_seen(volume: MayastorVolume, pools: Mapping[str, Pool]) -> VolumeSeen:
    """Understand a MayastorVolume; a replica's node is its own word, else its pool's."""
    meta = volume.metadata
    return VolumeSeen(
        name=meta.name,
        uid=meta.uid,
        version=meta.resource_version,
        spec=VolumeSpec(
            volume.spec.num_replicas,
            ABSENT if volume.spec.topology is None else canonical(_without_nulls(volume.spec.topology)),
        ),
        replicas=tuple(_replica(replica, pools) for replica in replicas_of(volume)),
        fence=meta.annotation(FENCE) or "",
        being_deleted=meta.deletion_timestamp is not None,
        size_bytes=_size(volume.spec.size),
    )


def _without_nulls(value: Any) -> Any:
    """A field that is null says what one says that is not there, and no merge patch could put it back."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}


def replicas_of(volume: MayastorVolume | None) -> tuple[MayastorReplica, ...]:
    return volume.status.replicas if volume is not None and volume.status is not None else ()


def _replica(replica: MayastorReplica, pools: Mapping[str, Pool]) -> Replica:
    pool = pools.get(replica.pool)
    progress = replica.rebuild_progress
    return Replica(
        pool=replica.pool,
        health=health(replica.state, replica.sync_state),
        uuid=replica.uuid or None,
        node=replica.node or (pool.node if pool is not None else None),
        rebuild_progress=min(max(progress / 100, 0.0), 1.0) if progress is not None else None,
    )


def health(state: str, sync_state: str) -> ReplicaHealth:
    """Understand the two words of a replica; one that is not known is never taken for healthy."""
    if state in _FAULTED or sync_state in _FAULTED:
        return ReplicaHealth.FAULTED
    if state != "Online":
        return ReplicaHealth.UNKNOWN
    if sync_state in _SYNCED:
        return ReplicaHealth.SYNCED
    return ReplicaHealth.SYNCING if sync_state in _SYNCING else ReplicaHealth.UNKNOWN


def _size(size: str | int | None) -> int | None:
    try:
        return parse_bytes(size) if size is not None else None
    except ValueError:
        return None
