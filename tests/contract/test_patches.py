"""Merge patches, their preconditions, dry runs, and what counts as a change."""

from __future__ import annotations

from typing import Any

import pytest

from common.kube.api import ConflictError, InvalidError, KubeError, NotFoundError
from tests.contract.clusters import GADGETS, MAYASTOR_VOLUMES, WIDGETS, Cluster, decoded, without_noise


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": 1}, {"c": None}, {"a": 1}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": None, "z": 3}}, {"a": {"y": 2, "z": 3}}),
        ({"a": {"x": 1}}, {"a": "text"}, {"a": "text"}),
        ({"a": "text"}, {"a": {"x": 1, "y": None}}, {"a": {"x": 1}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ({}, {"a": [{"b": None, "c": 1}, None, [None]]}, {"a": [{"c": 1}, None, [None]]}),
        ({"a": 1}, {"a": 1.5}, {"a": 1.5}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": "é"}, {"a": 'ü\n"\\'}, {"a": 'ü\n"\\'}),
    ],
    ids=str,
)
async def test_a_merge_patch_is_merged(
    cluster: Cluster, before: dict[str, Any], patch: dict[str, Any], after: dict[str, Any]
) -> None:
    await cluster.widget("w", anything=before)
    patched = await cluster.patch("w", {"spec": {"anything": patch}})
    assert patched["spec"]["anything"] == after
    assert (await cluster.read("w"))["spec"]["anything"] == after


async def test_the_topology_of_a_volume_is_merged_into_and_nulled_out(cluster: Cluster) -> None:
    body = {"metadata": {"name": "v"}, "spec": {"numReplicas": 1, "topology": _inclusion({"tier": "cold"})}}
    await cluster.api.create(MAYASTOR_VOLUMES, body, cluster.namespace)

    async def patched(spec: dict[str, Any]) -> Any:
        return decoded(await cluster.api.patch(MAYASTOR_VOLUMES, "v", {"spec": spec}, cluster.namespace))["spec"]

    both = await patched({"numReplicas": 2, "topology": _inclusion({"pool": "pool-nvme-1"})})
    assert both == {"numReplicas": 2, "topology": _inclusion({"tier": "cold", "pool": "pool-nvme-1"})}
    one = await patched({"topology": _inclusion({"tier": None})})
    assert one["topology"] == _inclusion({"pool": "pool-nvme-1"})
    assert (await patched({"topology": {"pool": None}}))["topology"] == {}
    assert "topology" not in await patched({"topology": None})


def _inclusion(labels: dict[str, Any]) -> dict[str, Any]:
    return {"pool": {"labelled": {"inclusion": labels}}}


async def test_a_change_raises_the_resource_version(cluster: Cluster) -> None:
    created = await cluster.widget("w")
    changed = await cluster.patch("w", {"spec": {"count": 4}})
    assert int(changed["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])


@pytest.mark.parametrize(
    ("patch", "subresource"),
    [
        ({}, ""),
        ({"spec": {"count": 3}}, ""),
        ({"spec": {"unknown": 1}}, ""),
        ({"spec": {"count": None}}, ""),  # the default comes back
        ({"status": {"phase": "ignored here"}}, ""),
        ({"metadata": {"labels": {"a": "b"}, "uid": None, "creationTimestamp": None, "generation": 9}}, ""),
        ({"metadata": {"labels": {"not": None}}}, ""),
        ({"status": {"count": 1}}, "status"),
        ({"status": {"count": 1.0}}, "status"),
        ({"status": {"count": 1}, "spec": {"count": 9}}, "status"),
    ],
    ids=str,
)
async def test_a_patch_that_changes_nothing_leaves_the_resource_version(
    cluster: Cluster, patch: dict[str, Any], subresource: str
) -> None:
    await cluster.widget("w")
    await cluster.patch("w", {"metadata": {"labels": {"a": "b"}}})
    before = await cluster.patch("w", {"status": {"count": 1}}, subresource="status")
    after = await cluster.patch("w", patch, subresource=subresource)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert without_noise(after) == without_noise(before)


async def test_a_stale_resource_version_conflicts_and_changes_nothing(cluster: Cluster) -> None:
    old = await cluster.widget("w")
    new = await cluster.patch("w", {"spec": {"count": 4}})
    stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    message = 'Operation cannot be fulfilled on widgets.contract.couchestor.test "w": the object has been modified'
    with pytest.raises(ConflictError, match=message):
        await cluster.patch("w", {**stale, "spec": {"count": 5}})
    with pytest.raises(ConflictError):  # also where it would change nothing
        await cluster.patch("w", {**stale, "spec": {"count": 4}})
    with pytest.raises(ConflictError):
        await cluster.patch("w", {**stale, "status": {"count": 4}}, subresource="status")
    with pytest.raises(ConflictError):
        await cluster.patch("w", {**stale, "spec": {"count": 5}}, dry_run=True)
    assert await cluster.read("w") == new
    current = {"metadata": {"resourceVersion": new["metadata"]["resourceVersion"]}}
    assert (await cluster.patch("w", {**current, "spec": {"count": 5}}))["spec"]["count"] == 5


async def test_a_write_to_the_status_makes_the_resource_version_stale_too(cluster: Cluster) -> None:
    old = await cluster.widget("w")
    await cluster.patch("w", {"status": {"count": 1}}, subresource="status")
    with pytest.raises(ConflictError):
        await cluster.patch(
            "w", {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "spec": {"count": 5}}
        )


async def test_a_resource_version_that_is_no_number_is_an_error(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(KubeError):
        await cluster.patch("w", {"metadata": {"resourceVersion": "abc"}, "spec": {"count": 5}})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"uid": "other"}, "metadata.uid: Invalid value"),
        ({"deletionTimestamp": "2020-01-01T00:00:00Z"}, "metadata.deletionTimestamp: Invalid value"),
        ({"name": "other"}, "the name of the object"),
        ({"name": None}, "name must be provided"),
        ({"namespace": "other"}, "namespace"),
        (None, "name must be provided"),
    ],
    ids=str,
)
async def test_identity_cannot_be_patched(cluster: Cluster, metadata: dict[str, Any] | None, message: str) -> None:
    before = await cluster.widget("w")
    with pytest.raises(InvalidError, match=message):
        await cluster.patch("w", {"metadata": metadata, "spec": {"count": 9}})
    assert await cluster.read("w") == before


async def test_type_cannot_be_patched(cluster: Cluster) -> None:
    await cluster.widget("w")
    for change in ({"kind": "Gadget"}, {"apiVersion": "contract.couchestor.test/v2"}):
        with pytest.raises(InvalidError):
            await cluster.patch("w", change)


async def test_a_dry_run_answers_as_if_and_stores_nothing(cluster: Cluster) -> None:
    before = await cluster.widget("w")
    echo = await cluster.patch("w", {"spec": {"count": 5}}, dry_run=True)
    assert (echo["spec"]["count"], echo["metadata"]["generation"]) == (5, 2)
    assert echo["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert await cluster.read("w") == before
    echo = await cluster.patch("w", {"status": {"count": 5}}, subresource="status", dry_run=True)
    assert echo["status"] == {"count": 5}
    assert await cluster.read("w") == before


async def test_a_dry_run_shows_what_the_schema_would_prune(cluster: Cluster) -> None:
    await cluster.widget("w")
    echo = await cluster.patch("w", {"spec": {"numReplicas": 2, "nested": {"x": 1}}}, dry_run=True)
    assert "numReplicas" not in echo["spec"]
    assert echo["spec"]["nested"] == {"deep": "here"}


async def test_a_dry_run_is_validated(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(InvalidError, match=r"spec\.count"):
        await cluster.patch("w", {"spec": {"count": 99}}, dry_run=True)


async def test_a_dry_run_of_a_creation_creates_nothing(cluster: Cluster) -> None:
    body = {"metadata": {"name": "w"}, "spec": {"word": "abc", "unknown": 1}}
    echo = decoded(await cluster.api.create(WIDGETS, body, cluster.namespace, dry_run=True))
    assert "resourceVersion" not in echo["metadata"]
    assert echo["metadata"]["uid"]
    assert echo["spec"] == {"word": "abc", "count": 3, "flag": True, "nested": {"deep": "here"}}
    with pytest.raises(NotFoundError):
        await cluster.read("w")
    await cluster.widget("w")


async def test_the_generation_counts_changes_of_the_spec_alone(cluster: Cluster) -> None:
    async def generation(patch: dict[str, Any], subresource: str = "") -> Any:
        return (await cluster.patch("w", patch, subresource=subresource))["metadata"]["generation"]

    await cluster.widget("w")
    assert await generation({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}) == 1
    assert await generation({"status": {"phase": "x"}}, "status") == 1
    assert await generation({"spec": {"count": 3}}) == 1
    assert await generation({"spec": {"count": 4}}) == 2
    assert await generation({"spec": {"count": 4}, "metadata": {"generation": 50}}) == 2
    assert await generation({"spec": {"count": None}}) == 3


async def test_a_whole_number_written_as_a_float_counts_as_a_change_of_the_spec(cluster: Cluster) -> None:
    await cluster.widget("w")
    for generation in (2, 3):
        patched = await cluster.patch("w", {"spec": {"count": 3.0}})
        assert (patched["spec"]["count"], patched["metadata"]["generation"]) == (3, generation)
        assert isinstance(patched["spec"]["count"], int)


async def test_without_a_status_subresource_the_status_is_part_of_the_object(cluster: Cluster) -> None:
    name = cluster.name("g")
    body = {"metadata": {"name": name}, "spec": {}, "status": {"a": 1}}
    created = decoded(await cluster.api.create(GADGETS, body))
    assert created["status"] == {"a": 1}
    patched = decoded(await cluster.api.patch(GADGETS, name, {"status": {"a": 2}}))
    assert (patched["status"], patched["metadata"]["generation"]) == ({"a": 2}, 2)
    with pytest.raises(NotFoundError):
        await cluster.api.patch(GADGETS, name, {"status": {"a": 3}}, subresource="status")


async def test_status_and_the_rest_do_not_touch_each_other(cluster: Cluster) -> None:
    body = {"metadata": {"name": "w"}, "spec": {"word": "abc"}, "status": {"phase": "at birth"}}
    assert "status" not in decoded(await cluster.api.create(WIDGETS, body, cluster.namespace))
    assert "status" not in await cluster.patch("w", {"status": {"phase": "by the main door"}})
    written = await cluster.patch(
        "w",
        {
            "status": {"phase": "right", "unknown": 1},
            "spec": {"count": 9},
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["test/x"]},
        },
        subresource="status",
    )
    assert written["status"] == {"phase": "right"}
    assert written["spec"]["count"] == 3
    assert not {"labels", "annotations", "finalizers"} & written["metadata"].keys()
    again = await cluster.patch("w", {"spec": {"count": 5}, "status": None})
    assert (again["spec"]["count"], again["status"]) == (5, {"phase": "right"})
    assert "status" not in await cluster.patch("w", {"status": None}, subresource="status")


async def test_an_invalid_status_is_refused(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(InvalidError, match=r"status\.count"):
        await cluster.patch("w", {"status": {"count": "many"}}, subresource="status")


async def test_a_subresource_that_is_none_is_not_found(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(NotFoundError):
        await cluster.patch("w", {"spec": {"count": 5}}, subresource="nonsense")
