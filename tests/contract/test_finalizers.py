"""An object with finalizers stays until the last of them is taken off."""

from __future__ import annotations

from typing import Any

import pytest

from common.kube.api import AlreadyExistsError, ConflictError, EventType, InvalidError, NotFoundError
from tests.contract.clusters import WIDGETS, Cluster, decoded, watched

MINE = "storage.billyronks.io/migrator"


async def kept(cluster: Cluster, *finalizers: str) -> dict[str, Any]:
    body = {"metadata": {"name": "w", "finalizers": list(finalizers)}, "spec": {"word": "abc"}}
    return decoded(await cluster.api.create(WIDGETS, body, cluster.namespace))


async def test_a_deletion_only_marks_what_has_finalizers(cluster: Cluster) -> None:
    created = await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    marked = await cluster.read("w")
    metadata = marked["metadata"]
    assert metadata["deletionTimestamp"].endswith("Z")
    assert metadata["deletionGracePeriodSeconds"] == 0
    assert (metadata["finalizers"], metadata["generation"]) == ([MINE], 2)
    assert int(metadata["resourceVersion"]) > int(created["metadata"]["resourceVersion"])


async def test_deleting_what_is_being_deleted_changes_nothing(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    before = await cluster.read("w")
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    assert await cluster.read("w") == before


async def test_taking_the_last_finalizer_off_deletes(cluster: Cluster) -> None:
    await kept(cluster, MINE, "other.io/x")
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    first = await cluster.patch("w", {"metadata": {"finalizers": [MINE]}})
    assert first["metadata"]["generation"] == 2
    last = await cluster.patch("w", {"metadata": {"finalizers": None}})
    assert "finalizers" not in last["metadata"]
    with pytest.raises(NotFoundError):
        await cluster.read("w")
    await cluster.widget("w")


async def test_taking_finalizers_off_what_is_not_being_deleted_keeps_it(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.patch("w", {"metadata": {"finalizers": []}})
    assert "finalizers" not in (await cluster.read("w"))["metadata"]
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    with pytest.raises(NotFoundError):
        await cluster.read("w")


async def test_no_finalizer_is_added_while_deleting(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    with pytest.raises(InvalidError, match="no new finalizers can be added if the object is being deleted"):
        await cluster.patch("w", {"metadata": {"finalizers": [MINE, "other.io/x"]}})


async def test_the_mark_cannot_be_taken_off(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    before = await cluster.read("w")
    assert await cluster.patch("w", {"metadata": {"deletionTimestamp": None}}) == before


async def test_what_is_being_deleted_can_still_be_written(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    await cluster.patch("w", {"status": {"phase": "rolling back"}}, subresource="status")
    patched = await cluster.patch("w", {"spec": {"count": 9}})
    assert (patched["status"], patched["spec"]["count"]) == ({"phase": "rolling back"}, 9)
    assert patched["metadata"]["generation"] == 3


async def test_its_name_is_not_free_yet(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    with pytest.raises(AlreadyExistsError, match="object is being deleted"):
        await cluster.widget("w")


async def test_a_dry_run_takes_no_finalizer_off(cluster: Cluster) -> None:
    await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    before = await cluster.read("w")
    echo = await cluster.patch("w", {"metadata": {"finalizers": None}}, dry_run=True)
    assert "finalizers" not in echo["metadata"]
    assert await cluster.read("w") == before


async def test_a_stale_removal_of_a_finalizer_conflicts(cluster: Cluster) -> None:
    old = await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    stale = {"resourceVersion": old["metadata"]["resourceVersion"], "finalizers": None}
    with pytest.raises(ConflictError):
        await cluster.patch("w", {"metadata": stale})
    assert (await cluster.read("w"))["metadata"]["finalizers"] == [MINE]


async def test_a_watch_sees_the_mark_and_then_the_end(cluster: Cluster) -> None:
    created = await kept(cluster, MINE)
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    last = await cluster.patch("w", {"metadata": {"finalizers": None}})
    since = created["metadata"]["resourceVersion"]
    watch = cluster.api.watch(WIDGETS, cluster.namespace, resource_version=since)
    (marked, gone) = await watched(watch, 2)
    assert marked[0] is EventType.MODIFIED
    assert marked[1]["metadata"]["deletionTimestamp"]
    assert gone[0] is EventType.DELETED
    assert gone[1]["metadata"]["finalizers"] == [MINE]  # the last state that was stored
    assert int(gone[1]["metadata"]["resourceVersion"]) > int(last["metadata"]["resourceVersion"])
