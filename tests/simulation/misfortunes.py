"""
Misfortunes: what befalls a cluster, or a migration of it, besides calls that go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

from couchestor.migrator.v1 import migrator_pb2 as pb

from common.kube.api import (
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_MIGRATIONS,
    Resource,
)
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY, PARKED
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES
from sandbox.world.mayastor import Faults as StorageFaults
from tests.simulation.asking import Asking
from tests.simulation.courses import Course
from tests.simulation.heat import Weather
from tests.simulation.process import Process
from tests.simulation.rest_world import NODES

FORGETTABLE: Final[tuple[Resource, ...]] = (VOLUME_MIGRATIONS, PERSISTENT_VOLUMES, MAYASTOR_VOLUMES, DISK_POOLS)

POLICIES: Final = ("tiering", "by-hand")


class Misfortunes(Asking):
    """Lets things happen."""

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
        self._publish(course.volume)

    def _unpublish(self, course: Course) -> None:
        self._sim.world.set_target(course.volume, None)
        if self._rng.random() < 0.7:
            self._at(self._rng.uniform(1, 200), partial(self._publish, course.volume))

    def _publish(self, volume: str) -> None:
        node = self._rng.choice(NODES)
        if self._sim.world.volume(volume) is not None:
            self._sim.world.set_target(volume, node)

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
        change = self._rng.choice(({"enabled": False}, {"maxConcurrentMigrations": 1}, {"enabled": True}))
        self._set_policy(self._rng.choice(POLICIES), change)

    def _set_policy(self, name: str, change: Mapping[str, Any]) -> None:
        self._sim.world.by_user(lambda store: store.patch(STORAGE_POLICIES, name, {"spec": change}))

    def _delete_policy(self) -> None:
        name = self._rng.choice(POLICIES)
        self._sim.world.by_user(lambda store: store.delete(STORAGE_POLICIES, name))

    def _fill_pool(self) -> None:
        self._sim.world.fill_pool(self._rng.choice(sorted(self._sim.plan.tiers)), self._rng.choice((0.5, 0.95, 0.0)))
