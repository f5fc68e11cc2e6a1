"""
The model of Mayastor at work on a Kubernetes API: it reads what is wanted of MayastorVolumes and DiskPools, lets the
model take the next step, and writes what became of them.

It is to the sandbox what Mayastor's own operators are to a cluster. It needs nothing but the narrow Kubernetes
interface, so it runs unchanged against the emulator, a real kube-apiserver, or a store in memory. Each tick reads
everything and writes only what differs, so an answer that was lost, a conflict or an outage of the API is made good by
the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, TypeVar

import msgspec

from common.clock import Clock
from common.kube.api import AlreadyExistsError, KubeApi, KubeError, NotFoundError, Resource
from common.quantities import parse_bytes
from common.resources.pool import DiskPool
from common.resources.volume import MayastorVolume
from sandbox.world import mayastor
from sandbox.world.mayastor import Change, Copy, Faults, Settings, SimPool, SimReplica, SimVolume, State

MAYASTOR_VOLUMES: Final = Resource("openebs.io", "v1", "mayastorvolumes", "MayastorVolume", namespaced=True)
DISK_POOLS: Final = Resource("openebs.io", "v1", "diskpools", "DiskPool", namespaced=True)

T = TypeVar("T", MayastorVolume, DiskPool)


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """Where the storage is, and how often it is looked at."""

    namespace: str = "mayastor"
    tick_seconds: float = 0.2
    report_uuids: bool = True
    """Whether replicas are reported with their uuid and node, which the specification's contract does not have."""


class Driver:
    """Mayastor's operators, simulated. `state` is the truth, of which the API has the latest report."""

    def __init__(
        self,
        api: KubeApi,
        *,
        clock: Clock,
        rng: Random,
        settings: Settings,
        driver_settings: DriverSettings | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._warn = warn
        self._options = driver_settings or DriverSettings()
        self.settings = settings
        self.state = State(pools={}, volumes={}, at=clock.monotonic())
        self.changes: list[Change] = []
        """Everything that happened so far, oldest first."""

    async def install(self, pools: Iterable[SimPool], volumes: Iterable[SimVolume]) -> None:
        """Create the resources of a cluster that is already as described, and report on it."""
        self.state = replace(
            self.state,
            pools={pool.name: pool for pool in pools},
            volumes={volume.name: volume for volume in volumes},
        )
        for pool in self.state.pools.values():
            await self._create(DISK_POOLS, pool_resource(pool))
        for volume in self.state.volumes.values():
            await self._create(MAYASTOR_VOLUMES, volume_resource(volume))
        await self.tick()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self.tick()
            except KubeError as error:
                self._warn(f"mayastor simulator: {error}; trying again in {self._options.tick_seconds:g} s")
            await self._clock.sleep(self._options.tick_seconds)

    async def tick(self) -> None:
        """Read, take one step, report what differs. Raises KubeError if the API cannot be read."""
        pools = await self._read(DISK_POOLS, DiskPool)
        volumes = await self._read(MAYASTOR_VOLUMES, MayastorVolume)
        state = adopt(self.state, [item for item, _ in pools.values()], [item for item, _ in volumes.values()])
        self.state, changes = mayastor.step(state, self._clock.monotonic(), self._rng, self.settings)
        self.changes.extend(changes)
        for name, (_, reported) in volumes.items():
            status = volume_status(self.state, self.state.volumes[name], uuids=self._options.report_uuids)
            await self._report(MAYASTOR_VOLUMES, name, status, reported)
        for name, (_, reported) in pools.items():
            await self._report(DISK_POOLS, name, pool_status(self.state, name), reported)

    def set_faults(self, faults: Faults) -> None:
        """Say what is to go wrong with rebuilds from now on."""
        self.settings = replace(self.settings, faults=faults)

    def set_pool_online(self, name: str, *, online: bool) -> None:
        """Take a pool away, or bring it back."""
        pool = replace(self.state.pools[name], online=online)
        self.state = replace(self.state, pools={**self.state.pools, name: pool})

    def set_node_lost(self, node: str, *, lost: bool) -> None:
        """Take a node away with all its pools, or bring it back."""
        nodes = self.state.lost_nodes | {node} if lost else self.state.lost_nodes - {node}
        self.state = replace(self.state, lost_nodes=nodes)

    def set_target(self, volume: str, node: str | None) -> None:
        """Publish a volume on a node, or unpublish it."""
        published = replace(self.state.volumes[volume], target_node=node)
        self.state = replace(self.state, volumes={**self.state.volumes, volume: published})

    async def _create(self, resource: Resource, body: Mapping[str, Any]) -> None:
        try:
            await self._api.create(resource, body, self._options.namespace)
        except AlreadyExistsError:
            self._warn(f"{resource.kind} {body['metadata']['name']} is there already; it is taken as it is")

    async def _read(self, resource: Resource, type_: type[T]) -> dict[str, tuple[T, Mapping[str, Any]]]:
        """Every object of a kind by name, with its status as it is served."""
        found: dict[str, tuple[T, Mapping[str, Any]]] = {}
        token = ""
        while True:
            page = await self._api.list_page(resource, self._options.namespace, continue_token=token)
            for raw in page.items:
                item = msgspec.json.decode(raw, type=type_)
                found[item.metadata.name] = (item, msgspec.json.decode(raw).get("status") or {})
            token = page.continue_token
            if not token:
                return found

    async def _report(
        self, resource: Resource, name: str, status: Mapping[str, Any], reported: Mapping[str, Any]
    ) -> None:
        if {key: value for key, value in status.items() if value is not None} == reported:
            return
        try:
            await self._api.patch(resource, name, {"status": status}, self._options.namespace, subresource="status")
        except NotFoundError:
            pass  # deleted since it was read; the next tick forgets it
        except KubeError as error:
            self._warn(f"mayastor simulator: status of {resource} {name}: {error}; written again at the next tick")


def adopt(state: State, pools: Iterable[DiskPool], volumes: Iterable[MayastorVolume]) -> State:
    """
    Bring the model in line with the resources: what is new is taken in, what is gone forgotten, and what a person or a
    service may change (labels, replica count, topology) is read anew.
    """
    taken_in = {item.metadata.name: _volume(state.volumes.get(item.metadata.name), item, state.at) for item in volumes}
    with_volumes = replace(state, volumes=taken_in)
    return replace(with_volumes, pools={item.metadata.name: _pool(with_volumes, item) for item in pools})


def _volume(known: SimVolume | None, resource: MayastorVolume, now: float) -> SimVolume:
    spec = resource.spec
    if known is None:
        status = resource.status
        known = SimVolume(
            name=resource.metadata.name,
            size_bytes=max(1, parse_bytes(spec.size or 2**30)),
            replica_count=spec.num_replicas,
            target_node=status.target_node if status else None,
            replicas=_reported_replicas(resource, now),
        )
    inclusion = inclusion_of(spec.topology)
    if known.replica_count == spec.num_replicas and known.inclusion == inclusion:
        return known
    return replace(known, replica_count=spec.num_replicas, inclusion=inclusion)


def _reported_replicas(resource: MayastorVolume, now: float) -> tuple[SimReplica, ...]:
    """What an earlier driver said of the replicas, so that a new one can go on where that one was stopped."""
    if resource.status is None:
        return ()
    size = max(1, parse_bytes(resource.spec.size or 2**30))
    return tuple(
        SimReplica(
            uuid=item.uuid or f"{resource.metadata.name}@{item.pool}",
            pool=item.pool,
            copy=Copy.COMPLETE if item.sync_state == "Synced" else Copy.PARTIAL,
            since=now,
            copied_bytes=float(size) if item.sync_state == "Synced" else size * (item.rebuild_progress or 0) / 100,
        )
        for item in resource.status.replicas
    )


def _pool(state: State, resource: DiskPool) -> SimPool:
    name, labels = resource.metadata.name, dict(resource.metadata.labels or {})
    known = state.pools.get(name)
    if known is not None:
        return known if known.labels == labels else replace(known, labels=labels)
    told = resource.pool()
    bare = SimPool(name=name, node=told.node or "", capacity_bytes=told.capacity_bytes, labels=labels)
    replicas = replace(state, pools={name: bare}).used_bytes(name)
    return replace(bare, reserved_bytes=max(0, told.used_bytes - replicas))


def inclusion_of(topology: Mapping[str, Any] | None) -> Mapping[str, str] | None:
    """Read the pool labels of spec.topology; None if it asks for none."""
    at: Any = topology
    for key in ("pool", "labelled", "inclusion"):
        at = at.get(key) if isinstance(at, Mapping) else None
    return dict(at) if at else None


def volume_resource(volume: SimVolume) -> dict[str, Any]:
    """A MayastorVolume as it would be created."""
    spec: dict[str, Any] = {"numReplicas": volume.replica_count, "size": str(volume.size_bytes)}
    if volume.inclusion:
        spec["topology"] = {"pool": {"labelled": {"inclusion": dict(volume.inclusion)}}}
    return {
        "apiVersion": MAYASTOR_VOLUMES.api_version,
        "kind": MAYASTOR_VOLUMES.kind,
        "metadata": {"name": volume.name},
        "spec": spec,
    }


def pool_resource(pool: SimPool) -> dict[str, Any]:
    """A DiskPool as it would be created."""
    return {
        "apiVersion": DISK_POOLS.api_version,
        "kind": DISK_POOLS.kind,
        "metadata": {"name": pool.name, "labels": dict(pool.labels)},
        "spec": {"node": pool.node, "disks": [f"/dev/disk/by-id/{pool.name}"]},
    }


def volume_status(state: State, volume: SimVolume, *, uuids: bool = True) -> dict[str, Any]:
    """A MayastorVolume's status."""
    if volume.usable == 0:
        health = "Faulted" if volume.replicas else "Unknown"
    else:
        whole = volume.usable >= volume.replica_count and volume.usable == len(volume.replicas)
        health = "Online" if whole else "Degraded"
    return {
        "state": health,
        "targetNode": volume.target_node,
        "replicas": [_replica_status(state, volume, replica, uuids=uuids) for replica in volume.replicas],
    }


def _replica_status(state: State, volume: SimVolume, replica: SimReplica, *, uuids: bool) -> dict[str, Any]:
    words = {
        Copy.CREATING: ("Unknown", "Unknown"),
        Copy.PARTIAL: ("Online", "Syncing"),
        Copy.COMPLETE: ("Online", "Synced"),
        Copy.FAILED: ("Faulted", "Unknown"),
    }
    health, sync = words[replica.copy] if replica.away_since is None else ("Unknown", "Unknown")
    status: dict[str, Any] = {"pool": replica.pool, "state": health, "syncState": sync}
    if uuids:
        status["uuid"] = replica.uuid
        if replica.pool in state.pools:
            status["node"] = state.pools[replica.pool].node
    if sync == "Syncing":
        # Whole per cents: a report for every byte would only load the API.
        status["rebuildProgress"] = int(100 * volume.progress(replica))
    return status


def pool_status(state: State, name: str) -> dict[str, Any]:
    """A DiskPool's status, in the form of the specification."""
    pool, used = state.pools[name], state.used_bytes(name)
    return {
        "state": "Online" if state.reachable(name) else "Unknown",
        "capacity": _quantity(pool.capacity_bytes),
        "used": _quantity(used),
        "available": _quantity(max(0, pool.capacity_bytes - used)),
    }


def _quantity(size_bytes: int) -> str:
    return f"{size_bytes // 2**30}Gi" if size_bytes % 2**30 == 0 else str(size_bytes)
