"""
Every way in which a migration can end, played on a small cluster: what is left, what is told, and that it is the
reason which says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_MIGRATIONS, Body, InvalidError, Resource
from common.reasons import Reason
from common.resources.memory import read_memory
from common.resources.meta import FENCE, LAST_MIGRATION, MOVE_MEMORY, PARKED, PIN
from common.resources.migration import MigrationState, PolicyRef
from sandbox.world.driver import MAYASTOR_VOLUMES
from sandbox.world.mayastor import Faults, RemovalRule
from sandbox.world.storage import Copy, SimReplica
from tests.moves.cluster import (
    FAST,
    GIB,
    NAMESPACE,
    SOURCE,
    START,
    TARGET,
    VOLUME,
    Cluster,
    Sent,
    WatchedApi,
    a_volume,
)

SLOW = replace(FAST, rebuild_bytes_per_second=0.1 * GIB)
TIER_COLD = {"pool": {"labelled": {"inclusion": {"tier": "cold"}}}}


async def once_in(
    cluster: Cluster, name: str, state: MigrationState, happen: Callable[[], Awaitable[None] | None]
) -> None:
    """Let something happen as soon as the migration is in a state."""
    done = False

    async def look() -> None:
        nonlocal done
        if not done and (await cluster.record(name)).status.state is state:
            done = True
            result = happen()
            if result is not None:
                await result

    cluster.on_tick.append(look)


async def a_cluster(**settings: Any) -> Cluster:
    cluster = Cluster(**settings)
    await cluster.install(a_volume())
    return cluster


async def told(cluster: Cluster) -> Mapping[str, str]:
    annotations: Mapping[str, str] = (await cluster.pv())["metadata"].get("annotations", {})
    return annotations


async def check_end(cluster: Cluster, name: str, state: MigrationState, reason: Reason) -> str:
    """Execute it; check how it ends and that the PersistentVolume is told; return the message."""
    await cluster.migrate(name)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (state, reason), status.message
    annotations = await told(cluster)
    assert [end.result for end in read_memory(annotations.get(MOVE_MEMORY))] == [f"{state}({reason})"]
    assert (PARKED in annotations) == (state is MigrationState.FAILED or reason is Reason.SOURCE_PRESERVED)
    assert (LAST_MIGRATION in annotations) == (state is MigrationState.COMPLETED)
    return status.message


async def as_before(cluster: Cluster) -> bool:
    volume = await cluster.volume()
    spec, fence = volume["spec"], volume["metadata"].get("annotations", {}).get(FENCE)
    return (spec["numReplicas"], spec.get("topology"), await cluster.pools_of(), fence) == (1, None, [SOURCE], None)


# --- somebody else -------------------------------------------------------------------------------------------------


async def test_a_topology_that_somebody_changed_is_left_as_it_is() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()
    await once_in(cluster, name, MigrationState.WAITING_SYNC, lambda: cluster.edit(topology=TIER_COLD_INSTEAD))
    message = await check_end(cluster, name, MigrationState.FAILED, Reason.TOPOLOGY_CHANGED)
    spec = (await cluster.volume())["spec"]
    assert spec["topology"]["pool"]["labelled"]["inclusion"] == {"tier": "cold"}
    assert spec["numReplicas"] == 2
    assert TARGET in message


TIER_COLD_INSTEAD = {"pool": {"labelled": {"inclusion": {"tier": "cold", "pool": None}}}}


async def test_a_count_that_somebody_changed_is_left_as_it_is_and_our_steering_taken_off() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()
    await once_in(cluster, name, MigrationState.WAITING_SYNC, lambda: cluster.edit(numReplicas=3))
    message = await check_end(cluster, name, MigrationState.FAILED, Reason.REPLICA_COUNT_CHANGED)
    spec = (await cluster.volume())["spec"]
    assert spec["numReplicas"] == 3
    assert "topology" not in spec
    assert "numReplicas to 3" in message


async def test_a_topology_changed_when_the_source_is_gone_already_is_left_too() -> None:
    cluster = await a_cluster()
    name = await cluster.admit()

    async def after_removal() -> None:
        volume = await cluster.volume()
        if volume["spec"]["numReplicas"] == 1 and await cluster.pools_of() == [TARGET]:
            inclusion = volume["spec"].get("topology", {}).get("pool", {}).get("labelled", {}).get("inclusion")
            if inclusion == {"pool": TARGET}:
                await cluster.edit(topology={"pool": {"labelled": {"inclusion": {"tier": "hot"}}}})

    cluster.on_tick.append(after_removal)
    await check_end(cluster, name, MigrationState.FAILED, Reason.TOPOLOGY_CHANGED)
    inclusion = (await cluster.volume())["spec"]["topology"]["pool"]["labelled"]["inclusion"]
    assert inclusion == {"pool": TARGET, "tier": "hot"}


async def test_a_volume_that_is_deleted_ends_it() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()
    await once_in(
        cluster, name, MigrationState.WAITING_SYNC, lambda: cluster.world.delete(MAYASTOR_VOLUMES, VOLUME, NAMESPACE)
    )
    await check_end(cluster, name, MigrationState.ABORTED, Reason.VOLUME_GONE)


async def test_a_volume_that_is_gone_with_its_persistent_volume_ends_it() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()

    async def both() -> None:
        await cluster.world.delete(MAYASTOR_VOLUMES, VOLUME, NAMESPACE)
        await cluster.world.delete(PERSISTENT_VOLUMES, VOLUME)

    await once_in(cluster, name, MigrationState.WAITING_SYNC, both)
    await cluster.migrate(name)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.ABORTED, Reason.VOLUME_GONE)


async def test_a_request_for_a_volume_that_has_its_name_from_another_is_not_begun() -> None:
    cluster = await a_cluster()
    name = await cluster.admit()
    made_anew = {"spec": {"csi": {"volumeHandle": "another-uuid"}}}
    await cluster.world.patch(PERSISTENT_VOLUMES, VOLUME, made_anew)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.VOLUME_GONE)
    assert not cluster.patches()


async def test_a_person_who_parks_or_pins_a_volume_is_heard_while_analyzing() -> None:
    for annotation, reason, by_policy in ((PARKED, Reason.PARKED, False), (PIN, Reason.PINNED, True)):
        cluster = await a_cluster()
        policy = await cluster.policy() if by_policy else None
        name = await cluster.admit(policy=policy)
        await cluster.world.patch(PERSISTENT_VOLUMES, VOLUME, {"metadata": {"annotations": {annotation: "true"}}})
        await cluster.migrate(name)
        assert (await cluster.record(name)).status.reason == reason
        assert not cluster.patches()


async def test_a_pin_to_the_tier_it_goes_to_does_not_hold_it() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(policy=await cluster.policy())
    await cluster.world.patch(PERSISTENT_VOLUMES, VOLUME, {"metadata": {"annotations": {PIN: "hot"}}})
    await check_end(cluster, name, MigrationState.COMPLETED, Reason.MOVED)


# --- plans and policies ----------------------------------------------------------------------------------------------


async def test_a_plan_that_is_too_old_is_not_begun() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(not_after=START + timedelta(minutes=10))
    cluster.clock.skew = timedelta(minutes=11)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.PLAN_EXPIRED)
    assert not cluster.patches()


@pytest.mark.parametrize("change", ["deleted", "disabled", "edited", "made anew"])
async def test_a_policy_that_is_another_by_now_begins_nothing(change: str) -> None:
    cluster = await a_cluster()
    policy: PolicyRef = await cluster.policy(lowWatermarkIOPS=500)
    name = await cluster.admit(policy=policy)
    if change in {"deleted", "made anew"}:
        await cluster.world.delete(STORAGE_POLICIES, policy.name)
    if change == "made anew":
        await cluster.policy(lowWatermarkIOPS=500)
    if change == "disabled":
        await cluster.policy(enabled=False)
    if change == "edited":
        await cluster.policy(lowWatermarkIOPS=400)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.POLICY_CHANGED)
    assert not cluster.patches()


async def test_a_policy_that_is_deleted_in_mid_move_lets_it_finish() -> None:
    cluster = await a_cluster(settings=SLOW)
    policy = await cluster.policy()
    name = await cluster.admit(policy=policy)
    await once_in(
        cluster, name, MigrationState.WAITING_SYNC, lambda: cluster.world.delete(STORAGE_POLICIES, policy.name)
    )
    await check_end(cluster, name, MigrationState.COMPLETED, Reason.MOVED)


async def test_a_dry_run_ends_before_anything_is_asked_of_mayastor_and_is_no_move() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(dry_run=True)
    await cluster.migrate(name)
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.COMPLETED, Reason.DRY_RUN)
    assert not cluster.sent_to_volume()
    assert not await told(cluster)


async def test_volumes_of_several_replicas_are_refused_before_any_write() -> None:
    cluster = Cluster()
    await cluster.install(a_volume(pools=(SOURCE, "pool-sata-2")))
    name = await cluster.admit(target="pool-nvme-2")
    await check_end(cluster, name, MigrationState.ABORTED, Reason.MULTI_REPLICA_NOT_STEERABLE)
    assert not cluster.sent_to_volume()


# --- Mayastor and its pools ------------------------------------------------------------------------------------------


async def test_a_rebuild_that_makes_progress_may_outlast_the_timeout() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit(timeout=30.0)
    await check_end(cluster, name, MigrationState.COMPLETED, Reason.MOVED)
    assert (await cluster.record(name)).status.elapsed_seconds > 90


async def test_a_rebuild_that_stalls_after_its_timeout_is_rolled_back() -> None:
    cluster = await a_cluster(settings=replace(SLOW, faults=Faults(stalled_rebuilds=frozenset({VOLUME}))))
    name = await cluster.admit(timeout=30.0)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.TIMED_OUT)
    assert await as_before(cluster)


async def test_a_target_pool_that_is_away_for_a_moment_only_is_waited_for() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()
    away: list[float] = []

    async def restart() -> None:
        if (await cluster.record(name)).status.state is MigrationState.WAITING_SYNC and not away:
            away.append(cluster.clock.elapsed)
            cluster.driver.set_pool_online(TARGET, online=False)
        elif away and cluster.clock.elapsed > away[0] + 3:
            cluster.driver.set_pool_online(TARGET, online=True)

    cluster.on_tick.append(restart)
    await check_end(cluster, name, MigrationState.COMPLETED, Reason.MOVED)
    assert away


async def test_an_unhealthy_original_holds_the_rollback_until_it_is_back() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()

    async def cancel_and_lose() -> None:
        cluster.driver.set_pool_online(SOURCE, online=False)
        await cluster.world.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})

    await once_in(cluster, name, MigrationState.WAITING_SYNC, cancel_and_lose)

    async def come_back() -> None:
        if cluster.clock.elapsed > 60:
            cluster.driver.set_pool_online(SOURCE, online=True)
        else:
            assert (await cluster.volume())["spec"]["numReplicas"] >= 1
            assert len(cluster.patches()) < 2 or (await cluster.volume())["spec"]["numReplicas"] == 2

    cluster.on_tick.append(come_back)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.CANCELLED)
    assert await as_before(cluster)


async def test_an_original_that_stays_away_leaves_everything_at_n_plus_one() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit(timeout=60)

    async def cancel_and_lose() -> None:
        cluster.driver.set_pool_online(SOURCE, online=False)
        await cluster.world.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}})

    await once_in(cluster, name, MigrationState.WAITING_SYNC, cancel_and_lose)
    message = await check_end(cluster, name, MigrationState.FAILED, Reason.REPLICA_LEFT)
    volume = await cluster.volume()
    assert volume["spec"]["numReplicas"] == 2
    assert "topology" not in volume["spec"]
    assert f"on: {TARGET}" in message


async def test_an_original_that_is_gone_for_good_stops_everything() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()

    def lose() -> None:
        volume = cluster.driver.state.volumes[VOLUME]
        left = tuple(replica for replica in volume.replicas if replica.pool != SOURCE)
        cluster.driver.state = replace(
            cluster.driver.state, volumes={**cluster.driver.state.volumes, VOLUME: replace(volume, replicas=left)}
        )

    await once_in(cluster, name, MigrationState.WAITING_SYNC, lose)
    await check_end(cluster, name, MigrationState.FAILED, Reason.ORIGINAL_LOST)
    assert (await cluster.volume())["spec"]["numReplicas"] == 2


async def test_a_new_replica_that_is_replaced_by_another_is_not_trusted() -> None:
    cluster = await a_cluster(settings=SLOW)
    name = await cluster.admit()

    def exchange() -> None:
        volume = cluster.driver.state.volumes[VOLUME]
        others = tuple(replica for replica in volume.replicas if replica.pool != TARGET)
        if len(others) == len(volume.replicas):
            return
        other = SimReplica(uuid="somebody-else", pool=TARGET, copy=Copy.COMPLETE, since=cluster.clock.elapsed)
        cluster.driver.state = replace(
            cluster.driver.state,
            volumes={**cluster.driver.state.volumes, VOLUME: replace(volume, replicas=(*others, other))},
        )

    async def later() -> None:
        if (await cluster.record(name)).status.new_replicas:
            exchange()

    cluster.on_tick.append(later)
    await check_end(cluster, name, MigrationState.ABORTED, Reason.UNKNOWN_REPLICA)
    assert await as_before(cluster)


async def test_a_mayastor_that_pays_no_heed_to_topology_costs_a_copy_and_nothing_else() -> None:
    cluster = await a_cluster(settings=replace(FAST, removal_order=(RemovalRule.NOT_LOCAL,)))
    name = await cluster.admit()
    await check_end(cluster, name, MigrationState.ABORTED, Reason.STEERING_INEFFECTIVE)
    assert await as_before(cluster)


async def test_replicas_without_uuids_are_known_by_their_pool() -> None:
    cluster = await a_cluster(uuids=False)
    await check_end(cluster, await cluster.admit(), MigrationState.COMPLETED, Reason.MOVED)
    assert await cluster.pools_of() == [TARGET]


async def test_preservation_keeps_the_source_and_parks_the_volume() -> None:
    cluster = await a_cluster()
    name = await cluster.admit(preservation=True)
    await check_end(cluster, name, MigrationState.COMPLETED, Reason.SOURCE_PRESERVED)
    volume = await cluster.volume()
    assert volume["spec"]["numReplicas"] == 2
    assert "topology" not in volume["spec"]
    assert not [body for body in cluster.patches() if body.get("spec", {}).get("numReplicas") == 1]
    again = await cluster.admit(request_id="r-2", source=SOURCE, target="pool-nvme-2")
    await cluster.migrate(again)
    assert (await cluster.record(again)).status.reason == Reason.SOURCE_PRESERVED_BEFORE


# --- answers that are not as they should be --------------------------------------------------------------------------


class Meddling(WatchedApi):
    """An API server whose webhooks or schema change what is written to a volume, or refuse it."""

    def meddle(self, body: Mapping[str, Any], *, dry_run: bool) -> Mapping[str, Any]:
        return body

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Body,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> msgspec.Raw:
        meant = self.meddle(body, dry_run=dry_run) if resource == MAYASTOR_VOLUMES else body
        return await super().patch(resource, name, meant, namespace, subresource=subresource, dry_run=dry_run)


def without_topology(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**body, "spec": {key: value for key, value in body.get("spec", {}).items() if key != "topology"}}


async def test_a_schema_that_would_prune_the_steering_is_found_out_before_anything_is_written() -> None:
    class Pruning(Meddling):
        def meddle(self, body: Mapping[str, Any], *, dry_run: bool) -> Mapping[str, Any]:
            return without_topology(body)

    cluster = await a_cluster()
    name = await cluster.admit()
    await cluster.migrate(name, Pruning(cluster.store, cluster.sent))
    assert (await cluster.record(name)).status.reason == Reason.UNSUPPORTED_MAYASTOR_VOLUME
    assert not cluster.patches()


async def test_a_patch_that_is_stored_differently_is_rolled_back() -> None:
    class Once(Meddling):
        def meddle(self, body: Mapping[str, Any], *, dry_run: bool) -> Mapping[str, Any]:
            return without_topology(body) if not dry_run and body.get("spec", {}).get("numReplicas") == 2 else body

    cluster = await a_cluster()
    name = await cluster.admit()
    await cluster.migrate(name, Once(cluster.store, cluster.sent))
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.ABORTED, Reason.WRITE_ALTERED), status.message
    assert await as_before(cluster)


def refusing(chosen: Callable[[dict[str, Any]], bool]) -> Callable[[int, Sent], None]:
    def refuse(_index: int, sent: Sent) -> None:
        if sent.resource == MAYASTOR_VOLUMES and not sent.dry_run and chosen(dict(sent.body.get("spec", {}))):
            raise InvalidError("422: a webhook says no")

    return refuse


async def test_a_scale_up_that_is_refused_changes_nothing() -> None:
    cluster = await a_cluster()
    name = await cluster.admit()
    await cluster.migrate(name, cluster.api(before=refusing(lambda spec: spec.get("numReplicas") == 2)))
    assert (await cluster.record(name)).status.reason == Reason.WRITE_REFUSED
    assert await as_before(cluster)


async def test_a_scale_down_that_is_refused_for_good_leaves_the_copy_and_says_so() -> None:
    cluster = await a_cluster()
    name = await cluster.admit()
    await cluster.migrate(name, cluster.api(before=refusing(lambda spec: spec.get("numReplicas") == 1)))
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.FAILED, Reason.REPLICA_LEFT)
    volume = await cluster.volume()
    assert volume["spec"]["numReplicas"] == 2
    assert "topology" not in volume["spec"]
    assert PARKED in await told(cluster)


async def test_a_topology_that_cannot_be_put_back_is_told_of() -> None:
    cluster = await a_cluster()
    name = await cluster.admit()
    await cluster.migrate(name, cluster.api(before=refusing(lambda spec: spec.get("topology", 0) is None)))
    status = (await cluster.record(name)).status
    assert (status.state, status.reason) == (MigrationState.FAILED, Reason.TOPOLOGY_LEFT)
    assert "still steered" in status.message
    assert await cluster.pools_of() == [TARGET]
