"""What the product builds on the contract (copies, leases, events), on every implementation of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from common.clock import SystemClock
from common.kube.api import EVENTS, LEASES
from common.kube.events import EventRecorder, Regarding
from common.kube.lease import LeaseHolder
from common.kube.reflector import Reflector
from common.logs import make_logger
from common.resources.meta import ObjectReference
from tests.contract.clusters import SECONDS, WIDGETS, Cluster, decoded

LOG = make_logger("test", level="ERROR", json=True, stream=io.StringIO())


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is told by no event
            await asyncio.sleep(0.01)


def holder(cluster: Cluster, identity: str) -> LeaseHolder:
    return LeaseHolder(
        cluster.api,
        name="migrator",
        namespace=cluster.namespace,
        identity=identity,
        clock=SystemClock(),
        rng=random.Random(identity),
        log=LOG,
        duration_seconds=15.0,
        renew_seconds=10.0,
        retry_seconds=0.05,
    )


async def test_a_copy_is_made_in_pages_and_follows_what_happens_over_several_watches(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.widget(f"w{number}")
    reflector = Reflector(
        cluster.api,
        WIDGETS,
        ObjectReference,
        clock=SystemClock(),
        rng=random.Random(1),
        log=LOG,
        namespace=cluster.namespace,
        page_size=2,
        watch_seconds=1,
    )
    async with running(reflector.run()):
        await asyncio.wait_for(reflector.wait_synced(), SECONDS)
        assert sorted(reflector.items) == [f"{cluster.namespace}/w{number}" for number in range(5)]
        for number in range(5):
            await cluster.api.delete(WIDGETS, f"w{number}", cluster.namespace)
            changed = await cluster.widget(f"x{number}")
            await asyncio.sleep(0.3)  # so that a watch ends in between, whose successor must miss nothing
        key, version = f"{cluster.namespace}/x4", changed["metadata"]["resourceVersion"]
        await until(lambda: key in reflector.items and reflector.items[key].metadata.resource_version == version)
        assert sorted(reflector.items) == [f"{cluster.namespace}/x{number}" for number in range(5)]


async def test_a_lease_goes_from_one_holder_to_the_next_when_it_is_given_back(cluster: Cluster) -> None:
    first, second = holder(cluster, "first"), holder(cluster, "second")
    async with running(first.run()):
        await asyncio.wait_for(first.wait_held(), SECONDS)
        before = decoded(await cluster.api.get(LEASES, "migrator", cluster.namespace))["spec"]
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(running(second.run()))
            await until(lambda: second.holder == "first")
            others = stack.pop_all()
    async with others:
        await asyncio.wait_for(second.wait_held(), SECONDS)
        assert not first.held
        after = decoded(await cluster.api.get(LEASES, "migrator", cluster.namespace))["spec"]
    assert (before["holderIdentity"], after["holderIdentity"]) == ("first", "second")
    assert after["leaseTransitions"] == before["leaseTransitions"] + 1
    assert after["acquireTime"] > before["acquireTime"]
    assert not decoded(await cluster.api.get(LEASES, "migrator", cluster.namespace))["spec"]["holderIdentity"]


async def test_an_event_and_its_repetition_are_accepted(cluster: Cluster) -> None:
    recorder = EventRecorder(cluster.api, component="couchestor-migrator", clock=SystemClock(), log=LOG)
    volume = Regarding("PersistentVolume", "v1", cluster.name("pv"), "u-1")

    async def written() -> list[dict[str, Any]]:
        page = await cluster.api.list_page(EVENTS, "default")
        events: list[dict[str, Any]] = [msgspec.json.decode(item) for item in page.items]
        return [event for event in events if event["regarding"]["name"] == volume.name]

    async with running(recorder.run()):
        for times in (1, 2):
            recorder.emit(volume, type="Warning", reason="Parked", action="Migrate", note="look at it. " * 200)
            async with asyncio.timeout(SECONDS):
                while [event.get("series", {"count": 1})["count"] for event in await written()] != [times]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert recorder.dropped == 0
