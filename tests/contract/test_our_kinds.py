"""The product's own definitions, and the sandbox's, as a server applies them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common.kube.api import STORAGE_POLICIES, VOLUME_MIGRATIONS, InvalidError
from common.resources.policy import PolicySpec, StoragePolicy, policy_from
from common.resources.pool import DiskPool
from common.resources.volume import MayastorVolume
from tests.contract.clusters import DISK_POOLS, MAYASTOR_VOLUMES, Cluster, decoded

SPECIFIED = {
    "highWatermarkIOPS": 5000,
    "lowWatermarkIOPS": 500,
    "storageClassName": "mayastor",
    "samplingWindow": "1h",
}


async def a_policy(cluster: Cluster, spec: dict[str, Any] | None, *, dry_run: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {"metadata": {"name": cluster.name("policy")}}
    if spec is not None:
        body["spec"] = spec
    return decoded(await cluster.api.create(STORAGE_POLICIES, body, dry_run=dry_run))


@pytest.mark.parametrize("spec", [None, {}, SPECIFIED], ids=["no spec", "an empty spec", "as specified"])
async def test_a_policy_gets_the_defaults_that_the_product_has(cluster: Cluster, spec: dict[str, Any] | None) -> None:
    created = await a_policy(cluster, spec)
    understood = msgspec.convert(created, StoragePolicy)
    assert understood.spec == PolicySpec()
    assert policy_from(understood).name == cluster.name("policy")


SELECTOR = {
    "matchLabels": {"tier": "hot", "topology.kubernetes.io/zone": "", "a_B.c-9": "D.e_f-0"},
    "matchExpressions": [
        {"key": "storage.example.com/class", "operator": "NotIn", "values": ["", "slow", "X.1"]},
        {"key": "keep", "operator": "DoesNotExist"},
    ],
}


async def test_a_policy_may_select_by_every_label_that_there_can_be(cluster: Cluster) -> None:
    labels = {f"{'a' * 63}.{'b' * 189}/{'c' * 63}": "d" * 63, **{f"label-{n}": f"value-{n}" for n in range(31)}}
    spec = {"volumeSelector": SELECTOR, "hotPoolSelector": {"matchLabels": labels}}
    created = await a_policy(cluster, spec)
    policy = policy_from(msgspec.convert(created, StoragePolicy))
    assert msgspec.to_builtins(policy.hot_pools)["matchLabels"] == labels
    assert msgspec.to_builtins(policy.volume_selector)["matchLabels"] == SELECTOR["matchLabels"]


async def test_the_status_of_a_policy_is_patched_and_raises_no_generation(cluster: Cluster) -> None:
    created = await a_policy(cluster, SPECIFIED)
    status = {
        "phase": "Active",
        "watchedVolumes": 50,
        "hotVolumes": 15,
        "coldVolumes": 30,
        "activeMigrations": 1,
        "lastReconcileTime": "2026-02-02T10:30:00Z",
    }
    name = cluster.name("policy")
    patched = decoded(await cluster.api.patch(STORAGE_POLICIES, name, {"status": status}, subresource="status"))
    assert patched["status"] == status
    assert (patched["spec"], patched["metadata"]["generation"]) == (created["spec"], 1)


@pytest.mark.parametrize(
    "spec",
    [
        {"highWatermarkIOPS": -1},
        {"highWatermarkIOPS": "5000"},
        {"samplingWindow": "soon"},
        {"cooldownPeriod": "-1h"},
        {"noData": "Guess"},
        {"maxConcurrentMigrations": 0},
        {"hotPoolSelector": {"matchExpressions": [{"key": "tier", "operator": "Near"}]}},
        {"hotPoolSelector": {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}},
        {"hotPoolSelector": {"matchExpressions": [{"key": "Example.com/a", "operator": "Exists"}]}},
        {"volumeSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c!"]}]}},
        {"coldPoolSelector": {"matchLabels": {"tier": "-cold"}}},
        {"sataPoolSelector": {"matchLabels": {"tier": "a" * 64}}},
        {"enabled": "yes"},
    ],
    ids=str,
)
async def test_a_policy_that_the_schema_can_refuse_is_refused(cluster: Cluster, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=r"StoragePolicy\.storage\.billyronks\.io .* is invalid: .*spec\."):
        await a_policy(cluster, spec, dry_run=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"lowWatermarkIOPS": 6000}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
        ({"lowWatermarkIOPS": 5000}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
        ({"highWatermarkIOPS": 500}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
        ({"warmWatermarkIOPS": 400}, "warmWatermarkIOPS must be 0, or between"),
        (
            {"hotPoolSelector": {"matchLabels": {"a": "b"}}, "nvmePoolSelector": {"matchLabels": {"a": "b"}}},
            "set one",
        ),
        ({"volumeSelector": {"matchLabels": {"a b": "c"}}}, "a key is a label's"),
        ({"hotPoolSelector": {"matchLabels": {"a/b/c": "d"}}}, "a key is a label's"),
    ],
    ids=str,
)
async def test_rules_across_fields_are_kept_where_there_is_cel(
    cluster: Cluster, spec: dict[str, Any], message: str
) -> None:
    if cluster.real:
        with pytest.raises(InvalidError, match=message):
            await a_policy(cluster, spec)
    else:  # the emulator has no CEL: it lets through what the planner then refuses in a condition
        await a_policy(cluster, spec)


def a_migration(cluster: Cluster, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": cluster.name("m"), "finalizers": ["storage.billyronks.io/migrator"]},
        "spec": {
            "requestId": "r-1",
            "pvName": "pvc-abc123",
            "volumeHandle": "pvc-abc123-uuid",
            "moves": [{"source": {"pool": "pool-sata-1"}, "targetPool": "pool-nvme-1"}],
            **spec,
        },
    }


async def test_a_migration_is_journaled_in_its_status(cluster: Cluster) -> None:
    created = decoded(await cluster.api.create(VOLUME_MIGRATIONS, a_migration(cluster)))
    step = {"time": "2026-02-02T10:30:00Z", "kind": "State", "state": "Analyzing"}
    write = {"type": "PatchVolume", "body": {"spec": {"topology": {"pool": None}}}}
    intent = {"time": "2026-02-02T10:30:01Z", "kind": "Intent", "state": "ScalingUp", "write": write}
    status = {"state": "ScalingUp", "steps": [step], "originalReplicaCount": 1, "elapsedSeconds": 1.5}
    name = cluster.name("m")

    async def journal(status: dict[str, Any], version: str) -> dict[str, Any]:
        patch = {"metadata": {"resourceVersion": version}, "status": status}
        return decoded(await cluster.api.patch(VOLUME_MIGRATIONS, name, patch, subresource="status"))

    first = await journal(status, created["metadata"]["resourceVersion"])
    assert first["status"] == status
    second = await journal({"steps": [step, intent]}, first["metadata"]["resourceVersion"])
    assert second["status"]["steps"][0] == step
    # A merge patch takes nulls out of objects, also of those in lists: a journal must not rely on them.
    assert second["status"]["steps"][1] == {**intent, "write": {**write, "body": {"spec": {"topology": {}}}}}
    assert second["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    "change",
    [{"moves": []}, {"moves": None}, {"requestId": ""}, {"pvName": None}, {"timeout": "soon"}],
    ids=str,
)
async def test_a_migration_without_what_it_needs_is_refused(cluster: Cluster, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=r"VolumeMigration\.storage\.billyronks\.io .* is invalid: .*spec\."):
        await cluster.api.create(VOLUME_MIGRATIONS, a_migration(cluster, **change), dry_run=True)


async def test_a_migration_can_be_cancelled_and_nothing_else(cluster: Cluster) -> None:
    name = cluster.name("m")
    await cluster.api.create(VOLUME_MIGRATIONS, a_migration(cluster))
    patched = decoded(await cluster.api.patch(VOLUME_MIGRATIONS, name, {"spec": {"cancelRequested": True}}))
    assert patched["spec"]["cancelRequested"] is True
    if cluster.real:
        for change in ({"cancelRequested": False}, {"pvName": "other"}, {"priority": 9}):
            with pytest.raises(InvalidError):
                await cluster.api.patch(VOLUME_MIGRATIONS, name, {"spec": change})


async def test_a_volume_is_read_as_the_product_reads_it(cluster: Cluster) -> None:
    body = {"metadata": {"name": "pvc-abc123"}, "spec": {"numReplicas": 1, "size": "10Gi"}}
    await cluster.api.create(MAYASTOR_VOLUMES, body, cluster.namespace)
    replica = {"pool": "pool-sata-1", "node": "n1", "uuid": "u", "state": "Online", "syncState": "Synced"}
    rebuilding = {"pool": "pool-nvme-1", "state": "Online", "syncState": "Syncing", "rebuildProgress": 12.5}
    status = {"state": "Degraded", "targetNode": "n1", "replicas": [replica, rebuilding]}
    raw = await cluster.api.patch(
        MAYASTOR_VOLUMES, "pvc-abc123", {"status": status}, cluster.namespace, subresource="status"
    )
    volume = msgspec.json.decode(raw, type=MayastorVolume)
    assert (volume.spec.num_replicas, volume.spec.size, volume.spec.topology) == (1, "10Gi", None)
    assert volume.status is not None
    assert [replica.rebuild_progress for replica in volume.status.replicas] == [None, 12.5]
    assert decoded(raw)["status"] == status


@pytest.mark.parametrize(
    "spec", [{}, {"numReplicas": 0}, {"numReplicas": 17}, {"numReplicas": 1, "size": "big"}], ids=str
)
async def test_a_volume_that_is_none_is_refused(cluster: Cluster, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=r"spec\.(numReplicas|size)"):
        await cluster.api.create(MAYASTOR_VOLUMES, {"metadata": {"name": "v"}, "spec": spec}, cluster.namespace)


@pytest.mark.parametrize("topology", [{"pool": None}, {"pool": {"labelled": None}}, {"node": None}, None], ids=str)
async def test_a_volume_may_have_nulls_in_its_topology(cluster: Cluster, topology: Any) -> None:
    body = {"metadata": {"name": "v"}, "spec": {"numReplicas": 1, "topology": topology}}
    created = decoded(await cluster.api.create(MAYASTOR_VOLUMES, body, cluster.namespace))
    assert created["spec"]["topology"] == topology


async def test_a_pool_is_read_as_the_product_reads_it(cluster: Cluster) -> None:
    body = {"metadata": {"name": "pool-nvme-1", "labels": {"tier": "hot"}}, "spec": {"node": "n1", "disks": ["/dev/a"]}}
    await cluster.api.create(DISK_POOLS, body, cluster.namespace)
    status = {"state": "Online", "capacity": "500Gi", "used": 214748364800, "available": "300Gi"}
    raw = await cluster.api.patch(
        DISK_POOLS, "pool-nvme-1", {"status": status}, cluster.namespace, subresource="status"
    )
    pool = msgspec.json.decode(raw, type=DiskPool).pool()
    assert (pool.online, pool.node, dict(pool.labels)) == (True, "n1", {"tier": "hot"})
    assert pool.free_bytes == 300 * 2**30
