"""What a server tells of itself."""

from __future__ import annotations

from typing import Any

import pytest

from common.kube.api import STORAGE_POLICIES, VOLUME_MIGRATIONS, Resource
from tests.contract.clusters import DISK_POOLS, GADGETS, MAYASTOR_VOLUMES, WIDGETS, Cluster


async def test_a_group_names_its_served_versions_the_preferred_first(cluster: Cluster) -> None:
    assert await cluster.api.served_versions("contract.couchestor.test") == ("v1", "v1beta1")
    assert await cluster.api.served_versions("openebs.io") == ("v1",)
    assert await cluster.api.served_versions("storage.billyronks.io") == ("v1",)
    assert await cluster.api.served_versions("coordination.k8s.io") == ("v1",)
    assert await cluster.api.served_versions("") == ("v1",)


async def test_a_group_that_is_not_served_has_no_versions(cluster: Cluster) -> None:
    assert await cluster.api.served_versions("nonesuch.test") == ()


@pytest.mark.parametrize(
    "resource",
    [
        Resource("openebs.io", "v1", "nonesuch", "Nonesuch"),
        Resource("openebs.io", "v9", "mayastorvolumes", "MayastorVolume"),
        Resource("nonesuch.test", "v1", "a", "A"),
    ],
    ids=str,
)
async def test_what_is_not_served_has_no_schema(cluster: Cluster, resource: Resource) -> None:
    assert await cluster.api.served_schema(resource) is None


async def test_the_schema_of_a_volume_tells_what_the_backend_asks_for(cluster: Cluster) -> None:
    schema = await cluster.api.served_schema(MAYASTOR_VOLUMES)
    assert schema is not None
    spec, status = (properties(schema)[part] for part in ("spec", "status"))
    assert properties(spec)["numReplicas"]["type"] == "integer"
    assert "topology" in properties(spec)
    replica = properties(status)["replicas"]["items"]
    assert {"pool", "state", "syncState", "rebuildProgress", "uuid", "node"} <= properties(replica).keys()
    identity = {"group": "openebs.io", "version": "v1", "kind": "MayastorVolume"}
    assert schema["x-kubernetes-group-version-kind"] == [identity]


@pytest.mark.parametrize("resource", [WIDGETS, DISK_POOLS, STORAGE_POLICIES, VOLUME_MIGRATIONS, GADGETS], ids=str)
async def test_every_custom_kind_has_a_schema_with_what_all_objects_have(cluster: Cluster, resource: Resource) -> None:
    schema = await cluster.api.served_schema(resource)
    assert schema is not None
    assert {"apiVersion", "kind", "metadata", "spec", "status"} <= properties(schema).keys()


async def test_bounds_and_defaults_are_published(cluster: Cluster) -> None:
    schema = await cluster.api.served_schema(WIDGETS)
    assert schema is not None
    count = properties(properties(schema)["spec"])["count"]
    assert (count["minimum"], count["maximum"], count["default"]) == (1, 10, 3)


def properties(schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = schema["properties"]
    return found
