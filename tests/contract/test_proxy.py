"""The holding proxy passes everything on, and holds what it is told to, before or after it takes effect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from common.kube.api import KubeApi, NotFoundError, UnreachableError
from common.kube.http import HttpKubeApi
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.proxy import HoldingProxy, NotHeldError
from sandbox.real.control_plane import ControlPlane
from tests.contract.clusters import SECONDS, WIDGETS, Cluster, decoded, names, new_store, real_cluster, watched

WRITES = "/apis/contract.couchestor.test/v1/namespaces/"


class Stage:
    """A server, a proxy in front of it, and a client on either side."""

    def __init__(self, proxy: HoldingProxy, through: KubeApi, beside: Cluster) -> None:
        self.proxy = proxy
        self.through = through
        self.beside = beside

    async def create(self, name: str = "w") -> dict[str, Any]:
        body = {"metadata": {"name": name}, "spec": {"word": "abc"}}
        return decoded(await self.through.create(WIDGETS, body, self.beside.namespace))

    async def patch(self, count: int, name: str = "w") -> dict[str, Any]:
        return decoded(await self.through.patch(WIDGETS, name, {"spec": {"count": count}}, self.beside.namespace))

    async def count(self) -> Any:
        return (await self.beside.read("w"))["spec"]["count"]


def patches(method: str, _path: str, body: Any) -> bool:
    return method == "PATCH" and "count" in body["spec"]


@pytest.fixture(params=["emulator", "kube-apiserver"])
def behind(request: pytest.FixtureRequest) -> ControlPlane | None:
    """The real server, or None for the emulator."""
    if request.param == "emulator":
        return None
    running: ControlPlane = request.getfixturevalue("control_plane")
    return running


@pytest_asyncio.fixture
async def stage(behind: ControlPlane | None, tmp_path: Path) -> AsyncIterator[Stage]:
    """A proxy in front of either server."""
    if behind is not None:
        async with (
            real_cluster(behind) as beside,
            HoldingProxy(behind.kubeconfig) as proxy,
            HttpKubeApi.connect(str(proxy.write_kubeconfig(tmp_path / "proxied"))) as through,
        ):
            yield Stage(proxy, through, beside)
        return
    async with KubeFront(new_store()) as front:
        kubeconfig = front.write_kubeconfig(tmp_path / "kubeconfig")
        async with HoldingProxy(kubeconfig) as proxy, HttpKubeApi.connect(str(kubeconfig)) as direct:
            beside = Cluster(direct, "emulator", front.url)
            async with HttpKubeApi.connect(str(proxy.write_kubeconfig(tmp_path / "proxied"))) as through:
                yield Stage(proxy, through, beside)


async def test_calls_refusals_and_watches_pass_through(stage: Stage) -> None:
    await stage.create()
    assert await stage.patch(4) == await stage.beside.read("w")
    with pytest.raises(NotFoundError):
        await stage.patch(4, "none")
    assert await stage.through.served_versions("openebs.io") == ("v1",)
    assert await stage.through.served_schema(WIDGETS) is not None
    watch = stage.through.watch(WIDGETS, stage.beside.namespace, resource_version="0")

    async def happen() -> None:
        await stage.create("x")

    assert sorted(names(await watched(watch, 2, meanwhile=happen))) == [("ADDED", "w"), ("ADDED", "x")]


async def test_all_writes_are_recorded_in_their_order(stage: Stage) -> None:
    await stage.create()
    await stage.patch(4)
    with pytest.raises(NotFoundError):
        await stage.patch(5, "none")
    await stage.beside.read("w")
    path = f"{WRITES}{stage.beside.namespace}/widgets"
    assert [(write.method, write.path, write.status) for write in stage.proxy.writes] == [
        ("POST", path, 201),
        ("PATCH", f"{path}/w", 200),
        ("PATCH", f"{path}/none", 404),
    ]
    assert stage.proxy.writes[1].body == {"spec": {"count": 4}}


async def test_a_request_held_before_has_not_happened_until_released(stage: Stage) -> None:
    await stage.create()
    hold = stage.proxy.hold(patches)
    writing = asyncio.create_task(stage.patch(4))
    write = await stage.proxy.wait_held(SECONDS)
    assert (write.body, write.status, hold.held) == ({"spec": {"count": 4}}, None, True)
    assert await stage.count() == 3
    assert not writing.done()
    hold.release()
    assert (await writing)["spec"]["count"] == 4
    assert (write.status, hold.held) == (200, False)


async def test_a_request_held_after_has_happened_and_is_not_answered_until_released(stage: Stage) -> None:
    await stage.create()
    hold = stage.proxy.hold(patches, when="after")
    writing = asyncio.create_task(stage.patch(4))
    write = await hold.wait_held(SECONDS)
    assert write.status == 200
    assert await stage.count() == 4
    assert not writing.done()
    hold.release()
    assert (await writing)["spec"]["count"] == 4


@pytest.mark.parametrize(("when", "count"), [("before", 3), ("after", 4)])
async def test_a_dropped_request_is_never_answered(stage: Stage, when: str, count: int) -> None:
    await stage.create()
    hold = stage.proxy.hold(patches, when=when)
    writing = asyncio.create_task(stage.patch(4))
    await hold.wait_held(SECONDS)
    hold.drop()
    with pytest.raises(UnreachableError):
        await writing
    await hold.wait_over(SECONDS)
    assert await stage.count() == count


async def test_a_hold_takes_the_first_that_matches_and_no_other(stage: Stage) -> None:
    await stage.create()
    hold = stage.proxy.hold(patches)
    first = asyncio.create_task(stage.patch(4))
    await hold.wait_held(SECONDS)
    assert (await stage.patch(5))["spec"]["count"] == 5
    hold.release()
    assert (await first)["spec"]["count"] == 4


async def test_reads_can_be_held_too(stage: Stage) -> None:
    await stage.create()
    hold = stage.proxy.hold(lambda method, path, _body: method == "GET" and path.endswith("/widgets/w"))
    reading = asyncio.create_task(stage.through.get(WIDGETS, "w", stage.beside.namespace))
    await hold.wait_held(SECONDS)
    assert not reading.done()
    hold.release()
    assert decoded(await reading)["metadata"]["name"] == "w"


@pytest.mark.parametrize("arrives", [True, False], ids=["released", "dropped"])
async def test_what_a_dead_client_had_sent_arrives_late_or_never(stage: Stage, arrives: bool, tmp_path: Path) -> None:
    await stage.create()
    hold = stage.proxy.hold(patches)
    async with HttpKubeApi.connect(str(stage.proxy.write_kubeconfig(tmp_path / "dying"))) as dying:
        patch = {"spec": {"count": 9}}
        writing = asyncio.create_task(dying.patch(WIDGETS, "w", patch, stage.beside.namespace))
        await hold.wait_held(SECONDS)
        writing.cancel()
        await asyncio.wait([writing])
    assert await stage.count() == 3
    if arrives:
        hold.release()
    else:
        hold.drop()
    await hold.wait_over(SECONDS)
    assert await stage.count() == (9 if arrives else 3)


async def test_waiting_for_what_does_not_come_ends(stage: Stage) -> None:
    with pytest.raises(NotHeldError, match="nothing was asked to be held"):
        await stage.proxy.wait_held(0.05)
    stage.proxy.hold(patches)
    with pytest.raises(NotHeldError, match="no request matched within"):
        await stage.proxy.wait_held(0.05)


async def test_a_server_that_is_away_is_a_broken_connection(tmp_path: Path) -> None:
    async with KubeFront(new_store()) as front:
        kubeconfig = front.write_kubeconfig(tmp_path / "kubeconfig")
    async with HoldingProxy(kubeconfig) as proxy:
        async with HttpKubeApi.connect(str(proxy.write_kubeconfig(tmp_path / "proxied"))) as through:
            with pytest.raises(UnreachableError):
                await through.create(WIDGETS, {"metadata": {"name": "w"}, "spec": {"word": "abc"}}, "default")
        assert [write.status for write in proxy.writes] == [None]


async def test_a_proxy_that_stops_lets_go_of_what_it_held(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as rest:
        front = await rest.enter_async_context(KubeFront(new_store()))
        async with HoldingProxy(front.write_kubeconfig(tmp_path / "kubeconfig")) as proxy:
            kubeconfig = str(proxy.write_kubeconfig(tmp_path / "proxied"))
            through = await rest.enter_async_context(HttpKubeApi.connect(kubeconfig))
            hold = proxy.hold(lambda method, _path, _body: method == "POST")
            body = {"metadata": {"name": "w"}, "spec": {"word": "abc"}}
            writing = asyncio.create_task(through.create(WIDGETS, body, "default"))
            await hold.wait_held(SECONDS)
        async with asyncio.timeout(SECONDS):
            with pytest.raises(UnreachableError):
                await writing
