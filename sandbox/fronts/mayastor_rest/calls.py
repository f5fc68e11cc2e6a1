"""
The calls, by the names of the OpenAPI file beside: each reads its parts, asks the control plane, and shows the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from random import Random
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import parse_qs, urlsplit

from sandbox.fronts.mayastor_rest import shapes
from sandbox.fronts.mayastor_rest.errors import Answer, malformed
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.fronts.mayastor_rest.requests import Parts, Route, UnreadableError, as_uuid, route
from sandbox.fronts.mayastor_rest.views import View
from sandbox.world.control import cluster, volumes
from sandbox.world.control.counts import set_replica_count
from sandbox.world.control.plane import ControlSettings, Plane, PoolConstraints, Refusal, RefusedError
from sandbox.world.versions import MayastorVersion


class Asked(Protocol):
    """What a call works on: the control plane at this moment, and what answers show of it."""

    rng: Random

    @property
    def plane(self) -> Plane: ...
    @property
    def control(self) -> ControlSettings: ...
    @property
    def epoch(self) -> datetime: ...

    def view(self) -> View: ...
    def commit(self, plane: Plane) -> None: ...


Call = Callable[[Asked, Parts, Fault | None], Answer]
_MEBIBYTE: Final = 2**20
_GONE: Final = Answer(204)

_ROUTES: Final = (
    route("listNodes", "GET", "/nodes"),
    route("readNode", "GET", "/nodes/{node}"),
    route("cordonNode", "PUT", "/nodes/{node}/cordon/{label}"),
    route("uncordonNode", "DELETE", "/nodes/{node}/cordon/{label}"),
    route("drainNode", "PUT", "/nodes/{node}/drain/{label}"),
    route("labelNode", "PUT", "/nodes/{node}/label/{key}={value}"),
    route("unlabelNode", "DELETE", "/nodes/{node}/label/{key}"),
    route("createPool", "PUT", "/nodes/{node}/pools/{pool}"),
    route("deleteReplicaOfNode", "DELETE", "/nodes/{node}/pools/{pool}/replicas/{replica}"),
    route("listPools", "GET", "/pools"),
    route("readPool", "GET", "/pools/{pool}"),
    route("deletePool", "DELETE", "/pools/{pool}"),
    route("labelPool", "PUT", "/pools/{pool}/label/{key}={value}"),
    route("unlabelPool", "DELETE", "/pools/{pool}/label/{key}"),
    route("deleteReplica", "DELETE", "/pools/{pool}/replicas/{replica}"),
    route("listTargets", "GET", "/nexuses"),
    route("removeChild", "DELETE", "/nexuses/{nexus}/children/{child}"),
    route("listReplicas", "GET", "/replicas"),
    route("readSpecs", "GET", "/specs"),
    route("listVolumes", "GET", "/volumes"),
    route("readVolume", "GET", "/volumes/{volume}"),
    route("createVolume", "PUT", "/volumes/{volume}"),
    route("deleteVolume", "DELETE", "/volumes/{volume}"),
    route("setReplicaCount", "PUT", "/volumes/{volume}/replica_count/{count}"),
    route("publishVolume", "PUT", "/volumes/{volume}/target"),
    route("unpublishVolume", "DELETE", "/volumes/{volume}/target"),
    route("deleteShutdownTargets", "DELETE", "/volumes/{volume}/shutdown_targets"),
    route("setVolumeProperty", "PUT", "/volumes/{volume}/property"),
    route("readRebuildHistory", "GET", "/volumes/{volume}/rebuild-history"),
)
_POOL_CORDON_ROUTES: Final = (
    route("cordonPool", "PUT", "/pools/{pool}/cordon"),
    route("uncordonPool", "DELETE", "/pools/{pool}/cordon"),
)


def routes(version: MayastorVersion) -> tuple[Route, ...]:
    """The calls that a version knows."""
    return (*_ROUTES, *_POOL_CORDON_ROUTES) if version.traits.pool_cordon else _ROUTES


def list_nodes(api: Asked, _parts: Parts, _fault: Fault | None) -> Answer:
    return Answer(200, api.view().nodes())


def read_node(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name = parts.text("node")
    if name not in api.plane.nodes:
        raise RefusedError(Refusal.NODE_NOT_FOUND, name)
    return Answer(200, api.view().node(name))


def _node_call(act: Callable[[Plane, Parts], Plane]) -> Call:
    def call(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
        api.commit(act(api.plane, parts))
        return Answer(200, api.view().node(parts.text("node")))

    return call


def _pool_call(act: Callable[[Plane, Parts], Plane]) -> Call:
    def call(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
        api.commit(act(api.plane, parts))
        return Answer(200, api.view().pool(parts.text("pool")))

    return call


def create_pool(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    body, node, name = parts.body(shapes.NewPool), parts.text("node"), parts.text("pool")
    capacity = sum(_disk_bytes(disk) for disk in body.disks)
    disks, labels = tuple(body.disks), body.labels or {}
    api.commit(cluster.create_pool(api.plane, node, name, disks, labels, capacity, api.rng))
    return Answer(200, api.view().pool(name))


def _disk_bytes(disk: str) -> int:
    """How large a disk is, of those that say so (malloc:///x?size_mb=64); all others are as large as 1 TiB."""
    sizes = parse_qs(urlsplit(disk).query).get("size_mb")
    return int(sizes[0]) * _MEBIBYTE if sizes else _MEBIBYTE * _MEBIBYTE


def list_pools(api: Asked, _parts: Parts, _fault: Fault | None) -> Answer:
    return Answer(200, api.view().pools())


def read_pool(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name = parts.text("pool")
    if name not in api.plane.pools:
        raise RefusedError(Refusal.POOL_NOT_FOUND, name)
    return Answer(200, api.view().pool(name))


def delete_pool(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    api.commit(cluster.delete_pool(api.plane, parts.text("pool")))
    return _GONE


def _constraints(parts: Parts) -> PoolConstraints:
    body = parts.body(shapes.ConstraintChange)
    return PoolConstraints(body.replicas, body.snapshots, body.restores, body.imports or body.import_)


def delete_replica(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    api.commit(volumes.delete_replica(api.plane, parts.uuid("replica")))
    return _GONE


def list_targets(api: Asked, _parts: Parts, _fault: Fault | None) -> Answer:
    return Answer(200, api.view().targets())


def remove_child(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    target, uri = parts.uuid("nexus"), parts.text("child")
    replica = uri.rpartition("uuid=")[2]
    api.commit(volumes.remove_child(api.plane, target, replica))
    return _GONE


def list_replicas(api: Asked, _parts: Parts, _fault: Fault | None) -> Answer:
    return Answer(200, api.view().replicas())


def read_specs(api: Asked, _parts: Parts, _fault: Fault | None) -> Answer:
    return Answer(200, api.view().specs())


def list_volumes(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    """One page. The token is an offset, so what is deleted between two pages moves the rest."""
    limit, start = parts.number("max_entries"), parts.number("starting_token") or 0
    if limit is None:
        raise UnreadableError(malformed("Query deserialize error: missing field `max_entries`"))
    view, names = api.view(), list(api.plane.volumes)
    wanted = parts.query.get("volume_id")
    if wanted is not None:
        uuid = as_uuid(wanted, "Query")
        return Answer(200, shapes.VolumePage(entries=tuple(view.volume(name) for name in names if name == uuid)))
    end = len(names) if limit <= 0 else start + limit
    page = tuple(view.volume(name) for name in names[start:end])
    return Answer(200, shapes.VolumePage(entries=page, next_token=end if end < len(names) else None))


def read_volume(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name = parts.uuid("volume")
    api.plane.volume(name)
    return Answer(200, api.view().volume(name))


def create_volume(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name, body = parts.uuid("volume"), parts.body(shapes.NewVolume)
    new = volumes.NewVolume(
        uuid=name,
        replicas=body.replicas,
        size_bytes=body.size,
        thin=body.thin,
        self_heal=body.policy is not None and body.policy.self_heal,
        topology=_known_topology(body.topology),
        affinity_group=None if body.affinity_group is None else body.affinity_group.id,
        max_snapshots=body.max_snapshots,
    )
    api.commit(volumes.create_volume(api.plane, new, api.rng))
    return _volume(api, name)


def _known_topology(topology: dict[str, object] | None) -> dict[str, object] | None:
    """What of a topology is kept: a misspelt affinity key is not."""
    if topology is None:
        return None
    kept = dict(topology)
    nodes = kept.get("node_topology")
    if isinstance(nodes, dict) and isinstance(nodes.get("labelled"), dict):
        known = {key: value for key, value in nodes["labelled"].items() if key in {"exclusion", "inclusion"}}
        kept["node_topology"] = {**nodes, "labelled": known}
    return kept


def delete_volume(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    api.commit(volumes.delete_volume(api.plane, parts.uuid("volume")))
    return _GONE


def change_count(api: Asked, parts: Parts, fault: Fault | None) -> Answer:
    name, count = parts.uuid("volume"), parts.small_number("count")
    failing = fault.step if fault is not None and fault.effect is Effect.DATA_PLANE else None
    api.commit(set_replica_count(api.plane, name, count, api.rng, api.control, failing=failing))
    return _volume(api, name)


def publish_volume(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name, body = parts.uuid("volume"), parts.body(shapes.Publication)
    wanted = volumes.Publication(node=body.node, republish=body.republish)
    api.commit(volumes.publish(api.plane, name, wanted, api.rng))
    return _volume(api, name)


def unpublish_volume(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name = parts.uuid("volume")
    api.commit(volumes.unpublish(api.plane, name))
    return _volume(api, name)


def delete_shutdown_targets(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    api.commit(volumes.delete_shutdown_targets(api.plane, parts.uuid("volume")))
    return _GONE


def set_property(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name, body = parts.uuid("volume"), parts.body(dict[str, object])
    for key in body:
        if key != "max_snapshots":
            complaint = f"Json deserialize error: unknown variant `{key}`, expected `max_snapshots` at line 1 column 11"
            raise UnreadableError(malformed(complaint))
    value = body.get("max_snapshots")
    if not isinstance(value, int):
        raise UnreadableError(malformed("Json deserialize error: expected value at line 1 column 1"))
    api.commit(volumes.set_max_snapshots(api.plane, name, value))
    return _volume(api, name)


def read_rebuild_history(api: Asked, parts: Parts, _fault: Fault | None) -> Answer:
    name = parts.uuid("volume")
    api.plane.volume(name)
    history = api.view().rebuild_history(name, api.epoch)
    if history is None:
        raise RefusedError(Refusal.NO_TARGET, name)
    return Answer(200, history)


def _volume(api: Asked, name: str) -> Answer:
    return Answer(200, api.view().volume(name))


CALLS: Final[Mapping[str, Call]] = MappingProxyType(
    {
        "listNodes": list_nodes,
        "readNode": read_node,
        "cordonNode": _node_call(lambda plane, at: cluster.cordon_node(plane, at.text("node"), at.text("label"))),
        "uncordonNode": _node_call(lambda plane, at: cluster.uncordon_node(plane, at.text("node"), at.text("label"))),
        "drainNode": _node_call(lambda plane, at: cluster.drain_node(plane, at.text("node"), at.text("label"))),
        "labelNode": _node_call(
            lambda plane, at: cluster.label_node(
                plane, at.text("node"), at.text("key"), at.text("value"), overwrite=at.flag("overwrite")
            )
        ),
        "unlabelNode": _node_call(lambda plane, at: cluster.unlabel_node(plane, at.text("node"), at.text("key"))),
        "createPool": create_pool,
        "deleteReplicaOfNode": delete_replica,
        "listPools": list_pools,
        "readPool": read_pool,
        "deletePool": delete_pool,
        "labelPool": _pool_call(
            lambda plane, at: cluster.label_pool(
                plane, at.text("pool"), at.text("key"), at.text("value"), overwrite=at.flag("overwrite")
            )
        ),
        "unlabelPool": _pool_call(lambda plane, at: cluster.unlabel_pool(plane, at.text("pool"), at.text("key"))),
        "cordonPool": _pool_call(lambda plane, at: cluster.cordon_pool(plane, at.text("pool"), _constraints(at))),
        "uncordonPool": _pool_call(lambda plane, at: cluster.uncordon_pool(plane, at.text("pool"), _constraints(at))),
        "deleteReplica": delete_replica,
        "listTargets": list_targets,
        "removeChild": remove_child,
        "listReplicas": list_replicas,
        "readSpecs": read_specs,
        "listVolumes": list_volumes,
        "readVolume": read_volume,
        "createVolume": create_volume,
        "deleteVolume": delete_volume,
        "setReplicaCount": change_count,
        "publishVolume": publish_volume,
        "unpublishVolume": unpublish_volume,
        "deleteShutdownTargets": delete_shutdown_targets,
        "setVolumeProperty": set_property,
        "readRebuildHistory": read_rebuild_history,
    }
)
