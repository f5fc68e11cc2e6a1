"""The driver: the model at work through the Kubernetes interface, here over the store in memory and over HTTP."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from common.kube.api import Body, ConflictError, KubeApi, Resource, ServerError
from common.kube.http import HttpKubeApi
from sandbox.demo.clusters import CRDS
from sandbox.demo.resources import create_namespaces
from sandbox.fronts.kube import KubeFront
from sandbox.real.control_plane import ControlPlane
from sandbox.world.direct import DirectKubeApi
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES, Driver, DriverSettings
from sandbox.world.mayastor import Copy, Faults, Settings, SimPool, SimVolume
from sandbox.world.store import Store
from tests.real import require_real

GIB = 2**30
POOLS = (
    SimPool("sata-1", "n1", 100 * GIB, labels={"tier": "cold"}, reserved_bytes=5 * GIB),
    SimPool("nvme-2", "n2", 50 * GIB, labels={"tier": "hot"}),
)
STEER: Body = {
    "spec": {"numReplicas": 2, "topology": {"pool": {"labelled": {"inclusion": {"tier": None, "pool": "nvme-2"}}}}},
}
FAST = Settings(rebuild_bytes_per_second=GIB, create_seconds=1.0)


class Hands:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def a_store(clock: Hands) -> Store:
    return Store(now=clock.now, rng=Random(1), crds=CRDS)


def a_driver(api: KubeApi, clock: Hands, **options: Any) -> Driver:
    return Driver(api, clock=clock, rng=Random(1), settings=FAST, driver_settings=DriverSettings(**options))


async def installed(api: KubeApi, clock: Hands, **options: Any) -> Driver:
    await create_namespaces(api, ["mayastor"])
    driver = a_driver(api, clock, **options)
    await driver.install(POOLS, [SimVolume("pvc-a", 10 * GIB, 1, {"tier": "cold"}, target_node="n1")])
    return driver


async def status(api: KubeApi, resource: Resource, name: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(await api.get(resource, name, "mayastor"))["status"]
    return found


async def replicas(api: KubeApi) -> list[tuple[str, str, str, float | None]]:
    found = (await status(api, MAYASTOR_VOLUMES, "pvc-a"))["replicas"]
    return [(item["pool"], item["state"], item["syncState"], item.get("rebuildProgress")) for item in found]


@pytest.fixture(params=["memory", "http", "real"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KubeApi]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            yield DirectKubeApi(a_store(Hands()))
            return
        if request.param == "real":
            require_real("kube-apiserver", "etcd")
            plane = await stack.enter_async_context(ControlPlane(directory=tmp_path))
            await plane.install_crds(CRDS)
            kubeconfig = plane.kubeconfig
        else:
            front = await stack.enter_async_context(KubeFront(a_store(Hands())))
            kubeconfig = front.write_kubeconfig(tmp_path / "kubeconfig")
        yield await stack.enter_async_context(HttpKubeApi.connect(str(kubeconfig)))


async def test_a_whole_move_is_reported_step_by_step_on_every_kind_of_api(api: KubeApi) -> None:
    clock = Hands()
    driver = await installed(api, clock)
    assert await replicas(api) == [("sata-1", "Online", "Synced", None)]
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", STEER, "mayastor")
    seen = []
    for wait in (0.1, 2.0, 4.0, 20.0):
        clock.seconds += wait
        await driver.tick()
        seen.append((await replicas(api))[1])
    assert seen == [
        ("nvme-2", "Unknown", "Unknown", None),
        ("nvme-2", "Online", "Syncing", 10),
        ("nvme-2", "Online", "Syncing", 50),
        ("nvme-2", "Online", "Synced", None),
    ]
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", {"spec": {"numReplicas": 1}}, "mayastor")
    await driver.tick()
    assert await replicas(api) == [("nvme-2", "Online", "Synced", None)]
    assert (await status(api, DISK_POOLS, "nvme-2"))["used"] == "10Gi"
    assert (await status(api, DISK_POOLS, "sata-1"))["used"] == "5Gi"


async def test_a_pool_that_goes_away_and_a_volume_that_is_degraded_are_reported(api: KubeApi) -> None:
    clock = Hands()
    driver = await installed(api, clock)
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", STEER, "mayastor")
    driver.set_faults(Faults(failing_rebuilds=frozenset({"pvc-a"})))
    for _ in range(2):
        clock.seconds += 20
        await driver.tick()
    volume = await status(api, MAYASTOR_VOLUMES, "pvc-a")
    assert (volume["state"], volume["replicas"][1]["state"]) == ("Degraded", "Faulted")
    driver.set_pool_online("sata-1", online=False)
    await driver.tick()
    assert (await status(api, DISK_POOLS, "sata-1"))["state"] == "Unknown"
    volume = await status(api, MAYASTOR_VOLUMES, "pvc-a")
    assert (volume["state"], volume["replicas"][0]["state"]) == ("Faulted", "Unknown")


async def test_a_merge_patch_that_keeps_the_old_label_matches_no_pool_and_adds_nothing() -> None:
    clock = Hands()
    api = DirectKubeApi(a_store(clock))
    driver = await installed(api, clock)
    careless = {"spec": {"numReplicas": 2, "topology": {"pool": {"labelled": {"inclusion": {"pool": "nvme-2"}}}}}}
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", careless, "mayastor")
    await driver.tick()
    assert [replica.pool for replica in driver.state.volumes["pvc-a"].replicas] == ["sata-1"]


async def test_nothing_is_written_while_nothing_changes() -> None:
    clock = Hands()
    store = a_store(clock)
    driver = await installed(DirectKubeApi(store), clock)
    before = store.resource_version
    for _ in range(5):
        clock.seconds += 1
        await driver.tick()
    assert store.resource_version == before


async def test_a_new_driver_goes_on_where_the_old_one_was_stopped() -> None:
    clock = Hands()
    api = DirectKubeApi(a_store(clock))
    first = await installed(api, clock)
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", STEER, "mayastor")
    for wait in (0.1, 6.0):
        clock.seconds += wait
        await first.tick()
    second = a_driver(api, clock)
    await second.tick()
    copies = {replica.pool: replica.copy for replica in second.state.volumes["pvc-a"].replicas}
    assert copies == {"sata-1": Copy.COMPLETE, "nvme-2": Copy.PARTIAL}
    assert [r.uuid for r in second.state.volumes["pvc-a"].replicas] == [
        r.uuid for r in first.state.volumes["pvc-a"].replicas
    ]
    assert second.state.used_bytes("sata-1") == first.state.used_bytes("sata-1") == 15 * GIB


async def test_a_volume_made_by_somebody_else_is_provisioned_and_a_deleted_one_forgotten() -> None:
    clock = Hands()
    api = DirectKubeApi(a_store(clock))
    driver = await installed(api, clock)
    body = {
        "apiVersion": "openebs.io/v1",
        "kind": "MayastorVolume",
        "metadata": {"name": "pvc-b"},
        "spec": {"numReplicas": 2, "size": "1Gi"},
    }
    await api.create(MAYASTOR_VOLUMES, body, "mayastor")
    await driver.tick()
    found = await status(api, MAYASTOR_VOLUMES, "pvc-b")
    assert sorted(item["pool"] for item in found["replicas"]) == ["nvme-2", "sata-1"]
    await api.delete(MAYASTOR_VOLUMES, "pvc-b", "mayastor")
    await driver.tick()
    assert set(driver.state.volumes) == {"pvc-a"}
    assert driver.state.used_bytes("nvme-2") == 0


async def test_the_bare_contract_has_neither_uuids_nor_nodes() -> None:
    clock = Hands()
    api = DirectKubeApi(a_store(clock))
    await installed(api, clock, report_uuids=False)
    (replica,) = (await status(api, MAYASTOR_VOLUMES, "pvc-a"))["replicas"]
    assert replica == {"pool": "sata-1", "state": "Online", "syncState": "Synced"}


class Shaky(DirectKubeApi):
    """An API server that refuses some writes of status."""

    errors: list[Exception]

    async def patch(self, *args: Any, **more: Any) -> msgspec.Raw:
        if self.errors and more.get("subresource") == "status":
            raise self.errors.pop()
        return await super().patch(*args, **more)


async def test_a_report_that_was_refused_is_made_at_the_next_tick() -> None:
    clock = Hands()
    api = Shaky(a_store(clock))
    api.errors = []
    driver = await installed(api, clock)
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", STEER, "mayastor")
    api.errors = [ConflictError("somebody was faster"), ServerError("503")]
    for _ in range(3):
        await driver.tick()
    assert len(await replicas(api)) == 2
    assert api.errors == []


async def test_labels_of_pools_are_read_anew() -> None:
    clock = Hands()
    api = DirectKubeApi(a_store(clock))
    driver = await installed(api, clock)
    await api.patch(DISK_POOLS, "nvme-2", {"metadata": {"labels": {"tier": "cold"}}}, "mayastor")
    await api.patch(MAYASTOR_VOLUMES, "pvc-a", {"spec": {"numReplicas": 2}}, "mayastor")
    await driver.tick()
    assert [r.pool for r in driver.state.volumes["pvc-a"].replicas] == ["sata-1", "nvme-2"]
    assert driver.state.pools["nvme-2"] == replace(POOLS[1], labels={"tier": "cold"})
