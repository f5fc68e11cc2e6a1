"""Watches: from where they start, what they tell and in which order, and when they are told to list again."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from common.kube.api import EventType, ExpiredError, KubeError, NotFoundError, Resource
from tests.contract.clusters import DISK_POOLS, SECONDS, WIDGETS, Cluster, names, watched


async def test_a_watch_tells_what_happened_after_a_list_in_order(cluster: Cluster) -> None:
    await cluster.widget("before")
    since = await cluster.now()
    await cluster.widget("w")
    changed = await cluster.patch("w", {"spec": {"count": 4}})
    status = await cluster.patch("w", {"status": {"count": 1}}, subresource="status")
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    await cluster.widget("after")
    events = await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 5)
    assert names(events) == [
        ("ADDED", "w"),
        ("MODIFIED", "w"),
        ("MODIFIED", "w"),
        ("DELETED", "w"),
        ("ADDED", "after"),
    ]
    assert events[1][1] == changed
    assert events[2][1] == status
    versions = [int(body["metadata"]["resourceVersion"]) for _, body in events]
    assert versions == sorted(set(versions))


async def test_a_deletion_tells_the_last_state_at_a_newer_resource_version(cluster: Cluster) -> None:
    last = await cluster.widget("w", count=7)
    since = await cluster.now()
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    ((kind, body),) = await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 1)
    assert (kind, body["spec"], body["metadata"]["uid"]) == (EventType.DELETED, last["spec"], last["metadata"]["uid"])
    assert int(body["metadata"]["resourceVersion"]) > int(last["metadata"]["resourceVersion"])


async def test_a_watch_tells_what_happens_while_it_is_open(cluster: Cluster) -> None:
    since = await cluster.now()

    async def happen() -> None:
        for number in range(20):
            await cluster.widget(f"w{number}")

    events = await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 20, meanwhile=happen)
    assert names(events) == [("ADDED", f"w{number}") for number in range(20)]


async def test_a_watch_from_an_objects_resource_version_starts_behind_it(cluster: Cluster) -> None:
    first = await cluster.widget("first")
    await cluster.widget("second")
    since = first["metadata"]["resourceVersion"]
    assert names(await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 1)) == [
        ("ADDED", "second")
    ]


@pytest.mark.parametrize("since", ["", "0"])
async def test_a_watch_from_nowhere_begins_with_all_there_is(cluster: Cluster, since: str) -> None:
    for name in ("b", "a"):
        await cluster.widget(name)
    await cluster.patch("a", {"spec": {"count": 4}})

    async def happen() -> None:
        await cluster.widget("c")

    events = await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 3, meanwhile=happen)
    assert sorted(names(events)[:2]) == [("ADDED", "a"), ("ADDED", "b")]
    assert names(events)[2:] == [("ADDED", "c")]


async def test_a_patch_that_changes_nothing_is_no_event(cluster: Cluster) -> None:
    await cluster.widget("w")
    since = await cluster.now()
    await cluster.patch("w", {"spec": {"count": 3}})
    await cluster.patch("w", {"spec": {"count": 5}}, dry_run=True)
    await cluster.patch("w", {"status": {"phase": "x"}})
    await cluster.patch("w", {"spec": {"count": 4}})
    ((kind, body),) = await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 1)
    assert (kind, body["spec"]["count"]) == (EventType.MODIFIED, 4)


async def test_a_watch_of_one_namespace_or_kind_hears_of_no_other(cluster: Cluster) -> None:
    since = await cluster.now()
    other = f"{cluster.prefix}-elsewhere"
    await cluster.api.create(WIDGETS, {"metadata": {"name": other}, "spec": {"word": "abc"}}, "default")
    pool = {"metadata": {"name": "pool"}, "spec": {"node": "n"}}
    await cluster.api.create(DISK_POOLS, pool, cluster.namespace)
    await cluster.widget("w")
    assert names(await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 1)) == [
        ("ADDED", "w")
    ]
    everywhere = cluster.api.watch(WIDGETS, resource_version=since)
    assert names(await watched(everywhere, 2)) == [("ADDED", other), ("ADDED", "w")]


async def test_a_selecting_watch_sees_objects_come_and_go_by_their_labels(cluster: Cluster) -> None:
    since = await cluster.now()
    await cluster.widget("w")
    await cluster.patch("w", {"metadata": {"labels": {"tier": "hot"}}})
    await cluster.patch("w", {"spec": {"count": 4}})
    gone = await cluster.patch("w", {"metadata": {"labels": {"tier": "cold"}}, "spec": {"count": 5}})
    await cluster.patch("w", {"spec": {"count": 6}})
    await cluster.patch("w", {"metadata": {"labels": {"tier": "hot"}}})
    watch = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since, label_selector="tier=hot")
    events = await watched(watch, 4)
    assert [(kind.value, body["spec"]["count"]) for kind, body in events] == [
        ("ADDED", 3),
        ("MODIFIED", 4),
        ("DELETED", 4),  # the last state that was selected
        ("ADDED", 6),
    ]
    assert events[2][1]["metadata"]["resourceVersion"] == gone["metadata"]["resourceVersion"]


async def test_a_watch_by_name_sees_one_object(cluster: Cluster) -> None:
    since = await cluster.now()
    for name in ("a", "b"):
        await cluster.widget(name)
    await cluster.patch("b", {"spec": {"count": 4}})
    watch = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since, field_selector="metadata.name=b")
    assert names(await watched(watch, 2)) == [("ADDED", "b"), ("MODIFIED", "b")]


async def test_bookmarks_move_a_quiet_watch_on(cluster: Cluster) -> None:
    since = await cluster.now()
    name = f"{cluster.prefix}-x"
    await cluster.api.create(WIDGETS, {"metadata": {"name": name}, "spec": {"word": "abc"}}, "default")

    heard = asyncio.Event()

    async def happen_elsewhere() -> None:
        numbers = itertools.count()
        while not heard.is_set():
            annotations = {"n": str(next(numbers))}
            await cluster.api.patch(WIDGETS, name, {"metadata": {"annotations": annotations}}, "default")
            await asyncio.sleep(0.1)

    elsewhere = asyncio.create_task(happen_elsewhere())
    try:
        watch = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since, timeout_seconds=4)
        ((kind, body),) = await watched(watch, 1, bookmarks=True)
    finally:
        heard.set()
        await elsewhere
    assert (kind, body["kind"]) == (EventType.BOOKMARK, "Widget")
    assert "name" not in body["metadata"]
    reached = body["metadata"]["resourceVersion"]
    assert int(reached) > int(since)
    await cluster.widget("w")
    resumed = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=reached)
    assert names(await watched(resumed, 1)) == [("ADDED", "w")]


async def test_a_watch_ends_by_itself_when_its_time_is_over(cluster: Cluster) -> None:
    since = await cluster.now()
    await cluster.widget("w")
    async with asyncio.timeout(SECONDS):
        watch = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since, timeout_seconds=1)
        kinds = [event.type async for event in watch]
    assert kinds[0] is EventType.ADDED
    assert set(kinds[1:]) <= {EventType.BOOKMARK}


async def test_a_watch_from_too_long_ago_is_expired(cluster: Cluster) -> None:
    with pytest.raises(ExpiredError, match="too old resource version: 1 "):
        await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version="1"), 1)


async def test_a_watch_of_what_is_not_served_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError):
        await watched(cluster.api.watch(Resource("nonesuch.test", "v1", "a", "A"), resource_version="0"), 1)


async def test_a_watch_from_no_number_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(KubeError):
        await watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version="abc"), 1)


async def test_two_watches_hear_the_same(cluster: Cluster) -> None:
    since = await cluster.now()

    async def happen() -> None:
        for number in range(5):
            await cluster.widget(f"w{number}")

    def one() -> asyncio.Task[list[tuple[EventType, dict[str, object]]]]:
        return asyncio.create_task(watched(cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since), 5))

    first, second = one(), one()
    await happen()
    assert await first == await second
