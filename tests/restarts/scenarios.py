"""
The courses that a migration can take, each as a story that can be told again and again, with a crash in another place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from common.kube.api import VOLUME_MIGRATIONS
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED
from common.resources.migration import MigrationState
from migrator.core.model import END_STATES
from sandbox.world.mayastor import Copy, Faults
from tests.moves.cluster import FAST, GIB, SOURCE, TARGET, VOLUME, Cluster, a_volume

Happening = Callable[[Cluster, str], Awaitable[None]]
"""What goes on beside the migration, at every tick of time."""


async def nothing(_cluster: Cluster, _name: str) -> None:
    """Nothing goes on."""


async def cancel_while_syncing(cluster: Cluster, name: str) -> None:
    """Somebody cancels while the copy is being made."""
    record = await cluster.record(name)
    if record.status.state is MigrationState.WAITING_SYNC and not record.spec.cancel_requested:
        await cluster.world.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})


async def delete_while_syncing(cluster: Cluster, name: str) -> None:
    """Somebody deletes the record while the copy is being made."""
    record = await cluster.record(name)
    if record.status.state is MigrationState.WAITING_SYNC and record.metadata.deletion_timestamp is None:
        await cluster.world.delete(VOLUME_MIGRATIONS, name)


async def target_goes_offline(cluster: Cluster, name: str) -> None:
    """The target's pool goes away while the copy is being made."""
    record = await cluster.record(name)
    if record.status.state is MigrationState.WAITING_SYNC and cluster.driver.state.pools[TARGET].online:
        cluster.driver.set_pool_online(TARGET, online=False)


HEALTHY = Faults()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story and how it ends."""

    title: str
    reason: Reason
    happening: Happening = nothing
    faults: Faults = HEALTHY
    preservation: bool = False
    timeout: float = 60.0
    inclusion: tuple[tuple[str, str], ...] | None = None

    async def begin(self, seed: int = 1) -> tuple[Cluster, str]:
        """Set the stage; return it and the name of the migration."""
        cluster = Cluster(settings=replace(FAST, faults=self.faults), seed=seed)
        inclusion = dict(self.inclusion) if self.inclusion is not None else None
        await cluster.install(a_volume(size=10 * GIB, inclusion=inclusion))
        name = await cluster.admit(preservation=self.preservation, timeout=self.timeout)
        cluster.on_tick.append(lambda: self.happening(cluster, name))
        cluster.on_tick.append(lambda: never_without_a_copy(cluster))
        return cluster, name

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
        kept = reason is Reason.SOURCE_PRESERVED
        assert volume["spec"]["numReplicas"] == (2 if kept else 1)
        assert pools == ([SOURCE, TARGET] if kept else [TARGET] if reason is Reason.MOVED else [SOURCE])
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


async def never_without_a_copy(cluster: Cluster) -> None:
    """Whatever happens: a complete copy is there, and the count never below what it was."""
    volume = cluster.driver.state.volumes[VOLUME]
    assert any(replica.copy is Copy.COMPLETE for replica in volume.replicas), "the last complete copy is gone"
    assert (await cluster.volume())["spec"]["numReplicas"] >= 1


STALLED = Faults(stalled_rebuilds=frozenset({VOLUME}))
FAILING = Faults(failing_rebuilds=frozenset({VOLUME}))

SCENARIOS = (
    Scenario("success", Reason.MOVED),
    Scenario("success with a topology", Reason.MOVED, inclusion=(("site", "a"),)),
    Scenario("cancel", Reason.CANCELLED, cancel_while_syncing),
    Scenario("deletion", Reason.RECORD_DELETED, delete_while_syncing),
    Scenario("stalled rebuild", Reason.TIMED_OUT, faults=STALLED, timeout=20.0),
    Scenario("failed rebuild", Reason.REBUILD_FAILED, faults=FAILING),
    Scenario("target offline", Reason.TARGET_POOL_OFFLINE, target_goes_offline),
    Scenario("preservation", Reason.SOURCE_PRESERVED, preservation=True),
)
