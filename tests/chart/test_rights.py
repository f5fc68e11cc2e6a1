"""The rights that the chart gives are enough for a whole move, and for nothing that a service has no business with.

The production programs run against a real API server, each with the token of its own service account; a volume is
moved from its policy to its last annotation. What is missing shows as a 403 in a log.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from common.kube.api import EVENTS, LEASES, PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_MIGRATIONS
from common.placement import Tier
from common.resources.meta import LAST_MIGRATION
from sandbox.demo.clusters import ClusterKind
from sandbox.demo.environment import Environment, Setup
from sandbox.demo.scenario import POLICIES, POLICY, DemoVolume, Scenario, a_pool, hot
from sandbox.demo.services import Name, Tempo
from tests.chart.chart import NAMESPACE, RELEASE, render
from tests.chart.cluster import connect, kubeconfig_with, namespace
from tests.real import require_real

pytestmark = pytest.mark.asyncio(loop_scope="module")
RISING = DemoVolume("pvc-rising", ("pool-sata-2",), 20, 9000, hot("pool-nvme-1", why="it is hot"))
SCENARIO = Scenario(
    pools=(a_pool("pool-nvme-1", "node-1", Tier.HOT, 500), a_pool("pool-sata-2", "node-2", Tier.COLD, 500)),
    volumes=(RISING,),
    policies={POLICY: {**POLICIES[POLICY], "samplingWindow": "2s"}},
)
RIGHTS = {"ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


class Chartered(Environment):
    """An environment whose planner and migrator have the rights of the chart, and whose scorer has none."""

    def __init__(self, directory: Path, setup: Setup, *settings: str) -> None:
        """`settings` are those of the chart."""
        self.settings = settings
        self.extra: dict[Name, dict[str, str]] = {Name.SCORER: {"KUBECONFIG": str(directory / "none")}}
        super().__init__(replace(setup, cluster=ClusterKind.REAL, extra=self.extra, directory=directory))

    async def _start_services(self) -> None:
        async with connect(self.kubernetes.kubeconfig) as cluster:
            await cluster.make(
                namespace(NAMESPACE), *(item for item in render(*self.settings) if item["kind"] in RIGHTS)
            )
            for name in (Name.PLANNER, Name.MIGRATOR):
                token = await cluster.token(NAMESPACE, f"{RELEASE}-{name}")
                kubeconfig = kubeconfig_with(token, self.kubernetes.kubeconfig, self.directory / f"{name}.kubeconfig")
                self.extra[name] = {"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": NAMESPACE, "POD_NAME": f"{name}-0"}
        await super()._start_services()

    def log_of(self, name: Name) -> list[dict[str, Any]]:
        """What a service has logged."""
        return [
            json.loads(line) for line in (self.directory / f"{name}.log").read_text().splitlines() if line[:1] == "{"
        ]

    def told_of_an_end(self) -> bool:
        """Whether the migrator logged that a migration ended, which it does last."""
        return any(entry["event"] == "ended" for entry in self.log_of(Name.MIGRATOR))

    async def read(self, path: str) -> Any:
        """Read anything, as the admin."""
        async with connect(self.kubernetes.kubeconfig) as cluster, cluster.session.get(path) as answer:
            return await answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moved(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chartered]:
    """An environment in which the volume has been moved."""
    setup = Setup(scenario=SCENARIO, tempo=Tempo(reconcile_seconds=0.5))
    async with chartered(tmp_path_factory.mktemp("chartered"), setup) as environment:
        yield environment


@contextlib.asynccontextmanager
async def chartered(directory: Path, setup: Setup, *settings: str) -> AsyncIterator[Chartered]:
    """Run an environment until its volume has been moved."""
    require_real("kube-apiserver", "etcd", "prometheus", "helm")
    async with Chartered(directory, setup, *settings) as environment:
        await environment.begin()
        try:
            async with asyncio.timeout(90):
                while LAST_MIGRATION not in (await annotations(environment)) or not environment.told_of_an_end():
                    await environment.tend()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            logs = {name: environment.log_of(name)[-5:] for name in (Name.PLANNER, Name.MIGRATOR)}
            pytest.fail(f"the volume was not moved: {logs}")
        yield environment


async def annotations(environment: Chartered) -> dict[str, str]:
    """The annotations of the volume."""
    volume = await environment.read(f"/api/v1/persistentvolumes/{RISING.name}")
    found: dict[str, str] = volume["metadata"].get("annotations", {})
    return found


async def test_a_volume_is_moved_with_the_rights_of_the_chart(moved: Chartered) -> None:
    volume = await moved.read(f"/apis/openebs.io/v1/namespaces/mayastor/mayastorvolumes/{RISING.name}")
    assert [replica["pool"] for replica in volume["status"]["replicas"]] == ["pool-nvme-1"]
    assert volume["spec"]["numReplicas"] == 1


async def test_nothing_was_forbidden(moved: Chartered) -> None:
    for name in Name:
        said = [entry for entry in moved.log_of(name) if "forbidden" in json.dumps(entry).lower()]
        assert said == [], name


async def test_status_leases_and_events_are_where_they_belong(moved: Chartered) -> None:
    policy = await moved.read(f"/apis/{STORAGE_POLICIES.api_version}/storagepolicies/{POLICY}")
    assert policy["status"]["phase"] == "Active"
    leases = await moved.read(f"/apis/{LEASES.api_version}/namespaces/{NAMESPACE}/leases")
    holders = {lease["metadata"]["name"]: lease["spec"]["holderIdentity"] for lease in leases["items"]}
    assert set(holders) == {"couchestor-planner", "couchestor-migrator"}
    assert holders["couchestor-planner"].startswith("planner-0")
    assert holders["couchestor-migrator"].startswith("migrator-0")
    async with asyncio.timeout(20):  # Events are queued, and may come a little later
        while True:
            events = await moved.read(f"/apis/{EVENTS.api_version}/events")
            if len({event["reportingController"] for event in events["items"]}) == 2:
                break
            await asyncio.sleep(0.2)
    assert {event["metadata"]["namespace"] for event in events["items"]} == {"default"}


FORBIDDEN = [
    (Name.PLANNER, "PATCH", "/apis/openebs.io/v1/namespaces/mayastor/mayastorvolumes/pvc-rising"),
    (Name.PLANNER, "PATCH", "/api/v1/persistentvolumes/pvc-rising"),
    (Name.PLANNER, "POST", f"/apis/{VOLUME_MIGRATIONS.api_version}/volumemigrations"),
    (Name.PLANNER, "GET", "/api/v1/secrets"),
    (Name.MIGRATOR, "PATCH", f"/apis/{STORAGE_POLICIES.api_version}/storagepolicies/{POLICY}"),
    (Name.MIGRATOR, "DELETE", "/apis/openebs.io/v1/namespaces/mayastor/mayastorvolumes/pvc-rising"),
    (Name.MIGRATOR, "DELETE", f"/api/v1/{PERSISTENT_VOLUMES.plural}/pvc-rising"),
    (Name.MIGRATOR, "GET", "/apis/openebs.io/v1/mayastorvolumes"),
    (Name.MIGRATOR, "GET", "/api/v1/secrets"),
]


@pytest.mark.parametrize(("name", "method", "path"), FORBIDDEN)
async def test_what_is_nobodys_business_is_forbidden(moved: Chartered, name: Name, method: str, path: str) -> None:
    async with connect(moved.directory / f"{name}.kubeconfig") as cluster:
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        async with cluster.session.request(method, path, data="{}", headers=headers) as answer:
            assert answer.status == 403, await answer.text()
