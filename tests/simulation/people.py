"""
Users and misfortunes: who asks for moves, and what befalls a cluster besides calls that go wrong.

Some come at any time; most come when a migration has just entered a state, since it is there that they could hurt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from couchestor.migrator.v1 import migrator_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from common.kube.api import (
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_MIGRATIONS,
    Resource,
)
from common.placement import Move
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.rpc.errors import RpcError
from migrator.service import MigratorService
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES
from sandbox.world.mayastor import Faults as StorageFaults
from sandbox.world.storage import SimVolume
from tests.simulation.facts import ReplicaFact, VolumeFact
from tests.simulation.heat import COLD, HOT, WARM, Weather
from tests.simulation.loop import Life
from tests.simulation.process import START, Process
from tests.simulation.rest_world import NODES

if TYPE_CHECKING:
    from tests.simulation.invariants import Course
    from tests.simulation.schedule import Pod, Simulation

FORGETTABLE: Final[tuple[Resource, ...]] = (VOLUME_MIGRATIONS, PERSISTENT_VOLUMES, MAYASTOR_VOLUMES, DISK_POOLS)
MISPLACED: Final = 0.05
"""Share of new replicas that Mayastor puts elsewhere."""
ENDED: Final = frozenset({"Completed", "Aborted", "Failed", "Gone"})
TARGETED: Final = {"ScalingUp": 0.15, "WaitingSync": 0.35, "ScalingDown": 0.2}
"""Share of a migration's changes of state upon which something befalls it."""


class People:
    """Draws who does what when."""

    def __init__(self, simulation: Simulation, rng: Random) -> None:
        self._sim = simulation
        self._rng = rng
        self._busy = False
        self._calm = False
        self._requests = 0
        self._failing: frozenset[str] = frozenset()
        self._stalled: frozenset[str] = frozenset()

    # --- when ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Draw what happens by itself."""
        self._busy = True
        rng, horizon = self._rng, self._sim.plan.timing.horizon
        for volume in self._sim.plan.volumes:
            if rng.random() < 0.5:
                self._at(rng.uniform(3, 0.5 * horizon), partial(self.ask, volume))
            if rng.random() < 0.3:
                self._at(rng.uniform(0.4, 1.0) * horizon, partial(self.ask, volume))
            self._at(0.0, partial(self._warm, volume))
            for _ in range(rng.randrange(3)):
                self._at(rng.uniform(0, horizon), partial(self._warm, volume))
        for _ in range(rng.randrange(2, 9)):
            self._at(rng.uniform(5, horizon), self.befall)
        if rng.random() < 0.5:
            self._at(rng.uniform(0.1, 0.7) * horizon, self._cloud)
        self._sim.witness.on_state = self._on_state

    def _warm(self, volume: SimVolume) -> None:
        """Let a volume be as hot as it may be."""
        fact = self._sim.world.volume(volume.name)
        on_hot = fact is not None and any(self._sim.plan.tiers[replica.pool] == "hot" for replica in fact.replicas)
        elsewhere: tuple[float | None, ...] = (COLD, COLD, 0.0, None, None) if on_hot else (HOT,)
        score = self._rng.choice((*elsewhere, HOT, WARM, COLD, None))
        if score is None:
            self._sim.heat.scores.pop(volume.name, None)
        else:
            self._sim.heat.scores[volume.name] = score

    def hurry(self) -> None:
        """Not enough happened yet: ask for more, and see to it that somebody dies."""
        sim, rng = self._sim, self._rng
        busy = {course.volume for course in sim.witness.courses.values() if course.state not in ENDED}
        idle = [volume for volume in sim.plan.volumes if volume.name not in busy]
        for volume in rng.sample(idle, min(2, len(idle))):
            self.ask(volume)
        if sim.tally.crashes == 0:
            self._kill_leader()

    def soothe(self) -> None:
        """Nothing befalls anybody any more; moves are still asked for."""
        self._calm = True
        self._sim.heat.weather = Weather.FRESH

    def rest(self) -> None:
        """Nobody does anything any more."""
        self.soothe()
        self._busy = False

    def _at(self, seconds: float, act: Callable[[], object]) -> None:
        def happen() -> None:
            if self._busy:
                act()

        self._sim.loop.after(seconds, happen)

    def _on_state(self, course: Course) -> None:
        if self._busy and not self._calm and course.state == "ScalingUp" and self._rng.random() < MISPLACED:
            self._told("misplace", course.volume, lambda: self._sim.world.misplace(course.volume))
        if self._busy and not self._calm and self._rng.random() < TARGETED.get(course.state, 0.05):
            act = self._rng.choice(
                (
                    self._cancel,
                    self._cancel,
                    self._delete_record,
                    self._edit_count,
                    self._edit_topology,
                    self._label,
                    self._lose_pools,
                    self._fault_rebuild,
                    self._stall_rebuild,
                    self._move_target,
                    self._unpublish,
                    self._delete_volume,
                    self._strip_annotations,
                    self._touch_pv,
                )
            )
            delay = self._rng.choice((0.0, self._rng.uniform(0, 1), self._rng.uniform(0, 15)))
            self._at(delay, lambda: self._told(act.__name__, course.volume, lambda: act(course)))

    def befall(self) -> None:
        """Let something happen to the cluster."""
        if self._calm:
            return
        act = self._rng.choice(
            (
                self._lose_pool,
                self._lose_pool,
                self._lose_node,
                self._jump,
                self._jump,
                self._forget,
                self._lag,
                self._cut_off,
                self._outage,
                self._kill_leader,
                self._pause_leader,
                self._pause_leader,
                self._stop_leader,
                self._change_policy,
                self._delete_policy,
                self._cloud,
                self._cloud,
                self._cloud,
                self._cloud,
                self._go_dark,
                self._pause_planner,
                self._kill_planner,
                self._fill_pool,
            )
        )
        self._told(act.__name__, "", act)

    def _told(self, name: str, what: str, act: Callable[[], object]) -> None:
        self._sim.trace.note("people", f"{name.strip('_')} {what}")
        act()

    # --- moves ---------------------------------------------------------------------------------------------------

    def ask(self, volume: SimVolume, *, again: bool = True) -> None:
        """Ask some replica for a move of a volume to where it is not."""
        sim, rng = self._sim, self._rng
        fact = sim.world.volume(volume.name)
        pods = [pod for pod in sim.pods.values() if pod.service is not None]
        if fact is None or not fact.replicas or not pods:
            return
        pod = rng.choice(pods)
        tiers = sim.plan.tiers
        here = tiers[fact.replicas[0].pool]
        there = [name for name, tier in tiers.items() if tier != here]
        moves = self._moves(pod, fact, volume.name, there)
        if moves is None:
            if again:
                self._at(30.0, partial(self.ask, volume, again=False))
            return
        self._requests += 1
        request = pb.StartMigrationRequest(
            request_id=f"request-{self._requests}", volume=volume.name, dry_run=rng.random() < 0.06
        )
        if len(moves) > 1 or len(fact.replicas) > 1:
            for replica, target in moves:
                request.moves.moves.add(source_pool=replica.pool, source_replica=replica.uuid, target_pool=target)
        elif rng.random() < 0.3:
            request.tier = tiers[moves[0][1]]
        else:
            request.pool = moves[0][1]
        if rng.random() < 0.4:
            request.policy.CopyFrom(self._policy())
        if rng.random() < 0.3:
            request.priority = rng.choice((0, 100))
        if rng.random() < 0.3:
            expiry = Timestamp()
            expiry.FromDatetime(START + timedelta(seconds=sim.loop.time() + rng.choice((120, 600, 3600))))
            request.not_after.CopyFrom(expiry)
        self._send(pod, lambda service: service.start_migration(request))
        if rng.random() < 0.2:
            other = rng.choice(pods)
            self._at(rng.uniform(0, 3), lambda: self._send(other, lambda service: service.start_migration(request)))

    def _moves(self, pod: Pod, fact: VolumeFact, name: str, pools: list[str]) -> list[tuple[ReplicaFact, str]] | None:
        """Choose what to ask for: most often what the migrator would not refuse, as a planner does."""
        rng = self._rng
        replicas = rng.sample(fact.replicas, len(fact.replicas) if rng.random() < 0.7 else 1)
        drawn = (
            [list(zip(replicas, rng.sample(pools, len(replicas)), strict=True)) for _ in range(8)]
            if (len(replicas) <= len(pools))
            else []
        )
        if not drawn or rng.random() < 0.1:
            return drawn[0] if drawn else None
        app = pod.app
        seen = app.backend.volumes.get(name) if app is not None else None
        if app is None or seen is None:
            return None
        subject = app.placements.subject(name, seen)
        for moves in drawn:
            asked = [Move(replica.pool, target, replica.uuid) for replica, target in moves]
            if not app.backend.refusals_of_moves(subject, asked):
                return moves
        if rng.random() < 0.5 or self._calm:
            # A pod moves to where its volume's new replica will be, which is of use in every version.
            self._sim.world.set_target(name, self._sim.world.node_of(drawn[0][0][1]))
        return None

    def _policy(self) -> pb.PolicyReference:
        found = self._sim.policy()
        if found is None:
            return pb.PolicyReference(name="gone", uid="gone", generation=1)
        return pb.PolicyReference(name=found[0], uid=found[1], generation=found[2])

    def _send(self, pod: Pod, call: Callable[[MigratorService], Any]) -> None:
        process, service = pod.process, pod.service
        if process is None or service is None or process.dead:
            return
        trace = self._sim.trace

        if process.life is not Life.RUNNING:
            return  # the connection hangs, and the caller gives up

        async def calling() -> None:
            try:
                await call(service)
            except RpcError as error:
                trace.note("people", f"{pod.name} refuses: {type(error).__name__}: {error}")

        process.start(self._sim.loop, calling())

    # --- what befalls a migration --------------------------------------------------------------------------------

    def _cancel(self, course: Course) -> None:
        pods = [pod for pod in self._sim.pods.values() if pod.service is not None]
        if pods and self._rng.random() < 0.7:
            request = pb.CancelMigrationRequest(name=course.name)
            self._send(self._rng.choice(pods), lambda service: service.cancel_migration(request))
        else:
            body = {"spec": {"cancelRequested": True}}
            self._sim.world.by_user(lambda store: store.patch(VOLUME_MIGRATIONS, course.name, body))

    def _delete_record(self, course: Course) -> None:
        self._sim.world.by_user(lambda store: store.delete(VOLUME_MIGRATIONS, course.name))
        if self._rng.random() < 0.15:
            body = {"metadata": {"finalizers": None}}
            self._at(
                self._rng.uniform(0, 3),
                lambda: self._sim.world.by_user(lambda store: store.patch(VOLUME_MIGRATIONS, course.name, body)),
            )

    def _edit_count(self, course: Course) -> None:
        fact = self._sim.world.volume(course.volume)
        if fact is not None:
            count = fact.count + self._rng.choice((1, 1, -1))
            if count >= 1:
                self._sim.world.edit_count(course.volume, count)

    def _edit_topology(self, course: Course) -> None:
        wanted = self._rng.choice(
            (
                {"pool": {"labelled": {"inclusion": {"site": "a"}}}},
                {"pool": {"labelled": {"inclusion": {"tier": "cold"}}}},
                None,
            )
        )
        self._sim.world.edit_topology(course.volume, wanted)

    def _label(self, course: Course) -> None:
        for beat in range(self._rng.choice((1, 5, 30))):
            self._at(0.7 * beat, partial(self._sim.world.meddle, course.volume))

    def _touch_pv(self, course: Course) -> None:
        for beat in range(self._rng.choice((1, 5, 20))):
            body = {"metadata": {"labels": {"touched": f"at-{beat}"}}}
            self._at(
                0.5 * beat,
                partial(self._patch_pv, course.volume, body),
            )

    def _patch_pv(self, volume: str, body: Mapping[str, Any]) -> None:
        self._sim.world.by_user(lambda store: store.patch(PERSISTENT_VOLUMES, volume, body))

    def _lose_pools(self, course: Course) -> None:
        pool = self._rng.choice(sorted(course.pools))
        if pool in self._sim.plan.tiers:
            self._away(pool)

    def _fault_rebuild(self, course: Course) -> None:
        self._failing |= {course.volume}
        self._set_storage_faults()

    def _stall_rebuild(self, course: Course) -> None:
        self._stalled |= {course.volume}
        self._set_storage_faults()
        if self._rng.random() < 0.6:
            self._at(self._rng.uniform(5, 300), lambda: self._unstall(course.volume))

    def _unstall(self, volume: str) -> None:
        self._stalled -= {volume}
        self._set_storage_faults()

    def _set_storage_faults(self) -> None:
        at = self._rng.choice((0.0, 0.3, 0.5, 0.95))
        self._sim.world.set_faults(StorageFaults(self._failing, self._stalled, at))
        self._sim.faults.count += 1

    def _move_target(self, course: Course) -> None:
        self._sim.world.set_target(course.volume, self._rng.choice(NODES))

    def _unpublish(self, course: Course) -> None:
        self._sim.world.set_target(course.volume, None)
        if self._rng.random() < 0.7:
            node = self._rng.choice(NODES)
            self._at(self._rng.uniform(1, 200), lambda: self._sim.world.set_target(course.volume, node))

    def _delete_volume(self, course: Course) -> None:
        if self._rng.random() < 0.5:
            self._sim.world.delete_volume(course.volume)

    def _strip_annotations(self, course: Course) -> None:
        body = {"metadata": {"annotations": {PARKED: None, LAST_MIGRATION: None, MOVE_MEMORY: None}}}
        self._patch_pv(course.volume, body)

    # --- what befalls a cluster ----------------------------------------------------------------------------------

    def _away(self, pool: str) -> None:
        self._sim.faults.count += 1
        self._sim.world.set_pool_online(pool, online=False)
        seconds = self._rng.choice((self._rng.uniform(0.5, 10), self._rng.uniform(10, 200)))
        self._at(seconds, lambda: self._sim.world.set_pool_online(pool, online=True))

    def _lose_pool(self) -> None:
        self._away(self._rng.choice(sorted(self._sim.plan.tiers)))

    def _lose_node(self) -> None:
        node = self._rng.choice(NODES)
        self._sim.faults.count += 1
        self._sim.world.set_node_lost(node, lost=True)
        self._at(self._rng.uniform(2, 120), lambda: self._sim.world.set_node_lost(node, lost=False))

    def _jump(self) -> None:
        pod = self._rng.choice(list(self._sim.pods.values()))
        self._sim.skewed = True
        pod.skew += timedelta(seconds=self._rng.choice((-3600, -60, 30, 600, 7200)))
        if pod.process is not None:
            pod.process.clock.skew = pod.skew
        self._sim.faults.count += 1

    def _forget(self) -> None:
        resource = self._rng.choice(FORGETTABLE)
        self._sim.world.store.forget(resource)

    def _lag(self) -> None:
        self._sim.faults.lagging_until = self._sim.loop.time() + self._rng.uniform(5, 90)
        self._sim.faults.count += 1

    def _cut_off(self) -> None:
        self._sim.disturbances.append(self._sim.loop.time())
        pod = self._sim.leader or self._rng.choice(list(self._sim.pods.values()))
        self._sim.faults.cut_off[pod.name] = self._sim.loop.time() + self._rng.uniform(1, 90)
        self._sim.faults.count += 1

    def _outage(self) -> None:
        self._sim.disturbances.append(self._sim.loop.time())
        self._sim.faults.outage_until = self._sim.loop.time() + self._rng.uniform(1, 60)
        self._sim.faults.count += 1

    def _kill_leader(self) -> None:
        pod = self._sim.leader
        if pod is not None and pod.process is not None:
            self._sim.kill(pod.process)

    def _pause_leader(self) -> None:
        pod = self._sim.leader
        if pod is not None and pod.process is not None:
            self._sim.pause(pod.process, self._rng.uniform(1, 120))
            self._sim.faults.count += 1

    def _stop_leader(self) -> None:
        pod = self._sim.leader
        if pod is not None:
            self._sim.stop(pod)

    def _cloud(self) -> None:
        """Heat is not known, or old, for a while."""
        heat = self._sim.heat
        heat.weather = self._rng.choice((Weather.STALE, Weather.STALE, Weather.UNAVAILABLE, Weather.SILENT))
        self._sim.faults.count += 1

        def clears() -> None:
            heat.weather = Weather.FRESH

        self._sim.loop.after(self._rng.uniform(20, 150), clears)

    def _go_dark(self) -> None:
        """Many volumes lose their data at once, as when exporters fail."""
        for volume in self._sim.plan.volumes:
            if self._rng.random() < 0.7:
                self._sim.heat.scores.pop(volume.name, None)
        self._sim.faults.count += 1

    def _a_planner(self) -> Process | None:
        pods = [pod for pod in self._sim.pods.values() if pod.plans and pod.process is not None]
        return self._rng.choice(pods).process if pods else None

    def _pause_planner(self) -> None:
        process = self._a_planner()
        if process is not None:
            self._sim.pause(process, self._rng.uniform(1, 90))

    def _kill_planner(self) -> None:
        process = self._a_planner()
        if process is not None:
            self._sim.kill(process)

    def _change_policy(self) -> None:
        name = self._rng.choice(("tiering", "by-hand"))
        body = {"spec": self._rng.choice(({"enabled": False}, {"maxConcurrentMigrations": 1}, {"enabled": True}))}
        self._sim.world.by_user(lambda store: store.patch(STORAGE_POLICIES, name, body))

    def _delete_policy(self) -> None:
        name = self._rng.choice(("tiering", "by-hand"))
        self._sim.world.by_user(lambda store: store.delete(STORAGE_POLICIES, name))

    def _fill_pool(self) -> None:
        self._sim.world.fill_pool(self._rng.choice(sorted(self._sim.plan.tiers)), self._rng.choice((0.5, 0.95, 0.0)))
