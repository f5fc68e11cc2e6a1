"""What is kept of a Mayastor behind its REST API: fresh, complete whatever happens while paging, and what it can do."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from common.clock import SystemClock
from migrator.backends.rest import shapes
from migrator.backends.rest.answers import RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.disk_pools import DiskPoolLabels
from migrator.core.model import ProbeVolume
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.driver import DISK_POOLS
from sandbox.world.storage import Copy, SimReplica, SimVolume
from tests.clock import ManualClock
from tests.contract.rest_cluster import OTHER, RestCluster, a_pool
from tests.moves.cluster import NAMESPACE, QUIET
from tests.moves.cluster import Cluster as KubeCluster
from tests.moves.rest_stage import Stage, staged
from tests.moves.rest_watching import CACHE, PV, a_backend, a_copy, next_round, running, until, uuid

# --- complete, whatever happens meanwhile --------------------------------------------------------------------------


def many(count: int) -> RestCluster:
    volumes = []
    for number in range(count):
        replica = SimReplica(f"ffff{number:04x}-0000-4000-8000-000000000000", "p1", Copy.COMPLETE, 0.0)
        volumes.append(SimVolume(uuid(number), 4 * 2**20, 1, replicas=(replica,)))
    return RestCluster(volumes=volumes, pools=(a_pool("p1", "n1", gib=1000), a_pool("p2", "n2")))


@pytest.mark.parametrize("entries", [1, 2, 3, 7, 40, 1000])
async def test_all_pages_are_read_whatever_their_size(entries: int) -> None:
    async with staged(many(45)) as stage:
        copy = a_copy(stage, page_entries=entries)
        await copy.refresh()
        assert set(copy.now.volumes) == {uuid(n) for n in range(45)}


@pytest.mark.parametrize("gone", [1, 3, 12])
async def test_deletions_while_paging_hide_no_volume(gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gone` volumes of the first page go before the second is read: the last ones take their places."""
    cluster = many(60)
    async with staged(cluster) as stage:
        copy = a_copy(stage, page_entries=20)
        pages = stage.client.volumes
        asked: list[int] = []

        async def meddled(max_entries: int, starting_token: int = 0) -> shapes.VolumePage:
            asked.append(starting_token)
            if len(asked) == 2:
                for name in list(cluster.front.volumes)[:gone]:
                    status, _ = await cluster.front.ask("DELETE", f"/v0/volumes/{name}")
                    assert status == 204
            return await pages(max_entries, starting_token)

        monkeypatch.setattr(stage.client, "volumes", meddled)
        await copy.refresh()
        assert set(copy.now.volumes) == set(cluster.front.volumes)
        asked.clear()
        for name in list(cluster.front.volumes)[:gone]:
            await cluster.front.ask("DELETE", f"/v0/volumes/{name}")
        await cluster.create(OTHER)
        await copy.refresh()
        assert set(copy.now.volumes) == set(cluster.front.volumes), "with one that nobody knew of"


async def test_a_volume_that_a_listing_missed_is_asked_for_before_it_counts_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged(many(5)) as stage:
        copy = a_copy(stage)
        await copy.refresh()
        pages = stage.client.volumes

        async def lacking(max_entries: int, starting_token: int = 0) -> shapes.VolumePage:
            page = await pages(max_entries, starting_token)
            return shapes.VolumePage(page.entries[1:], page.next_token)

        monkeypatch.setattr(stage.client, "volumes", lacking)
        await copy.refresh()
        assert len(copy.now.volumes) == 5
        await stage.cluster.front.ask("DELETE", f"/v0/volumes/{uuid(0)}")
        await copy.refresh()
        assert set(copy.now.volumes) == {uuid(n) for n in range(1, 5)}


async def test_one_volume_that_cannot_be_understood_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(many(3)) as stage:
        copy = a_copy(stage)
        pages = stage.client.volumes

        async def odd(max_entries: int, starting_token: int = 0) -> shapes.VolumePage:
            page = await pages(max_entries, starting_token)
            strange = msgspec.Raw(msgspec.json.encode({"spec": {"uuid": OTHER, "num_replicas": "many"}}))
            return shapes.VolumePage((*page.entries, strange, msgspec.Raw(b"17")), page.next_token)

        monkeypatch.setattr(stage.client, "volumes", odd)
        await copy.refresh()
        assert len(copy.now.volumes) == 3
        assert set(copy.now.undecodable) == {OTHER, "?"}


# --- fresh, and no more than that ----------------------------------------------------------------------------------


async def test_only_what_changed_is_told() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.create(OTHER, on="p2")
    async with staged(cluster) as stage, running(a_backend(stage)) as backend:
        await next_round(backend)
        told: list[tuple[frozenset[str], frozenset[str]]] = []
        backend.listen(lambda volumes, pools: told.append((volumes, pools)))
        before = backend.cluster
        await next_round(backend)
        assert told == [], "nothing changed"
        assert backend.cluster is before, "so what was concluded of it still stands"
        await cluster.publish("n1")
        await next_round(backend)
        assert told == [(frozenset({PV}), frozenset())]
        assert backend.cluster is not before
        told.clear()
        await stage.client.cordon_node("n3", "maintenance")
        await next_round(backend)
        assert told == [(frozenset(), frozenset({"p3"}))]


async def test_rounds_are_far_apart_while_nothing_happens_and_close_while_something_is_rebuilt() -> None:
    cluster = RestCluster()
    await cluster.create(on="p1")
    await cluster.publish("n1")
    async with staged(cluster) as stage:
        copy = a_copy(stage)
        for _ in range(8):
            await copy.refresh()
        assert copy.interval_seconds == CACHE
        await cluster.count(2)
        await copy.refresh()
        assert copy.interval_seconds == CACHE / 3
        await cluster.wait(1)
        await copy.refresh()
        assert copy.interval_seconds == CACHE / 3


async def test_the_age_is_known_and_grows_while_mayastor_is_silent() -> None:
    cluster = RestCluster()
    await cluster.create()
    async with staged(cluster) as stage:
        backend = a_backend(stage)
        assert backend.age_seconds == float("inf")
        assert not backend.synced
        async with running(backend):
            assert backend.age_seconds == 0
            cluster.front.inject(Fault(Effect.DOWN, times=1000))
            await cluster.clock.wait_for_sleepers()
            await cluster.wait(100)
            assert backend.age_seconds == 100
            assert set(backend.volumes) == {PV}, "what was known stays"
            cluster.front.faults.clear()
            await next_round(backend)
            assert backend.age_seconds < 100


async def test_a_round_that_failed_half_way_changes_nothing() -> None:
    cluster = RestCluster()
    await cluster.create()
    async with staged(cluster) as stage:
        copy = a_copy(stage)
        await copy.refresh()
        before = copy.now
        await cluster.create(OTHER)
        cluster.front.inject(Fault(Effect.DOWN, path="nexuses"))
        with pytest.raises(RestError):
            await copy.refresh()
        assert copy.now is before


# --- what it says it can do ----------------------------------------------------------------------------------------


async def test_it_can_move_volumes_once_it_is_known_what_mayastor_can_do() -> None:
    cluster = RestCluster()
    await cluster.create()
    async with staged(cluster) as stage, running(a_backend(stage)) as backend:
        await until(lambda: backend.capabilities.known)
        assert backend.marks is not None
        assert (backend.capabilities.backend, backend.capabilities.can_migrate) == ("rest", True)
        assert backend.capabilities.detail == ""
        assert backend.read_gap_seconds > CACHE
        assert {status for _, _, status in stage.writes} == {404}, "nothing that is asked to find out exists"


@pytest.mark.parametrize(("path", "named"), [("replica_count", "replica_count"), ("cordon", "nodes/{id}/cordon")])
async def test_a_control_plane_that_lacks_a_call_cannot_be_migrated_on(
    path: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RestCluster()
    await cluster.create()
    find = cluster.front.api._find
    monkeypatch.setattr(cluster.front.api, "_find", lambda request: None if path in request.path else find(request))
    # Not held to the contract, which has these calls.
    async with (
        cluster.front,
        RestClient.connect(cluster.front.url) as client,
        running(a_backend(Stage(cluster, client))) as backend,
    ):
        await until(lambda: backend.capabilities.known)
        assert not backend.capabilities.can_migrate
        assert named in backend.capabilities.detail


async def test_a_write_of_another_backend_is_none_of_its_own() -> None:
    async with staged(RestCluster()) as stage:
        with pytest.raises(TypeError, match="ProbeVolume"):
            await a_backend(stage).perform(ProbeVolume(2, "null"), None)


async def test_as_long_as_mayastor_says_nothing_the_question_is_open_and_why_is_told() -> None:
    cluster = RestCluster(token_required=True)
    async with staged(cluster) as stage:
        backend = a_backend(stage)
        task = asyncio.ensure_future(backend.run())
        try:
            await until(lambda: "401" in backend.capabilities.detail)
            assert not backend.capabilities.known
            assert not backend.synced
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# --- labels of DiskPool resources ----------------------------------------------------------------------------------


async def test_labels_of_diskpool_resources_are_kept_in_whichever_version_they_are_served() -> None:
    kube = KubeCluster()
    changes: list[int] = []
    copy = DiskPoolLabels(
        kube.api(),
        group="openebs.io",
        namespace=NAMESPACE,
        clock=SystemClock(),
        rng=random.Random(1),
        log=QUIET,
        on_change=lambda: changes.append(1),
    )
    task = asyncio.ensure_future(copy.run())
    try:
        made = {"metadata": {"name": "p9", "labels": {"rack": "7"}}, "spec": {"node": "n9"}}
        await kube.world.create(DISK_POOLS, made, NAMESPACE)
        await until(lambda: copy.labels().get("p9") == {"rack": "7"})
        await kube.world.patch(DISK_POOLS, "p9", {"metadata": {"labels": {"rack": "8"}}}, NAMESPACE)
        await until(lambda: copy.labels().get("p9") == {"rack": "8"})
        await kube.world.delete(DISK_POOLS, "p9", NAMESPACE)
        await until(lambda: "p9" not in copy.labels())
        assert len(changes) >= 3
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_diskpool_resources_their_labels_are_asked_for_again_later() -> None:
    clock = ManualClock()
    copy = DiskPoolLabels(
        KubeCluster().api(), group="no.such.group", namespace=NAMESPACE, clock=clock, rng=random.Random(1), log=QUIET
    )
    task = asyncio.ensure_future(copy.run())
    try:
        for _ in range(2):
            await clock.wait_for_sleepers()
            assert not task.done()
            await clock.advance(400)
        assert copy.labels() == {}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
