"""
A cluster whose Mayastor is spoken to by its REST API: the control plane in memory, and the witness beside it.

Time passes for the control plane when somebody asks it, and by itself while anything is going on. After each thing
that happened the volumes, cordons and labels before and after are compared, so that the witness is told of every
change, and whose it was: of a call that took its time as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from common.kube.api import PERSISTENT_VOLUMES
from sandbox.fronts.mayastor_rest.api import ApiSettings, RestApi, Ticket
from sandbox.fronts.mayastor_rest.app import install
from sandbox.fronts.mayastor_rest.requests import JSON, Request
from sandbox.world.choosing import Ties
from sandbox.world.control import cluster, volumes
from sandbox.world.control.plane import ControlSettings, Plane, PoolConstraints, RefusedError, settings_of
from sandbox.world.control.reconcile import restless
from sandbox.world.driver import DISK_POOLS, pool_resource
from sandbox.world.mayastor import Faults, Settings, SimPool, SimVolume
from sandbox.world.storage import State
from sandbox.world.versions import MayastorVersion
from tests.simulation.courses import Actor
from tests.simulation.facts import ReplicaFact, Somebody, Things, VolumeFact
from tests.simulation.kube import Issue
from tests.simulation.loop import VirtualLoop
from tests.simulation.world import NAMESPACE, PV_PREFIX, World, handle_of

TICK_SECONDS: Final = 1.0
NODES: Final = tuple(f"n{number}" for number in range(1, 9))
A_PERSONS_LABEL: Final = "maintenance"


@dataclass(frozen=True, slots=True)
class Mayastor:
    """How the control plane is set up. Times in seconds."""

    version: MayastorVersion
    cache_seconds: float
    pool_cordon_counts: bool
    away_seconds: float
    ties: Ties


class RestWorld(World):
    """The world of one schedule."""

    def __init__(self, loop: VirtualLoop, rng: Random, settings: Settings, mayastor: Mayastor) -> None:
        super().__init__(loop, rng)
        storage = replace(
            ControlSettings(version=mayastor.version).storage,
            rebuild_bytes_per_second=settings.rebuild_bytes_per_second,
            ties=mayastor.ties,
        )
        control = ControlSettings(
            version=mayastor.version, storage=storage, away_seconds=mayastor.away_seconds, reconcile_seconds=1.0
        )
        self._control = settings_of(control, pool_cordon_counts=mayastor.pool_cordon_counts)
        self._settings = ApiSettings(self._control, mayastor.cache_seconds)
        self.api = RestApi(Plane(State(pools={}, volumes={})), self._settings, rng, epoch=self.now())
        self._issues: dict[int, Issue] = {}
        """Whose the changes of replica counts are that take their time, by number."""
        self._ticking = False

    def install(self, pools: Iterable[SimPool], volumes: Iterable[SimVolume]) -> None:
        pools = list(pools)
        for pool in pools:
            self.store.create(DISK_POOLS, pool_resource(pool), NAMESPACE)
        plane = install(self.api.plane, NODES, pools, [_as_uuid(volume) for volume in volumes], self.rng)
        self.api = RestApi(plane, self._settings, self.rng, epoch=self.now())

    # --- what is there -------------------------------------------------------------------------------------------

    @property
    def volumes(self) -> Iterable[str]:
        return [PV_PREFIX + uuid for uuid in self.api.plane.volumes]

    def volume(self, name: str) -> VolumeFact | None:
        self.advance()
        return _fact(self.api.plane, handle_of(name))

    def node_of(self, pool: str) -> str | None:
        found = self.api.plane.storage.pools.get(pool)
        return found.node if found is not None else None

    @property
    def things(self) -> Things:
        """Cordons and labels as they are."""
        return _things(self.api.plane)

    # --- time and calls ------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Let the control plane's time come up to the present."""
        before, now = self.api.plane, self.loop.time()
        if before.now >= now:
            return
        self.api.advance(now)
        self._compare(before, Somebody.MAYASTOR)

    def submit(self, issue: Issue | None, method: str, path: str, body: bytes | None) -> Ticket:
        """Ask as a process does."""
        self.advance()
        before = self.api.plane
        kind = {"content-type": JSON} if body is not None else {}
        ticket = self.api.submit(Request(method, path, body or b"", kind))
        if issue is not None:
            for name, change in self.api.plane.changes.items():
                if before.changes.get(name) is not change:
                    self._issues[change.number] = issue
            self._compare(before, issue)
        return ticket

    def _compare(self, before: Plane, actor: Actor) -> None:
        """Tell the witness what is not as it was."""
        plane, witness = self.api.plane, self.witness
        if restless(plane) and not self._ticking:
            self._ticking = True
            self.loop.after(TICK_SECONDS, self._tick)
        if witness is None or before is plane:
            return
        if before.nodes is not plane.nodes or before.pools is not plane.pools or _labels_differ(before, plane):
            one, two = _things(before), _things(plane)
            if one != two:
                witness.acting, former = actor, witness.acting
                witness.things_changed(one, two)
                witness.acting = former
        for uuid in _different(before, plane):
            done = before.changes.get(uuid)
            whose = self._issues.get(done.number, actor) if done is not None and uuid not in plane.changes else actor
            witness.acting, former = whose, witness.acting
            self._tell(before, plane, uuid)
            witness.acting = former

    def _tell(self, before: Plane, after: Plane, uuid: str) -> None:
        witness, name = self.witness, PV_PREFIX + uuid
        one, two = _fact(before, uuid), _fact(after, uuid)
        if witness is None or one is None:
            return
        if two is None:
            witness.vanished(name)
            return
        gone = one.uuids - two.uuids
        if one.count != two.count:
            witness.spec_changed(name, one, replace(two, replicas=one.replicas))
        elif gone and isinstance(witness.acting, Issue):
            witness.dropped(name, one)
        for replica in sorted((one.usable - two.usable) & two.uuids):
            witness.went_away(name, replica)
        for replica in sorted(gone):
            witness.removed(name, replica)

    def _tick(self) -> None:
        self._ticking = False
        self.advance()
        if restless(self.api.plane) and not self._ticking:
            self._ticking = True
            self.loop.after(TICK_SECONDS, self._tick)

    # --- what befalls it -----------------------------------------------------------------------------------------

    def _change(self, act: Any, actor: Somebody = Somebody.MAYASTOR) -> None:
        self.advance()
        before = self.api.plane
        try:
            self.api.change(act)
        except (RefusedError, KeyError):
            return  # a mistake, or too late
        self._compare(before, actor)

    def _alter(self, change: Any) -> None:
        self._change(lambda plane: replace(plane, storage=change(plane.storage)))

    def set_pool_online(self, name: str, *, online: bool) -> None:
        self._alter(lambda state: _with_pool(state, name, online=online))

    def set_node_lost(self, node: str, *, lost: bool) -> None:
        self._alter(
            lambda state: replace(state, lost_nodes=state.lost_nodes | {node} if lost else state.lost_nodes - {node})
        )

    def set_target(self, name: str, node: str | None) -> None:
        uuid = handle_of(name)
        self.attach(name, node if uuid in self.api.plane.volumes else None)
        if node is None:
            self._change(lambda plane: volumes.unpublish(plane, uuid))
        else:
            wanted = volumes.Publication(node, republish=True)
            self._change(lambda plane: volumes.publish(plane, uuid, wanted, self.rng))
            if self.rng.random() < 0.9:
                tidy = self.rng.uniform(0.5, 20)
                self.loop.after(tidy, lambda: self._change(lambda plane: volumes.delete_shutdown_targets(plane, uuid)))

    def set_faults(self, faults: Faults) -> None:
        self.advance()
        renamed = Faults(
            frozenset(handle_of(name) for name in faults.failing_rebuilds),
            frozenset(handle_of(name) for name in faults.stalled_rebuilds),
            faults.at_progress,
        )
        self._control = replace(self._control, storage=replace(self._control.storage, faults=renamed))
        self._set_control()

    def _set_control(self) -> None:
        """Set the control plane up anew, without its cache being any fresher for it."""
        self.api.settings = replace(self.api.settings, control=self._control)
        self.api.cache._settings = self._control

    def fill_pool(self, name: str, share: float) -> None:
        def filled(state: State) -> State:
            return _with_pool(state, name, reserved_bytes=int(share * state.pools[name].capacity_bytes))

        self._alter(filled)

    def all_well(self) -> None:
        self.set_faults(Faults())
        self.api.faults.clear()
        self._alter(
            lambda state: replace(
                state,
                pools={name: replace(pool, online=True) for name, pool in state.pools.items()},
                lost_nodes=frozenset(),
            )
        )

    def misplace(self, name: str) -> None:
        """A person takes off all cordons, because something must be started at once."""

        def open_all(plane: Plane) -> Plane:
            for node in plane.nodes.values():
                for label in node.cordons:
                    plane = cluster.uncordon_node(plane, node.name, label)
            return plane

        for delay in (0.05, 0.1, 0.15):
            self.loop.after(delay, lambda: self._change(open_all))

    def edit_count(self, name: str, count: int) -> None:
        self.advance()
        before = self.api.plane
        self.api.submit(Request("PUT", f"/v0/volumes/{handle_of(name)}/replica_count/{count}"))
        self._compare(before, Somebody.USER)

    def edit_topology(self, name: str, topology: Mapping[str, Any] | None) -> None:
        """The API has no call for that; a person does something to a node of the volume instead."""
        fact = self.volume(name)
        if fact is not None and fact.replicas:
            self.cordon_for_a_while(self.node_of(self.rng.choice(fact.replicas).pool) or "")

    def meddle(self, name: str) -> None:
        """A person labels pools, or cordons them, which has to be left alone."""
        pool = self.rng.choice(sorted(self.api.plane.pools))
        value = f"at-{int(self.loop.time())}"
        self._change(lambda plane: cluster.label_pool(plane, pool, "touched", value, overwrite=True), Somebody.USER)

    def cordon_for_a_while(self, node: str) -> None:
        """A person cordons a node, and opens it again."""
        self._change(lambda plane: cluster.cordon_node(plane, node, A_PERSONS_LABEL), Somebody.USER)
        self.loop.after(
            self.rng.uniform(5, 120),
            lambda: self._change(lambda plane: cluster.uncordon_node(plane, node, A_PERSONS_LABEL), Somebody.USER),
        )

    def relabel(self, pool: str, key: str, value: str) -> None:
        """A person gives a pool another label."""
        self._change(lambda plane: cluster.label_pool(plane, pool, key, value, overwrite=True), Somebody.USER)

    def restart_control_plane(self) -> None:
        """Its own order of things is then that of their uuids."""
        self._alter(lambda state: replace(state, registry=tuple(sorted(state.registry))))

    def delete_volume(self, name: str) -> None:
        self.by_user(lambda store: store.delete(PERSISTENT_VOLUMES, name))
        uuid = handle_of(name)
        self._change(lambda plane: volumes.unpublish(plane, uuid))
        before = self.api.plane
        self.api.submit(Request("DELETE", f"/v0/volumes/{uuid}"))
        self._compare(before, Somebody.USER)


def _as_uuid(volume: SimVolume) -> SimVolume:
    return replace(volume, name=handle_of(volume.name))


def _with_pool(state: State, name: str, **changes: Any) -> State:
    return replace(state, pools={**state.pools, name: replace(state.pools[name], **changes)})


def _fact(plane: Plane, uuid: str) -> VolumeFact | None:
    known = plane.storage.volumes.get(uuid)
    if known is None or uuid not in plane.volumes:
        return None
    entry = plane.volumes[uuid]
    children = entry.target.children if entry.target is not None else None
    replicas = tuple(
        ReplicaFact(r.uuid, r.pool, r.usable and (children is None or r.uuid in children)) for r in known.replicas
    )
    return VolumeFact(known.replica_count, replicas=replicas)


def _different(before: Plane, after: Plane) -> Iterator[str]:
    for uuid in {**before.volumes, **after.volumes}:
        same = before.storage.volumes.get(uuid) is after.storage.volumes.get(uuid)
        if not same or (uuid in before.volumes) != (uuid in after.volumes):
            yield uuid


def _labels_differ(before: Plane, after: Plane) -> bool:
    one, two = before.storage.pools, after.storage.pools
    return one is not two and any(name not in two or two[name].labels != pool.labels for name, pool in one.items())


def _things(plane: Plane) -> Things:
    return Things(
        cordons={name: frozenset(node.cordons) for name, node in plane.nodes.items() if node.cordons},
        labels={name: dict(pool.labels) for name, pool in plane.storage.pools.items()},
        closed={name: _words(entry.constraints) for name, entry in plane.pools.items() if entry.constraints.any},
    )


def _words(constraints: PoolConstraints) -> frozenset[str]:
    return frozenset(word for word in ("replicas", "snapshots", "restores", "imports") if getattr(constraints, word))
