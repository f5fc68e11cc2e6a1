"""
What is left when all is over: the world before the first migration, the world after the last, and nothing else.

It is read as a person with kubectl would read it, past the services. What moves may change is the place of replicas
and two annotations of a PersistentVolume; whatever else differs was left behind by somebody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from common.kube.api import PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, KubeApi
from common.resources.meta import LAST_MIGRATION, MOVE_MEMORY
from common.resources.migration import MigrationState, VolumeMigration
from sandbox.demo.eyes import Look, read_all
from sandbox.demo.snapshot import SeenStorage, SeenVolume
from sandbox.world.driver import DISK_POOLS, MAYASTOR_VOLUMES

REMEMBERED: Final = frozenset({LAST_MIGRATION, MOVE_MEMORY})
"""The annotations that a move is to leave."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How everything stands at one moment."""

    storage: SeenStorage
    objects: Mapping[str, Any]
    """What is written in each object of the cluster that is not ours, by kind and name."""


async def standing(api: KubeApi, look: Look, *, of_resources: bool) -> Standing:
    """Read everything; `of_resources`: there are MayastorVolumes. Raises KubeError."""
    kinds = (PERSISTENT_VOLUMES, DISK_POOLS, *([MAYASTOR_VOLUMES] if of_resources else []))
    objects: dict[str, Any] = {}
    for kind in kinds:
        namespace = "mayastor" if kind.namespaced else None
        for item in await read_all(api, kind, dict[str, Any], namespace):
            objects[f"{kind.kind} {item['metadata']['name']}"] = _written(item)
    return Standing(await look(), objects)


async def records(api: KubeApi) -> list[VolumeMigration]:
    """Read every migration. Raises KubeError."""
    return await read_all(api, VOLUME_MIGRATIONS, VolumeMigration)


def left(before: Standing, after: Standing, migrations: Sequence[VolumeMigration]) -> list[str]:
    """Name whatever was left, a line each; `migrations` are all there were."""
    found = [*_of_storage(before.storage, after.storage), *_of_objects(before.objects, after.objects)]
    for record in migrations:
        found += _of_record(record)
        volumes = (storage.volumes.get(record.spec.pv_name) for storage in (before.storage, after.storage))
        found += _of_replicas(record, *volumes)
    return found


def _written(item: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody wrote of an object, not what a server or an operator says of it."""
    metadata = item["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k not in REMEMBERED}
    return {
        "spec": item.get("spec"),
        "labels": metadata.get("labels") or {},
        "annotations": annotations,
        "finalizers": metadata.get("finalizers") or [],
    }


def _of_storage(before: SeenStorage, after: SeenStorage) -> Iterator[str]:
    for setting in sorted(after.settings - before.settings):
        yield f"{setting} is left"
    for setting in sorted(before.settings - after.settings):
        yield f"{setting} is missing"
    for name, was in before.volumes.items():
        volume = after.volumes.get(name)
        if volume is None:
            yield f"volume {name} is gone"
            continue
        if volume.written != was.written:
            yield f"volume {name}: (count, topology, fence) is {volume.written}, was {was.written}"
        if len(volume.replicas) != was.replica_count or len(volume.synced) != was.replica_count:
            yield f"volume {name}: {len(volume.synced)} of {len(volume.replicas)} replicas are synced"


def _of_objects(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name} is {_text(after.get(name))}, was {_text(before.get(name))}"


def _of_record(record: VolumeMigration) -> Iterator[str]:
    name, state = record.metadata.name, record.status.state
    if not state.terminal:
        yield f"{name} ({record.spec.pv_name}) is still {state}"
    if state is MigrationState.FAILED:
        yield f"{name} ({record.spec.pv_name}) failed: {record.status.reason} {record.status.message}"
    if record.metadata.finalizers:
        yield f"{name} has its finalizer still"


def _of_replicas(record: VolumeMigration, before: SeenVolume | None, after: SeenVolume | None) -> Iterator[str]:
    """Where the replicas are: moved as the record says, or the very same ones."""
    if before is None or after is None:
        return
    volume, state = record.spec.pv_name, record.status.state
    targets = {move.target_pool for move in record.spec.moves}
    sources = {move.source.pool for move in record.spec.moves}
    if state is MigrationState.COMPLETED and after.pools != (before.pools - sources) | targets:
        yield f"volume {volume}: moved from {sorted(sources)} to {sorted(targets)}, is on {sorted(after.pools)}"
    had, has = ({replica.identity for replica in seen.replicas} for seen in (before, after))
    if state is MigrationState.ABORTED and had != has:
        yield f"volume {volume}: put back, and its replicas {sorted(had)} became {sorted(has)}"


def _text(content: object) -> str:
    return msgspec.json.encode(content, order="sorted").decode()
