"""What is created can be read, changed and deleted, and each refusal has its class."""

from __future__ import annotations

import pytest

from common.kube.api import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    KubeApi,
    KubeError,
    NotFoundError,
    Resource,
)
from tests.contract.clusters import GADGETS, WIDGETS, Cluster, decoded, without_noise


async def test_a_created_object_has_an_identity_and_is_read_as_it_was_answered(cluster: Cluster) -> None:
    created = await cluster.widget("w", count=4)
    metadata = created["metadata"]
    assert (created["apiVersion"], created["kind"]) == ("contract.couchestor.test/v1", "Widget")
    assert (metadata["name"], metadata["namespace"], metadata["generation"]) == ("w", cluster.namespace, 1)
    assert len(metadata["uid"]) == 36
    assert int(metadata["resourceVersion"]) > 0
    assert metadata["creationTimestamp"].endswith("Z")
    assert await cluster.read("w") == created


async def test_the_same_name_again_already_exists(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(AlreadyExistsError, match=r'widgets\.contract\.couchestor\.test "w" already exists'):
        await cluster.widget("w")


async def test_the_same_name_in_another_namespace_is_another_object(cluster: Cluster) -> None:
    await cluster.widget("w")
    body = {"metadata": {"name": "w"}, "spec": {"word": "other"}}
    other = decoded(await cluster.api.create(WIDGETS, body, "default"))
    assert other["metadata"]["uid"] != (await cluster.read("w"))["metadata"]["uid"]
    await cluster.api.delete(WIDGETS, "w", "default")
    assert (await cluster.read("w"))["spec"]["word"] == "abc"


async def test_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError, match=r'widgets\.contract\.couchestor\.test "none" not found'):
        await cluster.read("none")
    with pytest.raises(NotFoundError):
        await cluster.patch("none", {"spec": {"count": 4}})
    with pytest.raises(NotFoundError):
        await cluster.patch("none", {"status": {"count": 4}}, subresource="status")
    with pytest.raises(NotFoundError):
        await cluster.api.delete(WIDGETS, "none", cluster.namespace)


@pytest.mark.parametrize(
    "resource",
    [
        Resource("contract.couchestor.test", "v1", "nonesuch", "Nonesuch"),
        Resource("contract.couchestor.test", "v9", "widgets", "Widget"),
        Resource("nonesuch.test", "v1", "widgets", "Widget"),
        Resource("", "v1", "nonesuch", "Nonesuch"),
        Resource("coordination.k8s.io", "v9", "leases", "Lease"),
    ],
    ids=str,
)
async def test_a_resource_that_is_not_served_is_not_found(cluster: Cluster, resource: Resource) -> None:
    with pytest.raises(NotFoundError):
        await cluster.api.get(resource, "x")
    with pytest.raises(NotFoundError):
        await cluster.api.list_page(resource)


async def test_a_kind_with_namespaces_is_not_reached_without_one(cluster: Cluster) -> None:
    await cluster.widget("w")
    with pytest.raises(NotFoundError):
        await cluster.api.get(WIDGETS, "w")
    with pytest.raises(NotFoundError):
        await cluster.api.create(WIDGETS, {"metadata": {"name": "x"}, "spec": {"word": "abc"}})


async def test_a_namespace_in_the_body_must_be_the_one_asked(cluster: Cluster) -> None:
    body = {"metadata": {"name": "w", "namespace": "elsewhere"}, "spec": {"word": "abc"}}
    with pytest.raises(InvalidError, match="namespace of the provided object does not match"):
        await cluster.api.create(WIDGETS, body, cluster.namespace)


async def test_a_deleted_object_is_gone_and_its_successor_is_another(cluster: Cluster) -> None:
    first = await cluster.widget("w")
    await cluster.api.delete(WIDGETS, "w", cluster.namespace)
    with pytest.raises(NotFoundError):
        await cluster.read("w")
    second = await cluster.widget("w")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_a_delete_keeps_to_its_preconditions(cluster: Cluster) -> None:
    old = await cluster.widget("w")
    new = await cluster.patch("w", {"spec": {"count": 4}})
    uid, version = new["metadata"]["uid"], new["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError, match="the UID in the precondition"):
        await cluster.api.delete(WIDGETS, "w", cluster.namespace, uid="00000000-0000-4000-8000-000000000000")
    stale = old["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError, match="the ResourceVersion in the precondition"):
        await cluster.api.delete(WIDGETS, "w", cluster.namespace, uid=uid, resource_version=stale)
    assert await cluster.read("w") == new
    await cluster.api.delete(WIDGETS, "w", cluster.namespace, uid=uid, resource_version=version)
    with pytest.raises(NotFoundError):
        await cluster.read("w")


async def test_what_only_the_server_may_set_is_the_servers(cluster: Cluster) -> None:
    metadata = {
        "name": "w",
        "uid": "mine",
        "generation": 7,
        "creationTimestamp": "2020-01-01T00:00:00Z",
        "deletionTimestamp": "2020-01-01T00:00:00Z",
        "nonsense": 1,
        "labels": {"tier": "hot"},
        "annotations": {"storage.billyronks.io/pin": "true"},
    }
    created = decoded(
        await cluster.api.create(WIDGETS, {"metadata": metadata, "spec": {"word": "abc"}}, cluster.namespace)
    )
    assert created["metadata"]["uid"] != "mine"
    assert not created["metadata"]["creationTimestamp"].startswith("2020")
    kept = without_noise(created)["metadata"]
    assert kept == {
        "generation": 1,
        "labels": {"tier": "hot"},
        "annotations": {"storage.billyronks.io/pin": "true"},
    }


async def test_a_new_object_must_not_have_a_resource_version(cluster: Cluster) -> None:
    with pytest.raises(KubeError, match="resourceVersion should not be set on objects to be created"):
        await cluster.api.create(
            WIDGETS, {"metadata": {"name": "w", "resourceVersion": "5"}, "spec": {"word": "abc"}}, cluster.namespace
        )


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-dash", "a" * 254, "a..b"])
async def test_names_are_dns_names(cluster: Cluster, name: str) -> None:
    with pytest.raises(InvalidError, match=r"metadata\.name" if len(name) < 99 else None):  # long answers are cut
        await cluster.widget(name)


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"labels": {"a b": "c"}}, "metadata.labels"),
        ({"labels": {"a": "b c"}}, "metadata.labels"),
        ({"labels": {"a": "x" * 64}}, "metadata.labels"),
        ({"labels": {"Not.A.Domain_/a": "b"}}, "metadata.labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"annotations": {"a b": "c"}}, "metadata.annotations"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"annotations": {"a": "x" * (256 * 1024)}}, "metadata.annotations"),
        ({"finalizers": ["not a name"]}, "metadata.finalizers"),
        ({"finalizers": "one"}, "finalizers"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_metadata_that_is_none_is_refused(cluster: Cluster, metadata: dict[str, object], field: str) -> None:
    await cluster.widget("w")
    with pytest.raises(InvalidError, match=field if len(str(metadata)) < 1000 else None):
        await cluster.patch("w", {"metadata": metadata})


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "contract.couchestor.test/v2"},
        {"kind": "Gadget"},
        {"kind": ""},
        {"apiVersion": ""},
    ],
    ids=str,
)
async def test_a_body_of_another_type_is_refused(cluster: Cluster, change: dict[str, str]) -> None:
    with pytest.raises(InvalidError):
        await cluster.api.create(
            WIDGETS, {"metadata": {"name": "w"}, "spec": {"word": "abc"}, **change}, cluster.namespace
        )


async def test_an_object_is_served_in_each_version_and_stored_once(cluster: Cluster) -> None:
    older = Resource(GADGETS.group, "v1beta1", GADGETS.plural, GADGETS.kind)
    name = cluster.name("g")
    created = decoded(await cluster.api.create(older, {"metadata": {"name": name}, "spec": {"a": 1}}))
    assert created["apiVersion"] == "contract.couchestor.test/v1beta1"
    read = decoded(await cluster.api.get(GADGETS, name))
    assert read["apiVersion"] == "contract.couchestor.test/v1"
    assert without_noise(read) | {"apiVersion": ""} == without_noise(created) | {"apiVersion": ""}
    patched = decoded(await cluster.api.patch(older, name, {"spec": {"a": 2}}))
    assert (patched["apiVersion"], patched["spec"]) == ("contract.couchestor.test/v1beta1", {"a": 2})


async def test_an_empty_name_reaches_no_collection(cluster: Cluster) -> None:
    api: KubeApi = cluster.api
    for call in (api.get(WIDGETS, "", "default"), api.patch(WIDGETS, "", {}, "default")):
        with pytest.raises(InvalidError, match="the name of an object is empty"):
            await call
    with pytest.raises(InvalidError, match="the name of an object is empty"):
        await api.delete(WIDGETS, "", "default")
