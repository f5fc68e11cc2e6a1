"""
The courses that a migration can take, each as a story that can be told again and again, with a crash in another place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState
from migrator.core.model import END_STATES
from sandbox.world.mayastor import Copy, Faults
from tests.moves.cluster import FAST, GIB, SOURCE, TARGET, VOLUME, Cluster, a_pool, a_volume
from tests.moves.happenings import (
    FAIL,
    Course,
    Happening,
    analyzing,
    asked,
    cancel,
    copying_to,
    delete_record,
    gone,
    pool_goes,
    scaling_down,
)

HEALTHY = Faults()
STALLED = Faults(stalled_rebuilds=frozenset({VOLUME}))
FAILING = Faults(failing_rebuilds=frozenset({VOLUME}))
POOLS = (
    a_pool(SOURCE, "node-1", "cold"),
    a_pool("pool-sata-2", "node-2", "cold"),
    a_pool("pool-sata-5", "node-5", "cold"),
    a_pool(TARGET, "node-3", "hot"),
    a_pool("pool-nvme-2", "node-4", "hot"),
)
ONE = ((SOURCE, TARGET),)
BOTH = ((SOURCE, TARGET), ("pool-sata-2", "pool-nvme-2"))
COPYING, SECOND = copying_to(TARGET), copying_to("pool-nvme-2")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story and how it ends."""

    title: str
    reason: Reason
    happens: tuple[Happening, ...] = ()
    """What goes on beside the migration."""
    faults: Faults = HEALTHY
    preservation: bool = False
    timeout: float = 60.0
    inclusion: tuple[tuple[str, str], ...] | None = None
    moves: tuple[tuple[str, str], ...] = ONE

    async def begin(self, seed: int = 1) -> tuple[Cluster, str]:
        """Set the stage; return it and the name of the migration."""
        cluster = Cluster(settings=replace(FAST, faults=self.faults), seed=seed)
        inclusion = dict(self.inclusion) if self.inclusion is not None else None
        await cluster.install(a_volume(pools=self.sources, size=10 * GIB, inclusion=inclusion), pools=POOLS)
        name = await cluster.admit(moves=self.moves, preservation=self.preservation, timeout=self.timeout)
        Course(cluster, name).meet(*self.happens)
        cluster.on_tick.append(lambda: never_fewer_copies(cluster, len(self.moves)))
        return cluster, name

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for source, _ in self.moves)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for _, target in self.moves)

    async def check(self, cluster: Cluster, name: str, *, late: bool = False) -> None:
        """Check that the end is terminal, clean and told; `late`: the copy may have been made while nobody looked."""
        record = await cluster.record(name)
        reason = Reason(record.status.reason)
        assert record.status.state is END_STATES[reason]
        assert record.status.ended_at is not None
        allowed = {self.reason, Reason.MOVED} if late else {self.reason}
        assert reason in allowed, f"ended {reason}: {record.status.message}"
        await self._check_volume(cluster, reason)
        await self._check_annotations(cluster, reason, record.status.state)

    async def _check_volume(self, cluster: Cluster, reason: Reason) -> None:
        await cluster.clock.sleep(2.0)  # whatever Mayastor was still to do
        volume, pools = await cluster.volume(), await cluster.pools_of()
        both = (*self.sources, *self.targets)
        wanted = both if reason is Reason.SOURCE_PRESERVED else self.targets if reason is Reason.MOVED else self.sources
        assert sorted(pools) == sorted(wanted)
        assert volume["spec"]["numReplicas"] == len(wanted)
        inclusion = dict(self.inclusion) if self.inclusion is not None else None
        topology = None if inclusion is None else {"pool": {"labelled": {"inclusion": inclusion}}}
        assert volume["spec"].get("topology") == topology
        assert FENCE not in volume["metadata"].get("annotations", {})

    async def _check_annotations(self, cluster: Cluster, reason: Reason, state: MigrationState) -> None:
        annotations = (await cluster.pv())["metadata"].get("annotations", {})
        ends = read_memory(annotations.get(MOVE_MEMORY))
        assert [end.result for end in ends] == [f"{state}({reason})"], "one end, remembered once"
        assert (LAST_MIGRATION in annotations) == (state is MigrationState.COMPLETED)
        assert (PARKED in annotations) == (state is MigrationState.FAILED or reason is Reason.SOURCE_PRESERVED)


async def never_fewer_copies(cluster: Cluster, count: int) -> None:
    """Whatever happens: as many complete copies are there as at first, and the count is never below what it was."""
    volume = cluster.driver.state.volumes[VOLUME]
    complete = sum(replica.copy is Copy.COMPLETE for replica in volume.replicas)
    assert complete >= count, f"{complete} complete copies are left of {count}"
    assert (await cluster.volume())["spec"]["numReplicas"] >= count


SCENARIOS = (
    Scenario("success", Reason.MOVED),
    Scenario("success with a topology", Reason.MOVED, inclusion=(("site", "a"),)),
    Scenario("cancel", Reason.CANCELLED, (Happening(COPYING, cancel),)),
    Scenario("cancel while analyzing", Reason.CANCELLED, (Happening(analyzing, cancel),)),
    Scenario("cancel before the copy is there", Reason.CANCELLED, (Happening(asked, cancel),)),
    Scenario("cancel in ScalingDown", Reason.MOVED, (Happening(scaling_down, cancel),)),
    Scenario("deletion", Reason.RECORD_DELETED, (Happening(COPYING, delete_record),)),
    Scenario("stalled rebuild", Reason.TIMED_OUT, faults=STALLED, timeout=20.0),
    Scenario("failed rebuild", Reason.REBUILD_FAILED, faults=FAILING),
    Scenario("target offline", Reason.TARGET_POOL_OFFLINE, (Happening(COPYING, pool_goes(TARGET)),)),
    Scenario("preservation", Reason.SOURCE_PRESERVED, preservation=True),
    Scenario("two replicas", Reason.MOVED, inclusion=(("site", "a"),), moves=BOTH),
    Scenario("two replicas, cancel", Reason.CANCELLED, (Happening(SECOND, cancel),), moves=BOTH),
    Scenario("two replicas, cancel after a removal", Reason.MOVED, (Happening(gone(1), cancel),), moves=BOTH),
    Scenario("two replicas, failed rebuild", Reason.REBUILD_FAILED, (Happening(SECOND, FAIL),), moves=BOTH),
    Scenario(
        "two replicas, a copy that never comes",
        Reason.TARGET_POOL_OFFLINE,
        (Happening(asked, pool_goes(TARGET)),),
        moves=BOTH,
    ),
)
