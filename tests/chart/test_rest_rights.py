"""
The rights that the chart gives for volumes behind the REST API: none on volumes, and enough for a whole move.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from common.kube.api import LEASES
from common.placement import Tier
from common.resources.meta import LEVERS_OFF
from common.resources.migration import BackendKind
from sandbox.demo.environment import Setup
from sandbox.demo.scenario import POLICIES, POLICY, DemoVolume, Scenario, a_pool, hot
from sandbox.demo.services import REST_TEMPO, Name
from tests.chart.chart import NAMESPACE
from tests.chart.cluster import connect
from tests.chart.test_rights import Chartered, chartered

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCENARIO = Scenario(
    pools=tuple(
        a_pool(name, node, tier, 500)
        for name, node, tier in (
            ("pool-nvme-1", "node-1", Tier.HOT),
            ("pool-sata-2", "node-2", Tier.COLD),
            ("pool-sata-3", "node-3", Tier.COLD),
        )
    ),
    volumes=(DemoVolume("pvc-rising", ("pool-sata-2",), 20, 9000, hot("pool-nvme-1", why="it is hot")),),
    policies={POLICY: {**POLICIES[POLICY], "samplingWindow": "2s"}},
)
SETTINGS = (
    "mayastor.backend=rest",
    "mayastor.rest.url=http://mayastor-api-rest:8081",
    "mayastor.rest.readDiskPools=false",
)
LEASE = f"/apis/{LEASES.api_version}/namespaces/{NAMESPACE}/leases/couchestor-migrator"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moved(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chartered]:
    """An environment in which the volume has been moved over the REST API."""
    setup = Setup(scenario=SCENARIO, tempo=REST_TEMPO, backend=BackendKind.REST)
    async with chartered(tmp_path_factory.mktemp("rest"), setup, *SETTINGS) as environment:
        yield environment


async def test_a_volume_is_moved_without_any_right_in_mayastors_namespace(moved: Chartered) -> None:
    async with connect(moved.directory / f"{Name.MIGRATOR}.kubeconfig") as cluster:
        for plural in ("mayastorvolumes", "diskpools"):
            path = f"/apis/openebs.io/v1/namespaces/mayastor/{plural}"
            async with cluster.session.get(path) as answer:
                assert answer.status in {403, 404}, await answer.text()
    ended = [entry for entry in moved.log_of(Name.MIGRATOR) if entry["event"] == "ended"]
    assert {entry["reason"] for entry in ended} == {"Moved"}


async def test_what_is_not_allowed_is_done_without_and_told_once(moved: Chartered) -> None:
    said = [entry for entry in moved.log_of(Name.MIGRATOR) if "forbidden" in str(entry).lower()]
    assert [entry["event"] for entry in said] in (
        [],
        ["labels of DiskPools cannot be read; those of Mayastor's own pools count"],
    )


async def test_the_lease_may_be_annotated_and_no_other(moved: Chartered) -> None:
    body = {"metadata": {"annotations": {LEVERS_OFF: "SomethingOfALaterVersion"}}}
    async with connect(moved.directory / f"{Name.MIGRATOR}.kubeconfig") as cluster:
        async with cluster.session.patch(LEASE, json=body, headers=MERGE) as answer:
            assert answer.status == 200, await answer.text()
        other = LEASE.replace("migrator", "planner")
        async with cluster.session.patch(other, json=body, headers=MERGE) as answer:
            assert answer.status == 403, await answer.text()
