"""
The REST API on a loopback port, and what a test or a demo does to the cluster behind it.

A thin shell around RestApi: it hands in the clock's time, waits for answers that take their time, and carries bytes.
The same can be asked without a socket (`ask`), which is how a simulation on virtual time does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import msgspec
from aiohttp import web

from common.clock import Clock
from sandbox.fronts.loopback import HOST, LoopbackServer
from sandbox.fronts.mayastor_rest.api import ApiSettings, RestApi
from sandbox.fronts.mayastor_rest.errors import Answer
from sandbox.fronts.mayastor_rest.faults import Fault, Faults
from sandbox.fronts.mayastor_rest.requests import JSON, Request
from sandbox.world.control import cluster, volumes
from sandbox.world.control.plane import (
    ControlSettings,
    Plane,
    PoolEntry,
    Target,
    VolumeEntry,
    settings_of,
)
from sandbox.world.mayastor import Change, new_uuid
from sandbox.world.storage import SimPool, SimVolume, State
from sandbox.world.versions import MayastorVersion

FIRST_GRPC_PORT: Final = 10124


class NoAnswerError(Exception):
    """Raised by `ask` where the connection breaks before there is an answer."""


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """How the simulated Mayastor is set up. Times in seconds."""

    control: ControlSettings
    cache_seconds: float = 30.0
    """How old the states in answers may be; 0: not at all."""
    token_required: bool = False
    pool_cordon_counts: bool = False
    """For 4.4: whether a cordoned pool's replica goes first, of which the facts are not sure."""


def front_settings(version: MayastorVersion) -> FrontSettings:
    """Settings as a version has them by default."""
    return FrontSettings(control=ControlSettings(version=version))


class MayastorRestFront(LoopbackServer):
    """
    The server; `async with` starts and stops it. Without that it can only be asked in process. Its url is without the
    API's /v0.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rng: Random,
        settings: FrontSettings,
        nodes: Iterable[str] = (),
        pools: Iterable[SimPool] = (),
        volumes: Iterable[SimVolume] = (),
        port: int = 0,
    ) -> None:
        """
        `nodes` are those without pools; those of the pools are there anyway. The names of `volumes` are uuids, and one
        with a target_node is published there. `port` 0 takes a free one.
        """
        super().__init__(port=port)
        self._clock = clock
        self._start = clock.monotonic()
        control = settings_of(settings.control, pool_cordon_counts=settings.pool_cordon_counts)
        plane = install(Plane(State(pools={}, volumes={})), nodes, pools, volumes, rng)
        api = ApiSettings(control, settings.cache_seconds, settings.token_required)
        self.api = RestApi(plane, api, rng, epoch=clock.now())

    @property
    def faults(self) -> Faults:
        return self.api.faults

    @property
    def plane(self) -> Plane:
        """The truth of this moment: targets, cordons and all."""
        self._catch_up()
        return self.api.plane

    @property
    def state(self) -> State:
        """The truth of this moment, of the storage alone."""
        return self.plane.storage

    @property
    def volumes(self) -> Mapping[str, SimVolume]:
        """The volumes as they are, by uuid."""
        return self.state.volumes

    @property
    def changes(self) -> list[Change]:
        """All that happened to replicas as time passed, oldest first."""
        self._catch_up()
        return self.api.changes

    @property
    def requests(self) -> Sequence[Request]:
        """What was asked lately, oldest first."""
        return self.api.requests

    def inject(self, fault: Fault) -> None:
        """Let something go wrong with a call to come."""
        self.api.faults.inject(fault)

    def set_node_lost(self, node: str, *, lost: bool) -> None:
        """Take a node away with all its pools and targets, or bring it back."""
        self._alter(
            lambda state: replace(state, lost_nodes=state.lost_nodes | {node} if lost else state.lost_nodes - {node})
        )

    def set_pool_online(self, pool: str, *, online: bool) -> None:
        """Take a pool away, or bring it back."""
        self._alter(lambda state: _with_pool(state, replace(state.pools[pool], online=online)))

    def set_target(self, volume: str, node: str | None) -> None:
        """Publish a volume on a node, moving its target if it has one, or unpublish it."""
        self._catch_up()
        if node is None:
            self.api.change(lambda plane: volumes.unpublish(plane, volume))
        else:
            wanted = volumes.Publication(node, republish=True)
            self.api.change(lambda plane: volumes.publish(plane, volume, wanted, self.api.rng))

    def describe_volume(self, volume: str, change: Callable[[VolumeEntry], VolumeEntry]) -> None:
        """Change what the control plane keeps of a volume: snapshots, what it was restored from, encryption."""
        self._catch_up()
        entry = change(self.api.plane.volumes[volume])
        self.api.change(lambda plane: replace(plane, volumes={**plane.volumes, volume: entry}))

    def describe_pool(self, pool: str, change: Callable[[PoolEntry], PoolEntry]) -> None:
        """Change what the control plane keeps of a pool."""
        self._catch_up()
        entry = change(self.api.plane.pools[pool])
        self.api.change(lambda plane: replace(plane, pools={**plane.pools, pool: entry}))

    def restart(self) -> None:
        """Restart the control plane: its own order of things is then that of their uuids."""
        self._alter(lambda state: replace(state, registry=tuple(sorted(state.registry))))
        self.api.change(lambda plane: replace(plane, volumes=dict(sorted(plane.volumes.items()))))
        self.api.cache.force(self.api.plane)

    def set_control(self, change: Callable[[ControlSettings], ControlSettings]) -> None:
        """Set the control plane or its storage up anew: rates, faults of rebuilds, limits."""
        self._catch_up()
        self.api.set_control(change(self.api.settings.control))

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, object]:
        """
        Ask without a socket; `path` begins with /v0. Returns the status and the decoded body, None for an empty one.
        Waits by the clock for answers that take their time. Raises NoAnswerError where the connection breaks.
        """
        data = b"" if body is None else msgspec.json.encode(body)
        kind = {} if body is None else {"content-type": JSON}
        lowered = {name.lower(): value for name, value in (headers or {}).items()}
        answer = await self._answer(Request(method, path, data, {**kind, **lowered}))
        if answer is None:
            raise NoAnswerError(f"{method} {path}: the connection broke")
        encoded = encode(answer)
        return answer.status, msgspec.json.decode(encoded) if encoded else None

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        answer = await self._answer(Request(request.method, request.raw_path, body, headers))
        if answer is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        encoded = encode(answer)
        return web.Response(status=answer.status, body=encoded, content_type=JSON if encoded else None)

    async def _answer(self, request: Request) -> Answer | None:
        self._catch_up()
        ticket = self.api.submit(request)
        while ticket.ready_at is None or ticket.ready_at > self._now():
            await self._clock.sleep(60.0 if ticket.ready_at is None else ticket.ready_at - self._now())
        self._catch_up()
        return ticket.answer()

    def _now(self) -> float:
        return self._clock.monotonic() - self._start

    def _catch_up(self) -> None:
        self.api.advance(self._now())

    def _alter(self, act: Callable[[State], State]) -> None:
        self._catch_up()
        self.api.change(lambda plane: replace(plane, storage=act(plane.storage)))


def encode(answer: Answer) -> bytes:
    """The body's bytes; none for an empty one."""
    return b"" if answer.body is None else msgspec.json.encode(answer.body)


def install(
    plane: Plane, nodes: Iterable[str], pools: Iterable[SimPool], found: Iterable[SimVolume], rng: Random
) -> Plane:
    """Take in a cluster that is there already."""
    pools = list(pools)
    names = dict.fromkeys([*nodes, *(pool.node for pool in pools)])
    for index, name in enumerate(names):
        plane = cluster.add_node(plane, name, f"{HOST}:{FIRST_GRPC_PORT + index}")
    for pool in pools:
        known = replace(pool, name_is_label=False)
        plane = cluster.adopt_pool(plane, known, (f"/dev/disk/by-id/{pool.name}",), rng)
    for volume in found:
        plane = _install_volume(plane, volume, rng)
    return plane


def _install_volume(plane: Plane, volume: SimVolume, rng: Random) -> Plane:
    target, children = None, tuple(replica.uuid for replica in volume.replicas if replica.attached)
    if volume.target_node is not None:
        target = Target(new_uuid(rng), volume.name, volume.target_node, children, volume.size_bytes)
        volume = replace(volume, written=True, last_target_node=volume.target_node)
    entry = VolumeEntry(volume.size_bytes, target=target, topology=_topology(volume) or None)
    plane = plane.with_volume(replace(volume, size_bytes=volumes.rounded(volume.size_bytes)), entry)
    for replica in volume.replicas:
        plane = plane.registered(replica.uuid)
    return plane


def _topology(volume: SimVolume) -> dict[str, object]:
    """As whoever made the volume would have asked for it."""
    asked: dict[str, object] = {}
    if volume.inclusion:
        asked["pool_topology"] = {"labelled": {"inclusion": dict(volume.inclusion), "exclusion": {}}}
    if volume.allowed_nodes is not None:
        asked["node_topology"] = {
            "explicit": {"allowed_nodes": sorted(volume.allowed_nodes), "preferred_nodes": []},
        }
    elif volume.node_inclusion:
        asked["node_topology"] = {"labelled": {"inclusion": dict(volume.node_inclusion), "exclusion": {}}}
    return asked


def _with_pool(state: State, pool: SimPool) -> State:
    return replace(state, pools={**state.pools, pool.name: pool})
