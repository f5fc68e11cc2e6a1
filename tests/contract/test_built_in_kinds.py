"""The kinds of Kubernetes itself that the product reads and writes."""

from __future__ import annotations

from typing import Any

import pytest

from common.kube.api import (
    EVENTS,
    LEASES,
    PERSISTENT_VOLUMES,
    VOLUME_ATTACHMENTS,
    AlreadyExistsError,
    ConflictError,
    EventType,
    InvalidError,
    NotFoundError,
)
from common.resources.meta import LAST_MIGRATION
from sandbox.world.kinds import CRDS as DEFINITIONS
from sandbox.world.kinds import NAMESPACES
from tests.contract.clusters import Cluster, decoded, watched


def a_persistent_volume(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"app": "db"}},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "mayastor",
            "csi": {"driver": "io.openebs.csi-mayastor", "volumeHandle": f"{name}-uuid"},
        },
        "status": {"phase": "Bound"},
    }


async def test_a_persistent_volume_is_pending_until_its_status_says_else(cluster: Cluster) -> None:
    name = cluster.name("pv")
    created = decoded(await cluster.api.create(PERSISTENT_VOLUMES, a_persistent_volume(name)))
    assert created["status"]["phase"] == "Pending"
    assert created["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert "generation" not in created["metadata"]
    bound = {"status": {"phase": "Bound"}}
    patched = decoded(await cluster.api.patch(PERSISTENT_VOLUMES, name, bound, subresource="status"))
    assert patched["status"]["phase"] == "Bound"
    assert patched["spec"] == created["spec"]


async def test_a_persistent_volume_is_annotated_under_a_precondition(cluster: Cluster) -> None:
    name = cluster.name("pv")
    created = decoded(await cluster.api.create(PERSISTENT_VOLUMES, a_persistent_volume(name)))
    version = created["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version, "annotations": {LAST_MIGRATION: "2026-02-01T10:00:00Z"}}}
    patched = decoded(await cluster.api.patch(PERSISTENT_VOLUMES, name, patch))
    assert patched["metadata"]["annotations"] == {LAST_MIGRATION: "2026-02-01T10:00:00Z"}
    assert patched["metadata"]["labels"] == {"app": "db"}
    with pytest.raises(ConflictError, match=r"Operation cannot be fulfilled on persistentvolumes"):
        await cluster.api.patch(PERSISTENT_VOLUMES, name, patch)
    again = {"metadata": {"annotations": {LAST_MIGRATION: "2026-02-01T10:00:00Z"}}}
    same = decoded(await cluster.api.patch(PERSISTENT_VOLUMES, name, again))
    assert same["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]
    removed = {"metadata": {"annotations": {LAST_MIGRATION: None}}}
    assert "annotations" not in decoded(await cluster.api.patch(PERSISTENT_VOLUMES, name, removed))["metadata"]


async def test_a_persistent_volume_without_what_it_needs_is_refused(cluster: Cluster) -> None:
    with pytest.raises(InvalidError, match=r"spec\.accessModes: Required value"):
        await cluster.api.create(PERSISTENT_VOLUMES, {"metadata": {"name": cluster.name("pv")}, "spec": {}})


async def test_persistent_volumes_are_watched(cluster: Cluster) -> None:
    since = (await cluster.api.list_page(PERSISTENT_VOLUMES)).resource_version
    name = cluster.name("pv")
    await cluster.api.create(PERSISTENT_VOLUMES, a_persistent_volume(name))
    watch = cluster.api.watch(PERSISTENT_VOLUMES, resource_version=since, field_selector=f"metadata.name={name}")
    ((kind, body),) = await watched(watch, 1)
    assert (kind, body["kind"], body["metadata"]["name"]) == (EventType.ADDED, "PersistentVolume", name)


async def test_a_volume_attachment_begins_detached_and_keeps_its_spec(cluster: Cluster) -> None:
    name = cluster.name("va")
    source = {"persistentVolumeName": cluster.name("pv")}
    body = {
        "metadata": {"name": name},
        "spec": {"attacher": "io.openebs.csi-mayastor", "nodeName": "node-1", "source": source},
    }
    created = decoded(await cluster.api.create(VOLUME_ATTACHMENTS, body))
    assert created["status"] == {"attached": False}
    attached = {"status": {"attached": True}}
    patched = decoded(await cluster.api.patch(VOLUME_ATTACHMENTS, name, attached, subresource="status"))
    assert (patched["status"], patched["spec"]) == ({"attached": True}, created["spec"])
    with pytest.raises(InvalidError, match="field is immutable"):
        await cluster.api.patch(VOLUME_ATTACHMENTS, name, {"spec": {"nodeName": "node-2"}})
    await cluster.api.delete(VOLUME_ATTACHMENTS, name)
    with pytest.raises(NotFoundError):
        await cluster.api.get(VOLUME_ATTACHMENTS, name)


LEASE = {
    "holderIdentity": "migrator-0",
    "leaseDurationSeconds": 15,
    "acquireTime": "2026-02-02T10:30:00.000000Z",
    "renewTime": "2026-02-02T10:30:00.000000Z",
    "leaseTransitions": 0,
}


async def test_a_lease_is_created_renewed_and_released(cluster: Cluster) -> None:
    body = {"metadata": {"name": "migrator"}, "spec": LEASE}
    created = decoded(await cluster.api.create(LEASES, body, cluster.namespace))
    assert created["spec"] == LEASE
    with pytest.raises(AlreadyExistsError):
        await cluster.api.create(LEASES, body, cluster.namespace)
    renewed = {
        "metadata": {"resourceVersion": created["metadata"]["resourceVersion"]},
        "spec": {"renewTime": "2026-02-02T10:30:10.123456Z"},
    }
    patched = decoded(await cluster.api.patch(LEASES, "migrator", renewed, cluster.namespace))
    assert patched["spec"] == {**LEASE, "renewTime": "2026-02-02T10:30:10.123456Z"}
    with pytest.raises(ConflictError, match=r'leases\.coordination\.k8s\.io "migrator"'):
        await cluster.api.patch(LEASES, "migrator", renewed, cluster.namespace)
    released = {"spec": {"holderIdentity": "", "renewTime": None}}
    spec = decoded(await cluster.api.patch(LEASES, "migrator", released, cluster.namespace))["spec"]
    assert spec["holderIdentity"] == ""
    assert "renewTime" not in spec


@pytest.mark.parametrize(
    "spec",
    [
        {"leaseDurationSeconds": 0},
        {"leaseDurationSeconds": "15"},
        {"leaseTransitions": -1},
        {"renewTime": "yesterday"},
        {"renewTime": "2026-02-02T10:30:00Z"},
        {"renewTime": "2026-02-02T10:30:00.123Z"},
    ],
    ids=str,
)
async def test_a_lease_that_is_none_is_refused(cluster: Cluster, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        await cluster.api.create(LEASES, {"metadata": {"name": "l"}, "spec": {**LEASE, **spec}}, cluster.namespace)


def an_event(**changes: Any) -> dict[str, Any]:
    event = {
        "eventTime": "2026-02-02T10:30:00.000000Z",
        "reportingController": "couchestor.io/migrator",
        "reportingInstance": "migrator-0",
        "action": "Migrate",
        "reason": "MigrationCompleted",
        "type": "Normal",
        "note": "moved to pool-nvme-1",
        "regarding": {"apiVersion": "v1", "kind": "PersistentVolume", "name": "pvc-abc123", "uid": "u"},
        **changes,
    }
    return {key: value for key, value in event.items() if value is not None}


async def test_an_event_is_recorded_and_becomes_a_series(cluster: Cluster) -> None:
    name = cluster.name("e")
    body = {"metadata": {"name": name}, **an_event()}
    created = decoded(await cluster.api.create(EVENTS, body, "default"))
    assert {key: created[key] for key in an_event()} == an_event()
    series = {"series": {"count": 2, "lastObservedTime": "2026-02-02T10:31:00.000000Z"}}
    patched = decoded(await cluster.api.patch(EVENTS, name, series, "default"))
    assert patched["series"] == series["series"]
    await cluster.api.delete(EVENTS, name, "default")


async def test_what_an_event_said_stays_said(cluster: Cluster) -> None:
    name = cluster.name("e")
    await cluster.api.create(EVENTS, {"metadata": {"name": name}, **an_event()}, "default")
    with pytest.raises(InvalidError, match="field is immutable"):
        await cluster.api.patch(EVENTS, name, {"note": "something else"}, "default")


@pytest.mark.parametrize(
    "change",
    [
        {"eventTime": None},
        {"eventTime": "2026-02-02T10:30:00Z"},
        {"reportingController": None},
        {"reportingInstance": None},
        {"action": None},
        {"reason": None},
        {"type": None},
        {"type": "Serious"},
        {"note": "x" * 1025},
        {"reportingInstance": "x" * 129},
        {"action": "x" * 129},
        {"reason": "x" * 129},
        {"series": {"count": 1, "lastObservedTime": "2026-02-02T10:31:00.000000Z"}},
    ],
    ids=lambda change: str(change)[:50],
)
async def test_an_event_that_is_none_is_refused(cluster: Cluster, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        await cluster.api.create(EVENTS, {"metadata": {"name": cluster.name("e")}, **an_event(**change)}, "default")


async def test_an_event_about_something_without_a_namespace_belongs_into_default(cluster: Cluster) -> None:
    with pytest.raises(InvalidError, match=r"involvedObject\.namespace"):
        await cluster.api.create(EVENTS, {"metadata": {"name": "e"}, **an_event()}, cluster.namespace)
    about = {"kind": "MayastorVolume", "name": "v", "namespace": cluster.namespace}
    body = {"metadata": {"name": "e"}, **an_event(regarding=about)}
    await cluster.api.create(EVENTS, body, cluster.namespace)


async def test_a_namespace_is_an_object(cluster: Cluster) -> None:
    read = decoded(await cluster.api.get(NAMESPACES, cluster.namespace))
    assert read["metadata"]["labels"] == {"kubernetes.io/metadata.name": cluster.namespace}
    assert read["status"] == {"phase": "Active"}
    with pytest.raises(AlreadyExistsError):
        await cluster.api.create(NAMESPACES, {"metadata": {"name": cluster.namespace}})


async def test_a_definition_is_an_object(cluster: Cluster) -> None:
    read = decoded(await cluster.api.get(DEFINITIONS, "mayastorvolumes.openebs.io"))
    established = {condition["type"]: condition["status"] for condition in read["status"]["conditions"]}
    assert established["Established"] == "True"
    assert read["status"]["acceptedNames"]["shortNames"] == ["msv"]
    assert read["status"]["storedVersions"] == ["v1"]
