"""
What the answers show: specs as they are, states as they were last seen.

A replica or a target that was not seen yet shows as unknown or not at all, which is how Mayastor shows a replica that
is only on record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from sandbox.fronts.mayastor_rest import shapes
from sandbox.world.control.health import (
    ChildHealth,
    Health,
    Observation,
    TargetHealth,
    published_health,
    unpublished_health,
)
from sandbox.world.control.plane import ControlSettings, Plane, Rebuild, Target, VolumeEntry
from sandbox.world.storage import CLUSTER_BYTES, NOTHING, Leftover, SimVolume

CREATED: Final = "Created"
NVMF: Final = "nvmf"
BLOCK_BYTES: Final = 512
NQN: Final = "nqn.2019-05.io.openebs"
ENDPOINT: Final = "127.0.0.1:8420"


@dataclass(frozen=True)
class View:
    """The plane as somebody sees it who last looked at its states a while ago. It is made for one answer."""

    plane: Plane
    seen: Observation
    settings: ControlSettings

    def nodes(self) -> tuple[shapes.Node, ...]:
        return tuple(self.node(name) for name in self.plane.nodes)

    def node(self, name: str) -> shapes.Node:
        entry, version = self.plane.nodes[name], self.settings.version.traits.engine
        nqn = f"{NQN}:node-name:{name}"
        cordon = None
        if entry.drains:
            drain = shapes.DrainLabels(cordonlabels=entry.cordons, drainlabels=entry.drains)
            cordon = shapes.NodeCordon(drainingstate=drain)
        elif entry.cordons:
            cordon = shapes.NodeCordon(cordonedstate=shapes.CordonLabels(cordonlabels=entry.cordons))
        spec = shapes.NodeSpec(
            grpc_endpoint=entry.endpoint,
            id=name,
            labels=self.plane.storage.node_labels.get(name, NOTHING) or None,
            cordondrainstate=cordon,
            node_nqn=nqn,
            version=version,
        )
        status = self.seen.nodes.get(name, Health.UNKNOWN)
        state = shapes.NodeState(grpc_endpoint=entry.endpoint, id=name, status=status, node_nqn=nqn, version=version)
        return shapes.Node(id=name, spec=spec, state=state)

    def pools(self) -> tuple[shapes.Pool, ...]:
        return tuple(self.pool(name) for name in self.plane.pools)

    def pool(self, name: str) -> shapes.Pool:
        known, entry, seen = self.plane.storage.pools[name], self.plane.pools[name], self.seen.pools.get(name)
        state = None
        if seen is not None:
            state = shapes.PoolState(
                capacity=known.capacity_bytes,
                disks=entry.disks,
                id=name,
                node=known.node,
                status=seen.state,
                used=seen.used_bytes,
                committed=seen.committed_bytes,
            )
        return shapes.Pool(id=name, spec=self.pool_spec(name), state=state)

    def pool_spec(self, name: str) -> shapes.PoolSpec:
        known, entry = self.plane.storage.pools[name], self.plane.pools[name]
        limits, cordon = entry.constraints, None
        if limits.any and self.settings.version.traits.pool_cordon:
            cordon = shapes.PoolCordon(
                cordoned=shapes.PoolConstraints(
                    replicas=limits.replicas,
                    snapshots=limits.snapshots,
                    restores=limits.restores,
                    imports=limits.imports,
                )
            )
        return shapes.PoolSpec(
            disks=entry.disks,
            id=name,
            labels=dict(known.labels),
            node=known.node,
            status=CREATED,
            encrypted=entry.encrypted or None,
            cordon_drain=cordon,
        )

    def targets(self) -> tuple[shapes.Target, ...]:
        current = [entry.target for entry in self.plane.volumes.values() if entry.target is not None]
        found = (self.target(target) for target in (*self.plane.shutdown, *current))
        return tuple(target for target in found if target is not None)

    def target(self, target: Target | None) -> shapes.Target | None:
        """A target as it was last seen; None if it was not."""
        seen = None if target is None else self.seen.targets.get(target.uuid)
        if target is None or seen is None:
            return None
        return shapes.Target(
            children=tuple(self._child(target, child) for child in seen.children),
            device_uri=f"nvmf://{ENDPOINT}/{NQN}:{target.volume}",
            node=target.node,
            rebuilds=seen.rebuilds,
            protocol=NVMF,
            size=target.size_bytes,
            state=seen.state,
            uuid=target.uuid,
        )

    def _child(self, target: Target, child: ChildHealth) -> shapes.Child:
        return shapes.Child(
            uri=self.uri(child.replica, target.node), state=child.state, rebuild_progress=child.progress
        )

    def uri(self, replica: str, node: str) -> str:
        """How a target on a node reaches a replica."""
        return local_uri(replica) if self._nodes.get(replica) == node else shared_uri(replica)

    @cached_property
    def _nodes(self) -> dict[str, str]:
        """Where each replica is."""
        volumes = self.plane.storage.volumes.values()
        pools = {replica.uuid: replica.pool for volume in volumes for replica in volume.replicas}
        pools |= {uuid: left.pool for uuid, left in self.plane.storage.leftovers.items()}
        return {uuid: self.plane.node_of(pool) for uuid, pool in pools.items()}

    @cached_property
    def _readers(self) -> dict[str, Target]:
        """The target that reads each replica: its volume's, or else the one that still holds it."""
        found: dict[str, Target] = {}
        for target in self.plane.shutdown:
            entry = self.plane.volumes.get(target.volume)
            current = entry.target if entry is not None and entry.target is not None else target
            found |= dict.fromkeys(target.children, current)
        for name, entry in self.plane.volumes.items():
            if entry.target is not None:
                own = [replica.uuid for replica in self.plane.storage.volumes[name].replicas]
                found |= dict.fromkeys([*own, *entry.owned], entry.target)
        return found

    @cached_property
    def _on_record(self) -> dict[str, list[Leftover]]:
        """What each volume lists beside its replicas."""
        found: dict[str, list[Leftover]] = {}
        for left in self.plane.storage.leftovers.values():
            if left.volume is not None:
                found.setdefault(left.volume, []).append(left)
        return found

    def volume(self, name: str) -> shapes.Volume:
        volume, entry = self.plane.storage.volumes[name], self.plane.volumes[name]
        return shapes.Volume(spec=self.volume_spec(name), state=self._volume_state(volume, entry))

    def volume_spec(self, name: str) -> shapes.VolumeSpec:
        volume, entry = self.plane.storage.volumes[name], self.plane.volumes[name]
        source = None
        if entry.restored_from is not None:
            snapshot, origin = entry.restored_from
            source = shapes.ContentSource(snapshot=shapes.SnapshotSource(snapshot=snapshot, volume=origin))
        target = entry.target
        return shapes.VolumeSpec(
            num_replicas=volume.replica_count,
            size=entry.size_bytes,
            status=CREATED,
            target=None if target is None else shapes.VolumeTarget(node=target.node, protocol=NVMF),
            uuid=name,
            topology=entry.topology,
            policy=shapes.Policy(self_heal=volume.self_heal),
            thin=volume.thin,
            affinity_group=None if volume.affinity_group is None else shapes.AffinityGroup(id=volume.affinity_group),
            content_source=source,
            num_snapshots=entry.snapshots,
            max_snapshots=entry.max_snapshots,
            encrypted=entry.encrypted or None,
        )

    def _volume_state(self, volume: SimVolume, entry: VolumeEntry) -> shapes.VolumeState:
        seen = None if entry.target is None else self.seen.targets.get(entry.target.uuid)
        places = self._places(volume, seen)
        if entry.target is None:
            status = unpublished_health(Health(place.state) for place in places.values())
        else:
            status = published_health(seen, volume.replica_count)
        allocated = [place.usage.allocated for place in places.values() if place.usage is not None]
        most, total = max(allocated, default=0), sum(allocated)
        return shapes.VolumeState(
            target=self.target(entry.target),
            size=entry.size_bytes,
            status=status,
            uuid=volume.name,
            replica_topology=places,
            usage=shapes.VolumeUsage(
                capacity=entry.size_bytes,
                allocated=most,
                allocated_replica=most,
                allocated_snapshots=0,
                allocated_all_snapshots=0,
                total_allocated=total,
                total_allocated_replicas=total,
                total_allocated_snapshots=0,
            ),
        )

    def _places(self, volume: SimVolume, target: TargetHealth | None) -> dict[str, shapes.ReplicaPlace]:
        """The replicas that a volume lists, with those that are only on record."""
        children = {child.replica: child for child in target.children} if target is not None else {}
        listed = [(replica.uuid, replica.pool) for replica in volume.replicas]
        listed += [(left.uuid, left.pool) for left in self._on_record.get(volume.name, ())]
        return {uuid: self._place(volume, uuid, pool, children.get(uuid)) for uuid, pool in listed}

    def _place(self, volume: SimVolume, uuid: str, pool: str, child: ChildHealth | None) -> shapes.ReplicaPlace:
        health = self.seen.replicas.get(uuid, Health.UNKNOWN)
        usage = None
        if health is not Health.UNKNOWN:
            usage = shapes.ReplicaUsage(
                capacity=volume.size_bytes,
                allocated=volume.taken_bytes,
                allocated_snapshots=0,
                allocated_all_snapshots=0,
            )
        return shapes.ReplicaPlace(
            node=self.plane.node_of(pool),
            pool=pool,
            state=health,
            child_status=None if child is None else child.state,
            usage=usage,
            rebuild_progress=None if child is None else child.progress,
        )

    def replicas(self) -> tuple[shapes.Replica, ...]:
        """What the pools have, as last seen."""
        return tuple(
            self._replica(uuid, pool, size, thin=thin)
            for uuid, pool, size, thin in self._all_replicas()
            if self.seen.replicas.get(uuid) is Health.ONLINE
        )

    def _all_replicas(self) -> Iterable[tuple[str, str, int, bool]]:
        for volume in self.plane.storage.volumes.values():
            for replica in volume.replicas:
                yield replica.uuid, replica.pool, volume.size_bytes, volume.thin
        for left in self.plane.storage.leftovers.values():
            yield left.uuid, left.pool, left.size_bytes, False

    def _share(self, uuid: str, pool: str) -> str:
        """A replica is shared if the target that reads it is on another node."""
        reader = self._readers.get(uuid)
        return "none" if reader is None or reader.node == self.plane.node_of(pool) else NVMF

    def _replica(self, uuid: str, pool: str, size: int, *, thin: bool) -> shapes.Replica:
        share = self._share(uuid, pool)
        allocated = min(size, CLUSTER_BYTES) if thin else size
        return shapes.Replica(
            node=self.plane.node_of(pool),
            pool=pool,
            pool_uuid=self.plane.pools[pool].uuid,
            share=share,
            size=size,
            space=shapes.ReplicaSpace(
                capacity_bytes=size,
                allocated_bytes=allocated,
                allocated_bytes_snapshots=0,
                allocated_bytes_all_snapshots=0,
                cluster_size=CLUSTER_BYTES,
                clusters=-(-size // CLUSTER_BYTES),
                allocated_clusters=-(-allocated // CLUSTER_BYTES),
            ),
            state=Health.ONLINE,
            thin=thin,
            uri=local_uri(uuid) if share == "none" else shared_uri(uuid),
            uuid=uuid,
            kind="Regular",
        )

    def specs(self) -> shapes.Specs:
        current = [entry.target for entry in self.plane.volumes.values() if entry.target is not None]
        listed = {each.uuid: name for name, v in self.plane.storage.volumes.items() for each in v.replicas}
        listed |= {left.uuid: left.volume for left in self.plane.storage.leftovers.values() if left.volume}
        return shapes.Specs(
            nexuses=tuple(self._target_spec(target) for target in (*self.plane.shutdown, *current)),
            pools=tuple(self.pool_spec(name) for name in self.plane.pools),
            replicas=tuple(
                shapes.ReplicaSpec(
                    managed=True,
                    owners=shapes.Owners(nexuses=self.plane.holders(uuid), volume=listed.get(uuid)),
                    pool=pool,
                    share=self._share(uuid, pool),
                    size=size,
                    status=CREATED,
                    thin=thin,
                    uuid=uuid,
                )
                for uuid, pool, size, thin in self._all_replicas()
            ),
            volumes=tuple(self.volume_spec(name) for name in self.plane.volumes),
        )

    def _target_spec(self, target: Target) -> shapes.TargetSpec:
        return shapes.TargetSpec(
            children=tuple(self.uri(uuid, target.node) for uuid in target.children),
            managed=True,
            node=target.node,
            share=NVMF,
            size=target.size_bytes,
            status=CREATED,
            uuid=target.uuid,
        )

    def rebuild_history(self, name: str, epoch: datetime) -> shapes.RebuildHistory | None:
        """What a volume's target rebuilt; None if it has none. `epoch` is when the model's clock began."""
        entry, volume = self.plane.volumes[name], self.plane.storage.volumes[name]
        target = entry.target
        if target is None:
            return None
        records = tuple(self._record(target, volume, each, epoch) for each in entry.rebuilds)
        return shapes.RebuildHistory(target_uuid=target.uuid, records=records)

    def _record(self, target: Target, volume: SimVolume, each: Rebuild, epoch: datetime) -> shapes.RebuildRecord:
        total, copied = volume.size_bytes // BLOCK_BYTES, each.copied_bytes // BLOCK_BYTES
        return shapes.RebuildRecord(
            child_uri=self.uri(each.child, target.node),
            src_uri=self.uri(each.source, target.node),
            job_state="Completed" if each.completed else "Failed",
            blocks_total=total,
            blocks_recovered=copied,
            blocks_transferred=copied,
            blocks_remaining=total - copied,
            block_size=BLOCK_BYTES,
            is_partial=False,
            start_time=_timestamp(epoch, each.started),
            end_time=_timestamp(epoch, each.ended),
        )


def local_uri(replica: str) -> str:
    return f"bdev:///{replica}?uuid={replica}"


def shared_uri(replica: str) -> str:
    return f"nvmf://{ENDPOINT}/{NQN}:{replica}?uuid={replica}"


def _timestamp(epoch: datetime, seconds: float) -> str:
    moment = datetime.fromtimestamp(epoch.timestamp() + seconds, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
