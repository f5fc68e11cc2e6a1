"""
The scenario as Kubernetes objects: what a cluster with these volumes would have in its API server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from common.kube.api import (
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    VOLUME_ATTACHMENTS,
    AlreadyExistsError,
    Body,
    KubeApi,
    Resource,
)
from common.resources.meta import LAST_MIGRATION
from common.resources.volume import CSI_DRIVER
from sandbox.demo.scenario import DemoVolume

NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace")


async def create(api: KubeApi, resource: Resource, body: Body, namespace: str | None = None) -> None:
    """Create an object unless it is there."""
    try:
        await api.create(resource, body, namespace)
    except AlreadyExistsError:
        return


async def create_namespaces(api: KubeApi, names: Iterable[str]) -> None:
    for name in names:
        await create(api, NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


async def create_volumes(api: KubeApi, volumes: Iterable[DemoVolume], now: datetime) -> None:
    """Create the PersistentVolumes, Bound, and an attachment for each one in use."""
    for volume in volumes:
        await create(api, PERSISTENT_VOLUMES, persistent_volume(volume, now))
        # No controller binds claims here, so the phase is written where that controller would write it.
        await api.patch(PERSISTENT_VOLUMES, volume.name, {"status": {"phase": "Bound"}}, subresource="status")
        if volume.attached:
            await create(api, VOLUME_ATTACHMENTS, volume_attachment(volume))


async def create_policies(api: KubeApi, policies: Mapping[str, Mapping[str, Any]]) -> None:
    for name, spec in policies.items():
        await create(api, STORAGE_POLICIES, storage_policy(name, spec))


def persistent_volume(volume: DemoVolume, now: datetime) -> dict[str, Any]:
    """A PersistentVolume as the CSI provisioner makes it."""
    annotations = {"pv.kubernetes.io/provisioned-by": CSI_DRIVER, **volume.annotations}
    if volume.moved_ago is not None:
        annotations[LAST_MIGRATION] = (now - volume.moved_ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": PERSISTENT_VOLUMES.api_version,
        "kind": PERSISTENT_VOLUMES.kind,
        "metadata": {"name": volume.name, "labels": {"app": volume.name[4:]}, "annotations": annotations},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": f"{volume.size_gib}Gi"},
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": volume.name[4:]},
            "csi": {"driver": CSI_DRIVER, "volumeHandle": volume.handle, "fsType": "ext4"},
            "storageClassName": volume.storage_class,
        },
    }


def volume_attachment(volume: DemoVolume) -> dict[str, Any]:
    """A VolumeAttachment as the attach controller makes it."""
    return {
        "apiVersion": VOLUME_ATTACHMENTS.api_version,
        "kind": VOLUME_ATTACHMENTS.kind,
        "metadata": {"name": f"csi-{volume.name[4:]}"},
        "spec": {
            "attacher": CSI_DRIVER,
            "nodeName": volume.node,
            "source": {"persistentVolumeName": volume.name},
        },
    }


def storage_policy(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A StoragePolicy as a person applies it."""
    return {
        "apiVersion": STORAGE_POLICIES.api_version,
        "kind": STORAGE_POLICIES.kind,
        "metadata": {"name": name},
        "spec": dict(spec),
    }
