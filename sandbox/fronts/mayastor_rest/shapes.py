"""
The bodies of answers and requests, as JSON names them.

What is None is left out of an answer, as Mayastor leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A body or a part of one."""


class ErrorBody(Shape, frozen=True, kw_only=True):
    details: str = msgspec.field()
    message: str = msgspec.field()
    kind: str = msgspec.field()


class CordonLabels(Shape, frozen=True, kw_only=True):
    cordonlabels: tuple[str, ...] = msgspec.field()


class DrainLabels(Shape, frozen=True, kw_only=True):
    cordonlabels: tuple[str, ...] = msgspec.field()
    drainlabels: tuple[str, ...] = msgspec.field()


class NodeCordon(Shape, frozen=True, kw_only=True):
    cordonedstate: CordonLabels | None = None
    drainingstate: DrainLabels | None = None


class NodeSpec(Shape, frozen=True, kw_only=True):
    grpc_endpoint: str = msgspec.field(name="grpcEndpoint")
    id: str = msgspec.field()
    labels: Mapping[str, str] | None = None
    cordondrainstate: NodeCordon | None = None
    node_nqn: str = msgspec.field()
    version: str = msgspec.field()


class NodeState(Shape, frozen=True, kw_only=True):
    grpc_endpoint: str = msgspec.field(name="grpcEndpoint")
    id: str = msgspec.field()
    status: str = msgspec.field()
    node_nqn: str = msgspec.field()
    version: str = msgspec.field()


class Node(Shape, frozen=True, kw_only=True):
    id: str = msgspec.field()
    spec: NodeSpec = msgspec.field()
    state: NodeState | None = None


class PoolConstraints(Shape, frozen=True, kw_only=True):
    replicas: bool = msgspec.field()
    snapshots: bool = msgspec.field()
    restores: bool = msgspec.field()
    imports: bool = msgspec.field()


class PoolCordon(Shape, frozen=True, kw_only=True):
    cordoned: PoolConstraints = msgspec.field()


class PoolSpec(Shape, frozen=True, kw_only=True):
    disks: tuple[str, ...] = msgspec.field()
    id: str = msgspec.field()
    labels: Mapping[str, str] | None = None
    node: str = msgspec.field()
    status: str = msgspec.field()
    encrypted: bool | None = None
    cordon_drain: PoolCordon | None = None


class PoolState(Shape, frozen=True, kw_only=True):
    capacity: int = msgspec.field()
    disks: tuple[str, ...] = msgspec.field()
    id: str = msgspec.field()
    node: str = msgspec.field()
    status: str = msgspec.field()
    used: int = msgspec.field()
    committed: int = msgspec.field()


class Pool(Shape, frozen=True, kw_only=True):
    id: str = msgspec.field()
    spec: PoolSpec = msgspec.field()
    state: PoolState | None = None


class Child(Shape, frozen=True, kw_only=True):
    rebuild_progress: int | None = msgspec.field(default=None, name="rebuildProgress")
    state: str = msgspec.field()
    uri: str = msgspec.field()


class Target(Shape, frozen=True, kw_only=True):
    children: tuple[Child, ...] = msgspec.field()
    device_uri: str = msgspec.field(name="deviceUri")
    node: str = msgspec.field()
    rebuilds: int = msgspec.field()
    protocol: str = msgspec.field()
    size: int = msgspec.field()
    state: str = msgspec.field()
    uuid: str = msgspec.field()


class ReplicaSpace(Shape, frozen=True, kw_only=True):
    capacity_bytes: int = msgspec.field()
    allocated_bytes: int = msgspec.field()
    allocated_bytes_snapshots: int = msgspec.field()
    allocated_bytes_all_snapshots: int = msgspec.field()
    cluster_size: int = msgspec.field()
    clusters: int = msgspec.field()
    allocated_clusters: int = msgspec.field()


class Replica(Shape, frozen=True, kw_only=True):
    node: str = msgspec.field()
    pool: str = msgspec.field()
    pool_uuid: str = msgspec.field(name="poolUuid")
    share: str = msgspec.field()
    size: int = msgspec.field()
    space: ReplicaSpace = msgspec.field()
    state: str = msgspec.field()
    thin: bool = msgspec.field()
    uri: str = msgspec.field()
    uuid: str = msgspec.field()
    kind: str = msgspec.field()


class ReplicaUsage(Shape, frozen=True, kw_only=True):
    capacity: int = msgspec.field()
    allocated: int = msgspec.field()
    allocated_snapshots: int = msgspec.field()
    allocated_all_snapshots: int = msgspec.field()


class ReplicaPlace(Shape, frozen=True, kw_only=True):
    node: str = msgspec.field()
    pool: str = msgspec.field()
    state: str = msgspec.field()
    child_status: str | None = msgspec.field(default=None, name="child-status")
    usage: ReplicaUsage | None = None
    rebuild_progress: int | None = msgspec.field(default=None, name="rebuild-progress")


class VolumeUsage(Shape, frozen=True, kw_only=True):
    capacity: int = msgspec.field()
    allocated: int = msgspec.field()
    allocated_replica: int = msgspec.field()
    allocated_snapshots: int = msgspec.field()
    allocated_all_snapshots: int = msgspec.field()
    total_allocated: int = msgspec.field()
    total_allocated_replicas: int = msgspec.field()
    total_allocated_snapshots: int = msgspec.field()


class VolumeState(Shape, frozen=True, kw_only=True):
    target: Target | None = None
    size: int = msgspec.field()
    status: str = msgspec.field()
    uuid: str = msgspec.field()
    replica_topology: Mapping[str, ReplicaPlace] = msgspec.field()
    usage: VolumeUsage = msgspec.field()


class Policy(Shape, frozen=True, kw_only=True):
    self_heal: bool = msgspec.field()


class AffinityGroup(Shape, frozen=True, kw_only=True):
    id: str = msgspec.field()


class VolumeTarget(Shape, frozen=True, kw_only=True):
    node: str = msgspec.field()
    protocol: str = msgspec.field()


class SnapshotSource(Shape, frozen=True, kw_only=True):
    snapshot: str = msgspec.field()
    volume: str = msgspec.field()


class ContentSource(Shape, frozen=True, kw_only=True):
    snapshot: SnapshotSource = msgspec.field()


class VolumeSpec(Shape, frozen=True, kw_only=True):
    num_replicas: int = msgspec.field()
    size: int = msgspec.field()
    status: str = msgspec.field()
    target: VolumeTarget | None = None
    uuid: str = msgspec.field()
    topology: Mapping[str, Any] | None = None
    policy: Policy = msgspec.field()
    thin: bool = msgspec.field()
    affinity_group: AffinityGroup | None = None
    content_source: ContentSource | None = None
    num_snapshots: int = msgspec.field()
    max_snapshots: int | None = None
    encrypted: bool | None = None


class Volume(Shape, frozen=True, kw_only=True):
    spec: VolumeSpec = msgspec.field()
    state: VolumeState = msgspec.field()


class VolumePage(Shape, frozen=True, kw_only=True):
    entries: tuple[Volume, ...] = msgspec.field()
    next_token: int | None = None


class RebuildRecord(Shape, frozen=True, kw_only=True):
    child_uri: str = msgspec.field(name="childUri")
    src_uri: str = msgspec.field(name="srcUri")
    job_state: str = msgspec.field(name="rebuildJobState")
    blocks_total: int = msgspec.field(name="blocksTotal")
    blocks_recovered: int = msgspec.field(name="blocksRecovered")
    blocks_transferred: int = msgspec.field(name="blocksTransferred")
    blocks_remaining: int = msgspec.field(name="blocksRemaining")
    block_size: int = msgspec.field(name="blockSize")
    is_partial: bool = msgspec.field(name="isPartial")
    start_time: str = msgspec.field(name="startTime")
    end_time: str = msgspec.field(name="endTime")


class RebuildHistory(Shape, frozen=True, kw_only=True):
    target_uuid: str = msgspec.field(name="targetUuid")
    records: tuple[RebuildRecord, ...] = msgspec.field()


class TargetSpec(Shape, frozen=True, kw_only=True):
    children: tuple[str, ...] = msgspec.field()
    managed: bool = msgspec.field()
    node: str = msgspec.field()
    share: str = msgspec.field()
    size: int = msgspec.field()
    status: str = msgspec.field()
    uuid: str = msgspec.field()


class Owners(Shape, frozen=True, kw_only=True):
    nexuses: tuple[str, ...] = msgspec.field()
    volume: str | None = None


class ReplicaSpec(Shape, frozen=True, kw_only=True):
    managed: bool = msgspec.field()
    owners: Owners = msgspec.field()
    pool: str = msgspec.field()
    share: str = msgspec.field()
    size: int = msgspec.field()
    status: str = msgspec.field()
    thin: bool = msgspec.field()
    uuid: str = msgspec.field()


class Specs(Shape, frozen=True, kw_only=True):
    nexuses: tuple[TargetSpec, ...] = msgspec.field()
    pools: tuple[PoolSpec, ...] = msgspec.field()
    replicas: tuple[ReplicaSpec, ...] = msgspec.field()
    volumes: tuple[VolumeSpec, ...] = msgspec.field()


class NewPool(msgspec.Struct, frozen=True):
    """The body of createPool."""

    disks: list[str]
    labels: dict[str, str] | None = None


class NewVolume(msgspec.Struct, frozen=True):
    """The body of createVolume. Policy and thin may be missing, though the public contract says they are required."""

    replicas: int
    size: int
    policy: Policy | None = None
    thin: bool = False
    topology: dict[str, Any] | None = None
    affinity_group: AffinityGroup | None = None
    max_snapshots: int | None = None
    labels: dict[str, str] | None = None


class Publication(msgspec.Struct, frozen=True):
    """The body of publishVolume."""

    publish_context: dict[str, str]
    protocol: str
    node: str | None = None
    republish: bool = False
    reuse_existing: bool = True
    frontend_node: str | None = None


class ConstraintChange(msgspec.Struct, frozen=True):
    """The body of cordonPool and uncordonPool. The fourth has two names, of which no version is known to take both."""

    replicas: bool
    snapshots: bool
    restores: bool
    imports: bool = False
    import_: bool = msgspec.field(default=False, name="import")
