"""
How the storage is looked at, past everything that answers may hide: one way for each of Mayastor's two interfaces.

What is written of a volume is read where it is written: in its MayastorVolume, or in the control plane itself, never in
answers of the REST API, which may be old. Which copies there really are, only the simulated storage knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from common.kube.api import KubeApi, Resource
from common.placement import Tier
from common.resources.meta import FENCE
from common.resources.volume import MayastorVolume
from sandbox.demo.snapshot import SeenPool, SeenReplica, SeenSetting, SeenStorage, SeenVolume
from sandbox.world.control.plane import Plane
from sandbox.world.driver import MAYASTOR_VOLUMES
from sandbox.world.storage import SimVolume, State

PAGE: Final = 500

T = TypeVar("T")
Look = Callable[[], Awaitable[SeenStorage]]
"""Looks once. Raises KubeError if an API server has to be asked and does not answer."""


def of_resources(api: KubeApi, truth: Callable[[], State], namespace: str = "mayastor") -> Look:
    """Look at MayastorVolumes, and at the storage behind them."""

    async def look() -> SeenStorage:
        volumes = await read_all(api, MAYASTOR_VOLUMES, MayastorVolume, namespace)
        state = truth()
        seen = {item.metadata.name: seen_volume(item, state) for item in volumes}
        return SeenStorage(seen, seen_pools(state))

    return look


def of_plane(plane: Callable[[], Plane], names: Mapping[str, str]) -> Look:
    """Look at Mayastor's control plane from within. `names` are those of PersistentVolumes, by volumeHandle."""

    async def look() -> SeenStorage:
        now = plane()
        volumes = {names.get(uuid, uuid): volume_of(now, volume) for uuid, volume in now.storage.volumes.items()}
        return SeenStorage(volumes, seen_pools(now.storage), frozenset(settings_of(now)))

    return look


async def read_all(api: KubeApi, resource: Resource, type_: type[T], namespace: str | None = None) -> list[T]:
    """Read every object of a kind. Raises KubeError."""
    items: list[T] = []
    token = ""
    while True:
        page = await api.list_page(resource, namespace, limit=PAGE, continue_token=token)
        items += (msgspec.json.decode(raw, type=type_) for raw in page.items)
        token = page.continue_token
        if not token:
            return items


def seen_pools(state: State) -> dict[str, SeenPool]:
    return {pool.name: SeenPool(pool.node, pool.labels.get("tier") == Tier.COLD) for pool in state.pools.values()}


def seen_volume(resource: MayastorVolume, truth: State) -> SeenVolume:
    """One volume of the resources."""
    topology = resource.spec.topology
    return SeenVolume(
        replica_count=resource.spec.num_replicas,
        topology=_canonical(topology) if topology is not None else "",
        fence=resource.metadata.annotation(FENCE) or "",
        replicas=seen_replicas(truth.volumes.get(resource.metadata.name)),
    )


def volume_of(plane: Plane, volume: SimVolume) -> SeenVolume:
    """One volume of the control plane."""
    topology = plane.volumes[volume.name].topology
    return SeenVolume(
        replica_count=volume.replica_count,
        topology=_canonical(topology) if topology is not None else "",
        replicas=seen_replicas(volume),
    )


def seen_replicas(volume: SimVolume | None) -> tuple[SeenReplica, ...]:
    """The copies. One that the target does not write to grows old."""
    if volume is None:
        return ()
    return tuple(
        SeenReplica(each.uuid, each.pool, synced=each.usable and (each.attached or volume.target_node is None))
        for each in volume.replicas
    )


def settings_of(plane: Plane) -> Iterator[SeenSetting]:
    """All that is set on nodes and pools and has a say in where replicas go."""
    for node in plane.nodes.values():
        for label in node.cordons:
            yield SeenSetting(f"node {node.name}", f"cordon {label}")
        for label in node.drains:
            yield SeenSetting(f"node {node.name}", f"drain {label}")
        for key, value in plane.storage.node_labels.get(node.name, {}).items():
            yield SeenSetting(f"node {node.name}", f"label {key}={value}")
    for name, pool in plane.storage.pools.items():
        for key, value in pool.labels.items():
            yield SeenSetting(f"pool {name}", f"label {key}={value}")
        constraints = plane.pools[name].constraints
        for what in ("replicas", "snapshots", "restores", "imports"):
            if getattr(constraints, what):
                yield SeenSetting(f"pool {name}", f"closed for {what}")


def _canonical(content: object) -> str:
    return msgspec.json.encode(content, order="sorted").decode()
