"""
PersistentVolumes, their attachments and MayastorVolumes, cut down to what decisions need.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from common.resources.meta import ObjectMeta

CSI_DRIVER: Final = "io.openebs.csi-mayastor"


class Csi(msgspec.Struct, frozen=True, rename="camel"):
    """spec.csi."""

    volume_handle: str = ""
    driver: str = ""


class PersistentVolumeSpec(msgspec.Struct, frozen=True, rename="camel"):
    """spec; capacity.storage is a Kubernetes quantity."""

    storage_class_name: str = ""
    capacity: dict[str, str] | None = None
    csi: Csi | None = None


class PersistentVolumeStatus(msgspec.Struct, frozen=True):
    """status."""

    phase: str = ""


class PersistentVolume(msgspec.Struct, frozen=True):
    """A PersistentVolume."""

    metadata: ObjectMeta
    spec: PersistentVolumeSpec = PersistentVolumeSpec()
    status: PersistentVolumeStatus = PersistentVolumeStatus()

    @property
    def volume_handle(self) -> str:
        """The CSI volumeHandle; the PV's name where there is none."""
        return (self.spec.csi.volume_handle if self.spec.csi else "") or self.metadata.name


class AttachmentSource(msgspec.Struct, frozen=True, rename="camel"):
    """spec.source."""

    persistent_volume_name: str | None = None


class AttachmentSpec(msgspec.Struct, frozen=True, rename="camel"):
    """spec."""

    node_name: str = ""
    attacher: str = ""
    source: AttachmentSource = AttachmentSource()


class VolumeAttachment(msgspec.Struct, frozen=True):
    """A VolumeAttachment: some node has, or wants, the volume."""

    metadata: ObjectMeta
    spec: AttachmentSpec = AttachmentSpec()


class MayastorReplica(msgspec.Struct, frozen=True, rename="camel"):
    """status.replicas[]; state and syncState stay text, since unknown values must survive."""

    pool: str
    state: str = ""
    sync_state: str = ""
    uuid: str | None = None
    node: str | None = None
    rebuild_progress: float | None = None
    """Per cent, 0 to 100, where it is served."""


class MayastorVolumeSpec(msgspec.Struct, frozen=True, rename="camel"):
    """spec; topology stays as it was written, to be put back as it was."""

    num_replicas: int
    topology: dict[str, Any] | None = None
    size: str | int | None = None


class MayastorVolumeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """status."""

    state: str = ""
    replicas: tuple[MayastorReplica, ...] = ()
    target_node: str | None = None


class MayastorVolume(msgspec.Struct, frozen=True):
    """A MayastorVolume (the custom resource, not the volume behind the REST API)."""

    metadata: ObjectMeta
    spec: MayastorVolumeSpec
    status: MayastorVolumeStatus | None = None
