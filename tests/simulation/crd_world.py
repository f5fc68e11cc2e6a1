"""
A cluster whose Mayastor is spoken to by its resources: the store, the model of the storage, and the witness between.

The model looks at the resources a moment after they changed, and again and again while anything is going on; what it
does it reports in the same moment, so that whoever reads sees how things are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

import msgspec

from common.kube.api import PERSISTENT_VOLUMES, EventType, Resource
from common.resources.meta import FENCE
from common.resources.pool import DiskPool
from common.resources.volume import MayastorVolume
from sandbox.world import mayastor
from sandbox.world.driver import (
    DISK_POOLS,
    MAYASTOR_VOLUMES,
    adopt,
    pool_resource,
    pool_status,
    volume_resource,
    volume_status,
)
from sandbox.world.history import Change
from sandbox.world.mayastor import ChangeKind, Copy, Faults, Settings, SimPool, SimVolume, State
from tests.simulation.facts import ABSENT, Read, ReplicaFact, Somebody, VolumeFact
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Process
from tests.simulation.world import NAMESPACE, World

TICK_SECONDS: Final = 1.0
_volume = msgspec.json.Decoder(MayastorVolume)
_pool = msgspec.json.Decoder(DiskPool)


class CrdWorld(World):
    """The world of one schedule."""

    def __init__(self, loop: VirtualLoop, rng: Random, settings: Settings) -> None:
        super().__init__(loop, rng)
        self.settings = settings
        self.state = State(pools={}, volumes={}, at=0.0)
        self._resources: dict[str, MayastorVolume] = {}
        self._pools: dict[str, DiskPool] = {}
        self._reporting = False
        self._due: float | None = None
        self.careless: set[str] = set()
        """Volumes of which Mayastor puts the next replica anywhere."""
        self._told: dict[str, Mapping[str, Any]] = {}
        """What was reported of each pool."""

    def install(self, pools: Iterable[SimPool], volumes: Iterable[SimVolume]) -> None:
        """Take in a cluster that is as described."""
        self.state = replace(
            self.state, pools={pool.name: pool for pool in pools}, volumes={volume.name: volume for volume in volumes}
        )
        for pool in self.state.pools.values():
            self.store.create(DISK_POOLS, pool_resource(pool), NAMESPACE)
        for volume in self.state.volumes.values():
            self.store.create(MAYASTOR_VOLUMES, volume_resource(volume), NAMESPACE)
        self.listen(MAYASTOR_VOLUMES, self._volume_changed)
        self.listen(DISK_POOLS, self._pool_changed)
        for resource in (MAYASTOR_VOLUMES, DISK_POOLS):
            for raw in self.store.list_page(resource, NAMESPACE).items:
                self._take_in(resource, raw)
        self._report(State(pools={}, volumes={}))

    # --- what is there -------------------------------------------------------------------------------------------

    def volume(self, name: str) -> VolumeFact | None:
        """A volume as it truly is; None if there is none."""
        known, resource = self.state.volumes.get(name), self._resources.get(name)
        if known is None or resource is None:
            return None
        replicas = tuple(ReplicaFact(r.uuid, r.pool, r.usable) for r in known.replicas)
        return replace(_spec_of(resource), replicas=replicas)

    @property
    def volumes(self) -> Iterable[str]:
        return self.state.volumes

    def node_of(self, pool: str) -> str | None:
        found = self.state.pools.get(pool)
        return found.node if found is not None else None

    def has_read(self, process: Process, resource: Resource, name: str, sent: float, answer: bytes) -> None:
        """A process was told of an object."""
        if resource.plural != MAYASTOR_VOLUMES.plural or self.witness is None:
            return
        status = _volume.decode(answer).status
        synced = {
            r.uuid or r.pool: r.state == "Online" and r.sync_state == "Synced"
            for r in (status.replicas if status else ())
        }
        self.witness.has_read(process, name, Read(sent, self.loop.time(), synced))

    # --- changes -------------------------------------------------------------------------------------------------

    def _take_in(self, resource: Resource, raw: bytes) -> None:
        if resource.plural == DISK_POOLS.plural:
            pool = _pool.decode(raw)
            self._pools[pool.metadata.name] = pool
        else:
            volume = _volume.decode(raw)
            self._resources[volume.metadata.name] = volume

    def _volume_changed(self, change: Change) -> None:
        name = change.after.name
        if change.type is EventType.DELETED:
            self._resources.pop(name, None)
            if self.witness is not None:
                self.witness.vanished(name)
            self._look_soon()
            return
        if self._reporting:
            return
        known = self._resources.get(name)
        volume = _volume.decode(change.after.raw)
        self._resources[name] = volume
        if known is not None and self.witness is not None:
            before, after = _spec_of(known), _spec_of(volume)
            if before != after:
                state = self.state.volumes.get(name)
                replicas = tuple(ReplicaFact(r.uuid, r.pool, r.usable) for r in state.replicas) if state else ()
                self.witness.spec_changed(name, replace(before, replicas=replicas), replace(after, replicas=replicas))
        self._look_soon()

    def _pool_changed(self, change: Change) -> None:
        if change.type is EventType.DELETED:
            self._pools.pop(change.after.name, None)
        elif not self._reporting:
            self._take_in(DISK_POOLS, change.after.raw)
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._reporting:
            self._look_within(self.rng.choice((0.05, 0.3, 1.0)))

    def _look_within(self, seconds: float) -> None:
        at = self.loop.time() + seconds
        if self._due is None or at < self._due:
            self._due = at
            self.loop.after(seconds, self._look)

    def _look(self) -> None:
        if self._due is None or self.loop.time() < self._due:
            return
        self._due = None
        self._tick()

    def _tick(self) -> None:
        """Let the storage go on, and report."""
        before = self.state
        state = adopt(self.state, self._pools.values(), self._resources.values())
        self.state, changes = self._step(state)
        self._tell(changes)
        self._report(before)
        if any(_restless(volume) for volume in self.state.volumes.values()):
            self._look_within(TICK_SECONDS)

    def _tell(self, changes: Iterable[mayastor.Change]) -> None:
        if self.witness is None:
            return
        for change in changes:
            if change.kind is ChangeKind.REMOVED:
                self.witness.removed(change.volume, change.uuid)
            elif change.kind is ChangeKind.AWAY:
                self.witness.went_away(change.volume, change.uuid)

    def _step(self, state: State) -> tuple[State, tuple[mayastor.Change, ...]]:
        """Take a step; whom Mayastor is careless with is for that while not bound to any topology."""
        short = {
            name: state.volumes[name]
            for name in self.careless & state.volumes.keys()
            if len(state.volumes[name].replicas) < state.volumes[name].replica_count
        }
        if not short:
            return mayastor.step(state, self.loop.time(), self.rng, self.settings)
        self.careless -= short.keys()
        free = {name: replace(volume, inclusion=None) for name, volume in short.items()}
        after, changes = mayastor.step(
            replace(state, volumes={**state.volumes, **free}), self.loop.time(), self.rng, self.settings
        )
        bound = {name: replace(after.volumes[name], inclusion=volume.inclusion) for name, volume in short.items()}
        return replace(after, volumes={**after.volumes, **bound}), changes

    def _report(self, before: State) -> None:
        actor = self.witness.acting if self.witness is not None else Somebody.MAYASTOR
        self._reporting = True
        if self.witness is not None:
            self.witness.acting = Somebody.MAYASTOR
        for name, volume in self.state.volumes.items():
            there = name in self._resources  # one that was deleted is forgotten with the next look
            if there and (before.volumes.get(name) is not volume or name not in before.volumes):
                self._patch(MAYASTOR_VOLUMES, name, volume_status(self.state, volume))
        for name in self.state.pools:
            status = pool_status(self.state, name)
            if self._told.get(name) != status:
                self._told[name] = status
                self._patch(DISK_POOLS, name, status)
        self._reporting = False
        if self.witness is not None:
            self.witness.acting = actor

    def _patch(self, resource: Resource, name: str, status: Mapping[str, Any]) -> None:
        raw = self.store.patch(resource, name, {"status": status}, NAMESPACE, subresource="status")
        self._take_in(resource, raw)

    # --- what befalls it -----------------------------------------------------------------------------------------

    def _storage(self, state: State) -> None:
        before, self.state = self.state, state
        self.state, changes = mayastor.step(self.state, self.loop.time(), self.rng, self.settings)
        self._tell(changes)
        self._report(before)
        self._look_within(TICK_SECONDS)

    def set_pool_online(self, name: str, *, online: bool) -> None:
        pool = replace(self.state.pools[name], online=online)
        self._storage(replace(self.state, pools={**self.state.pools, name: pool}))

    def set_node_lost(self, node: str, *, lost: bool) -> None:
        nodes = self.state.lost_nodes | {node} if lost else self.state.lost_nodes - {node}
        self._storage(replace(self.state, lost_nodes=nodes))

    def fill_pool(self, name: str, share: float) -> None:
        pool = self.state.pools[name]
        filled = replace(pool, reserved_bytes=int(share * pool.capacity_bytes))
        self._storage(replace(self.state, pools={**self.state.pools, name: filled}))

    def set_target(self, name: str, node: str | None) -> None:
        known = self.state.volumes.get(name)
        self.attach(name, node if known is not None else None)
        if known is not None:
            published = replace(known, target_node=node)
            self._storage(replace(self.state, volumes={**self.state.volumes, name: published}))

    def set_faults(self, faults: Faults) -> None:
        self.settings = replace(self.settings, faults=faults)
        self._look_within(TICK_SECONDS)

    def all_well(self) -> None:
        """Bring back what went away, and let nothing more go wrong with the storage."""
        self.settings = replace(self.settings, faults=Faults())
        pools = {name: replace(pool, online=True) for name, pool in self.state.pools.items()}
        self._storage(replace(self.state, pools=pools, lost_nodes=frozenset()))

    def misplace(self, name: str) -> None:
        self.careless.add(name)

    def edit_count(self, name: str, count: int) -> None:
        self._edit(name, {"spec": {"numReplicas": count}})

    def edit_topology(self, name: str, topology: Mapping[str, Any] | None) -> None:
        known = self._resources.get(name)
        if known is not None and known.spec.topology == topology:
            return  # it shows nowhere that somebody wanted what is there
        self._edit(name, {"spec": {"topology": None}})
        if topology is not None:
            self._edit(name, {"spec": {"topology": topology}})

    def meddle(self, name: str) -> None:
        self._edit(name, {"metadata": {"labels": {"touched": f"at-{self.loop.time():.3f}"}}})

    def _edit(self, name: str, body: Mapping[str, Any]) -> None:
        self.by_user(lambda store: store.patch(MAYASTOR_VOLUMES, name, body, NAMESPACE))

    def delete_volume(self, name: str) -> None:
        self.by_user(lambda store: store.delete(PERSISTENT_VOLUMES, name))
        self.by_user(lambda store: store.delete(MAYASTOR_VOLUMES, name, NAMESPACE))


def _restless(volume: SimVolume) -> bool:
    if len(volume.replicas) != volume.replica_count:
        return True
    return any(replica.copy in {Copy.CREATING, Copy.PARTIAL} for replica in volume.replicas)


def _spec_of(volume: MayastorVolume) -> VolumeFact:
    topology = volume.spec.topology
    text = json.dumps(topology, sort_keys=True, separators=(",", ":")) if topology is not None else ABSENT
    fence = (volume.metadata.annotations or {}).get(FENCE, "")
    return VolumeFact(volume.spec.num_replicas, text, fence)
