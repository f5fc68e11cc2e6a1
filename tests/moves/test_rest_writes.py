"""One replica more or less, steered: levers are pulled before the call, seen to be, and gone after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from migrator.core.model import Outcome, Purpose, VolumeSpec
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool
from sandbox.world.storage import SimPool
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import HOT, POOLS, VOLUME, RestCluster, a_pool
from tests.moves.rest_acting import PV, Desk, kinds, leading

TWO_ON_N2 = (*POOLS, a_pool("p2b", "n2"))


async def one_replica(
    version: MayastorVersion = MayastorVersion.LATE_2024,
    *,
    pools: Iterable[SimPool] = POOLS,
    target: str = "n1",
    hot: bool = False,
) -> Desk:
    """A leader and a volume on p1."""
    cluster = RestCluster(version, pools=pools)
    more: dict[str, Any] = {"topology": HOT} if hot else {}
    await cluster.create(on="p1", **more)
    await cluster.publish(target)
    return await leading(cluster)


async def two_replicas(version: MayastorVersion, *, target: str, hot: bool = False) -> Desk:
    """A leader and a volume on p1 and p2, all synced."""
    cluster = RestCluster(version)
    more: dict[str, Any] = {"topology": HOT} if hot else {}
    await cluster.two_replicas("p1", target, also="p2", **more)
    return await leading(cluster)


# --- one more ------------------------------------------------------------------------------------------------------


async def test_a_nodes_cordon_leaves_the_target_alone_and_is_gone_after_the_call() -> None:
    desk = await one_replica()
    write = await desk.planned(Purpose.SCALE_UP, "p2")
    assert write.levers == (CordonNode("n3", "couchestor-m1"),)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left, result.spec) == (Outcome.DONE, False, VolumeSpec(2))
    assert desk.replicas == {"p1", "p2"}
    assert desk.marks_left == set()
    assert desk.writes == [
        "PUT /nodes/n3/cordon/couchestor-m1",
        f"PUT /volumes/{VOLUME}/replica_count/2",
        "DELETE /nodes/n3/cordon/couchestor-m1",
    ]


@pytest.mark.parametrize("target", ["p2", "p2b"])
@pytest.mark.parametrize(
    ("version", "hot", "kind"),
    [(MayastorVersion.LATE_2024, True, LabelPool), (MayastorVersion.OPENEBS_4_4, False, CordonPool)],
)
async def test_of_two_pools_of_a_node_a_label_or_a_pools_cordon_leaves_one(
    version: MayastorVersion, hot: bool, kind: type[LabelPool] | type[CordonPool], target: str
) -> None:
    desk = await one_replica(version, pools=TWO_ON_N2, hot=hot)
    before = {pool: desk.labels(pool) for pool in ("p1", "p2", "p2b", "p3")}
    write = await desk.planned(Purpose.SCALE_UP, target)
    assert kind in kinds(write)
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert desk.replicas == {"p1", target}
    assert desk.marks_left == set()
    assert {pool: desk.labels(pool) for pool in before} == before
    calls = desk.writes
    assert calls[len(write.levers)] == f"PUT /volumes/{VOLUME}/replica_count/2"
    assert len(calls) == 2 * len(write.levers) + 1


# --- one less ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "target", "hot", "levers"),
    [
        (MayastorVersion.LATE_2024, "n2", False, []),
        (MayastorVersion.EARLY_2025, "n1", True, [LabelPool]),
        (MayastorVersion.OPENEBS_4_3, "n1", False, [CordonNode]),
        (MayastorVersion.OPENEBS_4_3, "n3", False, [CordonNode]),
        (MayastorVersion.OPENEBS_4_4, "n1", False, [CordonNode]),
    ],
)
@pytest.mark.parametrize("attempt", range(3))
async def test_the_old_replica_goes_by_what_the_version_heeds(
    version: MayastorVersion, target: str, hot: bool, levers: list[type], attempt: int
) -> None:
    desk = await two_replicas(version, target=target, hot=hot)
    desk.cluster.front.api.rng.seed(attempt)
    write = await desk.planned(Purpose.SCALE_DOWN, "p1")
    assert kinds(write) == levers
    result = await desk.perform(write)
    assert (result.outcome, result.levers_left) == (Outcome.DONE, False)
    assert result.spec is not None
    assert result.spec.replica_count == 1
    assert desk.replicas == {"p2"}
    assert desk.marks_left == set()
    assert (await desk.read(PV)).pools == {"p2"}
